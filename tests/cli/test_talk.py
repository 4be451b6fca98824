"""`byoai talk`: the page's chat, typed in a terminal or sent through a pipe, with the real base in
the embedded engine.
"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from native_children import wait_until

from chatbot.session import open_chat
from fine_tuning.cli.show import visible
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine

TAG = "smollm2:135m"
COMMAND = [sys.executable, "-m", "fine_tuning", "talk"]
COLOURS = "Name two colours."


@pytest.fixture
def engine(embedded: None, home: Path, base_gguf: Path) -> EmbeddedEngine:
    """With the base, which always says the same, and never for long; and one that hardly ends."""
    found = EmbeddedEngine(home / "engine")
    settings = {"stop": ["<|im_end|>"], "temperature": 0.0, "seed": 1}
    found.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={**settings, "num_predict": 12}))
    found.create(
        "long:latest", ModelSpec(base_gguf, template=CHATML, parameters={"temperature": 0.0, "num_predict": 1500})
    )
    return found


def talk(lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], input=lines, capture_output=True, text=True, timeout=120, check=False)


def logged() -> list[Turn]:
    return ConversationLogger().turns()


def test_lines_go_in_and_answers_come_out_recorded_as_the_page_records_them(engine: EmbeddedEngine) -> None:
    done = talk(f"{COLOURS}\n\n/rate up\n/new\nWhat is 2+2?\n/quit\nnever asked\n")
    first, second = logged()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{first.bot_response}\n{second.bot_response}\n"  # nothing but the answers
    assert (first.user_message, first.metadata["rating"], second.user_message) == (COLOURS, "up", "What is 2+2?")
    assert first.session_id != second.session_id

    chat = open_chat("page.jsonl")
    chat.ask(engine, TAG, COLOURS).wait(60)
    (of_page,) = chat.turns
    assert of_page.bot_response == first.bot_response
    assert of_page.metadata.keys() == first.metadata.keys() - {"rating"}
    same = ("model", "digest", "engine", "tokens", "incomplete")
    assert [of_page.metadata.get(name) for name in same] == [first.metadata.get(name) for name in same]


def test_an_answer_is_given_anew_and_edited(engine: EmbeddedEngine) -> None:
    done = talk(f"{COLOURS}\n/again\n/edit Red, and blue.\n/model base\n/model\n/rate none\n")
    (turn,) = logged()[1:]
    assert (turn.bot_response, turn.metadata["regenerates"]) == ("Red, and blue.", logged()[0].id)
    assert "original_response" in turn.metadata and "rating" not in turn.metadata
    assert f"* {TAG}" in done.stderr and "long:latest" in done.stderr and TAG not in done.stdout
    done = talk(f"{COLOURS}\n/edit Green.\n/again\n")
    assert done.returncode == 3 and "it is kept" in done.stderr


@pytest.mark.parametrize("more", [["--no-record"], ["--set", "data_collection.record=false"]])
def test_what_is_not_recorded_is_nowhere(engine: EmbeddedEngine, home: Path, more: list[str]) -> None:
    done = talk(f"{COLOURS}\n/rate up\n", *more, "--json")
    assert done.returncode == 3 and "was not recorded" in done.stderr
    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["question"] == COLOURS and record["answer"] and record["model"] == TAG and record["recorded"] is False
    assert logged() == []
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file() and path.stat().st_size < 1 << 24]
    assert COLOURS.encode() not in b"".join(files)


@pytest.mark.parametrize(
    ("line", "arguments", "code", "said"),
    [
        ("/bogus", [], 2, "there is no /bogus"),
        ("/rate", [], 2, "/rate up"),
        ("/rate 5", [], 2, "/rate up"),
        ("/rate up", [], 3, "no answer yet"),
        ("/edit Red.", [], 3, "no answer yet"),
        ("/again", [], 3, "no answer to regenerate"),
        ("/model nosuch", [], 4, "nosuch"),
        ("/model v7", [], 4, "v7"),
        ("/model live", [], 4, "live"),
        ("", ["--model", "nosuch"], 4, "nosuch"),
    ],
)
def test_in_a_pipe_the_first_error_ends_it_with_its_code(
    engine: EmbeddedEngine, line: str, arguments: list[str], code: int, said: str
) -> None:
    done = talk(f"{line}\nWhat is 2+2?\n", *arguments)
    assert (done.returncode, done.stdout) == (code, "") and said in done.stderr
    assert "Traceback" not in done.stderr and logged() == []


def test_bytes_that_are_no_text_end_nothing(engine: EmbeddedEngine) -> None:
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in a terminal with UTF-8
    asked = b"Name \xff two colours.\n"
    done = subprocess.run(COMMAND, input=asked, env=strict, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [turn.user_message for turn in logged()] == ["Name \ufffd two colours."]


def test_a_question_may_begin_with_a_slash(engine: EmbeddedEngine) -> None:
    asked = ["/etc/passwd holds what?", "//", "/ what"]
    assert talk("".join(f"{text}\n" for text in asked)).returncode == 0
    assert [turn.user_message for turn in logged()] == asked


def test_a_log_that_is_none_is_said_before_anything_is_asked(engine: EmbeddedEngine, home: Path) -> None:
    (home / "conversations" / "x.jsonl").mkdir(parents=True)
    done = talk("Hi\n", "--set", "data_collection.log_file=x.jsonl")
    assert done.returncode in (1, 3) and "x.jsonl" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext é 日本 😀", "plain\n\ttext é 日本 😀"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\r\n", "ab\n"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("ab\u202ecd\u2066", "ab\\u202ecd\\u2066"),
    ],
)
def test_a_models_text_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown


# In a terminal


class Terminal:
    def __init__(self, process: int, screen: int) -> None:
        self.process, self._screen, self.seen = process, screen, ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, pattern: str, seconds: float = 90) -> str:
        """Read until the pattern is seen in what came since the last time; return that."""
        deadline, fresh = time.monotonic() + seconds, ""
        while not re.search(pattern, fresh):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {fresh!r}"
            if select.select([self._screen], [], [], 0.2)[0]:
                fresh += os.read(self._screen, 4096).decode(errors="replace")
        self.seen += fresh
        return fresh

    def type_until(self, text: str, pattern: str) -> None:
        """Type again and again until the pattern is seen: Python loses a Ctrl-C between the prompt
        and the reading of what is typed.
        """
        for _ in range(15):
            self.type(text)
            with suppress(AssertionError):
                self.wait_for(pattern, 4)
                return
        raise AssertionError(f"{pattern!r} did not come: {self.seen!r}")

    def end(self) -> int:
        """Return the exit code."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                return os.waitstatus_to_exitcode(status)
            if select.select([self._screen], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._screen, 4096).decode(errors="replace")
                except OSError:  # the other side is closed
                    time.sleep(0.05)
        raise AssertionError(f"it does not end: {self.seen!r}")


