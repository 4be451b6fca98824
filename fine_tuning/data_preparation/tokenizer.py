"""Open tokenizers by name.

The tokenizer of a GGUF file is read by llama.cpp, as in the engine. The tokenizer of a Hugging Face
folder or id is read by the `tokenizers` library.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.rows import Render, Tokenizer, tokenize_conversation
from fine_tuning.engines.structure import CONTROL, USER_DEFINED, structural
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import ModelNotFound
from fine_tuning.token_rows import TokenRow

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIDE_FILES = ("tokenizer_config.json", "generation_config.json")

# A sample of everything that pre-tokenizers (which split a text before its parts are encoded) treat
# differently: upper and lower case, digits, white space, contractions, scripts, symbols, code.
_CHECK_TEXT = (
    "Hello, World! I'll see you're OK; it'S 3 33 333 3333 3.141 1,000,000\n\n \n\t\tx  y   z\r\n  def f(x): "
    "return x**2 != 0  "
    "# ünïcödé ÄÖß Привет мир  你好,世界。 こんにちは  안녕하세요  مرحبا  नमस्ते  ελληνικά  🚀 👩‍👩‍👧  "
    "½ ⅓ ™ ……!!!??? 'single' \"double\" `code` </tag>"
)


class TokenizerUtils:
    """A tokenizer with helper methods for the preparation of data. It implements `rows.Tokenizer`."""

    def __init__(self, name_or_path: str | Path) -> None:
        """Open the tokenizer of a GGUF file, a folder in Hugging Face format, or a Hugging Face id.

        Raises ModelNotFound if no tokenizer is there, and EngineError if llama.cpp cannot read the GGUF.
        """
        self.name = str(name_or_path)
        self.tokenizer: Tokenizer = open_tokenizer(name_or_path)
        self.size = self.tokenizer.size

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: The text.
            special: Whether a control token's text, such as <|im_end|>, becomes that token; if not,
                it is encoded as plain text.
            bos: Whether the begin-of-sequence token comes first, if the model uses one.
        """
        return self.tokenizer.encode(text, special=special, bos=bos)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, with control tokens parsed."""
        return self.tokenizer.encode_many(texts)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens. Control tokens are left out unless `special` is true."""
        return self.tokenizer.decode(tokens, special=special)

    def ends_turn(self, token: int) -> bool:
        """Return whether `token` is an end token, at which the generation of an answer stops."""
        return self.tokenizer.ends_turn(token)

    def control_tokens(self) -> list[str]:
        return self.tokenizer.control_tokens()

    def structural_tokens(self) -> list[str]:
        return self.tokenizer.structural_tokens()

    @property
    def eos(self) -> int:
        return self.tokenizer.eos

    def tokenize_conversation(
        self, messages: Sequence[Message], render: Render, max_length: int = 2048, *, id: str = ""
    ) -> list[TokenRow]:
        """Return the token rows of one conversation for training, see `rows.ConversationTokenizer.rows`."""
        return tokenize_conversation(messages, render, self.tokenizer, max_length, id=id)

    def count_tokens(self, text: str) -> int:
        """Return the exact number of tokens of a text, without a begin-of-sequence token."""
        return len(self.encode(text))

    @staticmethod
    def estimate_tokens(text: str) -> int:
        """Estimate the number of tokens of `text` in a byte-pair vocabulary, without loading a model.

        A word of ASCII letters counts as one token per six letters, rounded up. Any other word
        counts as one token per letter. A run of line breaks counts as one token, and so does any
        other character that is not white space. For SmolLM2 the estimate is within 15 % on English,
        German, Russian and code. Scripts that its vocabulary hardly covers (Chinese, Korean) take
        two to three times as many tokens.
        """
        tokens = 0
        for piece in re.findall(r"[^\W\d_]+|[^\s\w]|[\d_]|\n+", text):
            tokens += math.ceil(len(piece) / 6) if piece.isascii() else len(piece)
        return tokens

    @staticmethod
    def batches(rows: Iterable[TokenRow], token_budget: int) -> Iterator[list[TokenRow]]:
        """Yield the rows in order, in batches of at most `token_budget` tokens.

        A row that is longer than the budget is a batch of its own.
        """
        batch: list[TokenRow] = []
        tokens = 0
        for row in rows:
            if batch and tokens + len(row) > token_budget:
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += len(row)
        if batch:
            yield batch


