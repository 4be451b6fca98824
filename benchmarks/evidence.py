"""What the evidence costs: the perplexity of 200 conversations, a rollback, a long registry.

    OLLAMA_HOST=http://127.0.0.1:11434 python benchmarks/evidence.py

Runs in a data folder of its own; in the engine it makes two versions of a model of its own, and removes them.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable

import psutil
from training import token_rows

NAME = "fine_tuned_evidence"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def perplexity() -> None:
    """Seconds, and megabytes beside the weights' own file, for more and more conversations."""
    from fine_tuning.engines.default_base import fetch_default_base
    from fine_tuning.evaluation import metrics
    from fine_tuning.evaluation.served_model import Score, ServedModel

    rows = [(row["input_ids"], [at for at, flag in enumerate(row["trained"]) if flag]) for row in token_rows("shared", 200)]
    for count in (50, 100, 200):
        scores: list[Score] = []
        with ServedModel(fetch_default_base()) as model:
            took = seconds(lambda rows=rows[:count], model=model, scores=scores: scores.extend(model.scores(rows)))  # type: ignore[misc]
            memory = psutil.Process().memory_info()
        found = metrics.perplexity([sum(score.logprob for score in scores) / sum(score.tokens for score in scores)])
        tokens = sum(len(ids) for ids, _ in rows[:count])
        print(
            f"perplexity {found:.2f} of {count} conversations ({tokens} tokens): {took:.1f} s, {(memory.rss - memory.shared) / 1e6:.0f} MB"
        )


def rollback() -> None:
    """Median seconds of ten rollbacks between two versions."""
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
    print(f"rollback through {engine.name}: {statistics.median(times) * 1000:.0f} ms, at most {max(times) * 1000:.0f} ms")


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
