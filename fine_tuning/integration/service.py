"""Hold what a serving process works with: its settings, the engine, the queue of jobs and the log.

Pages and API share it.
"""

import logging
import threading
from collections.abc import Callable

from fine_tuning import config_overlay, paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect
from fine_tuning.integration.ollama_integration import Models, look
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_registry import Registry

_logger = logging.getLogger(__name__)


class Current:
    """The settings in the default file, read again whenever the file, or what the API changed, is
    another.
    """

    def __init__(self) -> None:
        self._read: tuple[object, FineTuningConfig] | None = None

    def __call__(self) -> FineTuningConfig:
        stamp = paths.stamp(paths.DEFAULT_CONFIG), paths.stamp(config_overlay.place())
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, load_config()
        return self._read[1]


class Service:
    """What a process serves with. There is one of these, since a second engine would load a model
    twice.
    """

    def __init__(
        self, settings: FineTuningConfig | Callable[[], FineTuningConfig] | None = None, ollama_url: str | None = None
    ) -> None:
        """Keep the settings if they are a configuration; a function is called for them at each use.

        Args:
            settings: By default those of the default file at that time (`Current`).
            ollama_url: URL of Ollama; by default OLLAMA_HOST, else that in the configuration.
        """
        self.fixed = settings if isinstance(settings, FineTuningConfig) else None
        self._settings = Current() if settings is None or isinstance(settings, FineTuningConfig) else settings
        self.ollama_url = ollama_url
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self.queue = Queue()
        self.registry = Registry()

    @property
    def config(self) -> FineTuningConfig:
        return self.fixed or self._settings()

    def engine(self) -> Engine:
        """Return the engine, which is connected on first use.

        Disagreements between engine and registry are then repaired, and logged. Raises EngineError
        if no engine answers.
        """
        with self._lock:
            if self._engine is None:
                self._engine = connect(self.ollama_url, self.config)
                for finding in reconcile(self._engine, self.registry, self.config.tuned_name()):
                    _logger.warning("%s", finding.text)
            return self._engine

    def holds(self, engine: Engine) -> bool:
        """Return whether this is the engine in use."""
        return engine is self._engine

    def connect_again(self) -> None:
        """Forget the engine: the next use connects to the one that answers then."""
        with self._lock:
            self._engine = None

    def models(self) -> Models:
        """Return the models that the engine offers, and which of them answers."""
        return look(self.engine(), self.config)

    def log(self, session_id: str | None = None) -> ConversationLogger:
        """Return the log, for a given session or a new one."""
        config = self.config
        return ConversationLogger(config.log_path, session_id, config.data_collection.export_every)
