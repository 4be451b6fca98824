"""What was said, kept for good: an append-only log of turns, and of what people did with them later.

One JSON object a line (JSON Lines), in the order of writing. A turn:
    {"id", "session_id", "timestamp", "user_message", "bot_response", "metadata": {"model", ...}}
and later events, each {"event", "turn_id", "timestamp"} and
    "rating"   {"rating": "up" | "down" | null, "by"}   of the answer as it stands then; it counts only if it is the owner's
    "edit"     {"bot_response"}                   the answer as it should have been; the turn keeps what was said
    "exclude"  {"excluded": true | false}         whether to leave the turn out of everything that learns
    "delete"   {}                                 all that is left of a deleted turn
A turn whose metadata has {"regenerates": id} answers the same question as that turn, anew.
Times are ISO 8601, in UTC. Any number of processes may read and write at once.
"""

import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import ValidationError

from fine_tuning import paths
from fine_tuning.conversation import Conversation, Turn, conversations_of, whole_characters
from fine_tuning.data_collection.blackout import Pattern, holds, pattern, texts_in
from fine_tuning.data_collection.data_export import DataExporter, write_export
from fine_tuning.data_collection.log_file import LogFile
from fine_tuning.errors import DataError, LogDamaged
from fine_tuning.thoughts import split_thoughts

Rating = Literal["up", "down"]

_EVENTS = {"rating", "edit", "exclude", "delete"}
_OWNER = "owner"  # of this machine and its log; who rates without saying who it is
_OWNERS = ("rating", "original_response")  # what only the owner's own events may say of a turn
_OURS = {"model", "digest", "engine", "incomplete", "regenerates"}  # what byoai itself says of an answer
_NOBODY = ""  # owns the tombstones: they stay when their turn goes
_NAME = re.compile(rb'"(?:id|turn_id|session_id)": ?"([^"\\]+)"')
_HEAD = re.compile(rb'\{("id": "[^"\\]+", "session_id"|"event": "[^"\\]+", "turn_id"): "[^"\\]+",')
_HALF = re.compile("[\ud800-\udfff]")  # half a character: no text that could be written anywhere

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogHealth:
    path: Path
    turns: int  # excluded ones included
    events: int
    damaged: int  # lines set aside in `quarantine`
    orphans: int  # events whose turn is not there
    unknown: int  # events of a kind that this version does not know; kept, and left alone
    bytes: int
    quarantine: Path

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.orphans or self.unknown)

    def __str__(self) -> str:
        faults = []
        if self.damaged:
            faults.append(
                f"{self.damaged} damaged line(s) set aside in {self.quarantine}: mend and append them to the log, or delete that file"
            )
        if self.orphans:
            faults.append(f"{self.orphans} event(s) of turns that are not there")
        if self.unknown:
            faults.append(f"{self.unknown} event(s) of a newer version of byoai: update it")
        return "; ".join([f"{self.turns} turn(s)", *faults])


