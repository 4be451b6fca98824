"""Draw the page Data: what will be learned next, and what can be changed before."""

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import data_conflicts, data_import, data_overview, data_review, data_turns, turn_dialogs, upload
from chatbot.parts.data_overview import ask
from chatbot.server import config, service
from fine_tuning import paths
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import data_view

SECTIONS = ("Overview", "Turns", "Different answers", "Review", "Import")
SAMPLE = str(paths.SAMPLES / "conversations.jsonl")


def draw() -> None:
    """Draw the chosen section of the page.

    This is a function, so that its variables are freed at its end: callbacks of widgets keep the
    variables of the module in memory.
    """
    st.title("Data", anchor=False)
    log = service().log()
    try:
        now = data_view.counts(config(), log, service().registry)
    except ByoaiError as error:
        st.error(presentable(str(error)), title="The log cannot be read", icon=":material/error:")
        return
    data_import.outcome()
    if not now.turns:
        if not upload.is_open():
            _nothing_yet()
        data_import.draw(log)
        return
    data_overview.learn(now)
    section = st.segmented_control(
        "Section",
        SECTIONS,
        default=SECTIONS[0],
        required=True,
        key="show",
        label_visibility="collapsed",
        bind="query-params",  # so that reloads and links return to it
    )
    match section:
        case "Turns":
            data_turns.draw(log)
        case "Different answers":
            data_conflicts.draw(log)
        case "Review":
            data_review.draw(log)
        case "Import":
            data_import.draw(log)
        case _:
            data_overview.draw(log, now)
    if linked := st.query_params.pop("turn", None):  # from another page
        turn_dialogs.open_turn(linked)
    if opened := turn_dialogs.opened():
        turn_dialogs.edit(log, opened)


def _nothing_yet() -> None:
    with st.container(border=True):
        st.subheader("Nothing recorded yet", anchor=False)
        st.markdown(
            "Chat, drop a handbook or chats below, or try it with the sample: the made-up handbook of a small "
            "company. It can be taken back."
        )
        with st.container(horizontal=True):
            st.page_link("pages/chat.py", label="Chat", icon=":material/forum:")
            st.button(
                "Try it with the sample",
                icon=":material/science:",
                on_click=ask,
                args=("import",),
                kwargs={"places": (SAMPLE,)},
            )


draw()
