"""Draw a button that copies a text with one click."""

from base64 import b64encode
from pathlib import Path

import streamlit as st
from jinja2 import Template

_BUTTON = Template(Path(__file__).with_name("copy.html").read_text(encoding="utf-8"), autoescape=True)


def draw(what: str, text: str) -> None:
    """Draw a button whose click copies `text` to the clipboard (window.js), without the server.

    `what` names the text for people, such as `answer`. The text is in base64, since Streamlit removes an
    attribute that looks like HTML, and changes white space.
    """
    st.html(_BUTTON.render(what=what, text=b64encode(text.encode(errors="replace")).decode()), width="content")
