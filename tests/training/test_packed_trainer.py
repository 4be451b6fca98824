"""What is computed at once is bounded, and changes nothing; the speed that is reported counts the
operations that are really needed.
"""

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from training_run import train

from fine_tuning.config import Training
from fine_tuning.training import methods, packing
from fine_tuning.training.packed_trainer import step_flops


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_steps_operations_are_those_that_torch_counts(tiny_base, method):
    """Eager attention multiplies every query by every key, so every one is counted as seen."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    model = methods.METHODS[method].attach(model, Training(method=method))
    model.enable_input_require_grads()  # also the first layer hands its gradient on, as all others do
    tokens = 40
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(tokens)[None] % 20).logits.sum().backward()
    assert step_flops(model).of(tokens, tokens, tokens**2) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_step_in_several_passes_learns_the_same_as_in_one(tiny_base, row_folder, tmp_path, monkeypatch):
    settings = Training(batch_size=6, num_epochs=2, learning_rate=1e-2, lora_r=4)
    sizes, original = [], packing.pack

    def pack(rows):
        batch = original(rows)
        sizes.append((len(rows), batch["input_ids"].numel()))
        return batch

    monkeypatch.setattr(packing, "pack", pack)
    runs = {}
    for tokens in (10_000, 40):
        seen, sizes[:] = [], []
        settings = settings.model_copy(update={"batch_tokens": tokens})
        train(tiny_base, row_folder, tmp_path / str(tokens), settings, row_folder / "replay.jsonl", seen.append)
        runs[tokens] = [[(step.loss, step.accuracy, step.validation_loss, step.tokens) for step in seen], sizes.copy()]
    (whole, packed), (parts, divided) = runs.values()
    assert len(divided) > len(packed) and max(size for _, size in packed) > 40
    assert all(size <= 40 or rows == 1 for rows, size in divided)
    for mine, theirs in zip(parts, whole, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    adapters = [load_file(tmp_path / str(tokens) / "adapter" / "adapter_model.safetensors") for tokens in runs]
    for key, value in adapters[0].items():
        torch.testing.assert_close(value, adapters[1][key], atol=1e-4, rtol=1e-3)
