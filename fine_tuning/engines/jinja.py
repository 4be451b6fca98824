"""Render chat templates as Hugging Face does, for the embedded engine.

A template is a Jinja program that comes with a model. It runs sandboxed in a child process
(jinja_child.py), sees only the messages, and has limited time and memory. If it loops or crashes,
only the child ends.
"""

import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fine_tuning.conversation import Message, whole_characters
from fine_tuning.errors import EngineError

TIME_LIMIT = 5.0  # seconds for one rendering, which normally takes a millisecond
_START_LIMIT = 60.0  # seconds for the child's start, which may be slow on a busy machine
_CHILD = Path(__file__).with_name("jinja_child.py")


def render_chat(template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """Return the prompt text for the next answer to `messages`.

    `bos_token` and `eos_token` are the texts of the model's begin and end tokens, which the
    template may use. Raises EngineError, with the template's own message, if it rejects the
    messages or fails.
    """
    variables = _variables(messages, bos_token, eos_token)
    return _text(_renderer(os.getpid()).ask({"template": template, "variables": variables}), messages)


def render_chats(template: str, chats: Sequence[Sequence[Message]], *, bos_token: str, eos_token: str) -> list[str]:
    """Return the result of `render_chat` for each of `chats`, with one message to the child for all of them.

    Raises EngineError as `render_chat` does, for the first of `chats` that fails.
    """
    many = [_variables(messages, bos_token, eos_token) for messages in chats]
    try:
        answers = _renderer(os.getpid()).ask({"template": template, "many": many})["many"] if len(many) > 1 else None
    except EngineError:  # all together took longer than one may take, or too much memory
        answers = None
    if answers is None:
        return [render_chat(template, messages, bos_token=bos_token, eos_token=eos_token) for messages in chats]
    return [_text(answer, messages) for answer, messages in zip(answers, chats, strict=True)]


def _variables(messages: Sequence[Message], bos_token: str, eos_token: str) -> dict[str, object]:
    """Return the variables that a template may use: the messages, the tokens' texts, and options."""
    return {
        "messages": [message.model_dump(exclude={"weight"}) for message in messages],
        "add_generation_prompt": True,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
        "enable_thinking": False,  # ask for answers without thoughts, as engines/ollama.py does
    }


def _text(answer: dict[str, Any], messages: Sequence[Message]) -> str:
    """Return the text that the child rendered. Raises EngineError if it answered that the template refuses."""
    if "text" in answer:
        return str(whole_characters(answer["text"]))
    why = answer.get("syntax") or answer["refused"]
    raise EngineError(
        f"the chat template does not accept these messages ({', '.join(message.role for message in messages)}): {why}. "
        "Change the order of the messages, or choose another model"
    )


def check_template(template: str) -> None:
    """Raise EngineError unless `template` is a valid Jinja template."""
    answer = _renderer(os.getpid()).ask({"template": template})
    if "text" not in answer:
        why = answer.get("syntax") or answer["refused"]
        raise EngineError(
            f"this is not a Jinja template ({why}), and the embedded engine supports no Go templates: write it as a "
            "Jinja template"
        )


@functools.lru_cache(maxsize=1)
def _renderer(process: int) -> "_Renderer":
    """Return the renderer of the process with this id.

    A forked process has another id, and so gets a renderer of its own instead of reading answers
    that are meant for its parent.
    """
    return _Renderer()


class _Renderer:
    """The child process that renders templates. It is started when needed, and again after it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Send `request` to the child, and return its answer; jinja_child.py defines both.

        Raises EngineError if the child takes too long or dies.
        """
        line = json.dumps(request).encode("ascii") + b"\n"
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._child = self._start()
            said = self._exchange(self._child, line, TIME_LIMIT)
            if said is None:
                self._stop()
                raise EngineError(
                    f"rendering the chat template took more than {TIME_LIMIT:g} seconds, or crashed: choose another "
                    "model, or make this one again with another template, written in Jinja"
                )
        answer: dict[str, Any] = json.loads(said)
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P keeps the modules beside the script from being importable by their short names.
        child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _end, child)  # also at exit
        if self._exchange(child, b"", _START_LIMIT) is None:
            _end(child)
            raise EngineError(
                f"the process that renders chat templates does not start: run `{sys.executable} {_CHILD}` to see why"
            )
        return child

    def _stop(self) -> None:
        if self._child:
            _end(self._child)
        self._child = None

    def _exchange(self, child: "subprocess.Popen[bytes]", line: bytes, limit: float) -> bytes | None:
        """Send `line` to the child, and return its answer, which is one line.

        If no answer comes within `limit` seconds, kill the child and return None.

        The pipes carry bytes. A text wrapper around them would keep its last content in memory,
        even texts of conversations that the user deletes later.
        """
        try:
            into, out = _pipes(child)
            into.write(line)
            into.flush()
            ready = select.poll()
            ready.register(out, select.POLLIN)
            if not ready.poll(1000 * limit):
                child.kill()
            said = out.readline()
        except OSError:  # it is dead
            said = b""
        return said if said.endswith(b"\n") else None


def _pipes(child: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise OSError("no pipes")
    return child.stdin, child.stdout


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in filter(None, (child.stdin, child.stdout)):
        with contextlib.suppress(OSError):  # bytes still buffered for a child that died
            pipe.close()