@pytest.fixture
def terminal(engine: EmbeddedEngine) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        process, screen = pty.fork()
        if process == 0:
            os.execve(sys.executable, [*COMMAND, *arguments], {**os.environ, "TERM": "xterm"})
        opened.append(Terminal(process, screen))
        return opened[-1]

    yield open_terminal
    for each in opened:
        with suppress(ProcessLookupError, ChildProcessError):  # it has ended
            os.kill(each.process, signal.SIGKILL)
            os.waitpid(each.process, 0)


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_ctrl_d_ends(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--model", "long")
    assert "is recorded on this machine" in screen.wait_for(">>> ")
    screen.type_until("\x03", r"Ctrl-D or /quit ends[^>]*>>> ")  # nothing is being answered
    screen.type("Write a long story about the sea.\n")
    screen.wait_for(r"sea\.\s+\S+ \S+ \S+ \S+")  # the first words
    screen.type("\x03")
    assert "learned only if you rate it up" in screen.wait_for(r"stopped[^>]*>>> ")
    (stopped,) = logged()
    assert stopped.metadata["incomplete"] == "stopped" and 10 < len(stopped.bot_response) < 6000
    screen.type("/bogus\n")  # an error ends nothing here
    screen.wait_for(r"there is no /bogus[^>]*>>> ")
    screen.type("/model base\n")
    screen.wait_for(r"base\s[\s\S]*>>> $")  # what is typed before the prompt can get lost
    screen.type(COLOURS + "\n")
    screen.wait_for(r"colou?rs[\s\S]*\n>>> $")
    screen.type("/edit\n")
    screen.wait_for("should have been: ")
    screen.type("\x15Red and blue.\n")  # Ctrl-U takes away what stood there
    screen.wait_for(r"learned instead of the model's answer[^>]*>>> ")
    screen.type("\x04")
    assert screen.end() == 0
    assert [turn.bot_response for turn in logged()][1:] == ["Red and blue."]
    assert "Traceback" not in screen.seen


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_said_is_kept_when_the_terminal_is_closed(
    terminal: Callable[..., Terminal], number: signal.Signals
) -> None:
    screen = terminal("--model", "long")
    screen.wait_for(">>> ")
    screen.type("Write a long story about the sea.\n")
    screen.wait_for(r"sea\.\s+\S+ \S+ \S+ \S+")
    os.kill(screen.process, number)
    assert screen.end() == 130
    (turn,) = logged()
    assert turn.metadata["incomplete"] == "stopped" and turn.bot_response.strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ask", "compare", "ask --json", "talk"])
def test_ctrl_c_ends_a_long_answer_without_a_traceback(
    engine: EmbeddedEngine, command: str, children: Callable[..., list[object]]
) -> None:
    question, (name, *more) = "Write a long story about the sea.", command.split()
    model = ["--models" if name == "compare" else "--model", "long"]
    arguments = [name, *([] if name == "talk" else [question]), *model, *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND[:-1], *arguments], text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(f"{question}\nNever asked?\n")
        process.stdin.close()
        if more:  # nothing is said before the end: the engine is in the middle of it after so many seconds of work
            wait_until(lambda: sum(child.cpu_times().user for child in children(process.pid)) > 2)
        else:
            process.stdout.read(60)
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130 and "byoai: stopped" in err and "Traceback" not in err, err
    assert not more or not out
    assert children() == []
    assert [turn.metadata["incomplete"] for turn in logged()] == (["stopped"] if name == "talk" else [])
