"""A real Ollama of one test's own, beside the one that all others ask."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ports import unused_port

from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.errors import EngineError


class OwnOllama:
    """A server with models of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{unused_port()}"
        own = {
            "HOME": str(folder),
            "OLLAMA_MODELS": str(folder / "models"),
            "OLLAMA_HOST": self.url,
            "OLLAMA_NO_CLOUD": "1",
        }
        self._environment = {**os.environ, **own}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> OllamaEngine:
        program = os.environ.get("BYOAI_TEST_OLLAMA_PROGRAM") or shutil.which("ollama")
        assert program, "BYOAI_TEST_OLLAMA_PROGRAM is not set: run ./scripts/test.sh, or set it to the path of Ollama"
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [program, "serve"], env=self._environment, stdout=quiet, stderr=quiet, start_new_session=True
        )
        engine = OllamaEngine(self.url)
        deadline = time.monotonic() + 60
        while True:
            try:
                engine.version()
            except EngineError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return engine

    def freeze(self) -> None:
        """Stop the server's processes, whose sockets still take connections, until `thaw` or `kill`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
