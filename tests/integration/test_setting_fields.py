"""The settings as a form asks for them."""

from typing import get_args

import pytest

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config.flat import dotted
from fine_tuning.errors import ConfigError
from fine_tuning.integration.setting_fields import Bounds, Field, Kind, bounds, field, fields
from fine_tuning.integration.tuning import value_of

# A method may need other settings, too; only `byoai export` writes training data as text.
UNASKED = ("training.method", "data_preparation.format_type")
SECTIONS = ("training", "data_preparation", "data_collection", "evaluation", "gate", "deployment", "schedule", "chat")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("training.use_dora", "switch"),
        ("training.lora_r", "whole"),
        ("training.learning_rate", "number"),
        ("training.method", "choice"),  # an enumeration
        ("training.lr_scheduler", "choice"),  # literals
        ("training.base_model", "text"),
        ("evaluation.test_prompts", "lines"),
        ("deployment.model_name", "text"),
        ("data_collection.conflicts", "choice"),
    ],
)
def test_a_settings_kind_is_that_of_its_type(key: str, kind: Kind) -> None:
    found = field(key)
    assert found.kind == kind and found.key == key
    assert bool(found.choices) == (kind == "choice") and (found.bounds is not None) == (kind in ("whole", "number"))


def test_every_choice_is_one_that_the_configuration_takes() -> None:
    for each in fields(*SECTIONS):
        for choice in each.choices:
            if each.key not in UNASKED:
                assert value_of(load_config().changed({each.key: choice}), each.key) == choice


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("training.num_epochs", Bounds(True, least=1)),
        ("gate.forgetting", Bounds(False, least=0)),
        ("schedule.new_turns", Bounds(True, least=1)),
    ],
)
def test_bounds_are_those_of_the_configuration(key: str, allowed: Bounds) -> None:
    found = bounds(key)
    assert (found.whole, found.least, found.above) == (allowed.whole, allowed.least, allowed.above)


@pytest.mark.parametrize("each", [each for each in fields(*SECTIONS) if each.bounds], ids=lambda each: each.key)
def test_what_is_within_the_bounds_is_taken_and_what_is_not_is_refused(each: Field) -> None:
    allowed = each.bounds
    assert allowed is not None
    now = value_of(load_config(), each.key)
    if now is not None:
        assert (allowed.least is None or now >= allowed.least) and (allowed.most is None or now <= allowed.most)
    for side, step in ((allowed.least, -1), (allowed.most, 1)):
        if side is not None:
            with pytest.raises(ConfigError, match=each.key.rpartition(".")[2]):
                load_config().changed({each.key: side + step})


def test_a_form_can_ask_for_nearly_all_of_a_section_and_no_key_twice() -> None:
    asked = [each.key for each in fields(*SECTIONS)]
    there = [key for key, _ in dotted(load_config().model_dump(mode="json")) if key.partition(".")[0] in SECTIONS]
    assert len(asked) == len(set(asked)) and set(asked) <= set(there)
    assert set(there) - set(asked) == {"schedule.hours"}  # a pair of numbers
    assert {each.kind for each in fields(*SECTIONS)} == set(get_args(Kind))


@pytest.mark.parametrize("key", ["training.nonesuch", "schedule.hours", "nonesuch.x"])
def test_a_key_that_no_form_can_ask_is_refused(key: str) -> None:
    with pytest.raises(KeyError):
        field(key)


def test_every_section_of_the_configuration_has_fields_or_none_that_a_form_can_ask() -> None:
    for name in FineTuningConfig.model_fields:
        assert all(each.key.startswith(f"{name}.") for each in fields(name))
