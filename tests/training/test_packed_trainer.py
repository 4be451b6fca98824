"""The share of the machine's speed that is reported counts the operations that are really needed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fine_tuning.config import Training
from fine_tuning.training import methods
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
