"""Draw a turn of the chat: question and answer, actions on them, and the branches that begin there."""

from collections.abc import Callable, Sequence
from textwrap import shorten

import streamlit as st

from chatbot import session
from chatbot.markdown import presentable
from chatbot.parts import attached, copying, icon_button, learned_from
from chatbot.parts.doing import attempt
from chatbot.resources import engine
from fine_tuning.conversation import Turn, approved, only_context
from fine_tuning.data_collection.conversation_logger import REASON_LIMIT, Rating
from fine_tuning.integration.attachments import split

# prefixes of the keys under which Streamlit keeps the texts typed in place of a question or an answer
DRAFT = "text-"
ASK, WHY = f"{DRAFT}ask-", f"{DRAFT}why-"
THUMBS: dict[int | None, Rating] = {0: "down", 1: "up"}
REASON_SHOWN = 100  # shown characters of the reason for a rating
USER, BOT = ":material/person:", ":material/forum:"

state = st.session_state


# What people do


def record(what: Callable[[], object]) -> None:
    attempt(what, "Not recorded")


def ask(what: Callable[[], object]) -> None:
    """Call `what`, which asks a model, if there is a model and no answer is being generated."""
    if state.choice and not state.chat.answering:
        attempt(what)


def rate(turn_id: str, widget: str) -> None:
    record(lambda: state.chat.rate(turn_id, THUMBS.get(state[widget])))


def save(turn_id: str) -> None:
    """Record the typed reason for a rating, and the typed correction of an answer, if there are any."""
    answer, why = state[f"{DRAFT}{turn_id}"], state[f"{WHY}{turn_id}"].strip()
    turn = next((turn for turn in state.chat.turns if turn.id == turn_id), None)
    if turn and why and why != turn.metadata.get("rating_reason"):
        record(lambda: state.chat.rate(turn_id, turn.metadata.get("rating", "down"), why))
    if turn and (answer != turn.bot_response or not why):
        record(lambda: state.chat.edit(turn_id, answer))
    state.edited = None


def begin_edit(turn_id: str | None) -> None:
    state.edited = turn_id


def begin_asking(turn_id: str | None) -> None:
    state.asked = turn_id


def ask_instead(turn_id: str) -> None:
    if text := state[f"{ASK}{turn_id}"].strip():
        ask(lambda: state.chat.ask_instead(engine(), state.choice.tag, turn_id, text))
        state.asked = None


def regenerate(turn_id: str) -> None:
    ask(lambda: state.chat.regenerate(engine(), state.choice.tag, turn_id))


def browse(turn_id: str) -> None:
    ask(lambda: state.chat.show(turn_id))


def drop_drafts(turns: Sequence[Turn]) -> None:
    """Delete what was typed to replace questions and answers that are no longer being edited or no longer exist."""
    shown = {turn.id for turn in turns}
    state.edited = state.edited if state.edited in shown else None
    state.asked = state.asked if state.asked in shown else None
    kept = {f"{DRAFT}{state.edited}", f"{WHY}{state.edited}", f"{ASK}{state.asked}"}
    for key in [key for key in state if str(key).startswith(DRAFT) and key not in kept]:
        del state[key]


# How it is drawn


def draw(turn: Turn, others: session.Others, answering: bool) -> None:
    """Draw a turn.

    `others` are the alternative questions and answers at its place in the chat. `answering`: an
    answer is being generated below, so that no other branch can be begun or shown.
    """
    with st.chat_message("user", avatar=USER):
        if state.asked == turn.id:
            _draw_question_draft(turn)
        else:
            attached.draw(turn.user_message)
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                icon_button.draw(
                    "Ask in other words", "stylus", f"ask-{turn.id}", begin_asking, turn.id, disabled=answering
                )
                copying.draw("question", split(turn.user_message)[0])  # its files have buttons of their own
                _browser("question", others.questions, turn.id, answering)
    with st.chat_message("assistant", avatar=BOT):
        if state.edited == turn.id:
            _draw_answer_draft(turn)
        else:
            st.markdown(presentable(turn.bot_response))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            _judge(turn, answering)
            _browser("answer", others.answers, turn.id, answering)
            st.caption(presentable(footnote(turn)))


def _judge(turn: Turn, answering: bool) -> None:
    """Draw the actions on an answer: rate it, correct it, regenerate it, copy it."""
    if session.recorded(turn):
        thumb = next((thumb for thumb, rating in THUMBS.items() if rating == turn.metadata.get("rating")), None)
        st.feedback("thumbs", key=f"rate-{turn.id}", default=thumb, on_change=rate, args=(turn.id, f"rate-{turn.id}"))
        if thumb is not None and "rating_reason" not in turn.metadata and state.edited != turn.id:
            st.button("Say why", key=f"reason-{turn.id}", type="tertiary", on_click=begin_edit, args=(turn.id,))
        what_for = "Write what it should have been"
        icon_button.draw("Edit the answer", "edit", f"edit-{turn.id}", begin_edit, turn.id, help=what_for)
        learned_from.button(turn)
    if state.choice and not approved(turn):
        icon_button.draw("Answer anew", "refresh", f"again-{turn.id}", regenerate, turn.id, disabled=answering)
    copying.draw("answer", turn.bot_response)


