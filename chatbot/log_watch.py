"""Keep the turns in this process's memory up to date with the log: turns that are deleted there are dropped."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.file import Stamp
from fine_tuning.errors import ByoaiError

INTERVAL = 0.2  # seconds between checks of the log: forgotten text must disappear from pages within two seconds

_logger = logging.getLogger(__name__)


class Holder(Protocol):
    """An object that holds the turns of one session of the log in memory, such as an open chat (session.Chat)."""

    id: str  # of the session

    def take_over(self, logged: Sequence[Turn], as_of: Stamp) -> None:
        """Update the held turns from the log.

        Args:
            logged: All turns of the session that are in the log, including excluded ones. A recorded
                turn that is not among them was deleted, and must be dropped.
            as_of: The state of the log in which they were read.
        """


class LogWatch:
    """Checks one log for changes, and gives each holder in this process the current turns of the holder's session.

    A holder is an object that keeps turns of the log in memory. As long as the log is unchanged, no
    turns are read.
    """

    def __init__(self, path: Path) -> None:
        self._log = ConversationLogger(path)
        self._holders: WeakSet[Holder] = WeakSet()
        self._seen: Stamp | None = None
        # Held while turns are read and given to the holders, and while a turn is logged: otherwise a turn
        # that is logged in between would be missing in what was read, and be dropped as deleted.
        self.lock = threading.RLock()

    def join(self, holder: Holder, tell: bool = True) -> None:
        """Give `holder` the current turns of its session after each change of the log, as long as the holder exists.

        `tell`: also give it the turns now. Raises DataError if the log cannot be read.
        """
        with self.lock:
            self._holders.add(holder)
            if tell:
                now = self._log.stamp()
                self._tell([holder], now)
                self._seen = self._seen or now  # only the first: the other holders were not told about later changes

    def look(self) -> None:
        """If the log has changed since the last call, give each holder the current turns of its session.

        Raises DataError if the log cannot be read.
        """
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
    """Return the LogWatch of a log. All paths of the same file share one, as long as any object refers to it."""
    path = ConversationLogger(log).path
    with _making:
        watch = _watches.get(path) or LogWatch(path)
        _watches[path] = watch
        return watch


def all_watches() -> list[LogWatch]:
    with _making:
        return list(_watches.values())


def keep_looking(ended: threading.Event) -> None:
    """Check every watched log for changes regularly until `ended` is set.

    This also updates the chats of closed pages that are still in memory.
    """
    while not ended.wait(INTERVAL):
        for watch in all_watches():
            try:
                watch.look()
            except ByoaiError as error:
                _logger.debug("%s", error)  # the page that reads the log shows it
