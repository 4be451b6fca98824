"""Check whether everything that byoai needs exists and works.

Each result is one line, which also says what to do if the check failed.
The engines and the version in use are really run: each generates a token.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import psutil

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, Engine
from fine_tuning.engines.connect import connect
from fine_tuning.engines.smoke import smoke
from fine_tuning.errors import ByoaiError, ConfigError, EngineUnavailable, ModelDamaged, ModelNotFound
from fine_tuning.integration import first_model
from fine_tuning.model_management.model_deployer import check_parity, reconcile
from fine_tuning.model_management.model_registry import Registry, latest_tag
from fine_tuning.units import counted

_DISK = 2 << 30  # bytes that a run of a small model may need
_MEMORY = 3 << 30  # bytes that training the default base needs
_DAMAGE = (OSError, sqlite3.Error, ValueError, TypeError, LookupError)  # errors from reading damaged files and rows


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    text: str  # what was found, or what is wrong and what to do


def examine(config_of: Callable[[], FineTuningConfig], url: str | None = None) -> Iterator[Check]:
    """Yield each check as soon as it is made. If one fails, the others are still made.

    Args:
        config_of: Reads the configuration. An error that it raises is the first result.
        url: The URL of Ollama, if the user gave one.
    """
    found: list[FineTuningConfig] = []

    def configured() -> str:
        found.append(config_of())
        return "read"

    yield _check("configuration", configured)
    config = found[0] if found else FineTuningConfig()  # the other checks are still useful
    yield _check("disk", _disk)
    yield _check("memory", _memory)
    yield _check("log", partial(_log, config))
    yield from _engines(config, url)


def _check(name: str, examine: Callable[[], str]) -> Check:
    """Return a passed Check with the text that `examine` returns, or a failed one with the error that it raises."""
    try:
        return Check(name, True, examine())
    except ByoaiError as error:
        return Check(name, False, str(error))
    except _DAMAGE as error:
        text = (
            f"{type(error).__name__}: {error}. A file in {paths.home()} may be damaged: move it aside, "
            "and run byoai doctor again"
        )
        return Check(name, False, text)


def _engines(config: FineTuningConfig, url: str | None) -> Iterator[Check]:
    engines: list[Engine] = []

    def chosen() -> Engine:
        if not engines:
            raise ByoaiError("not checked, because no engine is running: see the checks of the engines")
        return engines[0]

    def choose() -> str:
        engines.append(engine := connect(url, config))
        return f"{engine.name} {engine.version()} at {engine.where} serves the models{_why_not_ollama(engine, config)}"

    yield _check("engine", choose)
    yield _check("ollama", lambda: _ollama(config, url, engines))
    yield _check("embedded", lambda: _embedded(config))
    yield _check("base", lambda: _base(chosen(), config))
    yield _check("versions", lambda: _versions(chosen(), config))
    yield _check("live model", lambda: _live(chosen(), config))
    yield _check("template", lambda: _template(chosen(), config))


def _disk() -> str:
    home = paths.home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ByoaiError(
            f"cannot write to {home}: {error.strerror or error}. Make it writable, or choose another folder "
            "(BYOAI_HOME)"
        ) from error
    return _enough(
        shutil.disk_usage(home).free, _DISK, f"free for {home}", "make room, or put BYOAI_HOME on another disk"
    )


def _memory() -> str:
    return _enough(
        psutil.virtual_memory().available, _MEMORY, "free", "training the default base needs that; close other programs"
    )


def _enough(free: int, needed: int, what: str, cure: str) -> str:
    text = f"{free / 1e9:.1f} GB {what}"
    if free < needed:
        raise ByoaiError(f"{text}, less than {needed / 1e9:.0f} GB: {cure}")
    return text


def _log(config: FineTuningConfig) -> str:
    health = ConversationLogger(config.log_path).health()
    if not health.ok:
        raise ByoaiError(str(health))
    return str(health)


# Engines


def _why_not_ollama(engine: Engine, config: FineTuningConfig) -> str:
    if engine.name == "ollama":
        return "; the embedded engine serves them where no Ollama answers"
    if os.environ.get("BYOAI_ENGINE") == "embedded":
        return ", as BYOAI_ENGINE=embedded says"
    try:
        connect(None, config, prefer="ollama")
    except EngineUnavailable as error:
        return f". {str(error).partition('. ')[0]}; byoai serves the models itself"
    return ""


def _ollama(config: FineTuningConfig, url: str | None, chosen: list[Engine]) -> str:
    try:
        engine = connect(url, config, prefer="ollama")
    except EngineUnavailable as error:
        if chosen and chosen[0].name == "embedded":
            return f"{str(error).partition('. ')[0]}: not needed, the embedded engine serves"
        raise
    tag = _some_tag(engine, config)
    found = f"{engine.version()} at {engine.where}"
    return f"{found}; {_token(engine, tag) if tag else first_model.with_command(first_model.missing())}"


def _embedded(config: FineTuningConfig) -> str:
    try:
        engine = connect(None, config, prefer="embedded")
    except ConfigError:  # its folder is unusable, as the check of the disk reports; llama.cpp may still run
        smoke()
        return "llama.cpp runs; a tiny model answers, and there is no folder for other models"
    tag = _some_tag(engine, config)
    if tag:
        return f"llama.cpp ({engine.version()}) runs; {_token(engine, tag)}"
    smoke()
    return f"llama.cpp ({engine.version()}) runs; a tiny model answers, and {engine.where} has no models yet"


def _some_tag(engine: Engine, config: FineTuningConfig) -> str | None:
    """Return the tag of the base if the engine has it, else the tag of any model; None if there is no model."""
    base, tags = config.training.base_model, [model.tag for model in engine.list_models()]
    return next((tag for tag in tags if tag in (base, f"{base}:latest")), next(iter(tags), None))


def _token(engine: Engine, tag: str) -> str:
    """Let the model `tag` generate one token; return a text that says how long it took.

    Raises EngineError if the model fails.
    """
    options = ChatOptions(temperature=0, seed=0, max_tokens=1)
    *_, last = engine.chat(tag, [Message(role="user", content="Hello!")], options)
    return f"{tag} answers (first token after {last.seconds:.1f} s)"


# Models


def _base(engine: Engine, config: FineTuningConfig) -> str:
    try:
        details = engine.show(config.training.base_model)
    except (ModelNotFound, ModelDamaged) as error:
        raise ByoaiError(
            f"{error} `{first_model.COMMAND}` fetches the default base; training.base_model names another"
        ) from error
    return f"{details.tag} ({details.parameter_size}, {details.quantization}), read from {details.gguf}"


def _versions(engine: Engine, config: FineTuningConfig) -> str:
    findings = reconcile(engine, Registry(), config.tuned_name())
    text = "; ".join(finding.text for finding in findings) or "engine and registry agree"
    if not all(finding.mended for finding in findings):
        raise ByoaiError(text)
    return text


def _live(engine: Engine, config: FineTuningConfig) -> str:
    if Registry().live(config.tuned_name()) is None:
        return "no fine-tuned model is live yet"
    return _token(engine, latest_tag(config.tuned_name()))


def _template(engine: Engine, config: FineTuningConfig) -> str:
    live, tag = Registry().live(config.tuned_name()), latest_tag(config.tuned_name())
    if live is None:
        return "no fine-tuned model is live yet"
    report = check_parity(engine, tag, partial(engine.render, live.base_tag))
    compared = f"{counted(report.cases, 'conversation')}, {report.tokens} tokens compared"
    return f"{tag} is fed the same text as in training ({compared})"
