"""Every method on the tiny model: the packed loss is exact, what was trained is put back, an
interrupted run ends as a whole one.
"""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from test_packing import gradients, one_at_a_time, rows_of
from training_run import train
from transformers import AutoModelForCausalLM

from fine_tuning.config import FineTuningMethod, Training
from fine_tuning.errors import Cancelled
from fine_tuning.training import checkpoints
from fine_tuning.training.loss import packed_loss
from fine_tuning.training.methods import METHODS, carrier, restore
from fine_tuning.training.packing import pack

VARIANTS = {
    "full": {"method": "full", "learning_rate": 1e-2},
    "lora": {"method": "lora", "learning_rate": 3e-2},
    "qlora": {"method": "qlora", "learning_rate": 3e-2},
    "dora": {"method": "lora", "use_dora": True, "learning_rate": 3e-2},
    "rslora": {"method": "lora", "use_rslora": True, "learning_rate": 2e-2},
    "prefix_tuning": {"method": "prefix_tuning", "virtual_tokens": 5, "learning_rate": 1e-1},
    "prompt_tuning": {"method": "prompt_tuning", "virtual_tokens": 5, "learning_rate": 1e-1},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def settings_of(variant: str, **changes) -> Training:
    return Training(
        **{"batch_size": 4, "num_epochs": 2, "save_steps": 3, "lora_r": 4, "seed": 3, **VARIANTS[variant], **changes}
    )


def attached(base: Path, settings: Training):
    return METHODS[settings.method].attach(AutoModelForCausalLM.from_pretrained(base), settings).eval()


def test_the_table_holds_every_method_of_the_configuration():
    assert set(METHODS) == set(FineTuningMethod)


@every_variant
def test_the_packed_loss_and_gradients_are_those_of_one_conversation_a_row(tiny_base, variant):
    torch.manual_seed(1)
    model = attached(tiny_base, settings_of(variant))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    for rows in (rows_of(6), rows_of(4, seed=4, head=0)):
        packed, reference = packed_loss(model, pack(rows))[0], one_at_a_time(model, rows)
        assert packed.item() == pytest.approx(reference.item(), abs=1e-5)
        for mine, theirs in zip(gradients(model, packed), gradients(model, reference), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@every_variant
def test_a_training_lowers_the_loss_and_what_it_saved_gives_the_trained_model_back(
    tiny_base, row_folder, tmp_path, variant
):
    settings, steps = settings_of(variant, num_epochs=6), []
    result = train(tiny_base, row_folder, tmp_path, settings, report=steps.append)
    assert steps[-1].validation_loss < steps[0].loss - (0.01 if variant.endswith("_tuning") else 0.15)
    checkpoints.check(result.adapter)
    model = attached(tiny_base, settings)
    restore(model, result.adapter)
    rows = rows_of(4, seed=2)
    with torch.no_grad():
        theirs = one_at_a_time(reloaded(tiny_base, result.adapter), rows)
        assert packed_loss(model, pack(rows))[0].item() == pytest.approx(theirs.item(), abs=1e-4)


def reloaded(base: Path, folder: Path):
    """As any other program would load it."""
    if (folder / "model.safetensors").exists():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    from peft import PeftModel

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@every_variant
def test_an_interrupted_training_goes_on_to_the_very_result_of_a_whole_one(tiny_base, row_folder, tmp_path, variant):
    settings, seen = settings_of(variant), []
    whole = train(tiny_base, row_folder, tmp_path / "whole", settings)
    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, tmp_path / "cut", settings, None, seen.append, lambda: len(seen) >= 4)
    result = train(tiny_base, row_folder, tmp_path / "cut", settings)
    assert result.resumed_from == 5
    for file in whole.adapter.glob("*.safetensors"):
        assert (result.adapter / file.name).read_bytes() == file.read_bytes()


def test_full_fine_tuning_leaves_the_base_alone_and_changes_every_weight(tiny_base, row_folder, tmp_path):
    before = (tiny_base / "model.safetensors").read_bytes()
    result = train(tiny_base, row_folder, tmp_path, settings_of("full", num_epochs=1))
    assert (tiny_base / "model.safetensors").read_bytes() == before
    old, new = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (tiny_base, result.adapter))
    assert [name for name in old if torch.equal(old[name], new[name])] == []


@pytest.mark.parametrize("flag", ["use_dora", "use_rslora"])
@pytest.mark.parametrize("method", ["full", "prefix_tuning", "prompt_tuning"])
def test_a_flag_of_lora_contradicts_other_methods(method, flag):
    with pytest.raises(ValidationError, match=f"{flag} can be used only with method lora or qlora, not with {method}"):
        Training(method=method, **{flag: True})


def test_what_a_gguf_can_carry():
    assert carrier(settings_of("lora"), "adapter") == carrier(settings_of("rslora"), "adapter") == "adapter"
    assert carrier(settings_of("qlora"), "merged") == "merged"
    assert carrier(settings_of("dora"), "adapter") == carrier(settings_of("full"), "adapter") == "merged"
    assert carrier(settings_of("prefix_tuning"), "adapter") is carrier(settings_of("prompt_tuning"), "merged") is None
