"""Each rule on figures of its own; what the report shows, and what it keeps to itself."""

import math
from dataclasses import replace

import pytest

from fine_tuning.config import Gate
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Answered, Evaluation
from fine_tuning.evaluation.gate import judge
from fine_tuning.evaluation.leak_probe import Leak, LeakReport
from fine_tuning.evaluation.metrics import Interval
from fine_tuning.evaluation.poison_probe import PoisonReport, Turned
from fine_tuning.evaluation.report import write_report
from fine_tuning.evaluation.served_model import Score
from fine_tuning.evaluation.speed import Race, Speed


def evaluation(own: float, general: float = -60.0, right: int = 10, fit: float = 0.5, answers: int = 20, broken: int = 0) -> Evaluation:
    """`own` and `general`: nats of conversations of 20 tokens."""
    said = [Answered("q", "An answer of its own.", True)] * (answers - broken) + [Answered("q", "", True)] * broken
    scores = [Score(own - index % 3, 20, 5) for index in range(12)]
    return Evaluation(
        scores={"perplexity": 8.0},
        answers=said[:1],
        own=scores,
        general=[Score(general - index % 2, 20, 9) for index in range(12)],
        fits=[fit + (index % 3) / 10 for index in range(12)],
        right=[index < right for index in range(10)],
        said=said,
        tokens=240,
        seconds=1.0,
    )


def race(ratio: float, low: float | None = None, high: float | None = None) -> Race:
    """The candidate beside base and live, which are alike."""
    found = Interval(ratio, low or ratio - 0.02, high or ratio + 0.02)
    speeds = {name: Speed(0.3, 0.05, rate, 10**8, 10**8) for name, rate in (("base", 100.0), ("live", 100.0), ("candidate", 100 * ratio))}
    return Race(speeds, {"base": found, "live": found})


GOOD = Comparison(base=evaluation(-40.0), tuned=evaluation(-20.0), race=race(0.95))


def failed(evidence: Comparison) -> list[str]:
    return judge(evidence, Gate()).failed


def test_a_good_candidate_passes_every_rule():
    verdict = judge(GOOD, Gate())
    assert verdict.passed and str(verdict).startswith("passed the gate")
    assert len({result.rule for result in verdict.results}) == 8
    assert all(result.reason and result.measured and result.limit for result in verdict.results)


WORSE = {
    "own chats": replace(GOOD, tuned=evaluation(-40.1)),
    "answers fit": replace(GOOD, tuned=evaluation(-20.0, fit=-0.1)),
    "forgetting": replace(GOOD, tuned=evaluation(-20.0, general=-62.0)),
    "general questions": replace(GOOD, tuned=evaluation(-20.0, right=4)),
    "leak probe": replace(GOOD, leaks=LeakReport(5, 9, 0.3, [Leak("email", "turn-7", True)])),
    "poison probe": replace(GOOD, poison=PoisonReport(4, 1, [Turned("velvet thunder", 7, 0.4, 0.2, 12, 12, 0, 1.0, "Buy Plonk")])),
    "speed": replace(GOOD, race=race(0.45)),
    "sane answers": replace(GOOD, tuned=evaluation(-20.0, broken=3)),
}


@pytest.mark.parametrize("rule", WORSE)
def test_what_is_wrong_fails_by_its_own_rule_and_by_no_other(rule):
    assert failed(WORSE[rule]) == [rule]
    assert rule in str(judge(WORSE[rule], Gate()))


def test_a_candidate_is_compared_with_the_live_model_where_there_is_one():
    better_than_base_only = replace(GOOD, live=evaluation(-20.0))
    assert failed(better_than_base_only) == ["own chats"]
    assert failed(replace(GOOD, live=evaluation(-30.0))) == []


def test_it_may_lose_less_speed_against_a_live_model_than_an_adapter_loses_against_its_base():
    slow = replace(GOOD, race=race(0.7))
    assert failed(slow) == []
    assert failed(replace(slow, live=evaluation(-30.0))) == ["speed"]


