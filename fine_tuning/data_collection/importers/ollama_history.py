"""Recognise the history of `ollama run`, which holds questions without their answers and is not imported.

~/.ollama/history has the last 100 lines that were typed at Ollama's prompt, without answers, times,
models or ends of conversations (ollama, readline/history.go). Commands such as "/bye" are among them.
"""

from collections.abc import Sequence

_COMMANDS = ("/bye", "/exit", "/?", "/help", "/set", "/show", "/load", "/save", "/clear")

NO_ANSWERS = (
    "is the history of `ollama run`: it holds what was typed, and no answers, so that there is nothing to learn. "
    "Ollama keeps no answers: ask in the chat of byoai, which records both"
)


def is_history(lines: Sequence[str], name: str) -> bool:
    """Return whether a text in no other format is Ollama's history, by its file's name or by a command in it."""
    return name == "history" or any(line.split(" ")[0].rstrip() in _COMMANDS for line in lines)
