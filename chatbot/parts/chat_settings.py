"""Draw the settings of a chat in a dialog: system prompt, sampling options, and presets."""

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
DELETING = f"{FIELD}deleting"  # key of the preset whose deletion waits for confirmation
DIALOG = "chat settings"
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


def button() -> None:
    """Draw the button that opens the settings of this chat."""
    label = f"Settings{' (changed)' if state.chat.settings.facts() else ''}"
    help = "System prompt, temperature and limits of this chat"
    st.button(label, icon=":material/tune:", type="tertiary", key="settings", help=help, on_click=_open)


def draw() -> None:
    """Draw the settings of this chat in a dialog if they are open.

    What is typed in a field counts once the field is left, so no way of closing the dialog loses it.
    A popover would not do: it opens where it has room while it is still empty, which at the foot of
    the page is a strip of two lines.
    """
    if _is_open():
        _dialog()
    else:
        drop()


def _is_open() -> bool:
    return (state.get("dialog") or ("", ""))[0] == DIALOG


def _open() -> None:
    state.dialog = (DIALOG, "")


def close() -> None:
    state.dialog = None


@st.dialog("Settings of this chat", on_dismiss=close)
def _dialog() -> None:
    if not _is_open():
        st.rerun()  # closing it draws only the dialog anew: the button below the chat would not say what changed
    st.caption("They apply from the next question on, and are recorded with its answer.")
    _draw_presets()
    _fill(state.chat.settings)
    st.text_area(
        "System prompt",
        key=f"{FIELD}system",
        help=meaning("system prompt"),
        max_chars=SYSTEM_LIMIT,
        height=100,
        on_change=apply,
        args=("system",),
    )
    for number, (name, (label, limits)) in enumerate(_NUMBERS.items()):
        if number % 2 == 0:
            columns = st.columns(2)  # a row of its own, since on a phone one column stands below the other
        placeholder = str(config().chat.max_tokens) if name == "max_tokens" else "the model's own"
        columns[number % 2].number_input(
            label,
            key=f"{FIELD}{name}",
            value=None,
            placeholder=placeholder,
            help=meaning(_TERMS[name]),
            on_change=apply,
            args=(name,),
            **limits,
        )
    changed = bool(state.chat.settings.facts())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Save as preset", key=NAME, max_chars=60, placeholder="Name")
        st.button("Save preset", key="save-preset", on_click=save, disabled=not changed)
    with st.container(horizontal=True):
        st.button("Done", type="primary", key="settings-done", on_click=close)
        st.button("Back to default", type="tertiary", key="settings-default", on_click=_reset, disabled=not changed)


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


def apply(name: str) -> None:
    """Use what was typed in the field `name` as that setting of the chat.

    A browser sends the fields of a closed dialog once more, in the first message after it. They are
    no longer in `state`, which must not look as if they had been emptied.
    """
    if f"{FIELD}{name}" not in state:
        return
    told = {**state.chat.settings.model_dump(), name: state[f"{FIELD}{name}"]}
    try:
        state.chat.settings = ChatSettings.model_validate(told)
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
            st.button("Delete", key="delete-preset", icon=":material/delete:", on_click=_ask_to_delete, args=(chosen,))
    if (asked := state.get(DELETING)) and asked == chosen:
        st.warning("The preset is lost. Chats that use its settings keep them.", icon=":material/delete:")
        with st.container(horizontal=True):
            st.button("Delete it", key="really-delete-preset", type="primary", on_click=_delete, args=(asked,))
            st.button("Keep it", key="keep-preset", on_click=_ask_to_delete, args=(None,))


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


def _reset() -> None:
    """Use the model's own settings again."""
    state.chat.settings = ChatSettings()
    drop()


def _ask_to_delete(name: str | None) -> None:
    state[DELETING] = name


def _delete(name: str) -> None:
    attempt(lambda: delete_preset(name), "Not deleted")
    drop()
