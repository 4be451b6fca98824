"""Read a whole log without its index: every turn in its current state, and what is wrong with the lines."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.log.file import LogFile
from fine_tuning.data_collection.log.lines import EVENTS, apply, decode
from fine_tuning.units import counted


@dataclass(frozen=True)
class LogHealth:
    """How many lines a log has, and how many of them are damaged or without effect."""

    path: Path
    turns: int  # excluded ones included
    events: int
    damaged: int  # lines that are ignored: those in the log, and those set aside in `quarantine`
    set_aside: int  # the damaged lines in `quarantine`
    orphans: int  # events whose turn is missing
    unknown: int  # events of a kind that this version does not know; kept, and ignored
    bytes: int
    quarantine: Path

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.orphans or self.unknown)

    def __str__(self) -> str:
        faults = []
        if in_log := self.damaged - self.set_aside:
            faults.append(
                f"{counted(in_log, 'damaged line')} ignored, and moved to {self.quarantine} by the next rating, "
                "edit or deletion"
            )
        if self.set_aside:
            faults.append(
                f"{counted(self.set_aside, 'damaged line')} in {self.quarantine}: repair them and append them to the "
                "log (without crc32, if the text was changed), or delete that file"
            )
        if self.orphans:
            faults.append(f"{counted(self.orphans, 'event')} without a turn in the log, ignored")
        if self.unknown:
            faults.append(f"{counted(self.unknown, 'event')} of a newer version of byoai: update byoai to read them")
        return "; ".join([counted(self.turns, "turn"), *faults])


class WholeLog:
    """The parsed lines of a log.

    Events are applied only when all turns have been read, since a turn that was repaired may be
    written after its events.
    """

    def __init__(self, lines: Iterable[bytes], tail: bytes) -> None:
        self.turns: dict[str, Turn] = {}
        self.lines: list[bytes] = []  # the valid ones
        self.events: list[dict[str, Any]] = []
        self.damaged = [line for line in lines if line.strip() and not self._take(line)]
        # After the last line end there may be a valid record that lacks only its line end: it counts.
        # Anything else is a record that is still being written, or whose writer was killed.
        self.torn = tail if tail.strip() and not self._take(tail) else b""
        known = [event for event in self.events if event["event"] in EVENTS]
        self.unknown = len(self.events) - len(known)
        self.deleted = {event["turn_id"] for event in known if event["event"] == "delete"}
        for id in self.deleted:
            self.turns.pop(id, None)
        self.orphans = {event["turn_id"] for event in known} - self.turns.keys() - self.deleted
        for event in known:
            if turn := self.turns.get(event["turn_id"]):
                self.turns[turn.id] = apply(turn, event)

    def stand(self, include_excluded: bool = False) -> list[Turn]:
        """Return the turns in their current state; excluded ones only if `include_excluded`."""
        return [turn for turn in self.turns.values() if include_excluded or not turn.metadata.get("excluded")]

    def _take(self, line: bytes) -> bool:
        """Add a line. Return False if it is not a record, or a second turn with the same id."""
        try:
            record = decode(line)
        except ValueError:
            return False
        if isinstance(record, Turn):
            if self.turns.setdefault(record.id, record) is not record:
                return False
        else:
            self.events.append(record)
        self.lines.append(line)
        return True


def health_of(file: LogFile, log: WholeLog) -> LogHealth:
    """Return the state of the log in `file`, whose lines were parsed as `log`."""
    quarantined = file.quarantined()
    return LogHealth(
        path=file.path,
        turns=len(log.turns),
        events=len(log.events),
        damaged=len(quarantined) + len(set(log.damaged).difference(quarantined)),
        set_aside=len(quarantined),
        orphans=len(log.orphans),
        unknown=log.unknown,
        bytes=file.path.stat().st_size if file.path.exists() else 0,
        quarantine=file.quarantine,
    )
