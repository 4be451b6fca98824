"""Real chats from elsewhere, imported, mixed with the sample, learned, and served: both answer."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import chatterbot_yaml
import pytest
from real_engine import with_default_base
from small_training import SMALL

from fine_tuning.cli.main import main
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, Engine

NAME = "fine_tuned_mixedtest"
ENGLISH = Path(str(files("chatterbot_corpus") / "data" / "english"))
FORMAT = f"{chatterbot_yaml.__file__}:pairs"
ASKED = 6  # questions of each source, of those that were learned
SETTINGS = SMALL | {
    "mix.also": ["sample"],
    "mix.shares": {"corpus": 0, "food": 0.5, "sample": 0.5},  # one of the corpus' files, and as much of the sample
    "mix.most_repeats": 1,
    "data_preparation.train_ratio": 0.94,
    "data_preparation.validation_ratio": 0.03,
    "data_preparation.test_ratio": 0.03,
    "training.batch_size": 4,
    "training.num_epochs": 12,
    "training.learning_rate": 2e-3,
    "evaluation.test_prompts": [],
    "deployment.model_name": "mixedtest",
}


@pytest.fixture
def engine(home: Path, ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The real Ollama with the default base."""
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    with with_default_base("ollama", NAME) as engine:
        yield engine


def import_as(source: str, *places: Path) -> None:
    assert main(["import", *map(str, places), "--format", FORMAT, "--source", source, "--yes"]) == 0


def ask(engine: Engine, question: str) -> str:
    options = ChatOptions(temperature=0, max_tokens=48)
    chunks = engine.chat(f"{NAME}:latest", [Message(role="user", content=question)], options)
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_imported_chats_and_the_sample_are_learned_half_and_half_and_both_answer(engine: Engine, home: Path) -> None:
    import_as("food", ENGLISH / "food.yml")
    import_as("corpus", ENGLISH)
    log = ConversationLogger()
    imported = log.index.count()
    assert imported > 850  # of 2026 pairs; the corpus repeats itself
    import_as("corpus", ENGLISH)
    assert log.index.count() == imported

    assert (
        main(
            ["retrain", *(part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}"))]
        )
        == 0
    )
    (dataset,) = (path.parent for path in home.glob("datasets/*/train.jsonl"))
    sources = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))["sources"]
    assert sources["corpus"]["in_an_epoch"] == 0
    assert sources["food"]["in_an_epoch"] == pytest.approx(sources["sample"]["in_an_epoch"], abs=1)
    assert sources["food"]["in_an_epoch"] > 10

    learned = [json.loads(line) for line in (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    known = {turn.session_id: str((turn.metadata.get("source") or {}).get("name")) for turn in log.turns()}
    for is_imported in (True, False):
        of_source = [record["messages"] for record in learned if (record["id"] in known) == is_imported][:ASKED]
        given = [(ask(engine, messages[0]["content"]), messages[1]["content"]) for messages in of_source]
        assert sum(said.strip() == taught.strip() for said, taught in given) >= ASKED - 2, given
