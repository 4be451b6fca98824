"""Merge several LoRA adapters of one base into one adapter.

Each adapter changes a weight matrix W of the base to W + B @ A; the product B @ A is its change.

linear     the exact weighted sum of the changes (arXiv 2212.04089); its rank is the sum of the ranks
ties       keeps the largest entries of each change, elects a sign for each entry, and averages the
           entries that have this sign (arXiv 2306.01708)
dare       drops random entries of each change and scales up the rest, then adds up the changes by
           weight (arXiv 2311.03099)
dare_ties  drops random entries like dare, then elects signs and averages like ties

PEFT's `add_weighted_adapter` combines the A and B matrices separately, which yields cross products
of different adapters and requires equal ranks. This module combines the products B @ A, as PEFT's
`…_svd` and `cat` variants do, so ranks and target modules may differ. An adapter that has no A and
B for a weight matrix does not change that matrix.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fine_tuning.errors import ConfigError

if TYPE_CHECKING:
    import torch

MergeMethod = Literal["linear", "ties", "dare", "dare_ties"]
_EXTRA, _PASSES = 16, 4  # oversampling and power iterations of the randomised SVD: they keep its error below 1 %

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """The settings of a merge. Raises ConfigError for values out of range."""

    method: MergeMethod = "linear"
    density: float = 0.5  # share of each change's entries that are kept; unused by `linear`
    seed: int = 0  # of the random choice of entries to drop, in `dare` and `dare_ties`
    rank: int | None = None  # maximum rank of the merged adapter; None: the sum of the ranks

    def __post_init__(self) -> None:
        if self.method not in get_args(MergeMethod):
            raise ConfigError(f"unknown merge method {self.method!r}: choose one of {', '.join(get_args(MergeMethod))}")
        if not 0 < self.density <= 1:
            raise ConfigError(f"density, the share that is kept, is {self.density}, and must be above 0 and at most 1")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank is {self.rank}, and must be at least 1")

    def __str__(self) -> str:
        chance = f", seed {self.seed}" if self.method.startswith("dare") else ""
        thinned = "" if self.method == "linear" else f", density {self.density:g}{chance}"
        return f"{self.method}{thinned}" + (f", rank {self.rank}" if self.rank else "")


@dataclass(frozen=True)
class Update:
    """The change that one adapter makes to one weight matrix, weighted for the merge: weight * (b @ a)."""

    a: Matrix  # (rank, inputs)
    b: Matrix  # (outputs, rank), multiplied by the adapter's scale
    weight: float = 1.0


@dataclass(frozen=True)
class Merged:
    """The merged change of one weight matrix: b @ a."""

    a: Matrix  # (rank, inputs)
    b: Matrix  # (outputs, rank)
    wanted: float  # squared Frobenius norm of the merged change before its rank was reduced
    lost: float  # squared Frobenius norm of the part that the reduced rank cannot represent

    @property
    def rank(self) -> int:
        return len(self.a)


def merge(module: str, updates: Sequence[Update], recipe: Recipe) -> Merged:
    """Return the merged change of the weight matrix named `module`.

    `updates` holds one change of this matrix for each adapter that has one. The rank of the result
    is at most `recipe.rank`. Random choices depend on the seed and the module's name alone, so
    modules may be merged in any order.
    """
    import torch

    limit = min(updates[0].a.shape[1], len(updates[0].b))
    total = sum(len(update.a) for update in updates)
    rank = min(total if recipe.rank is None else recipe.rank, limit)
    if recipe.method == "linear" and rank >= min(total, limit):
        a = np.concatenate([update.a for update in updates])
        b = np.concatenate([np.float32(update.weight) * update.b for update in updates], axis=1)
        return Merged(a, b, wanted=_squared_norm(a, b), lost=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{recipe.seed} {module}".encode()))
        return _truncated(_combined(updates, recipe), rank)


def write_adapter(folder: Path, base: str, modules: Mapping[str, Merged]) -> None:
    """Write merged changes to `folder` as one adapter in PEFT's format.

    `modules` maps the name of each weight matrix to its change. `base` is the name of the base
    model to write into the adapter's configuration.
    """
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    highest = max(merged.rank for merged in modules.values())
    others = {module: merged.rank for module, merged in modules.items() if merged.rank != highest}
    config = LoraConfig(
        r=highest,
        lora_alpha=highest,  # makes the scale 1: B already contains it
        rank_pattern=dict(others),
        alpha_pattern=dict(others),
        target_modules=sorted({module.rpartition(".")[2] for module in modules}),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": torch.from_numpy(np.ascontiguousarray(matrix))
        for module, merged in modules.items()
        for side, matrix in (("A", merged.a), ("B", merged.b))
    }
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors")


def share_held(modules: Mapping[str, Merged]) -> float:
    """Return the share (0 to 1) of the merged changes' squared norm that was kept when ranks were reduced."""
    wanted = sum(merged.wanted for merged in modules.values())
    return 1 - sum(merged.lost for merged in modules.values()) / wanted if wanted else 1.0


def _combined(updates: Sequence[Update], recipe: Recipe) -> "torch.Tensor":
    """Return the merged change as a full matrix (outputs, inputs), computed by the method of `recipe`."""
    import torch
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge, prune, task_arithmetic

    deltas = [torch.from_numpy(update.b) @ torch.from_numpy(update.a) for update in updates]
    weights = torch.tensor([update.weight for update in updates])
    if recipe.method != "linear" and recipe.density < 1:
        by_chance = recipe.method.startswith("dare")
        kind: Literal["random", "magnitude"] = "random" if by_chance else "magnitude"
        deltas = [prune(delta, recipe.density, kind, rescale=by_chance) for delta in deltas]
    if recipe.method.endswith("ties"):
        stacked = torch.stack(deltas)
        return disjoint_merge(stacked * weights[:, None, None], calculate_majority_sign_mask(stacked))
    return task_arithmetic(deltas, weights)


def _truncated(delta: "torch.Tensor", rank: int) -> Merged:
    """Return an approximation of `delta` (outputs, inputs) of the given rank, by randomised SVD (arXiv 0909.4061)."""
    import torch

    left, lengths, right = torch.svd_lowrank(delta, q=min(*delta.shape, 2 * rank + _EXTRA), niter=_PASSES)
    root = lengths[:rank].sqrt()
    a, b = root[:, None] * right[:, :rank].T, left[:, :rank] * root
    wanted, lost = float(delta.square().sum()), float((delta - b @ a).square().sum())
    return Merged(a.contiguous().numpy(), b.contiguous().numpy(), wanted, lost)


def _squared_norm(a: Matrix, b: Matrix) -> float:
    """Return the squared Frobenius norm of b @ a without computing the product; 0.0 if it is not finite."""
    found = float(np.sum((a @ a.T) * (b.T @ b)))
    return found if math.isfinite(found) else 0.0
