"""Tokenize text with the vocabulary of a GGUF, by llama.cpp, so that the tokens are the same as the engine's.

Transformers can also create a tokenizer from a GGUF, but not for every family with the same result:
it splits digits differently from SmolLM2's own tokenizer.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fine_tuning.engines.native import Native
from fine_tuning.engines.structure import structural_tokens


class Vocabulary:
    """The vocabulary of a GGUF, loaded in a child process without the weights.

    Loading takes 0.4 s and 100 MB for 49,000 tokens. All methods raise EngineError if the child
    process dies.
    """

    def __init__(self, gguf: Path) -> None:
        """Load the vocabulary. Raises EngineError if llama.cpp cannot read `gguf`."""
        self._native = Native("fine_tuning.engines.llama:Words", str(gguf))
        self.path = gguf
        self.size: int = self._native.facts["size"]
        self._bos: list[int] = self._native.facts["bos"]  # the tokens of an empty text

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
        """Return the token ids of `text`.

        `special`: parse control tokens (`<|im_end|>`), as engines do in a rendered prompt. `bos`:
        add the begin token if the model uses one.
        """
        if not text:  # answered here, since it is called for each prompt to get the begin token
            return list(self._bos) if bos else []
        tokens: list[int] = self._native.call("encode", text, special, bos)
        return tokens

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the result of `encode` for each text, with one message to the child process for all of them."""
        found: list[list[int]] = self._native.call("encode_many", list(texts))
        return found

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`; bytes that are not UTF-8 become U+FFFD.

        `special`: include the texts of control tokens.
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
        """Return the texts of all structural tokens (structure.py).

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
