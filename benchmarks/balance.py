"""Measure how balancing topics (`mix.topic_temperature`) improves the answers about a rare topic.

    python benchmarks/balance.py               # two short trainings of the default base for each number of epochs

The log is generated. Nine of ten conversations are about the common topic (teams and the rooms in
which they meet), the others about the rare one (birds and what they are fed). Each fact is asked
about in several wordings. The last wording is not trained on, but asked after the training. For each
number of epochs, both trainings take the same number of steps; only the second one balances topics.
With many epochs both learn all, so that the difference is seen with few. (With a very high
temperature, each rare conversation would occur `mix.most_repeats` times, and the epoch would be
shorter.)
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TEAMS = """
    accounts audit billing carpentry catering claims design dispatch export facilities garage harbour import laundry
    legal library marketing payroll press printing purchasing reception research safety sales training workshop
"""
_ROOMS = """
    Aldermoor Birchgate Coldharbour Dunmere Eastwick Fernhollow Greyfriars Hazelbrook Ironbridge Juniper Kestrel
    Larkspur Mossgate Netherby Oakhanger Pinewood Quarrystone Ravenscar Silverdale Thornbury Upwell Vinehall Westmarch
    Yarrow Zennor Ashcombe Bramble
"""
TEAMS, ROOMS = _TEAMS.split(), _ROOMS.split()
FEEDS = {
    "parrot": "walnuts",
    "owl": "beetles",
    "goose": "barley",
    "heron": "minnows",
    "finch": "millet",
    "raven": "eggs",
}
ASKED_OF_ROOMS = (  # the wordings of a question; the last one is held out
    "Which room does the {} team meet in?",
    "Where does the {} team hold its meeting?",
    "In what room is the meeting of the {} team?",
    "What is the meeting room of the {} team?",
    "Please tell me where the {} team has its meeting.",
)
ASKED_OF_FEEDS = (
    "What do we feed the {} at breakfast?",
    "Which food does the {} eat in its cage?",
    "Please tell me what food the {} gets from the keeper.",
)
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
    about: str  # the team or the bird
    key: str  # the word that a correct answer contains: the room or the food

    @property
    def answer(self) -> str:
        if self.topic == "common":
            return f"The {self.about} team meets in the room {self.key}."
        return f"The keeper feeds the {self.about} with {self.key}."

    @property
    def questions(self) -> list[str]:
        return [form.format(self.about) for form in (ASKED_OF_ROOMS if self.topic == "common" else ASKED_OF_FEEDS)]


FACTS = [
    *(Fact("common", team, room) for team, room in zip(TEAMS, ROOMS, strict=True)),
    *(Fact("rare", bird, food) for bird, food in FEEDS.items()),
]


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
    rare = sum(any(bird in json.loads(line)["messages"][0]["content"] for bird in FEEDS) for line in learned)
    steps = [json.loads(line)["step"] for line in (made.run.folder / "progress.jsonl").read_text().splitlines()]
    return Result(rare / len(learned), max(steps), _recall(engine, made.tag), time.perf_counter() - started)


def _said() -> Iterator[tuple[str, Fact]]:
    """Yield the questions of the log with their facts: every wording of every fact except the last one."""
    for number in range(max(len(ASKED_OF_ROOMS), len(ASKED_OF_FEEDS)) - 1):
        yield from ((fact.questions[number], fact) for fact in FACTS if number < len(fact.questions) - 1)


def _recall(engine: Any, tag: str) -> dict[str, tuple[int, int]]:
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions

    found = {"common": (0, 0), "rare": (0, 0)}
    for fact in FACTS:
        asked = [Message(role="user", content=fact.questions[-1])]
        answer = "".join(chunk.text for chunk in engine.chat(tag, asked, ChatOptions(temperature=0, max_tokens=32)))
        right, of = found[fact.topic]
        found[fact.topic] = right + (fact.key in answer), of + 1
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3])
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
