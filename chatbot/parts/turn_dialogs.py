"""Draw the dialogs of the page Data: a turn that can be rated and corrected, and the confirmation of forgetting."""

from collections.abc import Callable, Collection, Sequence

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning
from chatbot.server import service
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger, Rating
from fine_tuning.integration import chats, data_view
from fine_tuning.units import counted

DRAFT = "draft-"  # prefix of the key under which Streamlit keeps an answer that is being written
THUMBS: dict[int | None, Rating] = {0: "down", 1: "up"}


state = st.session_state


def open_turn(turn_id: str) -> None:
    """Open the dialog of a turn at the next drawing."""
    state["opened"] = turn_id


def close() -> None:
    state["opened"] = None


def opened() -> str | None:
    """Return the id of the turn whose dialog is open; None if none is. Delete what was typed in closed dialogs."""
    id = state.get("opened")
    for key in [key for key in state if str(key).startswith(DRAFT) and key != f"{DRAFT}{id}"]:
        del state[key]
    return str(id) if id else None


def record(what: Callable[[], object]) -> bool:
    """Call `what`, which changes the log; return whether it succeeded. If not, show why."""
    return attempt(what, "Not recorded")


def keep_one(log: ConversationLogger, turns: Collection[Turn], turn_id: str) -> None:
    """Exclude all of the turns except `turn_id`, and say where they can be included again."""
    if record(lambda: data_view.keep_one(log, turns, turn_id)):
        told = f"{counted(len(turns) - 1, 'turn')} excluded: under Turns, Show: Excluded, they can be included again"
        st.toast(told, icon=":material/block:")


@st.dialog("A turn", width="large", on_dismiss=close)
def edit(log: ConversationLogger, turn_id: str) -> None:
    """Draw a whole turn in a dialog, with actions: rate it, correct its answer, exclude it."""
    if state.get("opened") != turn_id:
        st.rerun()
    turn = next(iter(log.index.turns([turn_id])), None)
    if turn is None:
        st.info("This turn is gone: it was forgotten, or its import was taken back.")
        return
    st.caption("Question")
    st.text(turn.user_message)
    _answer(log, turn)
    if original := turn.metadata.get("original_response"):
        with st.expander("The model's own answer"):
            st.text(str(original))
    excluded = bool(turn.metadata.get("excluded"))
    with st.container(horizontal=True):
        st.button("Save", type="primary", on_click=_save, args=(log, turn))
        label = "Include it" if excluded else "Exclude it"
        st.button(label, help=meaning("excluded"), on_click=_exclude, args=(log, turn_id, not excluded))
        st.button("Cancel", on_click=close)
    st.caption(
        presentable(
            " · ".join(filter(None, [turn.timestamp[:16].replace("T", " "), str(turn.metadata.get("model", ""))]))
        )
    )


def _answer(log: ConversationLogger, turn: Turn) -> None:
    """Draw the answer in a field in which it can be corrected, and the thumbs."""
    key = f"{DRAFT}{turn.id}"
    # not passed to the widget, since Streamlit would keep it after the widget is gone
    state.setdefault(key, turn.bot_response)
    st.text_area("Answer: write what it should have been", key=key, height="content", max_chars=1_000_000)
    thumb = next((thumb for thumb, rating in THUMBS.items() if rating == turn.metadata.get("rating")), None)
    widget = f"thumb-{turn.id}"
    st.feedback("thumbs", key=widget, default=thumb, on_change=_rate, args=(log, turn.id, widget))


def _save(log: ConversationLogger, turn: Turn) -> None:
    text = state[f"{DRAFT}{turn.id}"]
    if text == turn.bot_response or record(lambda: log.edit(turn.id, text)):
        close()


def _exclude(log: ConversationLogger, turn_id: str, excluded: bool) -> None:
    if record(lambda: log.exclude(turn_id, excluded)):
        close()


def _rate(log: ConversationLogger, turn_id: str, widget: str) -> None:
    record(lambda: log.rate(turn_id, THUMBS.get(state[widget])))


@st.dialog("Forget for good?")
def forget(turn_ids: Sequence[str]) -> None:
    """Draw the dialog that asks for confirmation before turns are forgotten, and says what is lost."""
    st.markdown(
        f"**{len(turn_ids)}** {'turn is removed' if len(turn_ids) == 1 else 'turns are removed'} from the log and from "
        "every file made from it."
    )
    st.markdown(
        "Versions that learned them are replaced by one that is trained without them, which takes a while. This cannot "
        "be undone."
    )
    with st.container(horizontal=True):
        if st.button(
            "Forget them", type="primary", icon=":material/delete_forever:", on_click=_forget, args=(turn_ids,)
        ):
            st.rerun()
        if st.button("Cancel"):
            st.rerun()


def _forget(turn_ids: Sequence[str]) -> None:
    attempt(lambda: chats.forget(service(), turn_ids, origin="the data page"), "Not begun")
    state["turns-all"] = None
    state["turns-text"] = ""  # the searched text may be what is to be forgotten