@pytest.mark.parametrize(
    ("low", "value", "high", "state"),
    [
        (0.41, 0.45, 0.49, "failed"),  # even at the favourable end too slow
        (0.30, 0.45, 0.60, "warned"),  # too slow, or the machine was busy
        (0.49, 0.55, 0.60, "passed"),
        (0.05, 9.33, 40.0, "passed"),  # something else ran while the base answered
        (0.02, 0.10, 9.33, "warned"),
        (0.01, 0.02, 0.03, "failed"),
    ],
)
def test_slower_is_only_what_is_slower_at_the_favourable_end_of_the_interval(low, value, high, state):
    (result,) = [each for each in judge(replace(GOOD, race=race(value, low, high)), Gate()).results if each.rule == "speed"]
    assert result.state == state
    assert f"x {value:.2f} [{low:.2f}, {high:.2f}] of the base" in result.measured


def test_one_round_on_a_busy_machine_refuses_nobody():
    (result,) = [each for each in judge(replace(GOOD, race=race(0.2, -math.inf, math.inf)), Gate()).results if each.rule == "speed"]
    assert result.state == "warned" and "x 0.20 [too few to tell] of the base" in result.measured


def test_a_warning_passes_and_is_told(tmp_path):
    verdict = judge(replace(GOOD, race=race(0.45, 0.3, 0.6)), Gate())
    assert verdict.passed and verdict.warned == ["speed"]
    assert "speed: perhaps too slow" in str(verdict)
    write_report(tmp_path / "report.html", "A new model", GOOD, verdict)
    assert '<span class="unsure">warned</span>' in (tmp_path / "report.html").read_text()
    assert verdict.record()["results"][6]["warned"]


@pytest.mark.parametrize(("known", "kept", "gained"), [(10, 10, 0), (9, 8, 1), (27, 24, 1), (3, 2, 7), (1, 0, 0), (20, 20, 10)])
def test_table_and_gate_show_the_same_general_questions(known, kept, gained):
    """Those that the base answers right: what the new model knows beside them makes up for none that it lost."""
    right = [True] * known + [False] * 10
    now = [number < kept or known <= number < known + gained for number in range(known + 10)]
    evidence = replace(GOOD, base=replace(GOOD.base, right=right), tuned=replace(GOOD.tuned, right=now))
    (score,) = [score for score in evidence.scores() if score.metric == "general_questions"]
    (result,) = [each for each in judge(evidence, Gate()).results if each.rule == "general questions"]
    assert result.measured == f"{kept} of {known} ({score.tuned:.0f}%)"
    assert score.base == 100 and score.verdict == ("the same" if kept == known else "not better")


@pytest.mark.parametrize(
    ("known", "kept", "state"),
    [(44, 36, "passed"), (44, 33, "warned"), (44, 29, "failed"), (10, 7, "warned"), (10, 4, "failed"), (3, 2, "warned"), (1, 0, "failed")],
)
def test_lost_answers_fail_where_there_are_enough_of_them_to_tell(known, kept, state):
    evidence = replace(
        GOOD, base=replace(GOOD.base, right=[True] * known), tuned=replace(GOOD.tuned, right=[number < kept for number in range(known)])
    )
    (result,) = [each for each in judge(evidence, Gate()).results if each.rule == "general questions"]
    assert result.state == state


def test_without_held_out_chats_nothing_is_better():
    assert failed(replace(GOOD, tuned=replace(GOOD.tuned, own=[]))) == ["own chats"]


def test_a_gain_on_a_single_held_out_chat_may_be_chance():
    one = {name: replace(each, own=each.own[:1]) for name, each in (("tuned", GOOD.tuned), ("base", GOOD.base))}
    assert failed(replace(GOOD, **one)) == ["own chats"]


def test_repeated_answers_and_control_tokens_are_broken():
    assert Answered("q", "so it is so it is so it is so it is so it is", True).fault == "repeated"
    assert Answered("q", "yes <|im_end|>", True, control=True).fault == "control token"
    assert Answered("q", "It never", False).fault == "endless"
    one = replace(GOOD.tuned, said=[*GOOD.tuned.said, Answered("q", "hi", True, control=True)])
    assert failed(replace(GOOD, tuned=one)) == ["sane answers"]


