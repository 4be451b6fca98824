"""Attention over a packed row by its mask, with torch's SDPA.

It gives the same as fast/tree_attention.py, and serves the models that that one cannot compute.
Transformers' own SDPA ignores sliding windows and soft caps when it is given a mask for the whole
row.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fine_tuning.errors import TrainingError

NAME = "byoai_masked"  # the attention's, in Transformers


class Paths(Protocol):
    """Where the conversations lie in a packed row (packing.py).

    paths[r][i] is the index of token i of conversation r.
    """

    paths: Sequence[Sequence[int]]


def register() -> str:
    """Make the attention known to Transformers; return its name."""
    return register_as(NAME, masked_attention)


def register_as(name: str, attention: Callable[..., tuple[Tensor, None]]) -> str:
    """Make an attention that takes SDPA's masks known to Transformers by `name`, which is returned."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Paths | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Return attention [1, T, heads, D], of `query` [1, heads, T, D], `key` and `value` [1, fewer heads, T, D].

    This is Transformers' attention interface. `layout`: of a packed row; without one the mask
    already knows the window. `sliding_window`: a token attends to itself and fewer than so many
    tokens before it (arXiv 2004.05150). `softcap`: see `_capped_attention`. TrainingError for
    attention sinks (`s_aux`), which have no gradient here.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if s_aux is not None:
        raise TrainingError(
            "this base's attention has sinks, which cannot be trained yet: choose a base of another family (llama, "
            "qwen, ...)"
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if layout is not None and sliding_window and attention_mask is not None:
        attention_mask = attention_mask & within_window(layout.paths, sliding_window).to(attention_mask.device)
    if softcap is not None:
        return _capped_attention(query, key, value, attention_mask, scale, dropout, softcap), None
    result, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scale, is_causal, position_bias
    )
    return result, None


def within_window(paths: Sequence[Sequence[int]], window: int) -> Tensor:
    """Return [T, T]: whether a query (row) is on one path with a key (column) and sees it.

    It sees a key that is less than `window` tokens before it.
    """
    depths = torch.zeros(1 + max(path[-1] for path in paths), dtype=torch.long)
    for path in paths:
        depths[torch.tensor(path)] = torch.arange(len(path))
    return depths[:, None] - depths < window


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, cap: float
) -> Tensor:
    """Return attention whose scores are bent to stay between -`cap` and `cap`.

    Source: Gemma 2 (arXiv 2408.00118, section 2). SDPA has no such cap.
    """
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * (scale / cap))
    if mask is None:  # Transformers makes none that is only causal
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(
            scores.shape[3] - scores.shape[2]
        )
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1, dtype=torch.float32).to(value.dtype)
    return (torch.dropout(weights, dropout, dropout > 0) @ value).transpose(1, 2).contiguous()
