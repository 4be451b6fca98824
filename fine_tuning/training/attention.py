"""Compute masked attention over a packed row (packing.py), with torch's SDPA.

The result is the same as with tree attention (fast/tree_attention.py); this module serves the
models that tree attention does not support. Transformers' own SDPA attention cannot be used, since
it ignores sliding windows and soft caps when it gets a 4-D mask.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fine_tuning.errors import TrainingError

NAME = "byoai_masked"  # under which Transformers knows this attention


class Paths(Protocol):
    """An object that says where in a packed row (packing.py) each conversation's tokens are.

    paths[r][i] is the index in the row of token i of conversation r.
    """

    paths: Sequence[Sequence[int]]


def register() -> str:
    """Register `masked_attention` in Transformers; return the name under which models can select it."""
    return register_as(NAME, masked_attention)


def register_as(name: str, attention: Callable[..., tuple[Tensor, None]]) -> str:
    """Register `attention` in Transformers as `name`, to be called with the masks that SDPA gets; return `name`."""
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
    """Return attention [1, T, heads, D] for `query` [1, heads, T, D], `key` and `value` [1, key heads, T, D].

    The signature is Transformers' attention interface. `layout`: the places of the conversations in
    a packed row; None for an ordinary row, whose mask already includes the sliding window.
    `sliding_window`: the number of tokens that a token attends to, itself included (arXiv
    2004.05150). `softcap`: see `_capped_attention`. Raises TrainingError for attention sinks
    (`s_aux`), since their gradient is not implemented.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if s_aux is not None:
        raise TrainingError(
            "this base's attention has sinks, which byoai cannot train yet: choose a base of another family (llama, "
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
    """Return a mask [T, T], True where the key (column) is within the window of the query (row).

    False marks the keys that are `window` or more tokens before the query in its conversation. Keys
    after the query are True; the causal mask hides them.
    """
    depths = torch.zeros(1 + max(path[-1] for path in paths), dtype=torch.long)
    for path in paths:
        depths[torch.tensor(path)] = torch.arange(len(path))
    return depths[:, None] - depths < window


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, cap: float
) -> Tensor:
    """Return attention [1, T, heads, D] with scores limited by tanh to the range -`cap` to `cap`.

    SDPA does not support such a cap. Source: Gemma 2 (arXiv 2408.00118, section 2).
    """
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * (scale / cap))
    if mask is None:  # Transformers passes no mask where plain causal attention is meant
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(
            scores.shape[3] - scores.shape[2]
        )
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1, dtype=torch.float32).to(value.dtype)
    return (torch.dropout(weights, dropout, dropout > 0) @ value).transpose(1, 2).contiguous()
