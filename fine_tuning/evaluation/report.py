"""Write a run's report.html: how a new version (the candidate) compares with the base and the model in use.

The report shows the results of the gate's rules, metrics, plots, findings of the probes, and
answers. This module selects the content; templates/report.html.jinja defines the layout.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fine_tuning import paths
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Evaluation
from fine_tuning.evaluation.gate import Verdict
from fine_tuning.evaluation.leak_probe import LeakReport, redact
from fine_tuning.evaluation.metrics import Interval
from fine_tuning.evaluation.poison_probe import PoisonReport, Turned
from fine_tuning.units import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"base": "#8a8f98", "live": "#3b7dd8", "candidate": "#e4572e"}
_ANSWERS = 12  # prompts whose answers are shown side by side
_CHATS = 40  # held-out conversations that are plotted


@dataclass(frozen=True)
class Column:
    heading: str
    kind: Literal["text", "number", "said"] = "text"
    """How the cells are laid out: numbers are right-aligned; in "said" cells (messages) long words are broken."""


@dataclass(frozen=True)
class State:
    """A table cell with `text`, in the colour of `state`: "passed", "warned" or "failed"."""

    state: str
    text: str


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[list[str | State]]
    stacked: bool = False  # show each row as a card on a narrow screen, for tables with much text or many columns


@dataclass(frozen=True)
class Probe:
    """A summary of one probe, and a table of its findings."""

    text: str
    table: Table = field(default_factory=lambda: Table([], []))


@dataclass(frozen=True)
class Plot:
    caption: str
    svg: Markup


def write_report(file: Path, title: str, evidence: Comparison, verdict: Verdict, canaries: Sequence[str] = ()) -> None:
    """Write the report to `file` atomically.

    Private details and `canaries` (texts that must never be shown) are replaced by placeholders.
    """
    page = _environment(tuple(canaries)).get_template("report.html.jinja")
    html = page.render(
        title=title,
        verdict=verdict,
        rules=_rules(verdict),
        figures=_figures(evidence),
        parts=_parts(evidence),
        plots=_plots(evidence),
        speeds=_speeds(evidence),
        probes=[_leak_probe(evidence.leaks), _poison_probe(evidence.poison)],
        facts=_facts(evidence),
        answers=_answers(evidence),
        notes=evidence.tuned.notes,
    )
    paths.atomic_write(file, html + "\n")


@cache
def _environment(canaries: tuple[str, ...]) -> Environment:
    """Return the Jinja environment of the report.

    It redacts private details and `canaries` in every inserted string and escapes HTML, except in
    `Markup`, which only this module makes.
    """

    def shown(value: object) -> object:
        return redact(value, canaries) if isinstance(value, str) and not isinstance(value, Markup) else value

    folder = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=folder, autoescape=True, finalize=shown, undefined=StrictUndefined)


# Tables


def _rules(verdict: Verdict) -> Table:
    columns = [Column("rule"), Column("limit"), Column("measured"), Column("result"), Column("why")]
    rows: list[list[str | State]] = [
        [result.rule, result.limit, result.measured, State(result.state, result.state), result.reason]
        for result in verdict.results
    ]
    return Table(columns, rows, stacked=True)


def _figures(evidence: Comparison) -> Table:
    columns = [Column("metric"), *(Column(name, "number") for name in _sides(evidence))]
    rows: list[list[str | State]] = []
    for score in evidence.scores():
        live = [] if evidence.live is None else ["" if score.live is None else f"{score.live:.2f}"]
        rows.append([score.metric.replace("_", " "), f"{score.base:.2f}", *live, f"{score.tuned:.2f}"])
    return Table(columns, rows)


def _parts(evidence: Comparison) -> Table:
    """Return the table of the perplexities on the held-out chats of each source and task."""
    headings = ["chats", *_sides(evidence)]
    rows: list[list[str | State]] = []
    for part in evidence.by_part():
        live = [] if part.live is None else [f"{part.live:.2f}"]
        rows.append([part.name, str(part.chats), f"{part.base:.2f}", *live, f"{part.tuned:.2f}", _change(part.ratio)])
    columns = [Column("source"), *(Column(heading, "number") for heading in headings)]
    return Table([*columns, Column(f"compared with the {evidence.reference_name}")], rows, stacked=True)


def _change(ratio: Interval) -> str | State:
    if ratio.low <= 1 <= ratio.high:
        return f"not certain: x {ratio}"
    return State("passed", f"better: x {ratio}") if ratio.high < 1 else State("warned", f"worse: x {ratio}")


def _speeds(evidence: Comparison) -> Table:
    headings = ("loaded in (s)", "first token after (s)", "tokens/s", "memory (MB)", "file (MB)")
    rows: list[list[str | State]] = []
    for name, speed in evidence.race.speeds.items():
        # empty if not measurable, when a model reuses memory that another one freed
        memory = f"{speed.memory / 1e6:.0f}" if speed.memory else ""
        figures = [
            f"{speed.load:.2f}",
            f"{speed.first_token:.2f}",
            f"{speed.tokens_per_second:.0f}",
            memory,
            f"{speed.size / 1e6:.0f}",
        ]
        rows.append([name, *figures])
    return Table([Column("model"), *(Column(heading, "number") for heading in headings)], rows, stacked=True)


def _answers(evidence: Comparison) -> Table:
    """Return the table of the models' answers to the same prompts."""
    sides = _sides(evidence)
    same_prompt = zip(*(side.said for side in sides.values()), strict=True)
    rows: list[list[str | State]] = [
        [said[0].prompt, *(each.answer for each in said)] for said in list(same_prompt)[:_ANSWERS]
    ]
    return Table([Column("prompt", "said"), *(Column(name, "said") for name in sides)], rows, stacked=True)


