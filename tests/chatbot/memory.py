"""Where a process still holds a text that should be gone from it."""

import gc
import threading
import time
from pathlib import Path


def copies(backwards: str) -> list[str]:
    """What holds a string with a word, which is written from behind, among all that the garbage
    collector knows: its type and keys.

    Longer strings than the word alone, of which this search itself makes one.
    """
    gc.collect()
    word, found = backwards[::-1], []
    for holder in gc.get_objects():
        for each in gc.get_referents(holder):
            if isinstance(each, str) and word in each and len(each) > len(word):
                keys = (
                    [key for key in holder if isinstance(key, str) and word not in key]
                    if isinstance(holder, dict)
                    else []
                )
                found.append(f"{type(holder).__name__} {keys}")
    return found


def answer_questions(folder: Path) -> None:
    """In a server under test: for each word in `folder`/word, written from behind, write its copies
    to `folder`/found, a line each.
    """

    def answer() -> None:
        while True:
            time.sleep(0.05)
            if (asked := folder / "word").exists():
                found = copies(asked.read_text())
                asked.unlink()
                (folder / "new").write_text("\n".join(found))
                (folder / "new").rename(folder / "found")

    threading.Thread(target=answer, daemon=True).start()


def copies_in_server(folder: Path, backwards: str) -> list[str]:
    """Ask a server that answers questions about its memory."""
    (folder / "found").unlink(missing_ok=True)
    (folder / "word").write_text(backwards)
    deadline = time.monotonic() + 60
    while not (folder / "found").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the server does not say what it holds")
        time.sleep(0.05)
    return (folder / "found").read_text().splitlines()


def copies_left_in_server(folder: Path, backwards: str, patience: float = 60.0) -> list[str]:
    """What is left after at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while (found := copies_in_server(folder, backwards)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
