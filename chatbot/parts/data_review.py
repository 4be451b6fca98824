"""Draw the review on the page Data: the answers that are most worth a judgement, one at a time."""

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import turn_dialogs, waiting
from chatbot.parts.data_overview import ask
from chatbot.server import service
from fine_tuning import paths
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger, Rating
from fine_tuning.integration import data_view
from fine_tuning.jobs.store import Job, State

COUNT = 20  # answers: about ten minutes

state = st.session_state


def draw(log: ConversationLogger) -> None:
    job = data_view.newest(service(), "review")
    if job and not job.over:
        waiting.until_over(job.id, "Finding them")
        return
    waiting.failure(job)
    todo = left(log, job) if job and job.state == State.COMPLETED else []
    if not todo:
        done = job is not None and job.state == State.COMPLETED
        st.markdown(
            "All of these are judged. The next ones are found among the newest answers."
            if done
            else "Ten minutes here teach more than a hundred new chats: you judge the answers of which the model is "
            "least sure."
        )
        label = "Find more" if done else "Find what is worth a look"
        st.button(
            label, type="primary", icon=":material/search:", on_click=ask, args=("review",), kwargs={"count": COUNT}
        )
        return
    _one(log, todo[0], len(todo))


def left(log: ConversationLogger, job: Job) -> list[Turn]:
    """Return the turns of a review job that nobody has judged or skipped, in the order that the job gave them."""
    ids = [item["turn"] for item in paths.read_json(job.result)["items"]] if job.result.exists() else []
    turns = {turn.id: turn for turn in log.index.turns(ids)}
    skipped = state.setdefault("review-skipped", set())
    judged = ("rating", "original_response", "excluded")
    return [
        turns[id]
        for id in ids
        if id in turns and id not in skipped and not any(name in turns[id].metadata for name in judged)
    ]


def _one(log: ConversationLogger, turn: Turn, count: int) -> None:
    st.caption(f"{count} left")
    st.chat_message("user", avatar=":material/person:").text(turn.user_message)
    with st.chat_message("assistant", avatar=":material/forum:"):
        st.markdown(presentable(turn.bot_response))
    with st.container(horizontal=True):
        st.button("Good", icon=":material/thumb_up:", on_click=_rate, args=(log, turn.id, "up"))
        st.button("Bad", icon=":material/thumb_down:", on_click=_rate, args=(log, turn.id, "down"))
        st.button("Write anew", icon=":material/edit:", on_click=turn_dialogs.open_turn, args=(turn.id,))
        st.button("Exclude", icon=":material/block:", on_click=_exclude, args=(log, turn.id))
        st.button("Skip", icon=":material/skip_next:", type="tertiary", on_click=_skip, args=(turn.id,))


def _rate(log: ConversationLogger, turn_id: str, rating: Rating) -> None:
    turn_dialogs.record(lambda: log.rate(turn_id, rating))


def _exclude(log: ConversationLogger, turn_id: str) -> None:
    turn_dialogs.record(lambda: log.exclude(turn_id))


def _skip(turn_id: str) -> None:
    state["review-skipped"].add(turn_id)
