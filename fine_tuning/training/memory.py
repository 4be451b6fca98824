"""Peak memory and time of a training, estimated from shapes and token counts before anything is loaded.

The peak is the end of a forward pass, when all that the backward pass needs is held. What it is made of (`Estimate.parts`, bytes):

runtime      Python, torch, transformers and the Trainer, with no model yet
weights      the base, in the number format of the training; of a base that stays quantised only embeddings and norms
loading      the largest weight twice more, while it is dequantised; no part of the peak once the activations are larger
training     gradient and Adam's two moments of whatever is trained, and an adapter's weights, all fp32; these once more beside the base's
remembered   what frozen layers made of each token of all chats (lower_layers.py)
activations  what each layer saves of each token (`_saved`), and on a CPU the holes that the allocator leaves between
mask         [T, T] booleans, twice while they are made, and who sees whom in the order of the attention (tree_attention.py), once a head
logits       [n, vocabulary] in fp32, for a lot of n supervised tokens (loss.py); replayed ones once more for their divergence

T, the tokens that are computed at once, is the size of a prefix tree (packing.py), counted here from the token rows themselves.
benchmarks/memory.py compares all this with what is measured, and says how to calibrate it anew.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from fine_tuning import paths
from fine_tuning.config import BaseWeights, FineTuningMethod, Training
from fine_tuning.engines.gguf_file import GgufFile
from fine_tuning.errors import ConfigError, NotEnoughMemory, TrainingError

LOGITS_AT_ONCE = 256  # supervised tokens; each lot reads the whole output matrix twice (loss.py)

# Measured on a CPU (benchmarks/memory.py); the others follow from what torch keeps.
_RUNTIME = 800 << 20  # bytes
_HOLES = 1.6  # glibc does not give a freed block again to an aligned request of the same size, and torch aligns all of its tensors
_EFFICIENCY = 0.7  # of the matrix products' speed, over what grows with a step
_DEQUANTISED = 4e8  # weights a second, one after the other (quantised_linear.py)
# What does not grow with a pass, its calls one by one, the weights read again, the optimiser, takes as long as so many operations of a
# product, in each layer: on a slower processor, or one that is shared, all of it is slower alike.
_LAYER_OPERATIONS = 1.2e9

# What a layer that is not, or not wholly, fused keeps of a token, as a multiple (tests/training/test_memory.py); the largest if unknown.
_UNFUSED = {"llama": 1.0, "qwen2": 1.0, "qwen3": 1.15, "phi3": 1.4, "gemma2": 1.7, "gemma3": 1.7}
_VIRTUAL, _VIRTUAL_METHODS = 1.35, (FineTuningMethod.PREFIX_TUNING, FineTuningMethod.PROMPT_TUNING)
_NF4 = 0.516  # bytes of a number: four bits, and the scales of blocks of 64, themselves in eight bits (arXiv 2305.14314, section 3)
_QUANTISED = {4: 1.45, 2: 2.4}  # by the bytes of a number: of products with quantised weights inputs and outputs are kept in both formats
_DORA, _DORA_COPIES = 2.9, 1.4  # and of every matrix, since DoRA wants its norm

_PLACE = 200  # bytes: an entry of the table that says where a token's is (lower_layers.py)
_TRL_COPIES = 3  # of all tokens' logits: themselves, their exponentials, and the gradient
_TEACHER_BATCH = 8  # replay rows that the base looks at together (trainer.teach)
_MARGIN = 0.95  # of the free memory that lowered settings may fill: what is free changes
_SAMPLED_BATCHES = 100  # batches whose size is counted exactly; more say nothing more

LEAST_LENGTH = 64  # tokens below which a conversation is no longer one


@dataclass(frozen=True)
class Shape:
    """What the estimate needs to know of a model. Widths are numbers a token; `inputs` and `outputs` are sums over one layer's matrices."""

    parameters: int
    layers: int
    heads: int
    hidden: int
    attention: int  # of all heads together
    keys: int  # of all heads that have keys of their own
    feed_forward: int
    vocabulary: int
    linear: int  # weights that multiply every token: all layers' matrices
    matrices: int  # of a layer
    inputs: int
    outputs: int
    largest: int  # weights of the largest tensor
    quantised: int  # bytes of all layers' matrices in the GGUF
    architecture: str = "llama"


