"""Apply a function to many lines on all cores: in this process, and in one child process per further core.

The children are separate Python processes that get only the function's name, so they can be started
from any program and any thread, and import only what the function needs. A child ends when its
standard input is closed, so none outlives the program, however the program ends.
"""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

Work = Callable[[bytes], bytes]


class AllCores:
    """A context manager that applies `work`, a module-level function, to lines on all cores.

    Neither the lines nor the results may contain a line end. The children are started by the first
    `apply`, and none is left after the `with` block.
    """

    def __init__(self, work: Work, children: int | None = None) -> None:
        """Set the function, and the number of child processes (default: the number of usable cores minus one)."""
        self._work = work
        self._wanted = cores() - 1 if children is None else children
        self._children: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []  # one for each child, while it has work
        self._waiting: deque[int] = deque()  # indices of the lines that no process has taken yet

    def __enter__(self) -> "AllCores":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        for child in self._children:
            child.kill()
            child.wait()
        for thread in self._threads:
            thread.join()
        for child in self._children:
            for pipe in filter(None, (child.stdin, child.stdout)):
                with suppress(OSError):  # unwritten input of a child that died
                    pipe.close()

    def apply(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return the result of `work` for each line, in order. Raises what `work` raises."""
        return self.begin(lines)()

    def begin(self, lines: Sequence[bytes]) -> Callable[[], list[bytes]]:
        """Let the children begin with `lines`, and return a function that helps them and returns what `apply` does.

        The function must be called before the next `begin`.
        """
        self._start()
        results: list[bytes | None] = [None] * len(lines)
        self._waiting = deque(range(len(lines)))
        self._threads = [
            threading.Thread(target=_feed, args=(child, lines, self._waiting, results), daemon=True)
            for child in self._children
        ]
        for thread in self._threads:
            thread.start()
        return partial(self._finish, lines, results)

    def _finish(self, lines: Sequence[bytes], results: list[bytes | None]) -> list[bytes]:
        try:
            while number := _next(self._waiting):
                results[number[0]] = self._work(lines[number[0]])
            for thread in self._threads:
                thread.join()
        except BaseException:
            self.__exit__()
            raise
        # compute what a child took but did not return, because it died
        return [self._work(line) if result is None else result for line, result in zip(lines, results, strict=True)]

    def _start(self) -> None:
        target = f"{self._work.__module__}:{self._work.__qualname__}"
        code = f"from {__name__} import serve; serve({target!r})"
        while len(self._children) < self._wanted:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
            )
            self._children.append(child)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(target: str) -> None:
    """Run a child process: apply the function `target` ("module:function") to each line of standard input.

    The results are written to standard output, one per line.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; this process ends with it
    module, _, name = target.partition(":")
    work: Work = getattr(import_module(module), name)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(work(line.rstrip(b"\n")) + b"\n")
        sys.stdout.buffer.flush()


def _next(waiting: deque[int]) -> tuple[int] | None:
    """Remove the next index from `waiting`, so that no other thread takes it, and return it in a tuple.

    Return None if all are taken. The tuple makes the index 0 true in a condition.
    """
    try:
        return (waiting.popleft(),)
    except IndexError:
        return None


def _feed(
    child: "subprocess.Popen[bytes]", lines: Sequence[bytes], waiting: deque[int], results: list[bytes | None]
) -> None:
    into, out = child.stdin, child.stdout
    with suppress(OSError, ValueError):  # the child died, or was killed: the parent computes what is missing
        while into and out and (number := _next(waiting)):
            into.write(lines[number[0]] + b"\n")
            into.flush()
            said = out.readline()
            if not said.endswith(b"\n"):
                return
            results[number[0]] = said[:-1]


def _environment() -> dict[str, str]:
    """Return the environment of a child: it finds the same modules as this process, and uses one thread."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
