"""Call the function of a button, and show its error if it fails."""

from collections.abc import Callable

import streamlit as st

from chatbot.markdown import presentable
from fine_tuning.errors import ByoaiError


def attempt(what: Callable[[], object], refused: str = "Not done") -> bool:
    """Call `what`; return whether it succeeded. If not, show `refused` and the reason in a toast."""
    try:
        what()
    except (ByoaiError, OSError) as error:
        st.toast(presentable(f"{refused}: {error}"), icon=":material/error:")
        return False
    return True
