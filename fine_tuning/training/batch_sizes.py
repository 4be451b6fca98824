"""Compute the number of chats in a batch, and the chunks in which a batch's logits are computed.

The trainer uses these functions, and so does the memory forecast (workload.py). This module does
not import torch, so that a forecast need not wait for the import.
"""

from collections.abc import Iterator

from fine_tuning.config.training import Training

LOGITS_AT_ONCE = 256  # maximum supervised tokens per chunk; each chunk reads the whole output matrix twice


def chunk_size(count: int) -> int:
    """Return the number of tokens per chunk that divides `count` tokens into about equal chunks.

    It is at most LOGITS_AT_ONCE, and 0 for no tokens. The last chunk may be smaller.
    """
    return -(-count // max(1, -(-count // LOGITS_AT_ONCE)))


def chunks(count: int) -> Iterator[slice]:
    """Yield the slices that divide `count` tokens into chunks of `chunk_size(count)` tokens."""
    size = chunk_size(count)
    return (slice(start, start + size) for start in range(0, count, max(size, 1)))


def chats_in_a_batch(settings: Training, chats: int, rows: int) -> int:
    """Return the average number of chats in a batch, rounded, and at least one.

    An epoch has `rows` rows: `chats` chats, and replay rows (teacher.py).
    """
    return max(1, round(settings.batch_size * chats / rows))
