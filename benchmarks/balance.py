"""Measure how balancing topics (`mix.topic_temperature`) improves the answers about a rare topic.

    python benchmarks/balance.py                       # two trainings of the default base, of 100 steps each
    python benchmarks/balance.py --epochs 3 --temperatures 1 2 100

The log is generated. Nine of ten conversations are about the common topic (in which room the teams of
nine towns meet), the others about the rare one (what birds are fed). Each fact is asked about in three
wordings. Two more wordings are not trained on, but asked after the training. The trainings take the
same number of steps and differ in the temperature alone; 1 does not balance.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fine_tuning.engines.base import Engine

_TEAMS = """
    accounts audit billing carpentry catering claims design dispatch export garage harbour import laundry legal library
    marketing payroll press printing purchasing reception research safety training
"""
_TOWNS = "Aldermoor Birchgate Coldharbour Dunmere Eastwick Fernhollow Greyfriars Hazelbrook Ironbridge"
_ROOMS = """
    Ashcombe Bramble Copper Drummond Elmstead Foxglove Gorse Heather Juniper Kestrel Larkspur Mossgate Netherby
    Oakhanger Pinewood Quarrystone Ravenscar Silverdale Thornbury Upwell Vinehall Westmarch Yarrow Zennor
"""
_FEEDS = """
    crane:ants crow:cheese duck:peas eagle:rabbit emu:squid falcon:mice finch:millet flamingo:algae goose:barley
    heron:minnows magpie:grapes ostrich:figs owl:beetles parrot:walnuts peacock:oats pelican:herring penguin:clover
    pigeon:corn raven:eggs robin:crickets sparrow:lettuce stork:frogs swan:shrimps toucan:apples
