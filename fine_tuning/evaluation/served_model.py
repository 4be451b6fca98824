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

    `logprob` is the sum of the tokens' log-probabilities (nats), `tokens` their number. `hits` is
    the number of tokens that the model ranked first.
    """

    logprob: float
    tokens: int
    hits: int


@dataclass(frozen=True)
class Answer:
    tokens: list[int]  # without the end token
    ended: bool  # whether the model ended the answer before the token limit
    times: list[float]  # time.perf_counter() (seconds) when each token, including the end token, was ready


@dataclass(frozen=True)
class Ask:
    """A request to continue a prompt: greedily at temperature 0, else by sampling with `seed`."""

    prompt: list[int]  # token ids
    limit: int  # maximum number of new tokens
    temperature: float = 0.0
    seed: int = 0
    endless: bool = False  # continue past end tokens, for timing


class ServedModel:
    """A GGUF model, loaded in a child process by llama.cpp, the library that the engines use too.

    Every method raises EngineError if llama.cpp fails or its process dies; the next call then
    starts a new process. Close the model after use, or use it in a `with` statement.
    """

    def __init__(self, gguf: Path, adapter: Path | None = None, context: int = 2048) -> None:
        """Load `gguf`, with the adapter GGUF `adapter` if one is given.

        `context` is the length in tokens of the longest sequence that will be computed.
        """
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
        """Memory that the child process needs for model and context, in bytes."""
        return self._native.grown

    def logprobs(self, tokens: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[bool]]:
        """Return for each target its log-probability (nats), and whether the model ranks it first.

        `targets` are ascending indices into `tokens`; each target is predicted from the tokens
        before it. The first token and tokens beyond the context are not scored, so both lists are
        shorter than `targets` if these contain such indices.
        """
        logprobs, hits = self._native.call("logprobs", list(tokens), list(targets))
        return logprobs, hits

    def scores(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[RowScore]:
        """Yield the RowScore of each (tokens, targets), in order; `targets` as for `logprobs`."""
        for logprob, tokens, hits in self._native.stream(
            "scores", [(list(tokens), list(targets)) for tokens, targets in rows]
        ):
            yield RowScore(logprob, tokens, hits)

    def logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Logits]:
        """Return for each (tokens, places) an array [places, vocabulary] of logits.

        `places` are ascending indices into `tokens`. Row i holds the logits for the token that
        follows tokens[places[i]].
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
        """Return the text of `tokens`. `special`: include the texts of control tokens."""
        text: str = self._native.call("decode", list(tokens), special)
        return text

    def is_control(self, token: int) -> bool:
        return token in self._control

    @cached_property
    def _control(self) -> frozenset[int]:
        return frozenset(token for token, _ in self._native.call("control_tokens"))


def read_logits(gguf: Path, probes: list[Probe], adapter: Path | None = None, requantised: bool = False) -> Reference:
    """Return the logits that llama.cpp computes for `probes` with `gguf`, and `adapter` if one is given.

    `requantised`: whether the export quantised the weights again, see `agreement.rounding`. Raises
    EngineError if llama.cpp fails.
    """
    with ServedModel(gguf, adapter, max(len(probe.tokens) for probe in probes)) as model:
        logits = model.logits([(probe.tokens, probe.places) for probe in probes])
    return Reference(adapter or gguf, probes, logits, rounding(gguf, requantised))
