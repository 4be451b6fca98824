"""Draw the page Train: model, data, settings, progress and result, one step after the other."""

from dataclasses import replace

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import first_model, train_data, train_place, train_settings
from chatbot.parts.doing import attempt
from chatbot.parts.train_place import DATA, FINISH, MODEL, SETTINGS, STEPS, WATCH
from chatbot.parts.words import meaning
from chatbot.resources import connect_again, engine, models
from chatbot.server import config, service
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.integration import datasets, learning, tuning, watched
from fine_tuning.integration import ollama_integration as models_of
from fine_tuning.integration.job_runs import curve
from fine_tuning.integration.setting_words import said, words_of
from fine_tuning.integration.streamlit_fine_tuning import again, curves, facts, log_tail, verdict, watch
from fine_tuning.integration.tuning import Draft, Forecast, Situation
from fine_tuning.integration.versions import comparison_of
from fine_tuning.jobs.store import Job
from fine_tuning.profiles import made_of_documents
from fine_tuning.units import about, gigabytes, size

TIME = (
    "From the press of the button to the verdict: the training; what was learned is exported; the old and the new "
    "version are asked and compared."
)
PROFILES = {"sample": "the sample", "few_shot": "little data", "handbook": "documents"}
GLANCE = 1.0  # seconds between checks of the running plan

state = st.session_state


def open_page() -> Situation:
    """Put everything that the page shows into `state`; return the facts that decide whether a training can start."""
    found, trouble, turns, documents = models(), "", 0, 0
    try:
        log = ConversationLogger(config().log_path)
        turns, documents = log.index.count(), made_of_documents(log)
    except ByoaiError as error:
        trouble = str(error)
    now = learning.look()
    train_place.come_back(WATCH if now.running else MODEL)
    if "train_draft" not in state or state.train_draft == state.get("train_first"):  # there is none, or it is unchanged
        state.train_draft = state.train_first = _offered(turns)
    if job := st.query_params.pop("from", None):
        _clone(job, turns, documents)
    if state.pop("job_begun", None):
        state.train_step = WATCH
    if state.train_step == WATCH and now.known and not now.running:  # it ended: its result is the next step
        state.train_step = FINISH
    bases = tuple(choice.tag for choice in found.found if choice.kind == "base")
    return Situation(turns, bases, now.running, found.trouble or trouble, documents)


def _offered(turns: int) -> Draft:
    """Return the initial draft, which depends on what has been recorded and imported."""
    base = models_of.base_of(models().found, config())
    return Draft(base.tag if base else config().training.base_model, "chats" if turns else "sample")


def _clone(job: str, turns: int, documents: int) -> None:
    """Use the request of another job as the draft. The button "Clone" on the page Runs leads here."""
    try:
        state.train_draft = tuning.draft_of(service().queue.get(job), config(), turns, datasets.find(), documents)
    except (ByoaiError, ValueError) as error:
        st.toast(f"That run's settings cannot be read: {error}", icon=":material/error:")
    else:
        state.train_step = SETTINGS


def go(step: str) -> None:
    state.train_step = step


def next_button(step: str) -> None:
    st.button("Next", type="primary", icon=":material/arrow_forward:", on_click=go, args=(step,))


# 1 Model


def choose_model(now: Situation) -> None:
    if not now.bases:
        if now.trouble:
            st.info(presentable(now.trouble), title="No model to train")
            st.button("Look again", icon=":material/refresh:", on_click=connect_again)
        else:
            first_model.draw("train")
        return
    known = {model.tag: model for model in engine().list_models()}
    draft: Draft = state.train_draft
    captions = []
    for tag in now.bases:
        model = known.get(tag)
        fits = (
            ""
            if model is None
            else "fits into memory"
            if tuning.likely_fits(model)
            else "probably too large for the free memory"
        )
        parameters = f"{model.parameter_size} parameters" if model and model.parameter_size else ""
        facts = (parameters, model.quantization, size(model.size), fits) if model else ()
        captions.append(" · ".join(filter(None, facts)))
    index = now.bases.index(draft.base) if draft.base in now.bases else 0
    st.radio(
        "Which model learns?",
        now.bases,
        index=index,
        captions=captions,
        key=f"train-base-{draft.base}",
        on_change=_set_base,
        args=(f"train-base-{draft.base}",),
        help=meaning("base"),
    )
    next_button(DATA)


