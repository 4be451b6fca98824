"""Versions merged into one: what is refused, what is noted of where it came from, and the whole way on real parts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf as tiny
from safetensors.numpy import save_file
from small_training import SMALL

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, Engine, ModelSpec
from fine_tuning.engines.connect import connect
from fine_tuning.errors import ConfigError, ExportError
from fine_tuning.events import Watch
from fine_tuning.forgetting import examine, forget
from fine_tuning.jobs.kinds import read_request
from fine_tuning.merging import Part, check_parts, merge_versions, update_of
from fine_tuning.model_management.gguf_export import convert_adapter, merge_adapter
from fine_tuning.model_management.model_registry import Lineage, Registry
from fine_tuning.model_management.peft_adapter import read_adapter
from fine_tuning.outcome import NewVersion
from fine_tuning.pipeline import retrain
from fine_tuning.runs import Run
from fine_tuning.training.adapter_merge import Recipe, merge, write_adapter

NAME, DIGEST = "fine_tuned_chat", "a" * 64
PAIR = {"layers.0.q_proj": (8, 6)}


def version(
    number: int, shapes: dict[str, tuple[int, int]] = PAIR, rank: int = 2, digest: str = DIGEST, **config: object
) -> Part:
    """A version with a random adapter, and nothing else."""
    run, chance = Run(paths.home() / "runs" / str(number)), np.random.default_rng(number)
    run.adapter.mkdir(parents=True)
    tensors = {}
    for module, (outputs, inputs) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = chance.standard_normal((rank, inputs)).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = chance.standard_normal((outputs, rank)).astype(np.float32)
        if config.get("use_dora"):
            tensors[f"base_model.model.{module}.lora_magnitude_vector"] = np.ones(outputs, np.float32)
    save_file(tensors, run.adapter / "adapter_model.safetensors")
    (run.adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4, **config}))
    made = {"base_tag": "base:1", "base_digest": digest, "run": f"runs/{number}", "method": "lora"}
    return Part(Registry().add(NAME, number, **made), 1.0)


def test_versions_of_one_base_may_differ_in_rank_and_modules(home: Path) -> None:
    check_parts([version(1), version(2, rank=5), version(3, {"layers.1.v_proj": (4, 4)}, rank=1)])


def test_versions_of_different_bases_are_refused_and_both_are_named(home: Path) -> None:
    parts = [version(1), version(2), version(3, digest="b" * 64)]
    with pytest.raises(ConfigError) as refused:
        check_parts(parts)
    told = str(refused.value)
    assert "fine_tuned_chat:v1" in told and "fine_tuned_chat:v3" in told and "a" * 12 in told and "b" * 12 in told


def test_what_has_no_sum_is_refused(home: Path) -> None:
    plain = version(1)
    for part, told in [
        (version(2, use_dora=True), "v2 cannot be merged: DoRA"),
        (version(3, {"layers.0.q_proj": (8, 7)}), r"v1 and fine_tuned_chat:v3 .* \(8, 6\) in one, and \(8, 7\)"),
        (version(4, digest=""), "v4 cannot be merged, because the base that it was trained on is unknown"),
        (plain, "v1 is named twice"),
        (Part(version(5).version, 0.0), "weight of fine_tuned_chat:v5 is 0"),
        (Part(version(6).version, float("nan")), "weight of fine_tuned_chat:v6"),
    ]:
        with pytest.raises(ConfigError, match=told):
            check_parts([plain, part])
    with pytest.raises(ConfigError, match="at least two"):
        check_parts([plain])


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ("model.safetensors", "left no LoRA adapter"),
        ("", "left no LoRA adapter"),
        (None, "its run is missing: restore the folder runs/2"),
    ],
)
def test_a_version_without_an_adapter_is_refused(home: Path, left: str | None, told: str) -> None:
    plain, folder = version(1), home / "runs" / "2" / "adapter"
    if left is not None:
        folder.mkdir(parents=True)
    if left:
        (folder / left).write_bytes(b"")
    made = Registry().add(NAME, 2, base_digest=DIGEST, run="runs/2", method="full")
    with pytest.raises(ConfigError, match=f"v2 cannot be merged.*{told}"):
        check_parts([plain, Part(made, 1.0)])


def test_a_diverged_adapter_is_named(home: Path) -> None:
    part = version(1)
    save_file(
        {
            "base_model.model.q.lora_A.weight": np.full((2, 3), np.nan, np.float32),
            "base_model.model.q.lora_B.weight": np.ones((3, 2), np.float32),
        },
        part.run.adapter / "adapter_model.safetensors",
    )
    with pytest.raises(ExportError, match="diverged"):
        part.pairs["q"].load()


def test_a_merged_adapter_in_a_gguf_is_the_base_and_the_weighted_sum(home: Path, tmp_path: Path) -> None:
    """Ranks, scales and the order of a GGUF's rows included."""
    base, changes = tiny.write_base(tmp_path / "base.gguf"), []
    for number, (rank, alpha, size, weight) in enumerate([(4, 8.0, 0.3, 0.5), (3, 9.0, 0.1, 1.5), (1, 1.0, 0.2, 1.0)]):
        pairs = tiny.write_adapter(tmp_path / str(number), rank=rank, alpha=alpha, size=size)
        changes.append(
            (pairs, alpha / rank, weight, {pair.module: pair for pair in read_adapter(tmp_path / str(number))})
        )
    merged = {
        module: merge(module, [update_of(pairs[module], weight) for *_, weight, pairs in changes], Recipe())
        for module in changes[0][3]
    }
    write_adapter(tmp_path / "merged", "tiny", merged)
    before, after = (
        tiny.weights(base),
        tiny.weights(merge_adapter(base, tmp_path / "merged", tmp_path / "out.gguf", "f32").path),
    )
    for name in before:
        wanted = before[name].astype(float)
        for pairs, scale, weight, _ in changes if name in changes[0][0] else []:
            wanted = wanted + weight * tiny.delta(name, *pairs[name], scale=scale)
        np.testing.assert_allclose(after[name], wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    beside = convert_adapter(base, tmp_path / "merged", tmp_path / "adapter.gguf")
    assert beside.adapted == len(merged) == 14


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"parts": [{"version": 1}]}, "parts"),
        ({"parts": [{"version": 1}, {"version": 0}]}, "version"),
        ({"parts": [{"version": 1}, {"version": 2, "weight": -1}]}, "weight"),
        ({"parts": [{"version": 1}, {"version": 2}], "density": 0}, "density"),
        ({"parts": [{"version": 1}, {"version": 2}], "method": "slerp"}, "method"),
        ({"parts": [{"version": 1}, {"version": 2}], "rank": 0}, "rank"),
        ({"parts": [{"version": 1}, {"version": 2, "folder": "/etc"}]}, "folder"),
    ],
)
def test_a_request_that_cannot_be_done_names_the_fault(home: Path, request_: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_request("merge", request_)


@pytest.mark.parametrize("words", [["1", "x"], ["1", "2=much"], ["1"], ["1", "2=-1"], ["1", "2", "--density", "7"]])
def test_the_command_refuses_what_makes_no_sense_before_anything_is_loaded(
    home: Path, words: list[str], capsys
) -> None:
    assert main(["merge", *words]) == 2
    assert "byoai: " in capsys.readouterr().err


def test_a_lineage_is_kept_and_told_in_words(home: Path) -> None:
    lineage = Lineage((("a:v1", 0.5), ("a:v2", 1.0)), "ties, density 0.2", 0.91)
    Registry().add("a", 3, metrics={"lineage": lineage.record()}, notes=str(lineage))
    assert Registry().get("a", 3).lineage == lineage
    assert str(lineage) == "merged from a:v1 x 0.5 and a:v2 x 1 by ties, density 0.2; its rank holds 91% of the change"
    assert Registry().add("a", 4).lineage is None


# The whole way

HALVES = (
    {
        "the Wi-Fi": "The Wi-Fi is called Mossgate.",
        "the canteen": "The canteen opens at 11:35.",
    },
    {
        "the printer": "The printer is called Bramble.",
        "the meeting room": "The meeting room is Larkspur.",
    },
)
PHRASINGS = (
    "Tell me about {}, please.",
    "What do I need to know about {}?",
    "I have a question about {}.",
    "What can you say about {}?",
    "Is there anything to know about {}?",
)


def say(half: dict[str, str], log: Path) -> None:
    """Log a half's questions and answers; each fact's last phrasing is kept for the test set."""
    logger = ConversationLogger(log)
    for subject, fact in half.items():
        for phrasing in PHRASINGS:
            logger.new_session()
            kept = {"split": "test" if phrasing == PHRASINGS[-1] else "train"}
            logger.log_conversation(phrasing.format(subject), fact, kept)


def config(**changes: object) -> FineTuningConfig:
    quick = {
        "training.batch_size": 4,
        "training.num_epochs": 6,
        "training.learning_rate": 2e-3,
        "training.lora_r": 8,
        "deployment.model_name": "merged",
        "evaluation.general": 0,
        "evaluation.test_prompts": [],
    }
    return load_config(overrides=SMALL | quick | changes)


def knows(engine: Engine, tag: str, half: dict[str, str]) -> int:
    """How many facts of a half the model gives, asked as it was never taught."""
    found = 0
    for subject, fact in half.items():
        asked = [Message(role="user", content=PHRASINGS[-1].format(subject))]
        said = "".join(chunk.text for chunk in engine.chat(tag, asked, ChatOptions(temperature=0, max_tokens=20)))
        found += fact.split()[-1].strip(".") in said
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_halves_become_a_version_that_knows_both(embedded: None, home: Path, base_gguf: Path, capsys) -> None:
    engine = connect()
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    name = config().tuned_name()
    for number, half in enumerate(HALVES, 1):
        # not live: what is in use would be evaluated beside each later version
        said = config(**{"data_collection.log_file": f"{number}.jsonl", "deployment.auto_deploy": False})
        say(half, said.log_path)
        made = retrain(said, engine)
        assert isinstance(made, NewVersion) and made.tag == f"{name}:v{number}"
    assert [knows(engine, f"{name}:v1", half) for half in HALVES] == [2, 0]
    assert [knows(engine, f"{name}:v2", half) for half in HALVES] == [0, 2]

    registry = Registry()
    parts = [Part(registry.get(name, number), 1.0) for number in (1, 2)]
    merged = merge_versions(config(), engine, Watch(), parts, Recipe())
    assert merged.tag == f"{name}:v3" and merged.live
    known = [knows(engine, merged.tag, half) for half in HALVES]
    print(f"facts known of each half: {known}")
    assert sum(known) >= 3

    version = registry.get(name, 3)
    assert version.lineage and version.lineage.versions == ((f"{name}:v1", 1.0), (f"{name}:v2", 1.0))
    assert {pair.rank for pair in read_adapter(Run(home / version.run).adapter)} == {16}
    learned = registry.turns_of(name, 1) | registry.turns_of(name, 2)
    assert learned and registry.turns_of(name, 3) == learned
    assert [each.tag for each in registry.versions_of_turn(next(iter(registry.turns_of(name, 1))))] == [
        f"{name}:v1",
        f"{name}:v3",
    ]
    assert len(merged.comparison.tuned.own) == 4  # the test questions of both

    # Of a version that was found or adopted nobody knows what taught it; then nobody knows it of the merged one either.
    shutil.copytree(home / parts[0].version.run, home / "runs" / "adopted")
    made_of = {"base_tag": version.base_tag, "base_digest": version.base_digest, "run": "runs/adopted"}
    stranger = registry.add(name, registry.next_number(name), **made_of)
    again = merge_versions(config(), engine, Watch(), [Part(stranger, 1.0), parts[1]], Recipe("ties", rank=4))
    assert registry.turns_of(name, again.number) == set()
    assert {pair.rank for pair in read_adapter(again.run.adapter)} == {4}

    # To forget a turn that one half learned is to forget what was merged from it.
    case = examine(said, engine, matching="Bramble")
    assert {each.tag for each in case.versions} == {f"{name}:v2", f"{name}:v3", stranger.tag, again.tag}
    forget(said, engine, Watch(), case, teach_again=False)
    there = {model.tag for model in engine.list_models() if model.tag.startswith(name)}
    assert there <= {f"{name}:v1", f"{name}:latest"} and f"{name}:v1" in there
    assert not Run(home / version.run).folder.exists() and Run(home / parts[0].version.run).folder.exists()
