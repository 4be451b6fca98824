"""Hold the objects that a server works with: its settings, the engine, the queue of jobs and the log.

The pages and the API of a server share them.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config import overlay as config_overlay
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect, ollama_since
from fine_tuning.errors import EngineError
from fine_tuning.integration.ollama_integration import Models, look
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_registry import Registry

_logger = logging.getLogger(__name__)

_LOOK = 5.0  # seconds between two looks for an Ollama in whose place the embedded engine answers


class Current:
    """A callable that returns the current settings: those of the default file, with the changes made through the API.

    Both files are read again only if one of them has changed.
    """

    def __init__(self) -> None:
        self._read: tuple[object, FineTuningConfig] | None = None

    def __call__(self) -> FineTuningConfig:
        stamp = paths.stamp(paths.DEFAULT_CONFIG), paths.stamp(config_overlay.place())
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, load_config()
        return self._read[1]


class Service:
    """The objects that a server works with. There is one Service, since a second engine would load a model twice."""

    def __init__(
        self, settings: FineTuningConfig | Callable[[], FineTuningConfig] | None = None, ollama_url: str | None = None
    ) -> None:
        """Set where the settings come from.

        Args:
            settings: The settings, or a function that is called for them at each use. By default they are
                read from the default file (`Current`).
            ollama_url: The URL of Ollama; by default OLLAMA_HOST, or else the URL in the
                configuration.
        """
        self.fixed = settings if isinstance(settings, FineTuningConfig) else None
        self._settings = Current() if settings is None or isinstance(settings, FineTuningConfig) else settings
        self.ollama_url = ollama_url
        self._engine: Engine | None = None
        self._look_at = 0.0  # when to look for an Ollama next, by the monotonic clock
        self._lock = threading.Lock()
        self.queue = Queue()
        self.registry = Registry()

    @property
    def config(self) -> FineTuningConfig:
        return self.fixed or self._settings()

    def engine(self) -> Engine:
        """Return the engine.

        The first call connects to it, and repairs differences between the engine and the registry,
        which are written to Python's log. Raises EngineError if no engine is available.
        """
        with self._lock:
            if self._engine is None:
                self._engine = connect(self.ollama_url, self.config)
                self._look_at = time.monotonic() + _LOOK
                self._repair(self._engine)
            return self._engine

    def connect_again(self) -> None:
        """Forget the engine, so that the next use connects again, perhaps to another engine."""
        with self._lock:
            self._engine = None

    def models(self) -> Models:
        """Return the models that the engine offers, and which of them answers by default.

        If the embedded engine was chosen because no Ollama was running, an Ollama that has been started
        since replaces it. Ollama itself is never replaced, however often it fails to answer.
        """
        self._look_for_ollama()
        return look(self.engine(), self.config)

    def _look_for_ollama(self) -> None:
        with self._lock:
            held, is_due = self._engine, time.monotonic() >= self._look_at
            if held is None or not is_due:
                return
            self._look_at = time.monotonic() + _LOOK
        if found := ollama_since(held, self.config):  # outside of the lock, since it may take a second
            with self._lock, suppress(EngineError):
                if self._engine is held:
                    self._repair(found)
                    self._engine = found

    def _repair(self, engine: Engine) -> None:
        for finding in reconcile(engine, self.registry, self.config.tuned_name()):
            _logger.warning("%s", finding.text)

    def log(self, session_id: str | None = None) -> ConversationLogger:
        """Return the log, which adds turns to the session `session_id`, by default to a new one."""
        config = self.config
        return ConversationLogger(config.log_path, session_id, config.data_collection.export_every)
