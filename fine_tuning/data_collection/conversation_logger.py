"""What was said, kept for good: an append-only log of turns, and of what people did with them later.

One JSON object a line (JSON Lines), in the order of writing. A turn:
    {"id", "session_id", "timestamp", "user_message", "bot_response", "metadata": {"model", ...}}
and later events, each {"event", "turn_id", "timestamp"} and
    "rating"   {"rating": "up" | "down" | null, "by", "reason"}   of the answer as it stands then; it counts only if it is the owner's
    "edit"     {"bot_response"}                   the answer as it should have been; the turn keeps what was said
    "exclude"  {"excluded": true | false}         whether to leave the turn out of everything that learns
    "delete"   {}                                 all that is left of a deleted turn
A turn's metadata has {"parent": id} of the turn before it ("" for a first one; of old turns nobody
knows: see branches.py); one with {"regenerates": id} answers the same question as that turn, anew.
One that was read from elsewhere has {"source": {"name", "format", "licence"}, "import": id}, and
the time at which it was said there, "" if that is unknown. Each line ends with its checksum
(`log_lines`).

Reading changes nothing. A line that is no record, or was altered since it was written, is left out
of everything, and reported; the next rating, edit, exclusion or deletion, and the next turn of a
logger that has read it, sets it aside in a file beside the log. Times are ISO 8601, in UTC. Any
number of processes may read and write at once.
"""  # noqa: E501

import logging
import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fine_tuning import paths
from fine_tuning.conversation import Conversation, Turn, conversations_of
from fine_tuning.data_collection.data_export import DataExporter, write_export
from fine_tuning.data_collection.importers.chats import Entry
from fine_tuning.data_collection.log_file import LogFile, Stamp
from fine_tuning.data_collection.log_index import LogIndex, Range
from fine_tuning.data_collection.log_lines import OWNER, decode, encode, named_in, tells_whose, texts_of
from fine_tuning.data_collection.redaction import Pattern, holds, pattern
from fine_tuning.data_collection.whole_log import LogHealth, WholeLog, health_of
from fine_tuning.data_collection.without_collections import without_collections
from fine_tuning.errors import DataError, LogDamaged, TurnDeleted, TurnNotFound

Rating = Literal["up", "down"]

_OWNERS = ("rating", "rating_reason", "original_response")  # what only the owner's own events may say of a turn

REASON_LIMIT = 2000  # characters of why something was rated so

_logger = logging.getLogger(__name__)


