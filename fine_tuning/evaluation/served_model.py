"""A GGUF in llama.cpp, with what an evaluation asks of it: log-probabilities of given tokens, and answers to many prompts at once.

Sequences share each decode (continuous batching: Yu et al., OSDI 2022), and what all of them begin with is computed once.
"""

import ctypes
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fine_tuning.engines.agreement import Probe, Reference, rounding
from fine_tuning.engines.llama import load
from fine_tuning.errors import EngineError

Logits = npt.NDArray[np.float32]

_BATCH = 512  # tokens a decode
_SEQUENCES = 16  # at a time
_CELLS = 2048  # tokens remembered at least, of all sequences together
_TOP_K = 40  # likeliest tokens that are sampled from, as in Ollama


@dataclass(frozen=True)
class Score:
    """Of one conversation: the log-probability (nats) of its supervised tokens, how many they are, and how many were the likeliest."""

    logprob: float
    tokens: int
    hits: int


@dataclass(frozen=True)
class Answer:
    tokens: list[int]  # without the end token
    ended: bool  # by itself, not by the limit
    times: list[float]  # when each token was there (time.perf_counter), the end token too


@dataclass(frozen=True)
class Ask:
    """A prompt to go on from: greedily, or sampled at `temperature` with a seed of its own."""

    prompt: list[int]
    limit: int  # new tokens
    temperature: float = 0.0
    seed: int = 0
    endless: bool = False  # go on over end tokens: for timing


