"""The forecast: peak memory and time of a training, from shapes and token counts, before anything is loaded.

The peak is at the end of a forward pass, when all that the backward pass needs is held. Its parts
(`Estimate.parts`, bytes):

runtime      Python, torch, transformers and the Trainer, without a model
weights      the base, in the number format of the training; of a base that stays quantised only embeddings and norms
loading      the largest weight twice, while it is dequantised; not part of the peak once the activations are larger
training     gradient and Adam's two moments of all trained weights, and an adapter's weights, in fp32; these once more beside the base's
activations  what each layer saves of each token (`_saved`), and on a CPU the gaps that the allocator leaves between them
mask         [T, T] booleans, twice while they are made, and the attention's order of tokens (tree_attention.py), once a head
logits       [n, vocabulary] in fp32, for a lot of n supervised tokens (loss.py); for replayed ones once more, for their divergence

What is measured and counted (`Basis`) takes torch and seconds; what other settings come to is
arithmetic on it, without torch (`Basis.at`). T, the number of tokens computed at once, is the size
of a prefix tree, counted from the token rows themselves (workload.py). benchmarks/memory.py
compares the forecast with what is measured, and says how to calibrate it anew.
"""  # noqa: E501

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from fine_tuning.config import BaseWeights, FineTuningMethod, Training
from fine_tuning.errors import NotEnoughMemory
from fine_tuning.training.methods import ways_to_hold
from fine_tuning.training.model_shape import Shape, shape_of
from fine_tuning.training.workload import BatchSize, Workload, computed_rows, workload

# Measured on a CPU (benchmarks/memory.py); all else follows from what torch keeps.
_RUNTIME = 800 << 20  # bytes
# glibc does not reuse a freed block for an aligned request of the same size, and torch aligns all
# its tensors
_HOLES = 1.6
_EFFICIENCY = 0.7  # share of the speed of matrix products that is reached by all that grows with a step
_DEQUANTISED = 4e8  # weights dequantised a second, on one thread (quantised_linear.py)
# Floating-point operations that take as long as what does not grow with a pass, for each layer:
# calls, weights read again, the optimiser.
_LAYER_OPERATIONS = 1.2e9

# How much more of a token a layer keeps where it is not, or only partly, fused
# (tests/training/test_estimate.py); unknown: the largest.
_PARTLY_FUSED = {"llama": 1.0, "qwen2": 1.0, "qwen3": 1.15, "phi3": 1.4, "gemma2": 1.7, "gemma3": 1.7}
_NOT_FUSED = {4: 2.0, 2: 3.8}  # any family, without `training.fused`, by bytes of a number: PEFT keeps copies in fp32
_VIRTUAL, _VIRTUAL_METHODS = 1.35, (FineTuningMethod.PREFIX_TUNING, FineTuningMethod.PROMPT_TUNING)
# bytes a weight: four bits, and scales of blocks of 64, themselves in eight bits (arXiv 2305.14314,
# section 3)
_NF4 = 0.516
# by bytes of a number: products with quantised weights keep inputs and outputs in both formats
_QUANTISED = {4: 1.45, 2: 2.4}
_DORA, _DORA_COPIES = 2.9, 1.4  # the second: copies of every matrix, since DoRA needs its norm

_TEACHER_BATCH = 8  # replay rows that the base computes together (teacher.py)
_MARGIN = 0.95  # share of the free memory that lowered settings may fill: what is free changes

LEAST_LENGTH = 64  # tokens; a shorter limit would leave no conversation


@dataclass(frozen=True)
class Machine:
    """What the forecast needs to know of the machine that trains."""

    flops: float  # floating-point operations a second of matrix products in the training's number format
    available: int  # bytes that are free where the training runs
    bytes_per_weight: int = 4
    on_gpu: bool = False
    pace: float | None = None  # `flops` in float32, which tells how fast all else is; None: the same


@dataclass(frozen=True)
class Estimate:
    """The memory of a training at its peak, by what it is for, and the seconds of all its steps."""

    parts: dict[str, int]
    seconds: float
    steps: int
    available: int  # bytes that are free now, where the training runs
    base_weights: BaseWeights = "dequantised"  # how the base is held

    @cached_property
    def memory(self) -> int:
        """Bytes at the peak."""
        held = self.parts["runtime"] + self.parts["weights"]
        step = sum(self.parts[part] for part in ("training", "activations", "mask", "logits"))
        return held + max(self.parts["loading"], step)

    @property
    def fits(self) -> bool:
        return self.memory <= self.available


