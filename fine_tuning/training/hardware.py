"""Measure this machine: its memory, its speed, and which number format and number of threads are faster."""

import ctypes
import resource
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from math import prod
from statistics import median

import torch

from fine_tuning.config.training import FineTuningMethod, Training
from fine_tuning.training import machine
from fine_tuning.training.fast.matmul import CLEARLY, ENOUGH, PROBED, Library, least_seconds, product

THREADS = torch.get_num_threads()  # torch's default: one per core, or OMP_NUM_THREADS
_DOUBT = 1.0  # seconds for which a probe in favour of fewer threads is repeated
_IN_A_ROW = 3  # products per probe: the first one wakes sleeping threads
_WORTH = 0.4  # bfloat16 is chosen if its product takes less than this share of float32's time
_MOMENT = 0.1  # seconds of one speed measurement
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def has_gpu() -> bool:
    return torch.cuda.is_available()


def peak_memory() -> int:
    """Return this process's peak memory so far in bytes: the GPU's memory if there is a GPU, else RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Return the free memory in bytes: the GPU's if there is a GPU, else the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return machine.free_ram()


def choose_dtype(settings: Training, library: Library) -> torch.dtype:
    """Return `training.dtype`; for `auto`, choose between float32 and bfloat16.

    Full fine-tuning uses float32. Adapters use bfloat16 on a GPU that supports it; on a CPU, the
    format in which it multiplies faster. Timing both takes well under 2 s; `library` computes the
    float32 products.
    """
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    # bfloat16's eight bits of precision would lose small weight updates. Adapters are fp32 anyway,
    # but full fine-tuning updates the weights themselves.
    if settings.method == FineTuningMethod.FULL:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return _faster_dtype(library)


@cache
def _faster_dtype(library: Library) -> torch.dtype:
    # Cached, since the forecast asks before the training does. bfloat16 must be clearly faster, since
    # it is less precise and matrix products are only a part of a step.
    half, single = least_seconds(ENOUGH, _step_product(torch.bfloat16, library), _step_product(torch.float32, library))
    return torch.bfloat16 if half < _WORTH * single else torch.float32


def choose_threads(settings: Training) -> int:
    """Return `training.threads`; for 0 torch's default, or half of it if that is clearly faster.

    Two threads on one core, or slow cores beside fast ones, may cost more time than they save. If
    half is faster in a first measurement, it is measured for another second, since another program
    may have interfered and the choice holds for the whole training.
    """
    if settings.threads or THREADS == 1 or torch.cuda.is_available():
        return settings.threads or THREADS
    before, half, multiply = torch.get_num_threads(), THREADS // 2, _step_product(torch.float32)

    def several(threads: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(_IN_A_ROW):
            multiply()

    try:
        least = [float("inf")] * 2
        for enough in (ENOUGH, _DOUBT):
            least = list(map(min, least, least_seconds(enough, partial(several, half), partial(several, THREADS))))
            if least[0] >= CLEARLY * least[1]:
                return THREADS
        return half
    finally:
        torch.set_num_threads(before)


def gemm_flops(dtype: torch.dtype = torch.float32, library: Library | None = None, over: float = 0.0) -> float:
    """Return this machine's speed in matrix products: floating-point operations per second.

    The products are as large as in a training step.

    Args:
        library: computes the products; None: the one in use (`matmul.used`).
        over: seconds to measure. With 0, the fastest of a few products counts. Otherwise the median
            product within the fastest tenth of a second counts, which leaves out the moments in
            which other programs interfered.
    """
    multiply = _step_product(dtype, library)
    times = (_times(multiply, _MOMENT) for _ in range(max(1, round(over / _MOMENT))))
    return 2 * prod(PROBED) / min(median(taken) if over else min(taken) for taken in times)


def _step_product(dtype: torch.dtype, library: Library | None = None) -> Callable[[], None]:
    """Return a function that computes one matrix product of a training step's size.

    The function has already been called once, so that the library has built its kernel.
    """
    device = "cuda" if has_gpu() else "cpu"
    tokens, width, wide = PROBED
    rows, weight = torch.randn(tokens, width).to(device, dtype), torch.randn(wide, width).to(device, dtype)

    def multiply() -> None:
        product(rows, weight, library=library)
        if has_gpu():
            torch.cuda.synchronize()

    multiply()
    return multiply


def _times(multiply: Callable[[], None], seconds: float) -> list[float]:
    """Call `multiply` at least three times and for at least `seconds`; return the seconds that each call took."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        start = time.perf_counter()
        multiply()
        taken.append(time.perf_counter() - start)
    return taken


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the kernel.

    Each step frees and allocates large tensors; returning and zeroing their pages took a third of
    a step on a CPU. No effect on other systems.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
