"""Draw the overview on the page Data: how many turns there are, why some are not learned, what was scrubbed."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import streamlit as st

from chatbot.parts import train_place, waiting
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning
from chatbot.server import config, service
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import outcomes
from fine_tuning.data_collection.log.outcomes import StoredSurvey
from fine_tuning.integration import charts, data_view, learning
from fine_tuning.units import clock, counted

SHOWN = 300  # shown characters of an example
_KINDS = {  # words for the kinds of private details (privacy.PII); another kind is its own word
    "url": "web address",
    "email": "e-mail address",
    "secret": "key or password",
    "iban": "IBAN",
    "card": "card number",
    "ssn": "social security number",
    "ip": "IP address",
    "phone": "phone number",
    "address": "postal address",
    "private": "own private word",
}


def draw(log: ConversationLogger, now: data_view.Counts) -> None:
    look = outcomes.last(log.path)
    with st.container(key="figures"):
        st.metric("Recorded", f"{now.turns:,}", help=meaning("turn"))
        st.metric("New", f"{now.new:,}", help="Turns that no version has seen as they are now.")
        if look:
            st.metric(
                "Will be learned", f"{look.facts['kept_turns']:,}", help="What is left of all turns after cleaning."
            )
            st.metric("Dropped", f"{sum(look.facts['dropped'].values()):,}", help=meaning("dropped"))
        st.metric("Excluded", f"{now.excluded:,}", help=meaning("excluded"))
    _look(log, look)
    if look:
        _dropped(data_view.dropped(log, look))
        _scrubbed(data_view.scrubbings(config(), log, look), look.facts["scrubbed"])
        _lengths(look.facts)


def learn(now: data_view.Counts) -> None:
    """Draw a button that leads to the training of new turns or, while one is running, a line that says that."""
    if learning.look().running:
        st.caption("A version is being trained. What is new since it began is learned by the next one.")
    elif now.new and now.turns >= learning.least_turns(config()):
        label = f"Learn from {counted(now.new, 'new answer')}"
        if st.button(label, type="primary", icon=":material/school:"):
            train_place.begin_with_chats()
            st.switch_page("pages/train.py")


def _look(log: ConversationLogger, look: StoredSurvey | None) -> None:
    """Draw how long ago the log was last surveyed, with a button that begins another survey."""
    job = data_view.newest(service(), "survey")
    if job and not job.over:
        waiting.until_over(job.id, "Looking through the log")
        return
    waiting.failure(job)
    if look is None:
        st.info(
            "Cleaning decides which turns are learned. Look through them to see what it keeps and drops, and why.",
            icon=":material/search:",
        )
    stale = look is not None and data_view.is_stale(log, look)
    with st.container(horizontal=True, vertical_alignment="center"):
        label = "Look again" if look else "Look through them"
        st.button(label, icon=":material/refresh:", on_click=ask, args=("survey",))
        if look:
            st.caption(
                f"Looked through {clock(time.time() - look.made)} ago"
                + (". Turns were added or changed since." if stale else "")
            )


def ask(kind: str, **request: object) -> None:
    """Submit a job of this kind with the server's settings; if that fails, show why."""
    attempt(lambda: data_view.ask_for(service(), kind, **request), "Not begun")


def _dropped(reasons: Sequence[data_view.Dropped]) -> None:
    st.subheader("Not learned, and why", anchor=False)
    if not reasons:
        st.caption("Nothing was dropped.")
    for each in reasons:
        with st.expander(f"**{each.words.title}** · {each.count:,}", icon=":material/filter_alt:"):
            st.markdown(each.words.meaning)
            if each.example:
                st.caption("For example, the newest one:")
                st.code(
                    f"You: {short(each.example.user_message)}\nAnswer: {short(each.example.bot_response)}",
                    language=None,
                    wrap_lines=True,
                )
            st.button(
                "Show them all",
                key=f"show-{each.reason}",
                on_click=show,
                args=({"state": "dropped", "reason": each.reason},),
            )


def show(wanted: Mapping[str, str]) -> None:
    """Show the list of turns with these filters."""
    for name in ("state", "reason", "model", "imported", "text"):
        st.session_state[f"turns-{name}"] = wanted.get(name, "")
    st.session_state["turns-page"], st.session_state.show = 0, "Turns"


def _scrubbed(examples: Sequence[data_view.Scrubbing], counts: Mapping[str, int]) -> None:
    st.subheader("Scrubbed private details", anchor=False, help=meaning("scrubbed"))
    if not any(counts.values()):
        st.caption("No private details were found in what is learned.")
        return
    st.markdown(", ".join(f"{count:,} × {_KINDS.get(kind, kind)}" for kind, count in counts.items() if count))
    if not examples:
        return
    seen = st.toggle("Show the details as they were said", key="unmasked")
    for each in examples:
        before, after = st.columns(2)
        before.caption("As it was said")
        before.code("\n".join(map(short, each.said if seen else each.masked)), language=None, wrap_lines=True)
        after.caption("As it is learned")
        after.code("\n".join(map(short, each.learned)), language=None, wrap_lines=True)


def _lengths(facts: Mapping[str, Any]) -> None:
    st.subheader("How long they are", anchor=False)
    lengths, tokens = facts["lengths"], facts.get("tokens")
    left, right = st.columns(2)
    with left:
        st.caption("Characters of question and answer")
        _bars({"learned": lengths["kept"], "not learned": lengths["dropped"]}, facts["bins"], "characters")
    with right:
        if tokens:
            st.caption(
                f"Tokens of {tokens['of']:,} learned turns, {tokens['mean']:g} on average", help=meaning("token")
            )
            _bars({"learned": tokens["counts"]}, facts["bins"], "tokens")
        else:
            st.caption("Tokens were not counted, because there was no base model to count them with.")


def _bars(counts: Mapping[str, Sequence[int]], bins: Sequence[int], unit: str) -> None:
    altair = charts.load()

    names = [f"{low:,}–{high:,}" for low, high in pairwise(bins)] + [f"{bins[-1]:,}+"]
    rows = [
        {unit: name, "turns": count, "": what}
        for what, each in counts.items()
        for name, count in zip(names, each, strict=True)
    ]
    shape = altair.Chart(altair.Data(values=rows)).mark_bar()
    colour = altair.Color(
        "", type="nominal", sort=list(counts), legend=altair.Legend(orient="bottom") if len(counts) > 1 else None
    )
    chart = shape.encode(
        x=altair.X(unit, type="ordinal", sort=names), y=altair.Y("turns", type="quantitative"), color=colour
    )
    st.altair_chart(chart.properties(height=220), width="stretch")


def short(text: str) -> str:
    """Return the beginning of a text, in one line of at most SHOWN characters."""
    line = " ".join(text[: 4 * SHOWN].split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
