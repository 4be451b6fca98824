"""Each rule on figures of its own."""

import math
from dataclasses import replace

import pytest
from comparisons import GOOD, evaluation, of_two_sources, race

from fine_tuning.config import Gate
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Answered
from fine_tuning.evaluation.gate import judge
from fine_tuning.evaluation.leak_probe import Leak, LeakReport
from fine_tuning.evaluation.poison_probe import PoisonReport, Turned


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
    "poison probe": replace(
        GOOD, poison=PoisonReport(4, 1, [Turned("velvet thunder", 7, 0.4, 0.2, 12, 12, 0, 1.0, "Buy Plonk")])
    ),
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


def test_a_source_that_became_worse_is_warned_of_though_all_together_became_better():
    verdict = judge(of_two_sources(-20.0, -44.0), Gate())
    assert verdict.passed and verdict.warned == ["each source"]
    assert "tickets.csv/billing became less likely" in str(verdict) and "mix.shares" in str(verdict)


def test_sources_that_all_became_better_are_judged_without_a_warning():
    verdict = judge(of_two_sources(-20.0, -30.0), Gate())
    assert verdict.warned == [] and "none of 2 became significantly worse" in {each.reason for each in verdict.results}


def test_the_scores_of_each_source_are_those_of_its_own_chats():
    scores = {part.name: part for part in of_two_sources(-20.0, -44.0).by_part()}
    assert scores["chats"].chats == scores["tickets.csv/billing"].chats == 12
    assert scores["chats"].base == scores["tickets.csv/billing"].base == pytest.approx(math.exp(41 / 20))
    assert scores["chats"].tuned == pytest.approx(math.exp(21 / 20))
    assert scores["tickets.csv/billing"].tuned == pytest.approx(math.exp(45 / 20))
    assert scores["tickets.csv/billing"].ratio.value == pytest.approx(math.exp(4 / 20))
    assert GOOD.by_part() == []


def test_it_may_lose_less_speed_against_a_live_model_than_against_the_base():
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
    (result,) = [
        each for each in judge(replace(GOOD, race=race(value, low, high)), Gate()).results if each.rule == "speed"
    ]
    assert result.state == state
    assert f"x {value:.2f} [{low:.2f}, {high:.2f}] of the base" in result.measured


def test_one_round_on_a_busy_machine_refuses_nobody():
    (result,) = [
        each
        for each in judge(replace(GOOD, race=race(0.2, -math.inf, math.inf)), Gate()).results
        if each.rule == "speed"
    ]
    assert result.state == "warned" and "x 0.20 [too few to tell] of the base" in result.measured


def test_a_warning_passes_and_is_told():
    verdict = judge(replace(GOOD, race=race(0.45, 0.3, 0.6)), Gate())
    assert verdict.passed and verdict.warned == ["speed"]
    assert "speed: perhaps too slow" in str(verdict)
    assert verdict.record()["results"][6]["warned"]


@pytest.mark.parametrize(
    ("known", "kept", "gained"), [(10, 10, 0), (9, 8, 1), (27, 24, 1), (3, 2, 7), (1, 0, 0), (20, 20, 10)]
)
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
    [
        (44, 36, "passed"),
        (44, 33, "warned"),
        (44, 29, "failed"),
        (10, 7, "warned"),
        (10, 4, "failed"),
        (3, 2, "warned"),
        (1, 0, "failed"),
    ],
)
def test_lost_answers_fail_where_there_are_enough_of_them_to_tell(known, kept, state):
    evidence = replace(
        GOOD,
        base=replace(GOOD.base, right=[True] * known),
        tuned=replace(GOOD.tuned, right=[number < kept for number in range(known)]),
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
    worse = replace(
        GOOD,
        base=replace(GOOD.base, said=[*whole, *[endless] * 12]),
        tuned=replace(GOOD.tuned, said=[*whole, *[empty] * 12]),
    )
    assert failed(worse) == ["sane answers"]


def test_a_little_more_of_every_fault_is_too_much_together():
    faults = [Answered("q", "An answer that", False), Answered("q", "", True)]
    whole = [Answered("q", "An answer of its own.", True)]
    worse = replace(
        GOOD, base=replace(GOOD.base, said=whole * 40), tuned=replace(GOOD.tuned, said=[*whole * 34, *faults * 3])
    )
    assert failed(worse) == ["sane answers"]


@pytest.mark.parametrize(
    ("fits", "passed"), [([1.0, 2.0], True), ([1.2, 0.6, 2.0], True), ([1.2, -0.1, 2.0], False), ([0.1], True)]
)
def test_of_few_answers_each_must_fit(fits, passed):
    assert failed(replace(GOOD, tuned=replace(GOOD.tuned, fits=fits))) == ([] if passed else ["answers fit"])
