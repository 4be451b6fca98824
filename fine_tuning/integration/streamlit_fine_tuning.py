"""The panel that shows learning in a page: a button, then stage, bar, loss curve and Stop, then how it ended."""

from collections.abc import Callable

import streamlit as st

from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Finished
from fine_tuning.integration import learning
from fine_tuning.integration.learning import Learning
from fine_tuning.jobs.store import State
from fine_tuning.units import clock

_GLANCE = 1.0  # seconds between looks while something is learned
_SIGNS = {
    "live": "success",
    "registered": "info",
    "refused": "warning",
    "no version": "info",
    "done": "info",
    "stopped": "info",
    "failed": "error",
}


def panel(config: FineTuningConfig, turns: int, new: int, shown: Callable[[str], str], choose: Callable[[str], None]) -> None:
    """Draw it.

    `turns` are in the log, `new` of them not learned yet. `shown` makes a text safe for Markdown; `choose` lets a tag answer.
    """
    now = learning.look()
    if now.running:
        _watch(shown)
        return
    if now.known and st.session_state.get("learning_seen") != _mark(now):
        _ended(now, shown, choose)
    _begin(config, turns, new)


def _begin(config: FineTuningConfig, turns: int, new: int) -> None:
    least = learning.least_turns(config)
    st.button(
        f"Learn from {new} new turn{'s' * (new != 1)}" if new else "Nothing new to learn",
        icon=":material/school:",
        type="primary" if new and turns >= least else "secondary",
        width="stretch",
        disabled=not new or turns < least,
        on_click=_start,
        args=(config, turns),
    )
    if turns < least:
        st.caption(f"It takes {least} recorded turns at least, and {config.training.min_pairs} or more are better.")
    elif turns < config.training.min_pairs:
        st.caption(f"Few turns are learned carefully, as few-shot examples; {config.training.min_pairs} or more are better.")


def _start(config: FineTuningConfig, turns: int) -> None:
    try:
        learning.start(config, turns)
    except ByoaiError as error:
        st.toast(f"Not begun: {error}", icon=":material/error:")


def _stop() -> None:
    st.toast("It stops at its next safe point" if learning.stop() else "It is over already", icon=":material/stop_circle:")


@st.fragment(run_every=_GLANCE)
def _watch(shown: Callable[[str], str]) -> None:
    """Show how far it is; the whole page is drawn anew when it is over."""
    now = learning.look()
    if not now.running:
        st.rerun()
    told = now.told
    waits = "It waits for its turn" if now.job and now.job.state == "queued" else "Beginning"
    st.markdown(f"**{shown(told.stage or waits)}**")
    left = now.left()
    share = min(told.done / told.total, 1.0) if told.total else 0.0
    st.progress(share, text=f"{told.done} of {told.total}" + (f", {clock(left)} left" if left else "") if told.total else " ")
    losses = {step.step: step.loss for step in told.steps if step.part == "chats"}
    if len(losses) > 1:
        st.line_chart({"loss": list(losses.values())}, height=140, x_label="step", y_label="loss")
    st.button("Stop learning", icon=":material/stop_circle:", width="stretch", on_click=_stop)
    st.caption(shown(f"Begun by {now.job.origin}" if now.job and now.job.origin else ""))


def _ended(now: Learning, shown: Callable[[str], str], choose: Callable[[str], None]) -> None:
    end = now.told.finished or Finished(
        "stopped" if now.job and now.job.state == State.CANCELLED else "failed", now.job.reason if now.job else ""
    )
    getattr(st, _SIGNS[end.state])(shown(end.text), title=learning.TITLES[end.state])
    for prompt, before, after in end.answers[:1]:
        st.caption(shown(f"{prompt}\n\nbefore: {before}\n\nnow: {after}"))
    with st.container(horizontal=True):
        if end.tag:
            st.button("Talk to it", icon=":material/swap_horiz:", on_click=choose, args=(end.tag,))
        st.button("Close", on_click=_close, args=(_mark(now),))


def _close(mark: str) -> None:
    st.session_state.learning_seen = mark


def _mark(now: Learning) -> str:
    """Return what tells this retrain from others."""
    return f"{now.job.mark} {now.job.state}" if now.job else ""
