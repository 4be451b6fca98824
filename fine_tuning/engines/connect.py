"""Choose the engine: Ollama if it answers, else the embedded engine."""

import importlib.util
import os
import re
from typing import Literal

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ConfigError, EngineError, EngineTooOld, EngineUnavailable

_PATIENCE = 0.8  # timeout in seconds of the request for the server's version


def connect(
    url: str | None = None, config: FineTuningConfig | None = None, prefer: Literal["ollama", "embedded"] | None = None
) -> Engine:
    """Return the Ollama server at `url`, or at OLLAMA_HOST, or at the configured URL, in this order.

    If no server answers there, return the embedded engine. `prefer`, or else the environment
    variable BYOAI_ENGINE, forces "ollama" or "embedded"; a given `url` means Ollama in any case.
    This takes less than a second.

    Raises EngineUnavailable if `url` or a forced Ollama does not answer, or if neither engine is
    available; EngineTooOld for a server older than ollama.MINIMUM_VERSION; ConfigError for an
    unknown BYOAI_ENGINE.
    """
    forced = prefer or os.environ.get("BYOAI_ENGINE") or None
    if forced not in (None, "ollama", "embedded"):
        raise ConfigError(f"BYOAI_ENGINE is {forced!r}: it must be 'ollama', 'embedded', or unset")
    if forced == "embedded" and url is None:
        return _embedded()
    try:
        return _ollama(
            url or os.environ.get("OLLAMA_HOST") or (config or FineTuningConfig()).deployment.ollama_base_url
        )
    except EngineUnavailable:
        if url or forced == "ollama":
            raise
        return _embedded()


def ollama_since(engine: Engine, config: FineTuningConfig) -> Engine | None:
    """Return the Ollama server that was started after `connect` had chosen the embedded engine in its place.

    Return None if no such server answers or if it has no models, if `engine` is not the embedded engine
    or is generating an answer, or if the environment forces it.
    """
    from fine_tuning.engines.embedded import EmbeddedEngine

    if not isinstance(engine, EmbeddedEngine) or engine.busy or os.environ.get("BYOAI_ENGINE"):
        return None
    try:
        found = _ollama(os.environ.get("OLLAMA_HOST") or config.deployment.ollama_base_url)
        return found if found.list_models() else None
    except EngineError:  # also if it is too old
        return None


def _ollama(url: str) -> Engine:
    from fine_tuning.engines.ollama import MINIMUM_VERSION, OllamaEngine

    engine = OllamaEngine(url)
    version = engine.version(timeout=_PATIENCE)
    # a build from source without a version number reports 0.0.0
    if _parts(version) < _parts(MINIMUM_VERSION) and _parts(version) != (0, 0, 0):
        raise EngineTooOld(
            f"Ollama at {engine.where} is {version}, and byoai needs {MINIMUM_VERSION} or newer. "
            "Update it (https://ollama.com/download), or set BYOAI_ENGINE=embedded to do without it."
        )
    return engine


def _parts(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (0, 17, 1) for "0.17.1-rc2"."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-")[0])[:3])


def _embedded() -> Engine:
    if importlib.util.find_spec("llama_cpp") is None:
        raise EngineUnavailable(
            "No Ollama is running, and llama-cpp-python is not installed. Start Ollama with `ollama serve`, or run "
            "./scripts/start.sh."
        )
    from fine_tuning.engines.embedded import EmbeddedEngine

    return EmbeddedEngine()
