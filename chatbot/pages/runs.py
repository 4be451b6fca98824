"""Draw the page Runs: all jobs, newest first; one of them in detail, or several compared."""

from datetime import datetime

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.doing import attempt
from chatbot.server import config, service
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import job_runs
from fine_tuning.integration.job_runs import STATES, TRAININGS
from fine_tuning.integration.setting_words import said
from fine_tuning.integration.streamlit_fine_tuning import again, curves, log_tail, verdict, watch
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.store import Job, State
from fine_tuning.units import size

PAGE = 15  # jobs that are shown at once
ICONS = {
    State.QUEUED: ":material/schedule:",
    State.RUNNING: ":material/sync:",
    State.CANCELLING: ":material/stop_circle:",
    State.CANCELLED: ":material/stop_circle:",
    State.FAILED: ":material/error:",
    State.COMPLETED: ":material/check_circle:",
    State.INTERRUPTED: ":material/power_off:",
}

state = st.session_state


def when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%d %b %Y, %H:%M}"


# All


def show_all() -> None:
    pages: list[float] = state.setdefault("runs_before", [])  # value of `before` for each page after the first
    found, older = job_runs.page(service().queue, PAGE, pages[-1] if pages else None)
    if not found:
        st.info(
            "Each training, import, test and download is listed here, with its curve and its settings.",
            title="Nothing was run yet",
        )
        st.page_link("pages/train.py", label="Train a model", icon=":material/school:")
        return
    chosen = [job for job in found if line(job)]
    with st.container(horizontal=True):
        if pages:
            st.button("Newer", icon=":material/arrow_back:", on_click=newer)
        if older is not None:
            st.button("Older", icon=":material/arrow_forward:", on_click=pages.append, args=(older,))
    if len(chosen) > 1:
        compare(chosen)
    else:
        st.caption("Tick two or more to compare their curves and settings.")


def newer() -> None:
    state.runs_before.pop()


def line(job: Job) -> bool:
    """Draw a job in the list; return whether its box is ticked."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            label = f"{ICONS[job.state]} {job_runs.title(job)}: {STATES[job.state]}"
            ticked = st.checkbox(label, key=f"run-{job.id}")
            st.page_link("pages/runs.py", label="Open", query_params={"job": job.id})
        facts = (when(job.created), job_runs.duration(job), job_runs.verdict(job), job.origin)
        st.caption(presentable(" · ".join(filter(None, facts))))
    return ticked


def compare(jobs: list[Job]) -> None:
    st.subheader("Compared", anchor=False)
    points = [point for job in jobs for point in job_runs.curve(job, when(job.created))]
    if points:
        curves(points, by_run=True)
    rows = job_runs.diff(jobs)
    if not rows:
        st.caption("All were asked the same questions.")
        return
    st.caption("What differs in their settings")
    names = [f"{when(job.created)} ({job.id[-6:]})" for job in jobs]
    table = {"setting": [job_runs.label_of(key) for key, _ in rows]}
    for number, name in enumerate(names):
        table[name] = ["" if values[number] is None else said(values[number]) for _, values in rows]
    st.dataframe(table, hide_index=True)


# One


def show_one(id: str) -> None:
    st.page_link("pages/runs.py", label="All runs", icon=":material/arrow_back:")
    try:
        job = service().queue.get(id)
    except ByoaiError:
        st.info("It was deleted, or its address is wrong.", title="There is no such run")
        return
    st.subheader(f"{job_runs.title(job)}: {STATES[job.state]}", anchor=False)
    facts = (f"Begun {when(job.created)}", job_runs.duration(job), job.origin and f"by {job.origin}")
    st.caption(presentable(" · ".join(filter(None, facts))))
    if not job.over:
        watch(job.id, presentable)
        return
    end = verdict(job, presentable)
    actions(job)
    for prompt, before, after in end.answers:
        st.text(f"{prompt}\nbefore: {before}\nnow: {after}")
    trials(job)
    if points := job_runs.curve(job):
        curves(points)
    settings(job)
    log_tail(job)


def actions(job: Job) -> None:
    again(job)
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.kind in TRAININGS:
            st.page_link(
                "pages/train.py",
                label="Clone with changes",
                icon=":material/content_copy:",
                query_params={"from": job.id},
            )
        if st.button("Delete", icon=":material/delete:"):
            delete(job.id)


def trials(job: Job) -> None:
    """Show the trials of a sweep, the best first."""
    found = progress_of_job(job).trials
    if not found:
        return
    st.markdown("**Trials**")
    best = sorted(found, key=lambda trial: (trial.loss is None, trial.loss or 0.0))
    rows = [
        {
            "trial": each.number,
            "validation loss": each.loss,
            **each.settings,
            **({"why not finished": each.why} if each.why else {}),
        }
        for each in best
    ]
    st.dataframe(rows, hide_index=True)


def settings(job: Job) -> None:
    from fine_tuning.config.flat import dotted

    usual = dict(dotted(config().model_dump(mode="json")))
    changed = {key: value for key, value in job_runs.settings_of(job).items() if value != usual.get(key)}
    with st.expander("Settings that differ from the defaults", icon=":material/tune:"):
        st.text(
            "\n".join(f"{job_runs.label_of(key)}: {said(value)}" for key, value in changed.items())
            or "All settings are the defaults."
        )


def remove(id: str, has_version: bool) -> None:
    def removing() -> None:
        job_runs.remove(service().queue, service().registry, service().engine() if has_version else None, id)

    if attempt(removing, "Not deleted"):
        st.query_params.pop("job", None)


@st.dialog("Delete this run?")
def delete(id: str) -> None:
    try:
        found = job_runs.removal(service().queue, service().registry, id)
    except ByoaiError as error:
        st.error(presentable(str(error)))
        return
    if why := job_runs.why_kept(found):
        st.warning(presentable(f"{why}. Switch to another version first."), title="It stays")
        return
    with_it = "its log" + (", its run with what was trained" if found.run else "")
    with_it += f", and {found.version.tag}" if found.version else ""
    st.write(f"{with_it[0].upper()}{with_it[1:]} are deleted. {size(found.bytes)} are freed on the disk.")
    with st.container(horizontal=True):
        if st.button("Delete it", type="primary", on_click=remove, args=(id, found.version is not None)):
            st.rerun()
        if st.button("Keep it"):
            st.rerun()


def draw() -> None:
    st.title("Runs", anchor=False)
    if begun := state.pop("job_begun", None):
        st.query_params["job"] = begun
    if id := st.query_params.get("job"):
        show_one(id)
    else:
        show_all()


draw()
