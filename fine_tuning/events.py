"""What long work tells while it runs, and how it is asked to stop.

An event is a small frozen record that JSON can hold. A `Watch` passes each to one function, `tell`:
the terminal draws it, a file keeps it (`events_to`), a page reads it back (`read_events`). Nothing
here imports torch.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fine_tuning.errors import Cancelled

Part = Literal["held-out parts", "chats", "preferences"]


@dataclass(frozen=True)
class Stage:
    """A part of the work begins; the one before it is over."""

    title: str


@dataclass(frozen=True)
class Note:
    """A sentence that a person should read."""

    text: str


@dataclass(frozen=True)
class Count:
    """How far the current stage is."""

    done: int
    total: int
    unit: Literal["", "bytes", "percent"] = ""  # of both; "": things, as the stage's title names them


@dataclass(frozen=True)
class Step:
    """One optimiser step. `loss` is the mean over its supervised tokens (nats); `memory` the process's peak in bytes.

    `part` is what is learned from; each part counts its own steps and tokens. Of preferences `loss`
    is theirs, and `accuracy` the share that the model prefers as people did.
    """

    part: Part
    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float  # share of the supervised tokens that were the model's likeliest
    learning_rate: float
    grad_norm: float
    tokens: int  # of conversations learned from so far, in this process
    tokens_per_second: float
    # of this machine's matrix products' speed, over all steps so far, everything between them
    # included
    gemm_share: float
    eta: float  # seconds
    memory: int
    validation_loss: float | None = None
    flops: float = 0.0  # floating-point operations of matrix products so far, in this process
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Trial:
    """How one training of a search for settings ended."""

    number: int
    settings: dict[str, float]  # by name in `training:`
    loss: float | None  # on validation chats (nats); None: it was not finished
    why: str = ""  # it was not finished


@dataclass(frozen=True)
class Planned:
    """What will be learned: (name, value) pairs, as a person reads them."""

    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunOpened:
    """The folder that will hold all that is made."""

    folder: str
    resumed: bool


@dataclass(frozen=True)
class Finished:
    """How the work ended."""

    state: Literal["live", "registered", "refused", "no version", "done", "stopped", "failed"]
    text: str  # for a person
    tag: str = ""  # of the version that was made
    answers: tuple[tuple[str, str, str], ...] = ()  # prompt, the base's answer, the new model's
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


Event = Stage | Note | Count | Step | Trial | Planned | RunOpened | Finished
Tell = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Stage, Note, Count, Step, Trial, Planned, RunOpened, Finished)
}


@dataclass(frozen=True)
class Watch:
    """Whom long work tells what it does, and whether it should stop."""

    tell: Tell = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, of those that are over

    def note(self, text: str) -> None:
        self.tell(Note(text))

    def count(self, done: int, total: int, unit: Literal["", "bytes", "percent"] = "") -> None:
        """Tell how far the stage is. Cancelled if it should stop here."""
        self.stop_if_asked()
        self.tell(Count(done, total, unit))

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Tell that a stage begins, and measure it. Cancelled if it should not begin."""
        self.stop_if_asked()
        self.tell(Stage(title))
        started = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - started, 2)

    def stop_if_asked(self) -> None:
        """Raise Cancelled if the work should stop: its owner asked for it."""
        if self.stopping():
            raise Cancelled("stopped; what was done is kept, and the next retrain goes on from there")

    def telling(self, also: Tell) -> "Watch":
        """Return a watch that tells `also`, too."""

        def both(event: Event) -> None:
            also(event)
            self.tell(event)

        return Watch(both, self.stopping, self.seconds)


def to_record(event: Event) -> dict[str, object]:
    return {"event": type(event).__name__, **asdict(event)}


def from_record(record: dict[str, Any]) -> Event | None:
    """Return the event that `to_record` was given; None for a kind that this version does not know."""
    kind = _KINDS.get(str(record.get("event")))
    if kind is None:
        return None
    known = {each.name for each in fields(kind)}
    return kind(**{name: _frozen(value) for name, value in record.items() if name in known})


def _frozen(value: Any) -> Any:
    """Return a JSON value with tuples for its lists."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


@contextmanager
def events_to(file: Path) -> Iterator[Tell]:
    """Yield a `tell` that appends each event to `file` as a line: {"n": 1, "time": ..., "event": ..., ...}.

    The numbers go on where the file ends. A reader sees each line as soon as it is told. The file
    is its owner's alone (mode 0600): answers may stand in it. When a line cannot be written (the
    disk is full), the work goes on; when there is room again, a note says how many are missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    yield _Recorder(file)


class _Recorder:
    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._count, self._torn = _last_number(file)
        self._missing, self._why = 0, ""

    def __call__(self, event: Event) -> None:
        with self._lock:
            if self._missing and self._write(Note(f"{self._missing} event(s) could not be written here: {self._why}")):
                self._missing = 0
            if not self._write(event):
                self._missing += 1

    def _write(self, event: Event) -> bool:
        """Append a line; False if it could not be written whole."""
        record = {
            "n": self._count + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **to_record(event),
        }
        line = ("\n" if self._torn else "") + json.dumps(record) + "\n"
        try:
            # Opened anew for each: the file may be replaced meanwhile, by one in which something was redacted.
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                written = os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            self._why = error.strerror or str(error)
            return False
        self._torn = self._torn or 0 < written < len(line)
        if written < len(line):
            self._why = "only a part of a line found room"
            return False
        self._count, self._torn = self._count + 1, False
        return True


def _last_number(file: Path) -> tuple[int, bool]:
    """Return the number of the last event in `file`, and whether its last line is torn."""
    if not file.exists():
        return 0, False
    content = file.read_bytes()
    return max((number for number, _ in read_events(file)), default=0), bool(content) and not content.endswith(b"\n")


def read_events(file: Path, after: int = 0) -> list[tuple[int, Event]]:
    """Return the events of `file` whose number is above `after`, with their numbers.

    A line that is incomplete, or not an event, is left out.
    """
    return EventReader(file, after).read()


class EventReader:
    """Reads a file of events while it grows; each is read once."""

    def __init__(self, file: Path, after: int = 0) -> None:
        self._file, self._last = file, after
        self._inode = self._at = 0

    def read(self) -> list[tuple[int, Event]]:
        """Return the whole lines that came since the last time: (number, event)."""
        try:
            with self._file.open("rb") as content:
                # replaced meanwhile: what was read is told by its number
                if (inode := os.fstat(content.fileno()).st_ino) != self._inode:
                    self._inode, self._at = inode, 0
                content.seek(self._at)
                read = content.read()
        except FileNotFoundError:
            return []
        whole = read[: read.rfind(b"\n") + 1]
        self._at += len(whole)
        found = [event for line in whole.split(b"\n") if (event := _event_of(line)) and event[0] > self._last]
        self._last = max([self._last, *(number for number, _ in found)])
        return found


def _event_of(line: bytes) -> tuple[int, Event] | None:
    try:
        record = json.loads(line)
        number, event = int(record["n"]), from_record(record)
    except (ValueError, TypeError, KeyError):
        return None
    return None if event is None else (number, event)
