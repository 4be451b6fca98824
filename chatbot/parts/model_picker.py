"""Draw the model picker in the side bar, and a dialog with all models, in which they are downloaded and removed."""

import time
from collections.abc import Callable

import streamlit as st

from chatbot.markdown import literal, presentable
from chatbot.parts import first_model, icon_button
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning, meanings_in
from chatbot.resources import models
from chatbot.server import config, service
from fine_tuning.engines.base import full_tag
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import model_facts, ollama_integration
from fine_tuning.integration.model_facts import ModelFacts
from fine_tuning.integration.ollama_integration import Models
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.store import ACTIVE, Job, State
from fine_tuning.model_management.model_switcher import Choice
from fine_tuning.units import answers, size

GLANCE = 1.0  # seconds between updates of a download's progress
LATELY = 3600  # seconds for which a failed download is shown
ORIGIN = "the chat page"
DIALOG = "models"
NAME = "models-name"  # key of the name that is typed

state = st.session_state


def draw(now: Models, choice: Choice | None, pick: Callable[[], None]) -> None:
    """Draw the picker with the answering model `choice`. `pick` is called when `state.tag` names another one."""
    if choice:
        state.tag = choice.tag
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", wrap=False):
        if choice:
            st.selectbox(
                "Who answers", [each.tag for each in now.found], format_func=now.title, key="tag", on_change=pick
            )
        if now.engine:
            about = "About these models: size, what they learned, download, remove"
            with st.container(key="icon-models" if choice else "models", width="content"):
                st.button("Models", icon=":material/tune:", key="models-open", help=about, on_click=_open)
    if choice and choice.refused:
        st.warning(presentable(choice.refused), icon=":material/gpp_maybe:")
    st.caption(now.engine)
    if _pulls():
        _watch_pulls("side bar")
    if now.engine and (state.get("dialog") or ("", ""))[0] == DIALOG:
        _dialog(now, choice, pick)


def _open() -> None:
    state.dialog = (DIALOG, "")


def close() -> None:
    state.dialog = None
    state.removing = None


# The dialog


@st.dialog("Models", width="medium", on_dismiss=close)
def _dialog(now: Models, choice: Choice | None, pick: Callable[[], None]) -> None:
    if not state.get("dialog"):
        st.rerun()
    try:
        found = model_facts.facts_of(service().engine(), config(), service().registry)
        ollama = service().engine().name == "ollama"
    except ByoaiError as error:
        st.error(presentable(str(error)), icon=":material/error:")
        return
    for facts in found:
        with st.container(border=True, gap="small"):
            _card(facts, now, facts.choice == choice, pick, ollama)
    _download(ollama)


def _card(facts: ModelFacts, now: Models, answers: bool, pick: Callable[[], None], ollama: bool) -> None:
    tag = facts.choice.tag
    st.markdown(
        f"**{literal(facts.title)}**{_badges(facts, answers)}",
        help=meaning("base" if facts.choice.kind == "base" else "version"),
    )
    st.caption(literal(" · ".join(measures(facts))), help=meaning("quantisation") if facts.quantization else None)
    if facts.learned:
        st.caption(presentable(told := learned(facts)), help=meanings_in(told))
    if facts.choice.refused:
        st.caption(presentable(facts.choice.refused))
    if state.get("removing") == tag:
        _confirm(facts, ollama)
        return
    with st.container(horizontal=True):
        st.button("Let it answer", key=f"use-{tag}", disabled=answers, on_click=_use, args=(tag, pick))
        if facts.choice.kind == "base":
            st.button(
                "Remove",
                key=f"remove-{tag}",
                icon=":material/delete:",
                type="tertiary",
                on_click=_ask_to_remove,
                args=(tag,),
            )


def _badges(facts: ModelFacts, answers: bool) -> str:
    return (" :blue-badge[answers here]" * answers) + (" :gray-badge[in memory]" * facts.loaded)


def measures(facts: ModelFacts) -> list[str]:
    """Return texts about the size of a model, and whether it fits into memory."""
    told = [
        f"{facts.parameter_size} parameters" if facts.parameter_size else "",
        facts.quantization,
        f"{size(facts.size)} on disk",
    ]
    fits = {
        True: f"fits into memory (about {size(facts.memory)})",
        False: f"does not fit into memory now: it takes about {size(facts.memory)}. Close other programs, or choose "
        "a smaller one",
        None: "",
    }[facts.fits]
    return [each for each in [*told, "" if facts.loaded else fits] if each]


