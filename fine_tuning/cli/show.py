"""Print for people: the progress of long work, and results as tables and sentences."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from fine_tuning.events import Count, Event, Finished, Note, Stage, Step
from fine_tuning.units import amount, clock, counted, gigabytes, size

if TYPE_CHECKING:
    from pathlib import Path

    from fine_tuning.conversation import Turn
    from fine_tuning.engines.base import Engine
    from fine_tuning.evaluation.comparison import MetricScores
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.forgetting import Case, Forgotten
    from fine_tuning.integration.learned_from import LearnedFrom
    from fine_tuning.integration.versions import Facts
    from fine_tuning.model_management.model_pruner import Pruned
    from fine_tuning.model_management.model_registry import Registry, Version
    from fine_tuning.model_management.model_switcher import Choice
    from fine_tuning.outcome import Outcome
    from fine_tuning.plan import Plan
    from fine_tuning.survey import Survey
    from fine_tuning.training.lora_trainer import TrainingResult
    from fine_tuning.training.sweep import SweepResult

_QUIET_INTERVAL = 10.0  # seconds between lines of progress if the output is not a terminal


class Terminal:
    """Prints the events of long work. Use it as the `tell` of a Watch, and in a `with` statement.

    In a terminal the progress is a bar; if the output is redirected, it is a line every ten seconds.
    """

    def __init__(self) -> None:
        self.console = console()
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0

    def __call__(self, event: Event) -> None:
        """Print one event; events that say nothing about the progress are ignored."""
        match event:
            case Stage(title):
                self._end_bar()
                self.console.print(Text.assemble(("▸ ", "bold cyan"), (title, "bold")))
            case Note(text):
                self.note(text)
            case Count(done, total, unit):
                self._advance(done, total, amount(done, total, unit))
            case Step():
                self._step(event)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self._end_bar()

    def note(self, text: str) -> None:
        """Print a line of text, indented below the title of its stage."""
        self.console.print(Text(f"  {text}"))

    def _step(self, step: Step) -> None:
        part = "" if step.part == "chats" else f"{step.part}, "
        text = (
            f"{part}step {step.step}/{step.steps}  loss {step.loss:.3f}  {step.tokens_per_second:.0f} tokens/s  "
            f"{gigabytes(step.memory)}  ETA {clock(step.eta)}"
        )
        if step.validation_loss is not None:
            self.note(f"epoch {step.epoch:.0f}: validation loss {step.validation_loss:.3f}")
        self._advance(step.step, step.steps, text)

    def _advance(self, done: int, total: int, text: str) -> None:
        if self.console.is_terminal:
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("  "),
                    BarColumn(30),
                    TextColumn("{task.description}"),
                    console=self.console,
                    transient=True,
                )
                self._bar.start()
                self._task = self._bar.add_task(text, total=total)
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif time.monotonic() - self._last_line > _QUIET_INTERVAL or done == total:
            self._last_line = time.monotonic()
            self.note(text)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_plan(plan: "Plan | Survey") -> None:
    """Show what a retrain would learn, with its warnings, and the memory and time that a Plan estimates."""
    out = console()
    out.print(Text("What would be learned", style="italic"))
    for name, value in plan.facts():
        out.print(Text.assemble((f"  {name:17}", "bold"), value))
    for warning in plan.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"))


def show_found(found: "SweepResult") -> None:
    """Show the best settings that a sweep found, and the command to retrain with them."""
    out = console()
    trials = f"Trials: {found.finished} finished, {found.pruned} pruned, {found.failed} failed"
    out.print(Text(f"\n{trials}. The best: validation loss {found.loss:.4f} with", style="bold"))
    out.print(Text("  " + " ".join(f"--set training.{key}={value:.4g}" for key, value in found.settings.items())))
    out.print(Text(f"The plot is {found.folder / 'trials.png'}. Learn with these settings:"))
    out.print(Text(f"  byoai retrain --config {found.folder / 'best.yaml'}", style="bold green"))


def show_outcome(outcome: "Outcome") -> None:
    """Show the outcome of a retrain: scores, the gate's rules, two answers, and which model is now in use."""
    from fine_tuning.integration.versions import facts_in
    from fine_tuning.outcome import NewVersion, NoVersion

    out = console()
    if not isinstance(outcome, NewVersion):
        if isinstance(outcome, NoVersion):
            show_answers(outcome.answers[:2])
        out.print(Text(outcome.reason))
        return
    show_scores(outcome.tag, outcome.comparison.scores())
    _show_verdict(outcome.verdict)
    for note in outcome.comparison.tuned.notes:
        out.print(Text(note))
    show_answers([(before.prompt, before.answer, after.answer) for before, after in outcome.comparison.answers()[:2]])
    show_facts(facts_in(outcome.comparison.record()))
    effort = f"{_effort(outcome.training)}; " if outcome.training else ""
    out.print(Text(f"\n{effort}{clock(sum(outcome.seconds.values()))} in all. Everything is in {outcome.run.folder}"))
    style = "bold green" if outcome.live else "bold red" if outcome.refused else "bold"
    out.print(Text(f"{outcome.summary()} {outcome.commands()}", style=style))


