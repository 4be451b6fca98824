"""What this machine can do: its memory, the faster number format, the faster number of threads, and its speed."""

import ctypes
import resource
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from math import prod
from statistics import median

import psutil
import torch

from fine_tuning.config import FineTuningMethod, Training
from fine_tuning.training.fast.matmul import CLEARLY, ENOUGH, PROBED, Library, least_seconds, product

THREADS = torch.get_num_threads()  # at first: one for each core, or OMP_NUM_THREADS
_DOUBT = 1.0  # seconds
_IN_A_ROW = 3  # products: after the first one, threads that slept are awake
_WORTH = 0.4  # share of float32's time that a product in bfloat16 may take
_MOMENT = 0.1  # seconds
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def has_gpu() -> bool:
    return torch.cuda.is_available()


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes (GPU memory where it trains on one)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Return the bytes that are free now where a training runs: the GPU's memory, or the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def choose_dtype(settings: Training, library: Library) -> torch.dtype:
    """Return `training.dtype`, or for `auto` the format in which this machine multiplies faster.

    It is probed in well under 2 s. `library`: of float32 products.
    """
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    # A small step is lost in the eight bits of bfloat16. Adapters are fp32 anyway, but full
    # fine-tuning trains the weights themselves.
    if settings.method == FineTuningMethod.FULL:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return _faster_dtype(library)


@cache
def _faster_dtype(library: Library) -> torch.dtype:
    # Cached, since the forecast asks before the training does. Only a part of a step is products,
    # and bfloat16 rounds: it must be worth it.
    half, single = least_seconds(ENOUGH, _step_product(torch.bfloat16, library), _step_product(torch.float32, library))
    return torch.bfloat16 if half < _WORTH * single else torch.float32


def choose_threads(settings: Training) -> int:
    """Return `training.threads`; for 0 torch's own number, or half of it if that is clearly faster.

    Two threads of one core, or slow cores beside fast ones, may cost more time than they save. A
    probe in favour of half is checked for a second longer: another program may have caused it, and
    the training keeps the number for good.
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
    """Return this machine's speed in matrix products, in floating-point operations per second.

    The products have the size of a training step's. By default the fastest of a few products
    counts. With `over`, so many seconds are measured, and the result is the median of the best
    tenth of a second: the median is what is usual, and the best tenth leaves out programs that may
    be gone when the training begins. `library`: by default the one that is used.
    """
    multiply = _step_product(dtype, library)
    times = (_times(multiply, _MOMENT) for _ in range(max(1, round(over / _MOMENT))))
    return 2 * prod(PROBED) / min(median(taken) if over else min(taken) for taken in times)


def _step_product(dtype: torch.dtype, library: Library | None = None) -> Callable[[], None]:
    """Return a function that makes one product of a training step's size.

    It was called once already, so that the library has built its kernel.
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
    """Return the seconds of each call, made again and again for `seconds`, three times at least."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        start = time.perf_counter()
        multiply()
        taken.append(time.perf_counter() - start)
    return taken


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one.

    Otherwise it hands pages back and has them zeroed again: large tensors come and go in each step,
    and a third of a step on a CPU was spent in the kernel. No effect on other systems.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