def _set_base(widget: str) -> None:
    state.train_draft = replace(state.train_draft, base=state[widget])


# 3 Settings


def choose_settings(now: Situation) -> None:
    draft: Draft = state.train_draft
    levels = tuning.levels(tuning.profile_of(config(), draft, now.turns, now.documents))
    if draft.level not in levels:
        draft = state.train_draft = replace(draft, level="balanced")
    try:
        start = tuning.starting_point(config(), draft, now.turns, now.documents)
    except ByoaiError as error:
        st.error(presentable(str(error)))
        return
    settings, fault = _settings(start, draft)
    forecast = None
    if not tuning.incomplete(config(), draft, now):
        forecast = tuning.forecast(service().queue, draft, settings, service().ollama_url)
        if forecast.ready and state.get("train_basis") != forecast.basis:  # presets depend on the speed of the machine
            state.train_basis = forecast.basis
            state.train_round = state.get("train_round", 0) + 1
            settings, fault = _settings(start, draft)
    st.caption("These settings are made for your data and this machine: keep them, or change what you like.")
    train_settings.draw(start, settings, forecast, levels)
    if fault:
        st.error(presentable(fault), title="These settings contradict each other")
    if forecast and (forecast.ready or forecast.trouble):
        show_forecast(forecast, settings)
    elif forecast:
        _wait_for(forecast.job.id)
    begin(now, draft, start, settings, forecast, fault)


def _settings(start: FineTuningConfig, draft: Draft) -> tuple[FineTuningConfig, str]:
    """Return the settings of the draft, and "".

    If the draft's changes contradict each other, return the settings without them, and the error.
    """
    basis = state.get("train_basis")
    try:
        return tuning.settings_of(start, draft, basis), ""
    except ConfigError as error:
        return tuning.settings_of(start, replace(draft, changes={}), basis), str(error)


@st.fragment(run_every=GLANCE)
def _wait_for(id: str) -> None:
    watched.note(id)
    if service().queue.get(id).over:
        st.rerun()
    st.caption(":shimmer[Counting what there is to learn, and measuring this machine]")


def show_forecast(forecast: Forecast, settings: FineTuningConfig) -> None:
    found, times = forecast.at(settings), forecast.times(settings)
    if found is None or times is None:
        st.error(presentable(forecast.trouble), title="What it takes could not be found out")
        st.button("Try again", icon=":material/refresh:", on_click=_find_out_again, args=(forecast,))
        return
    with st.container(key="figures"):
        st.metric("Memory", gigabytes(found.memory), help=f"{gigabytes(found.available)} are free now.")
        st.metric("Time", about(times.total), help=TIME)
        st.metric("Steps", found.steps, help="After each step the model is changed a little.")
    told = f"{str(times).capitalize()}."
    if forecast.too_large(settings):
        st.warning(
            f"{told} The training does not fit into the free memory, even with lower settings: close other programs, "
            "or choose a smaller model."
        )
    elif not found.fits:
        st.warning(
            f"{told} The training needs more memory than is free: some settings are lowered when it begins, "
            "until it fits."
        )
    else:
        st.caption(f"{told} It fits: {gigabytes(found.available)} are free.")
    for warning in forecast.found["warnings"]:
        st.caption(f":material/info: {presentable(warning)}")


def _find_out_again(forecast: Forecast) -> None:
    attempt(lambda: tuning.find_out_again(service().queue, forecast))


def begin(
    now: Situation,
    draft: Draft,
    start: FineTuningConfig,
    settings: FineTuningConfig,
    forecast: Forecast | None,
    fault: str,
) -> None:
    """Draw a summary of the training, the button that starts it and, if it cannot start, the reason."""
    why = tuning.missing(config(), draft, now, forecast, fault)
    if forecast and forecast.ready:
        st.subheader("Summary", anchor=False)
        pairs = list(tuning.summary(draft, forecast, settings))
        if profile := tuning.profile_of(config(), draft, now.turns, now.documents):
            pairs.append(("Settings made for", PROFILES.get(profile, profile)))
        st.text("\n".join(f"{name}: {value}" for name, value in pairs))
        if changed := tuning.differences(settings, start):
            st.caption("Changed from the defaults")
            st.text(
                "\n".join(
                    f"{words_of(key).label}: {said(value)} (usually {said(before)})" for key, value, before in changed
                )
            )
    st.button(
        "Start training",
        type="primary",
        icon=":material/school:",
        disabled=bool(why),
        on_click=_start,
        args=(draft, settings),
    )
    if why:
        st.caption(presentable(why))


