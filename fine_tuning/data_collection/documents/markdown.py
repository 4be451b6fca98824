"""Read Markdown with markdown-it."""

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from fine_tuning.data_collection.documents.blocks import Block, Heading, Items, Paragraph, Table


def read(text: str) -> list[Block]:
    """Return the blocks of a Markdown text, without code and embedded HTML."""
    tokens = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table").parse(_without_front_matter(text))
    return list(_Reader(tokens).blocks())


def _without_front_matter(text: str) -> str:
    head, mark, rest = text.partition("\n---\n")
    return rest if mark and head.startswith("---\n") and len(head) < 5_000 else text


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens

    def blocks(self) -> list[Block]:
        found: list[Block] = []
        items: list[str] = []
        rows: list[list[str]] = []
        depth, level = 0, 0  # nesting of lists; level of the open heading
        for token in self._tokens:
            match token.type:
                case "bullet_list_open" | "ordered_list_open":
                    depth += 1
                case "bullet_list_close" | "ordered_list_close":
                    depth -= 1
                    if not depth:
                        found.append(Items(tuple(items)))
                        items = []
                case "list_item_open":
                    items.append("")
                case "table_close":
                    found.append(Table(tuple(map(tuple, rows))))
                    rows = []
                case "tr_open":
                    rows.append([])
                case "heading_open":
                    level = int(token.tag[1])
                case "inline":
                    text = _text(token)
                    if depth and items:
                        items[-1] = f"{items[-1]} {text}".strip()
                    elif rows:
                        rows[-1].append(text)
                    else:
                        found.append(Heading(text, level) if level else Paragraph(text))
                    level = 0
        return found


def _text(token: Token) -> str:
    """Return the visible text of the inline content of a block, without markup and link targets."""
    shown = {"text": None, "code_inline": None, "text_special": None, "softbreak": " ", "hardbreak": " "}
    return "".join(shown[child.type] or child.content for child in token.children or () if child.type in shown)
