"""llama.cpp in its child process: what becomes of the caller when native code dies, and of the
child when its caller does.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from native_children import Children, wait_until
from timing import in_time, seconds

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.engines.native import Native
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import EngineError
from fine_tuning.evaluation.served_model import Ask, ServedModel

ROOT = Path(__file__).resolve().parents[2]
TAG = "smollm2:135m"
FRANCE = [Message(role="user", content="What is the capital of France?")]
STORY = [Message(role="user", content="Write a very long story about the sea, with many chapters.")]
LONG, BRIEF = ChatOptions(temperature=0, max_tokens=3000), ChatOptions(temperature=0, max_tokens=12)
SIGNALS = ["SIGILL", "SIGSEGV", "SIGKILL", "SIGBUS", "SIGABRT", "SIGFPE", "SIGTERM", "SIGHUP"]


@pytest.fixture
def engine(home: Path, base_gguf: Path) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine()
    engine.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    yield engine
    engine.unload()


def say(engine: EmbeddedEngine) -> str:
    return "".join(chunk.text for chunk in engine.chat(TAG, FRANCE, BRIEF))


# The child dies


@pytest.mark.parametrize("name", SIGNALS)
def test_a_death_in_mid_answer_is_one_clear_error_and_the_next_question_is_answered(
    engine: EmbeddedEngine, name: str, children: Children
) -> None:
    stream = engine.chat(TAG, STORY, LONG)
    list(itertools.islice(stream, 3))
    (child,) = children()
    os.kill(child.pid, getattr(signal, name))
    with pytest.raises(EngineError, match=rf"llama\.cpp crashed: .+ \({name}\)\. .+") as raised:
        list(stream)
    cure = {
        "SIGILL": "compiled for another processor",
        "SIGKILL": "because the memory ran out",
        "SIGTERM": "ask again",
        "SIGHUP": "ask again",
    }
    assert cure.get(name, "damaged") in str(raised.value)
    assert engine.loaded() == []
    assert "Paris" in say(engine)
    assert engine.loaded() == [TAG]
    assert [next_one.pid for next_one in children()] != [child.pid]


def test_a_death_between_answers_is_not_even_noticed(engine: EmbeddedEngine, children: Children) -> None:
    engine.warm(TAG)
    for _ in range(2):
        (child,) = children()
        child.kill()
        child.wait(60)
        assert engine.loaded() == [] and engine.unload() == []
        assert "Paris" in say(engine)


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_a_death_in_an_evaluation_is_an_error_and_the_next_question_is_answered(small_base: Path, name: str) -> None:
    rows = [(list(range(start, start + 8)), list(range(1, 8))) for start in range(100, 140)]
    with ServedModel(small_base) as model:
        whole = list(model.scores(rows))
        for stream in (
            model.scores(rows * 200),
            model.answers([Ask(rows[0][0], 1 + 1500 * bool(index), endless=True) for index in range(4)]),
        ):
            next(stream)
            os.kill(model.pid, getattr(signal, name))
            with pytest.raises(EngineError, match=rf"llama\.cpp crashed: .*{name}"):
                list(stream)
            assert list(model.scores(rows)) == whole


def test_a_vocabulary_outlives_its_child(base_gguf: Path, children: Children) -> None:
    words = Vocabulary(base_gguf)
    ids = words.encode("Hello, World!")
    (child,) = children()
    child.send_signal(signal.SIGSEGV)
    child.wait(60)
    assert words.encode("Hello, World!") == ids
    assert words.decode(ids) == "Hello, World!"


def test_what_llama_cpp_wrote_before_it_aborted_is_in_the_error(base_gguf: Path) -> None:
    """Asked for a token that no vocabulary has."""
    with pytest.raises(EngineError, match=r"Aborted \(SIGABRT\)|SIGSEGV|failed"):
        Vocabulary(base_gguf).decode([2**31 - 1])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.kill(os.getpid(), 4)", r"Illegal instruction \(SIGILL\).*compiled for another processor.*start\.sh"),
        ("os.kill(os.getpid(), 11)", r"Segmentation fault \(SIGSEGV\)"),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file')",
            r"cannot be loaded: libgomp\.so\.1.*start\.sh",
        ),
        ("raise OSError('libcuda.so.1: no such file')", r"cannot be loaded: libcuda"),
        ("os._exit(3)", r"ended by itself \(exit code 3\)"),
        (
            "sys.stderr.write('no such driver\\n'); sys.stderr.flush(); os._exit(1)",
            r"exit code 1.*It said: no such driver",
        ),
    ],
)
def test_a_library_that_cannot_be_loaded_says_why(
    fault: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_gguf: Path, children: Children
) -> None:
    (tmp_path / "llama_cpp.py").write_text(f"import os, sys\n{fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=said):
        Vocabulary(base_gguf)
    assert children() == []


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_file_never_takes_the_caller_along(base_gguf: Path, tmp_path: Path, seed: int) -> None:
    """Bytes changed anywhere in the header: read all the same, or refused in words."""
    draw, content = random.Random(seed), bytearray(base_gguf.read_bytes()[:4_000_000])
    for _ in range(200):
        content[draw.randrange(8, 1_500_000)] = draw.randrange(256)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with pytest.raises(EngineError, match=r"damaged\.gguf|llama\.cpp crashed"):
        ServedModel(damaged)
    try:
        assert isinstance(Vocabulary(damaged).encode("Hello"), list)
    except EngineError as error:
        assert "damaged" in str(error)


# The caller dies, or goes on


HOLDER = """
    from pathlib import Path
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.engines.embedded import EmbeddedEngine
    stream = EmbeddedEngine().chat("smollm2:135m", [Message(role="user", content="Tell me a long story.")], ChatOptions(max_tokens=4000))
    next(stream)
    print("answering", flush=True)
    {then}
