"""Wrap llama.cpp in classes that native.py runs in a child process.

The processes that chat, train or serve never import llama_cpp themselves.
"""

import codecs
import ctypes
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fine_tuning.errors import EngineError

if TYPE_CHECKING:
    from llama_cpp import Llama

_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_CONTROL, _LSTRIP = 8, 128  # LLAMA_TOKEN_ATTR_...
_STRUCTURAL = 1 | _CONTROL | 16  # ..._UNKNOWN, ..._USER_DEFINED
_MARGIN = 16  # tokens to reserve, since a vocabulary may add tokens to a text, such as the begin token
_QUANTISE_BUFFER = 256 << 20  # bytes of one tensor's rows that llama.cpp holds at once

_callbacks: list[object] = []  # keeps the callbacks alive, since C holds no reference
_errors: deque[str] = deque(maxlen=8)  # the last errors that llama.cpp logged


def load(gguf: str, **settings: object) -> "Llama":
    """Load `gguf` with the settings of llama_cpp.Llama. Raises EngineError if llama.cpp cannot load it."""
    from llama_cpp import Llama

    listen()
    try:
        return Llama(gguf, verbose=False, **settings)
    except (ValueError, RuntimeError) as error:
        raise EngineError(
            f"llama.cpp cannot load {gguf}: {errors() or error}. It may be damaged, or too new for the installed "
            "llama-cpp-python: download it again, or choose another model"
        ) from error


def listen() -> None:
    """Collect the errors that llama.cpp logs, and discard the rest of its log."""
    from llama_cpp import llama_cpp

    _errors.clear()
    if not _callbacks:
        _callbacks.append(llama_cpp.llama_log_callback(_take_in))
    llama_cpp.llama_log_set(_callbacks[0], ctypes.c_void_p(0))


