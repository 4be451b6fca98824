"""Run the action of a button."""

from collections.abc import Callable

import streamlit as st

from chatbot.markdown import presentable
from fine_tuning.errors import ByoaiError


def attempt(what: Callable[[], object], refused: str = "Not done") -> bool:
    """Run `what`; return whether it succeeded. If not, show a toast with `refused` and the reason."""
    try:
        what()
    except (ByoaiError, OSError) as error:
        st.toast(presentable(f"{refused}: {error}"), icon=":material/error:")
        return False
    return True
