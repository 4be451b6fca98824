"""Draw the page Data: what will be learned next, and the ways to change that."""

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import (
    data_alike,
    data_conflicts,
    data_import,
    data_overview,
    data_review,
    data_turns,
    turn_dialogs,
    upload,
)
from chatbot.parts.data_overview import ask
from chatbot.server import config, service
from fine_tuning import paths
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import data_view

SECTIONS = ("Overview", "Turns", "Nearly the same", "Different answers", "Review", "Import")
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
    importing = data_import.outcome()
    if not now.turns:
        if not importing and not upload.is_open():
            _nothing_yet()
        data_import.draw(log)
        return
    data_overview.learn(now)
    match _section():
        case "Turns":
            data_turns.draw(log)
        case "Nearly the same":
            data_alike.draw(log)
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


def _section() -> str:
    """Draw the row of sections, and return the chosen one. It is in the page's address, for reloads and links.

    It is not bound to the address by Streamlit, which would then refuse to switch to another page.
    """
    asked = st.query_params.get("show", "")
    st.session_state.setdefault("show", asked if asked in SECTIONS else SECTIONS[0])
    chosen = st.segmented_control("Section", SECTIONS, required=True, key="show", label_visibility="collapsed")
    section = chosen or SECTIONS[0]
    if section == SECTIONS[0]:
        st.query_params.pop("show", None)
    else:
        st.query_params["show"] = section
    return section


def _nothing_yet() -> None:
    with st.container(border=True):
        st.subheader("Nothing recorded yet", anchor=False)
        st.markdown(
            "Chat, drop a handbook or chats below, or try it with the sample: the made-up handbook of a small "
            "company. It can be taken back."
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.page_link("pages/chat.py", label="Chat", icon=":material/forum:")
            st.button(
                "Try it with the sample",
                icon=":material/science:",
                on_click=ask,
                args=("import",),
                kwargs={"places": (SAMPLE,)},
            )


draw()
