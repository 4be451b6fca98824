"""Draw the page Models: versions with their verdicts, base models, and a comparison of two models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import compare, first_model, version_more
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning, meanings_in
from chatbot.resources import connect_again, engine, models
from chatbot.server import config, service
from fine_tuning.engines.base import ModelSummary
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import chats, ollama_integration
from fine_tuning.integration.versions import Lessons, comparison_of, has_report, judged, lessons, marks, verdict
from fine_tuning.model_management.model_pruner import prune_one, why_kept
from fine_tuning.model_management.model_registry import Version
from fine_tuning.model_management.model_switcher import refusal
from fine_tuning.runs import only_one
from fine_tuning.units import answers, size

VIEWS = {"versions": "Versions", "compare": "Compare"}
SHOWN, CHATS = 10, 20  # versions shown at first; chats on a page of those that taught a version
BADGES: dict[str, Literal["green", "blue", "red", "gray", "violet"]] = {
    "live": "green",
    "previous": "blue",
    "refused": "red",
    "candidate": "gray",
    "out of use": "gray",
    "pinned": "violet",
}
ICONS = {
    "passed": ":material/check:",
    "warned": ":material/warning:",
    "refused": ":material/close:",
    "not judged": ":material/remove:",
}

state = st.session_state


# What people do


def change_models(what: Callable[[], object], done: str = "") -> None:
    """Call `what`, which changes models or versions; then show the message `done`, or the error."""
    if not attempt(what):
        return
    models.clear()
    if done:
        st.toast(presentable(done), icon=":material/check:")


def use(version: Version, by_hand: bool = False) -> None:
    change_models(
        lambda: ollama_integration.use(engine(), config(), str(version.number), name=version.name, by_hand=by_hand),
        f"{version.tag} answers from now on",
    )


def roll_back(name: str) -> None:
    change_models(
        lambda: ollama_integration.roll_back(engine(), config(), name=name),
        "The model that was in use before is in use again",
    )


def compare_with_who_answers(version: Version) -> None:
    """Open the comparison of `version` with the default model; if `version` is the default, with its base model."""
    state.view = "compare"
    st.query_params.update(comparison_of(version, models().default))


def change(version: Version, **values: object) -> None:
    change_models(lambda: service().registry.update(version.name, version.number, **values))


def annotate(version: Version, notes: str, labels: str) -> None:
    change(
        version,
        notes=state[notes],
        labels=[label.strip()[:100] for label in state[labels].split(",") if label.strip()][:50],
    )


def remove(version: Version) -> None:
    def prune() -> None:
        with only_one():
            state.freed = prune_one(engine(), service().registry, version.name, version.number).bytes

    change_models(prune)


def forget(session: str) -> None:
    change_models(
        lambda: chats.forget(service(), [session], origin="the models page"),
        "It is being forgotten: the bar above shows the progress",
    )


# Dialogs


def sure(label: str, what: Callable[..., None], *args: object) -> None:
    """Draw the button that confirms a dialog: it calls `what` and closes the dialog."""
    if st.button(label, type="primary", on_click=what, args=args):
        st.rerun()


@st.dialog("Use a version that the gate refused?")
def ask_use(version: Version) -> None:
    st.warning(presentable(refusal(version)), icon=":material/gpp_maybe:")
    st.markdown(
        "It may answer worse than the model in use now. You can go back at any time; it is noted that you chose it by "
        "hand."
    )
    sure("Use it nevertheless", use, version, True)


@st.dialog("Delete this version?")
def ask_delete(version: Version) -> None:
    found = prune_one(engine(), service().registry, version.name, version.number, dry_run=True)
    back = f"**{size(found.bytes)}** are freed on the disk"
    st.markdown(f"**{version.tag}**, its training and its report are deleted: {back}. It cannot be undone.")
    sure("Delete for good", remove, version)


@st.dialog("Forget this chat?")
def ask_forget(session: str, count: int) -> None:
    gone = f"All that was said in it is deleted from the log and from every file. Learned from it: **{answers(count)}**"
    st.markdown(
        f"{gone}; the versions that learned them are deleted, too, and a new version is trained without them. This "
        "cannot be undone."
    )
    sure("Forget it for good", forget, session)


@st.dialog("Which chats taught it", width="large")
def show_lessons(version: Version) -> None:
    log = service().log()
    try:
        taught = lessons(log, service().registry, version)
    except ByoaiError as error:
        st.error(presentable(str(error)))
        return
    gone = f", **{taught.forgotten}** of them no longer in the log" if taught.forgotten else ""
    st.markdown(f"{version.tag} learned **{answers(taught.learned)}**{gone}.")
    for source, count in taught.elsewhere.items():
        st.markdown(presentable(f"Of {source}: **{count}**."))
    last = max(-(-len(taught.chats) // CHATS), 1)
    page = int(st.number_input("Page", 1, last, key=f"page-{version.tag}")) if last > 1 else 1
    _chats(version, taught, page)


def _chats(version: Version, taught: Lessons, page: int) -> None:
    shown = taught.chats[(page - 1) * CHATS : page * CHATS]
    first = {
        turn.session_id: turn.user_message for turn in service().log().index.turns([chat.turns[0] for chat in shown])
    }
    for chat in shown:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.page_link(
                "pages/chat.py",
                label=presentable(_title(first.get(chat.session, ""))),
                query_params={"chat": chat.session},
            )
            st.caption(answers(len(chat.turns)), width="content")
            key = f"forget-{version.tag}-{chat.session}"
            asked = (chat.session, len(chat.turns))
            if st.button(
                "Forget …", key=key, type="tertiary", icon=":material/delete_forever:", on_click=_to_forget, args=asked
            ):
                st.rerun()


def _to_forget(session: str, count: int) -> None:
    """Open the dialog for forgetting at the next drawing, since a dialog cannot open another one."""
    state.to_forget = session, count


def _title(question: str) -> str:
    line = " ".join(question.split())
    plain = "".join(f"\\{each}" if each in "\\`*_[]:$<>#~|!" else each for each in line[:80])
    return plain + "…" * (len(line) > 80) or "A chat"


# The page


@dataclass(frozen=True)
class Seen:
    """Facts that are looked up once for all versions on the page."""

    served: Mapping[str, ModelSummary]  # by tag
    learned: Mapping[tuple[str, int], int]  # number of turns that taught a version, by its name and number


def versions(seen: Seen) -> None:
    found = service().registry.list()
    if not found:
        st.info(
            "Each training on your chats and documents makes a version, and the better one answers.",
            title="No version yet",
        )
        st.page_link("pages/train.py", label="Train one", icon=":material/school:")
    for name in dict.fromkeys(version.name for version in found):
        of_name = sorted((version for version in found if version.name == name), key=lambda each: -each.number)
        st.subheader(name.removeprefix(models().prefix) or name, anchor=False, help=meaning("version"))
        previous = service().registry.previous(name)
        if previous or service().registry.live(name):
            st.button(
                f"Answer with v{previous.number} again" if previous else "Let the base answer again",
                key=f"back-{name}",
                icon=":material/undo:",
                on_click=roll_back,
                args=(name,),
            )
        for version in of_name if state.get(f"all-{name}") else of_name[:SHOWN]:
            card(version, seen)
        if len(of_name) > SHOWN:
            st.toggle(f"Show all {len(of_name)} versions", key=f"all-{name}")


def card(version: Version, seen: Seen) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**v{version.number}**", width="content")
            for mark in marks(version):
                st.badge(mark, color=BADGES[mark])
            for label in version.labels:
                st.badge(presentable(label), color="gray")
        st.text(told := verdict(version), help=meanings_in(told))
        learned, served = seen.learned.get((version.name, version.number), 0), seen.served.get(version.tag)
        when, dataset = version.created[:16].replace("T", " "), version.dataset and f"dataset {version.dataset[:8]}"
        made = [
            f"learned {answers(learned)}",
            when,
            version.method,
            version.base_tag,
            dataset,
            size(served.size) if served else "",
        ]
        st.caption(" · ".join(filter(None, made if version.made_here else ["found in the engine", when])))
        if version.notes:
            st.text(version.notes)
        actions(version, seen)


def actions(version: Version, seen: Seen) -> None:
    key, refused = version.tag, bool(refusal(version))
    with st.container(horizontal=True):
        if version.state != "live":
            label, help = ("Use anyway …", "The gate refused it") if refused else ("Use", "Let this version answer")
            if st.button(label, key=f"use-{key}", help=help, icon=":material/swap_horiz:"):
                ask_use(version) if refused else _used(version)
        pin = ("Unpin", ":material/keep_off:") if version.pinned else ("Pin", ":material/keep:")
        pinned = {"pinned": not version.pinned}
        st.button(
            pin[0],
            key=f"pin-{key}",
            icon=pin[1],
            help=meaning("pinned"),
            on_click=change,
            args=(version,),
            kwargs=pinned,
        )
        if version.state != "retired":
            st.button(
                "Compare",
                key=f"compare-{key}",
                icon=":material/compare:",
                help="Ask this version and the one in use the same question",
                on_click=compare_with_who_answers,
                args=(version,),
            )
        if version.made_here and st.button("What taught it", key=f"taught-{key}", icon=":material/menu_book:"):
            show_lessons(version)
        if has_report(version):
            st.link_button(
                "Report", f"/api/versions/{version.name}/{version.number}/report", icon=":material/description:"
            )
        delete(version, seen)
    version_more.draw(version)
    details(version)


def _used(version: Version) -> None:
    use(version)
    st.rerun()


def delete(version: Version, seen: Seen) -> None:
    why = why_kept(version, {tag: model.digest for tag, model in seen.served.items()})
    help = f"Kept: {why}" if why else None
    if st.button("Delete …", key=f"delete-{version.tag}", icon=":material/delete:", disabled=bool(why), help=help):
        ask_delete(version)


def details(version: Version) -> None:
    rules = judged(version)
    with st.expander("Rules, note and labels"):
        for rule in rules:
            told = f"{ICONS[rule.outcome]} **{rule.rule}** ({rule.outcome}): {rule.reason}"
            st.markdown(presentable(told), help=meanings_in(told))
            if rule.measured and rule.measured != "none":
                told = f"Measured {rule.measured}; required: {rule.limit}"
                st.caption(presentable(told), help=meanings_in(told))
        if not rules:
            st.caption("The gate has not judged it.")
        notes, labels = f"note-{version.tag}", f"labels-{version.tag}"
        names = (version, notes, labels)
        st.text_area("Note", version.notes, key=notes, max_chars=10_000, on_change=annotate, args=names)
        st.text_input(
            "Labels, with commas between them", ", ".join(version.labels), key=labels, on_change=annotate, args=names
        )


def bases(seen: Seen) -> None:
    st.subheader("Bases", anchor=False, help=meaning("base"))
    if models().missing:
        first_model.draw("models")
    known = {choice.tag for choice in models().found if choice.kind == "base"}
    for model in (each for tag, each in seen.served.items() if tag in known):
        facts = [size(model.size), model.parameter_size and f"{model.parameter_size} parameters", model.quantization]
        st.markdown(f"**{model.tag}** · " + " · ".join(filter(None, facts)), help=meaning("quantisation"))


def last_question(chat: str) -> str:
    """Return the last question of a recorded chat; "" if there is none.

    The page's address contains only the chat's id, since browsers store addresses.
    """
    turns = service().log().index.turns_of(chat) if chat else []
    return turns[-1].user_message if turns else ""


def draw() -> None:
    st.title("Models", anchor=False)
    if trouble := models().trouble:
        st.error(presentable(trouble), title="No engine is running", icon=":material/power_off:")
        st.button("Look again", icon=":material/refresh:", on_click=connect_again)
        return
    if freed := state.pop("freed", None):
        st.toast(f"{size(freed)} are free again", icon=":material/check:")
    if asked := state.pop("to_forget", None):
        ask_forget(*asked)
    first = st.query_params.get("view", "versions")
    state.setdefault("view", first if first in VIEWS else "versions")
    view = st.segmented_control(
        "View", list(VIEWS), format_func=VIEWS.__getitem__, key="view", required=True, label_visibility="collapsed"
    )
    if view == "compare":
        if not models().found:
            first_model.draw("models")
            return
        pair = st.query_params.get("one", ""), st.query_params.get("other", "")
        compare.draw(last_question(st.query_params.get("chat", "")), pair)
    else:
        compare.drop()
        seen = Seen({model.tag: model for model in engine().list_models()}, service().registry.turn_counts())
        versions(seen)
        bases(seen)


draw()
