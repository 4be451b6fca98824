"""Run llama.cpp in a child process.

If native code crashes, the caller gets an EngineError instead of crashing too, and the child's
memory is freed. Only the child (native_child.py) imports llama_cpp. The child ends when its parent
ends, and Ctrl-C in the terminal does not reach it.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from fine_tuning.engines.native_child import END, ERROR, ITEM, READY, receive, send
from fine_tuning.errors import EngineError

_ROOT = Path(__file__).resolve().parents[2]
# Started without `site`: the child gets the parent's sys.path, and runs no start-up files of the user.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from fine_tuning.engines.native_child "
    "import main; main(sys.argv[1])"
)

# Limit how long threads spin while waiting, since spinning halves the speed of a busy machine (as
# in cli/main.py). Keep llama.cpp from starting a debugger on an abort, which takes seconds.
_SETTINGS = {"GOMP_SPINCOUNT": "10000", "GGML_NO_BACKTRACE": "1"}

_COMPILED = (
    "llama.cpp was compiled for another processor than this one. Remove the virtual environment (.venv, or "
    "BYOAI_VENV) and run "
    "./scripts/start.sh: it compiles llama.cpp anew and tries it."
)
_FAULT = (
    "This is a fault in llama.cpp, or the model's file is damaged: ask again, and if it stays so, get "
    "or make the model again."
)
_CURES = {
    signal.SIGILL: _COMPILED,
    signal.SIGKILL: "Most likely the system ended it because the memory ran out: close other programs, lower "
    "num_ctx, or use a smaller model.",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE), _FAULT),
}


class Native:
    """A proxy for an object in a child process. If the child has died, the next call restarts it."""

    def __init__(self, served: str, *arguments: object) -> None:
        """Start the child, and create an object of the class `served` ("package.module:Class") there.

        `arguments` must be JSON values. Methods are called with `call` and `stream`; the object's
        attribute `facts` is copied to `facts` here. Raises EngineError if the object cannot be
        created.
        """
        self._served, self._arguments = served, list(arguments)
        self._lock = threading.RLock()  # guards the pipes between threads
        self._numbers = itertools.count(1)
        self._open: dict[int, deque[list[Any]]] = {}  # messages that arrived while another stream was read
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self.facts: Any = None
        self.start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the child. Raises EngineError if there is no child."""
        if self._process is None:
            raise EngineError("the process of llama.cpp is not running yet: the first call of a method starts it")
        return self._process.pid

    @property
    def grown(self) -> int:
        """Memory in bytes that the child has taken since just before its object was created."""
        return max(self._memory() - self._before, 0)

    def _memory(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess as error:
            raise self._death() from error

    def start(self) -> None:
        """Start the child and create its object, unless it is running. Raises EngineError if that fails."""
        with self._lock:
            if self.alive:
                return
            self.close()
            self._process, self._said = _spawn(self._served)
            self._end = weakref.finalize(self, _end, self._process, self._said)  # runs also when Python exits
            kind, content = self._read(0)
            if kind == READY:
                self._before = self._memory()
                kind, content = self._read(self._write("__init__", self._arguments))
            if kind == ERROR:
                self.close()
                raise EngineError(content)
            self.facts = content

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the object and return its value. Raises EngineError if it fails or the child dies."""
        with self._lock:
            self.start()
            kind, content = self._read(self._write(method, list(arguments)))
        if kind == ERROR:
            raise EngineError(content)
        return content

    def stream(self, method: str, *arguments: object) -> Generator[Any]:
        """Call a generator method of the object and yield its items.

        Closing the iterator stops the method, without waiting for it. Raises EngineError if the
        method fails or the child dies.
        """
        with self._lock:
            self.start()
            number = self._write(method, list(arguments))
            self._open[number] = deque()
        kind = ITEM
        try:
            while kind != END:
                with self._lock:
                    if number not in self._open:  # the child that ran the stream has ended
                        raise _gone()
                    kind, content = self._read(number)
                if kind == ERROR:
                    raise EngineError(content)
                if kind == ITEM:
                    yield content
        finally:
            with self._lock:
                if self._open.pop(number, None) is not None and kind == ITEM:
                    self._stop(number)

    def close(self) -> None:
        """End the child, which frees its memory."""
        with self._lock:
            self._end()
            self._process = None
            self._open.clear()

    # These methods use the pipes; the caller holds `_lock`.

    def _write(self, method: str, arguments: list[object]) -> int:
        number = next(self._numbers)
        try:
            send(self._pipe("stdin"), [number, method, arguments])
        except OSError as error:
            raise self._death() from error
        except BaseException:  # interrupted in the middle of a message, so the pipe is no longer usable
            self.close()
            raise
        return number

    def _stop(self, number: int) -> None:
        with suppress(OSError, EngineError):  # the next call reports a dead child
            send(self._pipe("stdin"), [number, None, []])

    def _read(self, number: int) -> tuple[int, Any]:
        """Return kind and content of the next message for the call `number`; wait for it if needed.

        Messages for other open streams are kept in `_open`.
        """
        if waiting := self._open.get(number):
            kind, content = waiting.popleft()
            return kind, content
        try:
            while True:
                found, kind, content = receive(self._pipe("stdout"))
                if found == number:
                    return kind, content
                if found in self._open:
                    self._open[found].append([kind, content])
        except EOFError as error:
            raise self._death() from error
        except EngineError:
            raise
        except BaseException:
            self.close()
            raise

    def _pipe(self, name: str) -> IO[bytes]:
        if self._process is None:
            raise _gone()
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe

    def _death(self) -> EngineError:
        """Close the child, which has died, and return an error that describes how it ended."""
        process = self._process
        if process is None:
            return _gone()
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            code = 0
        self._said.seek(0)
        words = self._said.read()[-2000:].decode("utf-8", errors="replace").strip()
        self.close()
        return EngineError(_obituary(code, words.rpartition("\n")[2]))


def _gone() -> EngineError:
    return EngineError("llama.cpp was stopped meanwhile: ask again")


def _obituary(code: int, words: str) -> str:
    """Return a message for the user about how a child ended.

    `code`: its exit code, or its signal as a negative number. `words`: its last line of output.
    """
    said = f" It said: {words}" if words else ""
    if code >= 0:
        return f"llama.cpp's process ended by itself (exit code {code}): ask again, which starts it anew.{said}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"llama.cpp crashed (signal {-code}): ask again, which starts it anew.{said}"
    name = signal.strsignal(number) or "ended"
    return (
        f"llama.cpp crashed: {name} ({number.name}). "
        f"{_CURES.get(number, 'Something ended it: ask again, which starts another.')}{said}"
    )


def _spawn(served: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start the child; return it, and the file that receives its stderr.

    Raises EngineError if the process cannot be started.
    """
    path = json.dumps([str(_ROOT), *(str(Path(entry).absolute()) for entry in sys.path)])
    try:
        said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, served, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**_SETTINGS, **os.environ},
            process_group=0,
        )
    except OSError as error:
        raise EngineError(
            f"cannot start a process for llama.cpp: {error.strerror or error}. Close other programs, or free disk "
            "space."
        ) from error
    return process, said


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    process.kill()  # there is nothing to save
    process.wait()
    for file in (process.stdin, process.stdout, said):
        if file:
            with suppress(OSError):  # there may be buffered bytes that can no longer be written
                file.close()


def threads() -> int:
    """Return the number of threads for llama.cpp: the number of physical cores, limited by OMP_NUM_THREADS.

    Ollama's default is the number of cores too; llama-cpp-python's is half of it.
    """
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(allowed)) if allowed.isdecimal() and int(allowed) else cores
