"""Measure whether waiting times in the chat grow with the size of the log.

    python benchmarks/log_scale.py                   # 1,000, 10,000 and 100,000 turns, half a minute
    python benchmarks/log_scale.py --turns 1000

For a generated log of each size, prints the median times of running the chat page (by Streamlit's
AppTest, without a browser), of the work between a question and the call of the engine, of a rating,
of a search and of opening an old chat, and the speed at which the index is built. The engine is the
embedded one, without a model.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

ROUNDS = 15
WANTED = ("holiday paid", "the", "zebra crossing")  # texts that occur often, in nearly every turn, and never


def write_log(path: Path, turns: int) -> list[str]:
    """Write a log of `turns` turns, five per session, of the sample's words in random order; return their ids."""
    from fine_tuning import paths
    from fine_tuning.data_collection.log.lines import encode

    chance = random.Random(0)
    lines = (paths.SAMPLES / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    words = [
        word for line in lines for key in ("user_message", "bot_response") for word in json.loads(line)[key].split()
    ]
    ids = [f"{chance.getrandbits(128):032x}" for _ in range(turns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for number, id in enumerate(ids):
            turn = {
                "id": id,
                "session_id": f"session-{number // 5}",
                "timestamp": f"2026-01-01T00:00:00.{number % 1000:03}+00:00",
                "user_message": " ".join(chance.choices(words, k=12)),
                "bot_response": " ".join(chance.choices(words, k=30)),
                "metadata": {"model": "smollm2:135m", "engine": "ollama", "seconds": 1.2, "tokens": 40},
            }
            file.write(encode(turn) + b"\n")
    return ids


def milliseconds(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time in milliseconds of `rounds` calls of `act`."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return 1000 * median(taken)


def measure(turns: int) -> dict[str, float]:
    """Return the figures for a log of `turns` turns in a temporary data folder."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"BYOAI_HOME": home, "BYOAI_ENGINE": "embedded"}
        from streamlit.testing.v1 import AppTest

        from chatbot import resources
        from chatbot.log_watch import watch_of
        from chatbot.server import APP
        from chatbot.session import open_chat
        from fine_tuning.config import load_config
        from fine_tuning.data_collection.conversation_logger import ConversationLogger

        path = load_config().log_path
        ids = write_log(path, turns)
        log = ConversationLogger(path)
        started = time.perf_counter()
        log.index.mark()
        built = turns / (time.perf_counter() - started)
        resources.models.clear()
        page = AppTest.from_file(str(APP), default_timeout=60)
        page.run()
        chance = random.Random(1)
        session = f"session-{turns // 10}"
        chat = open_chat(path, session)

        def before_the_engine() -> None:
            """Change the log, and time how long a chat takes to read the change before it calls the engine."""
            log.rate(chance.choice(ids), "up")  # makes a change
            started = time.perf_counter()
            watch_of(path).look()
            chat.look()
            overheads.append(1000 * (time.perf_counter() - started))

        overheads: list[float] = []
        for _ in range(ROUNDS):
            before_the_engine()
        figures = {
            "page ms": milliseconds(page.run, 7),
            "before the engine ms": median(overheads),
            "thumb ms": milliseconds(lambda: log.rate(chance.choice(ids), "down")),
            "search ms": max(milliseconds(lambda wanted=wanted: log.search(wanted)) for wanted in WANTED),
            "old chat ms": milliseconds(lambda: open_chat(path, session)),
            "index turns/s": built,
        }
        assert len(chat.turns) == 5
        return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    sizes = parser.parse_args(arguments).turns
    found = {size: measure(size) for size in sizes}
    print(f"{'':24}" + "".join(f"{size:>12,}" for size in sizes))
    for name in next(iter(found.values())):
        print(f"{name:24}" + "".join(f"{found[size][name]:>12,.1f}" for size in sizes))


if __name__ == "__main__":
    main()
