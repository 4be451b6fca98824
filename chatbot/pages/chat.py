"""Draw the page Chat: the answering model, the conversation, and what was recorded."""

import time
from pathlib import Path

import streamlit as st

from chatbot import session
from chatbot.markdown import presentable
from chatbot.parts import attached, chat_settings, first_model, history, model_picker, turn
from chatbot.parts.words import meaning
from chatbot.resources import connect_again, engine, models, recorded
from chatbot.server import config, service
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.attachments import FILE_LIMIT, TYPES
from fine_tuning.integration.ollama_integration import Models
from fine_tuning.integration.streamlit_fine_tuning import panel
from fine_tuning.model_management.model_switcher import Choice
from fine_tuning.units import answers

REFRESH = 4.0  # seconds between checks for new models
SETTLED = 1.0  # seconds after which a browser shows what was drawn
GLANCE = 0.5  # seconds between checks for changes of this chat elsewhere
EXAMPLES = (
    "Explain photosynthesis in two sentences",
    "What makes a good breakfast?",
    "Write a short poem about the sea",
)
CONSENT = (
    "While it is off, nothing is stored, and what was said is lost when this page is closed. When it is on again, the "
    "model answers only from what was recorded."
)
STYLE = Path(turn.__file__).with_suffix(".css")

state = st.session_state


# What people do


def ask(text: str | None) -> None:
    if text and text.strip() and state.choice and not state.chat.answering:
        state.chat.ask(engine(), state.choice.tag, text.strip())
        st.query_params["chat"] = state.chat.id  # a reload comes back to this chat


def begin(chat_id: str, widget: str) -> None:
    """Ask the example question that was chosen, if its chat is still open and empty.

    A browser may send the choice again, after the answer or after "New chat".
    """
    if state.chat.id == chat_id and not state.chat.turns:
        ask(state.get(widget))


def ask_without_file() -> None:
    text, _ = state.refused
    state.refused = None
    ask(text)


def dismiss() -> None:
    state.refused = None


def ask_again() -> None:
    if unfinished := state.chat.look()[1]:
        ask(unfinished.user_message)


def new_chat() -> None:
    """Leave this chat, and begin a new one. An answer that is being generated continues, and is recorded."""
    st.query_params.pop("chat", None)
    state.other_chat = True  # the page opens it when it is drawn next
    state.refused = None
    chat_settings.drop()


def pick() -> None:
    """Store the user's choice of a model.

    If it is the default model, no tag is stored: the chat changes to another model when the default
    does, such as after a training.
    """
    state.picked = None if state.models.get(state.tag) == state.models.default else state.tag


def consent() -> None:
    """Begin or stop recording. The choice survives a reload of the page."""
    state.chat.recording = state.recording
    if state.recording:
        st.query_params.pop("record", None)
    else:
        st.query_params["record"] = "off"


# The page


@st.fragment(run_every=REFRESH)
def watch() -> None:
    """Redraw the page if the engine offers other models than those shown."""
    if models() != state.models:
        st.rerun()


@st.fragment(run_every=GLANCE)
def watch_chat() -> None:
    """Redraw the page if a turn of this chat was rated, edited or forgotten elsewhere.

    After forgetting, redraw it a second time, for the reason given in `draw`.
    """
    if state.chat.version != state.version or (state.again and time.monotonic() > state.again):
        st.rerun()


def sidebar(now: Models) -> None:
    st.button(
        "New chat", icon=":material/edit_square:", width="stretch", on_click=new_chat, disabled=not state.chat.turns
    )
    model_picker.draw(now, state.choice, pick)
    st.toggle("Record this chat", key="recording", on_change=consent, help=CONSENT)
    st.page_link(
        "pages/models.py",
        label="Ask two models",
        icon=":material/compare_arrows:",
        query_params={"view": "compare", "chat": state.chat.id},
    )
    history.draw()
    st.space("small")
    learning()


def learning() -> None:
    try:
        count, new = recorded()
    except ByoaiError as error:
        st.error(presentable(str(error)), title="Nothing can be recorded", icon=":material/error:")
        return
    st.markdown(f"**{answers(count)}** recorded, **{new:,}** not yet learned", help=meaning("turn"))
    panel(service(), count, new, presentable, choose)


def choose(tag: str) -> None:
    """Let the model `tag` answer from now on."""
    models.clear()
    state.models = models()
    state.picked = None if state.models.default and state.models.default.tag == tag else tag


def announce(before: Models | None, now: Models) -> None:
    """Show a message if there is a new version or default model, for example after a training in a terminal."""
    if not before or not before.found:
        return
    for choice in now.found:
        if choice.kind == "fine_tuned" and not before.get(choice.tag):
            icon = ":material/gpp_maybe:" if choice.refused else ":material/auto_awesome:"
            told = "what answered before still does" if choice.refused else "it can be chosen now"
            st.toast(f"**{now.title(choice.tag)}**: {told}", icon=icon)
    if now.default and now.default != before.default and not state.picked:
        st.toast(f"**{now.title(now.default.tag)}** answers from now on", icon=":material/swap_horiz:")


