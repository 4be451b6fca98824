"""Ask the user in the terminal: for confirmation, for votes in a blind comparison, and to review answers."""

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from fine_tuning.cli.show import console, visible
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.model_management import elo
from fine_tuning.model_management.compare import side_by_side

if TYPE_CHECKING:
    from fine_tuning.engines.base import ChatOptions, Engine
    from fine_tuning.review import Candidate

_SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5, "t": 0.5}  # score of the first model, by vote


def confirmed(question: str) -> bool:
    """Ask a question; return whether the user answers yes. Any other answer, or the end of the input, counts as no."""
    return _line(f"{question} [y/N] ").casefold() in ("y", "yes")


def compare(engine: "Engine", tags: Sequence[str], prompts: Iterable[str], options: "ChatOptions") -> None:
    """Print every model's answer to each prompt while it is generated."""
    for prompt in prompts:
        _headline(prompt)
        _stream(engine, prompt, {tag: tag for tag in tags}, options)


def compare_blind(
    engine: "Engine", tags: Sequence[str], prompts: Iterable[str], options: "ChatOptions", chance: random.Random
) -> None:
    """Show two models' answers to each prompt without their names, ask which is better, and store the vote.

    The two models and their order are drawn with `chance`. After the vote their names and Elo
    ratings are shown. The comparison ends when the user answers q.
    """
    for prompt in prompts:
        one, other = chance.sample(list(tags), 2)
        _headline(prompt)
        _stream(engine, prompt, {one: "A", other: "B"}, options)
        answer = _ask("Which is better? [a/b/tie/q] ", (*_SCORES, "q"))
        if answer == "q":
            return
        elo.vote(one, other, _SCORES[answer])
        rated = elo.ratings()
        console().print(
            Text(", ".join(f"{name} was {tag} (Elo {rated[tag][0]:.0f})" for name, tag in (("A", one), ("B", other))))
        )


def review(log: ConversationLogger, candidates: Sequence["Candidate"]) -> int:
    """Show the answers one at a time, and log the user's rating or edit of each.

    Return the number of answers that were rated or edited. The review ends when the user answers q.
    """
    judged = 0
    for number, candidate in enumerate(candidates, 1):
        _show_candidate(candidate, f"{number}/{len(candidates)}")
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


def _show_candidate(candidate: "Candidate", place: str) -> None:
    _headline(f"{place}  {visible(candidate.turn.user_message)}")
    out = console()
    out.print(Text(visible(candidate.turn.bot_response)))
    alike = f", {len(candidate.alike)} more like it" if candidate.alike else ""
    figures = (
        f"the model's surprise at this answer: {candidate.surprise:.2f}, changed by {candidate.shift:+.2f} since the "
        f"base (nats per token){alike}"
    )
    out.print(Text(figures, style="dim"))


def _stream(engine: "Engine", prompt: str, names: dict[str, str], options: "ChatOptions") -> None:
    """Print the answers to `prompt` while they are generated. `names`: the displayed name of each model, by tag."""
    out, last = console(), ""
    for tag, chunk in side_by_side(engine, list(names), [Message(role="user", content=prompt)], options):
        if tag != last:
            out.print(Text(f"{chr(10) if last else ''}── {names[tag]}", style="cyan"))
            last = tag
        out.print(Text(visible(chunk.text)), end="")
    out.print()


def _headline(text: str) -> None:
    console().print(Text(f"\n{text}", style="bold"))


def _ask(question: str, answers: Sequence[str]) -> str:
    """Ask until one of `answers` is given; return "q" at the end of the input."""
    while True:
        try:
            given = _read(question).casefold()
        except EOFError:
            return "q"
        if given in answers:
            return given


def _line(question: str) -> str:
    """Return a line typed by the user; "" at the end of the input."""
    try:
        return _read(question)
    except EOFError:
        return ""


def _read(question: str) -> str:
    return console().input(Text(question, style="bold")).strip()
