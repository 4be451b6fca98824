"""Import a format of the user's own by calling a function: `--format module:function`, or `file.py:function`.

The function gets the path of a file. It yields conversations, each as a list of {"role", "content"}
or as a pair of a question and an answer.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said, dicts, text_of
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.records import Layout
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.errors import ConfigError, DataError


def custom(name: str) -> Importer:
    """Return an importer that calls the user's function `name`, given as "module:function".

    Raises ConfigError if the function does not exist.
    """
    function = _function(name)

    def read(source: Source) -> Iterator[Chat | Fault]:
        if source.member.path is None:
            raise DataError(
                f"{source.member.name} is inside an archive, where {name} cannot read it: unpack the archive first"
            )
        for number, found in enumerate(_called(function, name, source.member.path), 1):
            try:
                yield _chat(found)
            except UNREADABLE as error:
                yield spoilt(error, f"conversation {number}", "messages", found)

    layouts: frozenset[Layout] = frozenset(get_args(Layout))
    return Importer(name, lambda found: True, read, layouts)


def _function(name: str) -> Callable[[Path], Iterable[object]]:
    module, _, function = name.rpartition(":")
    try:
        found = getattr(_module(module), function)
    except (ImportError, OSError, SyntaxError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--format {name}: {error}. Name a module that can be imported from here, or a file, and a function in it"
        ) from error
    if not callable(found):
        raise ConfigError(
            f"--format {name}: {function} is not a function. Name a function that yields the chats of a file"
        )
    read: Callable[[Path], Iterable[object]] = found
    return read


def _module(name: str) -> object:
    if not name.endswith(".py"):
        here = str(Path.cwd())
        sys.path.insert(0, here)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(here)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _called(function: Callable[[Path], Iterable[object]], name: str, path: Path) -> Iterator[object]:
    try:
        yield from function(path)
    except Exception as error:
        raise DataError(
            f"{name} failed on {path.name}: {type(error).__name__}: {error}. Correct this function, and import again"
        ) from error


def _chat(found: object) -> Chat:
    if isinstance(found, tuple) and len(found) == 2:
        return Chat([Said("user", text_of(found[0], "a question")), Said("assistant", text_of(found[1], "an answer"))])
    return Chat([said_of(message) for message in dicts(found, "messages, or a pair of texts")])
