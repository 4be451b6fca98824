"""The chat page: who answers, the conversation, what was recorded."""

import time
from collections.abc import Callable, Sequence

import streamlit as st

from chatbot import session
from chatbot.markdown import presentable
from chatbot.resources import connect_again, engine, models, recorded
from chatbot.server import config
from fine_tuning.conversation import Turn, approved
from fine_tuning.data_collection.conversation_logger import Rating
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.ollama_integration import Models
from fine_tuning.integration.streamlit_fine_tuning import panel
from fine_tuning.model_management.model_switcher import Choice

REFRESH = 4.0  # seconds between looks for new models
SETTLED = 1.0  # seconds after which a browser has taken over what was drawn
GLANCE = 0.5  # seconds between looks whether this chat has changed elsewhere
EXAMPLES = ("Explain photosynthesis in two sentences", "What makes a good breakfast?", "Write a short poem about the sea")
CONSENT = (
    "While it is off, nothing is written down, and what was said is gone with this page. "
    "Switched on again, the model answers only from what was recorded: the rest stays out."
)
DRAFT = "text-"  # what begins the name under which Streamlit keeps the text that is typed in place of an answer
THUMBS: dict[int | None, Rating] = {0: "down", 1: "up"}
USER, BOT = ":material/person:", ":material/forum:"

state = st.session_state


# What people do


def ask(text: str | None) -> None:
    if text and text.strip() and state.choice and not state.chat.answering:
        state.chat.ask(engine(), state.choice.tag, text.strip())
        st.query_params["chat"] = state.chat.id  # a reload comes back to this chat


def begin(chat_id: str, widget: str) -> None:
    """Ask the chosen example once: a browser may send a choice again after the answer, and after "New chat"."""
    if state.chat.id == chat_id and not state.chat.turns:
        ask(state.get(widget))


def ask_again() -> None:
    if unfinished := state.chat.look()[1]:
        ask(unfinished.user_message)


def new_chat() -> None:
    state.chat.stop()
    st.query_params.pop("chat", None)
    del state["chat"]


def pick() -> None:
    """A person's pick stays; picking the default means to follow it when it moves."""
    state.picked = None if state.models.get(state.tag) == state.models.default else state.tag


def rate(turn_id: str, widget: str) -> None:
    record(lambda: state.chat.rate(turn_id, THUMBS.get(state[widget])))


def save(turn_id: str, widget: str) -> None:
    record(lambda: state.chat.edit(turn_id, state[widget]))
    state.edited = None


def record(what: Callable[[], object]) -> None:
    try:
        what()
    except ByoaiError as error:
        st.toast(f"Not recorded: {error}", icon=":material/error:")


def regenerate() -> None:
    if state.choice and not state.chat.answering:
        record(lambda: state.chat.regenerate(engine(), state.choice.tag))


def consent() -> None:
    """Recording is on or off for what comes; a reload keeps it so."""
    state.chat.recording = state.recording
    if state.recording:
        st.query_params.pop("record", None)
    else:
        st.query_params["record"] = "off"


# The page


@st.fragment(run_every=REFRESH)
def watch() -> None:
    """Draw the page anew when the engine offers something else than it shows."""
    if models() != state.models:
        st.rerun()


@st.fragment(run_every=GLANCE)
def watch_chat() -> None:
    """Draw the page anew when something of this chat was rated, edited or forgotten elsewhere; after a forgetting once more."""
    if state.chat.version != state.version or (state.again and time.monotonic() > state.again):
        st.rerun()


def sidebar(now: Models) -> None:
    st.button("New chat", icon=":material/edit_square:", width="stretch", on_click=new_chat, disabled=not state.chat.turns)
    if state.choice:
        state.tag = state.choice.tag
        st.selectbox("Who answers", [choice.tag for choice in now.found], format_func=now.title, key="tag", on_change=pick)
        if state.choice.refused:
            st.warning(presentable(state.choice.refused), icon=":material/gpp_maybe:")
    st.caption(now.engine)
    st.toggle("Record this chat", key="recording", on_change=consent, help=CONSENT)
    st.space("small")
    learning()


def learning() -> None:
    try:
        count, new = recorded()
    except ByoaiError as error:
        st.error(presentable(str(error)), title="Nothing can be recorded", icon=":material/error:")
        return
    st.markdown(f"**{count}** {'turn' if count == 1 else 'turns'} recorded, **{new}** not yet learned")
    panel(config(), count, new, presentable, choose)


