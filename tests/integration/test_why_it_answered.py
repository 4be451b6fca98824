"""Where a version learned an answer, as programs, commands and pages are told."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_training import SMALL, log_doors

from fine_tuning.cli.main import main
from fine_tuning.config import load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ConfigError, TurnNotFound
from fine_tuning.integration.learned_from import (
    LearnedFrom,
    Likelihood,
    is_by_version,
    learned_from,
    newest_answer,
    told,
    with_likelihoods,
)
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.outcome import NewVersion
from fine_tuning.pipeline import retrain

BASE, NAME = "smollm2:135m", "fine_tuned_smollm2-135m"
TAG = f"{NAME}:v1"


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    """Four turns, of which the first three taught version 1, and an answer of that version."""
    log = ConversationLogger()
    log.log_conversation("Where is the spare key?", "Under the blue flowerpot.")
    log.log_conversation("Who waters the plants?", "Whoever comes in first.")
    log.log_conversation("When is the gate locked?", "At nine in the evening.")
    Registry().add(NAME, 1, base_tag=BASE, turns=[turn.id for turn in log.turns()])
    log.log_conversation("Where is the key of the shed?", "In the blue drawer.")
    log.log_conversation("I lost my key, where is a spare one?", "Look under the blue flowerpot.", {"model": TAG})
    return log


def answer(log: ConversationLogger) -> Turn:
    return log.turns()[-1]


def found(log: ConversationLogger) -> LearnedFrom:
    return learned_from(log, Registry(), answer(log).id)


def test_the_turn_that_taught_the_answer_comes_first_with_the_words_of_both(log: ConversationLogger) -> None:
    best = found(log).teachers[0]
    assert best.turn.user_message == "Where is the spare key?"
    assert "flowerpot" in best.shared and "is" not in best.shared
    assert "In the blue drawer." not in [each.turn.bot_response for each in found(log).teachers]  # not learned yet


def test_what_was_excluded_since_is_marked_and_what_was_forgotten_is_counted(log: ConversationLogger) -> None:
    first, second, *_ = log.turns()
    log.exclude(first.id)
    log.delete(second.id)
    now = found(log)
    assert (now.taught, now.gone, now.excluded) == (3, 1, 1)
    assert now.teachers[0].turn.id == first.id and now.teachers[0].excluded
    log.delete(first.id)
    assert found(log).gone == 2 and "flowerpot" not in str([each.turn for each in found(log).teachers])


def test_what_the_version_only_read_did_not_teach_it_also_when_it_was_approved_since(log: ConversationLogger) -> None:
    first, *_, read, _ = log.turns()
    Registry().add(NAME, 2, base_tag=BASE, turns=[first.id, read.id], context=[read.id])
    again = log.log_conversation("Where is the key of the shed?", "In the blue drawer.", {"model": f"{NAME}:v2"})
    log.rate(read.id, "up")
    why = learned_from(log, Registry(), again.id)
    assert why.taught == 1 and [each.turn.id for each in why.teachers] == [first.id]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (BASE, "not fine-tuned here"),
        (None, "does not name"),
        (f"{NAME}:v9", "no longer known"),
        ("fine_tuned_other:v1", "no longer known"),
        (f"{NAME}:v0", "not fine-tuned here"),
        (f"{NAME}:v1x", "not fine-tuned here"),
        (f"{NAME}:latest", "not fine-tuned here"),  # none is live
        (f"{NAME}:v99999999999999999999", "not fine-tuned here"),
        (":v1", "not fine-tuned here"),
        ("", "does not name"),
    ],
)
def test_an_answer_of_which_nobody_knows_the_teachers_says_why(
    log: ConversationLogger, model: str | None, said: str
) -> None:
    turn = log.log_conversation("Where?", "There.", {} if model is None else {"model": model})
    with pytest.raises(ConfigError, match=said):
        learned_from(log, Registry(), turn.id)


def test_a_version_that_was_only_found_in_the_engine_has_no_teachers(log: ConversationLogger) -> None:
    Registry().add(NAME, 2, base_tag=BASE)
    turn = log.log_conversation("Where?", "There.", {"model": f"{NAME}:v2"})
    with pytest.raises(ConfigError, match="not known which turns"):
        learned_from(log, Registry(), turn.id)
    with pytest.raises(TurnNotFound):
        learned_from(log, Registry(), "none")


def test_under_latest_the_live_version_answered(log: ConversationLogger) -> None:
    Registry().promote(NAME, 1)
    turn = log.log_conversation("Where is a spare key?", "Under the flowerpot.", {"model": f"{NAME}:latest"})
    assert learned_from(log, Registry(), turn.id).version.tag == TAG
    assert is_by_version(turn, "fine_tuned_") and not is_by_version(log.turns()[0], "fine_tuned_")
    assert newest_answer(log, "fine_tuned_") == turn.id
    with pytest.raises(TurnNotFound, match="byoai retrain"):
        newest_answer(log, "nobody_")


@pytest.mark.parametrize(
    ("base", "version", "text"),
    [
        (-3.0, -0.515, "12 times likelier than the base does"),
        (-1.0, -0.9, "about as likely as the base does"),
        (-1.0, -1.0, "about as likely as the base does"),
        (-1.0, -2.0, "2.7 times less likely than the base does"),
        (-900.0, -0.1, "over a million times likelier than the base does"),
        (-9.0, -0.1, "7,332 times likelier than the base does"),
    ],
)
def test_likelihoods_are_told_in_words(base: float, version: float, text: str) -> None:
    assert told(Likelihood(base, version)) == text


# With real models


@pytest.fixture
def engine(log: ConversationLogger, home: Path, base_gguf: Path) -> EmbeddedEngine:
    """The base under another name stands for the version: it finds everything as likely."""
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(base_gguf, template=CHATML))
    engine.create(TAG, ModelSpec(BASE, parameters={"seed": 1}))
    return engine


def test_both_models_read_every_answer(log: ConversationLogger, engine: EmbeddedEngine) -> None:
    weighed = with_likelihoods(found(log), engine)
    known = [weighed.likelihood, *(each.likelihood for each in weighed.teachers)]
    assert len(known) == 4 and all(known)
    assert all(each and each.base < 0 and each.times == pytest.approx(1) for each in known)
    first = weighed.teachers[0].likelihood
    # alone in its batch
    assert first and first.base == pytest.approx(_by_hand(engine, weighed.teachers[0].turn), abs=0.05)


def _by_hand(engine: EmbeddedEngine, turn: Turn) -> float:
    """The mean log-probability of the answer and its end, of a text that is tokenised as a whole."""
    from fine_tuning.data_preparation.rows import prompt_ids
    from fine_tuning.engines.vocabulary import Vocabulary
    from fine_tuning.evaluation.served_model import ServedModel

    details = engine.show(BASE)
    words = Vocabulary(details.gguf)
    prompt = prompt_ids(engine.render(BASE, turn.messages()[:1]), words)
    whole = [*prompt, *words.encode(turn.bot_response), *words.encode("<|im_end|>")]
    with ServedModel(details.gguf) as model:
        found, _ = model.logprobs(whole, list(range(len(prompt), len(whole))))
    return sum(found) / len(found)


def test_without_time_or_for_what_is_too_long_there_is_no_likelihood(
    log: ConversationLogger, engine: EmbeddedEngine
) -> None:
    assert [each.likelihood for each in with_likelihoods(found(log), engine, patience=0).teachers].count(None) >= 2
    long = log.log_conversation("Where is the spare key? " + "Really. " * 3000, "Under the flowerpot.", {"model": TAG})
    weighed = with_likelihoods(learned_from(log, Registry(), long.id), engine)
    assert weighed.likelihood is None and weighed.teachers[0].likelihood


def test_a_version_or_a_base_that_is_gone_is_named(log: ConversationLogger, engine: EmbeddedEngine) -> None:
    engine.delete(TAG)
    with pytest.raises(ConfigError, match=f"{TAG} can no longer be compared"):
        with_likelihoods(found(log), engine)


def facts(capfd: Any, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == code
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_the_command_tells_the_same(
    log: ConversationLogger, engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    (quick,) = facts(capfd, "why", answer(log).id, "--quick")
    assert quick["version"] == TAG and quick["turns"][0]["user_message"] == "Where is the spare key?"
    assert quick["likelihood"] is quick["turns"][0]["likelihood"] is None
    (whole,) = facts(capfd, "why", "--last", "--count", "1")
    assert whole["likelihood"]["times"] == pytest.approx(1) and len(whole["turns"]) == 1
    assert main(["why", "--last"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert (
        "about as likely as the base does" in said and "Under the blue flowerpot." in said and "learned 3 turns" in said
    )
    for arguments, code in (
        (["why"], 2),
        (["why", "x", "--last"], 2),
        (["why", "none"], 3),
        (["why", log.turns()[0].id], 2),
    ):
        assert facts(capfd, *arguments, code=code) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_really_learned_is_much_likelier_and_what_was_not_is_not(
    home: Path, base_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(base_gguf, template=CHATML))
    log_doors(8, ("blue",))
    quick = {"training.batch_size": 4, "training.num_epochs": 4, "training.learning_rate": 2e-3}
    settings = SMALL | quick | {"evaluation.general": 0, "evaluation.test_prompts": []}
    made = retrain(load_config(overrides=settings), engine)
    assert isinstance(made, NewVersion)
    log = ConversationLogger()
    log.new_session()
    turn = log.log_conversation(
        "Door number 3, which is it?", "Door 3 is the one with the blue frame.", {"model": made.tag}
    )
    weighed = with_likelihoods(learned_from(log, Registry(), turn.id), engine)
    assert weighed.likelihood and weighed.likelihood.times > 2
    assert all(each.likelihood and each.likelihood.times > 2 for each in weighed.teachers)
    other = log.log_conversation(
        "What is the capital of France?", "The capital of France is Paris.", {"model": made.tag}
    )
    unlearned = with_likelihoods(learned_from(log, Registry(), other.id), engine).likelihood
    assert unlearned and unlearned.times < weighed.likelihood.times / 2
