"""Peak memory and time of a training, estimated from the model's shape before anything is loaded."""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil

from fine_tuning.config import Training
from fine_tuning.engines.gguf_header import GgufHeader
from fine_tuning.errors import NotEnoughMemory

_RUNTIME = 600 << 20  # bytes that Python, torch and transformers hold before a model is loaded (measured)
_LINEAR_SAVED = 26  # numbers of the hidden width kept for the backward pass, a token and layer: norms, projections, attention (measured)
_FEED_FORWARD_SAVED = 7  # of the feed-forward width
_EFFICIENCY = 0.5  # of the matrix products' speed, over a whole step (measured)
_LOGITS_COPIES = 4  # logits, their log-softmax, and the gradients of both


@dataclass(frozen=True)
class Shape:
    """What the estimate needs to know of a model."""

    parameters: int
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    vocabulary: int

    @property
    def linear(self) -> int:
        """The weights that multiply every token: all but the embedding."""
        return self.parameters - self.vocabulary * self.hidden


@dataclass(frozen=True)
class Sizes:
    """What is to be learned in one epoch."""

    rows: int
    tokens: int
    supervised: int  # tokens that carry loss
    longest: int  # tokens of the longest row


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak and seconds of the training."""

    memory: int
    seconds: float
    steps: int
    available: int  # bytes of memory that are free now

    @property
    def fits(self) -> bool:
        return self.memory <= self.available


def shape_of(header: GgufHeader) -> Shape:
    """The shape of the model in a GGUF."""

    def number(key: str) -> int:
        return int(header.metadata[f"{header.architecture}.{key}"])

    return Shape(
        parameters=sum(math.prod(shape) for shape in header.tensors.values()),
        layers=number("block_count"),
        hidden=number("embedding_length"),
        feed_forward=number("feed_forward_length"),
        heads=number("attention.head_count"),
        vocabulary=header.tensors["token_embd.weight"][1],
    )


def estimate(shape: Shape, settings: Training, sizes: Sizes, flops: float, bytes_per_weight: int = 4) -> Estimate:
    """What training on `sizes` takes. `flops` is what this machine's matrix products reach, a second."""
    rows = max(sizes.rows, 1)
    batch = max(sizes.longest, settings.batch_size * sizes.tokens // rows)
    targets = settings.batch_size * sizes.supervised // rows
    saved = shape.hidden * _LINEAR_SAVED + shape.feed_forward * _FEED_FORWARD_SAVED + 2 * shape.heads * batch
    adapter = 2 * settings.lora_r * shape.layers * (8 * shape.hidden + 3 * shape.feed_forward)
    memory = (
        _RUNTIME
        + shape.parameters * (bytes_per_weight + 4)  # while it loads, the file's tensors lie beside the model's
        + batch * shape.layers * saved * bytes_per_weight
        + targets * shape.vocabulary * 4 * _LOGITS_COPIES
        + adapter * 16  # weight, gradient, and Adam's two moments
    )
    steps = -(-rows // settings.batch_size) * settings.num_epochs
    # Forward 2, backward to the inputs 2 operations a weight and token: frozen weights have no gradient of their own.
    work = 4 * (shape.linear * sizes.tokens + shape.vocabulary * shape.hidden * sizes.supervised) * settings.num_epochs
    return Estimate(memory, work / (_EFFICIENCY * flops), steps, psutil.virtual_memory().available)


def require(estimate: Estimate, settings: Training, base: str | Path) -> None:
    """NotEnoughMemory, with what to lower, when the training would not fit."""
    if estimate.fits:
        return
    raise NotEnoughMemory(
        f"training {base} needs about {estimate.memory / 1e9:.1f} GB of memory, and {estimate.available / 1e9:.1f} GB are free. "
        f"Lower training.batch_size (now {settings.batch_size}), data_preparation.max_length, or training.lora_r (now {settings.lora_r}); "
        "close other programs; or choose a smaller training.base_model."
    )
