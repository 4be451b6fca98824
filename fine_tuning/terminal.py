"""What the command line shows: stages, the progress of a training, tables. Part of `cli`: it prints."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from fine_tuning.config import FineTuningConfig
    from fine_tuning.engines.base import Engine
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.forgetting import Case, Forgotten
    from fine_tuning.model_management.model_pruner import Pruned
    from fine_tuning.model_management.model_registry import Registry, Version
    from fine_tuning.pipeline import Outcome, Plan
    from fine_tuning.training.sweep import Found
    from fine_tuning.training.trainer import Progress as Step

_QUIET_INTERVAL = 10.0  # seconds between progress lines where no terminal draws a bar (cron, a log file)


class Terminal:
    """A pipeline.Reporter: a bar in a terminal, a line now and then in a log file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self._end_bar()

    def stage(self, title: str) -> None:
        self._end_bar()
        self.console.print(Text.assemble(("▸ ", "bold cyan"), (title, "bold")))

    def note(self, text: str) -> None:
        self.console.print(Text(f"  {text}"))

    def count(self, done: int, total: int) -> None:
        self._advance(done, total, f"{done}/{total}")

    def progress(self, progress: "Step") -> None:
        part = "" if progress.part == "chats" else f"{progress.part}, "
        text = (
            f"{part}step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {progress.tokens_per_second:.0f} tokens/s  "
            f"{progress.memory / 1e9:.1f} GB  ETA {clock(progress.eta)}"
        )
        if progress.validation_loss is not None:
            self.note(f"epoch {progress.epoch:.0f}: validation loss {progress.validation_loss:.3f}")
        self._advance(progress.step, progress.steps, text)

    def _advance(self, done: int, total: int, text: str) -> None:
        if self.console.is_terminal:
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("  "), BarColumn(30), TextColumn("{task.description}"), console=self.console, transient=True
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


