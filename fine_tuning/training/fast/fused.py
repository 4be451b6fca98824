"""Replace the forward passes of modules by fused ones, with fewer calls and fewer passes over memory.

Layers, or parts of them, become single autograd functions (layers.py). Without them, a training
step of a small model on a CPU spends half of its time outside of matrix products. Loss and
gradients stay the same as those of PEFT and Transformers (tests/training/test_fused.py): a fused
part replaces a module only if both return the same output for a probe, a small test input.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import torch
from torch import Tensor, nn

from fine_tuning.training.autograd import apply
from fine_tuning.training.fast.adapters import Adapted, AdapterVector, base_of
from fine_tuning.training.fast.layers import (
    Angles,
    Attention,
    Gated,
    Layer,
    Norm,
    Part,
    PartFunction,
    Projection,
    RowContext,
    RowPart,
    RowPartFunction,
)
from fine_tuning.training.fast.tree_attention import Layout

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear as LoraLinear

_PROBED = 3  # tokens of a probe
_ANGLES_KEPT = 8  # maximum number of cached angles: one for each kind of layer
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def fuse(model: nn.Module) -> AdapterVector | None:
    """Replace the forward passes that can be fused; return the vector of the fused adapters.

    Must be called after the model has been moved to its device and number format; further calls
    change nothing. LoRA with dropout or DoRA, several adapters at once, quantised weights, and
    modules whose output for a probe differs from the fused part's output are not fused. Return None
    if no layer with an adapter can be fused.
    """
    if "adapter_vector" not in vars(model):
        groups = _groups(model)
        # lives as long as the model
        vars(model)["adapter_vector"] = adapters = AdapterVector(groups) if groups else None
        _Fuser(adapters).fuse(model)
        if adapters is not None:
            rest = outside(model, adapters)
            vars(model)["zero_grad"] = lambda set_to_none=True: _clear(adapters, rest)
    found: AdapterVector | None = vars(model)["adapter_vector"]
    return found


def outside(model: nn.Module, adapters: AdapterVector | None) -> list[nn.Parameter]:
    """Return the model's trained parameters that are not in the vector `adapters`."""
    within = set(map(id, adapters.parameters)) if adapters else set()
    return [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in within]


def _clear(adapters: AdapterVector, rest: Sequence[nn.Parameter]) -> None:
    """Clear all gradients, faster than `zero_grad`, which would iterate over a thousand modules."""
    adapters.gradients.zero_()
    for parameter in rest:
        parameter.grad = None


def _groups(model: nn.Module) -> list[list["LoraLinear"]]:
    """Return the layers whose adapters can be fused; layers with the same input form a group."""
    together = []
    for module in model.modules():
        for names in _SAME_INPUT:
            if layers := _plain_children(module, *names):
                together.append(layers)
    taken = {id(layer) for layers in together for layer in layers}
    alone = (layer for module in model.modules() if (layer := _plain(module)) is not None)
    return together + [[layer] for layer in alone if id(layer) not in taken]


