"""Draw, under an answer of a fine-tuned version, a button that shows from which turns the answer was learned.

Each of these turns can be edited, excluded or forgotten there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.words import meaning
from chatbot.server import config, service
from fine_tuning.conversation import Turn
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import chats
from fine_tuning.integration.learned_from import (
    LearnedFrom,
    Likelihood,
    Teacher,
    is_by_version,
    learned_from,
    told,
    with_likelihoods,
)
from fine_tuning.units import answers

TITLE = "Where did it learn this?"
# prefix of the key under which Streamlit keeps the text typed in place of an answer
DRAFT = "draft-learned-"
_SHOWN = 1000  # shown characters of an answer

state = st.session_state


@dataclass
class Opened:
    """The state of the open dialog. It contains only ids and numbers, so that no text outlives its turn."""

    turn: str
    edited: str | None = None
    doomed: str | None = None  # the turn to be forgotten after confirmation
    trouble: str = ""  # why the last change was not recorded
    likelihoods: dict[str, Likelihood | None] = field(default_factory=dict)  # by turn; empty: not computed


def button(turn: Turn) -> None:
    """Draw the button "Why?" under the answer of a version and, after it was pressed, its dialog.

    Draw nothing under answers of other models.
    """
    if not is_by_version(turn, config().deployment.model_name_prefix):
        return
    key = f"why-{turn.id}"
    st.button("Why?", key=key, icon=":material/school:", type="tertiary", help=TITLE, on_click=_open, args=(turn.id,))
    if (opened := state.get("why")) and opened.turn == turn.id:
        _dialog(opened)


def _open(turn_id: str) -> None:
    state.why = Opened(turn_id)


def _close() -> None:
    state.why = None
    _drop_drafts(None)


def _drop_drafts(edited: str | None) -> None:
    """Delete what was typed to replace answers, except in the turn `edited`, which is still being edited."""
    for key in [key for key in state if str(key).startswith(DRAFT) and key != f"{DRAFT}{edited}"]:
        del state[key]


@st.dialog(TITLE, width="medium", icon=":material/school:", on_dismiss=_close)
def _dialog(opened: Opened) -> None:
    try:
        found = learned_from(service().log(), service().registry, opened.turn)
    except ByoaiError as error:
        st.info(presentable(str(error)), icon=":material/info:")
        return
    _drop_drafts(next((each.turn.id for each in found.teachers if each.turn.id == opened.edited), None))
    st.markdown(presentable(_introduction(found)))
    if opened.trouble:
        st.error(presentable(opened.trouble), title="Not recorded", icon=":material/error:")
    _likelihood(opened, found)
    for teacher in found.teachers:
        with st.container(border=True):
            _teacher(opened, teacher)
    if missing := _missing(found):
        st.caption(missing)


def _introduction(found: LearnedFrom) -> str:
    taught = answers(found.taught)
    if not found.teachers:
        return (
            f"**{found.version.tag}** learned {taught}. None of those that are still recorded is like this answer: it "
            "may come from the base."
        )
    return f"**{found.version.tag}** learned {taught}. These are most like this answer."


def _missing(found: LearnedFrom) -> str:
    gone = f"{found.gone} of them {'is' if found.gone == 1 else 'are'} no longer recorded" if found.gone else ""
    excluded = f"{found.excluded} will not be learned again" if found.excluded else ""
    return " · ".join(filter(None, (gone, excluded)))


def _likelihood(opened: Opened, found: LearnedFrom) -> None:
    """Draw how likely the version finds its answer or, if that is not computed yet, a button to compute it."""
    place = st.empty()
    help = meaning("likelihood")
    if not opened.likelihoods:
        pressed = place.button("Compare with the base", icon=":material/balance:", help=help, key="why-compare")
        if not pressed or not _compute(opened, found):
            return
        place.empty()
    if known := opened.likelihoods.get(opened.turn):
        place.markdown(f"Word for word, it finds this answer {told(known)}.", help=help)


def _compute(opened: Opened, found: LearnedFrom) -> bool:
    try:
        with st.spinner("Both models read the answers …"):
            weighed = with_likelihoods(found, service().engine())
    except ByoaiError as error:
        st.error(presentable(str(error)), icon=":material/error:")
        return False
    opened.likelihoods = {
        weighed.turn.id: weighed.likelihood,
        **{each.turn.id: each.likelihood for each in weighed.teachers},
    }
    return True


def _teacher(opened: Opened, teacher: Teacher) -> None:
    turn = teacher.turn
    st.text(turn.user_message[:_SHOWN])
    if opened.edited == turn.id:
        _edit(opened, turn)
        return
    st.markdown(presentable(turn.bot_response[:_SHOWN] + (" …" if len(turn.bot_response) > _SHOWN else "")))
    st.caption(presentable(_facts(teacher, opened.likelihoods.get(turn.id))))
    if opened.doomed == turn.id:
        _confirm(opened, turn)
        return
    if teacher.source:  # it is in no log, so nothing can be edited, excluded or forgotten
        return
    with st.container(horizontal=True, gap="small"):
        _actions(opened, teacher)


def _facts(teacher: Teacher, likelihood: Likelihood | None) -> str:
    facts = [f"{teacher.likeness:.0%} alike"]
    if teacher.shared:
        facts.append(f"both say {', '.join(teacher.shared)}")
    if likelihood:
        facts.append(f"finds its answer {told(likelihood)}")
    if teacher.source:
        facts.append(f"of {teacher.source}")
    elif teacher.turn.timestamp:
        facts.append(teacher.turn.timestamp[:10])
    if teacher.excluded:
        facts.append("not learned again")
    return " · ".join(facts)


def _actions(opened: Opened, teacher: Teacher) -> None:
    turn = teacher.turn
    if st.button("Open its chat", key=f"why-chat-{turn.id}", icon=":material/forum:", type="tertiary"):
        st.query_params["chat"], state.other_chat = turn.session_id, True
        _close()
        st.rerun()

    def action(name: str, label: str, icon: str, help: str, act: Callable[[Opened, str], None]) -> None:
        st.button(
            label,
            key=f"why-{name}-{turn.id}",
            icon=icon,
            type="tertiary",
            help=help,
            on_click=act,
            args=(opened, turn.id),
        )

    action("edit", "Edit", ":material/edit:", "Write what the answer should have been", _begin_edit)
    if teacher.excluded:
        action("exclude", "Learn again", ":material/undo:", "The next version learns it again", _take_in)
    else:
        action(
            "exclude",
            "Leave out",
            ":material/block:",
            "The next version does not learn it; its chat keeps it",
            _leave_out,
        )
    action("forget", "Forget", ":material/delete:", "Remove it from everywhere, for good", _doom)


def _edit(opened: Opened, turn: Turn) -> None:
    key = f"{DRAFT}{turn.id}"
    # not passed to the widget, since Streamlit would keep it after the widget is gone
    state.setdefault(key, turn.bot_response)
    st.text_area("What the answer should have been", key=key, height="content")
    with st.container(horizontal=True):
        st.button("Save", type="primary", key="why-save", on_click=_save, args=(opened, turn.id))
        st.button("Cancel", key="why-cancel", on_click=_begin_edit, args=(opened, None))


def _confirm(opened: Opened, turn: Turn) -> None:
    versions = ", ".join(version.tag for version in service().registry.versions_of_turns([turn.id], with_context=True))
    st.warning(
        "It is deleted for good from the log and from all files, and so are the versions that learned it: "
        f"{versions}. A version is then trained without it.",
        title="Forget this question and its answer?",
        icon=":material/delete_forever:",
    )
    with st.container(horizontal=True):
        if st.button("Forget for good", type="primary", key="why-doom"):
            chats.forget(service(), [turn.id], origin="the chat page")
            _close()
            st.rerun()
        st.button("Keep it", key="why-keep", on_click=_doom, args=(opened, None))


# What people do


def _begin_edit(opened: Opened, turn_id: str | None) -> None:
    opened.edited = turn_id


def _doom(opened: Opened, turn_id: str | None) -> None:
    opened.doomed = turn_id


def _save(opened: Opened, turn_id: str) -> None:
    opened.edited, text = None, str(state[f"{DRAFT}{turn_id}"])
    _record(opened, lambda: service().log().edit(turn_id, text))


def _leave_out(opened: Opened, turn_id: str) -> None:
    _record(opened, lambda: service().log().exclude(turn_id))


def _take_in(opened: Opened, turn_id: str) -> None:
    _record(opened, lambda: service().log().exclude(turn_id, False))


def _record(opened: Opened, what: Callable[[], object]) -> None:
    opened.trouble = ""
    try:
        what()
    except ByoaiError as error:
        opened.trouble = str(error)
