"""The vocabulary of a GGUF, through llama.cpp itself: the very tokens that the engine makes of a text.

Transformers can rebuild a tokenizer from a GGUF, but not every pre-tokenizer comes out the same (SmolLM2's single digits do not),
so training on its tokens would not be training on what is served.
"""

import weakref
from collections.abc import Sequence
from pathlib import Path

from fine_tuning.engines.llama import load
from fine_tuning.engines.structure import structural_tokens


class Vocabulary:
    """Loads the vocabulary only (about 0.2 s and 30 MB for 49k tokens), never the weights."""

    def __init__(self, gguf: Path) -> None:
        """Raises EngineError if llama.cpp cannot read `gguf`."""
        self._llama = load(gguf, vocab_only=True)
        weakref.finalize(self, self._llama.close)  # also at exit, while the library is still there
        self.path = gguf
        self.size: int = self._llama.n_vocab()
        self._adds_bos: bool = bool(self._llama._model.add_bos_token())

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`. `special` reads control tokens (`<|im_end|>`) as such, as engines do with a rendered prompt;
        `bos` puts the begin token first where the model wants one."""
        return self._llama.tokenize(text.encode("utf-8"), add_bos=bos and self._adds_bos, special=special)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD. `special` keeps control tokens visible."""
        return self._llama.detokenize(list(tokens), special=special).decode("utf-8", errors="replace")

    def ends_turn(self, token: int) -> bool:
        """Whether a generation stops at `token` (end of sequence, of turn, ...)."""
        from llama_cpp import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(self._llama.model), token))

    def control_tokens(self) -> list[str]:
        """The texts that the engine reads as control tokens."""
        from llama_cpp import llama_cpp

        vocab = llama_cpp.llama_model_get_vocab(self._llama.model)
        texts = (
            llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", errors="replace")
            for token in range(self.size)
            if llama_cpp.llama_vocab_is_control(vocab, token)
        )
        return [text for text in texts if text]

    def structural_tokens(self) -> list[str]:
        """The texts of all tokens that stand for structure, those among them that are not marked as control tokens included."""
        return structural_tokens(self.path)

    @property
    def eos(self) -> int:
        return self._llama.token_eos()