def _take_in(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_ERROR:
        _errors.append(text.decode("utf-8", errors="replace").strip())


def errors() -> str:
    """Return the errors that llama.cpp logged since the last call of `listen`; "" if there were none."""
    return " ".join(_errors)


class Words:
    """The vocabulary of the GGUF at `gguf`, loaded without the weights.

    Other processes use it through vocabulary.Vocabulary.
    """

    def __init__(self, gguf: str) -> None:
        self._use(load(gguf, vocab_only=True))
        self.facts |= {"eos": self._llama.token_eos(), "bos": self.encode("", False, True)}

    def _use(self, llama: "Llama") -> None:
        from llama_cpp import llama_cpp

        self._llama = llama
        self._vocab = llama_cpp.llama_model_get_vocab(llama.model)
        self._adds_bos = bool(llama._model.add_bos_token())
        self._last: dict[str, list[int]] = {}  # tokens of each piece (`_pieces`) of the last text
        self.facts: dict[str, Any] = {"size": llama.n_vocab()}

    def encode(self, text: str, special: bool, bos: bool) -> list[int]:
        """Return the token ids of `text`.

        `special`: parse control tokens in the text; `bos`: add the begin token if the model uses
        one. The pieces that a text shares with the previous text are not tokenized again, since the
        prompts of one conversation begin with the same messages.
        """
        if bos or not special:
            return self._tokens(text, special, bos)
        pieces, before = self._pieces(text), self._last
        self._last = {piece: before.get(piece) or self._tokens(piece, special, bos) for piece in dict.fromkeys(pieces)}
        return [token for piece in pieces for token in self._last[piece]]

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text, True, False) if text else [] for text in texts]

    def _tokens(self, text: str, special: bool, bos: bool) -> list[int]:
        from llama_cpp import llama_cpp

        data, begin = text.encode("utf-8"), bos and self._adds_bos
        size = len(data) + _MARGIN  # each token stands for at least one byte, except added tokens
        while True:
            tokens = (ctypes.c_int32 * size)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, size, begin, special)
            if count >= 0:
                return tokens[:count]
            size = -count

    def _pieces(self, text: str) -> list[str]:
        """Return `text` in pieces that can be tokenized separately with the same result.

        Each piece but the first begins with a control token that matches `_cuts`.
        """
        at = [0, *(match.start() for match in self._cuts.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(at) if start < end]

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """A pattern of the control tokens before which a text can be cut without changing its tokens.

        llama.cpp (`tokenizer_st_partition` in llama-vocab.cpp) first cuts structural tokens out of
        a text, the longest first, and then tokenizes each remaining part separately. The pattern
        leaves out tokens that also remove the white space before them, and tokens that another
        token could overlap.
        """
        from llama_cpp import llama_cpp

        marks = {
            llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", errors="replace"): kind
            for token in range(self.facts["size"])
            if (kind := llama_cpp.llama_vocab_get_attr(self._vocab, token)) & _STRUCTURAL
        }
        lone = _never_overlapped([mark for mark in marks if mark])
        apart = [mark for mark in lone if marks[mark] & _CONTROL and not marks[mark] & _LSTRIP]
        return re.compile("|".join(map(re.escape, apart)) or r"(?!)")

    def decode(self, tokens: list[int], special: bool) -> str:
        text: bytes = self._llama.detokenize(tokens, special=special)
        return text.decode("utf-8", errors="replace")

    def ends(self) -> list[int]:
        """Return the ids of the tokens that end a generation."""
        from llama_cpp import llama_cpp

        return [token for token in range(self.facts["size"]) if llama_cpp.llama_vocab_is_eog(self._vocab, token)]

    def control_tokens(self) -> list[tuple[int, str]]:
        from llama_cpp import llama_cpp

        return [
            (token, llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", errors="replace"))
            for token in range(self.facts["size"])
            if llama_cpp.llama_vocab_is_control(self._vocab, token)
        ]


class Chat(Words):
    """A model, with an adapter if one is given, that generates answers."""

    def __init__(self, gguf: str, adapter: str | None, context: int, threads: int) -> None:
        # All layers go to the GPU if llama.cpp was built with GPU support.
        self._use(
            load(gguf, lora_path=adapter, n_ctx=context, n_gpu_layers=-1, n_threads=threads, n_threads_batch=threads)
        )

    def encode(self, text: str, special: bool, bos: bool) -> list[int]:
        return self._tokens(text, special, bos)  # without the cache, which would keep texts of a chat in memory

    def answer(
        self, tokens: list[int], sampling: dict[str, object], seed: int, last: int, limit: int, stops: list[str]
    ) -> Iterator[tuple[str, bool, str, int]]:
        """Yield pieces of the answer: (text, whether it is the last, why the answer ends, number of tokens so far).

        Pieces are whole characters, and never contain the beginning of a stop text.

        Args:
            tokens: the prompt.
            sampling: keyword arguments of `Llama.generate`.
            last: number of last tokens that penalties consider.
            limit: maximum number of tokens of the answer.
            stops: texts before which the answer ends.
        """
        from llama_cpp import llama_cpp

        self._llama.set_seed(seed)
        self._llama.last_n_tokens_size = last
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        held, count, reason = "", 0, "length"
        for token in self._llama.generate(tokens, **sampling):
            if llama_cpp.llama_vocab_is_eog(self._vocab, token):
                reason = "stop"
                break
            count += 1
            held += decoder.decode(self._llama.detokenize([token]))
            found = [at for stop in stops if (at := held.find(stop)) >= 0]
            if found:
                yield held[: min(found)], True, "stop", count
                return
            ready = len(held) - _open_stop(held, stops)
            if ready:
                yield held[:ready], False, "", count
                held = held[ready:]
            if count >= limit:
                break
        yield held + decoder.decode(b"", final=True), True, reason, count


def _open_stop(text: str, stops: list[str]) -> int:
    """Return how many characters at the end of `text` may be the beginning of one of the `stops`."""
    return max(
        (size for stop in stops for size in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:size])),
        default=0,
    )


def _never_overlapped(marks: Sequence[str]) -> list[str]:
    """Return the texts in `marks` that no other mark can overlap where both occur in a text.

    No other mark contains such a mark, and no mark begins or ends within it.
    """
    text = "\0".join(marks)
    begins = {mark[:size] for mark in marks for size in range(1, len(mark))}
    ends = {mark[size:] for mark in marks for size in range(1, len(mark))}
    return [
        mark
        for mark in marks
        if text.count(mark) == 1
        and not any(mark[size:] in begins or mark[:size] in ends for size in range(1, len(mark)))
    ]


class Quantiser:
    """Quantises whole files with llama.cpp."""

    facts = None

    def quantise(self, source: str, target: str, mixture: int) -> str | None:
        """Quantise the GGUF `source` to `target`; return llama.cpp's message if it fails, else None.

        `mixture` is a llama_ftype of llama.h.
        """
        from llama_cpp import llama_cpp

        listen()
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = mixture
        settings.max_buf_size = _QUANTISE_BUFFER
        llama_cpp.llama_backend_init()
        failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings))
        return errors() or "it said nothing" if failed else None
