"""Define which settings the page Settings shows, by group.

Their labels and help come from setting_words.py, like those of all pages; bounds and defaults come
from the configuration.
"""

from typing import Any

GROUPS: dict[str, tuple[str, ...]] = {
    "Chat": ("chat.titles",),
    "Privacy": (
        "data_collection.record",
        "data_preparation.scrub_pii",
        "data_collection.scrub_names",
        "data_preparation.own_words",
    ),
    "Schedule": ("schedule.enabled", "schedule.new_turns", "schedule.hours", "schedule.on_mains"),
    "What a new version must pass (gate)": (
        "gate.enabled",
        "gate.better",
        "gate.forgetting",
        "gate.questions",
        "gate.facts",
        "evaluation.facts",
        "gate.slower",
        "gate.slower_than_base",
        "gate.broken",
        "deployment.auto_deploy",
    ),
    "Look": ("chat.theme",),
}

SHORTCUTS = {"Enter": "send the question", "Shift + Enter": "a new line in the question", "Esc": "stop the answer"}
CRON = "0 2 * * * cd {folder} && ./scripts/retrain.sh --if-new {new_turns}"


def as_typed(value: Any) -> Any:
    """Return a value as its field shows it: a list becomes one line per item."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else value


def as_value(typed: Any, default: Any) -> Any:
    """Return the content of a field as a value for the configuration; `default` shows the type."""
    if not isinstance(default, list | tuple):
        return typed
    return [line.strip() for line in str(typed).splitlines() if line.strip()]