def _plain(module: object) -> "LoraLinear | None":
    """Return `module` if it is a frozen linear layer with one plain LoRA adapter (no dropout, DoRA or bias)."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or len(module.active_adapters) != 1 or module.merged or module.fan_in_fan_out:
        return None
    (name,) = module.active_adapters
    base = module.get_base_layer()
    is_plain = (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and not module.use_dora.get(name, False)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
    )
    return module if is_plain else None


def _plain_children(module: nn.Module, *names: str) -> list["LoraLinear"]:
    """Return the children with these names; an empty list unless every one is a plain LoRA layer (`_plain`)."""
    layers = [layer for name in names if (layer := _plain(getattr(module, name, None))) is not None]
    return layers if len(layers) == len(names) else []


class _Probe(TypedDict):
    """The test input for an attention module or a whole layer: a few tokens with causal attention."""

    hidden_states: Tensor
    position_embeddings: tuple[Tensor, Tensor]
    attention_mask: Tensor
    layout: Layout


class _Fuser:
    """Replaces the forward passes of modules by fused, faster ones (layers.py) with the same results."""

    def __init__(self, adapters: AdapterVector | None) -> None:
        """Prepare the replacement. `adapters`: all adapters that can be fused; None: fuse only the norms."""
        self.adapters = adapters
        self.parts: dict[int, Part | RowPart] = {}  # by id of the replaced module
        self.within: set[int] = set()  # ids of layers whose weights belong to a part
        self.turned: set[int] = set()  # how many numbers of each head are rotated, for each kind of layer

    @torch.no_grad()
    def fuse(self, model: nn.Module) -> None:
        frequencies: list[Tensor | None] = [getattr(module, "inv_freq", None) for module in model.modules()]
        self.turned = {2 * len(each) for each in frequencies if each is not None}
        # Layers consist of the parts found before them. Projections come last, since most belong to other parts.
        for find in (self._norm, self._attention, self._gated, self._layer, self._projection):
            for module in model.modules():
                find(module)

    def _projection(self, module: nn.Module) -> None:
        layer = _plain(module)
        if layer is not None and self.adapters and id(module) not in self.within:
            part = Projection(self.adapters.of(layer))
            self._share_weights(part.only, layer)
            self._replace(module, part, layer)

    def _norm(self, module: nn.Module) -> None:
        weight = getattr(module, "weight", None)
        if not (type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")) or weight is None:
            return
        if not weight.requires_grad:
            part, probe = Norm(weight, float(getattr(module, "variance_epsilon", 0.0))), _probe(weight)
            if _alike(module.forward(probe), apply(PartFunction, probe, None, part)):
                self._replace(module, part)

    def _gated(self, module: nn.Module) -> None:
        layers = _plain_children(module, "gate_proj", "up_proj", "down_proj")
        if not layers or not self.adapters or any(base_of(layer).bias is not None for layer in layers):
            return
        part = Gated(self.adapters.of(*layers[:2]), self.adapters.of(layers[2]))
        probe = _probe(part.both.weight)
        if _alike(module.forward(probe), apply(PartFunction, probe, None, part)):
            self._share_weights(part.both, *layers[:2])
            self._share_weights(part.down, layers[2])
            self._replace(module, part, layers[2])

    def _attention(self, module: nn.Module) -> None:
        layers = _plain_children(module, "q_proj", "k_proj", "v_proj", "o_proj")
        size: int | None = getattr(module, "head_dim", None)
        if not layers or not self.adapters or size is None or getattr(module, "attention_dropout", False):
            return
        if self.turned != {size}:  # some models rotate only a part of each head
            return
        bases = [base_of(layer) for layer in layers]
        heads, groups, values = (base.out_features // size for base in bases[:3])
        mixed_biases = len({base.bias is None for base in bases[:3]}) > 1
        if bases[3].bias is not None or mixed_biases or values != groups or heads % groups:
            return
        probe = _row_probe(bases[0].weight, size)
        answer = _answer(module, probe)
        if answer is None or len(probe["layout"].windows) != 1:  # the module did not use tree attention
            return
        (window,) = probe["layout"].windows
        scale = float(getattr(module, "scaling", size**-0.5))
        part = Attention(self.adapters.of(*layers[:3]), self.adapters.of(layers[3]), heads, groups, scale, window)
        if _alike(answer, apply(RowPartFunction, probe["hidden_states"], None, part, _row_context(**probe))):
            self._share_weights(part.inner, *layers[:3])
            self._share_weights(part.outer, layers[3])
            self._replace_row_part(module, part, layers[3], lambda y: (y, None))

    def _layer(self, module: nn.Module) -> None:
        names = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
        before, attention, between, gated = (self.parts.get(id(getattr(module, name, None))) for name in names)
        if not (
            isinstance(before, Norm)
            and isinstance(between, Norm)
            and isinstance(attention, Attention)
            and isinstance(gated, Gated)
        ):
            return
        part, attending = Layer(before, attention, between, gated), module.get_submodule("self_attn")
        output = _plain(attending.get_submodule("o_proj"))
        probe = _row_probe(attention.inner.weight, attention.outer.a.shape[1] // attention.heads)
        answer = _answer(module, probe)
        if output is None or answer is None:
            return
        if _alike(answer, apply(RowPartFunction, probe["hidden_states"], None, part, _row_context(**probe))):
            self._replace_row_part(module, part, output, lambda y: y)

    def _share_weights(self, adapted: Adapted, *layers: "LoraLinear") -> None:
        """Make the weights of `layers` views of the weights in `adapted`, so that no weight is stored twice.

        oneDNN cannot multiply by such views; BLAS can.
        """
        bases = [base_of(layer) for layer in layers]
        for base, weight in zip(
            bases, adapted.weight.split_with_sizes([len(base.weight) for base in bases]), strict=True
        ):
            base.weight.data = weight
        self.within.update(map(id, layers))

    def _anchor(self) -> Tensor | None:
        return self.adapters.weights if self.adapters else None

    def _replace(self, module: nn.Module, part: Part, adapted: "LoraLinear | None" = None) -> None:
        """Make `part` compute the forward pass of `module`, unless the adapter of `adapted` is disabled."""
        original, anchor = module.forward, self._anchor() if adapted is not None else None

        def forward(x: Tensor, *arguments: object, **named: object) -> object:
            if arguments or named or (adapted is not None and adapted.disable_adapters):
                return original(x, *arguments, **named)
            return apply(PartFunction, x, anchor, part)

        vars(module)["forward"], self.parts[id(module)] = forward, part

    def _replace_row_part(
        self, module: nn.Module, part: RowPart, adapted: "LoraLinear", answer: Callable[[Tensor], object]
    ) -> None:
        """Replace a forward pass like `_replace`, for a part that also needs the packed row's context.

        `answer` converts the part's output to what the module returns. Calls without a packed row,
        or with a key-value cache, still use the original forward pass.
        """
        original, anchor = module.forward, self._anchor()

        def forward(hidden_states: Tensor, **named: object) -> object:
            if named.get("layout") is None or adapted.disable_adapters or named.get("past_key_values") is not None:
                return original(hidden_states, **named)
            angles = cast(tuple[Tensor, Tensor], named["position_embeddings"])
            row = _row_context(layout=cast(Layout, named["layout"]), position_embeddings=angles)
            return answer(apply(RowPartFunction, hidden_states, anchor, part, row))

        vars(module)["forward"], self.parts[id(module)] = forward, part


def _row_context(layout: Layout, position_embeddings: tuple[Tensor, Tensor], **others: object) -> RowContext:
    """Return a packed row's context. The angles are cached in `layout`, for all layers that share them."""
    cos, sin = position_embeddings
    known = layout.angles
    if id(cos) not in known:
        if len(known) == _ANGLES_KEPT:  # angles of earlier forward passes
            known.clear()
        known[id(cos)] = cos, Angles(cos, sin)  # `cos` is kept alive, so that no other tensor gets its id
    return RowContext(cast(Angles, known[id(cos)][1]), layout)


