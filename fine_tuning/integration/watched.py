"""Which jobs the page itself shows, so that the bar above it does not show them a second time."""

import streamlit as st

_KEY = "watched_jobs"


def begin() -> None:
    """Forget what the page showed: it is drawn anew."""
    st.session_state[_KEY] = set()


def note(job: str) -> None:
    """Note that the page shows how far a job is."""
    st.session_state.setdefault(_KEY, set()).add(job)


def is_watched(job: str) -> bool:
    """Return whether the page shows how far a job is."""
    return job in st.session_state.get(_KEY, ())