def show_finished(finished: Finished) -> None:
    """Show how a job that ran in another process ended. `finished` is the job's last event."""
    show_answers(finished.answers)
    style = {"live": "bold green", "refused": "bold red"}.get(finished.state, "bold")
    console().print(Text(f"{finished.text} {finished.commands}".rstrip(), style=style))


def _effort(training: "TrainingResult") -> str:
    preferred = (
        f"{training.preference_steps} on preferences ({training.agreement:.0%} now ranked as people did), "
        * bool(training.preference_steps)
    )
    threads = f" ({training.products}) on {counted(training.threads, 'thread')}" * bool(training.threads)
    return (
        f"{training.steps} steps, {preferred}{training.tokens} tokens, {training.dtype}{threads}, peak "
        f"{training.memory / 1e9:.1f} GB"
    )


def show_quantisations(found: Mapping[str, Any]) -> None:
    """Show the measurements of a version's quantisations as a table.

    `found` is a quantising.Compression as a dictionary.
    """
    table = Table(title=f"\n{found['tag']} in fewer bits", title_justify="left")
    for heading in ("", "size", "reads", "answers", "speed", f"perplexity of {found['texts']} held-out texts", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in found["table"]:
        worse = each["worse"]
        table.add_row(
            each["name"],
            f"{each['size'] / 1e6:.0f} MB",
            f"{each['prompt_speed']:.0f} tokens/s",
            f"{each['speed']:.0f} tokens/s",
            f"x {each['faster']:.2f}",
            f"{each['perplexity']:.3f}",
            f"x {worse['value']:.3f} [{worse['low']:.3f}, {worse['high']:.3f}]",
            style="bold green" if each["name"] == found["recommended"] else "",
        )
    console().print(table)


def show_scores(tag: str, scores: "Sequence[MetricScores]") -> None:
    """Show a version's scores as a table, beside those of its base, and of the version in use if there was one."""
    table = Table(
        title=f"\n{tag} against its base, on held-out conversations and general knowledge", title_justify="left"
    )
    live = any(score.live is not None for score in scores)
    headings = ["metric", "base", *(["live"] if live else []), "fine-tuned", ""]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for score in scores:
        figures = [score.base, *([score.live] if live else []), score.tuned]
        verdict = Text(score.verdict, style="green" if score.better else "yellow")
        table.add_row(
            score.metric.replace("_", " "), *("" if figure is None else f"{figure:.2f}" for figure in figures), verdict
        )
    if scores:
        console().print(table)


def _show_verdict(verdict: "Verdict") -> None:
    table = Table(title="\nThe gate", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for result in verdict.results:
        mark = Text(result.state, style={"passed": "green", "warned": "yellow", "failed": "bold red"}[result.state])
        limit = "" if result.passed else f" (limit: {result.limit})"
        table.add_row(
            mark, result.rule, Text(f"{result.measured}: {result.reason}{limit}" if result.measured else result.reason)
        )
    if verdict.results:
        console().print(table)


def show_answers(answers: Sequence[tuple[str, str, str]]) -> None:
    """Show each prompt with the answers of the base and of the fine-tuned model."""
    out = console()
    for prompt, base, tuned in answers:
        out.print(Text.assemble(("\n" + prompt, "bold")))
        out.print(Text.assemble(("  base        ", "dim"), _one_line(base)))
        out.print(Text.assemble(("  fine-tuned  ", "cyan"), _one_line(tuned)))


def show_facts(found: "Facts | None") -> None:
    """Show answers of the base model and the version to some held-out questions about documents.

    Show nothing if `found` is None.
    """
    if found is None:
        return
    out = console()
    out.print(Text(f"\n{found.sentence}. Some of the questions, whose wording was not trained on:"))
    for each in found.some():
        mark = Text("right", style="green") if each.right else Text("wrong", style="bold red")
        out.print(Text.assemble("\n", mark, "  ", (_one_line(each.prompt), "bold"), f"  [{_one_line(each.key)}]"))
        out.print(Text.assemble(("  base        ", "dim"), _one_line(each.base)))
        out.print(Text.assemble(("  fine-tuned  ", "cyan"), _one_line(each.answer)))


def show_models(engine: "Engine", registry: "Registry", prefix: str) -> None:
    """Show every model that users can choose for a chat, and what the registry says about it.

    `prefix` is the beginning of the names of fine-tuned models.
    """
    from fine_tuning.integration import first_model
    from fine_tuning.model_management.elo import ratings
    from fine_tuning.model_management.model_switcher import choices

    known, rated = {version.tag: version for version in registry.list()}, ratings()
    found, out = choices(engine, prefix), console()
    width = max((len(choice.tag) for choice in found), default=0)
    if not found:
        cure = first_model.with_command(first_model.missing())
        out.print(Text(f"{cure}. The engine: {engine.name} at {engine.where}"))
    for choice in found:
        version = known.get(choice.tag)
        rating, votes = rated.get(choice.tag, (0, 0))
        elo = f"Elo {rating:.0f} after {counted(votes, 'vote')}" if votes else ""
        about = _joined([_state(choice, version), *(_origin(version) if version else []), elo])
        out.print(Text(f"{choice.tag:{width}}  {about}", style="bold" if choice.live else ""))
        if version and (more := _joined(_findings(version))):
            out.print(Text(f"    {more}"))


def _state(choice: "Choice", version: "Version | None") -> str:
    if choice.kind == "base":
        return "base"
    return "live" if choice.live else version.state if version else ""


def _origin(version: "Version") -> list[str]:
    # the base is unknown for a version that was only found in the engine
    made_from = f"from {version.base_tag}" if version.base_tag else ""
    return ["pinned" if version.pinned else "", version.created[:16].replace("T", " "), made_from]


def _findings(version: "Version") -> list[str]:
    base, tuned = (version.metrics.get(side, {}).get("perplexity") for side in ("base", "tuned"))
    figures = f"perplexity {tuned:.2f}, the base's {base:.2f}" if base is not None and tuned is not None else ""
    results = version.metrics.get("gate", {}).get("results", ())
    facts = next((f"document: {each['measured']}" for each in results if each["rule"] == "facts"), "")
    return [figures, facts, _one_line(version.verdict, 90), ", ".join(version.labels), _one_line(version.notes, 90)]


def show_stats(stats: Mapping[str, Any], new: int) -> None:
    """Show statistics of the log (`ConversationLogger.get_conversation_stats`) and the number of new turns."""
    models = ", ".join(f"{model} ({turns})" for model, turns in stats["models"].items())
    rows = {
        "turns": f"{stats['total_turns']:,} in {counted(stats['total_conversations'], 'conversation')}, {new:,} of "
        "them new since the last version",
        "marked": f"{stats['rated_up']} up, {stats['rated_down']} down, {stats['edited']} edited, "
        f"{stats['excluded']} excluded",
        "mean length": f"{stats['average_user_length']:.0f} characters asked, {stats['average_bot_length']:.0f} "
        "answered",
        "time": f"{stats['first']} to {stats['last']}" if stats["first"] else "",
        "answered by": models,
    }
    out = console()
    for name, text in rows.items():
        out.print(Text(f"{name + ':':13}{text or 'nothing yet'}"))


def show_turns(turns: "Sequence[Turn]") -> None:
    """Show turns: id, time, model, rating, whether they are excluded, and the beginnings of question and answer."""
    out = console()
    for turn in turns:
        marks = [
            turn.metadata.get("model", ""),
            turn.metadata.get("rating", ""),
            "excluded" * bool(turn.metadata.get("excluded")),
        ]
        head = Text.assemble((turn.id, "dim"), "  ", turn.timestamp[:16].replace("T", " "), "  ", _joined(marks))
        out.print(head)
        out.print(Text.assemble(("  > ", "bold"), _one_line(turn.user_message, 90)))
        out.print(Text(f"    {_one_line(turn.bot_response, 90)}"))


def show_learned_from(found: "LearnedFrom") -> None:
    """Show the turns from which an answer was probably learned, the most similar first."""
    from fine_tuning.integration.learned_from import told

    out = console()
    out.print(Text.assemble(("> ", "bold"), _one_line(found.turn.user_message, 90)))
    out.print(Text(f"  {_one_line(found.turn.bot_response, 90)}"))
    out.print(
        Text(f"  {found.version.tag} finds each of its tokens {told(found.likelihood)}" if found.likelihood else "")
    )
    for each in found.teachers:
        marks = [
            f"{each.likeness:.0%} alike",
            f"shares {', '.join(each.shared)}" if each.shared else "",
            f"of {each.source}" * bool(each.source),
            "excluded" * each.excluded,
        ]
        marks.append(f"finds its answer {told(each.likelihood)}" if each.likelihood else "")
        out.print(Text.assemble((each.turn.id, "dim"), "  ", _joined(marks)))
        out.print(Text.assemble(("  > ", "bold"), _one_line(each.turn.user_message, 90)))
        out.print(Text(f"    {_one_line(each.turn.bot_response, 90)}"))
    rest = [
        f"{found.gone} no longer in the log" * bool(found.gone),
        f"{found.excluded} excluded since" * bool(found.excluded),
    ]
    alike = "" if found.teachers else "none of the turns that taught it is like this answer; "
    out.print(Text(_joined([f"{alike}{found.version.tag} learned {counted(found.taught, 'turn')}", *rest])))


def show_pruned(found: "Sequence[Pruned]", dry_run: bool) -> None:
    """Show what was removed, or with `dry_run` what would be removed."""
    out = console()
    for each in found:
        what = each.version.tag if each.version else "an unfinished training"
        parts = [
            part for part in ("its tag" if each.tag else "", f"its run {each.run.name}" if each.run else "") if part
        ]
        out.print(Text(f"{what}: {' and '.join(parts)}, {size(each.bytes)}"))
    total = size(sum(each.bytes for each in found))
    out.print(
        Text(f"{len(found)} {'would be removed' if dry_run else 'removed'}, {total}" if found else "nothing to remove")
    )


def show_case(case: "Case", elsewhere: "Sequence[Path]" = ()) -> None:
    """Show what would be forgotten. `elsewhere`: other files that contain the text, if no turn contains it."""
    out = console()
    out.print(Text(f"{counted(len(case.turns), 'turn')} to forget:", style="bold"))
    for id in case.turns[:20]:
        out.print(Text(f"  {id}  {_one_line(case.said.get(id, '(no longer in the log)'), 80)}"))
    if len(case.turns) > 20:
        out.print(Text(f"  and {len(case.turns) - 20} more"))
    for path in elsewhere:
        out.print(Text(f"  in {path}, to be redacted"))
    learned = ", ".join(f"{version.tag} ({version.state})" for version in case.versions)
    out.print(Text(f"learned by: {learned or 'no version'}"))


def show_forgotten(outcome: "Forgotten") -> None:
    """Show the result of forgetting: the new version if there is one, and what still contains the text."""
    out = console()
    if outcome.version:
        out.print(Text(f"{outcome.version} was made without it, and is live", style="bold green"))
    if outcome.unfinished:
        tags = ", ".join(version.tag for version in outcome.case.versions)
        out.print(
            Text(
                f"{outcome.unfinished}. The versions that learned it are still there: {tags}. byoai forget --now "
                "removes them at once"
            )
        )
    for path in outcome.left:
        out.print(Text(f"still contains the text: {path}", style="yellow"))
    for tag in outcome.strangers:
        warning = (
            f"{tag} may have learned the text, and byoai did not make it. If it is yours, remove it "
            f"from the engine: ollama rm {tag}"
        )
        out.print(Text(warning, style="yellow"))
    if not outcome.left and not outcome.strangers:
        out.print(
            Text(
                "the data folder was searched: nothing of it is left" if outcome.case.texts else "nothing of it is left"
            )
        )


# Formatting


def console() -> Console:
    """Return the console that prints to stdout. It does not wrap lines, so that tags and paths can be copied."""
    return Console(soft_wrap=True, highlight=False, file=sys.stdout)


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(filter(None, parts))


def visible(text: str) -> str:
    """Return a text of a model or a person with its control characters escaped, except tabs and line ends.

    In a terminal they could move the cursor, change colours, or reverse the text.
    """
    return text.translate(_CODES)


_CONTROLS = [*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
# all but tab and line feed
_CODES = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS} | {13: ""}


def _one_line(text: str, limit: int = 300) -> str:
    flat = " ".join(visible(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
