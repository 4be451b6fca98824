"""The engine in use, with the default base: for tests that train on it and ask what they made."""

from collections.abc import Iterator
from contextlib import contextmanager

from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect
from fine_tuning.engines.default_base import ensure_default_base


@contextmanager
def with_default_base(expected: str, name: str) -> Iterator[Engine]:
    """Yield the engine, which is the `expected` one, before and after without versions of the model `name`."""
    engine = connect()
    assert engine.name == expected
    ensure_default_base(engine)
    _remove_versions(engine, name)
    yield engine
    engine.unload()
    _remove_versions(engine, name)


def versions(engine: Engine, name: str) -> set[str]:
    """Return the tags of the model's versions."""
    return {model.tag for model in engine.list_models() if model.tag.startswith(name)}


def _remove_versions(engine: Engine, name: str) -> None:
    for tag in versions(engine, name):
        engine.delete(tag)
