"""Measure the speed and the memory of the machine that trains.

The speed is measured at most once a day (measurements.py), since measuring must import torch and
takes seconds (three of the ten seconds of a dry run over 100,000 turns). The free memory is read
each time.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import psutil

from fine_tuning import measurements
from fine_tuning.config.training import FineTuningMethod, Training

_MEASURED = 0.7  # seconds of each speed measurement


@dataclass(frozen=True)
class Machine:
    """The speed and memory of the machine that trains."""

    flops: float  # floating-point operations per second of matrix products in the training's number format
    available: int  # bytes that are free where the training runs
    bytes_per_weight: int = 4
    on_gpu: bool = False
    pace: float | None = None  # `flops` in float32, to scale all other operations; None: the same as `flops`


def this_machine(settings: Training) -> Machine:
    """Return this machine's speed, measured now or within the last day, and its free memory now.

    On a GPU, speed and memory are measured each time, since only torch can tell a GPU's free memory.
    """
    key = _key(settings)
    with suppress(TypeError, ValueError):
        known = Machine(**(measurements.recall(key) or {}))
        if known.flops > 0 and (known.pace is None or known.pace > 0) and known.bytes_per_weight in (2, 4):
            return replace(known, available=free_ram())
    found = measure_machine(settings)
    if not found.on_gpu:
        measurements.keep(key, asdict(found))
    return found


def free_ram() -> int:
    """Return how many bytes of the machine's memory are free."""
    return psutil.virtual_memory().available


def measure_machine(settings: Training) -> Machine:
    """Return this machine's speed and its free memory, measured now.

    The speed is measured with the number format and matrix library that a training with `settings`
    would choose. Measuring takes about a second, and changes neither the process's threads and
    random numbers nor the matrix library in use.
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


def _key(settings: Training) -> str:
    """Return the key under which the measured speed is stored.

    It contains all that the speed depends on: the settings, the computer, torch's version, and
    whether there is an NVIDIA driver.
    """
    is_full = settings.method == FineTuningMethod.FULL
    chosen = settings.dtype, settings.products, settings.threads, is_full
    there = version("torch"), Path("/dev/nvidiactl").exists()
    return " ".join(map(str, (*chosen, *measurements.of_this_computer(), *there)))
