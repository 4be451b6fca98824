"""Which run a retrain goes on with, and what a version that is not served as it was trained leaves behind."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import GateRefused, ParityError
from fine_tuning.evaluation.gate import Result, Verdict
from fine_tuning.events import Event, Note, RunOpened, Watch
from fine_tuning.model_management.model_switcher import use
from fine_tuning.pipeline import hold_back
from fine_tuning.plan import Plan
from fine_tuning.planning import make_plan
from fine_tuning.resuming import open_run
from fine_tuning.runs import Run
from fine_tuning.workshop import Request, Workshop


def settings(**changes: object) -> FineTuningConfig:
    fast = {
        "training.replay.share": 0,
        "training.min_pairs": 1,
        "training.dtype": "float32",
        "training.products": "blas",
    }
    return load_config(overrides={**fast, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOAI_HOME", str(tmp_path_factory.mktemp("home")))
        engine = EmbeddedEngine()
        engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
        log = ConversationLogger()
        for number in range(6):
            log.new_session()
            log.log_conversation(
                f"Which door has the number {number} here?", f"Door {number} is the one with the blue frame."
            )
        log.new_session()
        log.log_conversation("May I ask about the doors?", "Ask me later, at the gate.", {"weight": 0})
        log.log_conversation("Which door is locked at night?", "The one behind the kitchen is locked.")
        yield Workshop(settings(), engine)


@pytest.fixture(scope="module")
def made(shop: Workshop) -> Plan:
    return make_plan(shop, to_train=True)


@pytest.fixture
def plan(made: Plan) -> Iterator[Plan]:
    yield made
    shutil.rmtree(made.config.runs_dir, ignore_errors=True)


def opened(shop: Workshop, plan: Plan) -> tuple[Run, Plan, list[str], bool]:
    """The run, the plan as it is then, what was noted, and whether it is gone on with."""
    told: list[Event] = []
    watched = Workshop(plan.config, shop.engine, Watch(told.append))
    run, plan = open_run(watched, plan)
    (resumed,) = [event.resumed for event in told if isinstance(event, RunOpened)]
    return run, plan, [event.text for event in told if isinstance(event, Note)], resumed


def test_a_first_run_is_fresh_and_says_what_it_learns(shop: Workshop, plan: Plan) -> None:
    run, _, notes, resumed = opened(shop, plan)
    assert (notes, resumed, run.finished) == ([], False, False)
    assert paths.read_json(run.inputs)["seen"] == plan.seen and load_config(run.config) == plan.config


def test_an_unfinished_run_is_gone_on_with_and_learns_its_own_data(shop: Workshop, plan: Plan) -> None:
    first, *_ = opened(shop, plan)
    later = replace(
        plan, seen={**plan.seen, "new-1": "x", "new-2": "y"}, context=["new-1"], rows=plan.rows.parent / "rows-other"
    )
    run, planned, notes, resumed = opened(shop, later)
    assert resumed and run == first and "it continues from" in notes[0] and "2 newer turns" in notes[0]
    assert planned.rows == plan.rows and planned.seen == plan.seen
    (read,) = planned.material.context
    assert read in planned.material.turn_ids and planned.seen[read]


def test_how_much_memory_is_free_does_not_keep_it_from_going_on(shop: Workshop, plan: Plan) -> None:
    first, *_ = opened(shop, plan)
    changed = replace(plan, config=plan.config.changed({"training.batch_tokens": 128}))
    assert opened(shop, changed)[0] == first


@pytest.mark.parametrize("other", ["settings", "base", "data"])
def test_a_run_of_something_else_is_left_as_it_is(shop: Workshop, plan: Plan, other: str) -> None:
    first, *_ = opened(shop, plan)
    if other == "settings":
        plan = replace(plan, config=plan.config.changed({"training.num_epochs": 7}))
    elif other == "base":
        plan = replace(plan, base=replace(plan.base, gguf_digest="another"))
    else:
        inputs = paths.read_json(first.inputs)
        paths.write_json(first.inputs, {**inputs, "rows": "rows-gone"})
    run, _, notes, resumed = opened(
        shop, replace(plan, dataset=replace(plan.dataset, path=plan.dataset.path.with_name("x" * 16)))
    )
    assert run != first and not resumed and "a new training is started" in notes[0] and first.inputs.exists()


def test_behind_a_finished_run_nothing_is_gone_on_with(shop: Workshop, plan: Plan) -> None:
    first, *_ = opened(shop, plan)
    finished = Run(plan.config.runs_dir / "29990101-000000-later")
    finished.folder.mkdir()
    paths.write_json(finished.manifest, {})
    run, _, notes, resumed = opened(
        shop, replace(plan, dataset=replace(plan.dataset, path=plan.dataset.path.with_name("y" * 16)))
    )
    assert run != first and (notes, resumed) == ([], False)


def test_a_version_that_is_not_served_as_trained_never_goes_live_unasked(shop: Workshop, plan: Plan) -> None:
    run, *_ = opened(shop, plan)
    paths.write_json(run.version, 1)
    verdict = Verdict([Result("own chats", "", "", True, "better")])
    facts = {
        "base_tag": "b",
        "base_digest": "d",
        "run": "",
        "dataset": "x",
        "method": "lora",
        "mode": "adapter",
        "turns": [],
    }
    shop.registry.add(shop.name, 1, metrics={"gate": verdict.record()}, verdict=str(verdict), **facts)
    hold_back(shop, run, 1, verdict, ParityError("another text\nwith more lines"))
    assert not run.version.exists()  # gone on with, the run makes a version of its own
    with pytest.raises(GateRefused, match=r"served as trained: another text\n"):
        use(shop.engine, shop.registry, shop.name, 1)
    assert (
        Workshop(settings(), shop.engine, request=Request(promote=True)).registry.get(shop.name, 1).state == "candidate"
    )
