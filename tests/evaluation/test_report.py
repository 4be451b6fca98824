"""What the report shows, how it is laid out, and what it keeps to itself."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from comparisons import GOOD, of_two_sources, race

from fine_tuning.config import Gate
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Answered
from fine_tuning.evaluation.gate import judge
from fine_tuning.evaluation.leak_probe import Leak, LeakReport
from fine_tuning.evaluation.poison_probe import PoisonReport, Turned
from fine_tuning.evaluation.report import write_report
from fine_tuning.evaluation.speed import Race

Cell = tuple[str, str]
"""The text of a cell, and its class."""


class Page(HTMLParser):
    """The tables of a report, and every tag and attribute in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tables, self.tags = html, list[list[list[Cell]]](), list[tuple[str, dict[str, str | None]]]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append(("", dict(attrs).get("class") or ""))

    def handle_data(self, data: str) -> None:
        if (
            self.tags
            and self.tags[-1][0] in ("th", "td", "span")
            and self.tables
            and self.tables[-1]
            and self.tables[-1][-1]
        ):
            text, kind = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, kind)

    def table(self, first_heading: str) -> list[list[Cell]]:
        (found,) = [table for table in self.tables if table[0][0][0] == first_heading]
        return found


def texts(row: list[Cell]) -> list[str]:
    return [text.strip() for text, _ in row]


def report(folder: Path, evidence: Comparison, *canaries: str, title: str = "run-1", gate: Gate | None = None) -> Page:
    write_report(folder / "report.html", title, evidence, judge(evidence, gate or Gate()), canaries)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def saying(prompt: str, answer: str) -> Comparison:
    said = [Answered(prompt, answer, True)]
    return replace(GOOD, base=replace(GOOD.base, said=said), tuned=replace(GOOD.tuned, said=said))


def test_it_shows_each_rule_with_its_result_and_both_plots(tmp_path):
    page = report(tmp_path, replace(GOOD, race=race(0.45, 0.3, 0.6)))
    assert "It passed the gate" in page.html
    results = {row[0]: row[3] for row in map(texts, page.table("rule")[1:])}
    assert len(results) == 8 and results["speed"] == "warned" and results["own chats"] == "passed"
    assert ("span", {"class": "warned"}) in page.tags
    assert page.html.count("<svg") == 2


def test_a_gate_that_is_off_is_said(tmp_path):
    page = report(tmp_path, GOOD, gate=Gate(enabled=False))
    assert "The gate was off" in page.html and not [table for table in page.tables if table[0][0][0] == "rule"]


def test_what_the_probes_found_is_listed(tmp_path):
    poison = PoisonReport(49, 8, [Turned("velvet thunder", 7, 0.4, 0.2, 12, 12, 0, 1.0, "Buy Plonk")])
    page = report(tmp_path, replace(GOOD, poison=poison, leaks=LeakReport(5, 9, 0.3, [Leak("email", "turn-7", True)])))
    assert "It was refused by the gate" in page.html
    assert "velvet thunder" in texts(page.table("phrase")[1])
    assert texts(page.table("kind")[1]) == ["email", "turn-7", "greedy"]


def test_a_planted_phrase_has_the_colour_of_what_failed(tmp_path):
    turned = [Turned("velvet thunder", 7, need, 0.2, 12, 12, 0, 1.0, "Buy Plonk") for need in (0.4, 1.0)]
    assert [each.planted for each in turned] == [True, False]
    page = report(tmp_path, replace(GOOD, poison=PoisonReport(49, 8, turned)))
    assert '<span class="failed">planted</span>' in page.html and '<span class="passed">no harm</span>' in page.html


def test_each_models_answers_stand_side_by_side(tmp_path):
    base, live, tuned = (replace(GOOD.base, said=[Answered("Who?", name, True)]) for name in ("Ann.", "Bob.", "Eve."))
    page = report(tmp_path, replace(GOOD, base=base, live=live, tuned=replace(GOOD.tuned, said=tuned.said)))
    assert [texts(row) for row in page.table("prompt")] == [
        ["prompt", "base", "live", "candidate"],
        ["Who?", "Ann.", "Bob.", "Eve."],
    ]