def choose(tag: str) -> None:
    """Let this model answer from here on."""
    models.clear()
    state.models = models()
    state.picked = None if state.models.default and state.models.default.tag == tag else tag


def announce(before: Models | None, now: Models) -> None:
    """Say what a training in a terminal brought while this page was open."""
    if not before or not before.found:
        return
    for choice in now.found:
        if choice.kind == "fine_tuned" and not before.get(choice.tag):
            icon = ":material/gpp_maybe:" if choice.refused else ":material/auto_awesome:"
            st.toast(f"**{now.title(choice.tag)}** is in the switch", icon=icon)
    if now.default and now.default != before.default and not state.picked:
        st.toast(f"**{now.title(now.default.tag)}** answers from here on", icon=":material/swap_horiz:")


def notice(now: Models) -> None:
    """Why nobody answers, and what to do."""
    if now.trouble:
        st.error(presentable(now.trouble), title="Nobody can answer now", icon=":material/power_off:")
        st.button("Look again", icon=":material/refresh:", on_click=connect_again)
    else:
        st.info("Run `./scripts/start.sh`: it fetches one.", title="No model yet", icon=":material/download:")


def welcome(choice: Choice) -> None:
    st.space("large")
    st.header("What is on your mind?", anchor=False)
    who = state.models.title(choice.tag)
    kept = "What you say is recorded here, and the next version learns from it." if state.recording else "Nothing of it is recorded."
    st.markdown(f"**{who}** answers, on this machine. {kept}")
    key = f"example-{state.chat.id}"
    st.pills("Examples", EXAMPLES, label_visibility="collapsed", key=key, on_change=begin, args=(state.chat.id, key))


def show(turn: Turn, last: bool) -> None:
    st.chat_message("user", avatar=USER).text(turn.user_message)
    with st.chat_message("assistant", avatar=BOT):
        if state.edited == turn.id:
            edit(turn)
        else:
            st.markdown(presentable(turn.bot_response))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            judge(turn, last)
            st.caption(presentable(footnote(turn)))


def judge(turn: Turn, last: bool) -> None:
    """What a person can do with an answer: rate it, say what it should have been, have it given anew."""
    if session.recorded(turn):
        thumb = next((thumb for thumb, rating in THUMBS.items() if rating == turn.metadata.get("rating")), None)
        st.feedback("thumbs", key=f"rate-{turn.id}", default=thumb, on_change=rate, args=(turn.id, f"rate-{turn.id}"))
        st.button(
            "",
            key=f"edit-{turn.id}",
            icon=":material/edit:",
            type="tertiary",
            help="Write what it should have been",
            on_click=begin_edit,
            args=(turn.id,),
        )
    if last and state.choice and not approved(turn):
        st.button("", key=f"again-{turn.id}", icon=":material/refresh:", type="tertiary", help="Answer anew", on_click=regenerate)


def begin_edit(turn_id: str) -> None:
    state.edited = turn_id


def drop_drafts(turns: Sequence[Turn]) -> None:
    """Forget what was typed in place of an answer that is not edited any more, or gone."""
    if state.edited not in {turn.id for turn in turns}:
        state.edited = None
    for key in [key for key in state if str(key).startswith(DRAFT) and key != f"{DRAFT}{state.edited}"]:
        del state[key]


def edit(turn: Turn) -> None:
    state.setdefault(f"{DRAFT}{turn.id}", turn.bot_response)  # given to the widget, Streamlit would keep it when the widget is long gone
    st.text_area("What the answer should have been", key=f"{DRAFT}{turn.id}", height="content")
    with st.container(horizontal=True):
        st.button("Save", type="primary", on_click=save, args=(turn.id, f"{DRAFT}{turn.id}"))
        st.button("Cancel", on_click=begin_edit, args=(None,))


