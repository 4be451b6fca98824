"""What the command line asks people: which of two answers is better, and what they think of an answer. Part of `cli`: it prints."""

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.model_management import elo
from fine_tuning.model_management.compare import side_by_side

if TYPE_CHECKING:
    from fine_tuning.engines.base import ChatOptions, Engine
    from fine_tuning.review import Candidate

_SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5, "t": 0.5}


def compare(engine: "Engine", tags: Sequence[str], prompts: Iterable[str], options: "ChatOptions") -> None:
    """Show every model's answers as they come."""
    for prompt in prompts:
        _say(prompt)
        _stream(engine, tags, prompt, options, {tag: tag for tag in tags})


def compare_blind(engine: "Engine", tags: Sequence[str], prompts: Iterable[str], options: "ChatOptions", chance: random.Random) -> None:
    """For each prompt, two of the models answer unnamed and in random order; a vote is taken, and only then they are named."""
    for prompt in prompts:
        one, other = chance.sample(list(tags), 2)
        _say(prompt)
        _stream(engine, [one, other], prompt, options, {one: "A", other: "B"})
        answer = _ask("Which is better? [a/b/tie/q] ", (*_SCORES, "q"))
        if answer == "q":
            return
        elo.vote(one, other, _SCORES[answer])
        rated = elo.ratings()
        console = _console()
        console.print(Text(", ".join(f"{name} was {tag} (Elo {rated[tag][0]:.0f})" for name, tag in (("A", one), ("B", other)))))


def review(log: ConversationLogger, candidates: Sequence["Candidate"]) -> int:
    """Show one after the other, and log what a person says of it. How many were judged."""
    console, judged = _console(), 0
    for number, candidate in enumerate(candidates, 1):
        _say(f"{number}/{len(candidates)}  {candidate.turn.user_message}")
        console.print(Text(candidate.turn.bot_response))
        alike = f", {len(candidate.alike)} more like it" if candidate.alike else ""
        console.print(Text(f"surprise {candidate.surprise:.2f}, shift {candidate.shift:.2f} nats a token{alike}", style="dim"))
        match _ask("[u]p, [d]own, [e]dit, [s]kip, [q]uit: ", ("u", "d", "e", "s", "q")):
            case "u":
                log.rate(candidate.turn.id, "up")
            case "d":
                log.rate(candidate.turn.id, "down")
            case "e":
                if not (better := _line("The answer as it should have been: ")):
                    continue
                log.edit(candidate.turn.id, better)
            case "s":
                continue
            case _:
                return judged
        judged += 1
    return judged


def _stream(engine: "Engine", tags: Sequence[str], prompt: str, options: "ChatOptions", names: dict[str, str]) -> None:
    console, last = _console(), ""
    for tag, chunk in side_by_side(engine, tags, [Message(role="user", content=prompt)], options):
        if tag != last:
            console.print(Text(f"{chr(10) if last else ''}── {names[tag]}", style="cyan"))
            last = tag
        console.print(Text(chunk.text), end="")
    console.print()


def _say(text: str) -> None:
    _console().print(Text(f"\n{text}", style="bold"))


def _ask(question: str, answers: Sequence[str]) -> str:
    """One of `answers`; "q" when there is nobody to answer any more."""
    while True:
        try:
            given = _console().input(Text(question, style="bold")).strip().casefold()
        except EOFError:
            return "q"
        if given in answers:
            return given


def _line(question: str) -> str:
    try:
        return _console().input(Text(question, style="bold")).strip()
    except EOFError:
        return ""


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)
