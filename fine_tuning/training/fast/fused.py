"""The same model with fewer passes over memory and fewer calls.

Layers, or what can be fused of them, become single steps of autograd. A small model's step on a CPU
spends half of its time between the matrix products. Loss and gradients stay those of PEFT and
Transformers (tests/training/test_fused.py). The parts are in layers.py. A part takes a module's
place only if it answers a probe as the module does.
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

_PROBED = 3  # tokens
_ANGLES_KEPT = 8  # kinds of layers with angles of their own, at most
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def fuse(model: nn.Module) -> AdapterVector | None:
    """Replace the forward passes that can be fused; return the vector of their adapters.

    The vector holds the adapters' gradients too. Call it where the weights stay (device, number
    format). Left alone are LoRA with dropout or DoRA, several adapters at once, quantised weights,
    and every module that answers a probe differently from its fused form. None if no adapter's
    layer can be fused.
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
    """Return the trained parameters that are not in the vector."""
    within = set(map(id, adapters.parameters)) if adapters else set()
    return [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in within]


def _clear(adapters: AdapterVector, rest: Sequence[nn.Parameter]) -> None:
    """Set gradients to zero without asking a thousand modules for their parameters."""
    adapters.gradients.zero_()
    for parameter in rest:
        parameter.grad = None


def _groups(model: nn.Module) -> list[list["LoraLinear"]]:
    """Return the layers whose adapters can be fused, those with the same input together."""
    together = []
    for module in model.modules():
        for names in _SAME_INPUT:
            if layers := _plain_children(module, *names):
                together.append(layers)
    taken = {id(layer) for layers in together for layer in layers}
    alone = (layer for module in model.modules() if (layer := _plain(module)) is not None)
    return together + [[layer] for layer in alone if id(layer) not in taken]


def _plain(module: object) -> "LoraLinear | None":
    """Return `module` if it is a frozen linear layer under one LoRA adapter with nothing special about it."""
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
    """Return the plain layers of these names; none if one is missing or not plain."""
    layers = [layer for name in names if (layer := _plain(getattr(module, name, None))) is not None]
    return layers if len(layers) == len(names) else []


class _Probe(TypedDict):
    """What attention or a layer is asked with: a few tokens, each of which attends to those before it."""

    hidden_states: Tensor
    position_embeddings: tuple[Tensor, Tensor]
    attention_mask: Tensor
    layout: Layout


class _Fuser:
    """Finds for each module the part that computes the same, and replaces the module's forward pass by it."""

    def __init__(self, adapters: AdapterVector | None) -> None:
        """`adapters`: those of all plain layers; None if there are none, and only norms can be fused."""
        self.adapters = adapters
        self.parts: dict[int, Part | RowPart] = {}  # by the id of the module that they replace
        self.within: set[int] = set()  # ids of layers whose weights a part holds
        self.turned: set[int] = set()  # numbers of each head that rotary positions turn

    @torch.no_grad()
    def fuse(self, model: nn.Module) -> None:
        frequencies: list[Tensor | None] = [getattr(module, "inv_freq", None) for module in model.modules()]
        self.turned = {2 * len(each) for each in frequencies if each is not None}
        # A layer is made of the parts before it. Projections come last: most are in another part by then.
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
        if self.turned != {size}:  # some models turn only a part of each head
            return
        bases = [base_of(layer) for layer in layers]
        heads, groups, values = (base.out_features // size for base in bases[:3])
        mixed_biases = len({base.bias is None for base in bases[:3]}) > 1
        if bases[3].bias is not None or mixed_biases or values != groups or heads % groups:
            return
        probe = _row_probe(bases[0].weight, size)
        answer = _answer(module, probe)
        if answer is None or len(probe["layout"].windows) != 1:  # no window asked for: its attention is not the tree's
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
        """Make the weights of `layers` views of the part's, so that none is held twice.

        Only BLAS multiplies by such views.
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
        """Let `part` compute the forward pass of `module`, unless the adapter of `adapted` is switched off."""
        original, anchor = module.forward, self._anchor() if adapted is not None else None

        def forward(x: Tensor, *arguments: object, **named: object) -> object:
            if arguments or named or (adapted is not None and adapted.disable_adapters):
                return original(x, *arguments, **named)
            return apply(PartFunction, x, anchor, part)

        vars(module)["forward"], self.parts[id(module)] = forward, part

    def _replace_row_part(
        self, module: nn.Module, part: RowPart, adapted: "LoraLinear", answer: Callable[[Tensor], object]
    ) -> None:
        """Like `_replace`, for a part that needs to know the packed row.

        `answer` turns y into what the module returns.
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
    """Return what the parts need to know of a packed row. Its angles are made once for all layers that share them."""
    cos, sin = position_embeddings
    known = layout.angles
    if id(cos) not in known:
        if len(known) == _ANGLES_KEPT:  # those of earlier forward passes
            known.clear()
        known[id(cos)] = cos, Angles(cos, sin)  # `cos` is kept, so that no other tensor gets its id
    return RowContext(cast(Angles, known[id(cos)][1]), layout)


def _probe(weight: Tensor) -> Tensor:
    """Return an input [1, tokens, in] as wide as `weight`'s last dimension."""
    return torch.linspace(-2, 2, _PROBED * weight.shape[-1], device=weight.device).to(weight.dtype).view(1, _PROBED, -1)


def _row_probe(weight: Tensor, size: int) -> _Probe:
    """Return what to ask attention, or a layer, whose heads have `size` numbers."""
    row = torch.arange(_PROBED, device=weight.device)
    angles = (row[:, None] * torch.linspace(0.1, 1, size // 2, device=weight.device)).repeat(1, 2)[None]
    return {
        "hidden_states": _probe(weight),
        "position_embeddings": (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)),
        "attention_mask": (row[:, None] >= row)[None, None],
        "layout": Layout([range(_PROBED)]),
    }


def _answer(module: nn.Module, probe: _Probe) -> Tensor | None:
    """Return what `module` answers; None if it wants other arguments."""
    try:
        answer = module.forward(**probe)
    except Exception:  # noqa: BLE001 - whatever it is, the module is left alone
        return None
    found: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether the two are the same but for rounding, of which bfloat16 does much."""
    near = 1e-3 if other.dtype == torch.float32 else 3e-2
    return bool(one.shape == other.shape and (one - other).norm() <= near * other.norm())
