"""The fused passes against PEFT's and Transformers' own: the same losses, the same gradients."""

import pytest
import torch
from safetensors.torch import load_file
from test_packing import rows_of
from transformers import AutoConfig, AutoModelForCausalLM, NemotronForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from fine_tuning.config import Training
from fine_tuning.training import methods
from fine_tuning.training.fast import matmul, tree_attention
from fine_tuning.training.fast.adapters import AdapterVector
from fine_tuning.training.fast.fused import fuse
from fine_tuning.training.fast.layers import PartFunction, Projection
from fine_tuning.training.loss import packed_loss, supervised_logits
from fine_tuning.training.packing import pack

# Of two layers each: attention, the gated feed-forward, norms, the layer itself; and the last norm.
EVERY = 2 * (1 + 1 + 2 + 1) + 1
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def tuned(base, dtype=torch.float32, **settings):
    """A LoRA model whose adapter does something: B is not zero."""
    settings = Training(lora_r=4, **settings)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=tree_attention.register())
    model = methods.METHODS[settings.method].attach(model, settings)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def step(model):
    rows = rows_of(6)
    loss, _ = packed_loss(model, pack(rows))
    loss.backward()
    return loss, [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


def is_fused(module):
    return getattr(module.forward, "__module__", "") == fuse.__module__


def fused_modules(model):
    fuse(model)
    return sum(map(is_fused, model.modules()))


@pytest.fixture(params=[None, Qwen2ForCausalLM], ids=["llama", "qwen2"])
def base(request, tiny_base, tmp_path):
    """Without and with biases."""
    return other_base(tiny_base, tmp_path, request.param) if request.param else tiny_base


def other_base(tiny_base, folder, kind):
    """A model as small as `tiny_base`, of another family; every bias says something."""
    config = AutoConfig.from_pretrained(tiny_base).to_dict()
    torch.manual_seed(2)
    model = kind(kind.config_class(**{key: config[key] for key in SIZES}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "other")
    return folder / "other"


def test_fused_loss_and_gradients_are_those_of_peft(base):
    plain, fused = tuned(base), tuned(base)
    assert fused_modules(fused) == EVERY
    (loss, gradients), (fused_loss, fused_gradients) = step(plain), step(fused)
    assert abs(loss.item() - fused_loss.item()) < 1e-6
    for mine, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-4)


def test_the_adapters_are_one_vector_that_is_cleared_and_saved_as_peft_would(tiny_base, tmp_path):
    plain, fused = tuned(tiny_base), tuned(tiny_base)
    vector = fuse(fused)
    assert fuse(fused) is vector and vector.weights.numel() == sum(
        each.numel() for each in plain.parameters() if each.requires_grad
    )
    step(fused)
    assert vector.gradients.norm() > 0
    fused.zero_grad()
    assert vector.gradients.norm() == 0
    _, gradients = step(fused)
    for mine, theirs in zip(gradients, step(plain)[1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-4)
    for model, name in ((plain, "plain"), (fused, "fused")):
        methods.save(model, tmp_path / name)
    saved, wanted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("fused", "plain"))
    assert saved.keys() == wanted.keys() and all(torch.equal(saved[key], wanted[key]) for key in wanted)
    with torch.no_grad():
        vector.weights.zero_()
    methods.restore(fused, tmp_path / "plain")
    assert step(fused)[0].item() == pytest.approx(step(plain)[0].item(), abs=1e-6)


@pytest.mark.parametrize("kind", [None, Qwen2ForCausalLM], ids=["plain", "biased"])
@pytest.mark.parametrize("library", ["blas", *(["onednn"] if torch.backends.mkldnn.is_available() else [])])
def test_layers_with_one_input_are_one_product_with_the_gradients_of_each(
    tiny_base, tmp_path, monkeypatch, library, kind
):
    """Also after another forward pass, and where oneDNN makes the adapters' gradients."""
    monkeypatch.setattr(matmul, "_WIDE", 8)
    model = tuned(other_base(tiny_base, tmp_path, kind) if kind else tiny_base)
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x, other = (torch.randn(1, tokens, 32, requires_grad=True) for tokens in (7, 5))
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    wanted.square().sum().backward()
    trained = [weight for layer in layers for weight in layer.parameters() if weight.requires_grad]
    gradients = [x.grad, *(weight.grad.clone() for weight in trained)]
    x.grad = None
    matmul.use(library)
    vector = AdapterVector([layers])
    part = Projection(vector.of(*layers))
    made = PartFunction.apply(x, vector.weights, part)
    PartFunction.apply(other, vector.weights, part)
    made.square().sum().backward()
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close([x.grad, *(weight.grad for weight in trained)], gradients, atol=1e-4, rtol=1e-4)


def test_a_switched_off_adapter_gives_the_base(tiny_base):
    model, base = tuned(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base)
    fuse(model)
    rows = pack(rows_of(3))
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(supervised_logits(model, rows), supervised_logits(base, rows))


@pytest.mark.parametrize("kind", [Qwen3ForCausalLM, NemotronForCausalLM])
def test_an_attention_that_works_otherwise_keeps_its_loss_and_gradients(tiny_base, tmp_path, kind):
    """Norms of queries and keys; heads of which a part is turned."""
    base = other_base(tiny_base, tmp_path, kind)
    plain, model = tuned(base), tuned(base)
    fuse(model)
    attention = model.get_base_model().model.layers[0].self_attn
    assert [is_fused(module) for module in (attention, attention.q_proj, attention.o_proj)] == [False, True, True]
    (loss, gradients), (other_loss, other) = step(plain), step(model)
    assert abs(loss.item() - other_loss.item()) < 1e-5
    for mine, theirs in zip(other, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-3)


def test_a_norm_and_a_feed_forward_that_work_otherwise_are_left_alone(tiny_base):
    model = tuned(tiny_base)
    inner = model.get_base_model().model
    inner.norm.forward = lambda x: x * (1 + inner.norm.weight)  # as Gemma's does
    for layer in inner.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    assert fused_modules(model) == 2 * (1 + 2 + 3)  # and the projections of the feed-forward by themselves


def test_projections_with_dropout_are_left_alone(tiny_base):
    model = tuned(tiny_base, lora_dropout=0.3)
    before = {name: module.forward for name, module in model.named_modules() if "proj" in name}
    fuse(model)
    assert all(module.forward == before[name] for name, module in model.named_modules() if name in before)


def test_bfloat16_stays_near_peft(tiny_base):
    plain, fused = tuned(tiny_base, torch.bfloat16), tuned(tiny_base, torch.bfloat16)
    assert fused_modules(fused) == EVERY
    assert step(fused)[0].item() == pytest.approx(step(plain)[0].item(), rel=2e-2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "name"), [(None, "mlp.gate_proj"), (Qwen2ForCausalLM, "self_attn.q_proj")], ids=["plain", "biased"]
)
def test_what_a_young_adapter_says_is_not_rounded_away_in_bfloat16(tiny_base, tmp_path, kind, name):
    """A thousandth of the product beside it: less than half of bfloat16's last place, of which PEFT loses a part."""
    model = tuned(other_base(tiny_base, tmp_path, kind) if kind else tiny_base, torch.bfloat16)
    layer = model.get_submodule(f"base_model.model.model.layers.0.{name}")
    if layer.base_layer.bias is not None:
        layer.base_layer.bias.fill_(5.0)
    x = torch.randn(1, 4000, 32).to(torch.bfloat16)
    product = layer.base_layer(x)
    wanted = (
        (x.float() @ layer.lora_A["default"].weight.t()) @ layer.lora_B["default"].weight.t() * layer.scaling["default"]
    )
    shrink = 1e-3 * product.float().norm() / wanted.norm()
    layer.lora_B["default"].weight.mul_(shrink)
    wanted *= shrink

    def kept(answer):
        return ((answer.float() - product.float()) * wanted).sum() / wanted.square().sum()

    assert abs(kept(layer(x)) - 1) > 0.3  # PEFT
    assert abs(kept(PartFunction.apply(x, None, Projection(AdapterVector([[layer]]).of(layer)))) - 1) < 0.1