"""  # noqa: E501


@pytest.mark.parametrize("then", ["input()", "list(stream)"], ids=["idle", "answering"])
def test_a_child_ends_with_its_parent(engine: EmbeddedEngine, then: str, children: Children) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER.format(then=then))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"answering\n"
    (child,) = children(parent.pid)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_unloading_gives_all_memory_back_at_once(engine: EmbeddedEngine, children: Children) -> None:
    before = psutil.Process().memory_info().rss
    engine.warm(TAG)
    (child,) = children()
    assert child.memory_info().rss > 90e6  # the weights
    assert psutil.Process().memory_info().rss - before < 40e6
    engine.unload()
    assert children() == []


def test_memory_is_what_the_child_holds_of_the_model(base_gguf: Path) -> None:
    with ServedModel(base_gguf) as served:
        list(served.scores([(list(range(100, 160)), list(range(1, 60)))]))
        assert 100e6 < served.memory < 400e6


def test_text_is_there_in_the_middle_of_the_answers(small_base: Path) -> None:
    """The evaluation asks so: each answer's text while the next ones are in the making."""
    with ServedModel(small_base) as model:
        asks = [Ask([100 + index, 200, 300], 4, endless=True) for index in range(24)]
        together = [(answer.tokens, model.text(answer.tokens)) for answer in model.answers(asks)]
        apart = [answer.tokens for answer in model.answers(asks)]
        assert together == [(tokens, model.text(tokens)) for tokens in apart]
        next(model.answers(asks))  # dropped: what follows is not mixed up with it
        assert [answer.tokens for answer in model.answers(asks)] == apart


