"""Show the progress of a job that a page submitted, and redraw the page when the job is over."""

from collections.abc import Callable

import streamlit as st

from chatbot.markdown import presentable
from chatbot.server import service
from fine_tuning.integration import watched
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.store import Job, State

GLANCE = 0.5  # seconds between updates


@st.fragment(run_every=GLANCE)
def until_over(id: str, what: str, then: Callable[[], object] = lambda: None) -> None:
    """Draw the progress of a job; when it is over, call `then` and redraw the whole page."""
    watched.note(id)
    job = service().queue.get(id)
    if job.over:
        then()
        st.rerun()
    told = progress_of_job(job)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(
            told.share, text=presentable(told.stage or ("It waits for its turn" if job.state == State.QUEUED else what))
        )
        st.button("Stop", icon=":material/stop_circle:", key=f"stop-{id}", on_click=_stop, args=(id,))


def _stop(id: str) -> None:
    service().queue.cancel(id)


def failure(job: Job | None) -> None:
    """Show why a job that is over was not completed. Draw nothing for any other job."""
    if job and job.over and job.state != State.COMPLETED:
        st.warning(presentable(job.reason), title="It was not completed", icon=":material/error:")
