"""Serve the methods of one object until the parent process ends: the child's side of native.py.

Messages are sent over two pipes. A message is its length (4 bytes, big-endian) followed by that
many bytes of JSON. The parent sends [number, method, arguments], where the number identifies the
call; a null method stops the stream with that number. The child sends [number, kind, content]; the
kinds are READY (llama.cpp is imported), VALUE (a method's result), ITEM (an item of a stream), END
(of a stream) and ERROR (a message).
"""

import importlib
import json
import os
import queue
import signal
import struct
import threading
from collections.abc import Callable
from types import GeneratorType
from typing import IO, Any, Protocol

from fine_tuning.errors import ByoaiError

READY, VALUE, ITEM, END, ERROR = range(5)
_LENGTH = struct.Struct(">I")


def send(pipe: IO[bytes], message: list[object]) -> None:
    """Write one message. Raises OSError if the other side has closed the pipe."""
    content = json.dumps(message, separators=(",", ":")).encode("ascii")
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> list[Any]:
    """Wait for one message, and return it. Raises EOFError if the other side has ended."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    message: list[Any] = json.loads(content)
    return message


def main(served: str) -> None:
    """Serve an object of the class `served` ("package.module:Class") until the parent ends.

    The first message calls `__init__` with the constructor's arguments; the reply is the object's
    `facts`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native code's output must not mix with the messages
    _Child(requests, replies).serve(served)


class _Served(Protocol):
    """An object that can be served: beside its methods it has `facts`, a JSON value that is sent to the parent."""

    facts: object


class _Child:
    def __init__(self, requests: IO[bytes], replies: IO[bytes]) -> None:
        self._requests, self._replies = requests, replies
        self._inbox: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._object: object = None

    def serve(self, served: str) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        module, _, name = served.partition(":")
        try:
            import llama_cpp  # noqa: F401  # before READY, so that later growth of memory is the model's
        except (ImportError, OSError, RuntimeError) as error:
            self._reply(
                0, ERROR, f"llama-cpp-python cannot be loaded: {error}. Run ./scripts/start.sh, which installs it anew"
            )
            return
        self._reply(0, READY, None)
        made = getattr(importlib.import_module(module), name)
        while True:
            number, method, arguments = self._inbox.get()
            if method == "__init__":
                self._answer(number, self._make, [made, arguments])
            elif method:
                self._answer(number, getattr(self._object, method), arguments)

    def _listen(self) -> None:
        """Read requests in a separate thread, so that the child ends with its parent even while it computes."""
        try:
            while True:
                self._inbox.put(receive(self._requests))
        except (EOFError, OSError):
            os._exit(0)

    def _make(self, made: Callable[..., _Served], arguments: list[object]) -> object:
        self._object = served = made(*arguments)
        return served.facts

    def _answer(self, number: int, method: Callable[..., object], arguments: list[object]) -> None:
        try:
            result = method(*arguments)
            if not isinstance(result, GeneratorType):
                self._reply(number, VALUE, result)
            elif self._stream(number, result):
                self._reply(number, END, None)
        except ByoaiError as error:
            self._reply(number, ERROR, str(error))
        except (RuntimeError, ValueError, MemoryError) as error:
            self._reply(
                number, ERROR, f"llama.cpp failed: {error}. Too little memory? Lower num_ctx, or take a smaller model."
            )

    def _stream(self, number: int, items: "GeneratorType[object, None, None]") -> bool:
        """Send the items of a stream, and answer other requests in between; return False if the parent stopped it.

        A method yields None where it has no item yet but other requests may be answered.
        """
        for item in items:
            if item is not None:
                self._reply(number, ITEM, item)
            while not self._inbox.empty():
                other, method, arguments = self._inbox.get()
                if method:
                    self._answer(other, getattr(self._object, method), arguments)
                elif other == number:
                    items.close()
                    return False
        return True

    def _reply(self, number: int, kind: int, content: object) -> None:
        try:
            send(self._replies, [number, kind, content])
        except OSError:  # the parent is gone
            os._exit(0)