def footnote(turn: Turn) -> str:
    facts = [state.models.title(turn.metadata.get("model", "")).removesuffix(" · live").removesuffix(" · refused")]
    seconds, tokens = turn.metadata.get("seconds"), turn.metadata.get("tokens")
    if seconds:
        facts.append(f"{seconds:.1f} s")
    if seconds and tokens:
        facts.append(f"{tokens / seconds:.0f} tokens/s")
    if reason := turn.metadata.get("incomplete"):
        facts.append({"stopped": "stopped", "length": "cut: too long"}.get(reason, reason) + ", nothing is learned from it")
    if "original_response" in turn.metadata:
        facts.append("edited")
    if not session.recorded(turn):
        facts.append("not recorded")
    return " · ".join(facts)


def watch_answer(answer: session.Answer) -> None:
    """Show an answer as it comes in; then the page is drawn anew with the turn that it has become, or with what went wrong."""
    st.chat_message("user", avatar=USER).text(answer.user_message)
    slot = st.chat_message("assistant", avatar=BOT).empty()
    slot.markdown(f":shimmer[{state.models.title(answer.model)} is thinking]")
    for text in answer.texts():
        if state.chat.version != state.version:
            break  # something of this chat is gone, or stands otherwise
        if text:
            slot.markdown(presentable(text) + " ▌")
    st.rerun()


def show_unfinished(answer: session.Answer) -> None:
    st.chat_message("user", avatar=USER).text(answer.user_message)
    with st.chat_message("assistant", avatar=BOT):
        if answer.text:
            st.markdown(presentable(answer.text))
        if answer.incomplete and not answer.error:
            st.caption("Stopped before the first word")
        else:
            why = str(answer.error or "A fault in byoai itself: the terminal that runs it says more.")
            st.error(presentable(why), title="Nothing was recorded", icon=":material/error:")
        st.button("Ask again", icon=":material/refresh:", on_click=ask_again, disabled=not state.choice)


def foot(choice: Choice | None, answering: bool) -> None:
    with st.bottom:
        if not choice:
            notice(state.models)
        if answering:
            with st.container(horizontal=True, horizontal_alignment="center"):
                st.button("Stop", icon=":material/stop_circle:", shortcut="Esc", on_click=state.chat.stop)
        placeholder = f"Message {state.models.title(choice.tag)}" if choice else "Nobody answers"
        st.chat_input(placeholder, key="question", on_submit=lambda: ask(state.question), disabled=answering or not choice)
        here = "Recorded on this machine only, for the next version to learn from"
        st.caption(here if state.recording else "Not recorded: nothing of this is kept or learned", text_alignment="center")


def open_page() -> None:
    """Have in `state` all that the page is drawn from."""
    state.setdefault("picked", None)
    state.setdefault("edited", None)
    if "recording" not in state:
        state.recording = config().data_collection.record and st.query_params.get("record") != "off"
    before, state.models = state.get("models"), models()
    state.choice = state.models.get(state.picked) or state.models.default
    if "chat" not in state:
        try:
            state.chat = session.open_chat(config().log_path, st.query_params.get("chat"), config().data_collection.export_every)
        except ByoaiError as error:
            st.error(presentable(str(error)), title="The log cannot be read", icon=":material/error:")
            st.stop()
        state.chat.recording = state.recording
    announce(before, state.models)


def draw() -> None:
    """Draw the page: in a function, since widgets' callbacks keep the names of the module, and with them forgotten texts, alive."""
    count, state.version = state.chat.forgotten, state.chat.version  # before the look: later changes are seen by `watch_chat`
    forgotten = count > state.get("forgotten", 0)
    if state.get("again") and not forgotten:
        st.toast("Something of this chat was forgotten, and is gone from here", icon=":material/delete_forever:")
    # Until it hears that a widget is gone, the browser sends what was typed in it: the drawing after that drops it from the memory, too.
    state.again, state.forgotten = time.monotonic() + SETTLED if forgotten else None, count
    turns, answer = state.chat.look()
    drop_drafts(turns)
    answering = answer is not None and not answer.ended
    with st.sidebar:
        sidebar(state.models)
        # Last of all in their column: what a fragment that runs by itself draws may come to stand in a place that has moved up meanwhile.
        watch()
        watch_chat()
    foot(state.choice, answering)
    top = st.empty()  # a place of its own, so that nothing of the welcome lingers below the first answer
    if state.choice and not turns and not answer:
        with top.container():
            welcome(state.choice)
    for turn in turns:
        show(turn, last=turn is turns[-1] and not answering)
    if answer and answering:
        watch_answer(answer)
    elif answer:
        show_unfinished(answer)


open_page()
draw()
