"""The same model, with fewer passes over memory: attention, gated feed-forwards, norms and LoRA projections as single autograd steps.

A small model's step on a CPU spends half of its time between the matrix products. Loss and gradients stay those of PEFT and Transformers
(tests/training/test_fused.py); the steps themselves are in fused_steps.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fine_tuning.training.fused_steps import Attention, Gated, Norm, Projection
from fine_tuning.training.tree_attention import Layout

_Forward = Callable[..., Any]
_PROBED = 3  # tokens


def fuse(model: nn.Module) -> int:
    """Replace the forward passes that can be fused; how many were. Call it where the weights already are (device, dtype).

    Left alone: LoRA with dropout or DoRA, several adapters at once, quantised weights, and every module that answers a probe otherwise
    than its fused form would.
    """
    done = 0
    for module in model.modules():
        if "forward" not in vars(module) and (fused := _fused(module)) is not None:  # a fused one stays as it is
            module.forward = fused
            done += 1
    return done


@torch.no_grad()
def _fused(module: Any) -> _Forward | None:
    if _plain(module):
        return _projection(module)
    if all(_plain(getattr(module, name, None)) for name in ("q_proj", "k_proj", "v_proj", "o_proj")):
        return _attention(module)
    if all(_plain(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")):
        return _gated(module)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and not module.weight.requires_grad:
        return _norm(module)
    return None


def _probe(weight: Tensor) -> Tensor:
    """[1, tokens, in]: an input as wide as `weight`'s last dimension."""
    return torch.linspace(-2, 2, _PROBED * weight.shape[-1], device=weight.device).to(weight.dtype).view(1, _PROBED, -1)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether the two are the same but for rounding, of which bfloat16 does much."""
    near = 1e-3 if other.dtype == torch.float32 else 3e-2
    return bool((one - other).norm() <= near * other.norm())


def _plain(module: Any) -> bool:
    """Whether `module` is a frozen linear layer under one LoRA adapter with nothing special about it."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or len(module.active_adapters) != 1 or module.merged or module.fan_in_fan_out:
        return False
    (name,) = module.active_adapters
    base = module.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and not module.use_dora.get(name, False)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
    )


def _adapters(layers: Sequence[Any]) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """Each layer's A and B, one after the other, and the scales."""
    names = [layer.active_adapters[0] for layer in layers]
    pairs = [(layer.lora_A[name].weight, layer.lora_B[name].weight) for layer, name in zip(layers, names, strict=True)]
    scales = tuple(float(layer.scaling[name]) for layer, name in zip(layers, names, strict=True))
    return tuple(matrix for pair in pairs for matrix in pair), scales


def _stacked(layers: Sequence[Any]) -> Tensor:
    """The layers' weights, one over the other; `_share` makes the layers' own views of this, once it is sure to be used."""
    return torch.cat([layer.get_base_layer().weight.data for layer in layers])


def _share(layers: Sequence[Any], stacked: Tensor) -> None:
    """No weight is held twice."""
    bases = [layer.get_base_layer() for layer in layers]
    for base, part in zip(bases, stacked.split([len(base.weight) for base in bases]), strict=True):
        base.weight.data = part


def _projection(module: Any) -> _Forward:
    original, base = module.forward, module.get_base_layer()

    def forward(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if module.disable_adapters or arguments or named:
            result: Tensor = original(x, *arguments, **named)
            return result
        (a, b), (scale,) = _adapters([module])
        return Projection.apply(x, base.weight, base.bias, a, b, scale)

    return forward


def _attention(module: Any) -> _Forward | None:
    original = module.forward
    inner, outer = [module.q_proj, module.k_proj, module.v_proj], module.o_proj
    biases = [layer.get_base_layer().bias for layer in inner]
    size = getattr(module, "head_dim", None)
    if outer.get_base_layer().bias is not None or len({bias is None for bias in biases}) > 1:
        return None
    if not size or getattr(module, "attention_dropout", False):
        return None
    heads, groups, values = (layer.get_base_layer().out_features // size for layer in inner)
    stacked, scale = _stacked(inner), getattr(module, "scaling", size**-0.5)
    bias = None if biases[0] is None else torch.cat(biases)
    asked = _attention_probe(stacked, size)
    try:
        wanted = original(**asked)[0]
    except Exception:  # noqa: BLE001 - any: it wants to be asked otherwise, and is left alone
        return None
    if values != groups or heads % groups or len(asked["layout"].windows) != 1:  # none: its attention is another than the tree's
        return None
    (window,) = asked["layout"].windows

    def forward(hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        layout = named.get("layout")
        turned = position_embeddings is not None and position_embeddings[0].shape[-1] == size  # some models turn a part of a head only
        if layout is None or not turned or outer.disable_adapters or named.get("past_key_values") is not None:
            return original(hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask, **named)
        matrices, scales = _adapters([*inner, outer])
        turns = [each[0, :, None, : size // 2] for each in position_embeddings]
        about = (heads, groups), scale, layout, window
        return Attention.apply(hidden_states, stacked, bias, outer.get_base_layer().weight, *matrices, scales, *turns, *about), None

    if not _alike(wanted, forward(**asked)[0]):
        return None
    _share(inner, stacked)
    return forward


def _attention_probe(weight: Tensor, size: int) -> dict[str, Any]:
    """What an attention layer is asked with: tokens of which each sees those before it."""
    row = torch.arange(_PROBED, device=weight.device)
    angles = (row[:, None] * torch.linspace(0.1, 1, size // 2, device=weight.device)).repeat(1, 2)[None]
    return {
        "hidden_states": _probe(weight),
        "position_embeddings": (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)),
        "attention_mask": (row[:, None] >= row)[None, None],
        "layout": Layout([range(_PROBED)]),
    }


def _gated(module: Any) -> _Forward | None:
    original = module.forward
    layers = [module.gate_proj, module.up_proj, module.down_proj]
    if any(layer.get_base_layer().bias is not None for layer in layers):
        return None
    both, down = _stacked(layers[:2]), layers[2].get_base_layer()

    def forward(x: Tensor) -> Tensor:
        if layers[0].disable_adapters:
            result: Tensor = original(x)
            return result
        matrices, scales = _adapters(layers)
        return Gated.apply(x, both, down.weight, *matrices, scales)

    if not _alike(original(_probe(both)), forward(_probe(both))):
        return None
    _share(layers[:2], both)
    return forward


def _norm(module: Any) -> _Forward | None:
    def forward(x: Tensor) -> Tensor:
        return Norm.apply(x, module.weight, module.variance_epsilon)

    probe = _probe(module.weight)
    return forward if _alike(module.forward(probe), forward(probe)) else None
