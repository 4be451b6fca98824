"""Record which jobs the page itself shows, so that the bar of running jobs above it leaves them out."""

import streamlit as st

_KEY = "watched_jobs"


def begin() -> None:
    """Forget which jobs the page showed. Called when the page is drawn again."""
    st.session_state[_KEY] = set()


def note(job: str) -> None:
    """Record that the page shows the progress of a job."""
    st.session_state.setdefault(_KEY, set()).add(job)


def is_watched(job: str) -> bool:
    """Return whether the page shows the progress of a job."""
    return job in st.session_state.get(_KEY, ())
