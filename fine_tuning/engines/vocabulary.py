"""The vocabulary of a GGUF, through llama.cpp itself: the very tokens that the engine makes of a text.

Transformers can rebuild a tokenizer from a GGUF, but not every pre-tokenizer comes out the same (SmolLM2's single digits do not),
so training on its tokens would not be training on what is served.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fine_tuning.engines.native import Native
from fine_tuning.engines.structure import structural_tokens


class Vocabulary:
    """Loads the vocabulary only (about 0.4 s and 100 MB for 49k tokens, in a child process), never the weights."""

    def __init__(self, gguf: Path) -> None:
        """Raises EngineError if llama.cpp cannot read `gguf`; so do all methods if it dies."""
        self._native = Native("fine_tuning.engines.llama:Words", str(gguf))
        self.path = gguf
        self.size: int = self._native.facts["size"]
        self._bos: list[int] = self._native.facts["bos"]  # what is made of an empty text

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Token ids of `text`. `special` reads control tokens (`<|im_end|>`) as such, as engines do with a rendered prompt;
        `bos` puts the begin token first where the model wants one."""
        if not text:  # asked for each prompt, to see whether it begins with it
            return list(self._bos) if bos else []
        tokens: list[int] = self._native.call("encode", text, special, bos)
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD. `special` keeps control tokens visible."""
        text: str = self._native.call("decode", list(tokens), special)
        return text

    def ends_turn(self, token: int) -> bool:
        """Whether a generation stops at `token` (end of sequence, of turn, ...)."""
        return token in self._ends

    def control_tokens(self) -> list[str]:
        """The texts that the engine reads as control tokens."""
        return [text for _, text in self._native.call("control_tokens") if text]

    def structural_tokens(self) -> list[str]:
        """Return the texts of all tokens that stand for structure, also of those that are not marked as control tokens."""
        return structural_tokens(self.path)

    @property
    def eos(self) -> int:
        eos: int = self._native.facts["eos"]
        return eos

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self._native.call("ends"))
