"""Write and read the manifest of a dataset, line by line.

Its list of turns is far longer than the rest. The form is that of `paths.write_json`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.errors import ByoaiError

_TURNS = '  "turn_ids": '


def write_manifest(path: Path, facts: Mapping[str, object], turn_ids: Iterable[bytes]) -> None:
    """Write a manifest atomically: the facts, and the ids of the turns as "turn_ids".

    The ids are given as JSON strings, one or several at once with a line end between them.
    """
    before, _, after = json.dumps({**facts, "turn_ids": []}, ensure_ascii=False, indent=2, sort_keys=True).partition(
        f"\n{_TURNS}[]"
    )

    def pieces() -> Iterator[bytes]:
        yield f"{before}\n{_TURNS}[".encode()
        mark = begin = b"\n    "
        for ids in turn_ids:
            yield mark + ids.replace(b"\n", b",\n    ")
            mark = b",\n    "
        yield b"]" if mark == begin else b"\n  ]"
        yield f"{after}\n".encode()

    paths.atomic_write(path, pieces())


def read_facts(path: Path) -> dict[str, Any]:
    """Return a manifest without "turn_ids". Raises ByoaiError if it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            facts: dict[str, Any] = json.loads("".join(_without_turns(file)))
    except (OSError, ValueError) as error:
        raise ByoaiError(f"cannot read {path}: {error}. Make it readable, or delete its folder and retrain") from error
    return facts


def _without_turns(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line == f"{_TURNS}[\n":
            inside = True
        elif not inside:
            yield line
        elif line.startswith("  ]"):
            inside = False


def read_turn_ids(path: Path) -> Iterator[str]:
    """Yield the "turn_ids" of a manifest.

    A file that `write_manifest` wrote is read line by line, any other as a whole. Raises ByoaiError
    if it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            if any(line == f"{_TURNS}[\n" for line in file):
                yield from (
                    json.loads(line.strip().removesuffix(","))
                    for line in takewhile(lambda line: not line.startswith("  ]"), file)
                )
                return
    except (OSError, ValueError) as error:
        raise ByoaiError(f"cannot read {path}: {error}. Make it readable, or delete its folder and retrain") from error
    yield from paths.read_json(path)["turn_ids"]
