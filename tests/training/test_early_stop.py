"""A training ends when the held-out conversations are no longer learned better, with the weights
that did best on them.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_run import train

from fine_tuning.config import Training, load_config
from fine_tuning.errors import Cancelled
from fine_tuning.events import Step
from fine_tuning.training.cross_validation import fewest_epochs
from fine_tuning.training.early_stop import EarlyStop, EndAfter
from fine_tuning.training.packed_trainer import PackedTrainer

# So fast that the tiny model has soon learned what the held-out rows can gain from.
SETTINGS = Training(
    dtype="float32",
    products="blas",
    batch_size=4,
    num_epochs=40,
    learning_rate=5e-2,
    lr_scheduler="constant",
    save_steps=3,
    lora_r=4,
    early_stop=2,
)
EPOCH = 6  # steps


def test_the_training_ends_early_and_the_best_weights_are_kept(tiny_base: Any, row_folder: Any, tmp_path: Any) -> None:
    seen: list[Step] = []
    result = train(tiny_base, row_folder, tmp_path / "run", SETTINGS, report=seen.append)
    losses = [step.validation_loss for step in seen if step.validation_loss is not None]
    best = 1
    for epoch, loss in enumerate(losses, 1):
        best = epoch if loss < losses[best - 1] - 1e-4 else best
    assert result.steps < 40 * EPOCH
    assert len(losses) - best == 2 and result.steps == len(losses) * EPOCH
    until = SETTINGS.model_copy(update={"num_epochs": best, "early_stop": 0})
    train(tiny_base, row_folder, tmp_path / "until", until)
    for key, value in _adapter(tmp_path / "until").items():
        torch.testing.assert_close(value, _adapter(tmp_path / "run")[key])


def test_a_run_that_was_cut_ends_at_the_same_step_with_the_same_weights(
    tiny_base: Any, row_folder: Any, tmp_path: Any
) -> None:
    whole = train(tiny_base, row_folder, tmp_path / "whole", SETTINGS)
    stop_at = whole.steps - EPOCH - 2  # after the best epoch was kept
    seen: list[Step] = []
    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, tmp_path / "cut", SETTINGS, None, seen.append, lambda: len(seen) >= stop_at)
    result = train(tiny_base, row_folder, tmp_path / "cut", SETTINGS)
    assert result.resumed_from > 0 and result.steps == whole.steps
    assert _losses(tmp_path / "cut") == pytest.approx(_losses(tmp_path / "whole"), abs=1e-5)
    for key, value in _adapter(tmp_path / "whole").items():
        torch.testing.assert_close(value, _adapter(tmp_path / "cut")[key])


def test_each_epoch_is_validated_once(
    tiny_base: Any, row_folder: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, validation_loss = [], PackedTrainer.validation_loss
    monkeypatch.setattr(PackedTrainer, "validation_loss", lambda self: asked.append(1) or validation_loss(self))
    seen: list[Step] = []
    train(tiny_base, row_folder, tmp_path / "run", SETTINGS.model_copy(update={"num_epochs": 3}), report=seen.append)
    assert len(asked) == sum(step.validation_loss is not None for step in seen) == 3


def test_without_validation_rows_it_goes_on_to_the_end(tiny_base: Any, row_folder: Any, tmp_path: Any) -> None:
    rows = tmp_path / "few"
    rows.mkdir()
    (rows / "train.jsonl").write_text((row_folder / "train.jsonl").read_text())
    (rows / "validation.jsonl").write_text("")
    assert train(tiny_base, rows, tmp_path / "run", SETTINGS.model_copy(update={"num_epochs": 4})).steps == 4 * EPOCH


LEFT_OUT = SETTINGS.model_copy(update={"folds": 3, "num_epochs": 5, "early_stop": 1})


def test_each_part_is_left_out_once_to_find_the_epochs_of_the_training_on_all(
    tiny_base: Any, row_folder: Any, tmp_path: Any
) -> None:
    (row_folder / "validation.jsonl").write_text("")
    seen: list[Step] = []
    result = train(tiny_base, row_folder, tmp_path / "run", LEFT_OUT, report=seen.append)
    losses = json.loads((tmp_path / "run" / "folds" / "losses.json").read_text())
    assert len(losses) == 3 and all(1 <= len(part) <= 5 for part in losses)
    epochs = fewest_epochs(losses)
    assert result.steps == seen[-1].steps == epochs * EPOCH and seen[-1].eta == 0
    assert {step.part for step in seen} == {"held-out parts", "chats"}
    # They leave nothing behind in the weights: a training of that length alone ends in the same.
    alone = LEFT_OUT.model_copy(update={"folds": 0, "early_stop": 0, "num_epochs": epochs})
    train(tiny_base, row_folder, tmp_path / "alone", alone)
    for key, value in _adapter(tmp_path / "alone").items():
        torch.testing.assert_close(value, _adapter(tmp_path / "run")[key])


@pytest.mark.parametrize(
    ("losses", "epochs"),
    [
        ([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]], 2),  # all agree
        ([[2.0, 0.5, 0.1, 0.09, 0.08], [2.0, 0.3, 0.02, 0.01, 0.0]], 3),  # still falling, by less than the parts differ
        ([[2.0, 1.0, 0.5], [2.0, 0.5]], 3),  # one part ended early: it stays as it was
        ([[1.0, 2.0]], 1),
    ],
)
def test_the_fewest_epochs_are_taken_that_are_within_a_standard_error_of_the_best(losses: Any, epochs: int) -> None:
    assert fewest_epochs(losses) == epochs


def test_later_parts_are_trained_little_further_than_the_first_ones_speak_for(
    tiny_base: Any, row_folder: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part's loss goes on falling, by ever less than the parts differ."""

    def falling(trainer: Any) -> float:
        return 1 / trainer.state.global_step + int(Path(trainer.args.output_dir).parent.name) / 50

    monkeypatch.setattr(PackedTrainer, "validation_loss", falling)
    (row_folder / "validation.jsonl").write_text("")
    train(tiny_base, row_folder, tmp_path / "run", LEFT_OUT.model_copy(update={"folds": 5, "num_epochs": 9}))
    losses = json.loads((tmp_path / "run" / "folds" / "losses.json").read_text())
    assert [len(part) for part in losses] == [9, 9, 9, fewest_epochs(losses[:3]) + 1, fewest_epochs(losses[:4]) + 1]
    assert fewest_epochs(losses) < 8


