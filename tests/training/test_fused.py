"""The fused passes against PEFT's and Transformers' own: the same losses, the same gradients."""

import pytest
import torch
from test_packing import rows_of
from transformers import AutoModelForCausalLM

from fine_tuning.config import Training
from fine_tuning.training.fused import fuse
from fine_tuning.training.methods import METHODS
from fine_tuning.training.packing import pack, packed_loss


def tuned(base, dtype=torch.float32, **settings):
    """A LoRA model whose adapter does something: B is not zero."""
    settings = Training(lora_r=4, **settings)
    model = METHODS[settings.method].attach(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), settings)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def step(model):
    rows = rows_of(6)
    loss, _ = packed_loss(model, pack(rows))
    return loss, torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad])


def test_fused_loss_and_gradients_are_those_of_peft(tiny_base):
    plain, fused = tuned(tiny_base), tuned(tiny_base)
    assert (
        fuse(fused) == 2 * (7 + 1 + 1 + 2) + 1
    )  # projections, attention, the gated feed-forward and norms of two layers, and the last norm
    (loss, gradients), (fused_loss, fused_gradients) = step(plain), step(fused)
    assert abs(loss.item() - fused_loss.item()) < 1e-6
    for mine, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-4)


def test_a_switched_off_adapter_gives_the_base(tiny_base):
    model, base = tuned(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base)
    fuse(model)
    ids = torch.arange(12)[None]
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_a_norm_and_a_feed_forward_that_work_otherwise_are_left_alone(tiny_base):
    model = tuned(tiny_base)
    inner = model.get_base_model().model
    inner.norm.forward = lambda x: x * (1 + inner.norm.weight)  # as Gemma's does
    for layer in inner.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert fuse(model) == 2 * (7 + 1 + 2)


def test_projections_with_dropout_are_left_alone(tiny_base):
    model = tuned(tiny_base, lora_dropout=0.3)
    before = {name: module.forward for name, module in model.named_modules() if "proj" in name}
    fuse(model)
    assert all(module.forward == before[name] for name, module in model.named_modules() if name in before)


def test_bfloat16_stays_near_peft(tiny_base):
    plain, fused = tuned(tiny_base, torch.bfloat16), tuned(tiny_base, torch.bfloat16)
    fuse(fused)
    assert step(fused)[0].item() == pytest.approx(step(plain)[0].item(), rel=2e-2)