def learned(facts: ModelFacts) -> str:
    """Return a text about what a version learned and when, and the verdict of the gate."""
    if not (known := facts.learned):
        return ""
    turns = f"learned {answers(known.turns)}" if known.turns else "learned unknown data"
    of = f" on {known.base}" if known.base else ""
    verdict = f". {known.verdict[0].upper()}{known.verdict[1:]}" if known.verdict and not facts.choice.refused else ""
    return f"{turns[0].upper()}{turns[1:]}{of}, made on {known.day}{verdict}"


def _use(tag: str, pick: Callable[[], None]) -> None:
    state.tag = tag
    pick()
    close()


# Remove


def _ask_to_remove(tag: str) -> None:
    state.removing = tag


def _confirm(facts: ModelFacts, ollama: bool) -> None:
    """Draw the dialog for removing a model: how much disk space is freed, and who else may need the model."""
    tag = facts.choice.tag
    back = model_facts.freed_by(service().engine(), tag)
    told = (
        f"{size(back)} are freed on the disk"
        if back
        else "Nothing is freed on the disk, because other models use the same weights"
    )
    told = f"Up to {size(facts.size)} are freed on the disk" if back is None else told
    others = " It belongs to Ollama: other programs that use it lose it, too." if ollama else ""
    st.warning(
        literal(f"Remove {tag}? {told}.{others} Versions that were made from it keep working."),
        icon=":material/delete:",
    )
    with st.container(horizontal=True):
        st.button("Remove it", key=f"really-{tag}", type="primary", on_click=_remove, args=(tag, ollama))
        st.button("Keep it", key=f"keep-{tag}", on_click=_ask_to_remove, args=(None,))


def _remove(tag: str, ollama: bool) -> None:
    state.removing = None
    attempt(lambda: ollama_integration.remove_base(service().engine(), config(), tag, force=ollama), "Not removed")
    models.clear()


# Download


def _download(ollama: bool) -> None:
    st.subheader("Get another model", anchor=False)
    if models().missing:
        first_model.draw("picker")
    if not ollama:
        st.info(
            "Downloading needs Ollama, and the embedded engine is in use. Install it from ollama.com, start it, and "
            "look again."
        )
        return
    with (
        st.form("models-pull", border=False, clear_on_submit=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        st.text_input(
            "Name in Ollama's library",
            key=NAME,
            placeholder="qwen2.5:0.5b",
            max_chars=300,
            help="ollama.com/library lists them.",
        )
        st.form_submit_button("Download", icon=":material/download:", on_click=_pull)
    if state.get("pull_refused"):
        st.error(literal(state.pull_refused), icon=":material/error:")
    last = next(iter(service().queue.jobs(kinds=["pull"], limit=1)), None)
    if last and not last.over:
        _watch_pulls("dialog")
    elif last and last.state in (State.FAILED, State.INTERRUPTED) and time.time() - (last.ended or 0) < LATELY:
        st.error(literal(f"{last.request.get('model')} was not downloaded: {last.reason}"), icon=":material/error:")


def _pull() -> None:
    """Submit the download of the model with the typed name. If the name is invalid, store the error."""
    state.pull_refused = ""
    name = (state.get(NAME) or "").strip()
    try:
        request = {
            "config": config().model_dump(mode="json"),
            "model": full_tag(name),
            "ollama_url": service().ollama_url,
        }
        service().queue.submit("pull", request, origin=ORIGIN)
    except ByoaiError as error:
        state.pull_refused = str(error)


def _pulls() -> list[Job]:
    try:
        return service().queue.jobs([State.QUEUED, *ACTIVE], ["pull"], limit=5)
    except ByoaiError:
        return []  # another part of the page reports that the database cannot be read


@st.fragment(run_every=GLANCE)
def _watch_pulls(place: str) -> None:
    """Show the progress of each download; redraw the whole page when one has ended."""
    found = _pulls()
    ids = {job.id for job in found}
    before, state.pulling = state.get("pulling", set()), ids
    if before - ids:
        models.clear()
        st.rerun()
    for job in found:
        told = progress_of_job(job)
        model = str(job.request.get("model"))
        with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
            st.progress(told.share, text=literal(downloading(model, job.state, told.done, told.total)))
            icon_button.draw("Cancel the download", "close", f"cancel-{job.id}-{place}", _cancel, job.id, help="Cancel")


def downloading(model: str, job: State, done: int, total: int) -> str:
    """Return a text about the progress of a download. `job` is the job's state."""
    if job == State.QUEUED:
        return f"{model} waits for its turn"
    if job == State.CANCELLING:
        return f"{model}: stopping"
    return f"{model}: {size(done)} of {size(total)}" if total else f"{model}: asking the library"


def _cancel(id: str) -> None:
    service().queue.cancel(id)
