"""The evidence on made-up candidates, for tests of the gate, the report and the command line."""

from dataclasses import replace

from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import Answered, Evaluation
from fine_tuning.evaluation.metrics import Interval
from fine_tuning.evaluation.served_model import RowScore
from fine_tuning.evaluation.speed import Race, Speed


def evaluation(
    own: float, general: float = -60.0, right: int = 10, fit: float = 0.5, answers: int = 20, broken: int = 0
) -> Evaluation:
    """Return a model's evaluation. `own` and `general`: nats of conversations of 20 tokens."""
    said = [Answered("q", "An answer of its own.", True)] * (answers - broken) + [Answered("q", "", True)] * broken
    scores = [RowScore(own - index % 3, 20, 5) for index in range(12)]
    return Evaluation(
        scores={"perplexity": 8.0},
        answers=said[:1],
        own=scores,
        general=[RowScore(general - index % 2, 20, 9) for index in range(12)],
        fits=[fit + (index % 3) / 10 for index in range(12)],
        right=[index < right for index in range(10)],
        said=said,
        tokens=240,
        seconds=1.0,
    )


def race(ratio: float, low: float | None = None, high: float | None = None) -> Race:
    """Return the speed of the candidate beside base and live, which are alike."""
    found = Interval(ratio, low or ratio - 0.02, high or ratio + 0.02)
    speeds = {
        name: Speed(0.3, 0.05, rate, 10**8, 10**8)
        for name, rate in (("base", 100.0), ("live", 100.0), ("candidate", 100 * ratio))
    }
    return Race(speeds, {"base": found, "live": found})


GOOD = Comparison(base=evaluation(-40.0), tuned=evaluation(-20.0), race=race(0.95))


def of_two_sources(chats: float, tickets: float) -> Comparison:
    """Return a good candidate's evidence on chats of two sources; `chats` and `tickets` are their nats."""
    mine, theirs = evaluation(chats).own, evaluation(tickets).own
    parts = ["chats"] * len(mine) + ["tickets.csv/billing"] * len(theirs)
    base = evaluation(-40.0)
    return replace(
        GOOD, base=replace(base, own=base.own * 2), tuned=replace(GOOD.tuned, own=mine + theirs), parts=parts
    )
