"""Run a script in the browser for the theme, the side bar of a narrow window, and a server that is gone.

Streamlit keeps the theme for each page's address by itself, without a way to set it from Python. It
closes the side bar only on devices that call themselves phones, and opens it again at the next
visit, which would hide the page on a narrow window. When the server is gone, it blames the internet
connection.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from chatbot.server import config
from fine_tuning.errors import ByoaiError

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def draw(page: str, addresses: Sequence[str]) -> None:
    """Run the script. A browser runs it again only if another page is opened or another theme is chosen.

    `page` is the name of the page that is shown, and `addresses` are the paths of all pages.
    """
    try:
        theme = config().chat.theme
    except ByoaiError:
        return  # the page tells that the settings cannot be read
    told = ", ".join(map(json.dumps, (page, theme.capitalize(), list(addresses))))
    with st.container(key="window-script"):  # hidden by chosen.css
        st.html(f"<script>(function () {{\n{_SCRIPT}\nsettle({told})\n}})()</script>", unsafe_allow_javascript=True)
