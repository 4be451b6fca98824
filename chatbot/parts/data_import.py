"""Draw the imports on the page Data: choose a file, preview it, import it, and undo an import."""

import streamlit as st

from chatbot.parts import upload, waiting
from chatbot.parts.data_overview import ask, show
from chatbot.parts.upload import Incoming
from chatbot.server import service
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import Imported, imports
from fine_tuning.integration import data_view, learning
from fine_tuning.jobs.store import Job
from fine_tuning.units import answers

state = st.session_state


def draw(log: ConversationLogger) -> None:
    upload.draw(_offer)
    _imports(imports(log))


def outcome() -> bool:
    """Draw the progress of a running import or undo, or the result of the last one that this page started.

    Return whether one is running.
    """
    running = False
    for kind, what in (("import", "Importing"), ("undo_import", "Undoing an import")):
        job = data_view.newest(service(), kind)
        if job and not job.over:
            waiting.until_over(job.id, what)
            running = True
        elif job and job.id == state.get("import-asked") and not _is_past(job):
            waiting.failure(job)
            if added := data_view.added_by(job):
                st.success(f"Imported: {added}. The next version learns from them.", icon=":material/check:")
            if found := data_view.planted_of(job):
                upload.planted(found)
    return running


def _is_past(job: Job) -> bool:
    """Return whether a training has begun since an import.

    What the import said about the next version no longer applies then.
    """
    training = learning.look().job
    return training is not None and training.created > job.created


def _offer(file: Incoming) -> None:
    importing = st.container()  # left of the fields, whose values it needs
    with st.popover("Source, licence, task", help="They are noted on each turn, and listed in the dataset's card"):
        source = st.text_input(
            "Source",
            key=f"source-{file.id}",
            max_chars=300,
            help="A name under which this can be forgotten, or learned more or less often (settings mix.shares and "
            "mix.repeats). Empty: the file's name",
        )
        licence = st.text_input("Licence", key=f"licence-{file.id}", max_chars=1000, placeholder="CC BY 4.0")
        task = st.text_input(
            "Task",
            key=f"task-{file.id}",
            max_chars=60,
            placeholder="summarization",
            help="A label for all of it, such as summarization, for which mix.shares and mix.repeats can set how "
            "often it is learned. Empty: the label that the file states for each conversation, if it does",
        )
    importing.button(
        "Import",
        type="primary",
        icon=":material/upload:",
        disabled=not file.importable,
        on_click=upload.import_it,
        args=(file, source.strip(), licence.strip(), task.strip()),
    )


def _imports(found: list[Imported]) -> None:
    if found:
        st.subheader("Imports", anchor=False)
    for each in reversed(found):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            name = each.source.get("name", each.id)
            st.text(f"{name}: {answers(each.turns)}", width="stretch")
            st.button("Show", key=f"imported-{each.id}", on_click=show, args=({"imported": each.id},))
            if st.button("Take back", key=f"undo-{each.id}", icon=":material/undo:"):
                _take_back(each)


@st.dialog("Take this import back?")
def _take_back(imported: Imported) -> None:
    st.markdown(
        f"This takes **{answers(imported.turns)}** out of the log, with ratings and edits. Versions that have "
        "learned from it already stay."
    )
    with st.container(horizontal=True):
        if st.button("Take it back", type="primary", icon=":material/undo:"):
            ask("undo_import", import_id=imported.id)
            st.rerun()
        if st.button("Cancel"):
            st.rerun()
