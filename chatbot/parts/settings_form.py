"""Which settings the page shows, by group. Their words are those of all pages (setting_words.py), bounds
and defaults the configuration's.
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
