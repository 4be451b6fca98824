"""Draw the conflicts on the page Data: different answers to one question, and which of them is learned."""

import streamlit as st

from chatbot.parts import turn_dialogs
from chatbot.parts.data_overview import ask
from chatbot.server import config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import outcomes
from fine_tuning.integration import data_view
from fine_tuning.units import counted

SHOWN = 10  # questions at once
ANSWERS = 4  # answers shown of each question


def draw(log: ConversationLogger) -> None:
    look = outcomes.last(log.path)
    if look is None:
        not_surveyed("Questions with different answers are found when the turns are looked through.")
        return
    offset = st.session_state.setdefault("conflicts-from", 0)
    choices = data_view.choices(log, SHOWN, offset)
    total = look.facts["conflicts"]
    if not total:
        st.info("No question has different answers.", icon=":material/check:")
        return
    newest = config().data_collection.conflicts == "newest"
    rule = "the last answer that you approved is learned, or else the newest" if newest else "all answers are learned"
    st.markdown(
        f"The same question has different answers. Unless you choose, **{rule}** (`data_collection.conflicts`)."
    )
    for choice in choices:
        _choice(log, choice, newest)
    end_of_list(bool(choices), "conflicts-from", offset, total)


def not_surveyed(text: str) -> None:
    """Draw `text`, which says what a survey of the log would find, and a button that begins a survey."""
    st.info(text, icon=":material/search:")
    st.button("Look through them", type="primary", icon=":material/refresh:", on_click=ask, args=("survey",))


def end_of_list(shown: bool, key: str, offset: int, total: int) -> None:
    """Draw the end of a list of groups: a line if none is left to be shown, and the buttons that show other groups.

    The number of the first shown group is kept under `key`.
    """
    if not shown:
        st.caption("All of these are settled. Look again in the overview to find new ones.")
    if total <= SHOWN:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Earlier ones", disabled=offset == 0, on_click=_go, args=(key, max(offset - SHOWN, 0)))
        st.caption(f"{offset + 1:,} to {min(offset + SHOWN, total):,} of {total:,}")
        st.button("Later ones", disabled=offset + SHOWN >= total, on_click=_go, args=(key, offset + SHOWN))


def _go(key: str, offset: int) -> None:
    st.session_state[key] = offset


def _choice(log: ConversationLogger, choice: data_view.Choice, newest: bool) -> None:
    with st.container(border=True):
        st.text(choice.turns[-1].user_message)
        shown = choice.turns[-ANSWERS:]
        for column, turn in zip(st.columns(len(shown)), shown, strict=True):
            with column:
                st.code(turn.bot_response, language=None, wrap_lines=True)
                stands = not newest or turn.id == choice.stands or bool(turn.metadata.get("included"))
                st.caption(" · ".join(filter(None, [turn.timestamp[:10], "is learned" if stands else "is left out"])))
                label = "Keep this one"
                st.button(
                    label,
                    key=f"keep-{turn.id}",
                    help="The others are excluded",
                    on_click=_keep,
                    args=(log, choice, turn.id),
                )
        if len(choice.turns) > ANSWERS:
            st.caption(f"and {counted(len(choice.turns) - ANSWERS, 'older answer')}")
        st.button(
            "Keep all",
            key=f"all-{choice.turns[0].id}",
            help="All of these answers are learned",
            on_click=_keep,
            args=(log, choice),
        )


def _keep(log: ConversationLogger, choice: data_view.Choice, turn_id: str = "") -> None:
    if turn_id:
        turn_dialogs.keep_one(log, choice.turns, turn_id)
    else:
        turn_dialogs.record(lambda: data_view.keep_all(log, choice))
