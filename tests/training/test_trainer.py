"""Training on a tiny model: it learns, reports, and survives being killed at any point."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_run import train

from fine_tuning.config import Training
from fine_tuning.errors import Cancelled, CheckpointDamaged, NoConversations, TrainingError
from fine_tuning.training import checkpoints, teacher
from fine_tuning.training.children import context
from fine_tuning.training.packed_trainer import PackedTrainer
from fine_tuning.training.teacher import teach
from fine_tuning.training.trainer_utils import read_rows

# One number of threads: a probe may choose another in each run, and sums would differ in their last digits.
# Number format and library are given: left to be measured, two runs on a busy machine may take different ones.
SAME = Training(dtype="float32", products="blas", threads=1)
SETTINGS = SAME.model_copy(
    update={"batch_size": 4, "num_epochs": 2, "learning_rate": 1e-2, "save_steps": 3, "lora_r": 4, "lora_dropout": 0.1}
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_training_lowers_the_loss_of_the_same_rows(tiny_base, row_folder, tmp_path):
    steps = []
    settings = SETTINGS.model_copy(
        update={"batch_size": 1000, "num_epochs": 8, "learning_rate": 3e-2, "lora_dropout": 0.0}
    )
    train(tiny_base, row_folder, tmp_path / "run", settings, report=steps.append)
    assert len(steps) == 8
    assert steps[-1].loss < steps[0].loss - 0.3


def test_every_step_is_reported_and_the_adapter_is_sealed(tiny_base, row_folder, tmp_path):
    steps = []
    settings = SETTINGS.model_copy(update={"num_epochs": 8, "learning_rate": 3e-2, "lora_dropout": 0.0})
    result = train(tiny_base, row_folder, tmp_path / "run", settings, row_folder / "replay.jsonl", steps.append)
    assert result.steps == steps[-1].step == steps[-1].steps == 8 * 7
    assert [step.validation_loss is not None for step in steps].count(True) == 8
    checkpoints.check(result.adapter)
    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 57))


def test_every_step_has_the_loss_that_trl_has_on_the_same_rows(tiny_base, row_folder, tmp_path):
    settings = SETTINGS.model_copy(update={"lora_dropout": 0.0})
    steps = {"packed": [], "trl": []}
    for backend, seen in steps.items():
        train(
            tiny_base,
            row_folder,
            tmp_path / backend,
            settings.model_copy(update={"backend": backend}),
            report=seen.append,
        )
    for mine, theirs in zip(steps["packed"], steps["trl"], strict=True):
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert mine.accuracy == pytest.approx(theirs.accuracy, abs=1e-6)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        assert mine.tokens == theirs.tokens
    for key, value in weights(tmp_path / "packed").items():
        torch.testing.assert_close(value, weights(tmp_path / "trl")[key], atol=1e-4, rtol=1e-2)


def test_a_run_of_the_reference_is_resumed_to_the_same_result_too(tiny_base, row_folder, tmp_path):
    settings, seen = SETTINGS.model_copy(update={"backend": "trl"}), []
    train(tiny_base, row_folder, tmp_path / "whole", settings)
    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, tmp_path / "cut", settings, None, seen.append, lambda: len(seen) >= 4)
    assert train(tiny_base, row_folder, tmp_path / "cut", settings).resumed_from == 5
    for key, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(value, weights(tmp_path / "cut")[key])


def test_the_same_settings_give_the_same_adapter(tiny_base, row_folder, tmp_path):
    for name in ("a", "b"):
        train(tiny_base, row_folder, tmp_path / name, SETTINGS)
    for key, value in weights(tmp_path / "a").items():
        assert torch.equal(value, weights(tmp_path / "b")[key])


def test_a_cancelled_run_goes_on_to_the_very_result_of_an_uninterrupted_one(tiny_base, row_folder, tmp_path):
    train(tiny_base, row_folder, tmp_path / "whole", SETTINGS, row_folder / "replay.jsonl")
    seen = []
    with pytest.raises(Cancelled):
        train(
            tiny_base,
            row_folder,
            tmp_path / "cut",
            SETTINGS,
            row_folder / "replay.jsonl",
            seen.append,
            lambda: len(seen) >= 4,
        )
    result = train(tiny_base, row_folder, tmp_path / "cut", SETTINGS, row_folder / "replay.jsonl")
    assert result.resumed_from == 5
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[key])


def test_what_the_base_thinks_of_the_replay_is_asked_once_for_each_base_and_file(
    tiny_base, row_folder, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(teacher, "teach", lambda model, rows: asked.append(len(rows)) or teach(model, rows))
    replay = row_folder / "replay.jsonl"
    train(tiny_base, row_folder, tmp_path / "first", SETTINGS, replay)
    train(tiny_base, row_folder, tmp_path / "second", SETTINGS, replay)
    assert len(asked) == 1
    for key, value in weights(tmp_path / "first").items():
        assert torch.equal(value, weights(tmp_path / "second")[key])
    replay.write_text("".join(replay.read_text().splitlines(keepends=True)[:-1]))
    train(tiny_base, row_folder, tmp_path / "third", SETTINGS, replay)
    (kept,) = row_folder.glob("*.safetensors")
    kept.write_bytes(b"damaged")
    train(tiny_base, row_folder, tmp_path / "fourth", SETTINGS, replay)
    assert asked == [6, 5, 5]


def _killed_at_8(base, rows, run):
    """Train as far as after the checkpoint at step 6, and before the one at 9."""
    train(base, rows, run, SETTINGS, report=lambda step: step.step == 8 and os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint_to_the_same_result(tiny_base, row_folder, tmp_path):
    train(tiny_base, row_folder, tmp_path / "whole", SETTINGS)
    child = context().Process(target=_killed_at_8, args=(tiny_base, row_folder, tmp_path / "cut"))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    result = train(tiny_base, row_folder, tmp_path / "cut", SETTINGS)
    assert result.resumed_from == 6
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[key])


def test_an_unfinished_and_a_damaged_checkpoint_are_passed_over_and_named(tmp_path):
    for step in (3, 6, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"x" * step)
        if step != 9:
            checkpoints.seal(folder)
    (tmp_path / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"y" * 6)
    newest, passed = checkpoints.newest_complete(tmp_path)
    assert newest == tmp_path / "checkpoint-3"
    assert "checkpoint-9" in passed[0] and "unfinished" in passed[0]
    assert "checkpoint-6" in passed[1]


def test_a_planted_pickle_is_never_read(tiny_base, row_folder, tmp_path):
    run, seen = tmp_path / "run", []
    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, run, SETTINGS, report=seen.append, cancelled=lambda: len(seen) >= 3)
    newest, _ = checkpoints.newest_complete(run / "checkpoints")
    assert newest is not None
    assert not [path for path in newest.iterdir() if path.suffix in {".pt", ".pth", ".bin", ".pkl"}]
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin", "pytorch_model.bin"):
        (newest / name).write_bytes(bomb)
    train(tiny_base, row_folder, run, SETTINGS)
    assert not (tmp_path / "owned").exists()


def test_no_rows_and_bad_rows_are_named(tiny_base, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(NoConversations):
        train(tiny_base, tmp_path, tmp_path / "run", SETTINGS)
    (tmp_path / "train.jsonl").write_text('{"input_ids": [1], "trained": [0]}\n{"ids": []}\n')
    with pytest.raises(TrainingError, match="line 2"):
        read_rows(tmp_path / "train.jsonl")


def test_a_manifest_that_is_no_manifest_is_damage(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointDamaged):
        checkpoints.check(tmp_path)


def test_a_checkpoint_of_another_version_is_passed_over_and_named(tmp_path):
    """An update between a kill and the next training may have laid out the optimiser's state anew."""
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    checkpoints.seal(checkpoint)
    assert checkpoints.newest_complete(tmp_path) == (checkpoint, [])
    (checkpoint / "manifest.json").write_text(json.dumps({"files": {}}))
    assert checkpoints.newest_complete(tmp_path) == (
        None,
        [f"{checkpoint} was saved by another version of byoai, and cannot be used by this one"],
    )


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_do(tiny_base, row_folder, tmp_path, monkeypatch):
    original = PackedTrainer.batch_loss
    monkeypatch.setattr(PackedTrainer, "batch_loss", lambda self, batch: original(self, batch) * float("nan"))
    with pytest.raises(TrainingError, match=r"the loss became nan at step 1: lower training\.learning_rate"):
        train(tiny_base, row_folder, tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run" / "adapter").exists()


def test_unfinished_checkpoints_do_not_count_among_those_that_are_kept(tmp_path):
    for step in (5, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 10):
        checkpoints.seal(tmp_path / f"checkpoint-{step}")
    checkpoints.keep_newest(tmp_path, 1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-10"]
