"""Define the blocks of a document, whatever format its file has."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Heading:
    """A heading. `level` is 1 for a title, 2 for a chapter, and so on."""

    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """The items of a list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first row holds the column names."""

    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Items | Table
KINDS: dict[str, type[Block]] = {"heading": Heading, "paragraph": Paragraph, "items": Items, "table": Table}


def to_record(block: Block) -> dict[str, Any]:
    """Return a block as a JSON object."""
    return {"kind": next(name for name, kind in KINDS.items() if isinstance(block, kind)), **asdict(block)}


def from_record(record: dict[str, Any]) -> Block:
    """Return the block from which `to_record` made the JSON object."""
    match record:
        case {"kind": "items", "items": items}:
            return Items(tuple(items))
        case {"kind": "table", "rows": rows}:
            return Table(tuple(map(tuple, rows)))
        case {"kind": "heading", "text": text, "level": level}:
            return Heading(text, level)
    return Paragraph(record["text"])


def one_line(text: str) -> str:
    """Return a text in one line, without control characters, soft hyphens and repeated spaces."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text.replace("\xad", "")).split())


def tidy(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that are not empty, with each of their texts in one line."""
    found: list[Block] = []
    for block in blocks:
        match block:
            case Heading(text, level) if line := one_line(text):
                found.append(Heading(line, level))
            case Paragraph(text) if line := one_line(text):
                found.append(Paragraph(line))
            case Items(items) if lines := tuple(filter(None, map(one_line, items))):
                found.append(Items(lines))
            case Table(rows) if kept := tuple(cells for row in rows if any(cells := tuple(map(one_line, row)))):
                found.append(Table(kept))
    return found
