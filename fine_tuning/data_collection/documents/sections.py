"""Divide a document into sections: the blocks under one heading, with the headings above it."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fine_tuning.data_collection.documents.blocks import Block, Heading, Items, Paragraph, Table
from fine_tuning.data_collection.documents.word_sets import words

_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)]?\s+(?=["'“„«(]?[A-ZÄÖÜÀ-ÝА-Я0-9£$€])""")
_ABBREVIATED = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|approx|no|nos|dr|mr|mrs|ms|st|vs|cf|fig|min|max|incl|excl|tel|ext|bzw|ca|evtl|ggf|inkl|nr|usw|z\.\s?b|d\.\s?h)"
    r"|\b\d{1,2})\.$",
    re.IGNORECASE,
)
_INITIAL = re.compile(r"(?:^|\s|\.)[A-Z]\.$")  # "J. Smith"
_LETTERED = re.compile(  # but "in hall B." ends a sentence
    r"\b(?:annex|appendix|block|building|class|counter|desk|floor|gate|grade|group|hall|level|line|list|option|part|plan|ramp|room"
    r"|section|shift|team|type|wing|zone) [A-Z]\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Section:
    """The blocks between a heading and the next one.

    `path` holds the headings above the blocks, from the title of the document on.
    """

    path: tuple[str, ...]
    blocks: list[Items | Paragraph | Table] = field(default_factory=list)

    @property
    def heading(self) -> str:
        return self.path[-1] if self.path else ""

    @property
    def place(self) -> str:
        """Where the section is in its document: the headings above it and its own, as one text."""
        return " > ".join(self.path)

    def text(self) -> str:
        """Return all the text in the section."""
        return "\n".join(text for block in self.blocks for text in texts_of(block))


def sections_of(blocks: Iterable[Block]) -> list[Section]:
    """Return the sections of a document that are not empty, in order."""
    found = [Section(())]
    open_: list[Heading] = []
    for block in blocks:
        if isinstance(block, Heading):
            open_ = [*(heading for heading in open_ if heading.level < block.level), block]
            found.append(Section(tuple(heading.text for heading in open_)))
        else:
            found[-1].blocks.append(block)
    return [section for section in found if section.blocks]


def texts_of(block: Items | Paragraph | Table) -> Sequence[str]:
    """Return the lines of a block."""
    match block:
        case Paragraph(text):
            return [text]
        case Items(items):
            return items
    return [" | ".join(row) for row in block.rows]


def sentences_of(text: str) -> list[str]:
    """Return a text's sentences."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text):
        if found and _goes_on(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return [sentence for sentence in map(str.strip, found) if sentence]


def _goes_on(sentence: str) -> bool:
    """Return whether a text that ends with a period is not a complete sentence.

    Return True if it ends with an abbreviation, an initial, or an ordinal number.
    """
    if _INITIAL.search(sentence):
        return _LETTERED.search(sentence) is None
    # "1."; but "... extension 44." ends a sentence
    counts = len(sentence.split()) <= 2 or re.search(r"\d\.$", sentence) is None
    return _ABBREVIATED.search(sentence) is not None and counts


_WORDS = {
    "en": words(
        "the of and to in is are be for with on by at from you your we our this that or not may must if when every each"
    ),
    "de": words(
        "der die das und ist sind ein eine nicht mit auf für von zu im den dem des wird werden wenn oder bei sich muss"
    ),
}


def language_of(text: str) -> str:
    """Return "en" or "de" if a text is certainly in that language; else ""."""
    counts = Counter(re.findall(r"[^\W\d_]+", text[:200_000].casefold()))
    total = sum(counts.values())
    shares = {language: sum(counts[word] for word in known) / max(total, 1) for language, known in _WORDS.items()}
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= 0.12 and total >= 3 else ""
