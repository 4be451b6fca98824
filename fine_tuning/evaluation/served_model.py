"""Asks a GGUF in llama.cpp what an evaluation needs.

These are log-probabilities of given tokens, and answers to many prompts at once. The model is in a
child process (engines/native.py), where decoder.py does the work.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fine_tuning.engines.agreement import Probe, Reference, rounding
from fine_tuning.engines.native import Native, threads

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RowScore:
    """How likely a model finds the supervised tokens of one conversation.

    `logprob` is the sum of their log-probabilities (nats), `tokens` their number, `hits` how many
    were the likeliest.
    """

    logprob: float
    tokens: int
    hits: int


@dataclass(frozen=True)
class Answer:
    tokens: list[int]  # without the end token
    ended: bool  # by itself, not by the limit
    # when each token, end token included, was ready (time.perf_counter, one clock for all
    # processes)
    times: list[float]


@dataclass(frozen=True)
class Ask:
    """A prompt to continue: greedily, or sampled at `temperature` with its own seed."""

    prompt: list[int]
    limit: int  # new tokens
    temperature: float = 0.0
    seed: int = 0
    endless: bool = False  # continue past end tokens, for timing


class ServedModel:
    """One model in memory, served as the engine serves it, by the engine's own library.

    It is `gguf`, with `adapter` over it if one is given. Every method raises EngineError if
    llama.cpp fails or its process dies; the next call then starts a new process.
    """

    def __init__(self, gguf: Path, adapter: Path | None = None, context: int = 2048) -> None:
        """Load the model. `context` is the longest sequence in tokens."""
        self._native = Native(
            "fine_tuning.evaluation.decoder:Decoder", str(gguf), str(adapter) if adapter else None, context, threads()
        )
        self.context: int = self._native.facts["context"]

    def __enter__(self) -> "ServedModel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._native.close()

    @property
    def pid(self) -> int:
        """Return the id of the process that holds the model."""
        return self._native.pid

    @property
    def memory(self) -> int:
        """Return the bytes of memory that model and context take in the child process."""
        return self._native.grown

    def logprobs(self, tokens: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[bool]]:
        """Return each target's log-probability (nats), and whether it is the likeliest.

        `targets` are indices of `tokens`; what comes before a token is given. Tokens beyond the
        context are left out, with their targets.
        """
        logprobs, hits = self._native.call("logprobs", list(tokens), list(targets))
        return logprobs, hits

    def scores(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[RowScore]:
        """Yield for each (tokens, targets), in order, the sums of what `logprobs` returns."""
        for logprob, tokens, hits in self._native.stream(
            "scores", [(list(tokens), list(targets)) for tokens, targets in rows]
        ):
            yield RowScore(logprob, tokens, hits)

    def logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Logits]:
        """Return for each (tokens, places) an array [places, vocabulary] of logits.

        They are those after each place, an index of `tokens`.
        """
        found = self._native.stream("logits", [(list(tokens), list(places)) for tokens, places in rows])
        return [
            np.frombuffer(base64.b64decode(content), np.float32).reshape(len(places), -1)
            for content, (_, places) in zip(found, rows, strict=True)
        ]

    def answers(self, asks: Sequence[Ask]) -> Iterator[Answer]:
        """Yield the model's answer to each prompt, in order."""
        for fields in self._native.stream("answers", [asdict(ask) for ask in asks]):
            yield Answer(**fields)

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[list[int], bool]:
        """Return the greedy continuation of `prompt` without its end token, and whether it ended by itself."""
        (answer,) = self.answers([Ask(list(prompt), max_new_tokens)])
        return answer.tokens, answer.ended

    def text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`. `special` keeps control tokens visible."""
        text: str = self._native.call("decode", list(tokens), special)
        return text

    def is_control(self, token: int) -> bool:
        return token in self._control

    @cached_property
    def _control(self) -> frozenset[int]:
        return frozenset(token for token, _ in self._native.call("control_tokens"))


def read_logits(gguf: Path, probes: list[Probe], adapter: Path | None = None, requantised: bool = False) -> Reference:
    """Return what llama.cpp computes for each of `probes`.

    The model is `gguf`, with `adapter` over it. `requantised`: see `agreement.rounding`.
    """
    with ServedModel(gguf, adapter, max(len(probe.tokens) for probe in probes)) as model:
        logits = model.logits([(probe.tokens, probe.places) for probe in probes])
    return Reference(adapter or gguf, probes, logits, rounding(gguf, requantised))
