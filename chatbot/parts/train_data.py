"""Draw the second step of the page Train, the data: the chats and imports, the shipped sample, or a file.

A file can be uploaded here; a document becomes questions and answers, as on the page Data.
"""

from dataclasses import replace

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import upload, waiting
from chatbot.parts.doing import attempt
from chatbot.parts.upload import Incoming
from chatbot.server import config, service
from fine_tuning import paths
from fine_tuning.integration import datasets, learning, watched
from fine_tuning.integration.datasets import Dataset
from fine_tuning.integration.tuning import Draft, Situation
from fine_tuning.jobs.store import State
from fine_tuning.units import answers, size

SOURCES = {
    "chats": "Your own chats, and what you imported",
    "sample": "The shipped sample: a made-up company's handbook",
    "dataset": "A file",
}
GLANCE = 1.0  # seconds between checks of a download

state = st.session_state


def draw(now: Situation) -> None:
    if job := state.get("import-asked"):
        _watch_import(job)
    draft: Draft = state.train_draft
    sources = list(SOURCES)
    least = learning.least_turns(config())
    said = "1 question with its answer" if now.turns == 1 else f"{now.turns:,} questions with their answers"
    if now.documents:
        said += f", {'all' if now.documents == now.turns else f'{now.documents:,}'} of them made of documents"
    st.radio(
        "What does it learn from?",
        sources,
        index=sources.index(draft.data),
        format_func=SOURCES.__getitem__,
        captions=[
            said + (f"; it takes {least} at least" if now.turns < least else ""),
            "150 questions and answers, learned in minutes",
            "A handbook or another document, chats, or questions and answers; also of Hugging Face",
        ],
        key=f"train-data-{draft.data}",
        on_change=_set_data,
        args=(f"train-data-{draft.data}",),
    )
    if draft.data == "dataset":
        _file(draft)
    elif draft.data == "chats":
        st.page_link("pages/data.py", label="Look at what will be learned", icon=":material/table_view:")


def _set_data(widget: str) -> None:
    state.train_draft = replace(state.train_draft, data=state[widget], changes={})
    state.train_round = state.get("train_round", 0) + 1


def _watch_import(id: str) -> None:
    """Draw the progress of an import; when it is completed, choose the chats and imports as the training data."""
    job = service().queue.get(id)
    if not job.over:
        waiting.until_over(id, "Importing")
        return
    waiting.failure(job)
    asked_here = state.pop("train-learns-import", False)
    if job.state != State.COMPLETED:
        return
    if asked_here:
        state.train_draft = replace(state.train_draft, data="chats", dataset=None, changes={})
        st.rerun()
    if state.train_draft.data == "chats" and (added := paths.read_json(job.result)["added"]):
        st.success(f"The import added {answers(added)}. What it brought is learned with your chats.")


# A file


def _file(draft: Draft) -> None:
    upload.draw(_offer)
    known = [each for each in datasets.find() if datasets.format_of(each)]
    if known:
        index = next(
            (number for number, each in enumerate(known) if draft.dataset and each.file == draft.dataset.file), None
        )
        st.selectbox(
            "A file that is here already",
            range(len(known)),
            index,
            format_func=lambda number: f"{known[number].name} · {size(known[number].bytes)} · {known[number].kind}",
            placeholder="Choose one",
            key=f"train-file-{len(known)}-{index}",
            on_change=_set_known,
            args=(known, f"train-file-{len(known)}-{index}"),
        )
    if draft.dataset and draft.dataset.type == "text":
        st.info(
            "From plain text it learns how such text continues. To have it answer questions, make questions from the "
            "text."
        )
        if draft.dataset.kind == "upload":
            st.button(
                "Make questions of it",
                icon=":material/quiz:",
                on_click=upload.open_again,
                args=(draft.dataset.id,),
            )
    with st.expander("A dataset of Hugging Face", icon=":material/cloud_download:"):
        name = st.text_input("Name", placeholder="owner/name", key="train-hub")
        st.button("Fetch", on_click=_fetch, args=(name,), disabled="/" not in name)
        if job := state.get("train_fetch"):
            _watch_fetch(job)


def _set_known(known: list[Dataset], widget: str) -> None:
    if state[widget] is not None:
        _set_dataset(known[state[widget]])


def _set_dataset(dataset: Dataset) -> None:
    state.train_draft = replace(state.train_draft, dataset=dataset, changes={})


def _offer(file: Incoming) -> None:
    """Draw buttons that import a file into the log, or use the file itself as the training data."""
    dataset = datasets.get("upload", file.id)
    as_it_is, text = datasets.format_of(dataset) is not None, dataset.type == "text"
    if file.questions or not as_it_is:
        st.button(
            "Learn these answers" if file.questions else "Import and learn it",
            type="primary",
            icon=":material/school:",
            disabled=not file.importable,
            on_click=_import,
            args=(file,),
        )
    if as_it_is:
        st.button(
            "Learn how its text goes on" if text else "Learn it",
            type="secondary" if file.questions else "primary",
            icon=":material/school:",
            on_click=_learn,
            args=(dataset,),
        )


def _import(file: Incoming) -> None:
    upload.import_it(file)
    state["train-learns-import"] = True


def _learn(dataset: Dataset) -> None:
    _set_dataset(dataset)
    upload.done()


# Hugging Face


def _fetch(name: str) -> None:
    def fetching() -> None:
        state.train_fetch = service().queue.submit("prepare", datasets.hub_request(name.strip()), origin="the page").id

    attempt(fetching, "Not begun")


@st.fragment(run_every=GLANCE)
def _watch_fetch(id: str) -> None:
    watched.note(id)
    job = service().queue.get(id)
    if not job.over:
        st.caption("The dataset is being downloaded")
        return
    if job.state == State.COMPLETED:
        found = paths.read_json(job.result)
        _set_dataset(datasets.prepared(found["file"]))
        del state["train_fetch"]
        st.rerun()
    st.error(
        presentable(job.reason),
        title="It could not be downloaded: check the name, and whether this machine can reach huggingface.co",
    )
