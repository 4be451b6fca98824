"""Say how many chats a batch holds, and in which chunks its logits are computed.

The trainer and the forecast both need it; the forecast does without torch.
"""

from collections.abc import Iterator

from fine_tuning.config_training import Training

LOGITS_AT_ONCE = 256  # supervised tokens per chunk; each chunk reads the whole output matrix twice


def chunk_size(count: int) -> int:
    """Return the size of the chunks of `count` tokens: at most LOGITS_AT_ONCE, and about equal."""
    return -(-count // max(1, -(-count // LOGITS_AT_ONCE)))


def chunks(count: int) -> Iterator[slice]:
    """Yield the slices that divide `count` tokens into chunks."""
    size = chunk_size(count)
    return (slice(start, start + size) for start in range(0, count, max(size, 1)))


def chats_in_a_batch(settings: Training, chats: int, rows: int) -> int:
    """Return the average number of chats in a batch, at least one.

    `chats` of all `rows` are chats; the others are replay.
    """
    return max(1, round(settings.batch_size * chats / rows))
