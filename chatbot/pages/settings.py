"""Draw the page Settings: the engine and its condition, privacy, schedule, gate, appearance."""

from typing import Any

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts.doing import attempt
from chatbot.parts.settings_form import CRON, GROUPS, SHORTCUTS, as_typed, as_value
from chatbot.parts.words import meanings_in
from chatbot.resources import connect_again, models
from chatbot.server import config, service
from fine_tuning import paths
from fine_tuning.engines.ollama_url import without_password
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.integration import first_model, settings
from fine_tuning.integration.setting_fields import choices
from fine_tuning.integration.setting_words import words_of
from fine_tuning.integration.settings import Setting

ADDRESS = "engine-address"  # key of the typed address

state = st.session_state


def widget(key: str) -> str:
    return f"set-{key}"


def save(key: str, default: object) -> None:
    put(key, as_value(state[widget(key)], default))


def put(key: str, value: object) -> None:
    """Change a setting. If the value is invalid, store the error, which is shown beside the field."""
    faults = state.setdefault("faults", {})
    faults.pop(key, None)
    try:
        settings.change(service(), {key: value})
    except ConfigError as error:
        faults[key] = settings.fault(error, key)
    except (ByoaiError, OSError) as error:
        faults[key] = str(error)
    else:
        if value is None:
            state.pop(widget(key), None)  # the field then shows the current value
        models.clear()


def field(setting: Setting, fixed: bool) -> None:
    """Draw a setting: its field, an error, and a button to restore the default."""
    key, now = widget(setting.key), as_typed(setting.value)
    state.setdefault(key, now)
    common: dict[str, Any] = {
        "key": key,
        "help": meanings_in(setting.label, setting.help),
        "disabled": fixed or not setting.changeable,
        "on_change": save,
    }
    common["args"] = (setting.key, setting.default)
    if allowed := choices(setting.key):
        st.radio(setting.label, allowed, horizontal=True, **common)
    elif isinstance(now, bool):
        st.toggle(setting.label, **common)
    elif isinstance(now, str):
        st.text_area(setting.label, height="content", **common)
    else:
        st.number_input(setting.label, step=1 if isinstance(now, int) else 0.01, **common)
    if told := state.get("faults", {}).get(setting.key):
        st.error(presentable(f"{told}. The setting was not changed: {setting.value}"), icon=":material/error:")
    if setting.value != setting.default or told:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(presentable(f"Default: {as_typed(setting.default) or 'none'}"), width="content")
            st.button(
                "Back to default",
                key=f"back-{setting.key}",
                type="tertiary",
                on_click=put,
                args=(setting.key, None),
                disabled=fixed,
            )


def examine() -> None:
    from fine_tuning.integration.doctor import examine as checks  # imported late, since it imports gguf and numpy

    state.checks = list(checks(lambda: config(), service().ollama_url))


def fetch_base() -> None:
    if attempt(lambda: first_model.fetch_configured(service(), "page"), "Not begun"):
        st.toast("The base model is being downloaded: the bar above shows the progress", icon=":material/download:")


def connect_and_examine() -> None:
    connect_again()
    examine()


CURES = {
    "engine": ("Connect again", connect_and_examine),
    "ollama": ("Connect again", connect_and_examine),
    "base": ("Fetch the base", fetch_base),
}


def address() -> None:
    """Draw the field for the address of Ollama, with a button that saves it if an Ollama answers there."""
    why = settings.why_engine_is_fixed(service())
    state.setdefault(ADDRESS, without_password(config().deployment.ollama_base_url))
    told = words_of("deployment.ollama_base_url")
    st.text_input(told.label, key=ADDRESS, help=told.help, disabled=bool(why), max_chars=300)
    if why:
        st.caption(f"{why[0].upper()}{why[1:]}.")
        return
    with st.container(horizontal=True):
        st.button("Test and save", icon=":material/link:", on_click=save_address)
        st.button("Back to default", key="back-address", type="tertiary", on_click=save_address, args=(True,))
    if fault := state.get("address_fault"):
        st.error(presentable(f"{fault}. The address was not changed."), icon=":material/error:")


def save_address(default: bool = False) -> None:
    state.address_fault = ""
    try:
        settings.change_engine(service(), "" if default else state[ADDRESS])
    except (ByoaiError, OSError) as error:
        state.address_fault = str(error).rstrip(".")
        return
    del state[ADDRESS]  # the field then shows the current value
    connect_again()
    st.toast("Saved: Ollama answers there" if not default else "The default address is in use again")


def engine_part() -> None:
    st.subheader("Engine", anchor=False)
    now = models()
    st.text(now.trouble or now.engine)
    address()
    st.button(
        "Examine",
        icon=":material/stethoscope:",
        on_click=examine,
        help="Check engine, models, log, disk and memory; takes a while",
    )
    for check in state.get("checks", ()):
        with st.container(horizontal=True, vertical_alignment="center"):
            icon = ":material/check:" if check.ok else ":material/error:"
            st.markdown(presentable(f"{icon} **{check.name}**: {check.text}"))
            if not check.ok and check.name in CURES:
                label, cure = CURES[check.name]
                st.button(label, key=f"cure-{check.name}", on_click=cure)


def draw() -> None:
    st.title("Settings", anchor=False)
    engine_part()
    try:
        found = settings.show(service())
    except ByoaiError as error:
        st.error(presentable(str(error)), title="The settings cannot be read", icon=":material/error:")
        return
    if found.fixed:
        st.info(settings.FIXED.capitalize(), icon=":material/lock:")
    by_key = {each.key: each for each in found.items}
    for group, keys in GROUPS.items():
        st.subheader(group, anchor=False)
        for key in keys:
            field(by_key[key], found.fixed)
        if group == "Schedule":
            st.caption("Or by cron, also while this server is not running:")
            st.code(
                CRON.format(folder=paths.DEFAULT_CONFIG.parent.parent, new_turns=config().schedule.new_turns),
                language="sh",
                wrap_lines=True,
            )
    st.subheader("Keys", anchor=False)
    for shortcut, what in SHORTCUTS.items():
        st.markdown(f"`{shortcut}`: {what}")


draw()
