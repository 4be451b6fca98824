"""llama.cpp, loaded: the one place where its library is opened, made quiet, and its errors named."""

import ctypes
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from fine_tuning.errors import EngineError

if TYPE_CHECKING:
    from llama_cpp import Llama

# llama-cpp-python silences llama.cpp by swapping the process's stdout and stderr while it loads: two at once would lose them for good.
LOADING = threading.Lock()

_callbacks: list[Any] = []  # C keeps no reference to them


def load(gguf: Path, **settings: Any) -> "Llama":
    """`gguf` opened with llama_cpp.Llama's `settings`. EngineError if llama.cpp cannot load it."""
    from llama_cpp import Llama

    threads = _threads()
    try:
        with LOADING:
            silence()
            return Llama(str(gguf), verbose=False, n_threads=threads, n_threads_batch=threads, **settings)
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"llama.cpp cannot load {gguf}: {error}. Is the file whole, and not newer than llama-cpp-python?") from error


def _threads() -> int:
    """As many as cores, as Ollama does (llama-cpp-python would take half), or as few as OMP_NUM_THREADS allows, as for PyTorch."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(allowed)) if allowed.isdecimal() and int(allowed) else cores


def silence() -> None:
    """Drop llama.cpp's own messages: llama-cpp-python takes its warnings for errors and prints them."""
    from llama_cpp import llama_cpp

    if not _callbacks:
        _callbacks.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
    llama_cpp.llama_log_set(_callbacks[0], ctypes.c_void_p(0))