def show_plan(plan: "Plan", config: "FineTuningConfig") -> None:
    train, estimate = plan.counts["train"], plan.estimate
    splits = ", ".join(f"{counts['conversations']} {name}" for name, counts in plan.counts.items())
    held = {"quantised": ", the base as quantised as it is served", "nf4": ", the base in NF4"}.get(estimate.base_weights, "")
    rows = [
        ("base", f"{plan.base.tag} ({plan.base.parameter_size}, {plan.base.quantization})"),
        ("becomes", f"the next version of {plan.name}"),
        ("in the log", f"{plan.turns} turns, {plan.new_turns} of them new since the last version"),
        ("after cleaning", f"{plan.kept_turns} turns" + _reasons(" (dropped: ", plan.dropped)),
        ("private details", _reasons("", plan.scrubbed) or "none found"),
        ("conversations", splits),
        ("to learn", f"{train['tokens']} tokens, {train['trained_tokens']} of them answers, {config.training.num_epochs} times"),
        ("preferences", _preferences(plan)),
        ("to keep", f"{plan.replay_prompts} general prompts, answered by the base itself"),
        ("method", f"{config.training.method}, r={config.training.lora_r}, {estimate.steps} steps of {config.training.batch_size}{held}"),
        ("memory", f"about {estimate.memory / 1e9:.1f} GB ({estimate.available / 1e9:.1f} GB free)" + _lower(plan)),
        ("time", f"{'up to' if config.training.early_stop else 'about'} {clock(estimate.seconds)} for the training"),
    ]
    table = Table(title="What would be learned", title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    console = _console()
    console.print(table)
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def _preferences(plan: "Plan") -> str:
    found = plan.preferences
    if not found.pairs + found.ratings:
        return "none: edits and thumbs on the chat page make them"
    how = f"learned after the chats ({plan.preference_method})" if plan.preference_method else "too few, or switched off: left for later"
    return f"{found.pairs} pairs, {found.ratings} ratings: {how}"


def show_found(found: "Found") -> None:
    console = _console()
    trials = f"{found.finished} trials finished, {found.pruned} pruned, {found.failed} failed"
    console.print(Text(f"\n{trials}. The best: validation loss {found.loss:.4f} with", style="bold"))
    console.print(Text("  " + " ".join(f"--set training.{key}={value:.4g}" for key, value in found.settings.items())))
    console.print(Text(f"The plot is {found.folder / 'trials.png'}. Learn with these settings:"))
    console.print(Text(f"  byoai retrain --config {found.folder / 'best.yaml'}", style="bold green"))


def show_outcome(outcome: "Outcome") -> None:
    console = _console()
    if outcome.version is None or outcome.comparison is None or outcome.training is None:
        show_answers(outcome.answers[:2])
        console.print(Text(outcome.reason))
        return
    _show_scores(console, outcome.tag, outcome.comparison)
    if outcome.verdict:
        _show_verdict(console, outcome.verdict)
    for note in outcome.comparison.tuned.notes:
        console.print(Text(note))
    show_answers([(before.prompt, before.answer, after.answer) for before, after in outcome.comparison.answers()[:2]])
    total = sum(outcome.seconds.values())
    learned = outcome.training
    preferred = f"{learned.preference_steps} on preferences ({learned.agreement:.0%} now as people did), " * bool(learned.preference_steps)
    threads = f" ({learned.products}) on {learned.threads} thread(s)" * bool(learned.threads)
    console.print(
        Text(
            f"\n{learned.steps} steps, {preferred}{learned.tokens} tokens, {learned.dtype}{threads}, "
            f"peak {learned.memory / 1e9:.1f} GB; {clock(total)} in all. Everything is in {outcome.run}"
        )
    )
    console.print(_state(outcome))


def _show_scores(console: Console, tag: str, comparison: "Comparison") -> None:
    scores = comparison.scores()
    table = Table(title=f"\n{tag} against its base, on held-out conversations and general knowledge", title_justify="left")
    headings = ["metric", "base", *(["live"] if comparison.live else []), "fine-tuned", ""]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for score in scores:
        figures = [score.base, *([score.live] if score.live is not None else []), score.tuned]
        verdict = Text(score.verdict, style="green" if score.better else "yellow")
        table.add_row(score.metric.replace("_", " "), *(f"{figure:.2f}" for figure in figures), verdict)
    if scores:
        console.print(table)


def _show_verdict(console: Console, verdict: "Verdict") -> None:
    table = Table(title="\nThe gate", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for result in verdict.results:
        mark = Text(result.state, style={"passed": "green", "warned": "yellow", "failed": "bold red"}[result.state])
        limit = "" if result.passed else f" (limit: {result.limit})"
        table.add_row(mark, result.rule, Text(f"{result.measured}: {result.reason}{limit}" if result.measured else result.reason))
    if verdict.results:
        console.print(table)


def _state(outcome: "Outcome") -> Text:
    refused = outcome.verdict is not None and not outcome.verdict.passed
    if outcome.live:
        more = " by hand, although the gate refused it" if refused else ""
        return Text(
            f"{outcome.tag} is live{more}: the chat answers with it now. In a terminal: ollama run {outcome.tag.partition(':')[0]}",
            style="bold green",
        )
    if refused:
        insist = f"To try it: ollama run {outcome.tag}. To insist: byoai use {outcome.tag} --promote"
        return Text(f"{outcome.tag} was refused and kept as a candidate; who answered before still does. {insist}", style="bold red")
    return Text(
        f"{outcome.tag} is registered, not live (deployment.auto_deploy is off). In a terminal: ollama run {outcome.tag}", style="bold"
    )


def show_answers(answers: Sequence[tuple[str, str, str]]) -> None:
    """Prompt, the base's answer and the fine-tuned model's."""
    console = _console()
    for prompt, base, tuned in answers:
        console.print(Text.assemble(("\n" + prompt, "bold")))
        console.print(Text.assemble(("  base        ", "dim"), _one_line(base)))
        console.print(Text.assemble(("  fine-tuned  ", "cyan"), _one_line(tuned)))


def show_models(engine: "Engine", registry: "Registry", prefix: str) -> None:
    from fine_tuning.model_management.elo import ratings
    from fine_tuning.model_management.model_switcher import choices

    known, rated = {version.tag: version for version in registry.list()}, ratings()
    found = choices(engine, prefix)
    width, console = max((len(choice.tag) for choice in found), default=0), _console()
    if not found:
        console.print(Text(f"no models yet in {engine.name} at {engine.where}: byoai prepare fetches a base model"))
    for choice in found:
        version = known.get(choice.tag)
        state: str = "base" if choice.kind == "base" else "live" if choice.live else version.state if version else ""
        about = [state]
        if version:
            about += ["pinned" if version.pinned else "", version.created[:16].replace("T", " ")]
            about += [f"from {version.base_tag}"] if version.base_tag else []  # unknown where it was only found in the engine
        if choice.tag in rated:
            rating, votes = rated[choice.tag]
            about.append(f"Elo {rating:.0f} after {votes} votes")
        console.print(Text(f"{choice.tag:{width}}  {_joined(about)}", style="bold" if choice.live else ""))
        told = _joined(_of_version(version)) if version else ""
        if told:
            console.print(Text(f"    {told}"))


def _of_version(version: "Version") -> list[str]:
    base, tuned = (version.metrics.get(side, {}).get("perplexity") for side in ("base", "tuned"))
    figures = f"perplexity {tuned:.2f}, the base's {base:.2f}" if base is not None and tuned is not None else ""
    return [figures, _one_line(version.verdict, 90), ", ".join(version.labels), _one_line(version.notes, 90)]


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(filter(None, parts))


def show_pruned(found: "Sequence[Pruned]", dry_run: bool) -> None:
    console = _console()
    for each in found:
        what = each.version.tag if each.version else "an unfinished training"
        parts = [part for part in ("its tag" if each.tag else "", f"its run {each.run.name}" if each.run else "") if part]
        console.print(Text(f"{what}: {' and '.join(parts)}, {size(each.bytes)}"))
    total = size(sum(each.bytes for each in found))
    console.print(Text(f"{len(found)} {'would go' if dry_run else 'removed'}, {total}" if found else "nothing to remove"))


def confirmed(question: str) -> bool:
    return _console().input(Text(f"{question} [y/N] ", style="bold")).strip().casefold() in ("y", "yes")


def show_case(case: "Case", elsewhere: "Sequence[Path]" = ()) -> None:
    """`elsewhere`: files that hold it where no turn does."""
    console = _console()
    console.print(Text(f"{len(case.turns)} turn(s) to forget:", style="bold"))
    for id in case.turns[:20]:
        console.print(Text(f"  {id}  {_one_line(case.said.get(id, '(no longer in the log)'), 80)}"))
    if len(case.turns) > 20:
        console.print(Text(f"  and {len(case.turns) - 20} more"))
    for path in elsewhere:
        console.print(Text(f"  in {path}, to be blacked out"))
    learned = ", ".join(f"{version.tag} ({version.state})" for version in case.versions)
    console.print(Text(f"learned by: {learned or 'no version'}"))


def show_forgotten(outcome: "Forgotten") -> None:
    console = _console()
    if outcome.version:
        console.print(Text(f"{outcome.version} was made without it, and is live", style="bold green"))
    if outcome.unfinished:
        still = ", ".join(version.tag for version in outcome.case.versions)
        console.print(Text(f"{outcome.unfinished}. What learned it is still there: {still}. byoai forget --now removes it at once"))
    for path in outcome.left:
        console.print(Text(f"still holds it: {path}", style="yellow"))
    for tag in outcome.strangers:
        said = (
            f"{tag} may have learned it, and byoai does not know who made it: if it is yours, remove it from the engine (ollama rm {tag})"
        )
        console.print(Text(said, style="yellow"))
    if not outcome.left and not outcome.strangers:
        console.print(Text("the data folder was searched: nothing of it is left" if outcome.case.texts else "nothing of it is left"))


def size(bytes: int) -> str:
    """Bytes as people read them: 812 bytes, 45.2 MB, 1.3 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes >= factor:
            return f"{bytes / factor:.1f} {unit}"
    return f"{bytes} bytes"


def clock(seconds: float) -> str:
    """Seconds as people read them: 45 s, 3 min 5 s, 2 h 10 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _lower(plan: "Plan") -> str:
    if plan.estimate.fits:
        return ""
    changes = plan.fitting and " ".join(f"{key}={value}" for key, value in plan.fitting.items())
    return f": too much; {f'with {changes} it fits (--auto)' if changes else 'choose a smaller training.base_model'}"


def _reasons(before: str, counts: dict[str, int]) -> str:
    text = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return f"{before}{text}{')' if before else ''}" if text else ""


def _one_line(text: str, limit: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, file=sys.stdout)