@dataclass(frozen=True)
class Row:
    """A conversation's tokens up to the last that carries loss, which need not be computed (packing.py), and how many carry it."""

    ids: tuple[int, ...]
    targets: int
    replayed: bool = False

    def cut(self, length: int) -> "Row":
        """The row as a smaller `max_length` would leave it (about: it is really cut at a turn)."""
        return self if len(self.ids) <= length else replace(self, ids=self.ids[:length], targets=min(self.targets, length - 1))


@dataclass(frozen=True)
class Batch:
    """What is computed at once."""

    tokens: int  # of the prefix tree
    scores: int  # of the attention, for each head: tokens by the tokens that they may see, and about as many more that they may not
    logits: int  # of tokens at once
    targets: int  # tokens that carry loss


@dataclass(frozen=True)
class Workload:
    """One epoch: how many steps, and a sample of what is computed at once in which the pass with the longest row is."""

    steps: int
    batches: tuple[Batch, ...]
    passes: float = 1.0  # of one step, on average
    remembered: int = 0  # tokens that frozen layers keep: of the prefix tree of all rows
    held_out: "Workload | None" = None  # an epoch of all the trainings with a part held out, which come first (cross_validation.py)


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what they are for; seconds of all the training's steps."""

    parts: dict[str, int]
    seconds: float
    steps: int
    available: int  # bytes that are free now, where the training runs
    base_weights: BaseWeights = "dequantised"

    @cached_property
    def memory(self) -> int:
        held = self.parts["runtime"] + self.parts["weights"]
        step = sum(self.parts[part] for part in ("training", "remembered", "activations", "mask", "logits"))
        return held + max(self.parts["loading"], step)

    @property
    def fits(self) -> bool:
        return self.memory <= self.available