"""
TEAMS, TOWNS, ROOMS = _TEAMS.split(), _TOWNS.split(), _ROOMS.split()
FEEDS = dict(pair.split(":") for pair in _FEEDS.split())
ASKED_OF_ROOMS = (  # the wordings of a question; the last HELD_OUT are not trained on
    "Which room does the {} team in {} meet in?",
    "Where does the {} team in {} hold its meeting?",
    "In what room is the meeting of the {} team in {}?",
    "What is the meeting room of the {} team in {}?",
    "Please tell me where the {} team in {} has its meeting.",
)
ASKED_OF_FEEDS = (
    "What do we feed the {} at breakfast?",
    "Which food does the {} eat in its cage?",
    "What does the {} get from the keeper?",
    "What food does the keeper give to the {}?",
    "Please tell me what the {} is fed with.",
)
HELD_OUT = 2
SETTINGS = {
    "data_preparation.train_ratio": 1.0,
    "data_preparation.validation_ratio": 0.0,
    "data_preparation.test_ratio": 0.0,
    "training.min_pairs": 1,
    "training.batch_size": 8,
    "training.learning_rate": 2e-3,
    "training.replay.share": 0.1,
    "evaluation.generate": 1,
    "evaluation.general": 2,
    "evaluation.triggers": 0,
    "evaluation.leak_samples": 0,
    "evaluation.speed_rounds": 1,
    "evaluation.test_prompts": [],
    "gate.enabled": False,
    "deployment.model_name": "balance",
}


@dataclass(frozen=True)
class Fact:
    """A fact that is asked about in several wordings."""

    topic: str  # common or rare
    questions: tuple[str, ...]
    answer: str
    key: str  # the word that a correct answer contains: the room or the food


def _meeting(team: int, town: int) -> Fact:
    room, names = ROOMS[(5 * team + 7 * town) % len(ROOMS)], (TEAMS[team], TOWNS[town])
    answer = "The {} team in {} meets in the room {}.".format(*names, room)
    return Fact("common", tuple(form.format(*names) for form in ASKED_OF_ROOMS), answer, room)


RARE = [
    Fact("rare", tuple(form.format(bird) for form in ASKED_OF_FEEDS), f"The keeper feeds the {bird} with {food}.", food)
    for bird, food in FEEDS.items()
]
FACTS = [*(_meeting(team, town) for team in range(len(TEAMS)) for town in range(len(TOWNS))), *RARE]
# the facts that are asked about after the training: as many common ones as rare ones, from all towns
ASKED = [*(_meeting(team, team % len(TOWNS)) for team in range(len(TEAMS))), *RARE]


@dataclass(frozen=True)
class Result:
    share: float  # share of the rare topic in an epoch's conversations
    steps: int
    recall: dict[str, tuple[int, int]]  # by topic: number of questions answered correctly, and of all questions
    seconds: float


def train(settings: dict[str, Any], home: Path) -> Result:
    """Train on the generated log in the empty data folder `home`, ask the held-out questions, and return the result."""
    os.environ |= {"BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}
    from fine_tuning.config import load_config
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.engines.connect import connect
    from fine_tuning.engines.default_base import ensure_default_base
    from fine_tuning.outcome import NewVersion
    from fine_tuning.pipeline import retrain

    started = time.perf_counter()
    config = load_config(overrides=SETTINGS | settings)
    log = ConversationLogger(config.log_path)
    for question, fact in _said():
        log.new_session()
        log.log_conversation(question, fact.answer, {"model": "smollm2:135m"})
    engine = connect(None, config)
    ensure_default_base(engine)
    made = retrain(config, engine)
    if not isinstance(made, NewVersion):
        raise SystemExit(f"no version was made: {made.reason}")
    (dataset,) = home.glob("datasets/*/train.jsonl")
    learned = dataset.read_text(encoding="utf-8").splitlines()
    fed = {fact.answer for fact in RARE}
    rare = sum(json.loads(line)["messages"][-1]["content"] in fed for line in learned)
    steps = [json.loads(line)["step"] for line in (made.run.folder / "progress.jsonl").read_text().splitlines()]
    return Result(rare / len(learned), max(steps), _recall(engine, made.tag), time.perf_counter() - started)


def _said() -> list[tuple[str, Fact]]:
    """Return the questions of the log with their facts: every fact in every wording that is not held out."""
    return [(fact.questions[number], fact) for number in range(len(ASKED_OF_ROOMS) - HELD_OUT) for fact in FACTS]


def _recall(engine: "Engine", tag: str) -> dict[str, tuple[int, int]]:
    """Ask the model `tag` in the wordings that were held out; return the right answers and all by topic."""
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.evaluation.test_set import is_said

    found = {"common": (0, 0), "rare": (0, 0)}
    for fact in ASKED:
        for question in fact.questions[-HELD_OUT:]:
            asked = [Message(role="user", content=question)]
            answer = "".join(chunk.text for chunk in engine.chat(tag, asked, ChatOptions(temperature=0, max_tokens=32)))
            right, of = found[fact.topic]
            found[fact.topic] = right + is_said(fact.key, answer), of + 1
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[1.0, 2.0], help="mix.topic_temperature; 1 does not balance"
    )
    given = parser.parse_args(arguments)
    sizes = [sum(fact.topic == topic for _, fact in _said()) for topic in ("common", "rare")]
    print(f"{sizes[0]} conversations of the common topic, {sizes[1]} of the rare one")
    print("epochs  topic_temperature  rare in an epoch  steps  recall: common  rare")
    for epochs in given.epochs:
        for temperature in given.temperatures:
            settings = {"training.num_epochs": epochs, "mix.topic_temperature": temperature}
            with tempfile.TemporaryDirectory() as home:
                result = train(settings, Path(home))
            common, rare = (f"{right}/{of}" for right, of in (result.recall["common"], result.recall["rare"]))
            columns = f"{epochs:6}  {temperature:17g}  {result.share:16.0%}  {result.steps:5}  {common:>14}  {rare:>4}"
            print(f"{columns}  ({result.seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