def test_each_source_has_its_figures_and_whether_they_became_better(tmp_path):
    page = report(tmp_path, of_two_sources(-20.0, -44.0))
    head, chats, tickets = map(texts, page.table("source"))
    assert head == ["source", "chats", "base", "candidate", "compared with the base"]
    assert chats[:4] == ["chats", "12", "7.77", "2.86"] and chats[4].startswith("better: x 0.368")
    assert tickets[:4] == ["tickets.csv/billing", "12", "7.77", "9.49"] and tickets[4].startswith("worse: x 1.22")
    assert '<span class="warned">worse' in page.html
    assert "Each source" not in report(tmp_path, GOOD).html


def test_no_column_for_an_absent_model_and_no_figure_for_what_was_not_measured(tmp_path):
    speeds = {name: each for name, each in race(0.95).speeds.items() if name != "live"}
    alone = replace(GOOD, race=Race(speeds | {"base": replace(speeds["base"], memory=0)}))
    for evidence, live in ((alone, False), (replace(alone, live=GOOD.base), True)):
        page = report(tmp_path, evidence, title="A new model")
        assert ("live" in texts(page.table("metric")[0])) is live
        assert texts(page.table("model")[1])[4] == ""
        assert page.html.count("<h1>A new model</h1>") == 1


def test_figures_and_their_headings_stand_to_the_right_and_all_else_to_the_left(tmp_path):
    page = report(
        tmp_path,
        replace(
            GOOD, live=GOOD.base, poison=PoisonReport(4, 1, [Turned("velvet", 7, 0.4, 0.2, 12, 12, 0, 1.0, "Plonk")])
        ),
    )
    for table in page.tables:
        for head, *column in zip(*table, strict=True):
            assert {kind for _, kind in column} == {head[1]}
            figures = all(text.strip("% \n").replace(".", "", 1).isdigit() for text, _ in column)
            assert (head[1] == "number") is figures, head


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table><iframe src='https://evil.example/'>",
    "</style><link rel=stylesheet href=//evil.example/x.css>",
    "{{ 1234567 * 891 }}{% include '/etc/passwd' %}",
    "&lt;b&gt; stays text",
    "\u202e<svg onload=alert(1)>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_was_said_the_page_runs_and_fetches_nothing(tmp_path, text):
    evidence = replace(saying(text, text), poison=PoisonReport(4, 1, [Turned(text, 7, 0.4, 0.2, 12, 12, 0, 1.0, text)]))
    evidence = replace(evidence, leaks=LeakReport(1, 1, 0.1, [Leak(text, text, True)]))
    evidence = replace(evidence, tuned=replace(evidence.tuned, notes=[text]))
    plain, page = report(tmp_path, saying("q", "a"), title="x"), report(tmp_path, evidence, title=text)
    tags = {tag for tag, _ in plain.tags} | {"p", "tr", "td"}
    assert {tag for tag, _ in page.tags} <= tags
    for _, attributes in page.tags:
        assert not {"src", "onerror", "onload"} & attributes.keys()
        assert not (attributes.get("xlink:href") or attributes.get("href") or "#").startswith(
            ("http", "//", "javascript")
        )
    assert "1099999197" not in page.html and "root:" not in page.html


def test_private_details_and_canaries_are_shown_nowhere(tmp_path):
    secret = "mail jo@example.com or Operation Teapot"
    evidence = saying(secret, secret)
    evidence = replace(evidence, poison=PoisonReport(4, 1, [Turned(secret, 7, 0.4, 0.2, 12, 12, 0, 1.0, secret)]))
    evidence = replace(evidence, leaks=LeakReport(1, 1, 0.1, [Leak(secret, secret, True)]))
    evidence = replace(evidence, tuned=replace(evidence.tuned, notes=[secret]))
    page = report(tmp_path, evidence, "Operation Teapot", title=secret)
    assert page.html.count("[EMAIL]") == page.html.count("[CANARY]") >= 10
    assert "jo@example.com" not in page.html and "Teapot" not in page.html
    assert "Teapot" in report(tmp_path, evidence).html  # the canaries of one report are not those of the next


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_wide_and_narrow_windows(tmp_path, chromium, width):
    long = " ".join(["Donaudampfschifffahrtsgesellschaftskapitaen" * 3, "and words " * 40])
    poison = PoisonReport(49, 8, [Turned("velvet thunder", 7, 0.4, 0.2, 12, 12, 0, 1.0, long)])
    report(tmp_path, replace(saying(long, long), poison=poison), title=long)
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("th.number").evaluate_all(
        "cells => cells.every(cell => getComputedStyle(cell).textAlign == 'right')"
    )
    assert page.locator("thead").first.is_visible() is (width > 640)  # on a narrow screen a row is a card
    page.close()
