"""A disk that is full while a training writes its steps and checkpoints."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_disk import Disk

from fine_tuning.config import Training
from fine_tuning.errors import TrainingError
from fine_tuning.events import Event, Step, Watch
from fine_tuning.training import checkpoints
from fine_tuning.training.runner import TrainingJob, run_in_child
from fine_tuning.training.trainer_utils import TrainingRows

SETTINGS = Training(
    dtype="float32", threads=1, products="blas", batch_size=2, num_epochs=2, save_steps=2, lora_r=4, lora_alpha=8
)


def steps_of(told: list[Event]) -> list[int]:
    return [event.step for event in told if isinstance(event, Step)]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4])
def test_a_disk_that_fills_up_is_named_and_the_training_goes_on_when_there_is_room(
    disk: Disk, tiny_base: Path, row_folder: Path, tmp_path: Path, at: int
) -> None:
    run = disk.folder / "run"
    run.mkdir()
    told: list[Event] = []

    def fill_up(event: Event) -> None:
        told.append(event)
        if isinstance(event, Step) and event.step == at:
            disk.fill()

    job = TrainingJob(tiny_base, TrainingRows(row_folder), run, SETTINGS)
    with pytest.raises(TrainingError, match=rf"the disk is full \({run}\): make room"):
        run_in_child(job, Watch(fill_up))
    assert steps_of(told)[-1] >= at
    disk.make_room()
    more: list[Event] = []
    result = run_in_child(job, Watch(more.append))
    # a step is heard of late: by then the child may have made a checkpoint, even when told of the first
    assert result.steps == steps_of(more)[-1] and (result.resumed_from > 0 or at == 1)
    checkpoints.check(result.adapter)

    (tmp_path / "whole").mkdir()
    whole = run_in_child(TrainingJob(tiny_base, TrainingRows(row_folder), tmp_path / "whole", SETTINGS), Watch())
    mine, other = (load_file(each.adapter / "adapter_model.safetensors") for each in (result, whole))
    assert mine.keys() == other.keys() and all((mine[key] == other[key]).all() for key in mine)
