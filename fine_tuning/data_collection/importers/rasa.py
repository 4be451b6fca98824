"""Read a Rasa project: wordings of intents (nlu.yml), what answers them (rules and stories), and the answers (domain).

The files may lie in any folders of the project. A wording is asked, and the answers of the actions
that follow its intent in the first rule or story are the answer. Stories are not read as dialogues,
since they name intents and not what was said.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said, text_of
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.errors import DataError
from fine_tuning.json_values import JsonObject

_ENTITY = re.compile(r"\[([^\]\n]+)\](?:\([^)\n]*\)|\{[^}\n]*\})")  # "the [lake](place)"
_PATHS = ("rules", "stories")
_BOTH = "import the folder of the whole project, with nlu.yml, the stories or rules, and the domain"


@dataclass
class _Project:
    wordings: dict[str, list[str]] = field(default_factory=dict)  # by intent
    actions: dict[str, list[str]] = field(default_factory=dict)  # by intent
    answers: dict[str, list[str]] = field(default_factory=dict)  # by action

    def add(self, file: JsonObject) -> None:
        """Add the content of a file."""
        for intent, texts in _wordings(file):
            self.wordings.setdefault(intent, []).extend(texts)
        for path in (each for key in _PATHS for each in _objects(file.get(key))):
            for intent, actions in _steps(_objects(path.get("steps"))):
                self.actions.setdefault(intent, actions)
        responses = file.get("responses")
        for action, variants in responses.items() if isinstance(responses, dict) else ():
            texts = [text_of(each.get("text"), "a text") for each in _objects(variants)]
            self.answers.setdefault(action, []).extend(text for text in texts if text.strip())

    def chats(self) -> Iterator[Chat]:
        """Yield a chat for each wording; variants of an answer are taken in turns."""
        for intent, wordings in self.wordings.items():
            family, _, topic = intent.partition("/")  # "faq/opening": one action answers all intents of "faq"
            actions = self.actions.get(intent) or self.actions.get(family) or [f"utter_{intent}"]
            told = [found for action in actions if (found := self._variants(action, topic))]
            for number, wording in enumerate(wordings):
                answer = "\n\n".join(variants[number % len(variants)] for variants in told)
                yield Chat([Said("user", wording), *([Said("assistant", answer)] if answer else [])])

    def _variants(self, action: str, topic: str) -> list[str]:
        return self.answers.get(f"{action}/{topic}" if topic else action) or self.answers.get(action) or []


def _wordings(file: JsonObject) -> Iterator[tuple[str, list[str]]]:
    """Yield intents with their wordings, in the form of Rasa 2 and 3, and in the JSON of Rasa 1."""
    for each in _objects(file.get("nlu")):
        examples = each.get("examples")
        if isinstance(examples, list):
            lines = [text_of(one.get("text"), "a text") for one in _objects(examples)]
        else:
            lines = re.findall(r"^\s*- (.*)", text_of(examples, "examples"), re.MULTILINE)
        if isinstance(intent := each.get("intent"), str):
            yield intent, [_ENTITY.sub(r"\1", line).strip() for line in lines if line.strip()]
    former: Any = file.get("rasa_nlu_data")
    for each in _objects(former.get("common_examples")) if isinstance(former, dict) else ():
        yield text_of(each.get("intent"), "an intent"), [text_of(each.get("text"), "a text")]


def _steps(steps: Iterable[JsonObject]) -> Iterator[tuple[str, list[str]]]:
    """Yield the intents in a rule or a story, each with the actions that follow it."""
    intents, actions = list[str](), list[str]()
    for step in steps:
        found = [one.get("intent") for one in (step, *_objects(step.get("or")))]
        if asked := [intent for intent in found if isinstance(intent, str)]:
            yield from ((intent, actions) for intent in intents)
            intents, actions = asked, []
        elif isinstance(action := step.get("action"), str):
            actions.append(action)
    yield from ((intent, actions) for intent in intents)


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _fits(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    is_half = any("intent" in each for each in _objects(record.get("nlu"))) or "rasa_nlu_data" in record
    is_path = any("steps" in each for key in _PATHS for each in _objects(record.get(key)))
    responses = record.get("responses")
    has_answers = isinstance(responses, dict) and any(str(key).startswith("utter_") for key in responses)
    return is_half or is_path or has_answers


def _read(source: Source) -> Iterator[Chat | Fault]:
    project = _Project()
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            project.add(record.value)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a file of a Rasa project", record.value)
    if not project.answers:
        raise DataError(f"{source.name} holds the wordings of a chatbot's intents without the answers: {_BOTH}")
    if not project.wordings:
        raise DataError(f"{source.name} holds the answers of a chatbot without the questions: {_BOTH}")
    yield from project.chats()


RASA = Importer("a Rasa project", _fits, _read, frozenset({"object"}), joins="all")
