"""Time parts of the evaluation and of the registry: the perplexity of 200 conversations, a rollback, a long list.

    OLLAMA_HOST=http://127.0.0.1:11434 python benchmarks/evidence.py

Uses a temporary data folder. In the engine it creates two versions of the model
fine_tuned_evidence, and deletes them at the end.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from training import token_rows

from fine_tuning.engines.default_base import fetch_default_base

NAME = "fine_tuned_evidence"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def perplexity(rounds: int = 3) -> None:
    """Print the time and memory of computing the perplexity of 50, 100 and 200 conversations with the base.

    Then print the median time for 200 conversations with the base in other quantisations.
    """
    from llama_cpp import llama_cpp

    base = fetch_default_base()
    rows = [
        (row["input_ids"], [at for at, flag in enumerate(row["trained"]) if flag]) for row in token_rows("shared", 200)
    ]
    for count in (50, 100, 200):
        took, found, memory = score(base, rows[:count])
        tokens = sum(len(ids) for ids, _ in rows[:count])
        print(f"perplexity {found:.2f} of {count} conversations ({tokens} tokens): {took:.1f} s, {memory:.0f} MB")
    files = {"as served": base} | {
        name: requantized(base, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")) for name in ("Q8_0", "F16")
    }
    taken: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, file in files.items():
            taken[name].append(score(file, rows)[0])
    for name, each in taken.items():
        print(f"200 conversations, {name}: {statistics.median(each):.1f} s ({', '.join(f'{one:.1f}' for one in each)})")


def score(gguf: Path, rows: list[tuple[list[int], list[int]]]) -> tuple[float, float, float]:
    """Return the seconds to score `rows`, their perplexity, and the memory in MB beside the mapped weights file.

    A row is the token ids of a conversation, and the indices of the tokens to score.
    """
    from fine_tuning.evaluation import metrics
    from fine_tuning.evaluation.served_model import RowScore, ServedModel

    scores: list[RowScore] = []
    with ServedModel(gguf) as model:
        took = seconds(lambda: scores.extend(model.scores(rows)))
        memory = psutil.Process(model.pid).memory_info()
    found = metrics.perplexity([sum(score.logprob for score in scores) / sum(score.tokens for score in scores)])
    return took, found, (memory.rss - memory.shared) / 1e6


def requantized(gguf: Path, kind: int) -> Path:
    """Quantise `gguf` to the file type `kind` of llama.cpp, in the temporary data folder; return the new file."""
    from llama_cpp import llama_cpp

    target = Path(os.environ["BYOAI_HOME"], f"{kind}.gguf")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = kind, True
    llama_cpp.llama_model_quantize(str(gguf).encode(), str(target).encode(), settings)
    return target


def rollback() -> None:
    """Print the median and the maximum time of ten rollbacks between two versions."""
    from fine_tuning.config import load_config
    from fine_tuning.engines.base import ModelSpec
    from fine_tuning.engines.connect import connect
    from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base
    from fine_tuning.model_management import model_switcher
    from fine_tuning.model_management.model_deployer import go_live
    from fine_tuning.model_management.model_registry import Registry

    engine, registry = connect(None, load_config()), Registry()
    ensure_default_base(engine)
    tags = [f"{NAME}:v1", f"{NAME}:v2"]
    for number, tag in enumerate(tags, 1):
        registry.add(NAME, number, base_tag=DEFAULT_TAG)
        engine.create(tag, ModelSpec(from_=DEFAULT_TAG, parameters={"seed": number}))
        go_live(engine, registry, NAME, number)
    times = [seconds(lambda: model_switcher.rollback(engine, registry, NAME)) for _ in range(10)]
    for tag in (*tags, f"{NAME}:latest"):
        engine.delete(tag)
    print(
        f"rollback through {engine.name}: {statistics.median(times) * 1000:.0f} ms, at most {max(times) * 1000:.0f} ms"
    )


def listing() -> None:
    from fine_tuning.model_management.model_registry import Registry

    registry = Registry()
    for number in range(1, 1001):
        registry.add("many", number, base_tag="base")
    times = [seconds(registry.list) for _ in range(10)]
    print(f"1000 versions listed: {statistics.median(times) * 1000:.0f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["BYOAI_HOME"] = home
        perplexity()
        rollback()
        listing()


if __name__ == "__main__":
    main()
