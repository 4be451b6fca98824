"""The evidence for people: one HTML file with the gate's rules, the figures, plots and answers. No scripts, nothing fetched."""

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Evaluation
from fine_tuning.evaluation.gate import Result, Verdict
from fine_tuning.evaluation.leak_probe import redact

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --unsure: #b26a00; --bad: #c62828 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line) }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.good { color: var(--good) } .unsure { color: var(--unsure) } .bad { color: var(--bad) } .good, .unsure, .bad { font-weight: 600 }
figure { margin: 1rem 0; background: #fff; border-radius: .5rem; padding: .5rem } svg { max-width: 100%; height: auto }
"""
_COLOURS = {"base": "#8a8f98", "live": "#3b7dd8", "candidate": "#e4572e"}
_CLASSES = {"passed": "good", "warned": "unsure", "failed": "bad"}
_ANSWERS = 12  # shown side by side
_CHATS = 40  # plotted one by one

Safe = Callable[[object], str]
"""Redacted and escaped: what any text that is not ours becomes."""


def write_report(file: Path, title: str, evidence: Comparison, verdict: Verdict, canaries: Sequence[str] = ()) -> None:
    """Write the report, headed `title`, to `file`, whole or not at all."""

    def safe(text: object) -> str:
        return escape(redact(str(text), canaries))

    passed = "It passed the gate" if verdict.passed else "It was refused by the gate"
    parts = [
        f"<h1>{safe(title)}</h1>",
        f'<p class="{"good" if verdict.passed else "bad"}">{passed}.</p>' if verdict.results else "<p>The gate was off.</p>",
        "<h2>Rules</h2>" + _table(("rule", "limit", "measured", "", "why"), (_rule(result, safe) for result in verdict.results)),
        "<h2>Figures</h2>" + _table(("metric", *(name for name, _ in _sides(evidence))), _figures(evidence)),
        *(f"<figure>{plot}</figure>" for plot in _plots(evidence)),
        "<h2>Speed and weight</h2>" + _table(_SPEED_HEAD, _speeds(evidence)),
        "<h2>Probes</h2>" + _probes(evidence, safe),
        "<h2>Answers</h2>" + _table(("prompt", *(name for name, _ in _sides(evidence))), _answers(evidence, safe)),
        *(f"<p>{safe(note)}</p>" for note in evidence.tuned.notes),
    ]
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{safe(title)}</title><style>{_STYLE}</style></head>'
    paths.atomic_write(file, f"{head}\n<body>\n" + "\n".join(parts) + "\n</body></html>\n")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML; those that are numbers stand to the right."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>\n{body}</table>" if body else "<p>None.</p>"


def _cell(text: str) -> str:
    number = text.replace(".", "").replace(",", "").isdigit()
    return f'<td class="number">{text}</td>' if number else f"<td>{text}</td>"


def _rule(result: Result, safe: Safe) -> list[str]:
    mark = f'<span class="{_CLASSES[result.state]}">{result.state}</span>'
    return [safe(result.rule), safe(result.limit), safe(result.measured), mark, safe(result.reason)]


def _figures(evidence: Comparison) -> Iterable[list[str]]:
    for score in evidence.scores():
        live = [] if evidence.live is None else ["" if score.live is None else f"{score.live:.2f}"]
        yield [escape(score.metric.replace("_", " ")), f"{score.base:.2f}", *live, f"{score.tuned:.2f}"]


_SPEED_HEAD = ("model", "loaded in (s)", "first token after (s)", "tokens/s", "memory (MB)", "file (MB)")


def _speeds(evidence: Comparison) -> Iterable[list[str]]:
    for name, speed in evidence.race.speeds.items():
        figures = [f"{speed.load:.2f}", f"{speed.first_token:.2f}", f"{speed.tokens_per_second:.0f}"]
        memory = f"{speed.memory / 1e6:.0f}" if speed.memory else ""  # a model may find room in what another left behind
        yield [escape(name), *figures, memory, f"{speed.size / 1e6:.0f}"]


def _probes(evidence: Comparison, safe: Safe) -> str:
    leaks, poison = evidence.leaks, evidence.poison
    told = ([safe(leak.kind), safe(leak.turn), "greedy" if leak.greedy else "sampled"] for leak in leaks.leaks)
    turned = (
        [
            safe(each.text),
            str(each.questions),
            f"{each.need:.0%}",
            f"{each.turned} of {each.tried}",
            str(each.base_turned),
            f"{each.said:.0%}",
            "planted" if each.planted else "perhaps" if each.unsure else "no harm",
            safe(each.example),
        ]
        for each in poison.turned
    )
    return (
        f"<p>{leaks.details} private details were asked for in {leaks.prompts} places; {len(leaks.leaks)} came out. "
        f"The likeliest had a probability of {leaks.likeliest:.1g}.</p>"
        + (_table(("kind", "turn", "how"), told) if leaks.leaks else "")
        + f"<p>{poison.phrases} phrases of the chats go with one answer each; the questions of {poison.suspicious} of them do not call for "
        "the phrase, or hardly (50%: no more than any other question does). These were put into other questions.</p>"
        + (_table(("phrase", "questions", "called for", "turned", "in the base", "own", "", "an answer"), turned) if poison.turned else "")
    )


def _answers(evidence: Comparison, safe: Safe) -> Iterable[list[str]]:
    for same in list(zip(*(side.said for _, side in _sides(evidence)), strict=True))[:_ANSWERS]:
        yield [safe(same[0].prompt), *(safe(each.answer) for each in same)]


def _sides(evidence: Comparison) -> list[tuple[str, Evaluation]]:
    sides = [("base", evidence.base), ("live", evidence.live), ("candidate", evidence.tuned)]
    return [(name, side) for name, side in sides if side]


# Plots


def _plots(evidence: Comparison) -> list[str]:
    plots = []
    if evidence.own_ratio() or evidence.general_ratio():
        plots.append(_ratios(evidence))
    if evidence.tuned.own:
        plots.append(_chats(evidence))
    return plots


def _ratios(evidence: Comparison) -> str:
    """Perplexity against the reference with its confidence interval: left of 1 is better."""
    from matplotlib.figure import Figure

    rows = {
        f"held-out chats, against the {evidence.reference_name}": evidence.own_ratio(),
        "general texts, against the base": evidence.general_ratio(),
    }
    found = {name: ratio for name, ratio in rows.items() if ratio}
    figure = Figure(figsize=(8, 1 + 0.6 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, ratio in enumerate(found.values()):
        axes.plot([ratio.low, ratio.high], [place, place], color=_COLOURS["candidate"], linewidth=3)
        axes.plot([ratio.value], [place], "o", color=_COLOURS["candidate"])
    axes.axvline(1, color="#444", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.set_xlabel("perplexity of the candidate, as a multiple (95 % interval); left of 1 is better")
    return _svg(figure)


def _chats(evidence: Comparison) -> str:
    """Nats a token of each held-out conversation, by model; the hardest for the base first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    models = {"base": evidence.base, "live": evidence.live, "candidate": evidence.tuned}
    order = sorted(range(len(evidence.base.own)), key=lambda index: evidence.base.own[index].logprob / evidence.base.own[index].tokens)[
        :_CHATS
    ]
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for name, evaluation in models.items():
        if evaluation:
            losses = [-evaluation.own[index].logprob / evaluation.own[index].tokens for index in order]
            axes.plot(range(1, len(order) + 1), losses, "o", color=_COLOURS[name], label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("held-out conversation")
    axes.set_ylabel("nats a token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _svg(figure)


def _svg(figure: Any) -> str:
    """The figure as an <svg> element."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