def shape_of(file: GgufFile) -> Shape:
    """Return the shape of the model in a GGUF. TrainingError if the file does not say it, or its layers differ."""
    header = file.header

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{header.architecture}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise TrainingError(f"{file.path} says no single {header.architecture}.{key}: models whose layers differ cannot be trained yet")
        return value

    hidden, heads, layers = number("embedding_length"), number("attention.head_count"), number("block_count")
    head = number("attention.key_length", max(hidden // heads, 1))
    linear = [tensor for tensor in file.tensors.values() if tensor.name.startswith("blk.") and len(tensor.shape) > 1]
    matrices = [tensor.shape for tensor in linear]
    if not matrices or "token_embd.weight" not in header.tensors or len(header.tensors["token_embd.weight"]) != 2:
        raise TrainingError(f"{file.path} has no token embedding: it is no language model")
    sizes = [math.prod(shape) for shape in header.tensors.values()]
    return Shape(
        parameters=sum(sizes),
        layers=layers,
        heads=heads,
        hidden=hidden,
        attention=heads * head,
        keys=number("attention.head_count_kv", heads) * head,
        feed_forward=number("feed_forward_length", max(shape[1] for shape in matrices)),
        vocabulary=header.tensors["token_embd.weight"][1],
        linear=sum(map(math.prod, matrices)),
        matrices=len(matrices) // layers,
        inputs=sum(shape[0] for shape in matrices) // layers,
        outputs=sum(shape[1] for shape in matrices) // layers,
        largest=max(sizes),
        quantised=sum(tensor.size for tensor in linear),
        architecture=header.architecture,
    )


def read_rows(path: Path) -> list[Row]:
    """The token rows in a JSONL file; TrainingError names a bad line."""

    def row(record: Any) -> Row:
        flags = record["trained"][1:]
        last = max((index for index, flag in enumerate(flags, 1) if flag), default=1)
        return Row(tuple(record["input_ids"][:last]), sum(flags))

    return paths.read_jsonl(path, row, "a token row", TrainingError)


def guess_replay(rows: Sequence[Row], count: int, new_tokens: int, prompt_tokens: int = 16) -> list[Row]:
    """`count` rows as the base's answers to general prompts will be: the head that all rows share, then tokens of their own."""
    head = min((shared_head(before.ids, row.ids) for before, row in pairwise(rows)), default=0)
    prefix = rows[0].ids[:head] if rows else ()
    own = prompt_tokens + new_tokens - 1
    return [Row(prefix + tuple(-1 - index * own - i for i in range(own)), new_tokens, replayed=True) for index in range(count)]


def workload(rows: Sequence[Row], settings: Training, max_length: int | None = None) -> Workload:
    """The batches of an epoch over `rows` in random order (`settings.seed`), each row cut to `max_length` tokens."""
    order = list(rows if max_length is None else (row.cut(max_length) for row in rows))
    random.Random(settings.seed).shuffle(order)
    groups = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    sampled = sorted(groups, key=lambda group: max(len(row.ids) for row in group), reverse=True)
    if len(groups) > _SAMPLED_BATCHES:  # the one with the longest row, and others at random
        sampled = [sampled[0], *random.Random(settings.seed).sample(sampled[1:], _SAMPLED_BATCHES - 1)]
    batches = [batch for group in sampled for batch in _batches(group, settings)]
    return Workload(
        len(groups),
        tuple(batches),
        len(batches) / max(len(sampled), 1),
        sum(tree_branches(sorted(row.ids for row in order))) if _remembers(settings) else 0,
        _held_out([row for row in order if not row.replayed], len(order), settings),
    )


def _remembers(settings: Training) -> bool:
    return bool(settings.frozen_layers) and settings.num_epochs > 1 and settings.backend == "packed"


def _held_out(chats: Sequence[Row], rows: int, settings: Training) -> Workload | None:
    parts = min(settings.folds, len(chats))
    if parts < 2:
        return None
    batch_size = chats_in_a_batch(settings, len(chats), rows)
    one = workload(chats[-(-len(chats) // parts) :], settings.model_copy(update={"folds": 0, "batch_size": batch_size}))
    return replace(one, steps=parts * one.steps)


def chats_in_a_batch(settings: Training, chats: int, rows: int) -> int:
    """How many of a batch are chats when `chats` of all `rows` are, and the others replay: on average, and at least one."""
    return max(1, round(settings.batch_size * chats / rows))


def _batches(rows: Sequence[Row], settings: Training) -> list[Batch]:
    """What a step computes, pass by pass."""
    if settings.backend == "trl":  # pads, takes logits of every token, and knows no passes
        longest = max(len(row.ids) for row in rows)
        tokens = len(rows) * longest
        return [Batch(tokens, tokens * longest, _TRL_COPIES * tokens, tokens)]
    ordered = sorted(rows, key=lambda row: row.ids)
    return [_batch(ordered[part]) for part in divide([row.ids for row in ordered], settings.batch_tokens)]


def _batch(rows: Sequence[Row]) -> Batch:
    """One pass over sorted rows."""
    ordered = [row.ids for row in rows]
    own = tree_branches(ordered)
    targets, replayed = sum(row.targets for row in rows), sum(row.targets for row in rows if row.replayed)
    lot = -(-targets // max(1, -(-targets // LOGITS_AT_ONCE)))
    scores = sum(count * len(ids) for count, ids in zip(own, ordered, strict=True))
    return Batch(sum(own), scores, lot + min(lot, replayed), targets)


def tree_branches(ordered: Sequence[Sequence[int]]) -> list[int]:
    """What each of the sorted rows adds to their prefix tree, in tokens: what it does not share with the one before."""
    return [len(row) - shared_head(before, row) for before, row in pairwise([(), *ordered])]


def divide(ordered: Sequence[Sequence[int]], limit: int) -> list[slice]:
    """The sorted rows in parts whose prefix trees have at most `limit` tokens each; a longer row is alone."""
    parts: list[slice] = []
    size = 0
    for index, own in enumerate(tree_branches(ordered)):
        if parts and size + own <= limit:
            parts[-1], size = slice(parts[-1].start, index + 1), size + own
        else:
            parts.append(slice(index, index + 1))
            size = len(ordered[index])
    return parts


def shared_head(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows share at their beginning."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def estimate(
    shape: Shape,
    settings: Training,
    work: Workload,
    flops: float,
    available: int,
    bytes_per_weight: int = 4,
    on_gpu: bool = False,
    pace: float | None = None,
) -> Estimate:
    """What training on `work` takes, for every epoch of `settings` (with `early_stop` it may end before).

    `flops`: floating-point operations a second that this machine's matrix products reach in the training's number format, whose numbers
    have `bytes_per_weight`; `pace`: in float32, which tells how fast all else is (default: the same). QLoRA's base is dequantised once,
    and takes what LoRA's does; if that does not fit (or `settings` say so) it stays quantised.
    """

    def at(weights: BaseWeights) -> Estimate:
        parts = _parts(shape, settings, work, bytes_per_weight, weights)
        if not on_gpu:  # there, what is free is free of torch already, and the allocator fills its holes
            parts |= {"runtime": _RUNTIME, "activations": int(_HOLES * parts["activations"])}
        else:
            parts |= {"remembered": 0}  # in the machine's own memory
        once = (weights != "dequantised") * 2 * shape.linear / _DEQUANTISED  # in each pass

        def epoch(each: Workload) -> float:
            return (
                each.steps * each.passes * (once + mean(_seconds(shape, settings, batch, flops, pace or flops) for batch in each.batches))
            )

        seconds = sum(epoch(each) for each in (work, work.held_out) if each)
        return Estimate(parts, settings.num_epochs * seconds, settings.num_epochs * work.steps, available, weights)

    if settings.base_weights in ("quantised", "nf4"):
        return at(settings.base_weights)
    whole = at("dequantised")
    may_stay = settings.method == FineTuningMethod.QLORA and settings.base_weights == "auto" and not settings.use_dora and not on_gpu
    if not may_stay or whole.fits:
        return whole
    return min(whole, at("quantised"), key=lambda found: found.memory)  # its weights take less, and its activations more


def _parts(shape: Shape, settings: Training, work: Workload, width: int, weights: BaseWeights) -> dict[str, int]:
    quantised = weights != "dequantised"
    held = {"dequantised": shape.linear * width, "quantised": shape.quantised, "nf4": int(shape.linear * _NF4)}[weights]

    def most(of: Callable[[Batch], int]) -> int:
        return max(map(of, work.batches), default=0)

    full = settings.method == "full"
    trained = shape.parameters if full else _adapter(shape, settings)
    teaching = 2 * _TEACHER_BATCH * settings.replay.max_new_tokens * shape.vocabulary * 4 if settings.replay.share else 0
    return {
        "runtime": 0,
        "weights": (shape.parameters - shape.linear) * width + held,
        "loading": 2 * shape.largest * width + teaching,
        "training": trained * ((12 if full else 16) - (6 if settings.optimizer != "adamw" else 0))
        + (0 if quantised else _beside(shape, settings) * width),
        "remembered": work.remembered * (shape.hidden * width + _PLACE),
        "activations": most(lambda batch: _activations(shape, settings, batch, width, quantised)),
        "mask": most(lambda batch: batch.tokens**2 * 2 + batch.scores * shape.heads * width),
        "logits": most(lambda batch: batch.logits) * shape.vocabulary * 4,
    }


def _beside(shape: Shape, settings: Training) -> int:
    """Numbers beside the layers' weights, where each group's adapters are again, and zeros between them (adapters.py)."""
    if settings.method not in (FineTuningMethod.LORA, FineTuningMethod.QLORA) or settings.use_dora or settings.lora_dropout:
        return 0
    rows = 3 * (shape.attention + 2 * shape.keys) + 2 * 2 * shape.feed_forward + 2 * shape.hidden
    return trained_layers(shape.layers, settings) * rows * settings.lora_r


def _activations(shape: Shape, settings: Training, batch: Batch, width: int, quantised: bool = False) -> int:
    """Bytes that all layers keep for the backward pass. What fused.py cannot fuse keeps more of each token, as measured."""
    own = _UNFUSED.get(shape.architecture, max(_UNFUSED.values())) if not settings.lora_dropout else 1.0
    own = max(own, _QUANTISED[width]) if quantised else own
    factor = max(own, _DORA if settings.use_dora else _VIRTUAL if settings.method in _VIRTUAL_METHODS else 1.0)
    each = int(factor * batch.tokens * _saved(shape, settings, width)) + _weights(shape, batch) * width
    if shape.architecture == "gemma2":  # its scores are capped, and so all of them are made, and kept twice
        each += 2 * batch.tokens**2 * shape.heads * width
    return trained_layers(shape.layers, settings) * each + (int(_DORA_COPIES * shape.linear) * width if settings.use_dora else 0)


def _saved(shape: Shape, settings: Training, width: int) -> int:
    """Bytes that a layer keeps of each token for the backward pass, as counted with `saved_tensors_hooks` (tests/training/test_memory.py).

    Both norms' inputs; queries, keys, values and the attention's output; of the feed-forward its gate and the gate's partner; and the
    input of every matrix that is trained or has an adapter.
    """
    attention, low = 2 * (shape.attention + shape.keys) * width, settings.lora_r * shape.matrices
    if settings.method == "full":  # the norms, in fp32, have weights to train; the feed-forward keeps its gate before and after
        return 2 * shape.hidden * (4 + width) + attention + (2 * shape.hidden + 4 * shape.feed_forward) * width
    if settings.lora_dropout:  # each adapter's own dropped-out input, and its noise; that of the attention's output instead of itself
        return attention - shape.attention * width + (2 * shape.hidden + 3 * shape.feed_forward) * width + low * 4 + 2 * shape.inputs * 4
    return attention + (4 * shape.hidden + 2 * shape.feed_forward + low) * width


def _weights(shape: Shape, batch: Batch) -> int:
    """Numbers that a layer keeps of the attention's weights: those of short conversations (tree_attention.attend)."""
    weights = batch.scores * shape.heads
    return weights if weights <= batch.tokens * (shape.attention + 2 * shape.keys) else 0


def _adapter(shape: Shape, settings: Training) -> int:
    """Parameters of a LoRA adapter on every matrix of every layer that is not frozen."""
    return settings.lora_r * trained_layers(shape.layers, settings) * (shape.inputs + shape.outputs)


def trained_layers(layers: int, settings: Training) -> int:
    """How many of a base's `layers` are trained. ConfigError if none is left."""
    if settings.frozen_layers >= layers:
        raise ConfigError(f"training.frozen_layers is {settings.frozen_layers}, and the base has {layers} layers: leave some to learn")
    return layers - settings.frozen_layers


def _seconds(shape: Shape, settings: Training, batch: Batch, flops: float, pace: float) -> float:
    """One pass. Operations: two for each weight forward, two backward to the input, two for a weight's own gradient (arXiv 2001.08361);
    the attention's two products forward, five backward."""
    full, trained = settings.method == "full", trained_layers(shape.layers, settings) / shape.layers
    frozen = (1 - trained) / (settings.num_epochs if _remembers(settings) else 1)  # forward, and in the first epoch only
    head = (6 if full else 4) * shape.vocabulary * shape.hidden * batch.targets
    weights = ((6 if full else 4) * trained + 2 * frozen) * shape.linear * batch.tokens
    adapters = 0 if full else 6 * _adapter(shape, settings) * batch.tokens
    attention = (14 * trained + 4 * frozen) * shape.layers * shape.attention * batch.scores
    products = head + weights + adapters + attention
    return products / flops + (products * (1 / _EFFICIENCY - 1) + trained * shape.layers * _LAYER_OPERATIONS) / pace


# When it does not fit


def largest_fitting(settings: Training, max_length: int, at: Callable[[Training, int], Estimate]) -> dict[str, Any] | None:
    """What to lower so that it fits, as dotted settings: what is computed at once, which changes nothing else; if one conversation is too
    much, the length too; at last the rank.

    `at` estimates for other settings and lengths. The last one named is as large as fits. None when nothing is small enough.
    """
    lowered: dict[str, Any] = {}

    def fits(changes: dict[str, Any]) -> bool:
        training = {key.removeprefix("training."): value for key, value in changes.items() if key.startswith("training.")}
        found = at(settings.model_copy(update=training), changes.get("data_preparation.max_length", max_length))
        return found.memory <= _MARGIN * found.available

    first = (
        ("batch_size", settings.batch_size, 1)
        if settings.backend == "trl"
        else ("batch_tokens", settings.batch_tokens, min(LEAST_LENGTH, settings.batch_tokens))
    )
    knobs = [(f"training.{first[0]}", *first[1:]), ("data_preparation.max_length", max_length, min(LEAST_LENGTH, max_length))]
    if settings.method in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
        knobs.append(("training.lora_r", settings.lora_r, 1))
    for key, now, least in knobs:
        if fits({**lowered, key: least}):
            return {**lowered, key: _largest(least, now, lambda value, key=key: fits({**lowered, key: value}))}  # type: ignore[misc]
        lowered[key] = least
    return None


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from `low`, which fits, to below `high`, which does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def require(estimate: Estimate, settings: Training, base: str | Path, fitting: dict[str, Any] | None) -> None:
    """NotEnoughMemory, with what to lower (`fitting`, see `largest_fitting`), when the training would not fit."""
    if estimate.fits:
        return
    largest = max((part for part in estimate.parts if part not in ("runtime", "loading")), key=lambda part: estimate.parts[part])
    if fitting:
        lower = " ".join(f"--set {key}={value}" for key, value in fitting.items())
        cure = f"The largest that fits: {lower} (--auto takes it)."
    else:
        smaller = "training.method lora, or a smaller" if settings.method == "full" else "a smaller"
        cure = f"No setting makes it fit: choose {smaller} training.base_model."
    raise NotEnoughMemory(
        f"training {base} needs about {estimate.memory / 1e9:.1f} GB of memory ({estimate.parts[largest] / 1e9:.1f} GB of it {largest}), "
        f"and {estimate.available / 1e9:.1f} GB are free. {cure} Closing other programs helps too."
    )
