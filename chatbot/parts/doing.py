"""What the press of a button does."""

from collections.abc import Callable

import streamlit as st

from chatbot.markdown import presentable
from fine_tuning.errors import ByoaiError


def attempt(what: Callable[[], object], refused: str = "Not done") -> bool:
    """Do it, and return whether it was done; if not, a toast says so in the words of `refused`, and why."""
    try:
        what()
    except (ByoaiError, OSError) as error:
        st.toast(presentable(f"{refused}: {error}"), icon=":material/error:")
        return False
    return True