class ConversationLogger:
    """The log at `path`; relative paths lie in data/conversations/. What it logs belongs to the
    session `session_id` (new if None).

    >>> log = ConversationLogger()  # doctest: +SKIP
    >>> for question, answer in exchanges:  # doctest: +SKIP
    ...     log.new_session()  # each is a conversation of its own: without this line all are one, and its later turns are cut off
    ...     log.log_conversation(question, answer)

    Every method that writes returns when the write is on the disk, and raises DataError if it
    cannot be, or Busy when another program keeps the log locked. All raise DataError for a file
    that is not a log, and leave it as it is. Of damaged lines: see `health`.
    """  # noqa: E501

    def __init__(
        self, path: str | Path = "conversations.jsonl", session_id: str | None = None, export_every: int | None = None
    ) -> None:
        """`export_every`: with every so many turns the log is written to data/exports, in all formats."""
        self._file = LogFile(
            Path(path) if Path(path).is_absolute() else paths.within_home(paths.conversations_dir() / path)
        )
        self.index = LogIndex(self._file)
        self._damage = 0  # lines that were found damaged, and are still in the log
        self.session_id = session_id or _new_id()
        self._export_every = export_every

    @property
    def path(self) -> Path:
        return self._file.path

    def new_session(self) -> str:
        """Begin a new conversation. Returns its session id."""
        self.session_id = _new_id()
        return self.session_id

    def log_conversation(
        self,
        user_message: str,
        bot_response: str,
        metadata: dict[str, Any] | None = None,
        *,
        answered_from: Collection[str] = (),
        as_of: Stamp | None = None,
    ) -> Turn:
        """Log one exchange. The Turn is as it will be read back. DataError for what is not text, or
        metadata that JSON cannot hold.

        `answered_from`: ids of the turns that the model was told, all of them in the log at the
        stamp `as_of`. TurnDeleted, and nothing is logged, if one of them is gone: the answer may
        tell of it.
        """
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
            turn = Turn.model_validate_json(encode(record))
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(f"cannot log this turn: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        with self._file.locked():
            if answered_from and self.stamp() != as_of and not self.index.there(answered_from) >= set(answered_from):
                raise TurnDeleted("the conversation of this turn was deleted meanwhile: nothing was logged")
            if self._damage:
                self._settle(strict=False)
            self._file.append(encode(turn.model_dump()))
        self._export_when_due()
        return turn

    def log_imported(self, entries: Sequence[Entry]) -> int:
        """Log turns that were said elsewhere, in one stroke, and what is told of their answers.
        Returns how many were added.

        Turns that the log has, or had until they were deleted, are left out. Each names its import
        in metadata["import"], for `take_back`.
        """
        with self._file.locked():
            known = self.index.known([entry.turn.id for entry in entries])
            new = {entry.turn.id: entry for entry in entries if entry.turn.id not in known}
            if self._damage:
                self._settle(strict=False)
            note = {} if self._file.is_ended() else {"ended_line": True}  # so that it can be opened again
            lines: list[bytes] = []
            for entry in new.values():
                turn = entry.turn
                if note and not lines:
                    turn = turn.model_copy(update={"metadata": {**turn.metadata, **note}})
                lines.append(encode(turn.model_dump()))
                if entry.edit is not None:
                    lines.append(_event("edit", turn.id, bot_response=entry.edit))
                if entry.rating is not None:
                    lines.append(_event("rating", turn.id, rating=entry.rating, by=OWNER))
            if lines:
                self._file.append(*lines)
        return len(new)

    def take_back(self, import_id: str) -> int:
        """Cut the turns of an import out of the log, with their ratings and edits: it is as before
        them, to the byte, and so is the index.

        Returns how many turns went. DataError if there are none of that import. What learned them
        meanwhile is not here.
        """
        with self._file.locked():
            count, ranges = self.index.lines_of_import(import_id)
            if not count:
                raise TurnNotFound(f"no import {import_id!r} is in the log: `byoai import --list` lists the imports")
            before = self._file.stamp()
            self._file.cut(ranges, opened=self._ended_another(ranges[0]))
            self.index.removed(ranges, before)
        return count

    def _ended_another(self, line: Range) -> bool:
        """Return whether the line before this turn's was ended only to log it."""
        with self._file.opened() as (content, _):
            content.seek(line[0])
            record = decode(content.read(line[1]))
        return isinstance(record, Turn) and "ended_line" in record.metadata

    def rate(self, turn_id: str, rating: Rating | None, by: str = OWNER, reason: str = "") -> None:
        """Thumbs up or down for the answer as it stands, and why; None takes both back. What others
        than the owner say is only kept.
        """
        if rating not in ("up", "down", None):
            raise DataError(f"a rating is 'up', 'down' or None, not {rating!r}")
        if not isinstance(reason, str) or len(reason) > REASON_LIMIT:
            raise DataError(f"the reason of a rating is text of at most {REASON_LIMIT} characters")
        why = {"reason": reason.strip()} if rating and reason.strip() else {}
        self._append_event("rating", turn_id, rating=rating, by=by, **why)

    def edit(self, turn_id: str, bot_response: str) -> None:
        """Say what the answer should have been. To leave the turn out altogether, use `exclude`."""
        if not isinstance(bot_response, str) or not bot_response.strip():
            raise DataError("an edited answer must be text, and not empty: to leave the turn out, exclude it")
        self._append_event("edit", turn_id, bot_response=bot_response)

    def exclude(self, turn_id: str, excluded: bool = True) -> None:
        """Leave the turn out of all that learns, or (False) take it in again."""
        self._append_event("exclude", turn_id, excluded=bool(excluded))

    def exclude_all(self, turn_ids: Collection[str], excluded: bool = True) -> int:
        """`exclude` of many turns in one stroke; those that are gone are left out. Returns how many turns."""
        with self._file.locked():
            there = sorted(self.index.there(turn_ids))
            if there:
                self._file.append(*(_event("exclude", id, excluded=bool(excluded)) for id in there))
        return len(there)

    def delete(self, turn_id: str | None = None, session_id: str | None = None) -> int:
        """Remove a turn, or all turns of a session, with their text, from the log and its
        quarantine. Returns how many turns.

        Events without their turn go too, and damaged lines of which nobody can tell whose they are.
        What was made from the log before (datasets, exports) is not here: `deleted_ids` says what
        must not be in it.
        """
        if (turn_id is None) == (session_id is None):
            raise DataError("name either the turn to delete, or the session")
        with self._file.locked():
            gone = self.index.there([turn_id]) if turn_id is not None else self.index.ids_of(str(session_id))
            self._remove(gone)
            self._purge_quarantine(gone | {turn_id or session_id or ""}, anyones=bool(gone))
        return len(gone)

    def forget(self, turn_ids: Collection[str], wanted: Pattern | None = None) -> int:
        """`delete` of many turns at once, and of the damaged lines that `wanted` finds something
        in. Returns how many turns.
        """
        with self._file.locked():
            gone = self.index.there(turn_ids)
            self._remove(gone)
            self._purge_quarantine(set(turn_ids), anyones=bool(gone), wanted=wanted)
        return len(gone)

    def _remove(self, gone: Collection[str]) -> None:
        """Cut these turns out of the log, and events whose turn is not there. The lock is held."""
        if not self.index.is_sound():
            self._settle()
        if ranges := self.index.lines_of(gone):
            before = self._file.stamp()
            self._file.cut(ranges, [_event("delete", id) for id in sorted(gone)])
            self.index.removed(ranges, before)

    def find(self, text: str) -> set[str]:
        """Ids of the turns in which anything that was said holds `text`, answers before an edit and
        metadata included, but not the names of fields and models. Case does not matter.
        """
        wanted = pattern([text])
        if wanted is None:
            return set()
        told = self.index.records(self.index.perhaps(text))
        return {
            id
            for id, records in told.items()
            if any(holds(said, wanted) for record in records for said in texts_of(record))
        }

    def has_damaged(self, wanted: Pattern) -> bool:
        """Return whether `wanted` finds something in a damaged line, of the log or set aside."""
        log = self._read()
        return any(wanted.search(line) for line in (*log.damaged, log.torn, *self._file.quarantined()))

    def said(self, turn_ids: Collection[str]) -> set[str]:
        """Every text that was ever asked, answered or put in an answer's place in these turns."""
        found: set[str] = set()
        for record in chain.from_iterable(self.index.records(turn_ids).values()):
            if isinstance(record, Turn):
                found |= {record.user_message, record.bot_response}
            elif record["event"] == "edit":
                found.add(record["bot_response"])
            elif record.get("reason"):
                found.add(record["reason"])
        return found

    def deleted_ids(self) -> set[str]:
        """Return the ids of all turns that were ever deleted."""
        return self.index.deleted_ids()

    def session_turns(self, session_id: str) -> list[Turn]:
        """Return a session's turns as `turns` does, excluded ones included."""
        return self.index.turns_of(session_id)

    def search(self, text: str, limit: int = 50) -> list[Turn]:
        """Return the newest turns in which every word of `text` was said, whatever the case, newest first."""
        return self.index.search(text, limit)

    def turns(self, include_excluded: bool = False) -> list[Turn]:
        """All turns, in the order in which they were logged, with the later events applied.

        An edited answer stands in `bot_response`, and the original in
        metadata["original_response"]; metadata["rating"] is "up" or "down" if rated;
        metadata["excluded"] marks excluded turns.
        """
        return self._read().stand(include_excluded)

    def turns_and_health(self) -> tuple[list[Turn], LogHealth]:
        """Return `turns` and `health`, reading the log once."""
        log = self._read()
        return log.stand(), health_of(self._file, log)

    def conversations(self, include_excluded: bool = False) -> list[Conversation]:
        """The same by session, in order of first appearance."""
        return conversations_of(self.turns(include_excluded))

    def get_conversation_stats(self) -> dict[str, Any]:
        """Counts over all turns, excluded ones included; lengths are mean characters, times those
        of the first and last turn.
        """
        return self.index.stats()

    def export(self, format: str, path: str | Path) -> Path:
        """Write the conversations, without excluded turns, to `path` in a format of data_export.py.
        DataError for others.
        """
        return write_export(self.conversations(), format, Path(path))

    def stamp(self) -> Stamp:
        """Return the log's state: while it stays the same, so does all that is read from it. It costs no reading."""
        return self._file.stamp()

    def check(self) -> None:
        """DataError if the file is there and not a log. Reads only as far as to its first record."""
        self._file.check()

    def health(self) -> LogHealth:
        """Return the state of the log, read as a whole: this works without an index too, or with a broken one."""
        return health_of(self._file, self._read())

    def _export_when_due(self) -> None:
        if not self._export_every:
            return
        try:
            DataExporter().export_when_due(self.conversations(), self._export_every)
        except DataError as error:
            _logger.warning("the turn was logged, but the export that was due failed: %s", error)

    def _append_event(self, event: str, turn_id: str, **facts: object) -> None:
        line = _event(event, turn_id, **facts)
        with self._file.locked():
            # Under the lock: an event that came after its turn's deletion would bring text back.
            known = self.index.has(turn_id)
            if known is None:
                known = turn_id in self._settle(strict=False).turns
            if not known:
                raise TurnNotFound(f"no turn {turn_id!r} in {self.path}")
            self._file.append(line)

    def _read(self) -> WholeLog:
        """Without the lock: who writes never keeps readers waiting, and a rewrite replaces the file as a whole."""
        with without_collections():
            log = WholeLog(*self._file.read())
        if len(log.damaged) > self._damage:
            _logger.warning(
                "%d damaged line(s) of %s are left out: byoai doctor says more", len(log.damaged), self.path
            )
        self._damage = len(log.damaged)
        return log

    def _settle(self, strict: bool = True) -> WholeLog:
        """Set aside what is damaged, under the lock. A torn last line too, for nobody is writing it any more.

        LogDamaged if that cannot be; unless `strict`, the damaged lines then stay where they are.
        """
        log = WholeLog(*self._file.read())
        damaged = [*log.damaged, *([log.torn] if log.torn else [])]
        if not damaged:
            return log
        try:
            self._file.set_aside(damaged, log.lines)
        except DataError as error:
            if strict:
                raise LogDamaged(f"{self.path} has damaged lines that could not be set aside: {error}") from error
            _logger.warning("%d damaged line(s) of %s could not be set aside: %s", len(damaged), self.path, error)
            return log
        self._damage = 0
        _logger.warning("%d damaged line(s) of %s were set aside in %s", len(damaged), self.path, self._file.quarantine)
        return log

    def _purge_quarantine(self, gone: Collection[str], anyones: bool, wanted: Pattern | None = None) -> None:
        """Remove the damaged lines that name a turn or session in `gone`, (`anyones`) that do not
        say whose they are, or hold `wanted`.
        """
        lines = self._file.quarantined()
        kept = [line for line in lines if named_in(line).isdisjoint(gone) and not (anyones and not tells_whose(line))]
        kept = [line for line in kept if not (wanted and wanted.search(line))]
        if len(kept) < len(lines):
            self._file.rewrite_quarantine(kept)


def _event(event: str, turn_id: str, **facts: object) -> bytes:
    return encode({"event": event, "turn_id": turn_id, "timestamp": _now(), **facts})


def _new_id() -> str:
    return uuid.uuid4().hex


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
