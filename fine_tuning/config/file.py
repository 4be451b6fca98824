"""Read YAML configuration files with every value as text.

Numbers and bools are converted later, by the settings (`__init__.py`). So a setting that is a text gets
exactly the text in the file, even `off`, `1e3`, `0042` and `2024`, which are bools and numbers in
YAML 1.1 (https://yaml.org/type/bool.html). Only an unquoted null or an empty value becomes None.
"""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fine_tuning.errors import ConfigError

_LARGEST = 1 << 20  # size limit of a file in bytes
_MOST = 10_000  # limit for the number of values; an alias counts as all values that it stands for
_DEEPEST = 50  # limit of nested lists and mappings
_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", None)
_IMPLICIT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")


def read(file: Path) -> Any:
    """Return the content of a YAML file as dicts, lists, texts and None.

    Raises OSError if the file cannot be read, and ConfigError with the file, line and fault if its
    content is not valid.
    """
    try:
        with file.open("rb") as source:
            content = source.read(_LARGEST + 1)
    except ValueError as error:  # NUL in the name
        raise ConfigError(f"cannot read {str(file)!r}: {error}. Name another file") from error
    if len(content) > _LARGEST:
        raise ConfigError(
            f"{file} is not a configuration, since it has more than {_LARGEST >> 20} MB: choose another file"
        )
    try:
        return copy.deepcopy(_known(content.decode("utf-8-sig"), str(file)))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error


@lru_cache(maxsize=8)
def _known(text: str, origin: str) -> object:
    """Return the result of `parse`, cached, since the configuration is read often and seldom changes."""
    return parse(text, origin)


def parse(text: str, origin: str, most: int = _MOST) -> object:
    """Return the content of a YAML text as `read` does. Raises ConfigError; `origin` names the text in its message.

    `most` limits the number of values, as described at _MOST.
    """
    try:
        loader = _Loader(text, most)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark, said = error.problem_mark or error.context_mark, error.problem or error.context
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = ": indent with spaces, not with tabs" if said and "\\t" in said else ""
        raise ConfigError(f"{origin} contains YAML that byoai does not accept{where}: {said}{hint}") from error
    except yaml.YAMLError as error:  # a character that is not allowed in YAML
        raise ConfigError(f"{origin} is not valid YAML: {str(error).splitlines()[0]}. Remove this character") from error


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses tags, duplicate keys, and aliases that expand to too many values."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(text)
        self._most, self._depth = most, 0
        self._sizes: dict[yaml.Node, int] = {}  # number of values in each complete node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = yaml.SafeLoader.peek_event(self)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _fault("lists and mappings are nested too deeply", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and node not in self._sizes:
            raise _fault("an alias (*name) refers to a value that contains the alias: write the value out", event)
        if node is not None and node not in self._sizes:
            self._sizes[node] = 1 + sum(self._sizes[each] for each in _parts(node))
            if self._sizes[node] > self._most:
                raise _fault(f"more than {self._most} values", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
                raise _fault("a key must be text", key)
            if key.value in seen:
                raise _fault(f"{key.value} is given twice: leave one of them out", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _TAGS}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _IMPLICIT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, where.start_mark)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
