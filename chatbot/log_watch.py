"""Keep the turns that this process holds in memory in step with the log: what is deleted there is dropped here."""

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

INTERVAL = 0.2  # seconds between looks at the log: forgotten text must disappear from pages within two seconds

_logger = logging.getLogger(__name__)


class Holder(Protocol):
    """An object that holds the turns of one session of a log in memory."""

    id: str  # of the session

    def take_over(self, logged: Sequence[Turn], as_of: Stamp) -> None:
        """Update to `logged`: all turns of the session, excluded ones included, when the log had the stamp `as_of`.

        Turns that are not among them must be dropped.
        """


class LogWatch:
    """Watches one log for all objects in this process that hold turns of it.

    As long as the log is unchanged, `look` reads nothing.
    """

    def __init__(self, path: Path) -> None:
        self._log = ConversationLogger(path)
        self._holders: WeakSet[Holder] = WeakSet()
        self._seen: Stamp | None = None
        # Held while holders are told what was read, and while a turn is logged: a turn that was logged in
        # between would be taken for deleted.
        self.lock = threading.RLock()

    def join(self, holder: Holder, tell: bool = True) -> None:
        """Tell `holder` what the log contains after each change, as long as the holder exists.

        `tell`: also tell it now. Raises DataError as `look` does.
        """
        with self.lock:
            self._holders.add(holder)
            if tell:
                now = self._log.stamp()
                self._tell([holder], now)
                self._seen = self._seen or now  # only the first: the other holders were not told about later changes

    def look(self) -> None:
        """Tell all holders what the log contains if it has changed since the last look.

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
    """Return the watch of a log, the same for all names of its file. It exists as long as any object refers to it."""
    path = ConversationLogger(log).path
    with _making:
        watch = _watches.get(path) or LogWatch(path)
        _watches[path] = watch
        return watch


def all_watches() -> list[LogWatch]:
    with _making:
        return list(_watches.values())


def keep_looking(ended: threading.Event) -> None:
    """Look at every watched log regularly until `ended` is set.

    This also updates closed pages that are still in memory.
    """
    while not ended.wait(INTERVAL):
        for watch in all_watches():
            try:
                watch.look()
            except ByoaiError as error:
                _logger.debug("%s", error)  # the page that reads the log shows it
