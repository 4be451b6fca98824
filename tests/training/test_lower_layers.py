"""Frozen layers: learned is what a training without an adapter in them learns, whether they are computed or remembered."""

import pytest
import torch
from safetensors.torch import load_file
from test_packing import rows_of
from transformers import AutoModelForCausalLM

from fine_tuning.config import Training
from fine_tuning.errors import ConfigError, TrainingError
from fine_tuning.training import methods, tree_attention
from fine_tuning.training.lower_layers import LowerLayers, decoder_layers, lower_layers
from fine_tuning.training.packed_trainer import step_flops
from fine_tuning.training.packing import Row, pack
from fine_tuning.training.trainer import train

SETTINGS = Training(method="lora", lora_r=4, batch_size=6, num_epochs=3, learning_rate=1e-2, dtype="float32", frozen_layers=1)


def tuned(base, **changes):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=tree_attention.register())
    return methods.METHODS["lora"].attach(model, SETTINGS.model_copy(update=changes))


def losses(tiny_base, row_folder, run, **changes):
    told = []
    train(tiny_base, row_folder, run, SETTINGS.model_copy(update=changes), row_folder / "replay.jsonl", told.append)
    return [(step.loss, step.accuracy, step.grad_norm) for step in told]


def test_frozen_layers_have_no_adapter_and_all_others_have(tiny_base):
    named = [name for name, parameter in tuned(tiny_base).named_parameters() if parameter.requires_grad]
    assert len(named) == 2 * 7
    assert all(".layers.1." in name for name in named)


@pytest.mark.parametrize("changes", [{}, {"lora_dropout": 0.1}, {"batch_tokens": 40}], ids=["lora", "dropout", "several passes"])
def test_what_is_remembered_changes_nothing_that_is_learned(tiny_base, row_folder, tmp_path, monkeypatch, changes):
    mine = losses(tiny_base, row_folder, tmp_path / "remembered", **changes)
    monkeypatch.setattr("fine_tuning.training.packed_trainer.lower_layers", lambda model, count, tokens: None)
    wanted = losses(tiny_base, row_folder, tmp_path / "computed", **changes)
    for one, other in zip(mine, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    adapters = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("remembered", "computed")]
    for key, value in adapters[0].items():
        torch.testing.assert_close(value, adapters[1][key], atol=1e-5, rtol=1e-3)


def test_it_learns_what_trl_learns_with_the_same_layers_frozen(tiny_base, row_folder, tmp_path):
    told = {"packed": [], "trl": []}
    for backend, seen in told.items():
        train(tiny_base, row_folder, tmp_path / backend, SETTINGS.model_copy(update={"backend": backend}), report=seen.append)
    assert [step.loss for step in told["packed"]] == pytest.approx([step.loss for step in told["trl"]], abs=1e-4)


def test_from_the_second_time_on_a_row_begins_above_the_frozen_layers(tiny_base):
    model = tuned(tiny_base)
    lower, computed = lower_layers(model, 1, 10), []
    decoder_layers(model)[1][0].self_attn.register_forward_hook(lambda *about: computed.append(1))
    rows = rows_of(6)

    def logits(part):
        batch = pack(part)
        with lower.remembered(batch):
            known = lower.known
            asked = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask", "layout")}
            return known, model(**asked, use_cache=False).logits

    assert [logits(part)[0] for part in (rows[:3], rows[2:], rows[:3])] == [False, False, True]
    known, mine = logits([rows[5], rows[0], rows[3]])  # never packed together before
    assert known and len(computed) == 2
    batch = pack([rows[5], rows[0], rows[3]])
    asked = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask", "layout")}
    torch.testing.assert_close(mine, model(**asked, use_cache=False).logits)
    assert len(computed) == 3  # whoever does not ask for what is remembered computes all


def test_a_killed_run_with_frozen_layers_goes_on_to_the_same_loss(tiny_base, row_folder, tmp_path):
    wanted = losses(tiny_base, row_folder, tmp_path / "whole", save_steps=4)
    seen = []

    def stop(progress):
        seen.append(progress.loss)
        if len(seen) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings = SETTINGS.model_copy(update={"save_steps": 4})
        train(tiny_base, row_folder, tmp_path / "killed", settings, row_folder / "replay.jsonl", stop)
    resumed = losses(tiny_base, row_folder, tmp_path / "killed", save_steps=4)
    assert 0 < len(resumed) <= len(wanted) - 8
    assert [loss for loss, *_ in resumed] == pytest.approx([loss for loss, *_ in wanted[-len(resumed) :]], rel=1e-4)


def test_what_is_remembered_takes_no_more_memory_than_was_foretold():
    """50,000 tokens of 64 numbers, packed row by packed row: nothing is copied while it grows, and nothing kept twice."""
    layer = torch.nn.Linear(64, 64)
    lower = LowerLayers([layer])
    lower.room = 50_000
    for start in range(0, 50_000, 500):
        rows = [Row(list(range(start + 100 * part, start + 100 * part + 101)), [False] * 100 + [True]) for part in range(5)]
        with lower.remembered(pack(rows)):
            layer(torch.full((1, 500, 64), float(start)))
    assert lower._made is not None and lower._made.shape == (50_000, 64)
    assert len(lower._places) == 50_000
    with lower.remembered(pack(rows)):
        assert lower.known
        torch.testing.assert_close(layer(torch.zeros(1, 500, 64))[0], lower._made[-500:])


def test_a_base_whose_layers_share_keys_is_refused(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.config.num_kv_shared_layers = 1
    with pytest.raises(TrainingError, match="leave it at 0"):
        decoder_layers(model)


def test_more_frozen_layers_than_the_base_has_are_refused(tiny_base):
    with pytest.raises(ConfigError, match=r"frozen_layers is 2, and the base has 2 layers"):
        tuned(tiny_base, frozen_layers=2)


def test_frozen_layers_belong_to_adapters():
    with pytest.raises(ValueError, match="frozen_layers belongs to method lora or qlora"):
        Training(method="full", frozen_layers=1)


def test_frozen_layers_count_half_of_their_operations_and_none_when_they_are_remembered(tiny_base):
    none, half = step_flops(tuned(tiny_base, frozen_layers=0)), step_flops(tuned(tiny_base), 1)
    assert half.token == none.token / 2 and half.score == none.score / 2
    assert 0 < half.lower_token < half.token / 2  # no adapter there
    assert half.of(10, 3, 30, without_lower=True) < half.of(10, 3, 30) < none.of(10, 3, 30)
