"""Draw the near-duplicates on the page Data: turns that are nearly the same, one group below the other."""

import streamlit as st

from chatbot.parts import turn_dialogs
from chatbot.parts.data_conflicts import SHOWN, end_of_list, not_surveyed
from chatbot.parts.data_overview import short
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import outcomes
from fine_tuning.integration import data_view
from fine_tuning.units import counted

TURNS = 8  # turns shown of each group


def draw(log: ConversationLogger) -> None:
    look = outcomes.last(log.path)
    if look is None:
        not_surveyed("Turns that are nearly the same are found when the turns are looked through.")
        return
    total = look.facts["alike"]
    if not total:
        st.info("No turns are nearly the same.", icon=":material/check:")
        return
    offset = st.session_state.setdefault("alike-from", 0)
    groups = data_view.alike(log, SHOWN, offset)
    st.markdown(
        "These turns are nearly the same. What is said often is learned more strongly, and may be learned by heart: "
        "keep one of a group, unless the differences matter."
    )
    for group in groups:
        _group(log, group)
    end_of_list(bool(groups), "alike-from", offset, total)


def _group(log: ConversationLogger, group: tuple[Turn, ...]) -> None:
    with st.container(border=True):
        st.markdown(f"**{len(group)} turns**")
        for turn in group[-TURNS:]:
            with st.container(horizontal=True, gap="small"):
                with st.container(gap="xxsmall"):
                    st.text(short(turn.user_message))
                    st.text(short(turn.bot_response))
                    st.caption(turn.timestamp[:10])
                st.button(
                    "Keep this one",
                    key=f"only-{turn.id}",
                    help="The others are excluded",
                    on_click=_keep,
                    args=(log, group, turn.id),
                )
        if len(group) > TURNS:
            st.caption(f"and {counted(len(group) - TURNS, 'older turn')}")


def _keep(log: ConversationLogger, group: tuple[Turn, ...], turn_id: str) -> None:
    turn_dialogs.keep_one(log, group, turn_id)
