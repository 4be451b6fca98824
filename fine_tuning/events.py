"""Report the progress of long operations, and ask them to stop.

An event is a small immutable record that can be stored as JSON. A `Watch` passes each event to one
function, `tell`: the terminal shows it, a file stores it (`events_to`), and a page reads the file
(`read_events`). This module does not import torch.
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

from fine_tuning.errors import Busy, Cancelled
from fine_tuning.json_values import parse_json
from fine_tuning.units import counted

Part = Literal["held-out parts", "chats", "preferences"]


@dataclass(frozen=True)
class Stage:
    """The beginning of a stage of the work, and so the end of the previous one."""

    title: str
    begun: float = field(default=0.0, compare=False)  # seconds since 1970; 0: unknown


@dataclass(frozen=True)
class Note:
    """A message for the user."""

    text: str


@dataclass(frozen=True)
class Count:
    """The progress of the current stage: `done` of `total` items."""

    done: int
    total: int
    unit: Literal["", "bytes", "percent"] = ""  # of both numbers; "": the items that the stage's title names


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    `part` is the phase of the training; each phase counts its own steps and tokens. For
    preferences, `loss` is the preference loss, and `accuracy` the share of preferences on which the
    model agrees.
    """

    part: Part
    step: int
    steps: int  # number of steps in all
    epoch: float
    loss: float  # mean over the step's supervised tokens (nats)
    accuracy: float  # share of the supervised tokens that the model predicts correctly
    learning_rate: float
    grad_norm: float
    tokens: int  # trained on so far in this process, padding excluded
    tokens_per_second: float
    # mean speed of all steps so far, pauses included, as a share of the machine's speed in matrix products
    gemm_share: float
    eta: float  # estimated seconds to the last step
    memory: int  # peak memory of the process so far, in bytes
    validation_loss: float | None = None  # nats; None except at the end of an epoch
    flops: float = 0.0  # floating-point operations of matrix products so far in this process
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Trial:
    """The result of one training in a search for settings."""

    number: int
    settings: dict[str, float]  # by their names in the section `training`
    loss: float | None  # on the validation chats (nats); None: the trial was not finished
    why: str = ""  # reason why the trial was not finished


@dataclass(frozen=True)
class Planned:
    """The plan of a training: (name, value) pairs for the user."""

    facts: tuple[tuple[str, str], ...]
    parts: dict[str, float] = field(default_factory=dict)  # forecast seconds, by part of the work (durations.Times)


@dataclass(frozen=True)
class RunOpened:
    """The folder in which the results of the work are stored: the folder of a run or of a sweep."""

    folder: str
    resumed: bool


@dataclass(frozen=True)
class Finished:
    """The outcome of the work."""

    state: Literal["live", "registered", "refused", "no version", "done", "stopped", "failed"]
    text: str  # for the user
    tag: str = ""  # of the new version
    answers: tuple[tuple[str, str, str], ...] = ()  # prompt, the base's answer, the new model's
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    commands: str = ""  # what to do next in a terminal


Event = Stage | Note | Count | Step | Trial | Planned | RunOpened | Finished
Tell = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Stage, Note, Count, Step, Trial, Planned, RunOpened, Finished)
}


@dataclass(frozen=True)
class Watch:
    """Passes the events of a long operation to the function `tell`, and asks the operation to stop."""

    tell: Tell = lambda event: None  # receives each event
    stopping: Callable[[], bool] = lambda: False  # returns whether the user asked to stop
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, for the stages that have ended

    def note(self, text: str) -> None:
        self.tell(Note(text))

    def count(self, done: int, total: int, unit: Literal["", "bytes", "percent"] = "") -> None:
        """Report the stage's progress. Raises Cancelled if the work should stop."""
        self.stop_if_asked()
        self.tell(Count(done, total, unit))

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Report that a stage begins, and measure the time of the `with` block in `seconds`.

        Raises Cancelled if the work should stop.
        """
        self.stop_if_asked()
        self.tell(Stage(title, time.time()))
        started = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - started, 2)

    def stop_if_asked(self) -> None:
        """Raise Cancelled if the user asked to stop."""
        if self.stopping():
            raise Cancelled("stopped; what was done is kept, and the next training goes on from there")

    def telling(self, also: Tell) -> "Watch":
        """Return a watch that passes each event to `also` first, and is otherwise the same."""

        def both(event: Event) -> None:
            also(event)
            self.tell(event)

        return Watch(both, self.stopping, self.seconds)


def to_record(event: Event) -> dict[str, object]:
    return {"event": type(event).__name__, **asdict(event)}


def from_record(record: dict[str, Any]) -> Event | None:
    """Return the event of a record made by `to_record`; None if this version does not know its kind."""
    kind = _KINDS.get(str(record.get("event")))
    if kind is None:
        return None
    known = {each.name for each in fields(kind)}
    return kind(**{name: _frozen(value) for name, value in record.items() if name in known})


def _frozen(value: Any) -> Any:
    """Return a JSON value with its lists replaced by tuples."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


@contextmanager
def events_to(file: Path) -> Iterator[Tell]:
    """Yield a `tell` that appends each event to `file` as a line: {"n": 1, "time": ..., "event": ..., ...}.

    Numbers continue from the last line. A line is written at once, so that readers see it. Only the
    owner can read the file (mode 0600), because it may contain answers. If a line cannot be written
    (disk full), the work continues; once there is space again, a note says how many events are
    missing.
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
            lost = f"{counted(self._missing, 'event')} could not be written here: {self._why}"
            if self._missing and self._write(Note(lost)):
                self._missing = 0
            if not self._write(event):
                self._missing += 1

    def _write(self, event: Event) -> bool:
        """Append `event` as a line; return whether it was written completely."""
        from fine_tuning import paths  # imported here, since it would slow down every start

        record = {
            "n": self._count + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **to_record(event),
        }
        line = ("\n" if self._torn else "") + json.dumps(record) + "\n"
        try:
            # Opened for each event, because a redaction may have replaced the file meanwhile.
            with paths.appending(self._file) as handle:
                written = os.write(handle, line.encode())
        except (OSError, Busy) as error:
            self._why = getattr(error, "strerror", None) or str(error)
            return False
        self._torn = self._torn or 0 < written < len(line)
        if written < len(line):
            self._why = "only a part of a line could be written"
            return False
        self._count, self._torn = self._count + 1, False
        return True


def _last_number(file: Path) -> tuple[int, bool]:
    """Return the number of the last event in `file`, and whether its last line is incomplete."""
    if not file.exists():
        return 0, False
    content = file.read_bytes()
    return max((number for number, _ in read_events(file)), default=0), bool(content) and not content.endswith(b"\n")


def read_events(file: Path, after: int = 0) -> list[tuple[int, Event]]:
    """Return the events of `file` with numbers above `after`, as (number, event).

    Incomplete lines and lines that are not events are skipped.
    """
    return EventReader(file, after).read()


class EventReader:
    """Reads a growing file of events, each event once."""

    def __init__(self, file: Path, after: int = 0) -> None:
        self._file, self._last = file, after
        self._inode = self._at = 0

    def read(self) -> list[tuple[int, Event]]:
        """Return the events added since the last call, as (number, event)."""
        try:
            with self._file.open("rb") as content:
                now = os.fstat(content.fileno())
                # the file was replaced or shortened: read it from the start, and skip events by their number
                if now.st_ino != self._inode or now.st_size < self._at:
                    self._inode, self._at = now.st_ino, 0
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
        record = parse_json(line)
        number, event = int(record["n"]), from_record(record)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return None if event is None else (number, event)
