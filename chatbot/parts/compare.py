"""Compare two models on one question: side by side, or blind with a vote.

Nothing is recorded, and everything is dropped when the page is left.
"""

import random
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.words import meaning
from chatbot.resources import engine, models
from chatbot.server import config
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ChatOptions
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import charts
from fine_tuning.integration.ollama_integration import base_of
from fine_tuning.integration.versions import how_sure
from fine_tuning.model_management import elo
from fine_tuning.model_management.compare import side_by_side
from fine_tuning.units import counted

KEY = "comparison"  # key of the question and its answers, which are dropped when the page is left
QUESTION = "compare-question"  # key of the typed question
VOTES = {"Left": 1.0, "Right": 0.0, "Same": 0.5, "Both bad": 0.5}
state = st.session_state


@dataclass
class Comparison:
    """A question that two models answer. `blind`: their names are shown only after a vote."""

    question: str
    tags: tuple[str, str]  # left and right
    blind: bool
    answers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    voted: str = ""
    trouble: str = ""


def drop() -> None:
    """Delete the question and its answers from memory."""
    for key in (KEY, QUESTION):
        state.pop(key, None)


def draw(question: str = "", pair: tuple[str, str] = ("", "")) -> None:
    """Draw the form, the two answers, and the ratings so far.

    `question` and `pair` (two tags) are the initial values of the form.
    """
    tags = [choice.tag for choice in models().found]
    if len(tags) < 2:
        st.info(
            "Train a version, or fetch another base: then two models can be asked.", title="There is only one model"
        )
        st.page_link("pages/train.py", label="Train a version", icon=":material/school:")
        return
    _form(tags, question, pair)
    if now := state.get(KEY):
        _answers(now)
    _ratings()


def _form(tags: list[str], question: str, pair: tuple[str, str]) -> None:
    left, right = _places(tags, pair)
    blind = st.toggle(
        "Blind: names are shown after your vote",
        value=True,
        key="blind",
        help="So that the names cannot influence you.",
    )
    columns = st.columns(2)
    one = columns[0].selectbox("One model", tags, index=left, format_func=models().title, key="one")
    other = columns[1].selectbox("The other", tags, index=right, format_func=models().title, key="other")
    state.setdefault(QUESTION, question)
    st.text_area("Question", key=QUESTION, max_chars=20_000, placeholder="What both are asked")
    st.button(
        "Ask both",
        type="primary",
        icon=":material/compare_arrows:",
        on_click=_ask,
        args=(one, other, blind),
        disabled=one == other,
    )
    st.caption(
        "Choose two different models"
        if one == other
        else "Nothing of this is recorded or learned; only the vote is kept"
    )


def _places(tags: list[str], pair: tuple[str, str]) -> tuple[int, int]:
    """Return the initial indices of the form's two models: those of `pair`, else the base and the answering model."""
    default, base = models().default, base_of(models().found, config())
    if pair[0] != pair[1] and set(pair) <= set(tags):
        return tags.index(pair[0]), tags.index(pair[1])
    right = tags.index(default.tag) if default else 0
    if base and base.tag != tags[right]:
        return tags.index(base.tag), right
    return next(place for place in range(len(tags)) if place != right), right


def _ask(one: str, other: str, blind: bool) -> None:
    if not (question := state[QUESTION].strip()):
        return
    pair = (one, other)
    state[KEY] = Comparison(question, pair if not blind or random.random() < 0.5 else pair[::-1], blind)


def _answers(now: Comparison) -> None:
    slots = []
    for side, tag, column in zip(("Left", "Right"), now.tags, st.columns(2), strict=True):
        name = side if now.blind and not now.voted else models().title(tag)
        column.subheader(name, anchor=False)
        slots.append(column.empty())
        slots[-1].markdown(presentable(now.answers.get(tag, "")) or ":shimmer[waiting]")
    if not now.ended:
        st.button("Stop", icon=":material/stop_circle:", on_click=_stop, args=(now,))
        _stream(now, dict(zip(now.tags, slots, strict=True)))
        st.rerun()
    if now.trouble:
        st.error(presentable(now.trouble), title="One of the two models could not answer", icon=":material/error:")
    elif now.blind and not now.voted:
        with st.container(horizontal=True):
            for label in VOTES:
                st.button(label, key=f"vote-{label}", on_click=_vote, args=(now, label))
    elif now.voted:
        st.success(
            f"Your vote: {now.voted.lower()}. {models().title(now.tags[0])} was left, {models().title(now.tags[1])} "
            "right."
        )


def _stop(now: Comparison) -> None:
    now.ended = True


def _stream(now: Comparison, slots: "dict[str, object]") -> None:
    """Write the answers into the slots, one after the other, since two models at the same time would be slower."""
    now.answers.clear()
    try:
        limit = ChatOptions(default_max_tokens=config().chat.max_tokens)
        said = side_by_side(engine(), now.tags, [Message(role="user", content=now.question)], limit)
        with closing(cast("Generator[tuple[str, ChatChunk]]", said)) as pieces:
            for tag, chunk in pieces:
                now.answers[tag] = now.answers.get(tag, "") + chunk.text
                slots[tag].markdown(presentable(now.answers[tag]) + " ▌")  # type: ignore[attr-defined]
    except ByoaiError as error:
        now.trouble = str(error)
    now.ended = True


def _vote(now: Comparison, label: str) -> None:
    if not now.voted:
        elo.vote(*now.tags, VOTES[label])
        now.voted = label


def _ratings() -> None:
    altair = charts.load()

    told = elo.history()
    st.subheader("Who is preferred", anchor=False, help=meaning("elo"))
    if not told:
        st.caption("No votes yet: ask two models blind, and say which answer is better.")
        return
    for tag, (rating, votes) in sorted(elo.ratings().items(), key=lambda each: -each[1][0]):
        st.markdown(
            presentable(f"**{models().title(tag)}**: {rating:.0f} after {counted(votes, 'vote')}, {how_sure(votes)}")
        )
    place: Counter[str] = Counter()
    rows = []
    for rated in told:
        place[rated.tag] += 1
        rows.append({"vote": place[rated.tag], "rating": rated.rating, "model": models().title(rated.tag)})
    chart = altair.Chart(altair.Data(values=rows)).mark_line(point=True)
    chart = chart.encode(
        x=altair.X("vote:Q", axis=altair.Axis(tickMinStep=1)),
        y=altair.Y("rating:Q", scale=altair.Scale(zero=False)),
        color="model:N",
    )
    st.altair_chart(chart, height=220, alt="Elo rating of each model after each of its votes")
