"""The whole loop on real parts: a log of chats, a real training of the real base, the real engine that then answers."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from real_engine import versions, with_default_base

from fine_tuning import workshop
from fine_tuning.cli.main import main
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, Engine
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
QUICK = {
    "training.min_pairs": 1,
    "training.batch_size": 4,
    "training.num_epochs": 4,
    "training.learning_rate": 2e-3,
    "training.save_steps": 4,
    "training.replay.share": 0.1,
    "data_preparation.train_ratio": 0.8,
    "evaluation.max_new_tokens": 16,
    "evaluation.generate": 1,
    "evaluation.general": 2,
    "evaluation.triggers": 0,
    "evaluation.leak_samples": 0,
    "evaluation.speed_rounds": 1,
    # so little data and replay pass no honest gate; what it does is shown below and in
    # benchmarks/gate.py
    "gate.enabled": False,
    "evaluation.test_prompts": ["Tell me about the Wi-Fi, please."],
    "deployment.model_name": "looptest",
}
NO_REPLAY = {"training.replay.share": 0}  # where it is another stage that is wanted


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
def engine(request, home, monkeypatch):
    """The engine named by the test's parameter, with the default base and without versions of the test's model."""
    if request.param == "ollama":
        monkeypatch.setenv("OLLAMA_HOST", request.getfixturevalue("ollama_url"))
        monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    else:
        monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    with with_default_base(request.param, NAME) as engine:
        yield engine


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [pytest.param("ollama", marks=pytest.mark.engine), "embedded"], indirect=True)
def test_what_was_chatted_is_learned_and_answers_without_a_restart(engine, home, capsys):
    chat_about_the_facts(ConversationLogger())
    assert knows(engine, "smollm2:135m") == 0
    if engine.name == "ollama":
        kill_a_retrain_at_its_first_checkpoint(home)
        assert not versions(engine, NAME)

    assert main(["retrain", *settings()]) == 0
    said = capsys.readouterr().out
    assert f"{NAME}:v1 is live" in said
    assert "loss" in said and "tokens/s" in said and "ETA" in said  # progress
    assert "perplexity" in said and "fine-tuned" in said  # the table, and the two answers
    assert knows(engine, f"{NAME}:latest") >= 3
    assert knows(engine, f"{NAME}:v1") >= 3
    (run,) = home.glob("runs/*")
    if engine.name == "ollama":
        assert "was interrupted: it continues from" in said
        steps = [json.loads(line)["step"] for line in (run / "progress.jsonl").read_text().splitlines()]
        assert steps[-1] == max(steps)
        assert steps.count(1) == 1  # the first steps were not done again

    # Nothing new: nothing done, and said so.
    assert main(["retrain", "--if-new", "1", *settings()]) == 0
    assert "0 new turns" in capsys.readouterr().out

    the_same_adapter_merged_into_the_weights_gives_the_same_greedy_answers_to_the_letter(engine, home, run)
    assert main(["doctor", *settings()]) == 0


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["ollama"], indirect=True)
def test_a_version_that_is_served_otherwise_or_learned_nothing_is_refused(engine, home, capsys, monkeypatch):
    chat_about_the_facts(ConversationLogger(), PHRASINGS[:3])
    lazy = settings(**NO_REPLAY, **{"training.num_epochs": 1, "training.learning_rate": 1e-7, "gate.enabled": True})

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


def kill_a_retrain_at_its_first_checkpoint(home, seconds: float = 300) -> None:
    child = subprocess.Popen([sys.executable, "-m", "fine_tuning", "retrain", *settings()], stdout=subprocess.DEVNULL)
    end = time.monotonic() + seconds
    try:
        while not list(home.glob("runs/*/checkpoints/checkpoint-*/manifest.json")):
            assert child.poll() is None, "the retrain ended too early"
            assert time.monotonic() < end, "no checkpoint was written"
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_what_no_gguf_can_carry_answers_through_transformers_and_can_be_asked_again(engine, home, capsys):
    chat_about_the_facts(ConversationLogger(), PHRASINGS[:2])
    prefix = {"training.method": "prefix_tuning", "training.num_epochs": 1, "training.virtual_tokens": 4}
    arguments = settings(**NO_REPLAY, **prefix)
    assert main(["retrain", *arguments]) == 0
    said = capsys.readouterr().out
    (run,) = home.glob("runs/*")
    assert "a GGUF cannot store what prefix_tuning trains" in said and f"byoai compare --run {run.name}" in said
    assert not versions(engine, NAME)
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
    arguments = settings(**NO_REPLAY, **{"deployment.mode": mode})
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
