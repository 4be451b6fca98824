"""Word a question in several ways, and turn a handbook's "you" into a reader's "I"."""

import re
from dataclasses import dataclass

from fine_tuning.data_collection.documents.word_sets import words

_AFTER_I = words(
    "if when that whom which before after because while as than what and or unless until where how whether once"
)
_BEHIND_ME = words("for with at in on by to from during about until")
_I_BEFORE = words("are were have had may must can could should will would want need forget get lose")


@dataclass(frozen=True)
class Asked:
    """A question in several wordings. `key` is the part of the answer that a correct answer must contain."""

    level: str  # kind of the question: fact, condition, list, table or topic
    wordings: tuple[str, ...]
    key: str


def clause_wordings(direct: str, indirect: str) -> tuple[str, ...]:
    """Return several wordings of one question.

    The question is given in two forms: direct ("when does it open") and as a clause ("when it opens").
    """
    return (
        f"{upper(direct)}?",
        f"Can you tell me {indirect}?",
        f"I would like to know {indirect}.",
        f"Does the handbook say {indirect}?",
        f"Do you know {indirect}?",
        f"Please look up {indirect}.",
    )


def condition_wordings(joint: str, condition: str) -> tuple[str, ...]:
    """Return several wordings of the question what to do under a condition.

    An example is "What should I do if the alarm rings?". `joint` is the conjunction ("if", "when",
    "before", "after" or "once"); `condition` is the clause after it.
    """
    case = f"{joint} {condition}"
    return (
        f"What do I do {case}?",
        f"What should I do {case}?",
        f"{upper(case)}, what now?",
        f"What does the handbook say for the case that {condition}?"
        if joint in ("if", "when")
        else f"What is the rule {case}?",
        f"Tell me what to do {case}.",
        f"What happens {case}?" if joint in ("if", "when") else f"What has to be done {case}?",
    )


def list_wordings(when: str) -> tuple[str, ...]:
    """Return several wordings of the question what to do at a time, such as `when` = "before my last day"."""
    return (
        f"What do I do {when}?",
        f"Tell me what to do {when}.",
        f"What should I do {when}?",
        f"What is the rule {when}?",
        f"What has to be done {when}?",
    )


def topic_wordings(topic: str) -> tuple[str, ...]:
    """Return several wordings of the question what the document says about a topic."""
    return (
        f"What does the handbook say about {topic}?",
        f"Tell me about {topic}.",
        f"What should I know about {topic}?",
        f"I have a question about {topic}.",
        f"What about {topic}?",
        f"Is there a rule about {topic}?",
    )


def cell_wordings(column: str, row: str) -> tuple[str, ...]:
    """Return several wordings of the question what is in a cell of a table, given by its column and row names."""
    are = "are" if re.match(r"\w+[^\Ws]s\b", column) else "is"
    return (
        f"What {are} the {column} for {row}?",
        f"{upper(row)}: what {are} the {column}?",
        f"Please look up the {column} for {row}.",
        f"Tell me the {column} for {row}.",
        f"I need the {column} for {row}.",
        f"Do you know the {column} for {row}?",
    )


def entry_wordings(key: str, heading: str) -> tuple[str, ...]:
    """Return several wordings of the question what the entry `key` says in the list under a heading."""
    place = f" under “{heading}”" if heading else ""
    return (
        f"What does the handbook list for “{key}”{place}?",
        f"{key}?",
        f"Tell me the entry “{key}”{place}.",
        f"What is listed for “{key}”?",
        f"I am looking for the entry “{key}”.",
    )


def swapped(text: str) -> str:
    """Return a text in the first person instead of the second: "you" becomes "I" or "me", "your" becomes "my"."""
    said = text.split(" ")
    found: list[str] = []
    for at, word in enumerate(said):
        bare = word.strip(",;:").casefold()
        if bare in ("you", "yourself", "your", "yours"):
            following = said[at + 1].casefold() if at + 1 < len(said) else ""
            subject = following not in _BEHIND_ME and (
                at == 0 or said[at - 1].casefold().strip(",;") in _AFTER_I or following in _I_BEFORE
            )
            new = {"you": "I" if subject else "me", "yourself": "myself", "your": "my", "yours": "mine"}[bare]
            found.append(re.sub(r"(?i)^you\w*", new, word))
        elif bare in ("are", "were") and found and found[-1] == "I":
            found.append(re.sub(r"(?i)^\w+", "am" if bare == "are" else "was", word))
        else:
            found.append(word)
    return " ".join(found)


def upper(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