def test_no_process_of_ours_loads_llama_cpp(engine: EmbeddedEngine, base_gguf: Path, tmp_path: Path) -> None:
    script = f"""
        import sys
        from pathlib import Path
        from fine_tuning.conversation import Message
        from fine_tuning.engines import ggml
        from fine_tuning.engines.embedded import EmbeddedEngine
        from fine_tuning.engines.vocabulary import Vocabulary
        from fine_tuning.errors import ExportError
        from fine_tuning.evaluation.served_model import ServedModel
        base = Path({str(base_gguf)!r})
        next(EmbeddedEngine().chat("smollm2:135m", [Message(role="user", content="Hello")]))
        ServedModel(base).logprobs(Vocabulary(base).encode("Hello there"), [1])
        ggml.can_quantize(ggml.GGMLQuantizationType.Q8_0)
        try:
            ggml.quantize_file(base, Path({str(tmp_path)!r}) / "out.gguf", "q4_0")
        except ExportError as error:
            print(error)
        print([name for name in sys.modules if name.startswith("llama_cpp")])
        print([line for line in open("/proc/self/maps") if "libllama" in line or "ggml-cpu" in line])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


def test_a_stream_from_before_a_restart_is_an_error_and_hangs_nobody(base_gguf: Path) -> None:
    with ServedModel(base_gguf) as model:
        old = model.answers([Ask([1, 2, 3], limit, endless=True) for limit in (1, 200)])
        next(old)
        model.close()
        assert model.answer([1, 2, 3], 2)  # of another child
        with pytest.raises(EngineError, match="stopped meanwhile"):
            next(old)


# The command line


def ask(*more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fine_tuning",
            "ask",
            "Write a very long story about the sea, with many chapters.",
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "BYOAI_ENGINE": "embedded"},
        start_new_session=True,
    )


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_the_command_line_says_what_happened_and_exits_with_4(
    engine: EmbeddedEngine, name: str, children: Children
) -> None:
    command = ask()
    assert command.stdout is not None and command.stdout.read(20)
    (child,) = children(command.pid)
    child.send_signal(getattr(signal, name))
    _, said = command.communicate(timeout=60)
    assert command.returncode == 4
    assert said.startswith("byoai: llama.cpp crashed: ") and f"({name})" in said
    assert said.count("\n") == 1


def test_ctrl_c_in_the_terminal_ends_an_answer_without_a_word_from_the_child(
    engine: EmbeddedEngine, children: Children
) -> None:
    command = ask()
    assert command.stdout is not None and command.stdout.read(20)
    (child,) = children(command.pid)
    os.killpg(command.pid, signal.SIGINT)  # the terminal's foreground group
    _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (130, "byoai: stopped\n")
    wait_until(lambda: not child.is_running())


def test_ctrl_c_does_not_reach_a_child_that_its_caller_keeps(engine: EmbeddedEngine, children: Children) -> None:
    stream = engine.chat(TAG, STORY, ChatOptions(temperature=0, max_tokens=40))
    next(stream)
    (child,) = children()
    child.send_signal(signal.SIGINT)
    assert list(stream)[-1].tokens == 40


# The pipe


@pytest.mark.parametrize(
    "text", ["", "a", "\x00", "\ufeff", "漢字🐈‍⬛", "\u2028\r\n", "x" * 200_000, "<|im_end|>"], ids=range(8)
)
def test_every_text_goes_through_the_pipe_as_it_is(base_gguf: Path, text: str) -> None:
    words = Vocabulary(base_gguf)
    assert words.decode(words.encode(text, special=False), special=True) == text


def test_threads_may_share_a_child(base_gguf: Path) -> None:
    words = Vocabulary(base_gguf)
    texts = [f"{number} bottles of beer on the wall" * 20 for number in range(200)]
    found: dict[str, list[int]] = {}
    threads = [
        threading.Thread(target=lambda part=part: found.update({text: words.encode(text) for text in part}))  # type: ignore[misc]
        for part in (texts[::2], texts[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {text: words.encode(text) for text in texts}


def test_a_stopped_stream_gives_way_at_once(engine: EmbeddedEngine) -> None:
    """However much was to come: the next question does not wait for it."""

    def share() -> float:
        """Of the time that the whole answer would have taken, what it takes to stop it."""
        stream = engine.chat(TAG, STORY, LONG)
        list(itertools.islice(stream, 3))
        whole = 3000 * seconds(lambda: list(itertools.islice(stream, 20)), time.perf_counter) / 20
        closed = seconds(stream.close, time.perf_counter)  # type: ignore[attr-defined]  # a generator
        assert seconds(lambda: say(engine), time.perf_counter) < whole / 2
        return closed / whole

    in_time(share, 1 / 30)


def test_what_the_child_cannot_do_is_an_error_and_it_lives_on(base_gguf: Path) -> None:
    native = Native("fine_tuning.engines.llama:Words", str(base_gguf))
    pid = native.pid
    with pytest.raises(EngineError, match="utf-8"):
        native.call("encode", "\ud800", False, False)
    assert native.call("encode", "Hello", False, False)
    assert native.pid == pid
