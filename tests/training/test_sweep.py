"""Sweeps on a tiny model: real studies, real trainings, real processes that are really killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, Replay, Sweep, Training, load_config
from fine_tuning.errors import Cancelled, ConfigError, TrainingError
from fine_tuning.events import Watch
from fine_tuning.training.sweep import Prepared, _queue_again, _this_process, _Worker, fixed, grid, search, space

TRAINING = Training(method="lora", batch_size=8, num_epochs=2, lora_r=4, dtype="float32", replay=Replay(share=0))
ONE = {"lora_r": (4,), "lora_alpha": (8,), "lora_dropout": (0.0,), "num_epochs": (2,), "batch_size": (8,)}


def prepared(base: Path, rows: Path, identity: str = "a") -> Prepared:
    return Prepared(base, rows, None, identity)


def worker(home: Path, rows: Path, sweep: Sweep, identity: str = "a", name: str = "s") -> _Worker:
    def ignore(*_: object) -> None: ...

    return _Worker(prepared(home, rows, identity), TRAINING, sweep, home / "sweeps" / name, Watch())


def states(at: _Worker) -> list[str]:
    return [trial.state.name for trial in at.study.get_trials()]


# Ranges


def test_a_grid_holds_every_combination_once_and_only_what_is_swept():
    sweep = Sweep(
        learning_rate=(1e-4, 1e-2),
        lora_r=(4, 8),
        lora_alpha=(8,),
        lora_dropout=(0.0,),
        num_epochs=(1, 2),
        batch_size=(4,),
    )
    points = grid(sweep)
    assert len({tuple(point.items()) for point in points}) == len(points) == 3 * 2 * 2
    assert {point["learning_rate"] for point in points} == {1e-4, 1e-3, 1e-2}
    assert set(points[0]) == set(space(sweep)) == {"learning_rate", "lora_r", "num_epochs"}
    assert fixed(sweep) == {"lora_alpha": 8, "lora_dropout": 0.0, "batch_size": 4}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sweep.learning_rate": [1e-2, 1e-4]}, "the lower end must come first"),
        ({"sweep.lora_r": []}, "sweep.lora_r"),
        ({"sweep.batch_size": [4, 4]}, "contains a value twice"),
        ({"sweep.minutes": 0}, "sweep.minutes"),
        ({"sweep.lora_dropout": [1.5]}, "sweep.lora_dropout"),
    ],
)
def test_a_range_that_makes_no_sense_is_named(change, fault):
    with pytest.raises(ConfigError, match=fault):
        load_config(overrides=change)


# Who does what


def test_the_configured_settings_are_tried_first(home, row_folder):
    at = worker(home, row_folder, Sweep(**ONE | {"lora_r": (4, 8)}))
    assert at._ask().params == pytest.approx({"learning_rate": TRAINING.learning_rate, "lora_r": 4})


def test_two_workers_never_take_the_same_point_of_a_grid_nor_more_than_asked_for(home, row_folder):
    sweep = Sweep(sampler="grid", trials=5, **ONE | {"lora_r": (4, 8), "learning_rate": (1e-4, 1e-2)})
    one, other = worker(home, row_folder, sweep), worker(home, row_folder, sweep)
    taken = [trial.params for _ in range(4) for at in (one, other) if (trial := at._ask()) is not None]
    assert len(taken) == len({tuple(sorted(params.items())) for params in taken}) == 5
    tpe = Sweep(trials=3, **ONE)
    first, second = worker(home, row_folder, tpe, name="t"), worker(home, row_folder, tpe, name="t")
    rates = [
        trial.params["learning_rate"] for _ in range(3) for at in (first, second) if (trial := at._ask()) is not None
    ]
    assert len(rates) == len(set(rates)) == 3


def test_a_trial_of_a_dead_process_is_failed_and_its_settings_come_next(home, row_folder):
    sweep = Sweep(trials=3, **ONE)
    at = worker(home, row_folder, sweep)
    lost, running = at._ask(), at._ask()
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    lost.set_user_attr("worker", _this_process() | {"pid": int(gone.stdout)})
    again = worker(home, row_folder, sweep)._ask()
    assert again.params == lost.params
    assert states(at) == ["FAIL", "RUNNING", "RUNNING"]
    assert running.number == 1  # lives: left alone


def test_a_process_number_that_was_given_again_is_not_the_same_process(home, row_folder):
    at = worker(home, row_folder, Sweep(**ONE))
    at._ask().set_user_attr("worker", _this_process() | {"started": 1.0})
    assert at._dead(at.study.get_trials()[0])


def test_a_trial_goes_on_when_the_clock_is_set(home, row_folder, monkeypatch):
    at = worker(home, row_folder, Sweep(**ONE))
    at._ask().set_user_attr("worker", _this_process())
    booted = psutil.boot_time()  # by the clock, as the start times of processes are
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted - 3600)
    assert not at._dead(at.study.get_trials()[0])


def test_a_process_on_another_machine_is_dead_once_it_was_silent(home, row_folder):
    at = worker(home, row_folder, Sweep(**ONE))
    trial = at._ask()
    trial.set_user_attr("worker", {"host": "elsewhere", "pid": 1, "started": 1.0})
    assert not at._dead(at.study.get_trials()[0])
    sign = at._folder(trial.number) / "alive"
    os.utime(sign, (time.time() - 1000, time.time() - 1000))
    assert at._dead(at.study.get_trials()[0])


def test_an_interrupted_trial_is_queued_once_however_many_find_it(home, row_folder):
    at = worker(home, row_folder, Sweep(**ONE))
    trial = at._ask()
    for _ in range(3):
        _queue_again(at.study, trial.number, trial.params)
    assert states(at) == ["FAIL", "WAITING"]


def test_a_study_about_something_else_is_not_joined(home, row_folder):
    worker(home, row_folder, Sweep(**ONE))
    with pytest.raises(ConfigError, match="started with different values of identity"):
        worker(home, row_folder, Sweep(**ONE), identity="b")
    with pytest.raises(ConfigError, match="started with different values of ranges"):
        worker(home, row_folder, Sweep(**ONE | {"lora_r": (64,)}))


def test_without_validation_rows_there_is_nothing_to_judge_by(home, row_folder):
    (row_folder / "validation.jsonl").write_text("")
    with pytest.raises(ConfigError, match="validation_ratio"):
        search(prepared(home, row_folder), TRAINING, Sweep(**ONE), "s")


def test_the_same_settings_are_not_trained_twice(home, row_folder):
    sweep = Sweep(**ONE | {"learning_rate": (2e-4, 2e-4), "lora_r": (4, 8)}, trials=9)
    at = worker(home, row_folder, sweep)
    first = at._ask()
    at.study.tell(first, 1.5)
    at.study.enqueue_trial(first.params)
    again = at._ask()
    at._do(again)  # would fail: there is no base at all
    assert at.study.trials[again.number].value == 1.5


def test_a_sweep_with_no_finished_trial_says_why(home, row_folder):
    at = worker(home, row_folder, Sweep(**ONE))
    trial = at._ask()
    trial.set_user_attr("why", "failed: no memory")
    at.study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(TrainingError, match="no memory"):
        at.found()


# Real trainings


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_better_rate_is_found_and_plotted_and_no_weights_are_left(tiny_base, row_folder, home):
    sweep = Sweep(trials=5, learning_rate=(1e-5, 1e-1), **ONE | {"num_epochs": (4,)})
    found = search(prepared(tiny_base, row_folder), TRAINING, sweep, "s")
    assert found.finished + found.pruned == 5
    study = worker(home, row_folder, sweep).study
    assert found.loss == min(trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,)))
    first = study.trials[0].value  # the rate as configured, far too small here
    assert found.settings["learning_rate"] > TRAINING.learning_rate and found.loss < first
    assert (found.folder / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert not list(found.folder.rglob("*.safetensors"))
    assert len(list(found.folder.glob("trials/*/progress.jsonl"))) == 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hopeless_trial_is_pruned_after_its_first_epoch(tiny_base, row_folder, home):
    # many: it is stopped from another process
    sweep = Sweep(trials=5, learning_rate=(1e-5, 1e-1), **ONE | {"num_epochs": (300,)})
    at = worker(home, row_folder, sweep)
    for value in (2.0, 1.9, 1.8, 1.7):  # what other processes have found
        trial = at._ask()
        for epoch in range(1, 7):
            trial.report(value, epoch)
        at.study.tell(trial, value)
    found = search(prepared(tiny_base, row_folder), TRAINING, sweep, "s")
    assert found.pruned == 1
    assert worker(home, row_folder, sweep).study.trials[4].last_step == 1
    lines = [json.loads(line) for line in (found.folder / "trials" / "4" / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] < lines[-1]["steps"]


SWEEPER = """
import sys
from pathlib import Path
from fine_tuning.config import Sweep, Training
from fine_tuning.training.sweep import Prepared, search
base, rows = map(Path, sys.argv[1:3])
found = search(Prepared(base, rows, None, "a"), Training.model_validate_json(sys.argv[3]), Sweep.model_validate_json(sys.argv[4]), "s")
print(found.finished)
"""  # noqa: E501


def sweeper(base: Path, rows: Path, sweep: Sweep) -> "subprocess.Popen[str]":
    arguments = [
        sys.executable,
        "-c",
        SWEEPER,
        str(base),
        str(rows),
        TRAINING.model_dump_json(),
        sweep.model_dump_json(),
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=paths.REPOSITORY)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on_and_its_training_does_not_outlive_it(tiny_base, row_folder, home):
    sweep = Sweep(trials=2, learning_rate=(1e-3, 1e-1), **ONE | {"num_epochs": (200,)})
    child = sweeper(tiny_base, row_folder, sweep)
    progress = home / "sweeps" / "s" / "trials" / "0" / "progress.jsonl"
    while not progress.exists():
        assert child.poll() is None
        time.sleep(0.1)
    started = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    _, left = psutil.wait_procs(started, timeout=60)
    assert started and not left
    size = progress.stat().st_size
    time.sleep(0.5)
    assert progress.stat().st_size == size
    stop = iter([False, False])
    with pytest.raises(Cancelled):
        search(prepared(tiny_base, row_folder), TRAINING, sweep, "s", Watch(stopping=lambda: next(stop, True)))
    trials = worker(home, row_folder, sweep).study.get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "WAITING"]
    assert (
        len(
            {
                trial.params.get("learning_rate") or trial.system_attrs["fixed_params"]["learning_rate"]
                for trial in trials
            }
        )
        == 1
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_share_a_study_and_do_no_trial_twice(tiny_base, row_folder, home):
    sweep = Sweep(sampler="grid", trials=4, learning_rate=(1e-3, 1e-1), **ONE | {"num_epochs": (1, 2)})
    pair = [sweeper(tiny_base, row_folder, sweep) for _ in range(2)]
    assert [child.wait() for child in pair] == [0, 0]
    trials = worker(home, row_folder, sweep).study.get_trials()
    assert len(trials) == len({tuple(sorted(trial.params.items())) for trial in trials}) == 4
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials}) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_sweeps_the_base_and_writes_a_configuration(small_engine, home, capsys):
    from fine_tuning.cli.main import main
    from fine_tuning.data_collection.conversation_logger import ConversationLogger

    log = ConversationLogger()
    for number in range(8):
        log.new_session()
        log.log_conversation(
            f"What is in box number {number}, please?",
            f"Box number {number} holds {number * 7} apples.",
            {"model": "smollm2:135m"},
        )
    ranges = {key: list(values) for key, values in ONE.items()} | {"learning_rate": [1e-4, 1e-3], "num_epochs": [1]}
    sets = {f"sweep.{key}": values for key, values in ranges.items()} | {
        "training.replay.share": 0,
        "data_preparation.train_ratio": 0.5,
    }
    sets |= {"data_preparation.validation_ratio": 0.25, "data_preparation.test_ratio": 0.25}
    arguments = [part for key, value in sets.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert main(["sweep", "--trials", "2", "--name", "boxes", "--force", *arguments]) == 0
    said = capsys.readouterr().out
    assert "Trials: 2 finished" in said and "best.yaml" in said
    best = load_config(home / "sweeps" / "boxes" / "best.yaml")
    assert isinstance(best, FineTuningConfig)
    assert 1e-4 <= best.training.learning_rate <= 1e-3
    assert best.training.lora_r == 4 and best.training.replay.share == 0