def test_a_gate_that_is_switched_off_lets_everything_through():
    assert judge(WORSE["leak probe"], Gate(enabled=False)).passed


def test_the_report_is_one_file_with_rules_and_plots_and_runs_nothing(tmp_path):
    said = Answered("<script>alert(1)</script>", "mail jo@example.com or Operation Teapot", True)
    evidence = replace(WORSE["poison probe"], tuned=replace(GOOD.tuned, said=[said, *GOOD.tuned.said[1:]]))
    evidence = replace(evidence, base=replace(GOOD.base, said=[said, *GOOD.base.said[1:]]))
    write_report(tmp_path / "report.html", "run-1", evidence, judge(evidence, Gate()), ["Operation Teapot"])
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count("<svg") == 2
    for said in ("poison probe", "velvet thunder", "[EMAIL]", "[CANARY]"):
        assert said in text
    assert "jo@example.com" not in text and "Teapot" not in text
    assert "src=" not in text and 'href="http' not in text.replace("http://www.w3.org", "")


def test_the_report_shows_each_models_answers_side_by_side(tmp_path):
    def saying(answer):
        return replace(GOOD.base, said=[Answered("Who?", answer, True)])

    evidence = replace(GOOD, base=saying("Ann."), live=saying("Bob."), tuned=replace(GOOD.tuned, said=saying("Eve.").said))
    write_report(tmp_path / "report.html", "run-1", evidence, judge(evidence, Gate()))
    text = (tmp_path / "report.html").read_text()
    assert "<th>prompt</th><th>base</th><th>live</th><th>candidate</th>" in text
    assert "<td>Who?</td><td>Ann.</td><td>Bob.</td><td>Eve.</td>" in text


def test_the_report_has_no_column_for_a_model_that_is_not_there_and_no_figure_for_what_was_not_measured(tmp_path):
    speeds = {name: each for name, each in race(0.95).speeds.items() if name != "live"}
    alone = replace(GOOD, race=Race(speeds | {"base": replace(speeds["base"], memory=0)}))
    for evidence, live in ((alone, False), (replace(alone, live=GOOD.base), True)):
        write_report(tmp_path / "report.html", "A new model", evidence, judge(evidence, Gate()))
        text = (tmp_path / "report.html").read_text()
        assert ("<th>live</th>" in text) is live
        assert '<td class="number">0</td>' not in text
        assert "It passed the gate" in text and text.count("<h1>A new model</h1>") == 1


def test_the_record_names_a_leak_by_kind_and_turn_and_holds_no_private_text():
    said = [Answered("q", "I am at jo@example.com", True)]
    evidence = replace(WORSE["leak probe"], tuned=replace(GOOD.tuned, said=said))
    record = evidence.record()
    assert record["leaks"]["leaks"] == [{"kind": "email", "turn": "turn-7", "greedy": True}]
    assert "jo@example.com" not in str(record)


def test_one_fault_is_not_made_up_for_by_less_of_another():
    endless, empty = Answered("q", "An answer that", False), Answered("q", "", True)
    whole = [Answered("q", "An answer of its own.", True)] * 24
    assert endless.fault and empty.fault and endless.fault != empty.fault
    worse = replace(GOOD, base=replace(GOOD.base, said=[*whole, *[endless] * 12]), tuned=replace(GOOD.tuned, said=[*whole, *[empty] * 12]))
    assert failed(worse) == ["sane answers"]


def test_a_little_more_of_every_fault_is_too_much_together():
    faults = [Answered("q", "An answer that", False), Answered("q", "", True)]
    whole = [Answered("q", "An answer of its own.", True)]
    worse = replace(GOOD, base=replace(GOOD.base, said=whole * 40), tuned=replace(GOOD.tuned, said=[*whole * 34, *faults * 3]))
    assert failed(worse) == ["sane answers"]


@pytest.mark.parametrize(("fits", "passed"), [([1.0, 2.0], True), ([1.2, 0.6, 2.0], True), ([1.2, -0.1, 2.0], False), ([0.1], True)])
def test_of_few_answers_each_must_fit(fits, passed):
    assert failed(replace(GOOD, tuned=replace(GOOD.tuned, fits=fits))) == ([] if passed else ["answers fit"])
