"""Is everything there that the loop needs? One check a line, each with its cure."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import psutil

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.model_deployer import check_parity, reconcile
from fine_tuning.model_management.model_registry import Registry, latest_tag

_DISK = 2 << 30  # bytes that a run of a small model may need
_MEMORY = 3 << 30  # bytes that training the default base needs


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    text: str  # what was found, or what is wrong and what to do


def examine(config_of: Callable[[], FineTuningConfig], engine_of: Callable[[FineTuningConfig], Engine]) -> Iterator[Check]:
    """All checks that can be made; those behind a failed one are left out."""
    try:
        config = config_of()
        yield Check("configuration", True, "read")
    except ByoaiError as error:
        yield Check("configuration", False, str(error))
        return
    yield _disk()
    yield _memory()
    yield _check("log", lambda: _log(config))
    try:
        engine = engine_of(config)
        yield Check("engine", True, f"{engine.name} {engine.version()} at {engine.where}")
    except ByoaiError as error:
        yield Check("engine", False, str(error))
        return
    yield _check("base", lambda: _base(engine, config))
    yield from _versions(engine, config)


def _check(name: str, examine: Callable[[], str]) -> Check:
    try:
        return Check(name, True, examine())
    except ByoaiError as error:
        return Check(name, False, str(error))


def _disk() -> Check:
    paths.home().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(paths.home()).free
    cure = "" if free >= _DISK else f": less than {_DISK / 1e9:.0f} GB; make room, or put BYOAI_HOME on another disk"
    return Check("disk", free >= _DISK, f"{free / 1e9:.1f} GB free for {paths.home()}{cure}")


def _memory() -> Check:
    free = psutil.virtual_memory().available
    cure = "" if free >= _MEMORY else f": training the default base needs {_MEMORY / 1e9:.0f} GB; close other programs"
    return Check("memory", free >= _MEMORY, f"{free / 1e9:.1f} GB free{cure}")


def _log(config: FineTuningConfig) -> str:
    health = ConversationLogger(config.log_path).health()
    if not health.ok:
        raise ByoaiError(str(health))
    return str(health)


def _base(engine: Engine, config: FineTuningConfig) -> str:
    details = engine.show(config.training.base_model)
    return f"{details.tag} ({details.parameter_size}, {details.quantization}), read from {details.gguf}"


def _versions(engine: Engine, config: FineTuningConfig) -> Iterator[Check]:
    registry, name = Registry(), config.tuned_name()
    findings = reconcile(engine, registry, name)
    yield Check("versions", all(finding.mended for finding in findings), "; ".join(f.text for f in findings) or "engine and registry agree")
    live = registry.live(name)
    if live is None:
        yield Check("template", True, "no fine-tuned model is live yet")
        return
    yield _check("template", lambda: _parity(engine, latest_tag(name), live.base_tag))


def _parity(engine: Engine, tag: str, base: str) -> str:
    report = check_parity(engine, tag, partial(engine.render, base))
    return f"{tag} is fed what it was trained on ({report.cases} conversations, {report.tokens} tokens alike)"
