"""Compare the forecast of memory and time (fine_tuning/training/estimate.py) with real trainings of the default base.

    python benchmarks/memory.py                  # all settings, each in a new process, as a table
    python benchmarks/memory.py short --steps 4  # one of them

The rows are random tokens, since only their lengths matter here.

To calibrate the forecast again, after a change of the training or of torch: first correct
`estimate._saved` until tests/training/test_estimate.py passes, which counts exactly what a layer
saves. Then solve for the measured constants, on a machine where nothing else runs. `_RUNTIME` is
the measured peak of the setting `short` minus all other parts of its estimate. `_HOLES` is the
factor on the activations with which the estimate of `long` equals its measured peak. `_EFFICIENCY`
and `_LAYER_OPERATIONS` follow from the seconds per step of `long` and `short`.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fine_tuning.config import Replay, Training
from fine_tuning.engines.default_base import fetch_default_base
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.training.estimate import estimate
from fine_tuning.training.machine import measure_machine
from fine_tuning.training.model_shape import shape_of


@dataclass(frozen=True)
class Setting:
    """The shape of a training's rows, which determines its memory and time."""

    batch: int  # rows per step
    head: int  # tokens at the beginning that all rows share
    own: int  # maximum number of further tokens of a row; the minimum is half of it
    answer: int  # how many of these carry loss
    rank: int = 16  # of the LoRA adapter
    replay: int = 0  # number of replay rows


SETTINGS = {
    "short": Setting(batch=4, head=30, own=40, answer=20),
    "long": Setting(batch=8, head=30, own=90, answer=60, rank=32),
    "wide": Setting(batch=16, head=60, own=50, answer=25),
    "replay": Setting(batch=8, head=30, own=50, answer=25, replay=16),
}


def rows(setting: Setting, count: int, seed: int) -> list[dict[str, list[int]]]:
    draw = random.Random(seed)
    head = [random.Random(0).randrange(1000, 40_000) for _ in range(setting.head)]
    made = []
    for _ in range(count):
        own = draw.randint(setting.own // 2, setting.own)
        answer = min(setting.answer, own)
        ids = head + [draw.randrange(1000, 40_000) for _ in range(own)]
        made.append({"input_ids": ids, "trained": [0] * (len(ids) - answer) + [1] * answer})
    return made


def measure(setting: Setting, steps: int) -> dict[str, float]:
    """Run one training in this process; return its estimated and measured peak memory (bytes) and seconds per step."""
    from fine_tuning.events import Step, Watch
    from fine_tuning.training.qlora_trainer import trainer_for
    from fine_tuning.training.trainer_utils import TrainingRows
    from fine_tuning.training.workload import computed_rows, workload

    settings = Training(
        method="lora",
        batch_size=setting.batch,
        lora_r=setting.rank,
        num_epochs=1,
        warmup_ratio=0,
        dtype="float32",
        save_steps=1_000_000,
        replay=Replay(share=setting.replay / (steps * setting.batch)),
    )
    base = fetch_default_base()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, count in (
            ("train", steps * setting.batch - setting.replay),
            ("replay", setting.replay),
            ("validation", 0),
        ):
            lines = (json.dumps(row) + "\n" for row in rows(setting, count, len(file)))
            (folder / f"{file}.jsonl").write_text("".join(lines))
        learned = computed_rows(folder / "train.jsonl")
        learned += computed_rows(folder / "replay.jsonl", replayed=True)
        work = workload(learned, settings)
        found = estimate(shape_of(read_gguf(base)), settings, work, measure_machine(settings))
        ends: list[float] = []

        def report(step: Step) -> None:
            ends.append(time.perf_counter())

        learned_from = TrainingRows(folder, folder / "replay.jsonl" if setting.replay else None)
        result = trainer_for(base, settings).train(learned_from, folder / "run", Watch(report))
    step = statistics.median(after - before for before, after in pairwise(ends))
    return {
        "tokens": statistics.mean(batch.tokens for batch in work.batches),
        "estimate": found.memory,
        "peak": result.memory,
        "estimated_step": found.seconds / found.steps,
        "step": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", choices=[*SETTINGS, []], help="default: all")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(SETTINGS[options.child], options.steps)))
        return
    print(
        "| setting | tokens a step | peak MB: estimate | measured | ratio | s a step: estimate | measured | ratio |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.settings or SETTINGS:
        # This process does not import torch, since on Linux the peak of a child starts at its parent's memory.
        command = [sys.executable, __file__, "--child", name, "--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-4000:])
        run = json.loads(done.stdout.splitlines()[-1])
        space = f"{run['estimate'] / 1e6:.0f} | {run['peak'] / 1e6:.0f} | {run['estimate'] / run['peak']:.2f}"
        speed = f"{run['estimated_step']:.2f} | {run['step']:.2f} | {run['estimated_step'] / run['step']:.2f}"
        print(f"| {name} | {run['tokens']:.0f} | {space} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
