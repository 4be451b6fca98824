"""Layers at the bottom that nothing trains: what they make of a token depends on it and those before it alone, so it is computed once.

From the second epoch on a step begins above them; no backward pass goes into them ever. It is another model than one that is trained in all
its layers, and can learn less: an option (`training.frozen_layers`), never a default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fine_tuning.errors import TrainingError


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """A model's layers, bottom to top, and under which name it has them. TrainingError if it has none."""
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if getattr(config, "num_kv_shared_layers", 0):
        raise TrainingError("training.frozen_layers: this base's upper layers use keys of its lower ones; leave it at 0")
    wanted = config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return name, module
    raise TrainingError("training.frozen_layers: this base has no list of layers; leave it at 0")


def lower_layers(model: nn.Module, count: int, tokens: int) -> "LowerLayers":
    """The model's lowest `count` layers, the same for every training of the model; `tokens`: at most so many will be remembered."""
    if "lower_layers" not in vars(model):
        vars(model)["lower_layers"] = LowerLayers(list(decoder_layers(model)[1])[:count])
    found: LowerLayers = vars(model)["lower_layers"]
    found.room = max(found.room, tokens)
    return found


class LowerLayers:
    """Remembers what the `layers` made of each token, by the path that leads to it."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.room = 0  # tokens; what is not used of it takes no memory
        self._places: dict[tuple[int, int], int] = {}  # of a token, by the place of the one before it (-1: none) and its id
        self._made: Tensor | None = None  # [tokens or more, hidden]
        self._asked: Tensor | None = None  # the places of a packed row, while it is computed
        self._known: Tensor | None = None  # [1, T, hidden]: of that row, if all of it was made before
        for layer in layers:
            vars(layer)["forward"] = partial(self._forward, layer, layer.forward, layer is layers[-1])

    @property
    def known(self) -> bool:
        """Whether what is computed now begins above these layers."""
        return self._known is not None

    @contextmanager
    def remembered(self, batch: dict[str, Any]) -> Iterator[None]:
        """While a packed row (packing.py) is computed, its tokens are looked up, or kept."""
        before = len(self._places)
        self._asked = self._places_of(batch)
        if self._made is not None and len(self._places) == before:
            self._known = self._made[self._asked][None]
        try:
            yield
        finally:
            self._asked = self._known = None

    def _forward(self, layer: nn.Module, original: Any, last: bool, hidden: Tensor, *arguments: Any, **named: Any) -> Any:
        if self._known is not None:
            return self._known.to(hidden.device) if last else hidden
        layer.eval()  # no noise is remembered
        made = original(hidden, *arguments, **named)
        if last and self._asked is not None:
            self._keep(self._asked, made)
        return made

    def _places_of(self, batch: dict[str, Any]) -> Tensor:
        """[T]: new tokens get the next places."""
        tokens = batch["input_ids"][0].tolist()
        parents, places = [-1] * len(tokens), [-1] * len(tokens)
        for path in batch["layout"].paths:
            for before, here in pairwise(path):
                parents[here] = before
        for here, token in enumerate(tokens):  # a packed row has parents before their children
            before = places[parents[here]] if parents[here] >= 0 else -1
            places[here] = self._places.setdefault((before, token), len(self._places))
        return torch.tensor(places)

    def _keep(self, places: Tensor, made: Tensor) -> None:
        if self._made is None or len(self._made) < len(self._places):
            grown = torch.empty(max(self.room, len(self._places)), made.shape[-1], dtype=made.dtype)
            if self._made is not None:
                grown[: len(self._made)] = self._made
            self._made = grown
        self._made[places] = made[0].detach().cpu()
