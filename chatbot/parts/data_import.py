"""The data page's imports: a file is dropped, shown with what of it cannot be read, or with the
questions that are made of a document, and imported; each import can be taken back.
"""

import json
from contextlib import suppress

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import waiting
from chatbot.parts.data_overview import ask, show
from chatbot.server import config, service
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.documents.pairs import Pair
from fine_tuning.data_collection.importers.importing import Imported, imports
from fine_tuning.data_collection.peek import Peek, peek
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.errors import ByoaiError, DataError, DatasetNotFound
from fine_tuning.integration import data_view
from fine_tuning.units import size

ROWS = 5  # that are shown of a file
LARGEST = 1024  # MiB that a browser may send at once: larger files go over the API or `byoai import`

state = st.session_state


def draw(log: ConversationLogger) -> None:
    for kind, what in (("import", "Importing"), ("undo_import", "Taking an import back")):
        job = data_view.newest(service(), kind)
        if job and not job.over:
            waiting.until_over(job.id, what)
        elif job and job.id == state.get("import-asked"):
            waiting.failure(job)
    upload = _incoming()
    if upload:
        _shown(upload)
    else:
        _drop()
    _imports(imports(log))


def _drop() -> None:
    key = f"drop-{state.setdefault('drops', 0)}"
    largest = min(LARGEST, config().uploads.largest)
    st.file_uploader(
        "Drop a document to learn, such as a handbook (text, Markdown, HTML or Word), or chats: an export of ChatGPT, "
        "Claude or WhatsApp, JSON, CSV, Parquet, text, or a ZIP of them",
        key=key,
        max_upload_size=largest,
        on_change=_take,
        args=(key,),
    )
    if trouble := state.pop("drop-trouble", ""):
        st.error(presentable(trouble), title="This file was not taken", icon=":material/error:")


def _take(key: str) -> None:
    """Move the file from the browser's memory into the uploads, and let the next one be dropped."""
    dropped = state.get(key)
    if dropped is None:
        return
    try:
        state["incoming"] = data_view.take_in(dropped.name, dropped, dropped.size, config().uploads).id
    except ByoaiError as error:
        state["drop-trouble"] = str(error)
    state["drops"] += 1  # another widget: this one's file is freed


def _incoming() -> Upload | None:
    """Return the file that was dropped and is not imported yet; None if there is none, or it was forgotten."""
    with suppress(DatasetNotFound):
        return uploads.get(state["incoming"]) if state.get("incoming") else None
    state["incoming"] = None
    return None


def _shown(upload: Upload) -> None:
    """Show the beginning of a file, and let it be imported or put away."""
    try:
        seen = peek(upload.content)
    except DataError as error:
        seen = Peek(title=str(error))
    with st.container(border=True):
        st.markdown(f"**{presentable(upload.name)}**, {size(upload.bytes)}")
        needs_me = any("--me" in fault.reason for fault in seen.faults)
        questions = [] if seen.format else _questions(upload.id)
        if seen.format:
            st.caption(presentable(f"Read as: {seen.title}"))
        elif not questions:
            st.error(presentable(seen.title.partition(". --")[0]), title="In no known format", icon=":material/error:")
        _faults(seen, needs_me)
        if questions:
            _asked(questions)
        else:
            _rows(seen)
        me = (
            st.text_input(
                "Whose messages are the answers?",
                help="Your name, as the chat has it: the model learns to answer like you.",
            )
            if needs_me
            else ""
        )
        with st.container(horizontal=True):
            ready = bool(seen.format or questions) and bool(me or not needs_me)
            st.button(
                "Import",
                type="primary",
                icon=":material/upload:",
                disabled=not ready,
                on_click=_import,
                args=(upload.id, me.strip(), "document" if questions else ""),
            )
            st.button(
                "Put it away", on_click=_put_away, args=(upload.id,), help="The file is removed from here; yours stays"
            )


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
            f"{len(faults)} of the first records cannot be read, and will be left out", icon=":material/warning:"
        )
        st.dataframe([{"where": fault.place, "what was expected": fault.reason} for fault in faults], hide_index=True)


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


@st.cache_data(max_entries=4, show_spinner="Looking for what it says")
def _questions(id: str) -> list[Pair]:
    return data_view.questions_of(uploads.get(id))


def _asked(questions: list[Pair]) -> None:
    """Show what a document teaches, as far as one question of each of its answers."""
    st.caption(
        f"Read as: a document, of which {len(questions):,} questions and answers are made. The answers are quoted "
        "from it; each is asked for in several wordings, some of which are kept aside to test what was learned."
    )
    answers: dict[str, str] = {}
    for each in questions:
        answers[each.answer] = min(answers.get(each.answer, each.question), each.question, key=len)
    with st.expander(f"What it says: {len(answers):,} answers", expanded=True):
        st.dataframe(
            [{"Question": question, "Answer": answer} for answer, question in answers.items()], hide_index=True
        )


def _import(upload_id: str, me: str, format: str) -> None:
    ask("import", upload=upload_id, me=me, format=format)
    job = data_view.newest(service(), "import")
    state["import-asked"], state["incoming"] = job.id if job else None, None


def _put_away(upload_id: str) -> None:
    with suppress(DatasetNotFound):
        uploads.remove(upload_id)
    state["incoming"] = None


def _imports(found: list[Imported]) -> None:
    st.subheader("Imports", anchor=False)
    if not found:
        st.caption("Nothing was imported yet.")
    for each in reversed(found):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            name = each.source.get("name", each.id)
            st.text(f"{name}: {each.turns:,} {'turn' if each.turns == 1 else 'turns'}", width="stretch")
            st.button("Show", key=f"imported-{each.id}", on_click=show, args=({"imported": each.id},))
            if st.button("Take back", key=f"undo-{each.id}", icon=":material/undo:"):
                _take_back(each)


@st.dialog("Take this import back?")
def _take_back(imported: Imported) -> None:
    st.markdown(
        f"Its **{imported.turns:,}** turns go from the log, with their ratings and edits. Versions that learned them "
        "meanwhile stay."
    )
    with st.container(horizontal=True):
        if st.button("Take it back", type="primary", icon=":material/undo:"):
            ask("undo_import", import_id=imported.id)
            st.rerun()
        if st.button("Cancel"):
            st.rerun()
