"""The settings that the page shows, in plain words. Bounds and defaults are the configuration's."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    key: str  # dotted, as in the configuration
    label: str
    help: str


GROUPS: dict[str, tuple[Field, ...]] = {
    "Privacy": (
        Field(
            "data_collection.record",
            "Record new chats",
            "What a new chat begins with; its own switch turns recording off and on.",
        ),
        Field(
            "data_preparation.scrub_pii",
            "Replace private details",
            "E-mail addresses, phone numbers, links, keys, card and account numbers become placeholders before "
            "anything is learned.",
        ),
        Field(
            "data_collection.scrub_names",
            "Replace names and postal addresses",
            "They become [NAME] and [ADDRESS]. It needs the extra byoai[presidio], and finds more with a spaCy model.",
        ),
        Field(
            "data_preparation.own_words",
            "Your own private words, one on each line",
            "Names, projects, places: whole words, in any case, become [PRIVATE] before anything is learned. "
            "It takes effect with the next training, and only while private details are replaced.",
        ),
    ),
    "Schedule": (
        Field(
            "schedule.enabled",
            "Train by itself",
            "The server of this page begins a training when all that stands below is so.",
        ),
        Field("schedule.new_turns", "New turns needed", "Questions with their answers that no version has learned."),
        Field("schedule.hours", "Hours, from and to", "By this machine's clock: 1 and 6, or 22 and 6 over midnight."),
        Field("schedule.on_mains", "Only on mains power", "Not while a battery feeds the machine."),
    ),
    "Gate": (
        Field("gate.enabled", "Test new versions", "Without it, every new version answers at once, however it is."),
        Field("gate.better", "Must be better on your chats", "On chats that were kept aside, beyond chance."),
        Field(
            "gate.forgetting",
            "May forget, as a share",
            "How much less likely general texts may become than for the base: 0.05 is 5 %.",
        ),
        Field(
            "gate.questions",
            "General questions kept",
            "Of those that the base answers right, the share still answered right.",
        ),
        Field(
            "gate.facts",
            "Facts of a document answered right",
            "Of questions about imported documents that were kept aside: 0.8 is 80 %. 0 lets every version through.",
        ),
        Field("gate.slower", "May be slower than the live one", "As a share of its tokens a second."),
        Field("gate.slower_than_base", "May be slower than the base", "As a share, where no version is live yet."),
        Field(
            "gate.broken",
            "More broken answers",
            "Empty, endless or repeated ones, more than the base gives, as a share of all.",
        ),
        Field(
            "deployment.auto_deploy", "Let a version that passed answer at once", "Else it waits until you press Use."
        ),
    ),
}

SHORTCUTS = {"Enter": "send the question", "Shift + Enter": "a new line in the question", "Esc": "stop the answer"}
CRON = "0 2 * * * cd {folder} && ./scripts/retrain.sh --if-new {new_turns}"


def as_typed(value: Any) -> Any:
    """Return a value as its field holds it: texts of a list stand one on each line."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else value


def as_value(typed: Any, default: Any) -> Any:
    """Return what the configuration takes of what a field holds."""
    if not isinstance(default, list | tuple):
        return typed
    return [line.strip() for line in str(typed).splitlines() if line.strip()]
