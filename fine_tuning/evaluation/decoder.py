"""Compute many sequences together with llama.cpp, in the child process of `served_model.ServedModel`.

Continuous batching (Yu et al., OSDI 2022) is used: a new sequence starts as soon as another one
has finished. The common prefix of all sequences is computed once, and so is each common prefix of
sequences that start together. Rows in lexical order therefore take the least time.
"""

import base64
import ctypes
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fine_tuning.engines.llama import Words, load
from fine_tuning.errors import EngineError

Logits = npt.NDArray[np.float32]

_BATCH = 512  # tokens per decode
_SEQUENCES = 16  # sequences that are decoded together
_CELLS = 2048  # minimum size of the key-value cache, in tokens of all sequences together
_TOP_K = 40  # number of most likely tokens to sample from, Ollama's default


class Decoder(Words):
    """A model, with an adapter if one is given, and one context for all requests.

    Each public method does the work of the ServedModel method of the same name. Generators also
    yield None after each decode: it is not a result, but lets the child process look for other
    requests.
    """

    def __init__(self, gguf: str, adapter: str | None, context: int, threads: int) -> None:
        """Load the model. `context`: the length of the longest sequence in tokens.

        Raises EngineError if the memory does not suffice for the context.
        """
        from llama_cpp import llama_cpp

        self._use(load(gguf, lora_path=adapter, n_ctx=64, n_batch=64, n_threads=threads, n_threads_batch=threads))
        params = self._llama.context_params
        params.n_ctx = max(context, _CELLS)
        params.n_batch = params.n_ubatch = _BATCH
        params.n_seq_max = _SEQUENCES + 1  # the additional sequence holds the common prefix
        params.kv_unified = True  # one cache for all sequences, so that the prefix is shared, not copied
        self._context = llama_cpp.llama_init_from_model(self._llama.model, params)
        if not self._context:
            raise EngineError(
                f"llama.cpp has no room for {params.n_ctx} tokens of context with {gguf}: close other programs, "
                "or lower data_preparation.max_length"
            )
        if adapter:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._llama._lora_adapter)
            llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._size = self._llama.n_vocab()
        self._limit = int(llama_cpp.llama_n_ctx(self._context))
        self.facts |= {"context": self._limit}

    def logprobs(self, tokens: list[int], targets: list[int]) -> tuple[list[float], list[bool]]:
        """Return each target's log-probability (nats), and whether it is the most likely token."""
        scoring = _Scoring(tokens, targets, self._limit)
        for _ in self._run([scoring]):
            pass
        return scoring.logprobs, scoring.hits

    def scores(self, rows: list[tuple[list[int], list[int]]]) -> Iterator[tuple[float, int, int] | None]:
        """Score the target tokens of each row.

        A row is (tokens, indices of its targets). Yield for each row (total log-probability of its
        targets in nats, their number, how many of them the model ranks first); between these, yield
        None after each decode. Rows in lexical order take the least time.
        """
        for scored in self._run([_Scoring(tokens, targets, self._limit) for tokens, targets in rows]):
            yield scored and (float(np.sum(scored.logprobs)), len(scored.hits), sum(scored.hits))

    def logits(self, rows: list[tuple[list[int], list[int]]]) -> Iterator[str | None]:
        """Yield the logits after the chosen tokens of each row, as base64-encoded float32.

        A row is (tokens, indices of the chosen ones). Between the results, yield None after each decode.
        The child process sends its results as JSON, and writing logits as JSON numbers would take
        longer than computing them.
        """
        for read in self._run([_Reading(tokens, places) for tokens, places in rows]):
            yield read and base64.b64encode(np.array(read.found, np.float32).tobytes()).decode("ascii")

    def answers(self, asks: list[dict[str, Any]]) -> Iterator[dict[str, Any] | None]:
        """Yield for each Ask, given as a dictionary of its fields, the Answer as a dictionary of its fields."""
        for done in self._run([_Answering(ask, self._is_end, self._limit) for ask in asks]):
            yield done and {"tokens": done.answer, "ended": done.ended, "times": done.times}

    def _is_end(self, token: int) -> bool:
        from llama_cpp import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    # Many sequences in one context

    def _run(self, sequences: Sequence[Any]) -> Iterator[Any]:
        """Decode the sequences, as many at once as fit into the context.

        Yield finished sequences in the order given, and None after each decode.
        """
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
            self._step(running, head)
            yield None
            for slot in [slot for slot, sequence in running.items() if sequence.done]:
                del running[slot]
                slots.add(slot)
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            while shown < len(sequences) and sequences[shown].done:
                yield sequences[shown]
                shown += 1

    def _fits(self, sequence: "_Sequence", running: "dict[int, _Sequence]", head: int) -> bool:
        return not running or head + sum(each.room - head for each in [*running.values(), sequence]) <= self._limit

    def _feed_head(self, sequences: "Sequence[_Sequence]") -> int:
        """Decode the common prefix of all sequences into sequence 0; return its number of tokens."""
        if len(sequences) < 2:
            return 0
        size = min(_common([sequence.tokens for sequence in sequences]), *(sequence.first for sequence in sequences))
        for start in range(0, size, _BATCH):
            tokens = sequences[0].tokens[start : start + _BATCH][: size - start]
            self._decode([_Cell(start + index, token, [0]) for index, token in enumerate(tokens)])
        return size

    def _step(self, running: "dict[int, _Sequence]", head: int) -> None:
        """Decode the next tokens of all running sequences in one batch.

        Sequences that start now share the cells of their common prefixes. `head`: the length of the
        prefix that all sequences share already.
        """
        cells: list[_Cell] = []
        known: dict[tuple[int, int], int] = {}  # index of each cell, by its token and what is before it
        for slot, sequence in running.items():
            before = -1 if sequence.fed == head else -1 - slot  # no cell: the head, or the sequence's earlier cells
            for position in range(sequence.fed, len(sequence.tokens)):
                place = before, sequence.tokens[position]
                if place not in known:
                    if len(cells) == _BATCH:
                        break
                    known[place] = len(cells)
                    cells.append(_Cell(position, sequence.tokens[position]))
                before = known[place]
                cells[before].slots.append(slot)
                if sequence.wants(position):
                    cells[before].takers.append(sequence)
                sequence.fed += 1
        self._decode(cells)
        for index, cell in enumerate(cells):
            for sequence in cell.takers:
                sequence.take(cell.position, self._logits(index))

    def _decode(self, cells: "Sequence[_Cell]") -> None:
        """Decode the tokens of `cells`. Each sequence in a cell must have all tokens before the cell's position."""
        from llama_cpp import llama_cpp

        if not cells:
            return
        batch = llama_cpp.llama_batch_init(len(cells), 0, _SEQUENCES)
        try:
            batch.n_tokens = len(cells)
            for index, cell in enumerate(cells):
                batch.token[index], batch.pos[index], batch.logits[index] = cell.token, cell.position, bool(cell.takers)
                batch.n_seq_id[index] = len(cell.slots)
                for number, slot in enumerate(cell.slots):
                    batch.seq_id[index][number] = slot
            if status := llama_cpp.llama_decode(self._context, batch):
                raise EngineError(
                    f"llama.cpp could not compute {len(cells)} tokens (status {status}): try again, and if it fails "
                    "again, make or download the model again"
                )
        finally:
            llama_cpp.llama_batch_free(batch)

    def _logits(self, index: int) -> Logits:
        from llama_cpp import llama_cpp

        row = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._size,))


