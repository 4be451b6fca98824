"""Find paths in trees of messages, in which each message has the id of its parent.

Exports of ChatGPT and Open WebUI have such trees.
"""

from collections.abc import Iterator, Mapping

from fine_tuning.json_values import JsonObject

Nodes = Mapping[str, JsonObject]


def paths(nodes: Nodes, current: object, parent: str, all: bool) -> Iterator[list[JsonObject]]:
    """Yield the path from the root to `current`, or to the newest leaf if `current` is unknown.

    With `all`, yield the paths to all other leaves after it. `parent` is the key under which a node has
    the id of its parent.
    """
    if not any(node.get(parent) or node.get("children") for node in nodes.values()):
        yield [*nodes.values()]  # no tree: the messages in their order
        return
    inner = {node.get(parent) for node in nodes.values() if isinstance(node.get(parent), str)}
    leaves = [id for id in nodes if id not in inner]
    best = current if isinstance(current, str) and current in nodes else (leaves or list(nodes))[-1]
    yield _path(nodes, best, parent)
    if all:
        yield from (_path(nodes, leaf, parent) for leaf in leaves if leaf != best)


def _path(nodes: Nodes, leaf: str, parent: str) -> list[JsonObject]:
    found: list[JsonObject] = []
    seen = set[str]()
    id: object = leaf
    while isinstance(id, str) and id in nodes and id not in seen:
        seen.add(id)
        found.append(nodes[id])
        id = nodes[id].get(parent)
    return found[::-1]
