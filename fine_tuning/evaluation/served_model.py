"""A GGUF in llama.cpp, with what an evaluation asks of it: log-probabilities of given tokens, and greedy answers."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fine_tuning.engines.llama import load
from fine_tuning.errors import EngineError

_BATCH = 512  # tokens a decode


class ServedModel:
    """One model in memory. `gguf` with the adapter over it, if one is given: what the engine serves, by the engine's own library."""

    def __init__(self, gguf: Path, adapter: Path | None = None, context: int = 2048) -> None:
        """Raises EngineError when llama.cpp cannot load the files."""
        self._llama = load(gguf, lora_path=str(adapter) if adapter else None, n_ctx=context, n_batch=_BATCH)

    def close(self) -> None:
        self._llama.close()

    def logprobs(self, tokens: Sequence[int], targets: Sequence[int]) -> tuple[list[float], list[bool]]:
        """For each index in `targets`: the log-probability (nats) of that token given those before it, and whether it is the likeliest.

        Tokens beyond the context are left out, with their targets.
        """
        tokens = tokens[: self._llama.n_ctx()]
        wanted = {target - 1: tokens[target] for target in targets if 0 < target < len(tokens)}
        self._clear()
        found: list[tuple[float, bool]] = []
        for start in range(0, len(tokens), _BATCH):
            found += self._decode(tokens[start : start + _BATCH], start, wanted)
        return [logprob for logprob, _ in found], [best for _, best in found]

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[list[int], bool]:
        """The greedy continuation of `prompt`, without its end token, and whether it ended by itself."""
        answer: list[int] = []
        room = min(max_new_tokens, self._llama.n_ctx() - len(prompt))
        if room <= 0:
            return answer, False
        self._clear()
        for token in self._llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            if self._ends(token):
                return answer, True
            answer.append(token)
            if len(answer) >= room:
                break
        return answer, False

    def text(self, tokens: Sequence[int]) -> str:
        return self._llama.detokenize(list(tokens)).decode("utf-8", errors="replace")

    def _clear(self) -> None:
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()

    def _ends(self, token: int) -> bool:
        from llama_cpp import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(self._llama.model), token))

    def _decode(self, tokens: Sequence[int], start: int, wanted: dict[int, int]) -> Iterator[tuple[float, bool]]:
        """Feed `tokens` at positions from `start`; logits are made at the positions in `wanted` only."""
        from llama_cpp import llama_cpp

        with _batch(len(tokens)) as batch:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, start + index
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
                batch.logits[index] = start + index in wanted
            if status := llama_cpp.llama_decode(self._llama.ctx, batch):
                raise EngineError(f"llama.cpp could not decode {len(tokens)} tokens (status {status})")
        for index in range(len(tokens)):
            if (target := wanted.get(start + index)) is not None:
                row = llama_cpp.llama_get_logits_ith(self._llama.ctx, index)
                logits = np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._llama.n_vocab(),))
                yield _log_softmax_at(logits, target), bool(logits.argmax() == target)


def _log_softmax_at(logits: np.ndarray, index: int) -> float:
    top = float(logits.max())
    return float(logits[index]) - top - float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


@contextmanager
def _batch(size: int) -> Iterator[Any]:
    from llama_cpp import llama_cpp

    batch = llama_cpp.llama_batch_init(size, 0, 1)
    try:
        yield batch
    finally:
        llama_cpp.llama_batch_free(batch)
