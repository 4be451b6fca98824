"""Define the pages of the web app.

chatbot.server (`byoai chat`) runs this script behind the access control of the API.
"""

from pathlib import Path

import streamlit as st

from chatbot.parts import compare, job_bar, window
from fine_tuning.integration import watched

HERE = Path(__file__).parent


def draw() -> None:
    """Draw the page that the address names, with what all pages have in common."""
    # Pictures from local files: Streamlit would fetch a Material icon for the browser's tab from the network.
    st.set_page_config(page_title="byoai", page_icon=str(HERE / "icon.svg"))
    st.logo(str(HERE / "logo.svg"), size="large", icon_image=str(HERE / "icon.svg"))
    st.html(HERE / "parts" / "chosen.css")
    chat = st.Page("pages/chat.py", title="Chat", default=True)
    models = st.Page("pages/models.py", title="Models")
    pages = [
        chat,
        st.Page("pages/data.py", title="Data"),
        st.Page("pages/train.py", title="Train"),
        st.Page("pages/runs.py", title="Runs"),
        models,
        st.Page("pages/settings.py", title="Settings"),
    ]
    page = st.navigation(pages, position="top")
    if page is not models:
        compare.drop()
    bar = st.container()
    if page is chat:  # it is drawn as long as an answer comes in: what it shows itself is known from the last time
        with bar:
            job_bar.draw()
    watched.begin()
    page.run()
    if page is not chat:  # what a page shows itself is known once it is drawn
        with bar:
            job_bar.draw()
    window.draw(page.title, ["/", *(f"/{each.url_path}" for each in pages if each.url_path)])


# Streamlit runs this script as the main module. A child process that the program begins meanwhile runs the main
# module, too (`multiprocessing`), under another name: it must draw nothing.
if __name__ == "__main__":
    draw()