def open_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Return a Vocabulary for a GGUF file, and a HuggingFaceTokenizer for a folder or a Hugging Face id.

    A GGUF is recognised by its first bytes, because Ollama's files have no suffix. Raises
    ModelNotFound if there is no tokenizer of this name, and EngineError if llama.cpp cannot read
    the GGUF.
    """
    path = Path(name_or_path)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelNotFound(
                    f"{path} is not a GGUF file: name a GGUF file, a folder with a tokenizer.json, or a Hugging Face id"
                )
        return Vocabulary(path)
    return HuggingFaceTokenizer(name_or_path)


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hexadecimal hash that identifies a tokenizer by what it does.

    The hash covers the vocabulary's size, the end and structural tokens, and the encoding of a
    check text. The converter of llama.cpp distinguishes tokenizers by a check text, too.
    """
    facts = [
        tokenizer.size,
        tokenizer.eos,
        sorted(tokenizer.structural_tokens()),
        tokenizer.encode(_CHECK_TEXT, bos=True),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class HuggingFaceTokenizer:
    """A `tokenizer.json`, read by the `tokenizers` library. It implements `rows.Tokenizer`.

    The end-of-turn tokens come from tokenizer_config.json and generation_config.json beside it.
    """

    def __init__(self, name_or_path: str | Path) -> None:
        """Open the tokenizer. Raises ModelNotFound if the folder or id has no readable tokenizer.json."""
        from tokenizers import Tokenizer as Fast

        self._file = _find(name_or_path, "tokenizer.json")
        if self._file is None:
            raise ModelNotFound(
                f"there is no tokenizer.json for {name_or_path!s}: name a GGUF file, or a Hugging Face folder or id"
            )
        try:
            self._fast = Fast.from_file(str(self._file))
        except Exception as error:  # the library has no narrower exception for a file that it cannot parse
            raise ModelNotFound(f"{self._file} is not a tokenizer ({error}): download it again") from error
        config, generation = (_settings(name_or_path, name) for name in _SIDE_FILES)
        self.size: int = self._fast.get_vocab_size()
        self._ends = self._end_tokens(config, generation)
        self._bos = self._begin_token(config)

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        ids = (self._fast if special else self._literal).encode(text, add_special_tokens=False).ids
        return [*self._bos, *ids] if bos else ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self._fast.decode(list(tokens), skip_special_tokens=not special)

    def ends_turn(self, token: int) -> bool:
        return token in self._ends

    def control_tokens(self) -> list[str]:
        return [added.content for added in self._fast.get_added_tokens_decoder().values() if added.special]

    def structural_tokens(self) -> list[str]:
        added = self._fast.get_added_tokens_decoder().values()
        return structural(
            (token.content for token in added), (CONTROL if token.special else USER_DEFINED for token in added)
        )

    @property
    def eos(self) -> int:
        """The id of the first end token; -1 if there is none, as in llama.cpp."""
        return next(iter(self._ends), -1)

    @cached_property
    def _literal(self) -> Any:
        """A second tokenizer that encodes control tokens as plain text.

        The library has this setting per tokenizer, not per call.
        """
        from tokenizers import Tokenizer as Fast

        literal = Fast.from_file(str(self._file))
        literal.encode_special_tokens = True
        return literal

    def _end_tokens(self, config: dict[str, object], generation: dict[str, object]) -> dict[int, None]:
        """Return the ids of the end tokens in order, as keys of a dictionary.

        The first is `eos_token` of tokenizer_config.json; the others are `eos_token_id`, one id or a
        list, of generation_config.json.
        """
        named = self._fast.token_to_id(_content(config.get("eos_token")) or "")
        listed = generation.get("eos_token_id")
        found = [named, *(listed if isinstance(listed, list) else [listed])]
        return dict.fromkeys(token for token in found if token is not None)

    def _begin_token(self, config: dict[str, object]) -> list[int]:
        """Return a list of the begin-of-sequence token's id; an empty list if the model uses none.

        As in llama.cpp's converter, the setting `add_bos_token` decides. If it is missing, the token
        is used if the tokenizer's post-processor puts it first.
        """
        token = self._fast.token_to_id(_content(config.get("bos_token")) or "")
        first = self._fast.encode("").ids[:1]
        wanted = config.get("add_bos_token", first == [token])
        return [token] if wanted and token is not None else []


def _settings(name_or_path: str | Path, name: str) -> dict[str, Any]:
    file = _find(name_or_path, name)
    return paths.read_json(file) if file else {}


def _content(token: Any) -> str | None:
    """Return the text of a special token in a configuration: a string, or an object with "content"."""
    return token.get("content") if isinstance(token, dict) else token


def _find(name_or_path: str | Path, name: str) -> Path | None:
    """Return the path of the file `name` of a folder or of a Hugging Face id; None if there is no such file.

    A file of an id is downloaded, or taken from the cache if the hub cannot be reached. Raises
    ModelNotFound if both fail.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if not _HUB_ID.fullmatch(str(name_or_path)):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(name_or_path), name))
    except LocalEntryNotFoundError as error:
        raise ModelNotFound(
            f"{name_or_path} was not downloaded before, and the Hugging Face hub cannot be reached ({error}): check "
            "the network, or name a local folder or GGUF file"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"cannot download {name} of {name_or_path} from the Hugging Face hub ({error}): check the name and the "
            "network"
        ) from error
