"""Make questions from English sentences by rules: leave out the part that is asked for, and move the verb forward.

"The canteen opens at 8:30." gives "When does the canteen open?". Nothing is guessed: if the lists
of words do not reveal a sentence's subject and verb, no question is made from it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fine_tuning.data_collection.documents import english_patterns as patterns
from fine_tuning.data_collection.documents.english_patterns import as_written, key_of, short_key
from fine_tuning.data_collection.documents.word_sets import words
from fine_tuning.data_collection.documents.wordings import (
    Asked,
    clause_wordings,
    condition_wordings,
    swapped,
    topic_wordings,
    upper,
)

_NOBODY = {"nobody": "anybody", "no one": "anyone", "nothing": "anything"}
_CASE = re.compile(r"(?P<joint>If|When|Before|After|Once|Whenever) (?P<case>[^,]{5,90}), (?P<then>.+)")
_CASE_BEHIND = re.compile(r"(?P<then>.{8,}?),? if (?P<case>[^,]{5,90})")
_LEAD = re.compile(r"(?P<lead>[A-Z][a-z]+ [^,]{3,50}?)(?:,| (?=(?:you|we|everyone|nobody|only) ))\s*(?P<rest>[a-z].*)")
_COMMAND = re.compile(r"(?:Always|Never|Do not|Don't|Please)\b.+")
_ARTICLES = words(
    "the a an our your my their its every each all no this that these those in on at of for by with if when"
)
_JOINED = re.compile(r":|, (?:and|but|so|or) ")  # marks a second clause, which gets no question
_DENIAL = re.compile(r"\b(?:not|never|no|none|nothing)\b")


@dataclass(frozen=True)
class Clause:
    """A main clause, divided into its subject, its verb, and the rest.

    `kind` is the kind of the verb: "be", "modal" or "lexical". `base` is the infinitive of a lexical
    verb.
    """

    subject: str
    verb: str
    kind: str
    rest: str
    base: str = ""

    def direct(self, asks: str, rest: str) -> str:
        """Return a direct question: the question word `asks`, then the inverted clause, with `rest` after the verb.

        An example is "when does the canteen open".
        """
        if self.kind == "lexical":
            do = "do" if self.verb == self.base or self.subject == "I" else "does"
            return _phrase(asks, do, self.subject, self.base, rest)
        return _phrase(asks, self._form(), self.subject, rest)

    def indirect(self, asks: str, rest: str) -> str:
        """Return the question of `direct` as a subordinate clause, such as "when the canteen opens"."""
        return _phrase(asks, self.subject, self._form(), rest)

    def _form(self) -> str:
        return "am" if self.subject == "I" and self.verb == "are" else self.verb

    def asked(self, asks: str, rest: str, key: str) -> Asked:
        """Return the question in several wordings, made from the direct question and the subordinate clause.

        Args:
            asks: The question words, such as "how many days".
            rest: The words after them.
            key: The part of the answer that a correct answer must contain.
        """
        return Asked("fact", clause_wordings(self.direct(asks, rest), self.indirect(asks, rest)), key)


class English:
    """Makes questions from the sentences of one document.

    The document's whole text is needed to recognise names: words that always begin with a capital
    letter.
    """

    def __init__(self, text: str) -> None:
        small = {upper(word) for word in re.findall(r"\b[a-z][\w'’-]*", text)}
        self._names = frozenset(re.findall(r"(?<=[a-z,;] )[A-Z][\w'’-]*", text)) - small

    def asked(self, sentence: str) -> list[Asked]:
        """Return questions that the sentence answers; none if the rules do not fit it."""
        body = _body(sentence)
        if "?" in sentence or len(body.split()) < 4:
            return []
        if case := _CASE.fullmatch(body) or _CASE_BEHIND.fullmatch(body):
            joint = case.groupdict().get("joint", "if").lower().replace("whenever", "when")
            return [
                Asked("condition", condition_wordings(joint, swapped(self.small(case["case"]))), key_of(case["then"]))
            ]
        if (lead := _LEAD.fullmatch(body)) and body.split()[0].lower() in patterns.LEADS:
            return [_moved(each, swapped(self.small(lead["lead"]))) for each in self._of_clause(upper(lead["rest"]))]
        if command := _COMMAND.fullmatch(body):
            about = re.search(r"\b(?:the|a|an|your|every|any) (?:[a-z-]+ ){0,2}[a-z-]+$", body)
            return [Asked("fact", topic_wordings(swapped(about[0])), key_of(command[0]))] if about else []
        return self._of_clause(body)

    def topic(self, sentence: str) -> str:
        """Return the subject of a sentence if it names something specific; else ""."""
        clause = self.clause(_body(sentence))
        return (
            ""
            if clause is None or len(clause.subject.split()) > 6 or patterns.VAGUE.match(clause.subject)
            else clause.subject
        )

    def small(self, text: str) -> str:
        """Return the beginning of a sentence as it would be in the middle of one.

        The first letter becomes lower case, unless the word is a name.
        """
        first, _, after = text.partition(" ")
        if first.lower() in _ARTICLES:
            return text[:1].lower() + text[1:]
        is_name = after[:1].isupper() or first in self._names or first[1:] != first[1:].lower() or first == "I"
        return text if is_name else text[:1].lower() + text[1:]

    def clause(self, body: str) -> Clause | None:
        """Return the main clause of a sentence; None if its subject and verb cannot be found with certainty."""
        said = body.split(" ")
        for at, word in enumerate(said[:12]):
            found = patterns.verb(word) if at else None
            if found is None or not _is_finite(said, at):
                continue
            before = " ".join(said[:at])
            ends = found[0] == "lexical" and at + 1 == len(said)
            if said[0].lower() in patterns.NO_SUBJECT | patterns.LEADS or "," in before or ends:
                return None
            rest = swapped(" ".join(said[at + 1 :]))
            if word == "cannot":
                word, rest = "can", f"not {rest}"
            return Clause(swapped(self._subject(before)), word, found[0], rest, found[1])
        return None

    def _subject(self, before: str) -> str:
        small = self.small(before)
        for none, some in _NOBODY.items():
            if small.lower().startswith(none):
                return some + small[len(none) :]
        return small

    def _of_clause(self, body: str) -> list[Asked]:
        if counted := patterns.COUNTED_SUBJECT.fullmatch(body):
            asks = f"how many {counted['unit']} {swapped(counted['rest'])}"
            return [Asked("fact", clause_wordings(asks, asks), short_key(counted["tail"]))]
        clause = self.clause(body)
        if clause is None or clause.subject.startswith("no "):
            return []
        if clause.subject.startswith(("anybody", "anyone", "anything")):
            return list(_whether(clause))
        return list(_measured(clause)) or list(_told(clause)) or list(_whether(clause))


def _is_finite(said: list[str], at: int) -> bool:
    """Return whether the word at index `at`, which may be a finite verb, is the verb of the main clause.

    It is not the main verb if it is used as a noun, or belongs to a relative clause.
    """
    word, before = said[at], said[at - 1].lower().strip(",")
    if before in patterns.RELATIVE or before in patterns.NOT_BEFORE_A_VERB:
        return False
    if word in patterns.BE or word in patterns.MODALS:
        return True
    if at + 1 < len(said) and (said[at + 1] in patterns.BE or said[at + 1] in patterns.MODALS):
        return False
    is_plain = word in patterns.VERBS
    return not is_plain or any(map(patterns.is_plural, [said[at - 1], *said[:2]]))


def _measured(clause: Clause) -> Iterator[Asked]:
    """Yield a question about the amount in a clause, such as "How long does the break last?", if it has an amount."""
    rest, kind = clause.rest, clause.kind
    if kind == "be" and (measure := patterns.MEASURE.match(rest)):
        yield clause.asked(_asks_measure(measure["number"]), "", short_key(measure["number"]))
    elif kind == "lexical" and clause.base in ("last", "cost", "take") and (measure := patterns.MEASURE.match(rest)):
        yield clause.asked("how much" if clause.base == "cost" else "how long", "", short_key(measure["number"]))
    elif _DENIAL.search(rest):
        return
    elif found := patterns.RATE.search(rest):
        yield clause.asked(f"{found['with']} what {found['noun']}", _left(rest, found), key_of(found["tail"]))
    elif found := patterns.SHARE.search(rest):
        yield clause.asked(f"what {found['noun']}", _left(rest, found), key_of(found["tail"]))
    elif kind != "be" and (found := patterns.COUNT.search(rest)):
        yield clause.asked(f"how many {found['unit']}", _left(rest, found), key_of(found["tail"]))
    elif kind != "be" and (found := patterns.AMOUNT.match(rest)):
        yield clause.asked("how much", _left(rest, found), key_of(found["tail"]))


def _asks_measure(number: str) -> str:
    """Return the question word for a number with its unit, such as "how long" for "3 days"."""
    if ":" in number:
        return "when"
    if number[0] in "£$€":
        return "how much"
    return (
        "how long" if re.search(r"\d \w", number) and not re.search("pence|pound|euro|cent|dollar", number) else "what"
    )


def _told(clause: Clause) -> Iterator[Asked]:
    """Yield a question about the first of these that the clause contains: a name, a time, a place, an agent, a
    definition.
    """
    rest = clause.rest
    times = [
        (found.start("tail"), asks, found["tail"])
        for asks, pattern in patterns.TIMES
        if (found := pattern.search(rest))
    ]
    if found := patterns.NAMED_KIND.search(rest):
        yield clause.asked(f"which {found['noun']}", _left(rest, found), short_key(found["name"]))
    elif found := patterns.NAMED.match(rest):
        yield clause.asked("what", found["called"], short_key(found["name"]))
    elif _DENIAL.search(rest):
        return
    elif times:
        start, asks, tail = min(times, key=lambda time: time[0])
        yield clause.asked(asks, rest[:start].strip(" ,"), short_key(tail))
    elif (found := patterns.PLACE.search(rest)) and _has_place(clause, rest[: found.start("tail")].split()):
        yield clause.asked("where", rest[: found.start("tail")].strip(), short_key(found["tail"]))
    elif (found := patterns.WHOM.search(rest)) and rest[: found.start("tail")].strip().endswith(patterns.PARTICIPLE):
        yield clause.asked("by whom", rest[: found.start("tail")].strip(), short_key(found["tail"]))
    elif clause.kind == "be" and re.match(r"(?:an?|the) ", rest):
        yield clause.asked("what", "", short_key(rest))


def _has_place(clause: Clause, head: list[str]) -> bool:
    """Return whether a clause says where something is or is done, so that it can be asked about with "where"."""
    if clause.kind == "be":
        return not head or (len(head) <= 2 and head[-1].endswith(patterns.PARTICIPLE))
    if clause.kind == "modal":
        return head[:1] == ["be"] and 2 <= len(head) <= 3
    return clause.base in patterns.STANDING and not head


def _whether(clause: Clause) -> Iterator[Asked]:
    """Yield a yes-no question about a clause: "May visitors enter the lab?" for "visitors must not enter the lab".

    Words that would give the answer away are left out where possible: "not", "never", "only", and
    the number in the clause.
    """
    rest = clause.rest
    left = re.sub(r"^no ", "a ", re.sub(r"\b(?:not|never|only) ", "", f"{rest} ")).strip()
    cut, key = patterns.without_number(left), key_of(rest)
    is_open = clause.subject.startswith(("anybody", "anyone", "anything"))
    if cut == left or is_open or len(cut.split()) < 2 <= len(left.split()):
        cut, key = left, as_written(" ".join(f"{clause.verb} {rest}".split()[:4]))
    if clause.verb == "must" and _DENIAL.search(rest):  # "must not" becomes "may not"
        clause = replace(clause, verb="may")
    if cut and not _JOINED.search(cut) and len(cut.split()) <= 20:
        yield Asked("fact", clause_wordings(clause.direct("", cut), clause.indirect("whether", cut)), key)


def _moved(asked: Asked, lead: str) -> Asked:
    """Return `asked` with `lead` added at the end of each wording. `lead` was the beginning of the sentence.

    An example for `lead` is "on working days", for a question about "On working days, lunch is free."
    """
    return replace(asked, wordings=tuple(f"{wording[:-1]} {lead}{wording[-1]}" for wording in asked.wordings))


def _left(rest: str, found: re.Match[str]) -> str:
    """Return `rest`, the end of a clause, without the part that the group "tail" of `found` matched.

    If there is a comma after this part, what follows the comma is left out too.
    """
    return _phrase(rest[: found.start("tail")].strip(), rest[found.end("tail") :].partition(",")[0].strip())


def _phrase(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _body(sentence: str) -> str:
    """Return a sentence without its final punctuation, up to the first semicolon."""
    return sentence.rstrip(" .!").split("; ")[0]