class ConversationLogger:
    """The log at `path`; relative paths lie in data/conversations/. What it logs belongs to the session `session_id` (new if None).

    >>> log = ConversationLogger()  # doctest: +SKIP
    >>> for question, answer in exchanges:  # doctest: +SKIP
    ...     log.new_session()  # each is a conversation of its own: without this line all are one, and its later turns are cut off
    ...     log.log_conversation(question, answer)

    Every method that writes returns when the write is on the disk, and raises DataError if it cannot be, or Busy when another program
    keeps the log locked. Damaged lines found on reading are moved to a quarantine file beside the log: see `health`.
    """

    def __init__(self, path: str | Path = "conversations.jsonl", session_id: str | None = None, export_every: int | None = None) -> None:
        """`export_every`: with every so many turns the log is written to data/exports, in all formats."""
        self._file = LogFile(paths.conversations_dir() / path)
        self.session_id = session_id or _new_id()
        self._export_every = export_every

    @property
    def path(self) -> Path:
        return self._file.path

    def new_session(self) -> str:
        """Begin a new conversation. Returns its session id."""
        self.session_id = _new_id()
        return self.session_id

    def log_conversation(self, user_message: str, bot_response: str, metadata: dict[str, Any] | None = None) -> Turn:
        """Log one exchange. The Turn is as it will be read back. DataError for what is not text, or metadata that JSON cannot hold."""
        record = {
            "id": _new_id(),
            "session_id": self.session_id,
            "timestamp": _now(),
            "user_message": user_message,
            "bot_response": bot_response,
            # A rating or an edit that comes with a turn (with what is imported, say) is not the owner's.
            "metadata": {key: fact for key, fact in (metadata or {}).items() if key not in _OWNERS},
        }
        try:
            turn = Turn.model_validate_json(_line(record))
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(f"cannot log this turn: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        with self._file.locked():
            self._file.append(_line(turn.model_dump()))
        self._export_when_due()
        return turn

    def rate(self, turn_id: str, rating: Rating | None, by: str = _OWNER) -> None:
        """Thumbs up or down for the answer as it stands; None takes the thumb back. What others than the owner say is only kept."""
        if rating not in ("up", "down", None):
            raise DataError(f"a rating is 'up', 'down' or None, not {rating!r}")
        self._append_event("rating", turn_id, rating=rating, by=by)

    def edit(self, turn_id: str, bot_response: str) -> None:
        """Say what the answer should have been. To leave the turn out altogether, use `exclude`."""
        if not isinstance(bot_response, str) or not bot_response.strip():
            raise DataError("an edited answer must be text, and not empty: to leave the turn out, exclude it")
        self._append_event("edit", turn_id, bot_response=bot_response)

    def exclude(self, turn_id: str, excluded: bool = True) -> None:
        """Leave the turn out of all that learns, or (False) take it in again."""
        self._append_event("exclude", turn_id, excluded=bool(excluded))

    def delete(self, turn_id: str | None = None, session_id: str | None = None) -> int:
        """Remove a turn, or all turns of a session, with their text, from the log and its quarantine. Returns how many turns.

        Events without their turn go too, and damaged lines of which nobody can tell whose they are. What was made from the log before
        (datasets, exports) is not here: `deleted_ids` says what must not be in it.
        """
        if (turn_id is None) == (session_id is None):
            raise DataError("say either which turn to delete, or which session")
        with self._file.locked():
            log = self._settle()
            gone = {turn.id for turn in log.turns.values() if turn.id == turn_id or turn.session_id == session_id}
            self._remove(log, gone)
            self._purge_quarantine(gone | {turn_id or session_id or ""}, anyones=bool(gone))
        return len(gone)

    def forget(self, turn_ids: Collection[str], wanted: Pattern | None = None) -> int:
        """`delete` of many turns at once, and of the damaged lines that `wanted` finds something in. Returns how many turns."""
        with self._file.locked():
            log = self._settle()
            gone = log.turns.keys() & set(turn_ids)
            self._remove(log, gone)
            self._purge_quarantine(set(turn_ids), anyones=bool(gone), wanted=wanted)
        return len(gone)

    def _remove(self, log: "_Log", gone: Collection[str]) -> None:
        kept = log.without(gone)
        if gone or len(kept) < len(log.lines):
            self._file.rewrite([*kept, *(_event("delete", id) for id in sorted(gone))])

    def find(self, text: str) -> set[str]:
        """Ids of the turns in which anything that was said holds `text`, answers before an edit and metadata included, but not the names
        of fields and models. Case does not matter."""
        wanted = pattern([text])
        if wanted is None:
            return set()
        log = self._read(settle_tail=True)
        found = {owner for line, owner in log.lines if owner in log.turns and wanted.search(line)}  # quick, and too many
        return {owner for line, owner in log.lines if owner in found and any(holds(said, wanted) for said in _said(json.loads(line)))}

    def said(self, turn_ids: Collection[str]) -> set[str]:
        """Every text that was ever asked, answered or put in an answer's place in these turns."""
        records = [json.loads(line) for line, owner in self._read().lines if owner in set(turn_ids)]
        texts = (record.get(key) for record in records for key in ("user_message", "bot_response"))
        return {text for text in texts if isinstance(text, str)}

    def deleted_ids(self) -> set[str]:
        """Ids of all turns that were ever deleted."""
        return self._read().deleted

    def turns(self, include_excluded: bool = False) -> list[Turn]:
        """All turns, in the order in which they were logged, with the later events applied.

        An edited answer stands in `bot_response`, and the original in metadata["original_response"]; metadata["rating"] is "up" or "down"
        if rated; metadata["excluded"] marks excluded turns.
        """
        turns = self._read().turns.values()
        return [turn for turn in turns if include_excluded or not turn.metadata.get("excluded")]

    def conversations(self, include_excluded: bool = False) -> list[Conversation]:
        """The same by session, in order of first appearance."""
        return conversations_of(self.turns(include_excluded))

    def get_conversation_stats(self) -> dict[str, Any]:
        """Counts over all turns, excluded ones included; lengths are mean characters, times those of the first and last turn."""
        turns = self.turns(include_excluded=True)
        facts = [turn.metadata for turn in turns]
        return {
            "total_turns": len(turns),
            "total_conversations": len({turn.session_id for turn in turns}),
            "excluded": sum(bool(fact.get("excluded")) for fact in facts),
            "edited": sum("original_response" in fact for fact in facts),
            "rated_up": sum(fact.get("rating") == "up" for fact in facts),
            "rated_down": sum(fact.get("rating") == "down" for fact in facts),
            "models": dict(Counter(str(fact["model"]) for fact in facts if "model" in fact)),
            "average_user_length": fmean(len(turn.user_message) for turn in turns) if turns else 0.0,
            "average_bot_length": fmean(len(turn.bot_response) for turn in turns) if turns else 0.0,
            "first": min((turn.timestamp for turn in turns), default=None),
            "last": max((turn.timestamp for turn in turns), default=None),
        }

    def export(self, format: str, path: str | Path) -> Path:
        """Write the conversations (without excluded turns) to `path`, as jsonl, json, csv, chatml or alpaca. DataError for others."""
        return write_export(self.conversations(), format, Path(path))

    def health(self) -> LogHealth:
        """How the log is, after setting aside what is damaged."""
        log = self._read(settle_tail=True)
        return LogHealth(
            path=self.path,
            turns=len(log.turns),
            events=len(log.events),
            damaged=len(self._file.quarantined()),
            orphans=len(log.orphans),
            unknown=log.unknown,
            bytes=self.path.stat().st_size if self.path.exists() else 0,
            quarantine=self._file.quarantine,
        )

    def _export_when_due(self) -> None:
        if not self._export_every:
            return
        try:
            DataExporter().export_when_due(self.conversations(), self._export_every)
        except DataError as error:
            _logger.warning("the turn was logged, and the export that was due then failed: %s", error)

    def _append_event(self, event: str, turn_id: str, **facts: Any) -> None:
        line = _event(event, turn_id, **facts)
        with self._file.locked():
            # Under the lock: an event that came after its turn's deletion would bring text back.
            if turn_id not in _Log(*self._file.read()).turns:
                raise DataError(f"no turn {turn_id!r} in {self.path}")
            self._file.append(line)

    def _read(self, settle_tail: bool = False) -> "_Log":
        """Without the lock: who writes never keeps readers waiting, and a rewrite replaces the file as a whole."""
        log = _Log(*self._file.read())
        if not log.damaged and not (settle_tail and log.torn):
            return log
        try:
            with self._file.locked():
                return self._settle()
        except DataError as error:
            raise LogDamaged(f"{self.path} has damaged lines that could not be set aside: {error}") from error

    def _settle(self) -> "_Log":
        """Under the lock: set aside what is damaged. A torn last line too, for nobody is writing it any more."""
        log = _Log(*self._file.read())
        damaged = [*log.damaged, *([log.torn] if log.torn else [])]
        if damaged:
            self._file.set_aside(damaged, [line for line, _ in log.lines])
            _logger.warning("%d damaged line(s) of %s were set aside in %s", len(damaged), self.path, self._file.quarantine)
        return log

    def _purge_quarantine(self, gone: Collection[str], anyones: bool, wanted: Pattern | None = None) -> None:
        """Remove the damaged lines that name a turn or session in `gone`, (`anyones`) that do not say whose they are, or hold `wanted`."""
        lines = self._file.quarantined()
        kept = [line for line in lines if _named(line).isdisjoint(gone) and not (anyones and not _tells_whose(line))]
        kept = [line for line in kept if not (wanted and wanted.search(line))]
        if len(kept) < len(lines):
            self._file.rewrite_quarantine(kept)


class _Log:
    """The lines of a log, understood. Events are applied when all turns are known, so a mended line may come after its events."""

    def __init__(self, lines: Iterable[bytes], tail: bytes) -> None:
        self.turns: dict[str, Turn] = {}
        self.lines: list[tuple[bytes, str]] = []  # those that are whole, with the id of the turn that they are about
        self.events: list[dict[str, Any]] = []
        self.damaged = [line for line in lines if line.strip() and not self._take(line)]
        # All there but its end of line: whole. Else it is being written, or its writer was killed before it could acknowledge it.
        self.torn = tail if tail.strip() and not self._take(tail) else b""
        known = [event for event in self.events if event["event"] in _EVENTS]
        self.unknown = len(self.events) - len(known)
        self.deleted = {event["turn_id"] for event in known if event["event"] == "delete"}
        for id in self.deleted:
            self.turns.pop(id, None)
        self.orphans = {event["turn_id"] for event in known} - self.turns.keys() - self.deleted
        for event in known:
            if turn := self.turns.get(event["turn_id"]):
                self.turns[turn.id] = _apply(turn, event)

    def without(self, ids: Collection[str]) -> list[bytes]:
        """The lines that stay when these turns go: not theirs, nor those of turns that are gone already, but for the fact that they are."""
        gone = {*ids, *self.deleted, *self.orphans}
        return [line for line, owner in self.lines if owner not in gone]

    def _take(self, line: bytes) -> bool:
        """False if the line is no record, or has the id of an earlier turn."""
        try:
            # Within what people said the quotes would be escaped.
            owner = self._take_event(json.loads(line)) if b'"event"' in line else self._take_turn(line)
        except (ValueError, TypeError, RecursionError):
            return False
        if owner is not None:
            self.lines.append((line, owner))
        return owner is not None

    def _take_turn(self, line: bytes) -> str | None:
        turn = Turn.model_validate_json(line)
        return turn.id if self.turns.setdefault(turn.id, turn) is turn else None

    def _take_event(self, record: Any) -> str | None:
        if "event" not in record:
            return self._take_turn(json.dumps(record).encode())
        if not _is_event(record):
            return None
        self.events.append(record)
        return _NOBODY if record["event"] == "delete" else record["turn_id"]


def _said(record: dict[str, Any]) -> Iterator[str]:
    """Every text of a line that somebody may have said."""
    facts = record.get("metadata")
    told = {key: value for key, value in facts.items() if key not in _OURS} if isinstance(facts, dict) else {}
    return texts_in([record.get("user_message"), record.get("bot_response"), told])


def _is_event(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("turn_id"), str) or not record["turn_id"]:
        return False
    match record["event"]:
        case "rating":
            return record.get("rating") in ("up", "down", None) and isinstance(record.get("by", _OWNER), str)
        case "edit":
            return isinstance(record.get("bot_response"), str) and not _HALF.search(record["bot_response"])
        case "exclude":
            return isinstance(record.get("excluded"), bool)
        case kind:
            return isinstance(kind, str)


def _apply(turn: Turn, event: dict[str, Any]) -> Turn:
    answer, facts = turn.bot_response, dict(turn.metadata)
    match event["event"]:
        case "rating":
            if event.get("by", _OWNER) == _OWNER:
                facts["rating"] = event["rating"]
        case "exclude":
            facts["excluded"] = event["excluded"]
        case "edit":
            facts.setdefault("original_response", answer)
            answer = split_thoughts(event["bot_response"]).answer
            # Both are said of the answer that is now replaced.
            facts |= {"rating": None, "incomplete": None}
    for key in ("rating", "excluded", "incomplete"):
        if not facts.get(key):
            facts.pop(key, None)
    return turn.model_copy(update={"bot_response": answer, "metadata": facts})


def _named(line: bytes) -> set[str]:
    """Turns and sessions that a damaged line names."""
    return {id.decode("utf-8", "replace") for id in _NAME.findall(line)}


def _tells_whose(line: bytes) -> bool:
    """Whether a damaged line begins as ours do: with the ids, before anything that was said."""
    return bool(_HEAD.match(line))


def _event(event: str, turn_id: str, **facts: Any) -> bytes:
    return _line({"event": event, "turn_id": turn_id, "timestamp": _now(), **facts})


def _line(record: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"cannot log what JSON cannot hold: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return str(whole_characters(text)).encode()


def _new_id() -> str:
    return uuid.uuid4().hex


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
