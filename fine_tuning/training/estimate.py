"""Forecast the peak memory and the time of a training from shapes and token counts, before loading a model.

Memory peaks at the end of a forward pass, when all that the backward pass needs is in memory. The parts
(`Estimate.parts`, bytes):

runtime      Python, torch, transformers and the Trainer, without a model
weights      the base model in the training's number format; the blocks of its matrices if they stay quantised
loading      the largest weight, twice while it is dequantised, and the teacher's logits of replay rows (teacher.py);
             counts only if it is more than training, activations, mask and logits together, before which it is freed
training     in fp32: the gradient and Adam's two moments of all trained weights, and the adapter, whose fused copies count too
activations  what each layer saves of each token (`_saved`); on a CPU also the gaps that the allocator leaves between them
mask         [T, T] booleans, twice while the mask is built, and the attention biases of tree_attention.py, for each head
logits       [n, vocabulary] in fp32 for a chunk of n supervised tokens (loss.py); twice for replayed tokens

T is the number of tokens computed at once: the size of a prefix tree, counted from the token rows themselves
(workload.py). Measuring the machine (machine.py) and counting tokens take seconds; both results are kept in a
`Basis`, from which `Basis.at` computes the estimate for other settings by plain arithmetic. benchmarks/memory.py
compares forecasts with measurements and describes how to recalibrate the constants below.
"""  # noqa: E501

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from fine_tuning.config.training import BaseWeights, FineTuningMethod, Training
from fine_tuning.errors import NotEnoughMemory
from fine_tuning.training.machine import Machine, this_machine
from fine_tuning.training.methods import ways_to_hold
from fine_tuning.training.model_shape import Shape, shape_of
from fine_tuning.training.workload import BatchSize, Workload, computed_rows, workload

# Constants measured on a CPU (benchmarks/memory.py). All else follows from the tensors that torch keeps.
_RUNTIME = 800 << 20  # bytes
# Memory taken for activations, relative to their size: glibc does not reuse a freed block for an
# aligned request of the same size, and torch aligns all its tensors.
_HOLES = 1.6
_EFFICIENCY = 0.7  # speed of a step relative to its matrix products alone, without each layer's fixed cost
_DEQUANTISED = 4e8  # weights dequantised a second, on one thread (quantised_linear.py)
# A layer's fixed cost per pass (calls, reading the weights, the optimiser), expressed as the
# floating-point operations that take as long.
_LAYER_OPERATIONS = 1.2e9

# Activation memory relative to a fully fused layer, by architecture
# (tests/training/test_estimate.py); an unknown architecture counts as the largest.
_PARTLY_FUSED = {"llama": 1.0, "qwen2": 1.0, "qwen3": 1.15, "phi3": 1.4, "gemma2": 1.7, "gemma3": 1.7}
_NOT_FUSED = {4: 2.0, 2: 3.8}  # the same without `training.fused`, by bytes per number: PEFT keeps fp32 copies
_VIRTUAL, _VIRTUAL_METHODS = 1.35, (FineTuningMethod.PREFIX_TUNING, FineTuningMethod.PROMPT_TUNING)
# bytes per weight: four bits, plus eight-bit scales for blocks of 64 (arXiv 2305.14314, section 3)
_NF4 = 0.516
# activations relative to a dequantised base, by bytes per number: products with quantised weights
# keep inputs and outputs in both formats
_QUANTISED = {4: 1.45, 2: 2.4}
_DORA, _DORA_COPIES = 2.9, 1.4  # activations relative to LoRA; copies of every matrix, to compute DoRA's norms

_TEACHER_BATCH = 8  # replay rows in one batch of the teacher (teacher.py)
_MARGIN = 0.95  # share of the free memory that lowered settings may use, since the free memory varies

LEAST_LENGTH = 64  # tokens; with a lower limit no conversation would be left


@dataclass(frozen=True)
class Estimate:
    """The estimated peak memory of a training, by part (see the module's docstring), and its duration."""

    parts: dict[str, int]
    seconds: float
    steps: int
    available: int  # bytes that are free now, where the training runs
    base_weights: BaseWeights = "dequantised"  # how the base is held

    @cached_property
    def memory(self) -> int:
        """Peak memory in bytes."""
        held = self.parts["runtime"] + self.parts["weights"]
        step = sum(self.parts[part] for part in ("training", "activations", "mask", "logits"))
        return held + max(self.parts["loading"], step)

    @property
    def fits(self) -> bool:
        return self.memory <= self.available


