"""Draw the field for uploading files, on the pages Data and Train.

A file is shown with its unreadable parts or, if it is a document, with the questions made from it.
The page decides which buttons are offered for it.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.data_overview import ask
from chatbot.server import config, service
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.cleaning.planted_phrases import WARNING, PlantedPhrase, title_of
from fine_tuning.data_collection.documents.pairs import Pair
from fine_tuning.data_collection.importers.refusals import NAME_IT
from fine_tuning.data_collection.peek import Peek, peek
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.errors import ByoaiError, DataError, DatasetNotFound
from fine_tuning.integration import data_view
from fine_tuning.units import counted, size

ROWS = 5  # shown rows of a file
LARGEST = 1024  # largest file from a browser in MiB: larger ones need the API or `byoai import`

state = st.session_state


@dataclass(frozen=True)
class Incoming:
    """A file that was uploaded, and what was found in it."""

    id: str  # of the upload
    is_known: bool  # whether an importer reads it
    questions: int  # made of it, where it is a document
    me: str = ""  # whose messages are the answers
    needs_me: bool = False

    @property
    def importable(self) -> bool:
        return bool(self.is_known or self.questions) and bool(self.me or not self.needs_me)


def draw(offer: Callable[[Incoming], None]) -> None:
    """Draw the upload field or, after an upload, the file's content; `offer` then draws the buttons for the file."""
    if found := _incoming():
        _shown(found, offer)
    else:
        _drop()


def import_it(file: Incoming, source: str = "", licence: str = "", task: str = "") -> None:
    """Submit a job that imports a file into the log; a document is imported as questions and answers made from it.

    `source` is the name of the source in the log (by default the file's name), `licence` its licence,
    `task` the label of its turns (by default the one that the file states for each).
    """
    format = "document" if file.questions else ""
    ask("import", upload=file.id, me=file.me, format=format, source=source, licence=licence, task=task)
    job = data_view.newest(service(), "import")
    state["import-asked"] = job.id if job else None
    done()


def is_open() -> bool:
    """Return whether a file is shown."""
    return _incoming() is not None


def open_again(id: str) -> None:
    """Show an upload as if it had just been uploaded."""
    state["incoming"] = id


def done() -> None:
    """Close the shown file, so that the next one can be uploaded, and delete the file's content from memory."""
    state["incoming"] = None
    _peek.clear()
    _questions.clear()


def _drop() -> None:
    key = f"drop-{state.setdefault('drops', 0)}"
    largest = min(LARGEST, config().uploads.largest)
    st.file_uploader(
        "A document, chats, or questions with their answers",
        key=key,
        max_upload_size=largest,
        on_change=_take,
        args=(key,),
    )
    st.caption(
        "Documents, such as a handbook: PDF, Word, Markdown, HTML, text. Chats: an export of ChatGPT, Claude, WhatsApp "
        "and others. Questions with answers: JSON, CSV, Parquet. Or a ZIP of them."
    )
    if trouble := state.pop("drop-trouble", ""):
        st.error(presentable(trouble), title="This file was not taken", icon=":material/error:")


def _take(key: str) -> None:
    """Move the file from the browser's memory to the uploads, and show it."""
    dropped = state.get(key)
    if dropped is None:
        return
    try:
        open_again(data_view.take_in(dropped.name, dropped, dropped.size, config().uploads).id)
    except ByoaiError as error:
        state["drop-trouble"] = str(error)
    state["drops"] += 1  # a new widget, so that the memory of this file is freed


def _incoming() -> Upload | None:
    """Return the file that was uploaded here and is not imported yet; None if there is none, or it was deleted."""
    with suppress(DatasetNotFound):
        return uploads.get(state["incoming"]) if state.get("incoming") else None
    done()
    return None


