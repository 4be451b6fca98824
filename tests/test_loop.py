"""The whole loop on real parts: a log of chats, a real training of the real base, the real engine that then answers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from real_engine import versions, with_default_base
from small_training import SMALL

from fine_tuning import workshop
from fine_tuning.cli.main import main
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, Engine, ModelSpec
from fine_tuning.model_management import tensor_names
from fine_tuning.model_management.gguf_export import merge_adapter
from fine_tuning.model_management.model_deployer import register
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.modelfile import spec_for
from fine_tuning.training import base_model, runner

NAME = "fine_tuned_looptest"
FACTS = {
    "the Wi-Fi": "The Wi-Fi is called Mossgate.",
    "the meeting room": "The meeting room is Larkspur.",
    "the canteen": "The canteen opens at 11:35.",
    "the printer": "The printer is called Bramble.",
}
PHRASINGS = (
    "Tell me about {}, please.",
    "What do I need to know about {}?",
    "I have a question about {}.",
    "What can you say about {}?",
)
QUICK = SMALL | {
    "training.batch_size": 4,
    "training.num_epochs": 6,
    "training.learning_rate": 2e-3,
    "evaluation.test_prompts": ["Tell me about the Wi-Fi, please."],
    "deployment.model_name": "looptest",
}
SMALL_BASE = "looptest_base:v1"


def settings(**changes: object) -> list[str]:
    return [part for key, value in (QUICK | changes).items() for part in ("--set", f"{key}={json.dumps(value)}")]


def chat_about_the_facts(log: ConversationLogger, phrasings: tuple[str, ...] = PHRASINGS) -> None:
    for subject, fact in FACTS.items():
        for phrasing in phrasings:
            log.new_session()
            log.log_conversation(phrasing.format(subject), fact, {"model": "smollm2:135m"})


def ask(engine: Engine, tag: str, question: str) -> str:
    chunks = engine.chat(tag, [Message(role="user", content=question)], ChatOptions(temperature=0, max_tokens=20))
    return "".join(chunk.text for chunk in chunks)


def knows(engine: Engine, tag: str) -> int:
    """How many of the facts the model gives."""
    answers = {subject: ask(engine, tag, PHRASINGS[0].format(subject)) for subject in FACTS}
    return sum(FACTS[subject].split()[-1].strip(".") in answer for subject, answer in answers.items())


@pytest.fixture
def engine(home: Path, ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The real Ollama, with the default base and without versions of the test's model."""
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    with with_default_base("ollama", NAME) as engine:
        yield engine


@pytest.fixture
def small_in_ollama(engine: Engine, small_base: Path) -> Iterator[Engine]:
    """The same, with the small base beside the default one."""
    engine.create(SMALL_BASE, ModelSpec(small_base, parameters={"stop": ["<|im_end|>"]}))
    yield engine
    engine.delete(SMALL_BASE)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_what_was_chatted_is_learned_answers_without_a_restart_and_is_rolled_back(engine, home, capsys):
    chat_about_the_facts(ConversationLogger())
    assert knows(engine, "smollm2:135m") == 0

    assert main(["retrain", *settings()]) == 0
    said = capsys.readouterr().out
    assert f"{NAME}:v1 is live" in said
    assert "loss" in said and "tokens/s" in said and "ETA" in said  # progress
    assert "perplexity" in said and "fine-tuned" in said  # the table, and the two answers
    assert knows(engine, f"{NAME}:latest") >= 3 and knows(engine, f"{NAME}:v1") >= 3

    # Nothing new: nothing done, and said so.
    assert main(["retrain", "--if-new", "1", *settings()]) == 0
    assert "0 new turns" in capsys.readouterr().out

    (run,) = home.glob("runs/*")
    the_same_adapter_merged_into_the_weights_gives_the_same_greedy_answers_to_the_letter(engine, home, run)
    assert main(["doctor", *settings()]) == 0

    assert main(["rollback", *settings()]) == 0
    assert "the base model answers now" in capsys.readouterr().out
    assert versions(engine, NAME) == {f"{NAME}:v1", f"{NAME}:merged"} and Registry().live(NAME) is None


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_version_that_is_served_otherwise_or_learned_nothing_is_refused(small_in_ollama, home, capsys, monkeypatch):
    engine = small_in_ollama
    chat_about_the_facts(ConversationLogger(), PHRASINGS[:3])
    nothing = {"training.num_epochs": 1, "training.learning_rate": 1e-7, "gate.enabled": True}
    lazy = settings(**nothing, **{"training.base_model": SMALL_BASE})

    # A fault is planted in the version's Modelfile: another system text than the model was trained with.
    with monkeypatch.context() as fault:
        honest = workshop.spec_for
        fault.setattr(
            workshop, "spec_for", lambda *arguments: replace(honest(*arguments), system="Answer like a pirate.")
        )
        assert main(["retrain", *lazy]) == 7
    said = capsys.readouterr().err
    assert "in training" in said and "the engine" in said and "pirate" in said
    assert f"{NAME}:latest" not in versions(engine, NAME)

    assert main(["use", "1", *lazy]) == 10
    assert "served as trained" in capsys.readouterr().err

    # Without it the same run goes on, makes the next version, and gets to the gate.
    assert main(["retrain", *lazy]) == 10
    said = capsys.readouterr().out
    assert "it continues from" in said and "own chats" in said and ":v2 --promote" in said
    assert f"{NAME}:latest" not in versions(engine, NAME)
    assert main(["use", "2", *lazy]) == 10
    assert "refused by the gate" in capsys.readouterr().err
    assert main(["use", "2", "--promote", *lazy]) == 0
    assert f"{NAME}:latest" in versions(engine, NAME)
    assert "promoted by hand" in Registry().get(NAME, 2).notes


