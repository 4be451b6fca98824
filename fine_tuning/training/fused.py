"""The same model, with fewer passes over memory and fewer calls: layers, or what can be fused of them, as single autograd steps.

A small model's step on a CPU spends half of its time between the matrix products. Loss and gradients stay those of PEFT and Transformers
(tests/training/test_fused.py); the parts themselves are in fused_steps.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fine_tuning.training.adapters import Adapted, AdapterVector
from fine_tuning.training.fused_steps import Angles, Attention, Gated, Layer, Norm, Part, Projection, Step
from fine_tuning.training.tree_attention import Layout

_PROBED = 3  # tokens
_KINDS = 8  # of layers that turn by other angles, at most
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # have the same input


def fuse(model: nn.Module) -> AdapterVector | None:
    """Replace the forward passes that can be fused; the vector in which the adapters of these now are, and their gradients.

    Call it where the weights already are (device, dtype). Left alone: LoRA with dropout or DoRA, several adapters at once, quantised
    weights, and every module that answers a probe otherwise than its fused form would. None if no adapter's layer can be fused.
    """
    if "adapter_vector" not in vars(model):
        groups = _groups(model)
        vars(model)["adapter_vector"] = adapters = AdapterVector(groups) if groups else None  # lives as long as the model
        _Fuser(adapters).fuse(model)
        if adapters is not None:
            rest = outside(model, adapters)
            model.zero_grad = lambda set_to_none=True: _clear(adapters, rest)  # type: ignore[method-assign]
    found: AdapterVector | None = vars(model)["adapter_vector"]
    return found


def outside(model: nn.Module, adapters: AdapterVector | None) -> list[nn.Parameter]:
    """What is trained and not in the vector."""
    within = set(map(id, adapters.parameters)) if adapters else set()
    return [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in within]


def _clear(adapters: AdapterVector, rest: Sequence[nn.Parameter]) -> None:
    """Gradients to zero, without asking a thousand modules for their parameters."""
    adapters.gradients.zero_()
    for parameter in rest:
        parameter.grad = None


def _groups(model: nn.Module) -> list[list[Any]]:
    """The layers whose adapters can be fused, those with the same input together."""
    together = []
    for module in model.modules():
        for names in _TOGETHER:
            if layers := _children(module, *names):
                together.append(layers)
    taken = {id(layer) for layers in together for layer in layers}
    return together + [[module] for module in model.modules() if _plain(module) and id(module) not in taken]


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


class _Fuser:
    """Finds, for each module, the part that does the same; and takes it only if it does."""

    def __init__(self, adapters: AdapterVector | None) -> None:
        """`adapters`: those of all plain layers; None if there are none, and norms alone can be fused."""
        self.adapters: Any = adapters
        self.parts: dict[int, Any] = {}  # by the module that they stand for
        self.within: set[int] = set()  # layers whose weights a part has
        self.turned: set[int] = set()  # numbers of each head that are turned by their place

    @torch.no_grad()
    def fuse(self, model: nn.Module) -> None:
        frequencies: list[Any] = [getattr(module, "inv_freq", None) for module in model.modules()]
        self.turned = {2 * len(each) for each in frequencies if each is not None}
        # A layer is made of the parts before it; projections that are in no part come last, since a part has their weights.
        for find in (self._norm, self._attention, self._gated, self._layer, self._projection):
            for module in model.modules():
                find(module)

    def _projection(self, module: Any) -> None:
        if _plain(module) and id(module) not in self.within:
            part = Projection(self.adapters.of(module))
            self._share(part.only, module)
            self._take(module, part, module)

    def _norm(self, module: Any) -> None:
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and not module.weight.requires_grad:
            part, probe = Norm(module.weight, module.variance_epsilon), _probe(module.weight)
            if _alike(module.forward(probe), Step.apply(probe, None, part)):
                self._take(module, part)

    def _gated(self, module: Any) -> None:
        layers = _children(module, "gate_proj", "up_proj", "down_proj")
        if not layers or any(layer.get_base_layer().bias is not None for layer in layers):
            return
        part = Gated(self.adapters.of(*layers[:2]), self.adapters.of(layers[2]))
        probe = _probe(part.both.weight)
        if _alike(module.forward(probe), Step.apply(probe, None, part)):
            self._share(part.both, *layers[:2])
            self._share(part.down, layers[2])
            self._take(module, part, layers[2])

    def _attention(self, module: Any) -> None:
        layers = _children(module, "q_proj", "k_proj", "v_proj", "o_proj")
        size: Any = getattr(module, "head_dim", None)
        whole = size is not None and self.turned == {size}  # some turn a part of each head only
        if not layers or not whole or getattr(module, "attention_dropout", False):
            return
        bases = [layer.get_base_layer() for layer in layers]
        biases = [base.bias for base in bases[:3]]
        heads, groups, values = (base.out_features // size for base in bases[:3])
        if bases[3].bias is not None or len({bias is None for bias in biases}) > 1 or values != groups or heads % groups:
            return
        asked = _row_probe(bases[0].weight, size)
        wanted = _answer(module, asked)
        if wanted is None or len(asked["layout"].windows) != 1:  # none: its attention is another than the tree's
            return
        part = Attention(
            inner=self.adapters.of(*layers[:3]),
            outer=self.adapters.of(layers[3]),
            heads=heads,
            groups=groups,
            scale=getattr(module, "scaling", size**-0.5),
            window=next(iter(asked["layout"].windows)),
        )
        if _alike(wanted, Step.apply(asked["hidden_states"], None, part, *_about(asked))):
            self._share(part.inner, *layers[:3])
            self._share(part.outer, layers[3])
            self._take_over_row(module, part, layers[3], lambda y: (y, None))

    def _layer(self, module: Any) -> None:
        names = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
        parts: list[Any] = [self.parts.get(id(getattr(module, name, None))) for name in names]
        if all(parts):
            part = Layer(*parts)
            asked = _row_probe(part.attention.inner.weight, module.self_attn.head_dim)
            wanted = _answer(module, asked)
            if wanted is not None and _alike(wanted, Step.apply(asked["hidden_states"], None, part, *_about(asked))):
                self._take_over_row(module, part, module.self_attn.o_proj, lambda y: y)

    def _share(self, adapted: Adapted, *layers: Any) -> None:
        """No weight is held twice: those of `layers` become views of the part's (by which only BLAS multiplies, see `product`)."""
        bases = [layer.get_base_layer() for layer in layers]
        for base, weight in zip(bases, adapted.weight.split([len(base.weight) for base in bases]), strict=True):
            base.weight.data = weight
        self.within.update(map(id, layers))

    def _take(self, module: Any, part: Part, adapted: Any = None) -> None:
        """Let `part` stand for `module`, as long as the adapter of `adapted` is not switched off."""
        original, anchor = module.forward, self.adapters.weights if adapted is not None else None

        def forward(x: Tensor, *arguments: Any, **named: Any) -> Any:
            if arguments or named or (adapted is not None and adapted.disable_adapters):
                return original(x, *arguments, **named)
            return Step.apply(x, anchor, part)

        module.forward, self.parts[id(module)] = forward, part

    def _take_over_row(self, module: Any, part: Part, adapted: Any, answer: Callable[[Tensor], Any]) -> None:
        """The same of a part that is told of the packed row; `answer`: as the module gives it."""
        original, anchor = module.forward, self.adapters.weights

        def forward(hidden_states: Tensor, **named: Any) -> Any:
            if named.get("layout") is None or adapted.disable_adapters or named.get("past_key_values") is not None:
                return original(hidden_states, **named)
            return answer(Step.apply(hidden_states, anchor, part, *_about(named)))

        module.forward, self.parts[id(module)] = forward, part