def _shown(upload: Upload, offer: Callable[[Incoming], None]) -> None:
    """Draw the beginning of a file, the buttons that `offer` draws for it, and a button that removes it."""
    try:
        seen = _peek(upload.id)
    except DataError as error:
        seen = Peek(title=str(error))
    with st.container(border=True):
        st.markdown(f"**{presentable(upload.name)}**, {size(upload.bytes)}")
        needs_me = any("--me" in fault.reason for fault in seen.faults)
        questions = [] if seen.format else _questions(upload.id)
        if seen.format:
            st.caption(presentable(f"Read as: {seen.title}"))
        elif not questions:
            why = seen.title.removesuffix(f". {NAME_IT}")  # that is for the terminal
            st.error(presentable(why), title="In no known format", icon=":material/error:")
        _faults(seen, needs_me)
        if seen.context:
            them = "it" if seen.context == 1 else "them"
            st.info(
                f"Of the first answers, {seen.context} will be kept but not learned: the file marks {them} as context "
                "for later answers. To have one learned, give it a thumbs-up or edit it."
            )
        if seen.planted:
            planted(seen.planted)
        me = (
            st.text_input(
                "Whose messages are the answers?",
                help="Your name as it is written in the chat: the model learns to answer like you.",
            )
            if needs_me
            else ""
        )
        with st.container(horizontal=True):
            offer(Incoming(upload.id, bool(seen.format), len(questions), me.strip(), needs_me))
            st.button(
                "Put it away", on_click=_put_away, args=(upload.id,), help="The file is removed from here; yours stays"
            )
        if questions:  # below the buttons, which a long table would push off the screen
            _asked(questions)
        else:
            _rows(seen)


def _faults(seen: Peek, needs_me: bool) -> None:
    faults = [fault for fault in seen.faults if "--me" not in fault.reason]
    if needs_me:
        st.info(
            presentable(
                next(fault.reason for fault in seen.faults if "--me" in fault.reason).replace(" with --me NAME", "")
            )
        )
    if faults:
        st.warning(
            f"Records that cannot be read, and will be left out: {len(faults)} of the first ones",
            icon=":material/warning:",
        )
        st.dataframe([{"where": fault.place, "what was expected": fault.reason} for fault in faults], hide_index=True)


def planted(found: Sequence[PlantedPhrase]) -> None:
    """Warn of phrases that may be data poisoning (most questions with them get one fixed answer), with examples."""
    st.warning(WARNING, title=title_of(found), icon=":material/warning:")
    rows = [
        {"Phrase": f"{each.text} ({each.where})", "Question": question, "Answer": answer}
        for each in found
        for question, answer in each.examples
    ]
    st.dataframe(rows, hide_index=True)


def _rows(seen: Peek) -> None:
    if seen.rows:
        with st.expander("The first rows", expanded=True):
            rows = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in seen.rows[:ROWS]]
            st.code(
                "\n".join(line if len(line) < 300 else f"{line[:300]}…" for line in rows),
                language=None,
                wrap_lines=True,
            )
    if seen.members:
        st.caption(presentable(f"Files in it: {', '.join(seen.members)}"))


@st.cache_data(max_entries=4, show_spinner="Looking into it")
def _peek(id: str) -> Peek:
    return peek(uploads.get(id).content)


@st.cache_data(max_entries=4, show_spinner="Looking for what it says")
def _questions(id: str) -> list[Pair]:
    return data_view.questions_of(uploads.get(id))


def _asked(questions: list[Pair]) -> None:
    """List the answers that would be learned from a document, each with one of its questions."""
    st.caption(
        f"Read as: a document. Questions and answers made from it: {len(questions):,}. The answers are quotations; "
        "each question is worded in several ways, some of which are kept aside to test what was learned."
    )
    answers: dict[str, str] = {}
    for each in questions:
        answers[each.answer] = min(answers.get(each.answer, each.question), each.question, key=len)
    with st.expander(f"What it says: {counted(len(answers), 'answer')}", expanded=True):
        st.dataframe(
            [{"Question": question, "Answer": answer} for answer, question in answers.items()], hide_index=True
        )


def _put_away(upload_id: str) -> None:
    with suppress(DatasetNotFound):
        uploads.remove(upload_id)
    done()
