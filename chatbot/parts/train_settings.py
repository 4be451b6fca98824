"""Draw the settings of a training: a few in plain words, all others under "Advanced". Choices change the draft."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import streamlit as st

from chatbot.parts.words import meaning, meanings_in
from fine_tuning.api.train_form import METHODS
from fine_tuning.config import FineTuningConfig
from fine_tuning.config.training import FineTuningMethod
from fine_tuning.integration import tuning
from fine_tuning.integration.setting_fields import Field, bounds, field, fields
from fine_tuning.integration.setting_words import SECTIONS, words_of
from fine_tuning.integration.settings import may_change
from fine_tuning.integration.tuning import RANKS, Draft, Forecast, Level

state = st.session_state

_ASKED = ("training", "data_preparation", "augmentation", "evaluation", "gate", "deployment")  # under "Advanced"
_ABOVE = {  # asked for in plain words or elsewhere, or useless for a training
    *("training.base_model", "training.method", "training.num_epochs", "training.learning_rate", "training.lora_r"),
    *(
        "data_preparation.train_ratio",
        "data_preparation.validation_ratio",
        "data_preparation.format_type",
        "evaluation.canaries",
    ),
}


def draw(
    start: FineTuningConfig, settings: FineTuningConfig, forecast: Forecast | None, levels: Mapping[Level, str]
) -> None:
    """Draw the form for the settings of a training.

    `start`: the settings before the preset and the user's changes; `settings`: after them.
    `levels`: the names of the offered presets. `forecast` tells how many parameters are trained;
    None if it is not known yet.
    """
    st.segmented_control(
        "How thorough",
        list(levels),
        default=_draft().level,
        format_func=levels.__getitem__,
        required=True,
        key=_key("level"),
        on_change=_set_level,
        help=(
            "How many times the model reads everything, and how much the addition can hold: both are computed for this "
            "machine."
        ),
    )
    left, right = st.columns(2)
    with left:
        training = settings.training
        _field(field("training.num_epochs"), settings, start)
        _field(field("training.learning_rate"), settings, start)
        share = round(100 * settings.data_preparation.validation_ratio)
        most = max(50, share)
        st.number_input(
            "Kept aside for validation, %",
            0,
            most,
            share,
            key=_key("split"),
            on_change=_set_split,
            args=(_key("split"), start),
            help=meaning("validation"),
        )
    with right:
        methods = [each.value for each in METHODS] + [training.method.value] * (training.method not in METHODS)
        captions = [METHODS[FineTuningMethod(each)][1] if FineTuningMethod(each) in METHODS else "" for each in methods]
        titles = {each.value: name for each, (name, _) in METHODS.items()}
        st.radio(
            words_of("training.method").label,
            methods,
            index=methods.index(training.method.value),
            format_func=lambda each: titles.get(each, each),
            captions=captions,
            key=_key("method"),
            on_change=_set,
            args=("training.method", _key("method"), start),
            help=meanings_in(" ".join(titles.values()), words_of("training.method").help),
        )
    _size(settings, start, forecast)
    _advanced(settings, start)


def _size(settings: FineTuningConfig, start: FineTuningConfig, forecast: Forecast | None) -> None:
    training = settings.training
    if training.method in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
        ranks = sorted({*RANKS, training.lora_r})

        def shown(rank: int) -> str:
            found = forecast and forecast.trained(settings.changed({"training.lora_r": rank}))
            return f"{_millions(found[0])} ({found[1]:.1%})" if found else f"size {rank}"

        st.selectbox(
            "How many parameters to train",
            ranks,
            ranks.index(training.lora_r),
            format_func=shown,
            key=_key("size"),
            on_change=_set_size,
            args=(_key("size"), settings, start),
            help=meanings_in("rank", f"{words_of('training.lora_r').help} It is {training.lora_r} now."),
        )
    elif forecast and (found := forecast.trained(settings)):
        st.caption(f"{_millions(found[0])} parameters are trained.")


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 100_000 else f"{count:,}"


def _advanced(settings: FineTuningConfig, start: FineTuningConfig) -> None:
    with st.expander("Advanced", icon=":material/tune:", key="train-advanced", on_change="rerun") as box:
        if not box.open:
            return
        shown = [each for each in fields(*_ASKED) if each.key not in _ABOVE and may_change(each.key)]
        for section in SECTIONS:
            found = [each for each in shown if each.section == section]
            if found:
                st.markdown(f"**{section}**")
            # each row has its own columns, so that phones show the fields in this order
            for row in zip_longest(found[::2], found[1::2]):
                for column, each in zip(st.columns(2, vertical_alignment="bottom"), row, strict=True):
                    with column:
                        if each:
                            _field(each, settings, start)


def _field(each: Field, settings: FineTuningConfig, start: FineTuningConfig) -> None:
    key, value = _key(each.key), tuning.value_of(settings, each.key)
    changed: dict[str, Any] = {"key": key, "on_change": _set, "args": (each.key, key, start)}
    changed["help"] = meanings_in(each.label, each.help)
    match each.kind:
        case "switch":
            st.toggle(each.label, value, **changed)
        case "choice":
            st.selectbox(each.label, each.choices, each.choices.index(value), **changed)
        case "whole" | "number":
            _number(each, settings, start)
        case "text":
            st.text_input(
                each.label, value or "", **{**changed, "args": (each.key, key, start, lambda text: text or None)}
            )
        case "lines":
            lines: Callable[[str], list[str]] = lambda text: [line for line in text.splitlines() if line.strip()]  # noqa: E731
            st.text_area(each.label, "\n".join(value), **{**changed, "args": (each.key, key, start, lines)})


def _number(each: Field, settings: FineTuningConfig, start: FineTuningConfig) -> None:
    """Draw the field of a number, with its bounds. The number is later checked again, with all other settings."""
    value, allowed = tuning.value_of(settings, each.key), each.bounds or bounds(each.key)
    kind = int if allowed.whole else float
    least = allowed.least if allowed.least is not None else allowed.above
    most = allowed.most if allowed.most is not None else allowed.below
    st.number_input(
        each.label,
        min_value=None if least is None else kind(least),
        max_value=None if most is None else kind(most),
        value=kind(value),
        step=1 if allowed.whole else max(abs(value) / 10, 1e-6),
        format=None if allowed.whole else "%.6g",
        key=_key(each.key),
        on_change=_set,
        args=(each.key, _key(each.key), start),
        help=meanings_in(each.label, each.help),
    )


# What people do


def _draft() -> Draft:
    draft: Draft = state.train_draft
    return draft


def _key(name: str) -> str:
    """Return the key of a widget. It changes when a preset or another page has changed the values."""
    return f"train-{state.setdefault('train_round', 0)}-{name}"


def _set_level() -> None:
    if level := state.get(_key("level")):
        state.train_draft = replace(_draft(), level=level, changes={})
        state.train_round += 1


def _set(dotted: str, widget: str, start: FineTuningConfig, made: Callable[[Any], Any] = lambda value: value) -> None:
    _take(widget, start, lambda value: {dotted: made(value)})


def _set_split(widget: str, start: FineTuningConfig) -> None:
    _take(widget, start, lambda share: tuning.split_changes(start, share / 100))


def _set_size(widget: str, settings: FineTuningConfig, start: FineTuningConfig) -> None:
    _take(widget, start, lambda rank: tuning.rank_changes(settings, rank))


def _take(widget: str, start: FineTuningConfig, changes: Callable[[Any], dict[str, Any]]) -> None:
    """Apply the changes that the value of a widget causes to the draft.

    Nothing is changed if the browser reports a value of a widget that was removed in the meantime, by
    a preset or another page.
    """
    if widget not in state:
        return
    basis = state.get("train_basis")
    over = start.changed(tuning.preset(start, _draft().level, basis))
    for key, value in changes(state[widget]).items():
        state.train_draft = _draft().with_change(key, value, over)