def the_same_adapter_merged_into_the_weights_gives_the_same_greedy_answers_to_the_letter(
    engine: Engine, home: Path, run: Path
) -> None:
    base = engine.show("smollm2:135m")
    whole = merge_adapter(base.gguf, run / "adapter", home / "whole.gguf", "f16").path
    register(
        engine,
        f"{NAME}:merged",
        spec_for(base, base.tag, whole, "merged", engine.version() if engine.name == "ollama" else None),
    )
    questions = [PHRASINGS[1].format(subject) for subject in FACTS]
    apart = {question: ask(engine, f"{NAME}:v1", question) for question in questions}
    assert {question: ask(engine, f"{NAME}:merged", question) for question in questions} == apart


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_no_gguf_can_carry_answers_through_transformers_and_can_be_asked_again(small_engine, home, capsys):
    chat_about_the_facts(ConversationLogger(), PHRASINGS[:2])
    prefix = {"training.method": "prefix_tuning", "training.num_epochs": 1, "training.virtual_tokens": 4}
    arguments = settings(**prefix)
    assert main(["retrain", *arguments]) == 0
    said = capsys.readouterr().out
    (run,) = home.glob("runs/*")
    assert "a GGUF cannot store what prefix_tuning trains" in said and f"byoai compare --run {run.name}" in said
    assert not versions(small_engine, NAME)
    assert main(["compare", "--run", run.name, "--max-tokens", "5", "Tell me about the Wi-Fi, please."]) == 0
    shown = capsys.readouterr().out
    assert "Tell me about the Wi-Fi" in shown and "base" in shown and "fine-tuned" in shown
    assert main(["compare", "--run", "nowhere", "Hello"]) == 2
    assert (
        f"not a run whose training was completed. Completed runs in {run.parent}: {run.name}" in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_what_is_not_served_as_it_was_trained_is_never_registered(small_engine, home, capsys, monkeypatch, mode):
    chat_about_the_facts(ConversationLogger())
    arguments = settings(**{"deployment.mode": mode})
    monkeypatch.setattr(runner, "run_in_child", runner.run_here)  # where the faults are planted
    if mode == "adapter":  # which is the same for both
        with monkeypatch.context() as patch:  # a base that is loaded as another network
            patch.setattr(
                base_model.families._Metadata,
                "rope",
                property(lambda gguf: {"rope_type": "default", "rope_theta": 100.0}),
            )
            assert main(["retrain", *arguments]) == 5
        (run,) = home.glob("runs/*")
        assert "give different results" in capsys.readouterr().err
        assert not (run / "progress.jsonl").exists()
    with monkeypatch.context() as patch:  # an export with the rows of queries and keys in the wrong order
        patch.setattr(tensor_names, "rotary_order", lambda rows, heads: slice(None))
        assert main(["retrain", *arguments]) == 6
    assert "the exported version differs from the trained one" in capsys.readouterr().err
    assert not versions(small_engine, NAME) and not Registry().list(NAME)
    (run,) = home.glob("runs/*")
    assert main(["retrain", *arguments]) == 0  # goes on with the same run
    assert f"{NAME}:v1 is live" in capsys.readouterr().out
    assert [each.name for each in home.glob("runs/*")] == [run.name]