def notice(now: Models) -> None:
    """Show why no model answers, and what to do."""
    if now.trouble:
        st.error(presentable(now.trouble), title="No model can answer now", icon=":material/power_off:")
        st.button("Look again", icon=":material/refresh:", on_click=connect_again)
    else:
        first_model.draw("chat")


def welcome(choice: Choice | None) -> None:
    st.space("large")
    if not choice:
        st.header("A chat that learns from you", anchor=False)
        st.markdown("Talk to a model on this machine, and teach it your chats or a handbook.")
        notice(state.models)
        return
    st.header("What is on your mind?", anchor=False)
    who = state.models.title(choice.tag)
    kept = (
        "What you say is recorded here, and the next version learns from it."
        if state.recording
        else "Nothing of it is recorded."
    )
    st.markdown(f"**{who}** answers, on this machine. {kept}")
    st.page_link(
        "pages/data.py",
        label="Teach it a handbook, or chats from elsewhere",
        icon=":material/school:",
        query_params={"show": "Import"},
    )
    key = f"example-{state.chat.id}"
    st.pills("Examples", EXAMPLES, label_visibility="collapsed", key=key, on_change=begin, args=(state.chat.id, key))


def refused() -> None:
    """Show which file could not be read, with a button to send the typed text without it."""
    if not state.refused:
        return
    text, why = state.refused
    with st.container(horizontal=True, vertical_alignment="center"):
        st.error(presentable(why), icon=":material/error:")
        if text.strip():
            st.button("Ask without it", on_click=ask_without_file)
        st.button("Dismiss", on_click=dismiss)


def foot(choice: Choice | None, answering: bool, is_empty: bool) -> None:
    with st.bottom:
        if not choice and not is_empty:  # else the welcome says so
            notice(state.models)
        if state.models.lost:
            st.warning(presentable(state.models.lost), icon=":material/link_off:")
        if answering:
            with st.container(horizontal=True, horizontal_alignment="center"):
                st.button("Stop", icon=":material/stop_circle:", shortcut="Esc", on_click=state.chat.stop)
        placeholder = f"Message {state.models.title(choice.tag)}" if choice else "No model answers"
        refused()
        st.chat_input(
            placeholder,
            key="question",
            accept_file="multiple",
            file_type=TYPES,
            max_upload_size=FILE_LIMIT,
            on_submit=lambda: ask(attached.message(state.question)),
            disabled=answering or not choice,
        )
        with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center", gap="small"):
            chat_settings.button()
            st.caption(
                "Recorded on this machine only" if state.recording else "Not recorded, and not learned", width="content"
            )


def open_page() -> None:
    """Put everything that the page shows into `state`."""
    state.setdefault("picked", None)
    for name in ("edited", "asked", "refused"):
        state.setdefault(name, None)
    if "recording" not in state:
        state.recording = config().data_collection.record and st.query_params.get("record") != "off"
    before, state.models = state.get("models"), models()
    state.choice = state.models.get(state.picked) or state.models.default
    if "chat" not in state or state.get("other_chat"):
        try:
            settings = config()
            state.chat = session.open_chat(
                settings.log_path,
                st.query_params.get("chat"),
                settings.data_collection.export_every,
                settings.chat.max_tokens,
            )
        except ByoaiError as error:
            st.error(presentable(str(error)), title="The log cannot be read", icon=":material/error:")
            st.stop()
        state.other_chat = False
        state.chat.recording, state.chat.titles = state.recording, settings.chat.titles
    announce(before, state.models)


def draw() -> None:
    """Draw the page.

    This is a function, so that its variables are freed at its end: callbacks of widgets keep the
    variables of the module in memory, and forgotten texts would stay there.
    """
    # before `look`, so that `watch_chat` notices later changes
    count, state.version = state.chat.forgotten, state.chat.version
    forgotten = count > state.get("forgotten", 0)
    if state.get("again") and not forgotten:
        st.toast("A part of this chat was forgotten, and is no longer shown here", icon=":material/delete_forever:")
    # The browser sends what was typed in a widget until it learns that the widget is gone; the drawing
    # after that also frees the memory.
    state.again, state.forgotten = time.monotonic() + SETTLED if forgotten else None, count
    if forgotten:
        chat_settings.drop()
    turns, answer = state.chat.look()
    others = state.chat.others()
    turn.drop_drafts(turns)
    answering = answer is not None and not answer.ended
    st.html(STYLE)
    with st.sidebar:
        sidebar(state.models)
        # Last in their column: what a fragment draws by itself may appear in a place that has moved up in
        # the meantime.
        watch()
        watch_chat()
        history.watch()
    is_empty = not turns and not answer
    foot(state.choice, answering, is_empty)
    top = st.empty()  # its own placeholder, so that nothing of the welcome remains below the first answer
    if is_empty:
        with top.container():
            welcome(state.choice)
    for each in turns:
        turn.draw(each, others.get(each.id, session.Others((each.id,), (each.id,))), answering)
    chat_settings.draw()
    if answer and answering:
        turn.draw_coming(answer)
        st.rerun()  # shows the new turn, or what went wrong
    elif answer:
        turn.draw_unfinished(answer, ask_again)


open_page()
draw()
