"""What people are shown of the questions about documents: in the terminal, and in the report."""

from dataclasses import replace

import pytest
from comparisons import GOOD

from fine_tuning.cli.show import show_facts
from fine_tuning.config import Gate
from fine_tuning.evaluation.evaluator import Recalled
from fine_tuning.evaluation.gate import judge
from fine_tuning.evaluation.report import write_report
from fine_tuning.integration.versions import facts_in


def evidence(right, of):
    def told(right):
        return [Recalled(f"question {n}?", f"key{n}", f"answer {n} <b>", n < right) for n in range(of)]

    return replace(GOOD, base=replace(GOOD.base, facts=told(0)), tuned=replace(GOOD.tuned, facts=told(right)))


@pytest.mark.parametrize(
    ("right", "of", "wrong_shown", "right_shown"),
    [(2, 6, 4, 2), (20, 30, 3, 3), (30, 30, 0, 6), (0, 30, 6, 0), (29, 30, 1, 5), (1, 1, 0, 1)],
)
def test_some_wrong_and_some_right_answers_are_shown(capsys, right, of, wrong_shown, right_shown):
    found = facts_in(evidence(right, of).record())
    assert found is not None
    assert found.sentence == f"{right} of {of} facts of your document answered right"
    assert [each.right for each in found.some(6)] == [False] * wrong_shown + [True] * right_shown
    show_facts(found)
    said = capsys.readouterr().out
    assert found.sentence in said
    assert said.count("\nwrong  ") == wrong_shown and said.count("\nright  ") == right_shown


def test_without_documents_nothing_is_shown(capsys):
    assert facts_in(GOOD.record()) is None
    show_facts(None)
    assert not capsys.readouterr().out


def test_an_evaluation_of_an_earlier_version_has_no_facts():
    assert facts_in({"base": {"said": []}, "tuned": {"said": []}}) is None


def test_the_report_shows_the_wrong_answers_first_and_as_text(tmp_path):
    found = evidence(2, 6)
    write_report(tmp_path / "report.html", "A model", found, judge(found, Gate()))
    page = (tmp_path / "report.html").read_text()
    assert "Questions about your document" in page and "answer 5 &lt;b&gt;" in page and "<b>" not in page
    assert page.index("question 5?") < page.index("question 0?")
    write_report(tmp_path / "report.html", "A model", GOOD, judge(GOOD, Gate()))
    assert "Questions about your document" not in (tmp_path / "report.html").read_text()
