"""Chat templates as Hugging Face renders them, for the embedded engine: Jinja, sandboxed, in a child process with limits.

A template is a program that came with a model. It gets no access beyond the messages, a few seconds, and a bounded memory: one that
loops or crashes ends the child, and not the program that asked.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fine_tuning.conversation import Message, whole_characters
from fine_tuning.errors import EngineError

TIME_LIMIT = 5.0  # seconds of one rendering, which takes a millisecond
_START_LIMIT = 60.0  # seconds, on a machine that has much else to do
_CHILD = Path(__file__).with_name("jinja_child.py")


def render_chat(template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """Return the prompt for the next answer to `messages`. EngineError says what the template does not like, or does wrong."""
    variables = {
        "messages": [message.model_dump() for message in messages],
        "add_generation_prompt": True,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
        "enable_thinking": False,  # answers, not thoughts: as engines/ollama.py asks for
    }
    answer = _renderer(os.getpid()).ask({"template": template, "variables": variables})
    if "text" in answer:
        return str(whole_characters(answer["text"]))
    why = answer.get("syntax") or answer["refused"]
    raise EngineError(f"the chat template refuses these messages ({', '.join(message.role for message in messages)}): {why}")


def check_template(template: str) -> None:
    """Raise EngineError unless `template` is Jinja."""
    answer = _renderer(os.getpid()).ask({"template": template})
    if "text" not in answer:
        why = answer.get("syntax") or answer["refused"]
        raise EngineError(f"not a Jinja template ({why}): the embedded engine takes no Go templates")


@functools.lru_cache(maxsize=1)
def _renderer(process: int) -> "_Renderer":
    """Return the renderer of this process: a fork must not read its parent's answers."""
    return _Renderer()


class _Renderer:
    """The child process, started when it is needed, and again after it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """Return the child's answer. EngineError if it takes too long, or the child dies of it."""
        line = json.dumps(request).encode("ascii") + b"\n"
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._child = self._start()
            said = self._exchange(self._child, line, TIME_LIMIT)
            if said is None:
                self._stop()
                raise EngineError(
                    f"the chat template takes more than {TIME_LIMIT:g} seconds, or ends the process that renders it: "
                    "give the model another one (a Jinja text), or take another model"
                )
        answer: dict[str, str] = json.loads(said)
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P: what lies beside the script is not to be imported by its short name.
        child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _end, child)  # also at exit
        if self._exchange(child, b"", _START_LIMIT) is None:
            _end(child)
            raise EngineError(f"the process that renders chat templates does not start: try `{sys.executable} {_CHILD}`")
        return child

    def _stop(self) -> None:
        if self._child:
            _end(self._child)
        self._child = None

    def _exchange(self, child: "subprocess.Popen[bytes]", line: bytes, limit: float) -> bytes | None:
        """Return the line that answers `line`; None if there is none within `limit` seconds, at which the child is killed.

        Bytes go through the pipes: a wrapper for text would keep what went through it last, and with it what was forgotten since.
        """
        timer = threading.Timer(limit, child.kill)
        timer.daemon = True
        timer.start()
        try:
            into, out = _pipes(child)
            into.write(line)
            into.flush()
            said = out.readline()
        except OSError:  # it is dead
            said = b""
        finally:
            timer.cancel()
        return said if said.endswith(b"\n") else None


def _pipes(child: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise OSError("no pipes")
    return child.stdin, child.stdout


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in filter(None, (child.stdin, child.stdout)):
        with contextlib.suppress(OSError):  # what was not written to a child that died
            pipe.close()
