"""Show a training on a page: a button that begins it, its progress, its curves, and how it ended.

The side bar of Chat and the pages Train and Runs use these functions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal

import streamlit as st

from fine_tuning.durations import EVALUATING
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Finished
from fine_tuning.integration import charts, learning, versions, watched
from fine_tuning.integration.job_runs import KEPT_ASIDE, LEARNED, TRAININGS, Point, curve, thinned
from fine_tuning.integration.learning import Learning
from fine_tuning.integration.service import Service
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.profiles import made_of_documents
from fine_tuning.units import about, amount, clock, counted, size

Shown = Callable[[str], str]  # makes a text safe for Markdown

_GLANCE = 1.0  # seconds between updates of the progress
_POINTS = 300  # points of a curve
_TAIL = 4000  # shown bytes of the log
_FACTS = (
    "How fast it reads: a token is a piece of a word, and a hundred of them are about 75 English words. The memory it "
    "holds. How often it has read everything so far."
)
_PHASES = {"done": ":material/check: {}", "now": "**{}**", "later": "{}"}
_SIGNS = {
    "live": "success",
    "registered": "info",
    "refused": "warning",
    "no version": "info",
    "done": "info",
    "stopped": "info",
    "failed": "error",
}


# Chat's side bar


def panel(service: Service, turns: int, new: int, shown: Shown, choose: Callable[[str], None]) -> None:
    """Draw the panel for training in the side bar.

    Args:
        service: The server's service.
        turns: The number of turns in the log.
        new: The number of turns that no version has learned yet.
        shown: A function that makes a text safe for Markdown.
        choose: Called with the tag of the model that the user chooses to answer.
    """
    now = learning.look()
    if now.running and now.job:
        watch(now.job.id, shown, small=True)
        return
    if now.known and st.session_state.get("learning_seen") != _mark(now):
        _ended(now, shown, choose)
    _begin(service, turns, new)


def _begin(service: Service, turns: int, new: int) -> None:
    config = service.config
    least = learning.least_turns(config)
    st.button(
        f"Learn from {counted(new, 'new answer')}" if new else "Nothing new to learn",
        icon=":material/school:",
        type="primary" if new and turns >= least else "secondary",
        width="stretch",
        disabled=not new or turns < least,
        help="It begins at once, in the background. The page Train says first what it takes.",
        on_click=_start,
        args=(service, turns),
    )
    if turns < least:
        st.caption(f"At least {least} recorded answers are needed; {config.training.min_pairs} or more are better.")
    elif turns < config.training.min_pairs:
        st.caption(
            f"With few answers it learns more carefully, so that it forgets little; {config.training.min_pairs} or "
            "more are better."
        )


def _start(service: Service, turns: int) -> None:
    try:
        learning.start(service.config, turns, service.ollama_url, made_of_documents(service.log()))
    except ByoaiError as error:
        st.toast(f"Not begun: {error}", icon=":material/error:")


def _ended(now: Learning, shown: Shown, choose: Callable[[str], None]) -> None:
    if now.job is None:
        return
    end = verdict(now.job, shown)
    for prompt, before, after in end.answers[:1]:
        st.caption(shown(f"{prompt}\n\nbefore: {before}\n\nnow: {after}"))
    with st.container(horizontal=True):
        if end.tag:
            st.button("Talk to it", icon=":material/swap_horiz:", on_click=choose, args=(end.tag,))
        st.button("Close", on_click=_close, args=(_mark(now),))


def _close(mark: str) -> None:
    st.session_state.learning_seen = mark


def _mark(now: Learning) -> str:
    """Return a text that identifies the state of this training."""
    return f"{now.job.mark} {now.job.state}" if now.job else ""


# Jobs, on all pages


@st.fragment(run_every=_GLANCE)
def watch(id: str, shown: Shown, small: bool = False) -> None:
    """Show the progress of a job, and redraw the whole page when it is over. `small`: draw it for the side bar."""
    if not small:  # a narrow window hides the side bar: there the bar of running jobs shows it, too
        watched.note(id)
    if told := st.session_state.pop("stop_told", None):
        st.toast(told, icon=":material/stop_circle:")
    job = Queue().get(id)
    if job.over:
        st.rerun()
    told = progress_of_job(job)
    waits = "It waits for its turn" if job.state == State.QUEUED else "Beginning"
    stage = "Stopping at the next safe point" if job.state == State.CANCELLING else told.stage or waits
    st.markdown(f"**{shown(stage)}**")
    if told.phases and job.kind in TRAININGS and not small:
        st.caption(" → ".join(_PHASES[how].format(name) for name, how in told.phases))
    last = told.steps[-1] if told.steps and told.stage == "Training" else None
    share = min(told.done / told.total, 1.0) if told.total else 0.0
    done = amount(told.done, told.total, told.unit, " of ") if told.total else " "
    st.progress(share, text=f"step {done}" if last else done)
    st.caption(_times(job, told.left))
    if told.stage == EVALUATING:
        st.caption(
            "The new version and the model that answers now are asked the same questions. The new one takes over only "
            "if it is better."
        )
    if last and not small:
        facts = f"{last.tokens_per_second:.0f} tokens/s", f"{size(last.memory)} of memory", f"pass {last.epoch:.1f}"
        st.caption(" · ".join(facts), help=_FACTS)
    points = curve(job)
    if len({point.step for point in points}) > 1:
        curves(points, small=small)
    _stop_buttons(job, small)
    if not small:
        log_tail(job)
    if not job.origin.startswith("the page"):
        st.caption(shown(f"Begun by {job.origin}" if job.origin else ""))


def _times(job: Job, left: float | None) -> str:
    """Return how long a job has been running, and how long it will still take if that is known."""
    if not job.begun:
        return ""
    return f"{clock(time.time() - job.begun)} so far" + (f", about {about(left)} left" if left else "")


def _stop_buttons(job: Job, small: bool) -> None:
    label = "Stop training" if small or job.kind in ("retrain", "train") else "Stop"
    with st.container(horizontal=True):
        width: Literal["stretch", "content"] = "stretch" if small else "content"
        st.button(
            label,
            icon=":material/stop_circle:",
            width=width,
            on_click=_stop,
            args=(job.id, False),
            key=f"stop-{job.id}-{small}",
            help="What it has done so far is kept: you can go on from there",
        )
        if not small:
            st.button("Stop and throw away …", on_click=_ask_to_discard, args=(job.id,), key=f"discard-{job.id}")
    if not small and st.session_state.get("to_discard") == job.id:
        st.warning("What it made so far is deleted: the next one starts from the beginning.", title="Throw it away?")
        with st.container(horizontal=True):
            st.button("Throw it away", type="primary", on_click=_stop, args=(job.id, True), key=f"sure-{job.id}")
            st.button("Go on", on_click=_ask_to_discard, args=("",), key=f"go-on-{job.id}")


def _ask_to_discard(id: str) -> None:
    """Ask for confirmation, at the next drawing, before a job is stopped and what it made is deleted."""
    st.session_state.to_discard = id


def _stop(id: str, discard: bool) -> None:
    """Ask a job to stop. The reply is stored for the next drawing, since a callback of a fragment cannot draw."""
    st.session_state.to_discard = ""
    job = Queue().cancel(id, discard=discard)
    st.session_state.stop_told = "It is over already" if job.over else "It stops at its next safe point"


def verdict(job: Job, shown: Shown) -> Finished:
    """Show how a job ended, in plain words; return the event that describes the end."""
    told = progress_of_job(job)
    if job.state == State.INTERRUPTED:
        st.warning(shown(job.reason), title="Interrupted", icon=":material/power_off:")
        return told.finished or Finished("failed", job.reason)
    if _is_thrown_away(job):
        st.info(
            "What the training made is deleted: the next one starts from the beginning.",
            title="Stopped, and thrown away",
        )
        return Finished("stopped", job.reason)
    end = told.finished or Finished("stopped" if job.state == State.CANCELLED else "failed", job.reason)
    getattr(st, _SIGNS[end.state])(shown(end.text), title=learning.TITLES[end.state])
    return end


def facts(registry: Registry, tag: str, shown: Shown) -> None:
    """Show some held-out questions about documents with the answers of the base model and of the version `tag`.

    Show nothing if there are none.
    """
    version = registry.tagged(tag)
    found = versions.facts_of(version) if version else None
    if found is None:
        return
    st.subheader(found.sentence, anchor=False)
    st.caption("Some of the questions that were kept aside: the version never learned them in these words.")
    for each in found.some():
        with st.container(border=True):
            st.markdown(":green[:material/check: **Right**]" if each.right else ":red[:material/close: **Wrong**]")
            st.text(each.prompt)
            left, right = st.columns(2)
            left.caption("Before")
            left.text(each.base)
            right.caption(shown(f"Now (a right answer contains: {each.key})"))
            right.text(each.answer)


def _is_thrown_away(job: Job) -> bool:
    return job.state == State.CANCELLED and job.discard


def again(job: Job) -> None:
    """Draw buttons that resume an incomplete job, or submit it again."""
    with st.container(horizontal=True):
        if job.state != State.COMPLETED and not _is_thrown_away(job):
            st.button(
                "Resume",
                icon=":material/play_arrow:",
                type="primary",
                on_click=_do,
                args=("resume", job.id),
                key=f"resume-{job.id}",
            )
        st.button(
            "Try again from the start",
            icon=":material/replay:",
            on_click=_do,
            args=("retry", job.id),
            key=f"retry-{job.id}",
        )


def _do(what: Literal["resume", "retry"], id: str) -> None:
    try:
        job = Queue().resume(id) if what == "resume" else Queue().retry(id)
    except ByoaiError as error:
        st.toast(f"Not begun: {error}", icon=":material/error:")
    else:
        st.session_state.job_begun = job.id


def log_tail(job: Job) -> None:
    """Show the end of the job's log."""
    with st.expander("Log", icon=":material/notes:"):
        notes = "\n".join(progress_of_job(job).notes[-20:])
        written = ""
        if job.log.exists():
            with job.log.open("rb") as file:
                file.seek(max(0, job.log.stat().st_size - _TAIL))
                written = file.read().decode(errors="replace")
        st.code("\n".join(filter(None, (notes, written))) or "Nothing yet", language=None, wrap_lines=True, height=200)
        st.link_button("Whole log", f"/api/jobs/{job.id}/log", icon=":material/open_in_new:")


