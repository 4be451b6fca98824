"""Keep the step and the draft of a training that is being prepared, while the user visits other pages or reloads.

The address of the page contains the id under which they are stored.
"""

import uuid
from dataclasses import dataclass, replace

import streamlit as st

from fine_tuning.integration.tuning import Draft

MODEL, DATA, SETTINGS, WATCH, FINISH = "1 Model", "2 Data", "3 Settings", "4 Watch", "5 Finish"
STEPS = (MODEL, DATA, SETTINGS, WATCH, FINISH)
_PLACES = 50  # maximum number of Places that the server keeps

state = st.session_state


@dataclass
class Place:
    step: str | None = None
    draft: Draft | None = None
    first: Draft | None = None  # the draft as it was offered


@st.cache_resource(max_entries=_PLACES, show_spinner=False)
def _place(id: str) -> Place:
    """Return the Place (step and draft) that is stored under this id; an empty one for a new id."""
    return Place()


def come_back(step: str) -> None:
    """Put the stored step and draft into the session state, unless they are there; if no step is stored, use `step`."""
    known = st.query_params.get("draft", "")
    if "train_place" not in state:
        state.train_place = known or uuid.uuid4().hex[:12]
    if known != state.train_place:  # after another page, whose links do not contain the id
        st.query_params["draft"] = state.train_place
    place = _place(state.train_place)
    if "train_draft" not in state and place.draft:
        state.train_draft, state.train_first = _without_gone_file(place.draft), place.first
    if "train_step" not in state:  # Streamlit removes it while its widget is not drawn
        state.train_step = place.step or step


def begin_with_chats() -> None:
    """Open the page Train at its settings, with the chats and imports as the data; other choices are kept."""
    if "train_place" in state and (draft := _place(state.train_place).draft):
        state.train_draft = replace(draft, data="chats", dataset=None, changes={})
    state.train_step = SETTINGS


def leave_mark() -> None:
    """Store the step and the draft."""
    place = _place(state.train_place)
    place.step, place.draft, place.first = state.train_step, state.train_draft, state.train_first


def _without_gone_file(draft: Draft) -> Draft:
    return replace(draft, dataset=None) if draft.dataset and not draft.dataset.file.exists() else draft
