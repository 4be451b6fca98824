"""Keep conversations in an append-only log of turns, and of later events such as ratings and edits.

The log is JSON Lines: one object a line, in the order of writing. A turn is

    {"id", "session_id", "timestamp", "user_message", "bot_response", "metadata": {"model", ...}}

A later event has {"event", "turn_id", "timestamp"}, and by its kind

    "rating"   {"rating": "up" | "down" | null, "by", "reason"}   the rating of the current answer; only the owner's counts
    "edit"     {"bot_response"}                   the answer as it should have been; the turn keeps the original
    "exclude"  {"excluded": true | false}         whether to exclude the turn from all learning
    "delete"   {}                                 all that is left of a deleted turn

metadata["parent"] is the id of the turn before, "" for a first turn; turns logged by early versions
have no "parent" (see branches.py). metadata["regenerates"] is the id of an earlier turn, if this
turn is another answer to its question. An imported turn has metadata["source"] = {"name", "format",
"licence"} and metadata["import"], the id of its import, and may have metadata["task"], a label for
the mix; its timestamp is that of its source, "" if unknown. Each line ends with its checksum (`log_lines`).

Reading changes nothing. A line that is not a record, or was altered since it was written, is
ignored and reported. The next rating, edit, exclusion or deletion moves it to a file beside the
log, the quarantine; so does the next turn, if its `ConversationLogger` has read that line before.
Times are ISO 8601, in UTC. Any number of processes may read and write at once.
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
from fine_tuning.data_collection.data_export import DataExporter, exporting, write_export
from fine_tuning.data_collection.importers.chats import Entry
from fine_tuning.data_collection.log.file import LogFile, Stamp
from fine_tuning.data_collection.log.follower import Range
from fine_tuning.data_collection.log.index import LogIndex
from fine_tuning.data_collection.log.lines import OWNER, decode, encode, named_in, tells_whose, texts_of
from fine_tuning.data_collection.log.whole import LogHealth, WholeLog, health_of
from fine_tuning.data_collection.redaction import Pattern, holds, pattern
from fine_tuning.data_collection.without_collections import without_collections
from fine_tuning.errors import ByoaiError, DataError, LogDamaged, TurnDeleted, TurnNotFound
from fine_tuning.units import counted

Rating = Literal["up", "down"]

_OWNERS = ("rating", "rating_reason", "original_response")  # metadata that only the owner's events may set

REASON_LIMIT = 2000  # characters of the reason for a rating

_logger = logging.getLogger(__name__)


class ConversationLogger:
    """Reads and writes the log at `path`; a relative path is below data/conversations/.

    New turns belong to the session `session_id`, by default a new one.

    >>> log = ConversationLogger()  # doctest: +SKIP
    >>> for question, answer in exchanges:  # doctest: +SKIP
    ...     log.new_session()  # without this, all exchanges are one long conversation, whose end does not fit into training
    ...     log.log_conversation(question, answer)

    A method that writes returns when the data is on the disk. It raises DataError if the data cannot be
    written, and Busy if another program keeps the log locked. All methods raise DataError for a file
    that is not a log, and leave that file unchanged. `health` reports damaged lines.
    """  # noqa: E501

    def __init__(
        self, path: str | Path = "conversations.jsonl", session_id: str | None = None, export_every: int | None = None
    ) -> None:
        """Open the log.

        `export_every`: after this many new turns, write the whole log to data/exports in all formats; None:
        never.
        """
        self._file = LogFile(
            Path(path) if Path(path).is_absolute() else paths.within_home(paths.conversations_dir() / path)
        )
        self.index = LogIndex(self._file)
        self._damage = 0  # damaged lines found in the log and not moved yet
        self.session_id = session_id or _new_id()
        self._export_every = export_every

    @property
    def path(self) -> Path:
        return self._file.path

    def new_session(self) -> str:
        """Begin a new conversation; return its session id."""
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
        """Log one exchange; return the turn as it will be read back.

        Args:
            answered_from: Ids of the earlier turns that the model was given.
            as_of: The stamp of the log when all of `answered_from` were in it.

        Raises:
            DataError: A message is not text, or JSON cannot represent the metadata.
            TurnDeleted: One of `answered_from` has been deleted since, and the answer may quote it.
                Nothing is logged.
        """
        record = {
            "id": _new_id(),
            "session_id": self.session_id,
            "timestamp": _now(),
            "user_message": user_message,
            "bot_response": bot_response,
            # a rating or an edit in a turn's metadata (of an import, say) is not the owner's
            "metadata": {key: fact for key, fact in (metadata or {}).items() if key not in _OWNERS},
        }
        try:
            turn = Turn.model_validate_json(encode(record))
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(
                f"cannot log this turn, because {'.'.join(map(str, fault['loc']))} is invalid: {fault['msg']}"
            ) from error
        with self._file.locked():
            if answered_from and self.stamp() != as_of and not self.index.there(answered_from) >= set(answered_from):
                raise TurnDeleted("the conversation of this turn was deleted in the meantime: nothing was logged")
            if self._damage:
                self._settle(strict=False)
            self._file.append(encode(turn.model_dump()))
        self._export_when_due()
        return turn

    def log_imported(self, entries: Sequence[Entry]) -> int:
        """Log turns from another source, with their ratings and edits, in one write; return how many were added.

        Turns that are in the log already, or were deleted from it, are skipped. `take_back` finds the turns
        of an import by their metadata["import"].
        """
        with self._file.locked():
            known = self.index.known([entry.turn.id for entry in entries])
            new = {entry.turn.id: entry for entry in entries if entry.turn.id not in known}
            if self._damage:
                self._settle(strict=False)
            note = {} if self._file.is_ended() else {"ended_line": True}  # so that `take_back` can restore it
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
        """Remove the turns of an import, with their ratings and edits; return how many turns were removed.

        The log then has the same bytes as if there had been no import. Models that were trained on the
        turns are not changed. Raises TurnNotFound if the log has no such import.
        """
        with self._file.locked():
            count, ranges = self.index.lines_of_import(import_id)
            if not count:
                raise TurnNotFound(f"the log contains no import {import_id!r}: `byoai import --list` lists the imports")
            before = self._file.stamp()
            self._file.cut(ranges, opened=self._ended_another(ranges[0]))
            self.index.removed(ranges, before)
        return count

    def _ended_another(self, line: Range) -> bool:
        """Return whether an import had to complete an unfinished line with a line end before it wrote `line`."""
        with self._file.opened() as (content, _):
            content.seek(line[0])
            record = decode(content.read(line[1]))
        return isinstance(record, Turn) and "ended_line" in record.metadata

    def rate(self, turn_id: str, rating: Rating | None, by: str = OWNER, reason: str = "") -> None:
        """Rate the current answer of a turn up or down, with a reason. The rating None removes both.

        Ratings by anyone but the owner are stored, but have no effect.
        """
        if rating not in ("up", "down", None):
            raise DataError(f"a rating must be 'up', 'down' or None, not {rating!r}")
        if not isinstance(reason, str) or len(reason) > REASON_LIMIT:
            raise DataError(f"the reason of a rating must be text of at most {REASON_LIMIT} characters: shorten it")
        why = {"reason": reason.strip()} if rating and reason.strip() else {}
        self._append_event("rating", turn_id, rating=rating, by=by, **why)

    def edit(self, turn_id: str, bot_response: str) -> None:
        """Record what the answer of a turn should have been: this text is learned instead of the original.

        Raises DataError if the text is empty, and TurnNotFound if there is no such turn. To leave a turn
        out of training, use `exclude`.
        """
        if not isinstance(bot_response, str) or not bot_response.strip():
            raise DataError("an edited answer must be text, and not empty: to leave the turn out, exclude it")
        self._append_event("edit", turn_id, bot_response=bot_response)

    def exclude(self, turn_id: str, excluded: bool = True) -> None:
        """Exclude a turn from all training; with `excluded` False, include it again. Raises TurnNotFound."""
        self._append_event("exclude", turn_id, excluded=bool(excluded))

    def exclude_all(self, turn_ids: Collection[str], excluded: bool = True) -> int:
        """Exclude or include many turns in one write; return how many of the ids are turns of the log."""
        with self._file.locked():
            there = sorted(self.index.there(turn_ids))
            if there:
                self._file.append(*(_event("exclude", id, excluded=bool(excluded)) for id in there))
        return len(there)

    def delete(self, turn_id: str | None = None, session_id: str | None = None) -> int:
        """Remove the text of a turn, or of all turns of a session, from the log; return how many turns were removed.

        Events whose turn is missing are removed too, and so are lines of the quarantine (damaged lines that
        were set aside) that belong to these turns or do not show which turn they belong to. Datasets and
        exports that were made from the log are not changed: `deleted_ids` returns the ids of the turns that
        must not be in them.
        """
        if (turn_id is None) == (session_id is None):
            raise DataError("name either the turn to delete, or the session")
        with self._file.locked():
            gone = self.index.there([turn_id]) if turn_id is not None else self.index.ids_of(str(session_id))
            self._remove(gone)
            self._purge_quarantine(gone | {turn_id or session_id or ""}, anyones=bool(gone))
        return len(gone)

    def forget(self, turn_ids: Collection[str], wanted: Pattern | None = None) -> int:
        """Delete many turns, and the damaged lines that match `wanted`; return how many turns were deleted."""
        with self._file.locked():
            gone = self.index.there(turn_ids)
            self._remove(gone)
            self._purge_quarantine(set(turn_ids), anyones=bool(gone), wanted=wanted)
        return len(gone)

    def _remove(self, gone: Collection[str]) -> None:
        """Remove these turns from the log, and events whose turn is missing. The caller holds the lock."""
        if not self.index.is_sound():
            self._settle()
        if ranges := self.index.lines_of(gone):
            before = self._file.stamp()
            self._file.cut(ranges, [_event("delete", id) for id in sorted(gone)])
            self.index.removed(ranges, before)

    def find(self, text: str) -> set[str]:
        """Return the ids of the turns that contain `text`, ignoring case.

        Their questions, answers, edits and metadata are searched, but not the names of fields and models.
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
        """Return whether a damaged line, in the log or in the quarantine, matches `wanted`."""
        log = self._read()
        return any(wanted.search(line) for line in (*log.damaged, log.torn, *self._file.quarantined()))

    def said(self, turn_ids: Collection[str]) -> set[str]:
        """Return all questions, answers, edits and reasons for a rating that these turns ever had."""
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
        """Return the ids of all turns that were ever deleted from the log."""
        return self.index.deleted_ids()

    def session_turns(self, session_id: str) -> list[Turn]:
        """Return the turns of a session in their current state, excluded ones included."""
        return self.index.turns_of(session_id)

    def search(self, text: str, limit: int = 50) -> list[Turn]:
        """Return at most `limit` turns that contain every word of `text`, ignoring case, newest first."""
        return self.index.search(text, limit)

    def turns(self, include_excluded: bool = False) -> list[Turn]:
        """Return all turns in the order in which they were logged, with later events applied.

        `bot_response` is the edited answer, and metadata["original_response"] the original.
        metadata["rating"] is "up" or "down" if the turn is rated. metadata["excluded"] marks excluded
        turns, which are returned only if `include_excluded`.
        """
        return self._read().stand(include_excluded)

    def turns_and_health(self) -> tuple[list[Turn], LogHealth]:
        """Return `turns` and `health`, reading the log once."""
        log = self._read()
        return log.stand(), health_of(self._file, log)

    def conversations(self, include_excluded: bool = False) -> list[Conversation]:
        """Return the turns grouped by session, in order of first appearance."""
        return conversations_of(self.turns(include_excluded))

    def get_conversation_stats(self) -> dict[str, Any]:
        """Return counts over all turns, excluded ones included.

        Lengths are means in characters; times are those of the first and the last turn.
        """
        return self.index.stats()

    def export(self, format: str, path: str | Path) -> Path:
        """Write the conversations, without excluded turns, to `path` in a format of data_export.py.

        Raises DataError for an unknown format, and Busy if other programs export or forget for more than ten
        seconds.
        """
        with exporting():
            return write_export(self.conversations(), format, Path(path))

    def stamp(self) -> Stamp:
        """Return a stamp of the log's state. As long as the stamp is the same, so is the log's content.

        The log itself is not read.
        """
        return self._file.stamp()

    def check(self) -> None:
        """Raise DataError if the file exists and is not a log. It is read only up to its first record."""
        self._file.check()

    def health(self) -> LogHealth:
        """Return the state of the log, which is read as a whole. This does not need the index."""
        return health_of(self._file, self._read())

    def _export_when_due(self) -> None:
        if not self._export_every:
            return
        try:
            # counted by the index, since reading the log for each turn would take longer the more was ever said
            if DataExporter().is_due(self.index.count(), self._export_every):
                with exporting():
                    DataExporter().export_when_due(self.conversations(), self._export_every)
        except (ByoaiError, OSError) as error:  # for example because `forget` removes the exports at this moment
            _logger.warning("the turn was logged, but the export that was due failed: %s", error)

    def _append_event(self, event: str, turn_id: str, **facts: object) -> None:
        line = _event(event, turn_id, **facts)
        with self._file.locked():
            # under the lock: an event logged after its turn's deletion would bring text back
            known = self.index.has(turn_id)
            if known is None:
                known = turn_id in self._settle(strict=False).turns
            if not known:
                raise TurnNotFound(
                    f"{self.path} has no turn {turn_id!r}: it was deleted, or the id is wrong. `byoai find WORD` "
                    "shows the ids"
                )
            self._file.append(line)

    def _read(self) -> WholeLog:
        """Read the whole log without the lock.

        Writers do not delay readers, since a rewrite replaces the file as a whole.
        """
        with without_collections():
            log = WholeLog(*self._file.read())
        if len(log.damaged) > self._damage:
            _logger.warning(
                "%s: %s ignored; `byoai doctor` says what to do", self.path, counted(len(log.damaged), "damaged line")
            )
        self._damage = len(log.damaged)
        return log

    def _settle(self, strict: bool = True) -> WholeLog:
        """Move damaged lines to the quarantine; return the log as it was read.

        The caller holds the lock, so nobody is still writing an incomplete last line, and it counts as
        damaged too. If the lines cannot be moved, raise LogDamaged or, unless `strict`, leave them in the
        log.
        """
        log = WholeLog(*self._file.read())
        damaged = [*log.damaged, *([log.torn] if log.torn else [])]
        if not damaged:
            return log
        found = counted(len(damaged), "damaged line")
        try:
            self._file.set_aside(damaged, log.lines)
        except DataError as error:
            if strict:
                raise LogDamaged(
                    f"{self.path} has damaged lines, which could not be moved to another file: {error}"
                ) from error
            _logger.warning("%s: %s could not be set aside: %s", self.path, found, error)
            return log
        self._damage = 0
        _logger.warning("%s: %s set aside in %s", self.path, found, self._file.quarantine)
        return log

    def _purge_quarantine(self, gone: Collection[str], anyones: bool, wanted: Pattern | None = None) -> None:
        """Remove the lines from the quarantine that name a turn or session in `gone`, or that match `wanted`.

        `anyones`: also remove the lines that do not show which turn they belong to.
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