def test_a_part_is_left_out_with_as_few_chats_a_step_as_there_are_beside_the_replay(
    tiny_base: Any, row_folder: Any, tmp_path: Any
) -> None:
    """Else an epoch with the replay would learn far more from the chats than the epochs that were counted."""
    rows = (row_folder / "train.jsonl").read_text().splitlines(keepends=True)[:6]
    (row_folder / "train.jsonl").write_text("".join(rows))
    (row_folder / "validation.jsonl").write_text("")
    seen: list[Step] = []
    train(tiny_base, row_folder, tmp_path / "run", LEFT_OUT, row_folder / "replay.jsonl", seen.append)
    steps = {step.part: step.steps for step in seen}
    epochs = fewest_epochs(json.loads((tmp_path / "run" / "folds" / "losses.json").read_text()))
    # four chats by twos; six chats and six replayed rows by fours
    assert steps == {"held-out parts": 5 * 2, "chats": epochs * 3}


@pytest.mark.slow
def test_a_run_killed_among_its_parts_leaves_none_of_them_out_twice(
    tiny_base: Any, row_folder: Any, tmp_path: Any
) -> None:
    (row_folder / "validation.jsonl").write_text("")
    whole: list[Step] = []
    train(tiny_base, row_folder, tmp_path / "whole", LEFT_OUT, report=whole.append)
    parts = [step for step in whole if step.part == "held-out parts"]
    seen: list[Step] = []
    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, tmp_path / "cut", LEFT_OUT, None, seen.append, lambda: len(seen) >= len(parts) - 5)
    train(tiny_base, row_folder, tmp_path / "cut", LEFT_OUT, report=seen.append)
    assert len(seen) == len(whole)
    assert [step.loss for step in seen] == pytest.approx([step.loss for step in whole], abs=1e-5)


def test_few_pairs_have_a_profile_of_their_own_that_goes_over_another() -> None:
    plain, few = load_config(), load_config(profile="few_shot")
    assert few.training.lora_r < plain.training.lora_r and few.training.replay.share > plain.training.replay.share
    assert few.training.early_stop and few.training.folds and few.training.min_pairs == 5 < plain.training.min_pairs
    both = load_config(profile="sample,few_shot")
    assert (both.deployment.model_name, both.training.lora_r) == ("sample", few.training.lora_r)


def _adapter(run: Any) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def _losses(run: Any) -> list[float]:
    return [
        loss
        for _, loss in sorted(
            (int(step), loss) for step, loss in json.loads((run / "best" / "losses.json").read_text()).items()
        )
    ]


@pytest.mark.parametrize("folds", [0, 3], ids=["early stop", "parts left out"])
def test_a_run_killed_before_its_epoch_was_judged_ends_in_the_same(
    tiny_base: Any, row_folder: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    """Transformers saves first, and never comes back to the end of an epoch that it has a checkpoint of."""
    settings = SETTINGS.model_copy(update={"save_steps": EPOCH, "folds": folds, "num_epochs": 8, "lora_dropout": 0.1})
    if folds:
        (row_folder / "validation.jsonl").write_text("")
    whole = train(tiny_base, row_folder, tmp_path / "whole", settings)
    for kind in (EarlyStop, EndAfter):
        judged, ends = 0, kind.on_epoch_end

        def killed(self: Any, args: Any, state: Any, control: Any, ends: Any = ends, **kwargs: Any) -> None:
            nonlocal judged
            judged += 1
            if judged % 2:
                raise KeyboardInterrupt
            ends(self, args, state, control, **kwargs)

        monkeypatch.setattr(kind, "on_epoch_end", killed)
    for _ in range(60):
        with contextlib.suppress(KeyboardInterrupt):
            result = train(tiny_base, row_folder, tmp_path / "killed", settings)
            break
    assert (result.steps, result.final_loss) == (whole.steps, pytest.approx(whole.final_loss, abs=1e-5))
    for key, value in _adapter(tmp_path / "whole").items():
        torch.testing.assert_close(value, _adapter(tmp_path / "killed")[key])