@dataclass(frozen=True)
class Basis:
    """The inputs of a forecast: the model's shape, the workload of an epoch, and the machine."""

    shape: Shape
    work: Workload
    machine: Machine

    def at(self, settings: Training, available: int | None = None) -> Estimate:
        """Return the estimate for `settings`, which must give the same batches and number format as this basis.

        `available`: bytes of memory that are free now; None: as many as when the machine was
        measured.
        """
        machine = self.machine if available is None else replace(self.machine, available=available)
        return estimate(self.shape, settings, self.work, machine)

    def trained(self, settings: Training) -> int:
        """Return the number of parameters that a training with `settings` trains."""
        return trained_parameters(self.shape, settings)

    def record(self) -> dict[str, Any]:
        """Return the basis as a dictionary that can be stored as JSON, from which `of` restores it."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Basis":
        """Return the basis from the dictionary that its method `record` returned."""
        return cls(Shape(**record["shape"]), _work_of(record["work"]), Machine(**record["machine"]))


def _work_of(record: Mapping[str, Any]) -> Workload:
    held_out = record["held_out"]
    return Workload(
        **{
            **record,
            "batches": tuple(BatchSize(**batch) for batch in record["batches"]),
            "held_out": held_out and _work_of(held_out),
        }
    )


@dataclass(frozen=True)
class Forecast:
    """The estimated time and memory of a training, and lower settings to use if it does not fit into memory."""

    estimate: Estimate
    fitting: dict[str, int] | None  # lower values by dotted setting; None if it fits already, or never
    basis: Basis


def estimate_training(settings: Training, base: Path, rows: Path, replay: Path | None) -> Forecast:
    """Return the forecast for a training on this machine.

    `base` is a GGUF, `rows` a folder whose train.jsonl has the token rows, `replay` a file of
    replay rows. Raises TrainingError for a base of an unknown shape and for bad rows.
    """
    from fine_tuning.engines.gguf_file import read_gguf

    shape, learned = shape_of(read_gguf(base)), computed_rows(rows / "train.jsonl")
    learned += computed_rows(replay, replayed=True) if replay else []
    machine = this_machine(settings)

    def at(training: Training, max_length: int) -> Estimate:
        return estimate(shape, training, workload(learned, training, max_length), machine)

    longest = max(len(row.ids) for row in learned)
    basis = Basis(shape, workload(learned, settings, longest), machine)
    found = basis.at(settings)
    return Forecast(found, None if found.fits else largest_fitting(settings, longest, at), basis)


def estimate(shape: Shape, settings: Training, work: Workload, machine: Machine) -> Estimate:
    """Return the estimate for a training on `work` that runs all epochs of `settings`.

    An early stop may end the training sooner. The base is assumed to be held in the first format of
    `ways_to_hold` that fits into memory, or, if none fits, in the one that takes the least.
    """
    found = [_held_as(weights, shape, settings, work, machine) for weights in ways_to_hold(settings, machine.on_gpu)]
    return next((each for each in found if each.fits), min(found, key=lambda each: each.memory))


def _held_as(weights: BaseWeights, shape: Shape, settings: Training, work: Workload, machine: Machine) -> Estimate:
    parts = _parts(shape, settings, work, machine.bytes_per_weight, weights)
    if not machine.on_gpu:  # a GPU's free memory already excludes the runtime, and its allocator leaves no gaps
        parts |= {"runtime": _RUNTIME, "activations": int(_HOLES * parts["activations"])}
    dequantising = (weights != "dequantised") * 2 * shape.linear / _DEQUANTISED  # seconds in each pass

    def epoch(each: Workload) -> float:
        a_pass = mean(_seconds(shape, settings, batch, machine) for batch in each.batches)
        return each.steps * each.passes * (dequantising + a_pass)

    seconds = sum(epoch(each) for each in (work, work.held_out) if each)
    return Estimate(parts, settings.num_epochs * seconds, settings.num_epochs * work.steps, machine.available, weights)


def _parts(shape: Shape, settings: Training, work: Workload, width: int, weights: BaseWeights) -> dict[str, int]:
    """Return the bytes of each part of the peak (see the module's docstring); `width`: bytes per number."""
    quantised = weights != "dequantised"
    held = {"dequantised": shape.linear * width, "quantised": shape.quantised, "nf4": int(shape.linear * _NF4)}[weights]

    def most(of: Callable[[BatchSize], int]) -> int:
        return max(map(of, work.batches), default=0)

    full, trained = settings.method == FineTuningMethod.FULL, trained_parameters(shape, settings)
    teaching = 2 * _TEACHER_BATCH * work.longest_replayed * shape.vocabulary * 4
    return {
        "runtime": 0,
        "weights": (shape.parameters - shape.linear) * width + held,
        "loading": 2 * shape.largest * width + teaching,
        "training": trained * ((12 if full else 16) - (6 if settings.optimizer != "adamw" else 0))
        + (0 if quantised else _beside(shape, settings) * width),
        "activations": most(lambda batch: _activations(shape, settings, batch, width, quantised)),
        "mask": most(lambda batch: batch.tokens**2 * 2 + batch.scores * shape.heads * width),
        "logits": most(lambda batch: batch.logits) * shape.vocabulary * 4,
    }


def _beside(shape: Shape, settings: Training) -> int:
    """Return the number of additional numbers that all layers store for fused adapters (adapters.py).

    Each group of layers with the same input stores its adapters' B a second time, in a
    block-diagonal matrix that includes the zeros. Return 0 if adapters are not fused.
    """
    if settings.method not in (FineTuningMethod.LORA, FineTuningMethod.QLORA) or not settings.fused:
        return 0
    if settings.use_dora or settings.lora_dropout:
        return 0
    rows = 3 * (shape.attention + 2 * shape.keys) + 2 * 2 * shape.feed_forward + 2 * shape.hidden
    return shape.layers * rows * settings.lora_r


def _activations(shape: Shape, settings: Training, batch: BatchSize, width: int, quantised: bool = False) -> int:
    """Return the bytes that all layers save for the backward pass.

    Models that fused.py cannot fully fuse save more per token, by measured factors.
    """
    factor = _PARTLY_FUSED.get(shape.architecture, max(_PARTLY_FUSED.values())) if not settings.lora_dropout else 1.0
    if not settings.fused and not settings.lora_dropout and settings.method != FineTuningMethod.FULL:
        factor = max(factor, _NOT_FUSED[width])  # training with dropout, or of all weights, is never fused
    if quantised:
        factor = max(factor, _QUANTISED[width])
    factor = max(factor, _DORA if settings.use_dora else _VIRTUAL if settings.method in _VIRTUAL_METHODS else 1.0)
    each = int(factor * batch.tokens * _saved(shape, settings, width)) + _attention_weights(shape, batch) * width
    if shape.architecture == "gemma2":  # capping its scores computes all of them, and saves them twice
        each += 2 * batch.tokens**2 * shape.heads * width
    return shape.layers * each + (int(_DORA_COPIES * shape.linear) * width if settings.use_dora else 0)


def _saved(shape: Shape, settings: Training, width: int) -> int:
    """Return the bytes per token that a layer saves for the backward pass, as `saved_tensors_hooks` counts them.

    The layer saves the inputs of both norms; queries, keys, values and the attention's output; the
    feed-forward's gate and up projections; and the input of every trained or adapted matrix
    (tests/training/test_estimate.py).
    """
    attention, low = 2 * (shape.attention + shape.keys) * width, settings.lora_r * shape.matrices
    # full fine-tuning also trains the norms, in fp32, and saves the gate before and after its activation
    if settings.method == FineTuningMethod.FULL:
        return 2 * shape.hidden * (4 + width) + attention + (2 * shape.hidden + 4 * shape.feed_forward) * width
    # dropout saves each adapter's input after dropout and its random mask; the attention's output is
    # saved only in this form
    if settings.lora_dropout:
        return (
            attention
            - shape.attention * width
            + (2 * shape.hidden + 3 * shape.feed_forward) * width
            + low * 4
            + 2 * shape.inputs * 4
        )
    return attention + (4 * shape.hidden + 2 * shape.feed_forward + low) * width


def _attention_weights(shape: Shape, batch: BatchSize) -> int:
    """Return how many attention weights a layer saves for the backward pass.

    Return 0 unless the conversations are short: `tree_attention.attend` recomputes the weights of
    long ones.
    """
    weights = batch.scores * shape.heads
    return weights if weights <= batch.tokens * (shape.attention + 2 * shape.keys) else 0


def trained_parameters(shape: Shape, settings: Training) -> int:
    """Return the number of parameters that a training with `settings` trains.

    For prefix and prompt tuning, return an upper bound: the number for a LoRA adapter of rank
    `lora_r`.
    """
    return shape.parameters if settings.method == FineTuningMethod.FULL else _adapter(shape, settings)


def _adapter(shape: Shape, settings: Training) -> int:
    """Return the number of parameters of a LoRA adapter on every matrix of every layer."""
    return settings.lora_r * shape.layers * (shape.inputs + shape.outputs)


def _seconds(shape: Shape, settings: Training, batch: BatchSize, machine: Machine) -> float:
    """Return the estimated seconds of one forward and backward pass over `batch`.

    Each weight costs two operations per token forward, two for the input's gradient, and, if it is
    trained, two for its own gradient (arXiv 2001.08361). Attention takes two products forward and
    five backward.
    """
    full = settings.method == FineTuningMethod.FULL
    head = (6 if full else 4) * shape.vocabulary * shape.hidden * batch.targets
    weights = (6 if full else 4) * shape.linear * batch.tokens
    adapters = 0 if full else 6 * _adapter(shape, settings) * batch.tokens
    attention = 14 * shape.layers * shape.attention * batch.scores
    operations = head + weights + adapters + attention
    beside = operations * (1 / _EFFICIENCY - 1) + shape.layers * _LAYER_OPERATIONS
    return operations / machine.flops + beside / (machine.pace or machine.flops)


# Settings to lower when a training does not fit


def largest_fitting(
    settings: Training, max_length: int, at: Callable[[Training, int], Estimate]
) -> dict[str, int] | None:
    """Return lower values for settings, such as {"training.lora_r": 4}, with which the training fits into memory.

    The tokens per pass are lowered first, since that does not change the result; then, if a single
    conversation is too long, the maximum length; the rank last. The last setting that is lowered
    gets the largest value that fits, the others their smallest. Return None if the training does
    not fit even with all at their smallest. `at` returns the estimate for given settings and a
    maximum length in tokens.
    """
    lowered: dict[str, int] = {}

    def fits(changes: dict[str, int]) -> bool:
        training = {
            key.removeprefix("training."): value for key, value in changes.items() if key.startswith("training.")
        }
        found = at(settings.model_copy(update=training), changes.get("data_preparation.max_length", max_length))
        return found.memory <= _MARGIN * found.available

    for key, now, least in _knobs(settings, max_length):
        if fits({**lowered, key: least}):
            return {**lowered, key: _largest(least, now, lambda value, key=key: fits({**lowered, key: value}))}  # type: ignore[misc]
        lowered[key] = least
    return None


def _knobs(settings: Training, max_length: int) -> list[tuple[str, int, int]]:
    """Return the settings to lower, in order: the dotted name, the current value and the smallest value."""
    if settings.backend == "trl":
        at_once = ("training.batch_size", settings.batch_size, 1)
    else:
        at_once = ("training.batch_tokens", settings.batch_tokens, min(LEAST_LENGTH, settings.batch_tokens))
    knobs = [at_once, ("data_preparation.max_length", max_length, min(LEAST_LENGTH, max_length))]
    if settings.method in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
        knobs.append(("training.lora_r", settings.lora_r, 1))
    return knobs


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number for which `fits` is true, by bisection; `fits(low)` is true, `fits(high)` false."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def require(estimate: Estimate, settings: Training, base: str | Path, fitting: dict[str, int] | None) -> None:
    """Raise NotEnoughMemory if the training would not fit into memory.

    The message advises `fitting`, the result of `largest_fitting`.
    """
    if estimate.fits:
        return
    largest = max(
        (part for part in estimate.parts if part not in ("runtime", "loading")), key=lambda part: estimate.parts[part]
    )
    if fitting:
        lower = " ".join(f"--set {key}={value}" for key, value in fitting.items())
        cure = f"The largest that fits: {lower} (--auto takes it)."
    else:
        smaller = "training.method lora, or a smaller" if settings.method == FineTuningMethod.FULL else "a smaller"
        cure = f"No setting makes it fit: choose {smaller} training.base_model."
    raise NotEnoughMemory(
        f"training {base} needs about {estimate.memory / 1e9:.1f} GB of memory ({estimate.parts[largest] / 1e9:.1f} "
        f"GB of it {largest}), "
        f"and {estimate.available / 1e9:.1f} GB are free. {cure} Closing other programs helps too."
    )
