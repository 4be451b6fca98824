"""Check that no logged turn is lost: 8 processes log 10,000 turns each, and are killed with SIGKILL at random moments.

    python benchmarks/durability.py [--writers 8] [--turns 10000] [--kills 60]

A writer prints the id of a turn after `log_conversation` has returned; from then on the turn counts
as acknowledged. A killed writer is started again for the remaining turns. Prints how many
acknowledged turns are missing in the log, how many lines are incomplete, the time of an append by a
single process, and the turns per second of all writers together.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WRITER = """
import sys
from fine_tuning.data_collection.conversation_logger import ConversationLogger
log = ConversationLogger()
for number in range(int(sys.argv[1])):
    print(log.log_conversation(f"question {number} of {log.session_id}", "answer " * 20).id, flush=True)
"""


class Writer:
    """A process that logs turns. If it is started again, it continues until `turns` turns are acknowledged."""

    def __init__(self, turns: int, folder: Path, number: int) -> None:
        self._turns, self._file = turns, folder / f"acknowledged-{number}"
        self._file.touch()
        self.start()

    def start(self) -> None:
        left = self._turns - len(self.acknowledged())
        with self._file.open("a") as output:
            self.process = subprocess.Popen([sys.executable, "-c", WRITER, str(left)], stdout=output)

    def acknowledged(self) -> list[str]:
        """Return the ids of the turns that were acknowledged so far, also before the process was killed."""
        return [line for line in self._file.read_text().splitlines() if len(line) == 32]

    def done(self) -> bool:
        return self.process.poll() == 0


def write(writers: int, turns: int, kills: int) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger

    with tempfile.TemporaryDirectory() as folder:
        os.environ["BYOAI_HOME"] = str(Path(folder) / "home")
        begun, luck, killed = time.perf_counter(), random.Random(0), 0
        crew = [Writer(turns, Path(folder), number) for number in range(writers)]
        while not all(writer.done() for writer in crew):
            time.sleep(luck.uniform(0.1, 1.0))
            working = [writer for writer in crew if not writer.done()]
            if working and killed < kills:
                chosen = luck.choice(working)
                chosen.process.kill()
                chosen.process.wait()
                killed += 1
                chosen.start()
        seconds = time.perf_counter() - begun
        lines = ConversationLogger().path.read_bytes().split(b"\n")
        logged = {turn.id for turn in ConversationLogger().turns()}
        acknowledged = {id for writer in crew for id in writer.acknowledged()}
        whole = sum(_is_whole(line) for line in lines)
        print(f"{len(acknowledged)} acknowledged, {len(acknowledged - logged)} of them lost; {killed} kills")
        print(
            f"{whole} whole lines, {sum(bool(line) for line in lines) - whole} torn; {seconds:.0f} s, "
            f"{len(logged) / seconds:.0f} turns/s"
        )


def _is_whole(line: bytes) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def cost(turns: int = 2000) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger

    with tempfile.TemporaryDirectory() as folder:
        os.environ["BYOAI_HOME"] = folder
        log, taken = ConversationLogger(), []
        for number in range(turns):
            begun = time.perf_counter()
            log.log_conversation(f"question {number}", "answer " * 20)
            taken.append(1000 * (time.perf_counter() - begun))
        taken.sort()
        print(f"one append, alone: median {taken[turns // 2]:.2f} ms, 99 % within {taken[turns * 99 // 100]:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=60)
    options = parser.parse_args()
    cost()
    write(options.writers, options.turns, options.kills)


if __name__ == "__main__":
    main()
