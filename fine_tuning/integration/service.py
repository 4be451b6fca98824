"""What one serving process works with: its settings, the engine, the queue of jobs and the log. Pages and API share it."""

import logging
import threading
from collections.abc import Callable

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect
from fine_tuning.integration.ollama_integration import Models, look
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_registry import Registry

_logger = logging.getLogger(__name__)


class Service:
    """One of these in a process: an engine holds a loaded model, and two would hold it twice."""

    def __init__(self, settings: Callable[[], FineTuningConfig] = load_config, ollama_url: str | None = None) -> None:
        """`settings` are asked for anew each time; `ollama_url`: default: OLLAMA_HOST, else the configuration's."""
        self._settings, self._url = settings, ollama_url
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self.queue = Queue()
        self.registry = Registry()

    @property
    def config(self) -> FineTuningConfig:
        return self._settings()

    def engine(self) -> Engine:
        """Return the engine, connected once. Where it does not agree with the registry any more, that is mended, and logged.

        Raises EngineError if none answers.
        """
        with self._lock:
            if self._engine is None:
                self._engine = connect(self._url, self.config)
                for finding in reconcile(self._engine, self.registry, self.config.tuned_name()):
                    _logger.warning("%s", finding.text)
            return self._engine

    def connect_again(self) -> None:
        """Forget the engine: the next use finds the one that answers then."""
        with self._lock:
            self._engine = None

    def models(self) -> Models:
        """Return what the engine offers, and who of it answers."""
        return look(self.engine(), self.config)

    def log(self, session_id: str | None = None) -> ConversationLogger:
        """Return the log, for a session of its own or a given one."""
        return ConversationLogger(self.config.log_path, session_id, self._export_every())

    def _export_every(self) -> int | None:
        data = self.config.data_collection
        return data.export_interval if data.auto_export else None