def _probe(weight: Tensor) -> Tensor:
    """Return a test input [1, tokens, in] for a module with this weight, whose last dimension is `in`."""
    return torch.linspace(-2, 2, _PROBED * weight.shape[-1], device=weight.device).to(weight.dtype).view(1, _PROBED, -1)


def _row_probe(weight: Tensor, size: int) -> _Probe:
    """Return the test input for an attention module, or a layer, whose heads have `size` numbers.

    `weight`: a weight whose last dimension is the width of the input.
    """
    row = torch.arange(_PROBED, device=weight.device)
    angles = (row[:, None] * torch.linspace(0.1, 1, size // 2, device=weight.device)).repeat(1, 2)[None]
    return {
        "hidden_states": _probe(weight),
        "position_embeddings": (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)),
        "attention_mask": (row[:, None] >= row)[None, None],
        "layout": Layout([range(_PROBED)]),
    }


def _answer(module: nn.Module, probe: _Probe) -> Tensor | None:
    """Return the output of `module` for the probe; None if the module fails, for example for lack of an argument."""
    try:
        answer = module.forward(**probe)
    except Exception:  # noqa: BLE001 - a module that fails for any reason is not fused
        return None
    found: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding: 0.1 % of the norm in float32, 3 % in bfloat16."""
    near = 1e-3 if other.dtype == torch.float32 else 3e-2
    return bool(one.shape == other.shape and (one - other).norm() <= near * other.norm())
