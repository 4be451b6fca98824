"""A training as a value: run here or in a child process, stopped, killed, gone on with, to the same adapter."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from fine_tuning.config import Training
from fine_tuning.errors import Cancelled, NoConversations, TrainingError
from fine_tuning.events import Event, Step, Watch
from fine_tuning.training.children import context
from fine_tuning.training.runner import TrainingJob, TrainingProcess, run_here, run_in_child
from fine_tuning.training.trainer_utils import TrainingRows

SETTINGS = Training(
    dtype="float32", threads=1, products="blas", batch_size=2, num_epochs=2, save_steps=2, lora_r=4, lora_alpha=8
)


@pytest.fixture
def job(tiny_base: Path, row_folder: Path, tmp_path: Path) -> TrainingJob:
    (tmp_path / "run").mkdir()
    return TrainingJob(tiny_base, TrainingRows(row_folder), tmp_path / "run", SETTINGS)


def elsewhere(job: TrainingJob, name: str) -> TrainingJob:
    folder = job.run.parent / name
    folder.mkdir()
    return replace(job, run=folder)


def weights(run: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(run / "adapter" / "adapter_model.safetensors").items()}


def test_a_job_is_the_same_after_it_was_written(job: TrainingJob) -> None:
    whole = replace(
        job, rows=replace(job.rows, replay=Path("/r"), preferences=Path("/p")), weights="quantised", served=Path("/s")
    )
    assert TrainingJob.load(whole.save()) == whole
    assert TrainingJob.load(job.save()) == job


def _imported() -> None:
    sys.exit(40 + ("torch._inductor.compile_fx" in sys.modules) if "peft" in sys.modules else 1)


@pytest.mark.slow
def test_a_child_begins_with_the_libraries_and_without_the_compiler() -> None:
    child = context().Process(target=_imported)
    child.start()
    child.join()
    assert child.exitcode == 40


@pytest.mark.slow
def test_a_child_makes_the_very_adapter_that_this_process_makes_and_is_gone_then(job: TrainingJob) -> None:
    told: list[Event] = []
    there = run_in_child(job, Watch(told.append))
    here = run_here(other := elsewhere(job, "here"), Watch())
    assert weights(job.run) == weights(other.run)
    assert (there.steps, there.tokens, there.final_loss) == (here.steps, here.tokens, here.final_loss)
    steps = [event.step for event in told if isinstance(event, Step)]
    assert steps == list(range(1, there.steps + 1))
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_stopped_child_keeps_a_checkpoint_and_the_next_goes_on_to_the_same_adapter(job: TrainingJob) -> None:
    told: list[Event] = []
    with pytest.raises(Cancelled):
        run_in_child(job, Watch(told.append, lambda: len(told) >= 3))
    asked = time.monotonic()
    assert multiprocessing.active_children() == [] and time.monotonic() - asked < 5
    more: list[Event] = []
    result = run_in_child(job, Watch(more.append))
    assert 3 <= result.resumed_from < result.steps
    assert next(event.step for event in more if isinstance(event, Step)) == result.resumed_from + 1
    run_here(other := elsewhere(job, "whole"), Watch())
    assert weights(job.run) == weights(other.run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "most likely the memory ran out"),
        (signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
        (signal.SIGILL, "SIGILL"),
    ],
)
def test_a_child_that_dies_is_an_error_that_says_so_and_the_next_goes_on(
    job: TrainingJob, number: signal.Signals, said: str
) -> None:
    with TrainingProcess(job) as child, pytest.raises(TrainingError, match=said):
        for step in child.steps():
            if step and step.step == 3:
                os.kill(child._child.pid or 0, number)
        child.result()
    assert run_in_child(job, Watch()).resumed_from >= 2


@pytest.mark.slow
def test_what_a_child_raises_is_raised_here(job: TrainingJob, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "empty" / f"{name}.jsonl").write_text("")
    with pytest.raises(NoConversations, match="contains no row to learn from"):
        run_in_child(replace(job, rows=TrainingRows(tmp_path / "empty")), Watch())
    (tmp_path / "empty" / "train.jsonl").write_text("no JSON\n")
    with pytest.raises(TrainingError, match=r"train\.jsonl, line 1"):
        run_in_child(replace(job, rows=TrainingRows(tmp_path / "empty")), Watch())


ALONE = """
import sys
from pathlib import Path
from fine_tuning.events import Watch
from fine_tuning.training.runner import TrainingJob, run_in_child
run_in_child(TrainingJob.load(Path(sys.argv[1])), Watch(lambda step: print(step.step, flush=True)))
"""


@pytest.mark.slow
def test_a_child_ends_after_the_process_that_began_it_was_killed(job: TrainingJob) -> None:
    long = replace(job, settings=SETTINGS.model_copy(update={"num_epochs": 5000}))
    with subprocess.Popen([sys.executable, "-c", ALONE, str(long.save())], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline().strip() == "1"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.kill()
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left
