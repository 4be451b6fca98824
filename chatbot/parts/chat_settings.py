"""Draw the settings of a chat in a popover: system prompt, sampling options, and presets."""

from typing import Any

import streamlit as st
from pydantic import ValidationError

from chatbot.markdown import presentable
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning
from chatbot.server import config
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.chat_settings import SYSTEM_LIMIT, ChatSettings, delete_preset, presets, save_preset

FIELD = "set-"  # prefix of the keys under which Streamlit keeps typed settings
NAME, PRESET = f"{FIELD}name", f"{FIELD}preset"
_NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "temperature": ("Temperature", {"min_value": 0.0, "max_value": 2.0, "step": 0.1}),
    "top_p": ("Top-p", {"min_value": 0.01, "max_value": 1.0, "step": 0.05}),
    "max_tokens": ("Longest answer, in tokens", {"min_value": 1, "max_value": 131_072, "step": 64}),
    "context": ("Context, in tokens", {"min_value": 256, "max_value": 1_048_576, "step": 256}),
    "seed": ("Seed", {"min_value": 0, "max_value": 2**31 - 1, "step": 1}),
}
_TERMS = {
    "temperature": "temperature",
    "top_p": "top-p",
    "max_tokens": "longest answer",
    "context": "context",
    "seed": "seed",
}

state = st.session_state


def draw() -> None:
    """Draw the button for the settings of this chat and, if it was pressed, the settings.

    Changes apply from the next question on.
    """
    count = len(state.chat.settings.facts())
    shown = st.popover(
        f"Settings{' (changed)' if count else ''}",
        icon=":material/tune:",
        type="tertiary",
        key="settings",
        on_change="rerun",
    )
    if not shown.open:
        drop()
        return
    with shown:
        _draw_presets()
        _fill(state.chat.settings)
        st.text_area(
            "System prompt",
            key=f"{FIELD}system",
            help=meaning("system prompt"),
            max_chars=SYSTEM_LIMIT,
            height=100,
            on_change=apply,
        )
        columns = st.columns(2)
        for number, (name, (label, limits)) in enumerate(_NUMBERS.items()):
            placeholder = str(config().chat.max_tokens) if name == "max_tokens" else "the model's own"
            columns[number % 2].number_input(
                label,
                key=f"{FIELD}{name}",
                value=None,
                placeholder=placeholder,
                help=meaning(_TERMS[name]),
                on_change=apply,
                **limits,
            )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input("Save as preset", key=NAME, max_chars=60, placeholder="Name")
            st.button("Save preset", key="save-preset", on_click=save, disabled=not count)


def drop() -> None:
    """Delete what was typed into the fields from Streamlit's memory.

    The chat has its own copy. A text that is deleted from the chat must not remain in the fields.
    """
    for key in [key for key in state if str(key).startswith(FIELD)]:
        del state[key]


def _fill(settings: ChatSettings) -> None:
    state.setdefault(f"{FIELD}system", settings.system)
    for name in _NUMBERS:
        state.setdefault(f"{FIELD}{name}", getattr(settings, name))


def apply() -> None:
    """Use what was typed as the settings of the chat."""
    told = {name: state.get(f"{FIELD}{name}") for name in ("system", *_NUMBERS)}
    try:
        state.chat.settings = ChatSettings.model_validate(
            {name: value for name, value in told.items() if value is not None}
        )
    except ValidationError as error:
        st.toast(presentable(str(error.errors()[0]["msg"])), icon=":material/error:")


def _draw_presets() -> None:
    try:
        names = list(presets())
    except ByoaiError as error:
        st.error(presentable(str(error)), icon=":material/error:")
        return
    if not names:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Preset", names, index=None, key=PRESET, placeholder="Choose one", on_change=load)
        if chosen := state.get(PRESET):
            st.button("Delete", key="delete-preset", icon=":material/delete:", on_click=ask_to_delete, args=(chosen,))


def load() -> None:
    """Use the chosen preset as the settings of the chat."""
    if found := presets().get(state.get(PRESET) or ""):
        chosen = state[PRESET]
        state.chat.settings = found
        drop()
        state[PRESET] = chosen


def save() -> None:
    """Save the settings under the typed name."""

    def saving() -> None:
        state[PRESET] = save_preset(state.get(NAME) or "", state.chat.settings)
        state[NAME] = ""

    attempt(saving, "Not kept")


def ask_to_delete(name: str) -> None:
    """Ask for confirmation, at the next drawing, before a preset is deleted."""
    state.deleting = name


@st.dialog("Delete this preset?")
def confirm_deletion(name: str) -> None:
    """Draw the dialog that deletes a preset if the user confirms it."""
    st.text(name)
    st.caption("Its settings are lost. Chats that use them keep them.")
    if st.button("Delete", key="really-delete-preset", type="primary"):
        delete_preset(name)
        drop()
        st.rerun()
