"""Compute log-probabilities, logits and answers of a GGUF with llama.cpp, for evaluations.

The model runs in a child process (engines/native.py), where decoder.py does the work.
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
    """The likelihood of one conversation's supervised tokens under a model.

    `logprob` is the sum of their log-probabilities (nats), `tokens` their number, `hits` the number
    of tokens that were the most likely ones.
    """

    logprob: float
    tokens: int
    hits: int


@dataclass(frozen=True)
class Answer:
    tokens: list[int]  # without the end token
    ended: bool  # whether the model ended the answer before the limit
    times: list[float]  # time.perf_counter when each token, including the end token, was ready


@dataclass(frozen=True)
class Ask:
    """A prompt to continue, greedily or by sampling at `temperature` with its own seed."""

    prompt: list[int]
    limit: int  # maximum number of new tokens
    temperature: float = 0.0
    seed: int = 0
    endless: bool = False  # continue past end tokens, for timing


class ServedModel:
    """A model in memory, run by the same library as the engine's.

    Every method raises EngineError if llama.cpp fails or its process dies; the next call then
    starts a new process.
    """

    def __init__(self, gguf: Path, adapter: Path | None = None, context: int = 2048) -> None:
        """Load `gguf`, with `adapter` if one is given. `context`: the length of the longest sequence in tokens."""
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
        """The id of the process that holds the model."""
        return self._native.pid

    @property
    def memory(self) -> int:
        """Memory of model and context in the child process, in bytes."""
        return self._native.grown

    def logprobs(self, tokens: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[bool]]:
        """Return each target's log-probability (nats), and whether it is the most likely token.

        `targets` are indices into `tokens`, and each is predicted from the tokens before it. Tokens
        beyond the context are left out, with their targets.
        """
        logprobs, hits = self._native.call("logprobs", list(tokens), list(targets))
        return logprobs, hits

    def scores(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[RowScore]:
        """Yield the score of each (tokens, targets), in order; see `logprobs`."""
        for logprob, tokens, hits in self._native.stream(
            "scores", [(list(tokens), list(targets)) for tokens, targets in rows]
        ):
            yield RowScore(logprob, tokens, hits)

    def logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Logits]:
        """Return for each (tokens, places) an array [places, vocabulary] of logits.

        `places` are indices into `tokens`; the logits are those that follow each place.
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
        """Return the greedy continuation of `prompt` without its end token, and whether it ended before the limit."""
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
    """Return the logits that llama.cpp computes for `probes`.

    The model is `gguf`, with `adapter` if one is given. `requantised`: see `agreement.rounding`.
    """
    with ServedModel(gguf, adapter, max(len(probe.tokens) for probe in probes)) as model:
        logits = model.logits([(probe.tokens, probe.places) for probe in probes])
    return Reference(adapter or gguf, probes, logits, rounding(gguf, requantised))
