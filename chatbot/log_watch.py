"""What this process holds of a log, kept as the log is: what is deleted from it elsewhere goes from here, too."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log_file import Stamp
from fine_tuning.errors import ByoaiError

INTERVAL = 0.2  # seconds between looks at the log: what was forgotten elsewhere must be gone from a page within two

_logger = logging.getLogger(__name__)


class Holder(Protocol):
    """Something that holds what a log says of one session."""

    id: str  # of the session

    def take_over(self, logged: Sequence[Turn], as_of: Stamp) -> None:
        """Drop what is not in `logged`: all turns of the session, excluded ones included, at the
        log's stamp `as_of`.
        """


class LogWatch:
    """One log, and all in this process that hold something of it. A look costs no reading while the
    log stays the same.
    """

    def __init__(self, path: Path) -> None:
        self._log = ConversationLogger(path)
        self._holders: WeakSet[Holder] = WeakSet()
        self._seen: Stamp | None = None
        # Held while the log is read and told: what is logged meanwhile would be taken for deleted.
        # So it is held for logging, too.
        self.lock = threading.RLock()

    def join(self, holder: Holder, tell: bool = True) -> None:
        """Tell `holder` what the log says: now (if `tell`), and whenever it has changed, while it
        lives. DataError as of `look`.
        """
        with self.lock:
            self._holders.add(holder)
            if tell:
                now = self._log.stamp()
                self._tell([holder], now)
                self._seen = self._seen or now  # the first; later ones say nothing of what the others were told

    def look(self) -> None:
        """Tell all holders what the log says if it has changed since the last look. DataError if it cannot be read."""
        with self.lock:
            now = self._log.stamp()
            if now != self._seen:
                self._tell(list(self._holders), now)
                self._seen = now

    def holders(self) -> list[Holder]:
        with self.lock:
            return list(self._holders)

    def _tell(self, holders: Sequence[Holder], as_of: Stamp) -> None:
        for holder in holders:
            holder.take_over(self._log.session_turns(holder.id), as_of)


_watches: "WeakValueDictionary[Path, LogWatch]" = WeakValueDictionary()
_making = threading.Lock()


def watch_of(log: str | Path) -> LogWatch:
    """Return the watch of a log, by whatever name; it lives as long as anybody holds it."""
    path = ConversationLogger(log).path
    with _making:
        watch = _watches.get(path) or LogWatch(path)
        _watches[path] = watch
        return watch


def all_watches() -> list[LogWatch]:
    with _making:
        return list(_watches.values())


def keep_looking(ended: threading.Event) -> None:
    """Look at every watched log until `ended` is set: also for pages that are closed, and still in memory."""
    while not ended.wait(INTERVAL):
        for watch in all_watches():
            try:
                watch.look()
            except ByoaiError as error:
                _logger.debug("%s", error)  # who reads the log for a person says it
