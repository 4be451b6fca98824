"""Where one is in a training that is put together: step and draft. They outlast a visit of another page,
and a reload, since the address of the page names them.
"""

import uuid
from dataclasses import dataclass, replace

import streamlit as st

from fine_tuning.integration.tuning import Draft

MODEL, DATA, SETTINGS, WATCH, FINISH = "1 Model", "2 Data", "3 Settings", "4 Watch", "5 Finish"
STEPS = (MODEL, DATA, SETTINGS, WATCH, FINISH)
_PLACES = 50  # that the server keeps

state = st.session_state


@dataclass
class Place:
    step: str | None = None
    draft: Draft | None = None
    first: Draft | None = None  # the draft as it was offered


@st.cache_resource(max_entries=_PLACES, show_spinner=False)
def _place(id: str) -> Place:
    """Return what was left under this id; an empty place for a new one."""
    return Place()


def come_back(step: str) -> None:
    """Have step and draft in the session as one left them; `step` where one has not been here yet."""
    known = st.query_params.get("draft", "")
    if "train_place" not in state:
        state.train_place = known or uuid.uuid4().hex[:12]
    if known != state.train_place:  # another page was visited: the menu's links name no draft
        st.query_params["draft"] = state.train_place
    place = _place(state.train_place)
    if "train_draft" not in state and place.draft:
        state.train_draft, state.train_first = _without_gone_file(place.draft), place.first
    if "train_step" not in state:  # Streamlit drops it while its widget is not drawn
        state.train_step = place.step or step


def leave_mark() -> None:
    """Note where one is."""
    place = _place(state.train_place)
    place.step, place.draft, place.first = state.train_step, state.train_draft, state.train_first


def _without_gone_file(draft: Draft) -> Draft:
    return replace(draft, dataset=None) if draft.dataset and not draft.dataset.file.exists() else draft
