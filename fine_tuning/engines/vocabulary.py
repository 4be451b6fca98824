"""Tokenise text with the vocabulary of a GGUF, using llama.cpp.

The tokens are therefore the same as the engine's. Transformers can also rebuild a tokenizer from a
GGUF, but not every pre-tokenizer comes out the same (SmolLM2's splitting of digits does not).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fine_tuning.engines.native import Native
from fine_tuning.engines.structure import structural_tokens


class Vocabulary:
    """A vocabulary, loaded in a child process without the weights (0.4 s and 100 MB for 49k tokens)."""

    def __init__(self, gguf: Path) -> None:
        """Load the vocabulary. Raises EngineError if llama.cpp cannot read `gguf`, as do all methods if it dies."""
        self._native = Native("fine_tuning.engines.llama:Words", str(gguf))
        self.path = gguf
        self.size: int = self._native.facts["size"]
        self._bos: list[int] = self._native.facts["bos"]  # the tokens of an empty text

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Return the token ids of `text`.

        `special`: parse control tokens (`<|im_end|>`), as engines do in a rendered prompt. `bos`:
        add the begin token if the model uses one.
        """
        if not text:  # a frequent call, made for each prompt to get the begin token
            return list(self._bos) if bos else []
        tokens: list[int] = self._native.call("encode", text, special, bos)
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`; bytes that are not UTF-8 become U+FFFD.

        `special` keeps control tokens visible.
        """
        text: str = self._native.call("decode", list(tokens), special)
        return text

    def ends_turn(self, token: int) -> bool:
        """Return whether `token` ends a generation (end of sequence, end of turn, ...)."""
        return token in self._ends

    def control_tokens(self) -> list[str]:
        """Return the texts of the control tokens."""
        return [text for _, text in self._native.call("control_tokens") if text]

    def structural_tokens(self) -> list[str]:
        """Return the texts of all tokens that act as structure.

        They include tokens that the file does not mark as control tokens.
        """
        return structural_tokens(self.path)

    @property
    def eos(self) -> int:
        eos: int = self._native.facts["eos"]
        return eos

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self._native.call("ends"))