@dataclass(frozen=True)
class Basis:
    """What a forecast is computed from: the model, what an epoch computes, and the machine."""

    shape: Shape
    work: Workload
    machine: Machine

    def at(self, settings: Training, available: int | None = None) -> Estimate:
        """Return the estimate for other settings with the same batches and number format.

        `available`: bytes that are free now; None: as many as were free when it was measured.
        """
        machine = self.machine if available is None else replace(self.machine, available=available)
        return estimate(self.shape, settings, self.work, machine)

    def trained(self, settings: Training) -> int:
        """Return how many parameters are trained."""
        return trained_parameters(self.shape, settings)

    def record(self) -> dict[str, Any]:
        """Return the basis as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Basis":
        """Return the basis that `record` was made from."""
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
    """What a training would take, what to lower if that does not fit, and what it was computed from."""

    estimate: Estimate
    fitting: dict[str, int] | None
    basis: Basis


def estimate_training(settings: Training, base: Path, rows: Path, replay: Path | None) -> Forecast:
    """Return what the training would take on this machine, and what to lower if it does not fit.

    `base` is a GGUF, `rows` a folder with train.jsonl, `replay` a file of replay rows. The
    machine's speed is measured for about a second. That changes nothing in the process: threads,
    number formats and the library of matrix products stay as they are. Raises TrainingError for a
    base of an unknown shape and for bad rows.
    """
    from fine_tuning.engines.gguf_file import read_gguf

    shape, learned = shape_of(read_gguf(base)), computed_rows(rows / "train.jsonl")
    learned += computed_rows(replay, replayed=True) if replay else []
    machine = measure_machine(settings)

    def at(training: Training, max_length: int) -> Estimate:
        return estimate(shape, training, workload(learned, training, max_length), machine)

    longest = max(len(row.ids) for row in learned)
    basis = Basis(shape, workload(learned, settings, longest), machine)
    found = basis.at(settings)
    return Forecast(found, None if found.fits else largest_fitting(settings, longest, at), basis)


def measure_machine(settings: Training) -> Machine:
    """Return this machine's speed and its free memory.

    The speed is that of the number format and the library that a training would choose now.
    """
    import torch

    from fine_tuning.training import hardware
    from fine_tuning.training.fast import matmul

    with torch.random.fork_rng(devices=[]), matmul.few_kernels():
        library = matmul.choose(settings)
        dtype = hardware.choose_dtype(settings, library)
        pace = None if dtype.itemsize == 4 else hardware.gemm_flops(library=library, over=_MEASURED)
        flops = hardware.gemm_flops(dtype, library, over=_MEASURED)
    return Machine(flops, hardware.free_memory(), dtype.itemsize, hardware.has_gpu(), pace)


_MEASURED = 0.7  # seconds


def estimate(shape: Shape, settings: Training, work: Workload, machine: Machine) -> Estimate:
    """Return what training on `work` takes, for every epoch of `settings` (with `early_stop` it may end before).

    The base is held in the first of the ways that QLoRA may hold it (`ways_to_hold`) that fits, else in the smallest.
    """
    found = [_held_as(weights, shape, settings, work, machine) for weights in ways_to_hold(settings, machine.on_gpu)]
    return next((each for each in found if each.fits), min(found, key=lambda each: each.memory))


def _held_as(weights: BaseWeights, shape: Shape, settings: Training, work: Workload, machine: Machine) -> Estimate:
    parts = _parts(shape, settings, work, machine.bytes_per_weight, weights)
    if not machine.on_gpu:  # there, what is free is free of torch already, and the allocator leaves no gaps
        parts |= {"runtime": _RUNTIME, "activations": int(_HOLES * parts["activations"])}
    dequantising = (weights != "dequantised") * 2 * shape.linear / _DEQUANTISED  # seconds in each pass

    def epoch(each: Workload) -> float:
        a_pass = mean(_seconds(shape, settings, batch, machine) for batch in each.batches)
        return each.steps * each.passes * (dequantising + a_pass)

    seconds = sum(epoch(each) for each in (work, work.held_out) if each)
    return Estimate(parts, settings.num_epochs * seconds, settings.num_epochs * work.steps, machine.available, weights)


def _parts(shape: Shape, settings: Training, work: Workload, width: int, weights: BaseWeights) -> dict[str, int]:
    """Return the bytes of each part; `width` is the bytes of a number."""
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
    """Return how many numbers are held beside the layers' weights (adapters.py).

    They are the adapters of each group once more, and the zeros between them.
    """
    if settings.method not in (FineTuningMethod.LORA, FineTuningMethod.QLORA) or not settings.fused:
        return 0
    if settings.use_dora or settings.lora_dropout:
        return 0
    rows = 3 * (shape.attention + 2 * shape.keys) + 2 * 2 * shape.feed_forward + 2 * shape.hidden
    return shape.layers * rows * settings.lora_r


def _activations(shape: Shape, settings: Training, batch: BatchSize, width: int, quantised: bool = False) -> int:
    """Return the bytes that all layers keep for the backward pass.

    Models that fused.py cannot fuse keep more of each token; the factors are measured.
    """
    factor = _PARTLY_FUSED.get(shape.architecture, max(_PARTLY_FUSED.values())) if not settings.lora_dropout else 1.0
    if not settings.fused and not settings.lora_dropout and settings.method != FineTuningMethod.FULL:
        factor = max(factor, _NOT_FUSED[width])  # the others are never fused
    if quantised:
        factor = max(factor, _QUANTISED[width])
    factor = max(factor, _DORA if settings.use_dora else _VIRTUAL if settings.method in _VIRTUAL_METHODS else 1.0)
    each = int(factor * batch.tokens * _saved(shape, settings, width)) + _attention_weights(shape, batch) * width
    if shape.architecture == "gemma2":  # its scores are capped, for which all of them are made, and kept twice
        each += 2 * batch.tokens**2 * shape.heads * width
    return shape.layers * each + (int(_DORA_COPIES * shape.linear) * width if settings.use_dora else 0)


def _saved(shape: Shape, settings: Training, width: int) -> int:
    """Return the bytes that a layer keeps of each token for the backward pass, as `saved_tensors_hooks` counts them.

    Inputs of both norms; queries, keys, values and the attention's output; the feed-forward's gate
    and its partner; and the input of every matrix that is trained or has an adapter
    (tests/training/test_estimate.py).
    """
    attention, low = 2 * (shape.attention + shape.keys) * width, settings.lora_r * shape.matrices
    # norms are trained too, in fp32; the feed-forward keeps its gate before and after
    if settings.method == FineTuningMethod.FULL:
        return 2 * shape.hidden * (4 + width) + attention + (2 * shape.hidden + 4 * shape.feed_forward) * width
    # each adapter's dropped-out input, and its noise; that of the attention's output instead of
    # itself
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
    """Return how many attention weights a layer keeps: those of short conversations.

    See `tree_attention.attend`.
    """
    weights = batch.scores * shape.heads
    return weights if weights <= batch.tokens * (shape.attention + 2 * shape.keys) else 0


def trained_parameters(shape: Shape, settings: Training) -> int:
    """Return how many parameters are trained.

    For methods with virtual tokens it is what an adapter of this rank would have, an upper bound.
    """
    return shape.parameters if settings.method == FineTuningMethod.FULL else _adapter(shape, settings)


def _adapter(shape: Shape, settings: Training) -> int:
    """Return the parameters of a LoRA adapter on every matrix of every layer."""
    return settings.lora_r * shape.layers * (shape.inputs + shape.outputs)


def _seconds(shape: Shape, settings: Training, batch: BatchSize, machine: Machine) -> float:
    """Return the seconds of one pass.

    Operations: for each weight two forward, two backward to the input, two for its own gradient
    (arXiv 2001.08361); of the attention two products forward, five backward.
    """
    full = settings.method == FineTuningMethod.FULL
    head = (6 if full else 4) * shape.vocabulary * shape.hidden * batch.targets
    weights = (6 if full else 4) * shape.linear * batch.tokens
    adapters = 0 if full else 6 * _adapter(shape, settings) * batch.tokens
    attention = 14 * shape.layers * shape.attention * batch.scores
    operations = head + weights + adapters + attention
    beside = operations * (1 / _EFFICIENCY - 1) + shape.layers * _LAYER_OPERATIONS
    return operations / machine.flops + beside / (machine.pace or machine.flops)


# When it does not fit


def largest_fitting(
    settings: Training, max_length: int, at: Callable[[Training, int], Estimate]
) -> dict[str, int] | None:
    """Return what to lower so that it fits, as dotted settings; None when nothing is small enough.

    First what is computed at once, which changes nothing else; if a single conversation is too
    much, its length too; at last the rank. The last setting named is as large as fits. `at`
    estimates for other settings and lengths.
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
    """Return what can be lowered, in this order: the dotted setting, its value, and the least value."""
    if settings.backend == "trl":
        at_once = ("training.batch_size", settings.batch_size, 1)
    else:
        at_once = ("training.batch_tokens", settings.batch_tokens, min(LEAST_LENGTH, settings.batch_tokens))
    knobs = [at_once, ("data_preparation.max_length", max_length, min(LEAST_LENGTH, max_length))]
    if settings.method in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
        knobs.append(("training.lora_r", settings.lora_r, 1))
    return knobs


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits from `low`, which does, to below `high`, which does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def require(estimate: Estimate, settings: Training, base: str | Path, fitting: dict[str, int] | None) -> None:
    """Raise NotEnoughMemory, with what to lower (`fitting`, see `largest_fitting`), if the training would not fit."""
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
