"""Draw a small bar with running jobs on every page: their progress, and a link to each."""

import streamlit as st

from chatbot.markdown import presentable
from chatbot.server import service
from fine_tuning.integration import job_runs, watched
from fine_tuning.jobs.progress import Progress, progress_of_job
from fine_tuning.jobs.store import ACTIVE, Job
from fine_tuning.units import about

GLANCE = 2.0  # seconds between updates
SHOWN = 3  # jobs at most


@st.fragment(run_every=GLANCE)
def draw() -> None:
    """Draw a line for each running job that the page does not show itself."""
    for job in at_work():
        told = progress_of_job(job)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.progress(told.share, text=presentable(line(job, told)))
            st.page_link("pages/runs.py", label="Watch", query_params={"job": job.id})


def at_work() -> list[Job]:
    """Return the running jobs that the page does not show itself, newest first."""
    running = service().queue.jobs(list(ACTIVE), limit=10)
    return [job for job in running if not watched.is_watched(job.id)][:SHOWN]


def line(job: Job, told: Progress) -> str:
    """Return a line to display about a running job, such as `Training on your chats: Evaluating, about 2 min left`."""
    stage = "stopping" if job.state == "cancelling" else told.stage or "beginning"
    return f"{job_runs.title(job)}: {stage}" + (f", about {about(told.left)} left" if told.left else "")
