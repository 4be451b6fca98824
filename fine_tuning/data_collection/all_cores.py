"""Apply a function to many lines on all cores: in this process, and in one child for each further
core.

The children are separate Python processes that know only the function's name. They can be started
from any program and any thread, and import only what the function needs. A child ends when its
standard input does, so none outlives the program, however that ends.
"""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

Work = Callable[[bytes], bytes]


class AllCores:
    """A context manager that applies `work`, a module-level function, to lines on all cores.

    Neither the lines nor the results may contain a line end. The children are started by the first
    `apply`, and none is left after the `with` block.
    """

    def __init__(self, work: Work, children: int | None = None) -> None:
        """Set the function, and the number of child processes: by default one for each usable core
        but one.
        """
        self._work = work
        self._wanted = cores() - 1 if children is None else children
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "AllCores":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in filter(None, (child.stdin, child.stdout)):
                with suppress(OSError):  # unwritten input of a child that died
                    pipe.close()

    def apply(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return the result of `work` for each line, in order. Raises what `work` raises."""
        self._start()
        results: list[bytes | None] = [None] * len(lines)
        waiting = deque(range(len(lines)))
        with self._fed(lines, waiting, results):
            while number := _next(waiting):
                results[number[0]] = self._work(lines[number[0]])
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

    @contextmanager
    def _fed(self, lines: Sequence[bytes], waiting: deque[int], results: list[bytes | None]) -> Iterator[None]:
        """Let the children take lines while the `with` block runs; at its end wait until they are
        done.
        """
        threads = [
            threading.Thread(target=_feed, args=(child, lines, waiting, results), daemon=True)
            for child in self._children
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            waiting.clear()
            self.__exit__()
            raise
        finally:
            for thread in threads:
                thread.join()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(target: str) -> None:
    """Run a child: apply the function named `target` ("module:function") to each line of standard
    input.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; this process ends with it
    module, _, name = target.partition(":")
    work: Work = getattr(import_module(module), name)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(work(line.rstrip(b"\n")) + b"\n")
        sys.stdout.buffer.flush()


def _next(waiting: deque[int]) -> tuple[int] | None:
    """Return the next number, which no other thread gets; None if all are taken."""
    try:
        return (waiting.popleft(),)
    except IndexError:
        return None


def _feed(
    child: "subprocess.Popen[bytes]", lines: Sequence[bytes], waiting: deque[int], results: list[bytes | None]
) -> None:
    into, out = child.stdin, child.stdout
    with suppress(OSError, ValueError):  # it died, or was killed: the parent computes what is missing
        while into and out and (number := _next(waiting)):
            into.write(lines[number[0]] + b"\n")
            into.flush()
            said = out.readline()
            if not said.endswith(b"\n"):
                return
            results[number[0]] = said[:-1]


def _environment() -> dict[str, str]:
    """Return an environment in which a child finds the same modules as this process."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
