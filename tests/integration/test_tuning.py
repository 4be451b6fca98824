"""A training as a person puts it together: its settings, its forecast, and what keeps it from its start."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.engines.base import ModelSummary
from fine_tuning.errors import ConfigError
from fine_tuning.integration import tuning
from fine_tuning.integration.datasets import Dataset
from fine_tuning.integration.tuning import Draft, Forecast, Situation
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.kinds import PlanRequest, RetrainRequest
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State

BASE = "smollm2:135m"
DRAFT = Draft(BASE)
THERE = Situation(turns=200, bases=(BASE,), running=False)


@pytest.fixture
def config() -> FineTuningConfig:
    return load_config()


@pytest.fixture
def queue(home: Path) -> Queue:
    """Its jobs do nothing: their program only exits."""
    return Queue(program=("true",))


def plan(queue: Queue, draft: Draft = DRAFT, **changes: object) -> Job:
    return tuning.forecast(queue, draft, load_config().changed(changes) if changes else load_config()).job


def finished(job: Job, state: State, reason: str = "") -> Job:
    """The same job, ended as said: what its process noted itself is written over."""
    Queue().wait(job.id, 60)
    store.remove(job.id)
    again = store.add("plan", job.request, id=job.id, here=processes.this_process())
    store.finish(again, state, reason, 0)
    return store.get(job.id)


# From a draft to settings


@pytest.mark.parametrize(
    ("data", "turns", "profile"),
    [
        ("sample", 0, "sample"),
        ("sample", 500, "sample"),
        ("chats", 6, "few_shot"),
        ("chats", 99, "few_shot"),
        ("chats", 100, ""),
        ("dataset", 3, ""),
    ],
)
def test_the_profile_that_fits_the_data_is_taken(
    config: FineTuningConfig, data: tuning.Data, turns: int, profile: str
) -> None:
    draft = replace(DRAFT, data=data)
    assert tuning.profile_of(config, draft, turns) == profile
    start = tuning.starting_point(config, draft, turns)
    there = load_config(profile=profile) if profile else config
    assert start.training.learning_rate == there.training.learning_rate and start.training.base_model == BASE


@pytest.mark.parametrize(("turns", "documents", "profile"), [(70, 70, "handbook"), (70, 30, "few_shot"), (150, 60, "")])
def test_what_is_mostly_made_of_documents_is_learned_as_a_handbook(
    config: FineTuningConfig, turns: int, documents: int, profile: str
) -> None:
    assert tuning.profile_of(config, DRAFT, turns, documents) == profile


def test_a_file_is_learned_in_its_own_format(config: FineTuningConfig, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("question,answer\na,b\n")
    dataset = Dataset("upload", "u1", "pairs.csv", "csv", 9, 0.0, file)
    start = tuning.starting_point(config, Draft(BASE, "dataset", dataset), 0)
    assert (start.dataset.path, start.dataset.format) == (file, "csv")
    assert tuning.starting_point(start, DRAFT, 200).dataset.path is None


def test_a_document_is_not_learned_quickly() -> None:
    assert list(tuning.levels("handbook")) == ["balanced", "thorough"]
    assert list(tuning.levels("")) == ["quick", "balanced", "thorough"]


@pytest.mark.parametrize("level", list(tuning.LEVELS))
@pytest.mark.parametrize("method", ["lora", "qlora", "full", "prefix_tuning"])
def test_presets_give_more_or_less_of_passes_and_adapter(
    config: FineTuningConfig, level: tuning.Level, method: str
) -> None:
    start = config.changed({"training.method": method, "training.num_epochs": 6})
    got = tuning.settings_of(start, replace(DRAFT, level=level)).training
    assert got.num_epochs == {"quick": 2, "balanced": 6, "thorough": 12}[level]
    rank = {"quick": 8, "balanced": 16, "thorough": 32}[level] if "lora" in method else 16
    assert got.lora_r == rank and got.lora_alpha == 2 * rank  # it counts as strongly as before


@pytest.mark.parametrize(
    ("rank", "alpha", "wanted", "scaled"), [(16, 32, 4, 8), (16, 32, 128, 256), (16, 1, 2, 1), (8, 12, 2, 3)]
)
def test_another_rank_counts_as_strongly(
    config: FineTuningConfig, rank: int, alpha: int, wanted: int, scaled: int
) -> None:
    start = config.changed({"training.lora_r": rank, "training.lora_alpha": alpha})
    assert tuning.rank_changes(start, wanted) == {"training.lora_r": wanted, "training.lora_alpha": scaled}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.33, 0.5])
def test_what_is_kept_aside_is_taken_from_what_is_learned(config: FineTuningConfig, share: float) -> None:
    got = config.changed(tuning.split_changes(config, share)).data_preparation
    assert got.validation_ratio == share and got.test_ratio == config.data_preparation.test_ratio
    assert got.train_ratio == pytest.approx(1 - share - got.test_ratio)


def test_a_change_back_is_none_and_a_contradiction_is_said(config: FineTuningConfig) -> None:
    changed = DRAFT.with_change("training.num_epochs", 7, config)
    assert tuning.settings_of(config, changed).training.num_epochs == 7
    assert changed.with_change("training.num_epochs", config.training.num_epochs, config).changes == {}
    with pytest.raises(ConfigError, match="folds"):
        tuning.settings_of(config, DRAFT.with_change("training.folds", 3, config))


def test_differences_are_of_how_a_training_goes(config: FineTuningConfig) -> None:
    other = config.changed(
        {"gate.forgetting": 0.2, "schedule.new_turns": 7, "training.base_model": "x", "training.lora_r": 4}
    )
    assert tuning.differences(other, config) == (("training.lora_r", 4, 16), ("gate.forgetting", 0.2, 0.05))


@pytest.mark.parametrize(("sample", "turns"), [(False, 200), (False, 6), (True, 0)])
def test_a_job_becomes_the_draft_that_asked_it(home: Path, config: FineTuningConfig, sample: bool, turns: int) -> None:
    draft = Draft(BASE, "sample" if sample else "chats", changes={"training.num_epochs": 9})
    settings = tuning.settings_of(tuning.starting_point(config, draft, turns), draft)
    asked = RetrainRequest(config=settings, sample=sample).record()
    assert tuning.draft_of(store.add("retrain", asked), config, turns, ()) == draft


# What it will take


def test_one_plan_serves_all_settings_that_change_nothing_of_the_data(queue: Queue) -> None:
    first = plan(queue)
    assert plan(queue, **{"training.num_epochs": 9, "training.lora_r": 4, "gate.better": False}).id == first.id
    assert plan(queue, **{"training.batch_size": 2}).id != first.id
    assert plan(queue, **{"training.early_stop": 2}).id == first.id
    assert plan(queue, replace(DRAFT, data="sample")).id != first.id


@pytest.mark.parametrize("state", [State.FAILED, State.INTERRUPTED])
def test_a_plan_that_failed_says_why_and_is_found_out_again_when_asked(queue: Queue, state: State) -> None:
    finished(plan(queue), state, "no engine answers")
    found = tuning.forecast(queue, DRAFT, load_config())
    assert found.trouble == "no engine answers" and not found.ready
    assert tuning.missing(load_config(), DRAFT, THERE, found) == "no engine answers"
    tuning.find_out_again(queue, found)
    now = tuning.forecast(queue, DRAFT, load_config())
    assert now.job.id == found.job.id and now.job.created > found.job.created


def test_a_plan_that_was_dropped_for_another_choice_is_found_out_anew(queue: Queue) -> None:
    before = finished(plan(queue), State.CANCELLED, "cancelled")
    now = plan(queue)
    assert now.id == before.id and now.created > before.created


def test_a_plan_that_is_at_work_is_not_begun_twice(queue: Queue) -> None:
    job = store.add("plan", PlanRequest().record(), here=processes.this_process())
    tuning.find_out_again(queue, Forecast(job))
    assert store.get(job.id).created == job.created


def test_few_plans_are_kept(queue: Queue) -> None:
    for size in range(1, 9):
        finished(plan(queue, **{"training.batch_size": size}), State.COMPLETED)
    assert len(store.find(kinds=["plan"])) <= 5


@pytest.mark.parametrize(
    ("size", "free", "fits"), [(1 << 28, 4 << 30, True), (4 << 30, 4 << 30, False), (0, 1 << 30, True)]
)
def test_what_likely_fits_is_told_by_its_size(size: int, free: int, fits: bool) -> None:
    model = ModelSummary(tag=BASE, digest="d", size=size)
    assert tuning.likely_fits(model, free) == fits


# The start


@pytest.mark.parametrize(
    ("draft", "now", "said"),
    [
        (DRAFT, replace(THERE, running=True), "Another training runs"),
        (DRAFT, replace(THERE, trouble="no engine answers"), "no engine answers"),
        (DRAFT, replace(THERE, bases=()), "is not on this machine: choose a model"),
        (Draft("gone:1b"), THERE, "gone:1b is not on this machine"),
        (DRAFT, replace(THERE, turns=1), "questions with their answers are needed (recorded so far: 1)"),
        (Draft(BASE, "dataset"), THERE, "No file is chosen"),
        (DRAFT, THERE, "The data is being examined"),
        (Draft(BASE, "sample"), replace(THERE, turns=0), "The data is being examined"),
    ],
)
def test_what_is_missing_is_said(config: FineTuningConfig, draft: Draft, now: Situation, said: str) -> None:
    assert said in tuning.missing(config, draft, now, None)


def test_a_fault_of_the_settings_comes_before_the_forecast(config: FineTuningConfig) -> None:
    assert "contradict each other: it cannot be" in tuning.missing(config, DRAFT, THERE, None, "it cannot be")


def test_the_summary_names_what_begins(queue: Queue) -> None:
    job = plan(queue)
    found = Forecast(job, {"facts": [("base", "smollm2:135m, 135M"), ("after cleaning", "13 turns")], "basis": None})
    told = dict(tuning.summary(replace(DRAFT, data="sample"), Forecast(job), load_config()))
    assert told == {"Model": BASE, "Data": "The shipped sample"}
    assert found.ready and not Forecast(job).ready
    assert paths.home().exists()
