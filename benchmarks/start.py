"""Measure the time from the start of a retrain to its first training step, when its data are already prepared.

    python benchmarks/start.py             # on the shipped sample; the engine is chosen as for `byoai retrain`
    python benchmarks/start.py --rounds 7

The time includes the imports of PyTorch. Each round is a new process and a new run, which is
stopped after its first step and removed. The first round is not counted, since it cleans and
tokenizes the data.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def measure() -> dict[str, float]:
    """Run a retrain to its first step; return the seconds of the imports, and from their end to that step."""
    began = time.perf_counter()
    from fine_tuning.config import load_config
    from fine_tuning.engines.connect import connect
    from fine_tuning.errors import Cancelled
    from fine_tuning.events import Event, Step, Watch
    from fine_tuning.pipeline import retrain
    from fine_tuning.workshop import Request

    imported = time.perf_counter()
    started: list[float] = []

    def tell(event: Event) -> None:
        if isinstance(event, Step) and not started:
            started.append(time.perf_counter() - event.tokens / event.tokens_per_second)  # when the step began

    config = load_config(profile="sample")
    try:
        retrain(config, connect(None, config), Watch(tell, lambda: bool(started)), Request(sample=True, force=True))
    except Cancelled:
        shutil.rmtree(config.runs_dir)
    return {"imports": imported - began, "start": started[0] - imported}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure()))
        return
    found = []
    with tempfile.TemporaryDirectory() as home:
        for index in range(options.rounds + 1):
            done = subprocess.run(
                [sys.executable, __file__, "--child"],
                env=os.environ | {"BYOAI_HOME": home},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(
                f"{index}: imports {found[-1]['imports']:.1f} s, then {found[-1]['start']:.1f} s to the first step",
                flush=True,
            )
    print(f"median: {statistics.median(each['start'] for each in found[1:]):.1f} s")


if __name__ == "__main__":
    main()
