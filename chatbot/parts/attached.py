"""Put files from the chat input into the text of a message, and show them below a question."""

import re

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from chatbot.markdown import presentable
from chatbot.resources import engine
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.attachments import compose, room, split

state = st.session_state


def message(submitted: object) -> str | None:
    """Return the text of the chat input with the content of its files.

    Return None if a file cannot be read; `state.refused` then holds the typed text and the reason.
    """
    text = submitted if isinstance(submitted, str) else getattr(submitted, "text", "") or ""
    uploads = list(getattr(submitted, "files", None) or [])
    files = [(upload.name, upload.getvalue()) for upload in uploads]
    _drop([upload.file_id for upload in uploads])
    state.refused = None
    if not files:
        return text
    try:
        found = compose(text, files, room(state.chat.settings.context, engine().show(state.choice.tag).context_length))
    except ByoaiError as error:
        state.refused = (text, str(error))
        return None
    for notice in found.notices:
        st.toast(presentable(notice), icon=":material/content_cut:")
    return found.text


def _drop(ids: list[str]) -> None:
    """Remove uploads from Streamlit's memory, which otherwise keeps them as long as the page is open."""
    context = get_script_run_ctx()
    if context and isinstance(manager := context.uploaded_file_mgr, MemoryUploadedFileManager):
        for id in ids:
            manager.remove_file(context.session_id, id)


def draw(message: str) -> None:
    """Draw a question, and below it each of its files, collapsed."""
    text, files = split(message)
    if text or not files:
        st.text(text)
    for name, content in files:
        with st.expander(re.sub(r"([^\w\s.-])", r"\\\1", name), icon=":material/attach_file:"):
            st.code(content, language=None, wrap_lines=True)