@dataclass(frozen=True)
class _Cell:
    """A token to decode, as part of one or several sequences."""

    position: int
    token: int
    slots: list[int] = field(default_factory=list)  # llama.cpp's numbers of the sequences
    takers: "list[_Sequence]" = field(default_factory=list)  # sequences that need the logits after the token


class _Sequence:
    """A sequence that is being decoded.

    `tokens` are the tokens known so far; the first `fed` of them have been decoded.
    """

    tokens: list[int]
    fed = 0
    first: int  # position of the first needed logits
    room: int  # maximum length in tokens, including the tokens to be generated

    @property
    def done(self) -> bool:
        return self.fed >= len(self.tokens)

    def wants(self, position: int) -> bool:
        """Return whether the logits at `position` are needed."""
        raise NotImplementedError

    def take(self, position: int, logits: Logits) -> None:
        """Process the logits at `position`. A sequence that generates text appends the next token to `tokens`."""
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
    def __init__(self, ask: dict[str, Any], ends: Callable[[int], bool], context: int) -> None:
        self._temperature, self._random = ask["temperature"], np.random.default_rng(ask["seed"])
        self._ends, self._endless = ends, ask["endless"]
        limit = min(ask["limit"], context - len(ask["prompt"]))
        self.tokens = list(ask["prompt"]) if limit > 0 else []
        self.first, self.room = max(len(self.tokens) - 1, 0), len(self.tokens) + max(limit, 0)
        self.answer: list[int] = []
        self.times: list[float] = []
        self.ended = False

    def wants(self, position: int) -> bool:
        return position == len(self.tokens) - 1

    def take(self, position: int, logits: Logits) -> None:
        token = _sample(logits, self._temperature, self._random)
        self.times.append(time.perf_counter())
        if self._ends(token) and not self._endless:
            self.ended = True
            return
        self.answer.append(token)
        if len(self.tokens) + 1 < self.room:
            self.tokens.append(token)


def _common(lists: Sequence[list[int]]) -> int:
    """Return the length of the lists' common prefix.

    In lexical order all lists lie between the smallest and the largest, so it suffices to compare
    these two.
    """
    first, last = min(lists), max(lists)
    return next(
        (index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
        min(len(first), len(last)),
    )


def _sample(logits: Logits, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    best = np.argpartition(logits, -_TOP_K)[-_TOP_K:]
    weights = np.exp((logits[best].astype(np.float64) - float(logits[best].max())) / temperature)
    return int(random.choice(best, p=weights / weights.sum()))


def _log_softmax_at(logits: Logits, index: int) -> float:
    top = float(logits.max())
    return float(logits[index]) - top - float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
