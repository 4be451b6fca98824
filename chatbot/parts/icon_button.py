"""Draw a button that shows only its icon. Its label is for screen readers."""

from collections.abc import Callable
from typing import Any

import streamlit as st


def draw(
    label: str,
    icon: str,
    key: str,
    act: Callable[..., None],
    *arguments: Any,
    help: str = "",
    disabled: bool = False,
) -> None:
    """Draw the button; its label is hidden by turn.css.

    Args:
        label: The button's name.
        icon: The name of a Material symbol.
        key: The button's key, which must be unique on the page.
        act: Called with `arguments` when the button is clicked.
        *arguments: See `act`.
        help: The tooltip; "" for the label.
        disabled: Whether the button cannot be clicked.
    """
    with st.container(key=f"icon-{key}", width="content"):
        st.button(
            label,
            key=key,
            icon=f":material/{icon}:",
            type="tertiary",
            help=help or label,
            on_click=act,
            args=arguments,
            disabled=disabled,
        )