def _start(draft: Draft, settings: FineTuningConfig) -> None:
    if attempt(lambda: tuning.start(draft, settings, service().ollama_url), "Not begun"):
        state.train_step = WATCH


# 4 Watch, 5 Finish


def watch_it() -> None:
    job = learning.look().job
    if job is None:
        st.info("Nothing was trained yet: choose model, data and settings first.", title="Nothing to watch")
        st.button("Settings", on_click=go, args=(SETTINGS,))
        return
    watch(job.id, presentable)  # draws the page anew when the job is over


def finish(now: Situation, job: Job | None) -> None:
    if job is None:
        st.info("No training has ended yet.", title="Nothing is finished")
        return
    if not job.over:
        st.info("The training is still running.", title="Not finished yet")
        st.button("Watch it", on_click=go, args=(WATCH,))
        return
    end = verdict(job, presentable)
    if not end.tag:
        again(job)
    for prompt, before, after in end.answers:
        with st.container(border=True):
            st.markdown("**Asked**")
            st.text(prompt)
            left, right = st.columns(2)
            left.caption("Before")
            left.text(before)
            right.caption("Now")
            right.text(after)
    if end.tag:
        facts(service().registry, end.tag, presentable)
        what_next(now, job, end.tag)
    if points := curve(job):
        curves(points)
    log_tail(job)


def what_next(now: Situation, job: Job, tag: str) -> None:
    name, _, version = tag.rpartition(":v")
    address = f"/api/versions/{name}/{version}/file?part="
    choice = models().get(tag)
    with st.container(horizontal=True, vertical_alignment="center"):
        # a refused version needs a warning first, on the page Models
        if choice and not choice.live and not choice.refused:
            st.button("Use it", type="primary", icon=":material/swap_horiz:", on_click=_use, args=(name, version))
        if choice and choice.refused and job.kind == "retrain":
            st.button(
                "Train more thoroughly", type="primary", icon=":material/school:", on_click=_firmer, args=(now, job)
            )
        st.page_link("pages/chat.py", label="Talk to it", icon=":material/forum:")
        st.page_link(
            "pages/models.py", label="Compare side by side", icon=":material/compare:", query_params=_compared(tag)
        )
        st.link_button("Report", f"/api/versions/{name}/{version}/report", icon=":material/description:")
        st.link_button("GGUF", f"{address}gguf", icon=":material/download:", help=meaning("GGUF"))
        st.link_button("Adapter", f"{address}adapter", icon=":material/download:", help=meaning("adapter"))


def _firmer(now: Situation, job: Job) -> None:
    """Open the settings with the data of a training whose version was refused, to learn it more thoroughly."""
    _clone(job.id, now.turns, now.documents)
    if state.train_step == SETTINGS:
        state.train_draft = replace(state.train_draft, level="thorough", changes={})


def _compared(tag: str) -> dict[str, str]:
    """Return the query parameters of a comparison of the new version with the model that answers now."""
    version = service().registry.tagged(tag)
    return comparison_of(version, models().default) if version else {"view": "compare"}


def _use(name: str, version: str) -> None:
    if attempt(lambda: models_of.use(engine(), config(), version, name=name), "Not switched"):
        models.clear()
        st.toast(f"{name} v{version} answers from now on", icon=":material/swap_horiz:")


def draw() -> None:
    st.title("Train", anchor=False)
    now = open_page()
    st.segmented_control("Step", STEPS, key="train_step", required=True, label_visibility="collapsed")
    step = state.train_step
    train_place.leave_mark()
    if step == MODEL:
        choose_model(now)
    elif step == DATA:
        train_data.draw(now)
        next_button(SETTINGS)
    elif step == SETTINGS:
        choose_settings(now)
    elif step == WATCH:
        watch_it()
    else:
        finish(now, learning.look().job)


draw()