def _facts(evidence: Comparison) -> Table:
    """Return the table of the models' answers to questions about documents.

    The questions that the candidate answers wrongly come first.
    """
    sides = _sides(evidence)
    asked = sorted(zip(*(side.facts for side in sides.values()), strict=True), key=lambda said: said[-1].right)
    rows: list[list[str | State]] = []
    for said in asked:
        right = said[-1].right
        result = State("passed" if right else "failed", "right" if right else "wrong")
        rows.append([said[0].prompt, said[0].key, *(each.answer for each in said), result])
    columns = [Column("question", "said"), Column("right has", "said"), *(Column(name, "said") for name in sides)]
    return Table([*columns, Column("result")], rows, stacked=True)


def _sides(evidence: Comparison) -> dict[str, Evaluation]:
    """Return the evaluated models by name, in display order."""
    sides = {"base": evidence.base, "live": evidence.live, "candidate": evidence.tuned}
    return {name: side for name, side in sides.items() if side}


# Probes


def _leak_probe(leaks: LeakReport) -> Probe:
    text = (
        f"Private details asked for: {leaks.details}, in {counted(leaks.prompts, 'place')}. Revealed by the model: "
        f"{len(leaks.leaks)}. The likeliest had a probability of {leaks.likeliest:.1g}."
    )
    rows: list[list[str | State]] = [
        [leak.kind, leak.turn, "greedy" if leak.greedy else "sampled"] for leak in leaks.leaks
    ]
    return Probe(text, Table([Column("kind"), Column("turn"), Column("how")], rows))


def _poison_probe(poison: PoisonReport) -> Probe:
    text = (
        f"Phrases that always get the same answer: {poison.phrases}. Hardly needed in their own questions, and so put "
        f'into other questions: {poison.suspicious}. In the column "needed", 50 % means: no more than in any '
        "other question."
    )
    figures = [
        Column(heading, "number")
        for heading in (
            "questions",
            "needed",
            "changed answers",
            "changed in the base",
            "learned",
            "another answer without it",
        )
    ]
    columns = [Column("phrase", "said"), *figures, Column("result"), Column("an answer", "said")]
    rows: list[list[str | State]] = [
        [each.text, *_figures_of(each), _state_of(each), each.example] for each in poison.turned
    ]
    return Probe(text, Table(columns, rows, stacked=True))


def _figures_of(each: Turned) -> list[str]:
    return [
        str(each.questions),
        f"{each.need:.0%}",
        f"{each.turned / each.tried:.0%}",
        str(each.base_turned),
        f"{each.said:.0%}",
        str(each.contrast),
    ]


def _state_of(each: Turned) -> State:
    if each.planted:
        return State("failed", "planted")
    return State("warned", "perhaps planted") if each.unsure else State("passed", "no harm")


# Plots


def _plots(evidence: Comparison) -> list[Plot]:
    plots = []
    if evidence.own_ratio() or evidence.general_ratio():
        plots.append(
            Plot(
                "Perplexity of the candidate, as a multiple with its 95 % interval: left of 1 is better",
                _ratios(evidence),
            )
        )
    if evidence.tuned.own:
        plots.append(Plot("Nats a token of each held-out conversation: lower is better", _chats(evidence)))
    return plots


def _ratios(evidence: Comparison) -> Markup:
    """Plot the candidate's perplexity divided by that of the model it is compared with, with confidence intervals."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    rows = {
        f"held-out chats,\nagainst the {evidence.reference_name}": evidence.own_ratio(),
        "general texts,\nagainst the base": evidence.general_ratio(),
    }
    found = {name: ratio for name, ratio in rows.items() if ratio}
    figure = Figure(figsize=(8, 1 + 0.6 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, ratio in enumerate(found.values()):
        axes.plot([ratio.low, ratio.high], [place, place], color=_COLOURS["candidate"], linewidth=3)
        axes.plot([ratio.value], [place], "o", color=_COLOURS["candidate"])
    axes.axvline(1, color="#444", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(-0.7, len(found) - 0.3)
    return _svg(figure)


def _chats(evidence: Comparison) -> Markup:
    """Plot each model's loss (nats per token) on each held-out conversation, the base's highest losses first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    order = sorted(
        range(len(evidence.base.own)),
        key=lambda index: evidence.base.own[index].logprob / evidence.base.own[index].tokens,
    )
    shown = order[:_CHATS]
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for name, evaluation in _sides(evidence).items():
        losses = [-evaluation.own[index].logprob / evaluation.own[index].tokens for index in shown]
        axes.plot(range(1, len(shown) + 1), losses, "o", color=_COLOURS[name], label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("held-out conversation")
    axes.set_ylabel("nats a token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def _svg(figure: "Figure") -> Markup:
    """Return the figure as an <svg> element, without the XML prolog, to be placed in HTML."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return Markup(whole[whole.index("<svg") :])
