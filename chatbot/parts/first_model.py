"""Draw the notice for when there is no model, with a button that downloads one, and the download's progress."""

import streamlit as st

from chatbot.parts import waiting
from chatbot.parts.doing import attempt
from chatbot.resources import models
from chatbot.server import service
from fine_tuning.integration import first_model, watched
from fine_tuning.integration.first_model import BUTTON, SIZE


def draw(place: str) -> None:
    """Say which model is missing, with a button that downloads a model; during the download, draw the progress.

    `place` distinguishes several of these buttons on one page.
    """
    job = first_model.newest(service())
    if job and not job.over:
        waiting.until_over(job.id, "Fetching the base model", models.clear)
        return
    waiting.failure(job)
    st.info(f"{models().missing}. A small one is {SIZE}, downloaded once.", icon=":material/download:")
    st.button(BUTTON, type="primary", key=f"fetch-{place}", icon=":material/download:", on_click=_fetch, args=(place,))


def _fetch(place: str) -> None:
    attempt(lambda: watched.note(first_model.fetch(service(), f"the page ({place})").id), "Not begun")
