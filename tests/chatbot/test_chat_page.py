"""The real page in headless Chromium, before real engines."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import memory
import pytest
from browsing import BASE, GENERATED, GREEDY, Serve, answered, ask, messages
from native_children import Children
from playwright.sync_api import Page, expect

from fine_tuning.api.security import LOOPBACK
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TUNED = "fine_tuned_smollm2-135m"


def test_a_person_chats_rates_branches_attaches_comes_back_and_starts_anew(
    page: Page, site: str, requests: list[str], tmp_path: Path
) -> None:
    page.goto(site)
    expect(page).to_have_title("byoai")
    expect(page.get_by_text("Embedded engine in use")).to_be_visible()
    expect(page.get_by_test_id("stChatInputTextArea")).to_have_attribute("placeholder", re.compile(f"{BASE}.*base"))
    page.get_by_text("Explain photosynthesis in two sentences").click()
    answered(page, 1)
    assert "energy" in messages(page)[-1]
    expect(page.get_by_text("What is on your mind?")).to_have_count(0)

    (turn,) = ConversationLogger().turns()
    assert turn.user_message == "Explain photosynthesis in two sentences"
    assert turn.bot_response in messages(page)[-1]
    assert turn.metadata["model"] == BASE
    expect(page.get_by_text("1 answer recorded")).to_be_visible()

    page.get_by_test_id("stFeedback").get_by_role("radio").or_(
        page.get_by_test_id("stFeedback").get_by_role("button")
    ).first.click()
    rated_up(turn.id)

    page.reload()
    answered(page, 1)
    assert "energy" in messages(page)[-1]
    ask(page, "Say hello.")
    answered(page, 2)
    assert len({each.session_id for each in ConversationLogger().turns()}) == 1
    copy_what_was_said(page)
    branch_and_come_back(page)
    attach_a_file(page, tmp_path)

    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    expect(page.get_by_test_id("stChatMessage")).to_have_count(0)  # the old ones fade until the new page is whole
    assert {urlsplit(address).netloc for address in requests} == {urlsplit(site).netloc}


def copy_what_was_said(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    turn = ConversationLogger().turns()[0]
    for what, text in (("question", turn.user_message), ("answer", turn.bot_response)):
        button = page.get_by_role("button", name=f"Copy the {what}").first
        button.click()
        expect(button.locator("+ [role=status]")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == text


def branch_and_come_back(page: Page) -> None:
    """Ask the second question in other words, twice; go back to the first of the three, and go on from there."""
    for number, other in enumerate(("Say hello to Anna.", "Say hello to Berta."), 2):
        page.get_by_role("button", name="Ask in other words").last.click()
        page.get_by_label("What you would rather ask").fill(other)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_text(f"{number}/{number}")).to_be_visible(timeout=GENERATED)
        answered(page, 2)
        expect(page.get_by_test_id("stChatMessage").get_by_text(other)).to_be_visible()
    for place in ("2/3", "1/3"):
        page.get_by_role("button", name="Show the question before").click()
        expect(page.get_by_text(place)).to_be_visible()
    expect(page.get_by_test_id("stChatMessage").get_by_text("Say hello.", exact=True)).to_be_visible()
    ask(page, "And goodbye?")
    answered(page, 3)
    first, hello, anna, berta, goodbye = ConversationLogger().turns()
    assert [turn.metadata["parent"] for turn in (hello, anna, berta)] == [first.id] * 3
    assert goodbye.metadata["parent"] == hello.id
    page.get_by_role("button", name="Show the next question").click()
    expect(page.get_by_text("2/3")).to_be_visible()
    answered(page, 2)  # that branch has no third
    page.get_by_role("button", name="Show the question before").click()
    answered(page, 3)


def attach_a_file(page: Page, folder: Path) -> None:
    """Ask with a text file, which becomes a part of the question."""
    (folder / "note.txt").write_text("The colour of the door is green.")
    page.get_by_test_id("stChatInput").locator("input[type=file]").set_input_files(folder / "note.txt")
    expect(page.get_by_test_id("stBottom").get_by_text("note.txt")).to_be_visible()
    ask(page, "Which colour does the door have?")
    answered(page, 4)
    turn = ConversationLogger().turns()[-1]
    assert "Which colour does the door have?" in turn.user_message
    assert "The colour of the door is green." in turn.user_message
    expect(page.get_by_test_id("stChatMessage").get_by_text("note.txt")).to_be_visible()


def test_llama_cpp_dying_in_mid_answer_leaves_the_page_and_the_next_question_alone(
    page: Page, site: str, embedded: Engine, children: Children
) -> None:
    """The page does not mind which signal it is: test_session.py tries others."""
    embedded.create(BASE, ModelSpec(from_=BASE, parameters={"num_predict": 3000}))
    page.goto(site)
    ask(page, "Write a very long story about a lighthouse and its keeper.")
    expect(page.get_by_text(re.compile(r"\w+ \w+ \w+ ▌"))).to_be_visible(timeout=GENERATED)
    (child,) = children()
    child.send_signal(signal.SIGSEGV)
    expect(page.get_by_text("Nothing was recorded")).to_be_visible()
    expect(page.get_by_text(re.compile(r"llama\.cpp crashed: .*SIGSEGV"))).to_be_visible()
    assert ConversationLogger().turns() == []

    embedded.create(BASE, ModelSpec(from_=BASE, parameters={"num_predict": 20}))
    page.get_by_role("button", name="Ask again").click()
    answered(page, 1)
    ask(page, "What is the capital of France?")
    answered(page, 2)
    assert [turn.user_message for turn in ConversationLogger().turns()][-1] == "What is the capital of France?"
    assert children() and children() != [child]


def rated_up(turn_id: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (turn,) = [turn for turn in ConversationLogger().turns() if turn.id == turn_id]
        if turn.metadata.get("rating") == "up":
            return
        time.sleep(0.1)
    pytest.fail("the rating was not recorded")


def test_a_version_made_in_a_terminal_appears_by_itself_and_answers_once_live(
    page: Page, site: str, embedded: Engine
) -> None:
    page.goto(site)
    switch = page.get_by_role("combobox", name="Who answers")
    placeholder = page.get_by_test_id("stChatInputTextArea")
    expect(placeholder).to_have_attribute("placeholder", f"Message {BASE} · base")
    register(embedded, 1)
    expect(page.get_by_test_id("stToast").get_by_text("fine-tuned v1: it can be chosen now")).to_be_visible()
    expect(placeholder).to_have_attribute("placeholder", f"Message {BASE} · base")
    go_live(embedded, Registry(), TUNED, 1)
    expect(placeholder).to_have_attribute("placeholder", "Message fine-tuned v1 · live")
    ask(page, "Say hello.")
    answered(page, 1)
    assert "fine-tuned v1" in messages(page)[-1]
    (turn,) = ConversationLogger().turns()
    assert turn.metadata["model"] == f"{TUNED}:v1"

    switch.click()
    page.get_by_role("option", name="base").click()
    expect(placeholder).to_have_attribute("placeholder", f"Message {BASE} · base")
    register(embedded, 2)
    go_live(embedded, Registry(), TUNED, 2)
    expect(page.get_by_test_id("stToast").get_by_text("fine-tuned v2 · live: it can be chosen now")).to_be_visible()
    expect(placeholder).to_have_attribute("placeholder", f"Message {BASE} · base")  # a pick stays
    switch.click()
    assert page.get_by_role("option").all_inner_texts() == [f"{BASE} · base", "fine-tuned v2 · live", "fine-tuned v1"]


def register(engine: Engine, number: int) -> None:
    """What a training does at its end. The base under another setting stands for what was learned."""
    Registry().add(TUNED, number, base_tag=BASE)
    engine.create(f"{TUNED}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number}))


HOSTILE = """\
Look: ![](http://evil.test/?leak=1) and ![x][ref] and [![y](http://evil.test/y.png)](http://evil.test)

<img src="http://evil.test/img.png" onerror="document.title='owned'"><script>document.title = "owned"</script>
<iframe src="http://evil.test"></iframe><style>body { display: none }</style>

[a link](javascript:document.title='owned') and it costs $5 or $10, `vec![1]`

| a ` b | ![t](http://evil.test/table.png) ` |
|---|---|
| $` | ![u](http://evil.test/cell.png) `$ |

[ref]: http://evil.test/ref.png
"""


def test_what_a_model_or_a_person_writes_runs_nothing_and_fetches_nothing(
    page: Page, site: str, requests: list[str]
) -> None:
    logger = ConversationLogger()
    logger.log_conversation(
        HOSTILE, HOSTILE, {"model": "<b>![m](http://evil.test/m.png)</b>", "incomplete": "![](http://evil.test/i.png)"}
    )
    logger.log_conversation("long " * 20_000, "word " * 20_000 + "w" * 20_000)
    page.goto(f"{site}/?chat={logger.session_id}")
    answered(page, 2)
    page.wait_for_timeout(2_000)  # time to misbehave
    expect(page).to_have_title("byoai")
    assert page.get_by_test_id("stChatMessage").locator("img, script, iframe").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0
    assert "it costs $5 or $10" in messages(page)[1]
    assert {urlsplit(address).netloc for address in requests} == {urlsplit(site).netloc}
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]


@pytest.fixture
def secret() -> str:
    """A word, written from behind: only what was said holds it from before."""
    return uuid.uuid4().hex


def watched(serve: Serve, folder: Path) -> str:
    """A site whose server says what it holds in its memory."""
    code = f"import sys; sys.path.insert(0, {str(Path(memory.__file__).parent)!r})"
    code += f"; import memory, pathlib; memory.answer_questions(pathlib.Path({str(folder)!r}))"
    return serve(BYOAI_ENGINE="embedded", BEFORE=code)


def test_what_is_forgotten_in_a_terminal_leaves_open_pages_and_the_servers_memory(
    page: Page, serve: Serve, home: Path, tmp_path: Path, embedded: Engine, secret: str
) -> None:
    """BYOAI_SCREENSHOTS=folder keeps the page's pictures from before and after."""
    pictures = Path(os.environ.get("BYOAI_SCREENSHOTS") or tmp_path)
    logger = ConversationLogger()
    logger.log_conversation("Where is the printer?", "Upstairs, beside the window.")
    gone = logger.log_conversation(f"My word is {secret[::-1]}.", f"I keep {secret[::-1]} for you.").id
    site = watched(serve, tmp_path)
    closed, edited = page.context.new_page(), page.context.new_page()
    for each in (page, closed, edited):
        each.goto(f"{site}/?chat={logger.session_id}")
        answered(each, 2)
    closed.close()
    edited.get_by_role("button", name="edit").nth(1).click()
    expect(edited.locator("textarea").first).to_have_value(re.compile(secret[::-1]))
    assert memory.copies_in_server(tmp_path, secret)
    page.screenshot(path=pictures / "before.png")

    command = [sys.executable, "-m", "fine_tuning", "forget", gone, "--yes", "--no-retrain"]
    subprocess.run(command, env={**os.environ, "BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}, check=True)
    ended = time.monotonic()
    for each in (page, edited):
        expect(each.get_by_text(secret[::-1])).to_have_count(0)
        expect(each.locator("textarea", has_text=secret[::-1])).to_have_count(0)
    print(f"gone from the pages {time.monotonic() - ended:.2f} s after the command had ended")
    page.screenshot(path=pictures / "after.png")
    expect(page.get_by_test_id("stToast").get_by_text("forgotten")).to_be_visible()
    answered(page, 1)
    expect(page.get_by_test_id("stChatMessage").get_by_text("Where is the printer?")).to_be_visible()
    assert memory.copies_left_in_server(tmp_path, secret) == []
    ask(page, "Say hello.")
    answered(page, 2)
    assert len(ConversationLogger().turns()) == 2


def test_an_answer_that_may_tell_of_what_is_being_forgotten_ends_unrecorded(
    page: Page, serve: Serve, tmp_path: Path, embedded: Engine, secret: str
) -> None:
    embedded.create("endless:latest", ModelSpec(from_=BASE, parameters={**GREEDY, "stop": [], "num_predict": 100_000}))
    logger = ConversationLogger()
    gone = logger.log_conversation(f"My word is {secret[::-1]}.", f"I keep {secret[::-1]} for you.").id
    site = watched(serve, tmp_path)
    page.goto(f"{site}/?chat={logger.session_id}")
    answered(page, 1)
    page.get_by_role("combobox", name="Who answers").click()
    page.get_by_role("option", name="endless").click()
    ask(page, f"Write a very long story about {secret[::-1]}.")
    expect(page.get_by_text(re.compile(r"\w+ \w+ \w+ ▌"))).to_be_visible(timeout=GENERATED)
    assert logger.delete(gone) == 1
    expect(page.get_by_text(secret[::-1])).to_have_count(0)
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled()
    page.wait_for_timeout(1_000)
    assert logger.turns() == []
    assert memory.copies_left_in_server(tmp_path, secret) == []


class Line:
    """A TCP line to the real server that can be cut, as when Ollama ends in the middle of an answer, and mended.

    While it is `slow`, an answer's first words come at once and the rest in drips: it is still
    coming in when the test gets to it, however fast the model and however slow the browser.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._ends: list[socket.socket] = []
        self.slow = False
        self.port = 0
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server((LOOPBACK[0], self.port), reuse_port=True)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(self._target)
                self._ends += [near, far]
                asked = threading.Event()  # whether an answer is what comes back
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, asked), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, asked: threading.Event) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(200 if asked.is_set() else 65_536):
                if b"POST /api/chat" in data:
                    asked.set()
                passed += len(data) * asked.is_set()
                time.sleep(2.0 if self.slow and passed > 2_000 else 0)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def ollama(ollama_url: str, base_gguf: Path) -> Iterator[OllamaEngine]:
    """With the model `chat-page`."""
    engine = OllamaEngine(ollama_url)
    engine.create("chat-page:latest", ModelSpec(from_=base_gguf, parameters={**GREEDY, "num_predict": 300}))
    yield engine
    engine.delete("chat-page:latest")


@pytest.fixture
def line(ollama: OllamaEngine) -> Iterator[Line]:
    where = urlsplit(ollama.where)
    line = Line((where.hostname or LOOPBACK[0], where.port or 11434))
    yield line
    line.cut()


def open_chat(page: Page, serve: Serve, line: Line) -> None:
    """The page over the line, with the model that every engine test may ask."""
    page.goto(serve(OLLAMA_HOST=f"{LOOPBACK[0]}:{line.port}"))
    page.get_by_role("combobox", name="Who answers").click()
    page.get_by_role("option", name="chat-page").click()


@pytest.mark.engine
def test_an_answer_goes_on_through_a_reload_and_can_be_stopped(page: Page, serve: Serve, line: Line) -> None:
    open_chat(page, serve, line)
    line.slow = True
    ask(page, "Write a very long story about a lighthouse and its keeper.")
    expect(page.get_by_text(re.compile(r"\w+ \w+ \w+ ▌"))).to_be_visible(timeout=GENERATED)
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_disabled()
    page.reload()
    expect(page.get_by_text("very long story about a lighthouse")).to_be_visible()
    so_far = page.get_by_test_id("stChatMessage").last.get_by_text("▌").inner_text().removesuffix("▌").strip()
    page.get_by_role("button", name="Stop").click()
    answered(page, 1)
    assert so_far in messages(page)[-1]
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    expect(page.get_by_text("stopped, learned only if you give it a thumbs-up or edit it")).to_be_visible()
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled()
    (turn,) = ConversationLogger().turns()
    assert turn.metadata["incomplete"] == "stopped"
    assert turn.bot_response.startswith(so_far)


@pytest.mark.engine
def test_ollama_ending_in_mid_answer_loses_nothing_and_is_found_again(
    page: Page, serve: Serve, line: Line, ollama: OllamaEngine
) -> None:
    open_chat(page, serve, line)
    expect(page.get_by_text(f"Ollama {ollama.version()}")).to_be_visible()
    line.slow = True
    ask(page, "Write a very long story about a lighthouse and its keeper.")
    expect(page.get_by_text(re.compile(r"\w+ \w+ \w+ ▌"))).to_be_visible(timeout=GENERATED)

    line.cut()
    expect(page.get_by_text("Nothing was recorded")).to_be_visible()
    expect(page.get_by_text("very long story about a lighthouse")).to_be_visible()
    expect(page.get_by_text("No model can answer now")).to_be_visible()
    expect(page.get_by_test_id("stBottom").get_by_text(f"{LOOPBACK[0]}:{line.port}")).to_be_visible()
    assert ConversationLogger().turns() == []

    line.slow = False
    line.mend()
    expect(page.get_by_text("No model can answer now")).to_have_count(0)
    page.get_by_role("button", name="Ask again").click()
    answered(page, 1)
    (turn,) = ConversationLogger().turns()
    assert turn.user_message.startswith("Write a very long story")
    assert turn.metadata["model"] == "chat-page:latest"

    typing = page.get_by_test_id("stChatInputTextArea")
    typing.fill("half a quest")
    line.cut()
    expect(typing).to_be_disabled()
    line.mend()
    expect(typing).to_be_enabled()
    expect(typing).to_have_value("half a quest")


def test_the_picture_for_the_readme_is_small(
    page: Page, serve: Serve, home: Path, tmp_path: Path, embedded: Engine
) -> None:
    """BYOAI_SCREENSHOT=docs/chat.png writes it there, and
    BYOAI_SCREENSHOT_CHAT=http://127.0.0.1:8501/?chat=... takes that chat's.
    """
    target = Path(os.environ.get("BYOAI_SCREENSHOT") or tmp_path / "chat.png")
    chat = os.environ.get("BYOAI_SCREENSHOT_CHAT")
    if not chat:
        register(embedded, 1)
        go_live(embedded, Registry(), TUNED, 1)
        logger = ConversationLogger()
        seen = {"model": f"{TUNED}:v1", "seconds": 1.4, "tokens": 31}
        logger.log_conversation(
            "How many days a week can I work from home?", "Up to three days, once your team agrees.", seen
        )
        chat = f"{serve(BYOAI_ENGINE='embedded')}/?chat={logger.session_id}"
    page.goto(chat)
    expect(page.get_by_test_id("stFeedback").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=target)
    assert 10_000 < target.stat().st_size < 200_000


def test_what_is_typed_in_the_settings_counts_however_they_are_closed(page: Page, site: str) -> None:
    page.goto(site)
    settings, changed = (page.get_by_role("button", name=name) for name in ("Settings", "Settings (changed)"))
    system = page.get_by_role("textbox", name="System prompt")
    settings.click()
    expect(page.get_by_role("button", name="Done")).to_be_in_viewport(ratio=1)
    system.fill("Answer with one word.")
    page.keyboard.press("Escape")
    expect(changed).to_be_visible()

    changed.click()
    expect(system).to_have_value("Answer with one word.")
    page.get_by_role("spinbutton", name="Longest answer").fill("3")
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(changed).to_be_visible()

    changed.click()
    expect(page.get_by_role("spinbutton", name="Longest answer")).to_have_value("3")
    system.fill("Answer with one short word.")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    ask(page, "Where is the key?")
    answered(page, 1)
    (turn,) = ConversationLogger().turns()
    assert (turn.metadata["system"], turn.metadata["options"]) == ("Answer with one short word.", {"max_tokens": 3})


def test_what_is_asked_in_one_tab_appears_in_another_and_what_is_typed_there_stays(page: Page, site: str) -> None:
    page.goto(site)
    ask(page, "Say hello.")
    answered(page, 1)
    other = page.context.new_page()
    other.goto(page.url)
    answered(other, 1)
    typing = other.get_by_test_id("stChatInputTextArea")
    typing.fill("half a quest")
    ask(page, "What is the capital of France?")
    answered(page, 2)
    answered(other, 2)
    assert messages(other) == messages(page)
    expect(typing).to_have_value("half a quest")
    ask(other, "And of Italy?")
    answered(other, 3)
    answered(page, 3)
    assert messages(other) == messages(page)
    turns = ConversationLogger().turns()
    assert [turn.metadata["parent"] for turn in turns] == ["", turns[0].id, turns[1].id]
