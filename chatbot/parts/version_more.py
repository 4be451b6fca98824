"""Draw the forms to make a smaller version from a version, or to merge it with others of the same base."""

from collections.abc import Sequence

import streamlit as st

from chatbot.markdown import presentable
from chatbot.parts import waiting
from chatbot.parts.doing import attempt
from chatbot.parts.words import meaning
from chatbot.resources import models
from chatbot.server import service
from fine_tuning.integration import making
from fine_tuning.integration.making import METHODS, Forms
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Version

ORIGIN = "the models page"
_CHOICES = {
    "smaller": ":material/compress: Smaller",
    "combine": ":material/merge: Combined",
}
_SIGNS = {"live": st.success, "registered": st.info, "refused": st.warning}

state = st.session_state


def draw(version: Version) -> None:
    """Draw the expander in which a version can be made smaller or merged; nothing if that is not possible.

    It is an expander rather than a menu, since a menu loses the keyboard's focus when it closes.
    """
    if not making.can_be_made_smaller(version):
        return
    more = st.expander("Make it smaller, or combine it with another", key=f"more-{version.tag}", on_change="rerun")
    if not more.open:
        return
    with more:
        what = st.segmented_control(
            "What to make",
            list(_CHOICES),
            default="smaller",
            required=True,
            format_func=_CHOICES.__getitem__,
            key=f"making-{version.tag}",
            label_visibility="collapsed",
        )
        _smaller(version) if what == "smaller" else _combine(version)


def _measure(version: Version) -> None:
    attempt(lambda: making.measure(service(), version, ORIGIN), "Not begun")


def _make(version: Version) -> None:
    attempt(lambda: making.make_smaller(service(), version, state[f"form-{version.tag}"], ORIGIN), "Not begun")


def _begin_to_combine(version: Version, parts: Sequence[Version]) -> None:
    weighted = [(part, float(state[_weight_key(version, part)])) for part in parts]
    attempt(lambda: making.combine(service(), weighted, state[f"how-{version.tag}"], ORIGIN), "Not begun")


def _is_at_work(job: Job | None, what: str) -> bool:
    """If a job is not over, draw its progress, and return True; else return False."""
    if job and not job.over:
        waiting.until_over(job.id, what, models.clear)
        return True
    return False


def _ended(job: Job | None) -> None:
    """Draw the result of a job that made a version; nothing if there is no such job."""
    waiting.failure(job)
    if job and job.state == State.COMPLETED and (end := progress_of_job(job).finished):
        _SIGNS.get(end.state, st.info)(presentable(end.text), icon=":material/check:")


# Smaller


def _smaller(version: Version) -> None:
    measured, made = making.measuring(service(), version), making.shrinking(service(), version)
    if _is_at_work(measured, "Measuring") or _is_at_work(made, "Making it"):
        return
    if found := making.forms(measured):
        _table(found)
        _choose_form(version, found)
    else:
        waiting.failure(measured)
        st.markdown("How large, how fast and how good would it be in fewer bits? Each form is made, and measured.")
    _ended(made)
    st.button(
        "Measure again" if found else "Measure",
        key=f"measure-{version.tag}",
        type="secondary" if found else "primary",
        on_click=_measure,
        args=(version,),
        help="Takes some minutes, in the background",
    )


def _choose_form(version: Version, found: Forms) -> None:
    """Draw a choice of the smaller forms, with a button that stands out only if one of them is recommended."""
    if not found.smaller:
        return
    st.selectbox("Form of the new version", found.smaller, key=f"form-{version.tag}")
    st.button(
        "Make it",
        key=f"make-{version.tag}",
        type="primary" if found.recommended in found.smaller else "secondary",
        on_click=_make,
        args=(version,),
    )
    st.caption("The gate judges the new version like any other; this version is kept.")


def _table(found: Forms) -> None:
    head = "| Form | Size | Speed | Quality lost |\n|---|---|---|---|\n"
    rows = (
        " | ".join(f"**{cell}**" if form.name == found.recommended else cell for cell in cells)
        for form in found.table
        for cells in [(form.name, form.size.replace(" ", "\u00a0"), form.speed, form.quality)]
    )
    st.markdown(
        head + "\n".join(f"| {row} |" for row in rows), help=f"{meaning('quantisation')} {meaning('quality lost')}"
    )
    st.markdown(presentable(found.why))


# Combined


def _combine(version: Version) -> None:
    job = making.combining(service(), version)
    if _is_at_work(job, "Combining"):
        return
    _ended(job)
    others = {each.tag: each for each in making.partners(service().registry, version)}
    if not others:
        st.caption("There is no other version of the same base that it could be combined with: train one more.")
        return
    chosen = st.multiselect(
        "With", list(others), default=list(others)[:1], format_func=models().title, key=f"with-{version.tag}"
    )
    st.radio(
        "How",
        list(METHODS),
        format_func=lambda each: METHODS[each][0],
        captions=[caption for _, caption in METHODS.values()],
        key=f"how-{version.tag}",
        help=meaning("combined"),
    )
    parts = [version, *(others[tag] for tag in chosen)]
    for part in parts:
        _weight(version, part)
    st.button(
        "Combine",
        key=f"combine-{version.tag}",
        type="primary",
        disabled=not chosen,
        on_click=_begin_to_combine,
        args=(version, parts),
    )
    st.caption("The gate judges the combined version like any other; the versions that it is made of are kept.")


def _weight(version: Version, part: Version) -> None:
    st.number_input(
        f"Weight of {models().title(part.tag)}",
        min_value=0.05,
        max_value=2.0,
        value=1.0,
        step=0.05,
        key=_weight_key(version, part),
        help=meaning("weight"),
    )


def _weight_key(version: Version, part: Version) -> str:
    return f"weight-{version.tag}-{part.tag}"
