"""Build prefix trees of token rows: tokens that rows share at their beginning occur in the tree once.

Rows are sorted by their tokens first. So the prefix that the first and the last row of a group
share is the prefix that all its rows share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise


def shared_head(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens that two rows share at their beginning."""
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def tree_branches(ordered: Sequence[Sequence[int]]) -> list[int]:
    """Return for each of the sorted rows the number of tokens that it adds to their prefix tree."""
    return [len(row) - shared_head(before, row) for before, row in pairwise([(), *ordered])]


def divide(ordered: Sequence[Sequence[int]], limit: int) -> list[slice]:
    """Return slices of the sorted rows whose prefix trees have at most `limit` tokens each.

    A row that is longer than `limit` gets a slice of its own.
    """
    parts: list[slice] = []
    size = 0
    for index, own in enumerate(tree_branches(ordered)):
        if parts and size + own <= limit:
            parts[-1], size = slice(parts[-1].start, index + 1), size + own
        else:
            parts.append(slice(index, index + 1))
            size = len(ordered[index])
    return parts


@dataclass
class PrefixTree:
    """A prefix tree laid out depth first in one packed row of T tokens. `lay_out` builds it.

    A node of the tree is a run of tokens between two branchings.
    """

    rows: Sequence[list[int]]
    tokens: list[int] = field(default_factory=list)  # [T]
    positions: list[int] = field(default_factory=list)  # [T]: the depth of each token
    nodes: list[int] = field(default_factory=list)  # [T]: the node that each token belongs to
    parents: list[int] = field(default_factory=list)  # of each node; -1 for a root. Parents come before children
    # paths[r][i]: index in the packed row of token i of row r
    paths: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def lay_out(cls, rows: Sequence[list[int]]) -> "PrefixTree":
        """Return the prefix tree of `rows`, which need not be sorted."""
        tree = cls(rows)
        tree._grow(tree.order, 0, -1, [])
        return tree

    @property
    def order(self) -> list[int]:
        """The indices of the rows, sorted by their tokens."""
        return sorted(range(len(self.rows)), key=lambda index: self.rows[index])

    def _grow(self, members: list[int], depth: int, parent: int, path: list[int]) -> None:
        """Lay out the sorted rows `members`, which share their first `depth` tokens, below the node `parent`."""
        first, last = self.rows[members[0]], self.rows[members[-1]]
        end = depth
        while end < len(first) and end < len(last) and first[end] == last[end]:
            end += 1
        node = len(self.parents)
        self.parents.append(parent)
        here = path + list(range(len(self.tokens), len(self.tokens) + end - depth))
        self.tokens += first[depth:end]
        self.positions += range(depth, end)
        self.nodes += [node] * (end - depth)
        self.paths.update({member: here for member in members if len(self.rows[member]) == end})
        longer = [member for member in members if len(self.rows[member]) > end]
        for _, branch in groupby(longer, key=lambda member: self.rows[member][end]):
            self._grow(list(branch), end, node, here)
