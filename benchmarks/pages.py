"""Measure how long users wait for the pages.

    python benchmarks/pages.py                                            # pages and start, a minute
    python benchmarks/pages.py pages --turns 1000 100000
    python benchmarks/pages.py token --ollama-url http://127.0.0.1:11434  # compared with Ollama's client
    python benchmarks/pages.py typing                                     # in Chromium, without and with a training; some minutes

pages   For a log of --turns turns, all of which a version was trained on and a survey examined, 30 trainings, and the
        embedded engine with the default base: the time to the first element of each page and section, to its last
        element, and for running the page again, as a click does. Measured through the server's WebSocket, each time in a
        new session, without the time that a browser takes to draw. Medians.
start   From the start of the process `byoai chat` to the first successful health check, and to the chat's input in a
        browser that is already open.
token   The time to the first token of the same question through the page's code (chatbot/session.py, with the log) and
        through Ollama's own client, alternately; the median of the differences.
typing  From a key press in the chat's input to the frame that shows the letter.
"""  # noqa: E501

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from log_scale import milliseconds, write_log

if TYPE_CHECKING:
    from playwright.sync_api import Page

# upper limits in milliseconds; a longer time is marked as too long
BARS = {"first content": 500, "one more run": 300, "first token": 30, "to the first content": 4000}
ROUNDS = 9
QUESTION = "Name three colours."


# Pages


