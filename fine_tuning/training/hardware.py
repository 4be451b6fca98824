"""What this machine can do: memory, the faster number format, the faster number of threads."""

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
from fine_tuning.training import products
from fine_tuning.training.products import CLEARLY, ENOUGH, PROBED, least_seconds, product


def has_gpu() -> bool:
    return torch.cuda.is_available()


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes (GPU memory where it trains on one)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Bytes that are free now where the training runs: the GPU's memory, or the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def choose_dtype(settings: Training) -> torch.dtype:
    """`training.dtype`; for `auto` what multiplies matrices faster here (probed in well under 2 s)."""
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    # A step of a small rate is lost in the eight bits of bfloat16; adapters are fp32 anyway, but here the weights themselves are trained.
    if settings.method == FineTuningMethod.FULL:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return _faster_dtype(products.used())


@cache
def _faster_dtype(library: products.Library) -> torch.dtype:
    # Once for a library of float32's products: the estimate asks before the training does. Only a part of a step is products, and
    # bfloat16 rounds: it must be worth it.
    half, single = least_seconds(ENOUGH, _step_product(torch.bfloat16), _step_product(torch.float32))
    return torch.bfloat16 if half < _WORTH * single else torch.float32


def choose_threads(settings: Training) -> int:
    """`training.threads`; for 0 as many as torch began with, or half of them where that is clearly faster: two threads of one core, or
    slow cores beside fast ones, may take more than they add. Probed in a moment; what speaks for half is doubted for a second, since
    something else that runs here does so too, until it ends, and the training would keep what it began with."""
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


THREADS = torch.get_num_threads()  # one for each core, or OMP_NUM_THREADS
_DOUBT = 1.0  # seconds
_IN_A_ROW = 3  # products: threads that slept wake meanwhile
_WORTH = 0.4


def gemm_flops(dtype: torch.dtype = torch.float32, over: float = 0.0) -> float:
    """Floating-point operations a second of a matrix product of a training step's size on this machine, by the library that is used: the
    most of some; or, `over` so many seconds, what is usual: the median, which is what other work leaves, of the best tenth of a second,
    since what comes and goes is over when the training has begun."""
    multiply = _step_product(dtype)
    times = (_times(multiply, _MOMENT) for _ in range(max(1, round(over / _MOMENT))))
    return 2 * prod(PROBED) / min(median(taken) if over else min(taken) for taken in times)


_MOMENT = 0.1  # seconds


def _step_product(dtype: torch.dtype) -> Callable[[], None]:
    """What makes such a product once, and has made one, for which the library built its kernel."""
    device = "cuda" if has_gpu() else "cpu"
    tokens, width, wide = PROBED
    rows, weight = torch.randn(tokens, width).to(device, dtype), torch.randn(wide, width).to(device, dtype)

    def multiply() -> None:
        product(rows, weight)
        if has_gpu():
            torch.cuda.synchronize()

    multiply()
    return multiply


def _times(multiply: Callable[[], None], seconds: float) -> list[float]:
    """Of a product made again and again, three times at least."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        start = time.perf_counter()
        multiply()
        taken.append(time.perf_counter() - start)
    return taken


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, instead of handing pages back and having them zeroed again.

    Large tensors come and go each step; without this a third of a CPU step went into the kernel (`vmstat`). No effect elsewhere.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
