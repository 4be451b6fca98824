"""Measure the speed of data preparation: cleaning, near-duplicates, dataset and token rows, and the plan of a retrain.

    python benchmarks/cleaning.py                              # all measurements, about twenty minutes
    python benchmarks/cleaning.py cleaning alike --rounds 5    # only these
    python benchmarks/cleaning.py cleaning --before main~20    # compare with another commit (default: main)

The turns are generated from the sample's words in random order; every tenth turn has a private
detail, every tenth a block of code. Each figure is measured in a new process. The code of this
checkout ("today") and of the other commit ("before") are measured alternately, on the same turns.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
TURNS = 20_000
SIZES = (10_000, 100_000, 1_000_000)
SESSION = 5  # turns of a conversation


# Generated turns


def turns(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Yield generated turns, as dictionaries in the form of the log; equal seeds give equal turns."""
    chance = random.Random(seed)
    lines = (ROOT / "data" / "samples" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    words = [
        word for line in lines for key in ("user_message", "bot_response") for word in json.loads(line)[key].split()
    ]
    details = private_details()
    for number in range(count):
        answer = " ".join(chance.choices(words, k=30))
        if number % 10 == 0:
            answer += f" Write to {chance.choice(details)}, please."
        if number % 10 == 5:
            answer += f"\n```python\nfor number in range({number}):\n    print(number)\n```\nThat is all of it."
        yield {
            "id": f"{seed:08x}{number:024x}",
            "session_id": f"session-{seed}-{number // SESSION}",
            "timestamp": "2026-01-01T00:00:00.000+00:00",
            "user_message": " ".join(chance.choices(words, k=12)),
            "bot_response": answer,
            "metadata": {"model": "smollm2:135m", "engine": "ollama"},
        }


def private_details() -> list[str]:
    from faker import Faker

    fake = Faker()
    fake.seed_instance(1)
    key = lambda: "sk-" + fake.password(40, special_chars=False)  # noqa: E731
    makers = (
        fake.email,
        fake.phone_number,
        fake.iban,
        fake.credit_card_number,
        fake.ipv4_public,
        fake.url,
        fake.ssn,
        key,
    )
    return [makers[number % len(makers)]() for number in range(800)]


def write_log(path: Path, count: int, seed: int = 0) -> None:
    from fine_tuning.data_collection.log.lines import encode

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(encode(turn) + b"\n" for turn in turns(count, seed))


# Measurements, each run in a new process, with the code of this checkout or of the other commit


def clean_all(count: str, kept: str) -> dict[str, object]:
    """Write a log of `count` turns, clean it, and return the turns per second.

    Unless `kept` is "", the decisions of the cleaning are stored, and a second cleaning reuses
    them.
    """
    from fine_tuning.config import load_config
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.data_cleaner import DataCleaner

    log = ConversationLogger(load_config().log_path)
    write_log(log.path, int(count))
    log.index.mark()
    conversations = log.conversations()
    DataCleaner().filter_conversations(conversations[:20])  # compiles patterns, which is not to be measured
    more = {}
    if kept:
        from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions

        more = {"kept": KeptDecisions(log.path)}
    found: dict[str, object] = {}
    for name in ("cold", "nothing new")[: 2 if kept else 1]:
        started, computed = time.perf_counter(), processor_seconds()
        cleaned = DataCleaner(**more).filter_conversations(conversations)
        found[name] = int(count) / (time.perf_counter() - started)
        found[f"{name}, a core"] = int(count) / (processor_seconds() - computed)
    return found | {"found": sum(cleaned.scrubbed.values()), "dropped": sum(cleaned.dropped.values())}


def processor_seconds() -> float:
    """Return the processor time in seconds of this process and of its children that have ended.

    It depends less than the elapsed time on other programs that run meanwhile.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def group_all(count: str) -> dict[str, object]:
    """Group the texts of `count` turns by similarity; return the speed, and how many planted texts were grouped.

    A planted text is a changed copy of another text. Copies with a similarity of at least 0.8 (see
    `changed`) should be in the same group as the original, those below 0.78 should not.
    """
    from fine_tuning.data_collection.cleaning.dedupe import group_near_duplicates

    chance = random.Random(3)
    texts = [f"{turn['user_message']}\n{turn['bot_response']}" for turn in turns(int(count), 7)]
    alike, apart = [], []
    for one in chance.sample(range(len(texts)), len(texts) // 10):
        other, similarity = changed(texts[one], chance)
        if similarity >= 0.8 or similarity < 0.78:
            (alike if similarity >= 0.8 else apart).append((one, len(texts)))
            texts.append(other)
    started = time.perf_counter()
    groups = group_near_duplicates(texts)
    speed = len(texts) / (time.perf_counter() - started)
    together = [sum(groups[one] == groups[other] for one, other in pairs) / len(pairs) for pairs in (alike, apart)]
    joined = len(texts) - len(set(groups))
    return {
        "texts/s": speed,
        "alike": len(alike),
        "of them found": together[0],
        "nearly alike": len(apart),
        "of them joined": together[1],
        "joined beside these": joined
        - round(sum(share * len(pairs) for share, pairs in zip(together, (alike, apart), strict=True))),
    }


def changed(text: str, chance: random.Random) -> tuple[str, float]:
    """Return a copy of `text` with one to six words replaced, and its similarity to `text`.

    The similarity is the share of the two texts' pieces of four characters that are in both.
    """
    from fine_tuning.data_collection.cleaning.wording import fold

    words = text.split(" ")
    for place in chance.sample(range(len(words)), chance.randrange(1, 7)):
        words[place] = "".join(chance.choices("abcdefghij", k=6))
    other = " ".join(words)
    one, two = ({folded[at : at + 4] for at in range(len(folded) - 3)} for folded in (fold(text), fold(other)))
    return other, len(one & two) / len(one | two)


def in_flat_memory(count: str) -> dict[str, object]:
    """Clean `count` generated turns, and build the dataset and its token rows.

    Return the peak memory in MB, the seconds of both steps, and the size of the rows.
    """
    from fine_tuning.config import DataPreparation
    from fine_tuning.conversation import Conversation, Turn
    from fine_tuning.data_collection.data_cleaner import DataCleaner, Found
    from fine_tuning.data_preparation.dataset_builder import build_dataset, tokenize_dataset
    from fine_tuning.engines.default_base import fetch_default_base
    from fine_tuning.engines.gguf_header import read_header
    from fine_tuning.engines.jinja import render_chat
    from fine_tuning.engines.vocabulary import Vocabulary

    def conversations() -> Iterator[Conversation]:
        said = turns(int(count))
        while session := [Turn.model_validate(turn) for turn in islice(said, SESSION)]:
            yield Conversation(id=session[0].session_id, turns=tuple(session))

    started, found = time.perf_counter(), Found()
    dataset = build_dataset(DataCleaner().stream(conversations(), found), DataPreparation(), found.dropped)
    built = time.perf_counter()
    words = Vocabulary(fetch_default_base())
    template = read_header(words.path).chat_template
    rows = tokenize_dataset(
        dataset.path, partial(render_chat, template, bos_token="", eos_token=""), words, 2048, "benchmark"
    )
    return {
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "dataset s": built - started,
        "rows s": time.perf_counter() - built,
        "rows MB": sum(file.stat().st_size for file in rows.glob("*.jsonl")) / 1e6,
    }


# The commands


def cleaning(before: Path, rounds: int) -> None:
    print(f"cleaning, {TURNS:,} turns, turns/s:")
    compare([("today", "clean", ROOT, (TURNS, "kept")), ("before", "clean", before, (TURNS, ""))], rounds)


def alike(before: Path, rounds: int) -> None:
    print(f"near-duplicates, {TURNS:,} texts and planted ones:")
    compare([("today", "group", ROOT, (TURNS,)), ("before", "group", before, (TURNS,))], rounds)


def compare(sides: Sequence[tuple[str, str, Path, tuple[object, ...]]], rounds: int) -> None:
    """Measure several sides alternately for `rounds` rounds; print the medians, and the value of each round.

    A side is (name, key of PARTS, folder of the code, arguments).
    """
    found: dict[str, list[dict[str, object]]] = {name: [] for name, *_ in sides}
    for _ in range(rounds):
        for name, part, root, arguments in sides:
            found[name].append(child(part, *arguments, root=root))
    for name, runs in found.items():
        print(f"  {name}")
        for figure in runs[0]:
            values = [float(str(run[figure])) for run in runs]
            each = f" ({', '.join(f'{value:,.0f}' for value in values)})" if values[0] > 1 else ""
            print(f"    {figure:22}{median(values):12,.{0 if values[0] > 1 else 3}f}{each}")


def memory(before: Path, rounds: int) -> None:
    print("memory, clean -> dataset -> rows:")
    for size in SIZES:
        figures = child("memory", size)
        print(
            f"  {size:>9,} turns  " + "  ".join(f"{name} {float(str(value)):,.1f}" for name, value in figures.items()),
            flush=True,
        )


def plan(before: Path, rounds: int) -> None:
    """Time `byoai retrain --dry-run` on the embedded engine: with 100,000 new turns, then with 100 more each time."""
    print("byoai retrain --dry-run, seconds:")
    with tempfile.TemporaryDirectory() as home:
        log = Path(home) / "conversations" / "conversations.jsonl"
        for number in range(rounds + 1):
            write_log(log, 100 if number else 100_000, number)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "BYOAI_HOME": home, "BYOAI_ENGINE": "embedded"}
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "fine_tuning", "retrain", "--dry-run"],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            said = "100 more" if number else "100,000 turns, all new"
            print(f"  {said:24}{time.perf_counter() - started:8.1f}", flush=True)


PARTS: dict[str, Callable[..., dict[str, object]]] = {"clean": clean_all, "group": group_all, "memory": in_flat_memory}
ASKED: dict[str, Callable[[Path, int], None]] = {"cleaning": cleaning, "alike": alike, "memory": memory, "plan": plan}


def child(part: str, *arguments: object, root: Path = ROOT) -> dict[str, object]:
    """Run a measurement of PARTS in a new process, with the code in `root` and an empty data folder.

    Return its result.
    """
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, str(Path(__file__).resolve()), "--part", part, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(root), "BYOAI_HOME": home}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, cwd=root)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*ASKED, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", default="main", help="the commit to compare with")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part[0]](*options.part[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        code = subprocess.run(
            ["git", "archive", options.before, "fine_tuning", "config", "data"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        subprocess.run(["tar", "-x", "-C", folder], input=code.stdout, check=True)
        for name in options.what or ASKED:
            ASKED[name](Path(folder), options.rounds)


if __name__ == "__main__":
    main()