def measure_pages(turns: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        make_base(home)
        alike = fill(Path(home), turns)
        pages = filled_pages()
        with serving(home) as (address, _):
            print(f"| {turns:,} turns, milliseconds | first content | whole page | one more run |")
            print("| --- | --- | --- | --- |")
            for name, page, query in pages:
                ask_page(address, page, 1, query)  # not measured: the first run in a process also imports modules
                found = [ask_page(address, page, 3, query) for _ in range(ROUNDS)]
                first, whole = median(each[0][0] for each in found), median(each[0][1] for each in found)
                again = median(run[1] for each in found for run in each[1:])
                print(
                    f"| {name} | {judged(first, 'first content')} | {whole:.0f} | {judged(again, 'one more run')} |",
                    flush=True,
                )
        print(f"\nwhere an answer was learned: {alike:.0f} ms")


def filled_pages() -> list[tuple[str, str, str]]:
    """Return the name, the page and the query string of each page and section that is measured."""
    from fine_tuning.jobs import store

    job = store.find()[0].id
    sections = ("Turns", "Nearly the same", "Different answers", "Review", "Import")
    return [
        ("Chat, new", "chat", ""),
        ("Chat of 5 turns", "chat", "chat=session-7"),
        ("Data, overview", "data", ""),
        *((f"Data, {each.lower()}", "data", f"show={each.replace(' ', '%20')}") for each in sections),
        ("Train", "train", ""),
        ("Runs", "runs", ""),
        ("Runs, one in detail", "runs", f"job={job}"),
        ("Models", "models", ""),
        ("Models, compare", "models", "view=compare"),
        ("Settings", "settings", ""),
    ]


def page_names() -> list[str]:
    from chatbot.server import APP

    return sorted(page.stem for page in (APP.parent / "pages").glob("*.py"))


def fill(home: Path, turns: int) -> float:
    """Write a log of `turns` turns with a survey, a version that was trained on all of them, and 30 trainings.

    Return the median milliseconds of the search for the trained turns that are most similar to an
    answer.
    """
    os.environ |= {"BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}
    from fine_tuning import paths
    from fine_tuning.config import load_config
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.log.likeness import most_alike
    from fine_tuning.events import Watch
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.runs import Run
    from fine_tuning.survey import look_through

    name = load_config().tuned_name()
    ids = write_log(load_config().log_path, turns)
    log = ConversationLogger(load_config().log_path)
    mark, run = log.index.mark(), home / "runs" / "learned"
    run.mkdir(parents=True)
    paths.write_json(Run(run).inputs, {"seen": dict(log.index.changed_since(None)), "mark": asdict(mark)})
    Registry().add(name, 1, base_tag="smollm2:135m", run=str(run.relative_to(home)), turns=ids)
    look_through(load_config(), None, Watch())
    for _ in range(30):
        add_training()
    (turn,) = log.index.turns([ids[turns // 2]])
    return milliseconds(lambda: most_alike(log, turn, (name, 1)), ROUNDS)


def add_training() -> None:
    """Add a training of 300 steps that is over to the list of jobs."""
    from fine_tuning.events import Finished, Step
    from fine_tuning.jobs.doing import listed
    from fine_tuning.jobs.kinds import RetrainRequest

    with listed("retrain", RetrainRequest()) as told:
        for step in range(1, 301):
            told.tell(Step("chats", step, 300, step / 100, 3 / step, 0.3, 1e-4, 1.0, 100, 50.0, 0.5, 42.0, 10**9))
        told.tell(Finished("registered", "better"))


def ask_page(address: str, page: str, runs: int, query: str = "") -> list[tuple[float, float]]:
    """Open a page in a new session, as a browser does, with this query string, and run it `runs` times.

    Return for each run the milliseconds to the page's first element, and to the end of the run.
    """
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect

    found = []
    url = f"ws{address.removeprefix('http')}/_stcore/stream"
    with connect(url, origin=address, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
        asked = BackMsg()
        asked.rerun_script.page_name = "" if page == "chat" else page
        asked.rerun_script.query_string = query
        for _ in range(runs):
            started, first = time.perf_counter(), 0.0
            socket.send(asked.SerializeToString())
            while True:
                told = ForwardMsg.FromString(socket.recv(timeout=120))  # type: ignore[arg-type]
                now = 1000 * (time.perf_counter() - started)
                if told.HasField("delta") and told.metadata.delta_path[:1] == [0] and not first:
                    first = now
                if told.HasField("new_session"):
                    asked.rerun_script.page_script_hash = told.new_session.page_script_hash
                if told.HasField("script_finished"):
                    break
            found.append((first, now))
    return found


def judged(value: float, bar: str) -> str:
    return f"{value:.0f}{'' if value <= BARS[bar] else ' (too long)'}"


# Start


def measure_start(rounds: int = 5) -> None:
    from playwright.sync_api import sync_playwright

    healthy, shown = [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for index in range(rounds + 1):
            page = browser.new_page()
            started = time.perf_counter()
            with serving(home) as (address, ready):
                page.goto(address)
                page.get_by_test_id("stChatInputTextArea").wait_for()
                if index:  # the first one compiles Python's files
                    healthy.append(1000 * (ready - started))
                    shown.append(1000 * (time.perf_counter() - started))
            page.close()
        browser.close()
    print(f"start, {os.cpu_count()} cores: healthy after {median(healthy):.0f} ms, the chat's input after", end=" ")
    print(f"{judged(median(shown), 'to the first content')} ms (medians of {rounds})")


@contextlib.contextmanager
def serving(home: str, **environment: str) -> Iterator[tuple[str, float]]:
    """Run `byoai chat` within the `with` block; yield its URL, and the time (perf_counter) when it was healthy.

    `home`: the data folder. `environment`: further environment variables.
    """
    port = free_port()
    command = [sys.executable, "-m", "fine_tuning", "chat", "--no-browser", "--port", str(port)]
    variables = {**os.environ, "BYOAI_HOME": home, "BYOAI_ENGINE": "embedded", **environment}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    try:
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5),
            ):
                break
            if process.poll() is not None:
                sys.exit("byoai chat ended by itself")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}", time.perf_counter()
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    from fine_tuning.api.background import free_port

    return free_port(8700)


def chromium() -> str:
    return os.environ.get("BYOAI_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"


# First token


def measure_token(url: str, turns: int, rounds: int = 25) -> None:
    """Print the time to the first token through the page's code and through Ollama's client at `url`.

    The same question is asked alternately in both ways, `rounds` times, each time in a new chat, so
    that both send the same messages. The log has `turns` turns.
    """
    import ollama

    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"BYOAI_HOME": home}
        from chatbot.session import open_chat
        from fine_tuning.config import load_config
        from fine_tuning.data_collection.conversation_logger import ConversationLogger
        from fine_tuning.engines.default_base import ensure_default_base
        from fine_tuning.engines.ollama import OllamaEngine

        engine, client = OllamaEngine(url), ollama.Client(url)
        tag, path = ensure_default_base(engine), load_config().log_path
        write_log(path, turns)
        ConversationLogger(path).index.mark()

        def through_the_page() -> float:
            chat = open_chat(path)
            started = time.perf_counter()
            answer = chat.ask(engine, tag, QUESTION)
            first = next(time.perf_counter() for text in answer.texts(interval=0.0) if text or answer.ended)
            answer.stop()
            answer.wait()
            assert not answer.error, answer.error
            return 1000 * (first - started)

        def bare() -> float:
            started = time.perf_counter()
            stream = client.chat(tag, [{"role": "user", "content": QUESTION}], stream=True)
            first = next(time.perf_counter() for chunk in stream if chunk.message.content)
            stream.close()
            return 1000 * (first - started)

        for warm in (bare, through_the_page):
            warm()
        pairs = [(bare(), through_the_page()) for _ in range(rounds)]
        more = median(page - client for client, page in pairs)
        print(
            f"first token with {turns:,} turns logged, milliseconds: bare {median(pair[0] for pair in pairs):.0f},",
            end=" ",
        )
        print(
            f"page {median(pair[1] for pair in pairs):.0f}; paired: "
            f"{more:+.1f}{'' if more <= BARS['first token'] else ' (too long)'}"
        )


# Typing

ECHO = """() => new Promise(done => {
    const area = document.querySelector('[data-testid="stChatInputTextArea"]');
    let pressed = 0;
    area.addEventListener('keydown', event => { pressed = event.timeStamp; });
    area.addEventListener('input', () => requestAnimationFrame(() => setTimeout(() => {
        window.echoes.push(performance.now() - pressed);
    })));
    done();
})"""
TEXT = "how many days a month may I work from home, please tell me? "


def measure_typing() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        make_base(home)
        with serving(home) as (address, _):
            page = browser.new_page()
            page.goto(address)
            page.get_by_test_id("stChatInputTextArea").wait_for()
            page.evaluate(ECHO)
            alone = echoes(page)
            training = begin_training(home)
            page.wait_for_timeout(2000)
            busy = echoes(page)
            over = training.poll() is not None
            training.terminate()
            training.wait(60)
        browser.close()
    print(f"from a key to its letter, milliseconds: {told(alone)}; while a training runs: {told(busy)}", end="")
    print(" (but the training was over)" if over else "")


def echoes(page: "Page") -> list[float]:
    """Type a text into the chat's input; return for each letter the milliseconds until a frame showed it."""
    page.evaluate("window.echoes = []")
    page.get_by_test_id("stChatInputTextArea").press_sequentially(TEXT * 2, delay=60)
    return list(page.evaluate("window.echoes"))


def told(values: Sequence[float]) -> str:
    return f"median {median(values):.0f}, 95 % within {sorted(values)[int(0.95 * len(values))]:.0f}"


def make_base(home: str) -> None:
    os.environ |= {"BYOAI_HOME": home, "BYOAI_ENGINE": "embedded"}
    from fine_tuning.engines.default_base import ensure_default_base
    from fine_tuning.engines.embedded import EmbeddedEngine

    ensure_default_base(EmbeddedEngine(Path(home) / "engine"))


def begin_training(home: str) -> "subprocess.Popen[str]":
    """Start a retrain on the sample; return its process after its first training step."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "fine_tuning",
        "retrain",
        "--sample",
        "--force",
        "--set",
        "training.replay.share=0",
    ]
    process = subprocess.Popen(command, env={**os.environ, "BYOAI_HOME": home}, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if "step" in line and "ETA" in line:
            return process
    sys.exit("the training ended before its first step")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="pages, start, token, typing (default: pages start)")
    parser.add_argument("--turns", type=int, nargs="+", default=[100_000])
    parser.add_argument("--ollama-url", metavar="URL", help="where Ollama answers, for `token`")
    options = parser.parse_args(arguments)
    wanted = options.what or ["pages", "start"]
    if unknown := set(wanted) - {"pages", "start", "token", "typing"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}: name pages, start, token or typing")
    if "token" in wanted and not options.ollama_url:
        parser.error("token needs --ollama-url")
    for turns in options.turns if "pages" in wanted else []:
        measure_pages(turns)
    if "start" in wanted:
        measure_start()
    if "token" in wanted:
        measure_token(options.ollama_url, options.turns[-1])
    if "typing" in wanted:
        measure_typing()


if __name__ == "__main__":
    main()