class ServedModel:
    """One model in memory. `gguf` with the adapter over it, if one is given: what the engine serves, by the engine's own library."""

    def __init__(self, gguf: Path, adapter: Path | None = None, context: int = 2048) -> None:
        """`context`: tokens of the longest sequence. Raises EngineError when llama.cpp cannot load the files."""
        from llama_cpp import llama_cpp

        self._llama = load(gguf, lora_path=str(adapter) if adapter else None, n_ctx=64, n_batch=64)
        params = self._llama.context_params
        params.n_ctx = max(context, _CELLS)
        params.n_batch = params.n_ubatch = _BATCH
        params.n_seq_max = _SEQUENCES + 1  # and the one that holds what all begin with
        params.kv_unified = True  # one store, so that a beginning is shared, not copied
        self._context = llama_cpp.llama_init_from_model(self._llama.model, params)
        if not self._context:
            self._llama.close()
            raise EngineError(
                f"llama.cpp has no room for {params.n_ctx} tokens of context with {gguf}: close programs, or lower max_length"
            )
        if adapter:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._llama._lora_adapter)
            llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._size = self._llama.n_vocab()
        self.context = int(llama_cpp.llama_n_ctx(self._context))

    def __enter__(self) -> "ServedModel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        from llama_cpp import llama_cpp

        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        self._llama.close()

    def logprobs(self, tokens: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[bool]]:
        """For each index in `targets`: the log-probability (nats) of that token given those before it, and whether it is the likeliest.

        Tokens beyond the context are left out, with their targets.
        """
        (scored,) = self._run([_Scoring(tokens, targets, self.context)])
        return scored.logprobs, scored.hits

    def scores(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[Score]:
        """For each (tokens, targets), in order: as `logprobs`, summed."""
        for scored in self._run([_Scoring(tokens, targets, self.context) for tokens, targets in rows]):
            yield Score(float(np.sum(scored.logprobs)), len(scored.hits), sum(scored.hits))

    def logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Logits]:
        """For each (tokens, places): what the model says after each of these places (indices of tokens) [places, vocabulary]."""
        return [np.array(read.found) for read in self._run([_Reading(tokens, places) for tokens, places in rows])]

    def answers(self, asks: Sequence[Ask]) -> Iterator[Answer]:
        """What the model says to each prompt, in order."""
        for done in self._run([_Answering(ask, self._ends, self.context) for ask in asks]):
            yield Answer(done.answer, done.ended, done.times)

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[list[int], bool]:
        """The greedy continuation of `prompt`, without its end token, and whether it ended by itself."""
        (answer,) = self.answers([Ask(list(prompt), max_new_tokens)])
        return answer.tokens, answer.ended

    def text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of `tokens`; `special` keeps control tokens visible."""
        return self._llama.detokenize(list(tokens), special=special).decode("utf-8", errors="replace")

    def is_control(self, token: int) -> bool:
        from llama_cpp import llama_cpp

        return bool(llama_cpp.llama_vocab_is_control(self._vocab, token))

    def _ends(self, token: int) -> bool:
        from llama_cpp import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    # Many sequences in one context

    def _run(self, sequences: Sequence[Any]) -> Iterator[Any]:
        """Feed the sequences, as many at a time as fit, and yield them in order as they are done."""
        from llama_cpp import llama_cpp

        llama_cpp.llama_memory_clear(self._memory, True)
        head = self._feed_head(sequences)
        waiting, running, slots = deque(sequences), dict[int, _Sequence](), set(range(1, _SEQUENCES + 1))
        shown = 0
        while waiting or running:
            while waiting and slots and self._fits(waiting[0], running, head):
                slot, sequence = slots.pop(), waiting.popleft()
                llama_cpp.llama_memory_seq_cp(self._memory, 0, slot, -1, -1)
                sequence.fed = head
                running[slot] = sequence
            self._step(running)
            for slot in [slot for slot, sequence in running.items() if sequence.done]:
                del running[slot]
                slots.add(slot)
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            while shown < len(sequences) and sequences[shown].done:
                yield sequences[shown]
                shown += 1

    def _fits(self, sequence: "_Sequence", running: "dict[int, _Sequence]", head: int) -> bool:
        return not running or head + sum(each.room - head for each in [*running.values(), sequence]) <= self.context

    def _feed_head(self, sequences: "Sequence[_Sequence]") -> int:
        """Put what all sequences begin with into sequence 0; its number of tokens."""
        if len(sequences) < 2:
            return 0
        size = min(_common([sequence.tokens for sequence in sequences]), *(sequence.first for sequence in sequences))
        for start in range(0, size, _BATCH):
            self._decode(
                [
                    (0, start + index, token, False)
                    for index, token in enumerate(sequences[0].tokens[start : start + _BATCH][: size - start])
                ]
            )
        return size

    def _step(self, running: "dict[int, _Sequence]") -> None:
        """One decode of what the running sequences have to say next."""
        cells: list[tuple[int, int, int, bool]] = []
        owners: list[_Sequence] = []
        for slot, sequence in running.items():
            fresh = sequence.tokens[sequence.fed : sequence.fed + _BATCH - len(cells)]
            cells += [(slot, sequence.fed + index, token, sequence.wants(sequence.fed + index)) for index, token in enumerate(fresh)]
            owners += [sequence] * len(fresh)
            sequence.fed += len(fresh)
        self._decode(cells)
        for index, (sequence, (_, position, _, wanted)) in enumerate(zip(owners, cells, strict=True)):
            if wanted:
                sequence.take(position, self._logits(index))

    def _decode(self, cells: list[tuple[int, int, int, bool]]) -> None:
        """(sequence, position, token, whether logits are wanted) of each token."""
        from llama_cpp import llama_cpp

        if not cells:
            return
        batch = llama_cpp.llama_batch_init(len(cells), 0, 1)
        try:
            batch.n_tokens = len(cells)
            for index, (sequence, position, token, wanted) in enumerate(cells):
                batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            if status := llama_cpp.llama_decode(self._context, batch):
                raise EngineError(f"llama.cpp could not decode {len(cells)} tokens (status {status})")
        finally:
            llama_cpp.llama_batch_free(batch)

    def _logits(self, index: int) -> Logits:
        from llama_cpp import llama_cpp

        row = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._size,))


def read_logits(gguf: Path, probes: list[Probe], adapter: Path | None = None, requantised: bool = False) -> Reference:
    """What llama.cpp computes with `gguf`, and `adapter` over it, for each of `probes`; `requantised`: see `agreement.rounding`."""
    with ServedModel(gguf, adapter, max(len(probe.tokens) for probe in probes)) as model:
        logits = model.logits([(probe.tokens, probe.places) for probe in probes])
    return Reference(adapter or gguf, probes, logits, rounding(gguf, requantised))


class _Sequence:
    """Tokens on their way through the model: `tokens` are known so far, the first `fed` of them have been fed."""

    tokens: list[int]
    fed = 0
    first: int  # position of the first logits that are wanted
    room: int  # tokens that it may come to

    @property
    def done(self) -> bool:
        return self.fed >= len(self.tokens)

    def wants(self, position: int) -> bool:
        """Whether the logits at `position` are of use."""
        raise NotImplementedError

    def take(self, position: int, logits: Logits) -> None:
        """Use the logits; may lengthen `tokens`."""
        raise NotImplementedError


class _Scoring(_Sequence):
    def __init__(self, tokens: Sequence[int], targets: Sequence[int], context: int) -> None:
        kept = list(tokens[:context])
        self._wanted = {target - 1: kept[target] for target in targets if 0 < target < len(kept)}
        self.tokens = kept[: max(self._wanted) + 1] if self._wanted else []
        self.first, self.room = min(self._wanted, default=0), len(self.tokens)
        self.logprobs: list[float] = []
        self.hits: list[bool] = []

    def wants(self, position: int) -> bool:
        return position in self._wanted

    def take(self, position: int, logits: Logits) -> None:
        target = self._wanted[position]
        self.logprobs.append(_log_softmax_at(logits, target))
        self.hits.append(bool(logits.argmax() == target))


class _Reading(_Sequence):
    def __init__(self, tokens: Sequence[int], places: Sequence[int]) -> None:
        self._places = set(places)
        self.tokens = list(tokens[: max(places) + 1])
        self.first, self.room = min(places), len(self.tokens)
        self.found: list[Logits] = []

    def wants(self, position: int) -> bool:
        return position in self._places

    def take(self, position: int, logits: Logits) -> None:
        self.found.append(logits.copy())


class _Answering(_Sequence):
    def __init__(self, ask: Ask, ends: Any, context: int) -> None:
        self._ask, self._ends, self._random = ask, ends, np.random.default_rng(ask.seed)
        limit = min(ask.limit, context - len(ask.prompt))
        self.tokens = list(ask.prompt) if limit > 0 else []
        self.first, self.room = max(len(self.tokens) - 1, 0), len(self.tokens) + max(limit, 0)
        self.answer: list[int] = []
        self.times: list[float] = []
        self.ended = False

    def wants(self, position: int) -> bool:
        return position == len(self.tokens) - 1

    def take(self, position: int, logits: Logits) -> None:
        token = _sample(logits, self._ask.temperature, self._random)
        self.times.append(time.perf_counter())
        if self._ends(token) and not self._ask.endless:
            self.ended = True
            return
        self.answer.append(token)
        if len(self.tokens) + 1 < self.room:
            self.tokens.append(token)


def _common(lists: Sequence[list[int]]) -> int:
    """How many items all lists begin with: those that the first and the last in order share."""
    first, last = min(lists), max(lists)
    return next((index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))


def _sample(logits: Logits, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    best = np.argpartition(logits, -_TOP_K)[-_TOP_K:]
    weights = np.exp((logits[best].astype(np.float64) - float(logits[best].max())) / temperature)
    return int(random.choice(best, p=weights / weights.sum()))


def _log_softmax_at(logits: Logits, index: int) -> float:
    top = float(logits.max())
    return float(logits[index]) - top - float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