def curves(points: Sequence[Point], *, small: bool = False, by_run: bool = False) -> None:
    """Draw the curves of loss and, unless `small`, accuracy. `by_run`: each training has its own colour."""
    if not small:
        st.caption(
            "Loss: how surprised the model is by the right answer, word by word. Right first guesses: the share of "
            "words that it would have written itself. It never learns what is kept aside for validation."
        )
    _curve(points, "loss", "loss (lower is better)", small, by_run)
    if not small:
        _curve(
            [point for point in points if point.accuracy is not None], "accuracy", "right first guesses", small, by_run
        )


def _curve(points: Sequence[Point], figure: str, title: str, small: bool, by_run: bool) -> None:
    altair = charts.load()
    values = [asdict(point) for point in thinned(points, _POINTS)]
    colour, dash = ("run", "kind") if by_run else ("kind", "kind")
    kinds = altair.Scale(domain=[LEARNED, KEPT_ASIDE])  # so that a line keeps its look when the other one begins
    scale = altair.Scale() if by_run else kinds
    legend = altair.Legend(orient="top", values=list(dict.fromkeys(getattr(point, colour) for point in points)))
    axis = altair.Axis(format="%") if figure == "accuracy" else altair.Axis()
    chart = (
        altair.Chart(altair.Data(values=values))
        .mark_line(point=len(values) < 30)
        .encode(
            x=altair.X("step:Q", title="step", axis=altair.Axis(format="d", tickMinStep=1)),
            y=altair.Y(f"{figure}:Q", title=title, scale=altair.Scale(zero=False), axis=axis),
            color=altair.Color(f"{colour}:N", title=None, legend=legend, scale=scale),
            strokeDash=altair.StrokeDash(
                f"{dash}:N", title=None, legend=altair.Legend(orient="top") if by_run else None, scale=kinds
            ),
        )
        .properties(height=200 if small else 320)  # legend, axis and title included
    )
    last = points[-1] if points else None
    alt = f"Chart of the {title} by step" + (f"; at step {last.step}: {getattr(last, figure):.3f}" if last else "")
    st.altair_chart(chart, width="stretch", alt=alt)
