"""Measure the speed and the memory of importing chats from other programs into the log.

    python benchmarks/importing.py                           # 100,000 conversations of each format, about five minutes
    python benchmarks/importing.py --conversations 5000 --shapes whatsapp

Files in the formats of FineTome (JSON Lines), ChatGPT's export (one JSON array) and WhatsApp's
export (text) are generated. Each is imported in a child process with an empty data folder, to
measure turns per second, including the update of the log's index, and peak memory. Then the file is
imported again, which must add nothing, and the import is undone, which must leave the log as it was
before, byte for byte, and its index, row for row (SQLite may arrange the same rows in other pages).
"""

import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

TURNS = 3  # turns of a conversation


def words() -> list[str]:
    from fine_tuning import paths

    lines = (paths.SAMPLES / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        word for line in lines for key in ("user_message", "bot_response") for word in json.loads(line)[key].split()
    ]


def exchanges(count: int) -> Iterator[list[tuple[str, str]]]:
    """Yield `count` random conversations: TURNS pairs of a question of 12 words and an answer of 40 words."""
    chance, known = random.Random(0), words()
    for _ in range(count):
        yield [(" ".join(chance.choices(known, k=12)), " ".join(chance.choices(known, k=40))) for _ in range(TURNS)]


def finetome(file: Path, count: int) -> None:
    with file.open("w", encoding="utf-8") as target:
        for pairs in exchanges(count):
            said = [
                {"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)
            ]
            target.write(json.dumps({"conversations": said, "source": "made-up", "score": 5.0}) + "\n")


def chatgpt(file: Path, count: int) -> None:
    with file.open("w", encoding="utf-8") as target:
        for number, pairs in enumerate(exchanges(count)):
            target.write("," if number else "[")
            target.write(json.dumps(_tree(f"conversation-{number}", 1_700_000_000.0 + number * 1000, pairs)))
        target.write("]")


def _tree(id: str, start: float, pairs: list[tuple[str, str]]) -> dict[str, object]:
    said = [
        ("user" if at % 2 == 0 else "assistant", text)
        for at, text in enumerate(text for pair in pairs for text in pair)
    ]
    mapping: dict[str, object] = {
        f"{id}-root": {"id": f"{id}-root", "message": None, "parent": None, "children": [f"{id}-0"]}
    }
    for at, (role, text) in enumerate(said):
        message = {
            "id": f"{id}-{at}",
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": start + at,
            "update_time": None,
            "content": {"content_type": "text", "parts": [text]},
            "status": "finished_successfully",
            "end_turn": role == "assistant",
            "weight": 1.0,
            "metadata": {"model_slug": "gpt-4o", "request_id": id, "timestamp_": "absolute"},
            "recipient": "all",
            "channel": None,
        }
        children = [f"{id}-{at + 1}"] if at + 1 < len(said) else []
        mapping[f"{id}-{at}"] = {
            "id": f"{id}-{at}",
            "message": message,
            "parent": f"{id}-{at - 1 if at else 'root'}",
            "children": children,
        }
    about = {
        "title": id,
        "create_time": start,
        "update_time": start,
        "moderation_results": [],
        "plugin_ids": None,
        "safe_urls": [],
    }
    return {**about, "mapping": mapping, "current_node": f"{id}-{len(said) - 1}", "conversation_id": id, "id": id}


def whatsapp(file: Path, count: int) -> None:
    """Write `count` conversations in WhatsApp's export format.

    Each begins twelve hours after the previous one, a pause by which the importer divides them.
    """
    time = datetime(1900, 1, 13)
    with file.open("w", encoding="utf-8") as target:
        for pairs in exchanges(count):
            for at, text in enumerate(text for pair in pairs for text in pair):
                stamp = (time + timedelta(minutes=at)).strftime("%d/%m/%Y, %H:%M")
                target.write(f"{stamp} - {'Kim' if at % 2 else 'Robin'}: {text}\n")
            time += timedelta(hours=12)


SHAPES = {"finetome": finetome, "chatgpt": chatgpt, "whatsapp": whatsapp}


def measure(file: Path, me: str) -> dict[str, float]:
    """Import `file` into the empty data folder, import it again, and undo the import; return the figures.

    `me`: the sender whose messages are imported as answers; "" if the format marks the answers.
    """
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import Wanted, import_files, undo

    log, wanted = ConversationLogger(), Wanted(me=me)
    log.log_conversation("What was said before?", "This was said before.")
    log.index.mark()
    before, indexed = log.path.read_bytes(), index_rows()
    started, worked = time.perf_counter(), time.process_time()
    done = import_files(log, [file], wanted)
    log.index.mark()  # updates the index
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    again = import_files(log, [file], wanted)
    known = time.perf_counter() - started
    assert again.added == 0 and again.known == done.added and done.set_aside == 0
    started = time.perf_counter()
    assert undo(log, done.id) == done.added and log.path.read_bytes() == before
    undone = time.perf_counter() - started
    log.index.mark()
    assert index_rows() == indexed
    return {
        "MB": file.stat().st_size / 1e6,
        "conversations": done.conversations,
        "turns": done.added,
        "turns/s": done.added / seconds,
        "turns/CPU s": done.added / worked,
        "peak MB": peak,
        "again s": known,
        "undo s": undone,
        "peak MB, all": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def index_rows() -> list[tuple[object, ...]]:
    """Return all rows of the log's index."""
    from fine_tuning import paths

    tables = {"log_turns": "*", "log_events": "*", "log_texts": "rowid, *"}
    with sqlite3.connect(paths.state_db()) as database:
        return [
            row
            for table, columns in tables.items()
            for row in database.execute(f"SELECT {columns} FROM {table} ORDER BY 1")
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, "Kim" if options.measure.suffix == ".txt" else "")))
        return
    found = {}
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            suffix = {"finetome": ".jsonl", "chatgpt": ".json", "whatsapp": ".txt"}[shape]
            file = Path(folder) / f"{shape}{suffix}"
            SHAPES[shape](file, options.conversations)
            command = [sys.executable, __file__, "--measure", str(file)]
            environment = {**os.environ, "BYOAI_HOME": folder}
            found[shape] = json.loads(
                subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            )
    print(f"{'':16}" + "".join(f"{shape:>12}" for shape in found))
    for name in next(iter(found.values())):
        print(f"{name:16}" + "".join(f"{found[shape][name]:>12,.0f}" for shape in found))


if __name__ == "__main__":
    main()
