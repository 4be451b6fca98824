"""What `retrain --dry-run` says before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fine_tuning.cli.facts import of_plan
from fine_tuning.cli.show import show_plan
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.cleaning import turn_decisions
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.durations import EVALUATING, Around
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Event, Note, Watch
from fine_tuning.plan import Plan
from fine_tuning.planning import make_plan
from fine_tuning.training import machine
from fine_tuning.workshop import Request, Workshop

pytestmark = pytest.mark.usefixtures("known_machine")

NUMBERS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Engine:
    engine = EmbeddedEngine(tmp_path_factory.mktemp("engine"))
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    return engine


def log_exchanges(count: int, new_session: Callable[[ConversationLogger, int], bool]) -> None:
    log = ConversationLogger()
    for index in range(count):
        if new_session(log, index):
            log.session_id = f"session-{index}"  # its variants are drawn by it
        key = f"{NUMBERS[index % 14]} {NUMBERS[index // 14]}"
        log.log_conversation(
            f"Where do I find the key with the number {key}?", f"That key lies in the box beside door {key}."
        )


def settings(**changes: object) -> FineTuningConfig:
    return load_config(overrides={"training.replay.share": 0, **changes})


def warnings(plan: Plan, capsys: pytest.CaptureFixture[str]) -> str:
    """As the command line shows them."""
    show_plan(plan)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert shown == [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(shown)


@pytest.mark.parametrize(("count", "pairs"), [(1, "1 question-answer pair,"), (2, "2 question-answer pairs,")])
def test_too_few_pairs_are_a_warning(
    home: Path, engine: Engine, capsys: pytest.CaptureFixture[str], count: int, pairs: str
) -> None:
    log_exchanges(count, lambda log, index: True)
    plan = make_plan(Workshop(settings(), engine))
    assert f"Training data too small: {pairs} and 100+ are recommended" in warnings(plan, capsys)
    assert len(plan.warnings) == 1


def test_the_whole_time_is_said_and_what_of_it_is_the_training(home: Path, engine: Engine) -> None:
    log_exchanges(30, lambda log, index: True)
    plan = make_plan(Workshop(settings(**{"training.replay.share": 0.3}), engine))
    times, record = plan.times, plan.record()
    assert times.training == plan.estimate.seconds and times.parts[EVALUATING] > 0
    assert dict(plan.facts())["time"] == str(times) == record["times"]["told"] == of_plan(plan)["times"]["told"]
    assert Around.of(record["around"]).times(plan.config, plan.estimate.seconds) == times  # as a page reckons it


@pytest.mark.parametrize(
    ("count", "new_session", "one_session"),
    [
        (64, lambda log, index: False, "64 of 64 turns are in one session"),
        (64, lambda log, index: index > 40, "41 of 64 turns are in one session"),
        (9, lambda log, index: False, "9 of 9 turns are in one session"),
        (64, lambda log, index: True, None),
        (64, lambda log, index: index % 20 == 0, None),
        (7, lambda log, index: False, None),
    ],
)
def test_many_exchanges_in_one_session_are_a_warning(
    home: Path,
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
    count: int,
    new_session: Callable[[ConversationLogger, int], bool],
    one_session: str | None,
) -> None:
    log_exchanges(count, new_session)
    said = warnings(make_plan(Workshop(settings(**{"training.min_pairs": 1}), engine)), capsys)
    assert said == "" if one_session is None else one_session in said and "new_session()" in said


def test_a_conversation_that_is_longer_than_fits_is_a_warning(
    home: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    log_exchanges(60, lambda log, index: index % 20 == 0)
    plan = make_plan(Workshop(settings(**{"training.min_pairs": 1, "data_preparation.max_length": 256}), engine))
    said = warnings(plan, capsys)
    lost = 60 - sum(counts["turns"] for counts in plan.counts.values())
    assert 0 < lost < 60
    assert f"longer than 256 tokens: 3 of 3 conversations. What does not fit is not learned: {lost} of 60 turns" in said
    assert "new_session()" in said and "data_preparation.max_length" in said


def test_what_is_planned_a_second_time_is_not_cleaned_again(
    home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_exchanges(20, lambda log, index: True)
    cleaned: list[str] = []
    normalised = turn_decisions.normalised
    monkeypatch.setattr(turn_decisions, "normalised", lambda text: cleaned.append(text) or normalised(text))
    monkeypatch.setattr(machine, "free_ram", lambda: int(1.2e9))
    told: list[Event] = []
    config = settings(**{"training.min_pairs": 1, "training.dtype": "bfloat16"})
    plan = make_plan(Workshop(config, engine, Watch(told.append), Request(auto=True)))
    assert any("--auto changes the settings to" in event.text for event in told if isinstance(event, Note))
    assert plan.config != config and plan.estimate.fits
    assert plan.kept_turns == 20
    assert len(cleaned) == 40


def test_the_plan_says_how_many_variants_are_learned_beside_the_chats(engine: Engine, home: Path) -> None:
    log_exchanges(20, lambda log, index: True)
    plain, varied = (make_plan(Workshop(settings(**more), engine)) for more in ({}, {"augmentation.noise": 2}))
    before = plain.counts["train"]["conversations"]
    assert "variants" not in dict(plain.facts())
    assert dict(varied.facts())["variants"] == f"{2 * before} by noise"
    assert varied.counts["train"]["conversations"] == 3 * before
    assert varied.turn_ids == plain.turn_ids
    assert varied.estimate.steps > plain.estimate.steps