def _browser(what: str, ids: Sequence[str], shown: str, disabled: bool) -> None:
    """Draw ‹ 2/3 ›, which switches between the branches that begin here; nothing if there is only one."""
    if len(ids) < 2:
        return
    here = ids.index(shown)
    before, after = ids[max(here - 1, 0)], ids[min(here + 1, len(ids) - 1)]
    icon_button.draw(
        f"Show the {what} before",
        "chevron_left",
        f"before-{what}-{shown}",
        browse,
        before,
        disabled=disabled or here == 0,
    )
    st.caption(f"{here + 1}/{len(ids)}", width="content")
    icon_button.draw(
        f"Show the next {what}",
        "chevron_right",
        f"after-{what}-{shown}",
        browse,
        after,
        disabled=disabled or here == len(ids) - 1,
    )


def _draw_question_draft(turn: Turn) -> None:
    # not passed to the widget, since Streamlit would keep it after the widget is gone
    state.setdefault(f"{ASK}{turn.id}", turn.user_message)
    st.text_area("What you would rather ask", key=f"{ASK}{turn.id}", height="content")
    with st.container(horizontal=True):
        st.button(
            "Ask",
            key=f"asked-{turn.id}",
            type="primary",
            on_click=ask_instead,
            args=(turn.id,),
            disabled=not state.choice,
        )
        st.button("Cancel", key=f"unasked-{turn.id}", on_click=begin_asking, args=(None,))


def _draw_answer_draft(turn: Turn) -> None:
    state.setdefault(f"{DRAFT}{turn.id}", turn.bot_response)
    state.setdefault(f"{WHY}{turn.id}", turn.metadata.get("rating_reason", ""))
    st.text_area("What the answer should have been", key=f"{DRAFT}{turn.id}", height="content")
    st.text_input("Why (optional)", key=f"{WHY}{turn.id}", max_chars=REASON_LIMIT)
    with st.container(horizontal=True):
        st.button("Save", key=f"save-{turn.id}", type="primary", on_click=save, args=(turn.id,))
        st.button("Cancel", key=f"unedited-{turn.id}", on_click=begin_edit, args=(None,))


def footnote(turn: Turn) -> str:
    """Return a line about an answer: the model, the speed, and whether it was cut, edited, rated or not recorded."""
    facts = [state.models.title(turn.metadata.get("model", "")).removesuffix(" · live").removesuffix(" · refused")]
    seconds, tokens = turn.metadata.get("seconds"), turn.metadata.get("tokens")
    if seconds:
        facts.append(f"{seconds:.1f} s")
    if seconds and tokens:
        facts.append(f"{tokens / seconds:.{int(tokens < 10 * seconds)}f} tokens/s")
    if reason := turn.metadata.get("incomplete"):
        how = {"stopped": "stopped", "length": "cut: too long"}.get(reason, reason)
        facts.append(how if approved(turn) else f"{how}, learned only if you give it a thumbs-up or edit it")
    if only_context(turn):
        facts.append("only context, learned only if you give it a thumbs-up or edit it")
    if "original_response" in turn.metadata:
        facts.append("edited")
    if reason := turn.metadata.get("rating_reason"):
        facts.append(shorten(str(reason), REASON_SHOWN, placeholder="…"))
    if not session.recorded(turn):
        facts.append("not recorded")
    return " · ".join(facts)


def draw_coming(answer: session.Answer) -> None:
    """Draw an answer while it is generated, until it ends or the chat has changed elsewhere."""
    with st.chat_message("user", avatar=USER):
        attached.draw(answer.user_message)
    slot = st.chat_message("assistant", avatar=BOT).empty()
    thinking = f":shimmer[{state.models.title(answer.model)} is thinking]"
    slot.markdown(thinking)
    for text in answer.texts():
        if state.chat.version != state.version:
            return  # this chat has changed elsewhere
        # draw even without new text: only then does Streamlit process clicks, above all on Stop
        slot.markdown(presentable(text) + " ▌" if text else thinking)


def draw_unfinished(answer: session.Answer, ask_again: Callable[[], None]) -> None:
    """Draw a question that has no answer, the reason, and a button to ask it again."""
    with st.chat_message("user", avatar=USER):
        attached.draw(answer.user_message)
    with st.chat_message("assistant", avatar=BOT):
        if answer.text:
            st.markdown(presentable(answer.text))
        if answer.incomplete and not answer.error:
            st.caption("Stopped before the first word")
        else:
            why = str(answer.error or "A fault in byoai itself: the terminal that runs it shows the details.")
            st.error(presentable(why), title="Nothing was recorded", icon=":material/error:")
        with st.container(horizontal=True):
            st.button("Ask again", icon=":material/refresh:", on_click=ask_again, disabled=not state.choice)
            if answer.beside:
                st.button(
                    "Back", icon=":material/undo:", help="Show what was answered before", on_click=state.chat.dismiss
                )