def _children(module: Any, *names: str) -> list[Any]:
    """The plain layers of these names; none if one is not there or not plain."""
    layers = [getattr(module, name, None) for name in names]
    return layers if all(map(_plain, layers)) else []


def _about(named: dict[str, Any]) -> tuple[Angles, Layout]:
    """What the parts are told of a packed row; its angles are the same in all layers of a kind."""
    cos, sin = named["position_embeddings"]
    layout: Layout = named["layout"]
    if id(cos) not in layout.angles:
        if len(layout.angles) == _KINDS:  # of forward passes before
            layout.angles.clear()
        layout.angles[id(cos)] = cos, Angles(cos, sin)  # with what it was made of, whose id no other gets meanwhile
    return layout.angles[id(cos)][1], layout


def _probe(weight: Tensor) -> Tensor:
    """[1, tokens, in]: an input as wide as `weight`'s last dimension."""
    return torch.linspace(-2, 2, _PROBED * weight.shape[-1], device=weight.device).to(weight.dtype).view(1, _PROBED, -1)


def _row_probe(weight: Tensor, size: int) -> dict[str, Any]:
    """What attention or a layer is asked with: tokens of which each sees those before it."""
    row = torch.arange(_PROBED, device=weight.device)
    angles = (row[:, None] * torch.linspace(0.1, 1, size // 2, device=weight.device)).repeat(1, 2)[None]
    return {
        "hidden_states": _probe(weight),
        "position_embeddings": (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)),
        "attention_mask": (row[:, None] >= row)[None, None],
        "layout": Layout([range(_PROBED)]),
    }


def _answer(module: Any, asked: dict[str, Any]) -> Tensor | None:
    """What `module` says; None if it wants to be asked otherwise."""
    try:
        answer = module.forward(**asked)
    except Exception:  # noqa: BLE001 - any: it is left alone
        return None
    return answer[0] if isinstance(answer, tuple) else answer


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether the two are the same but for rounding, of which bfloat16 does much."""
    near = 1e-3 if other.dtype == torch.float32 else 3e-2
    return bool(one.shape == other.shape and (one - other).norm() <= near * other.norm())
