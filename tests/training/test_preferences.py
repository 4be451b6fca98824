"""Losses and gradients of the packed preference row against TRL's own trainers, on the tiny model."""

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from token_rows import VOCABULARY
from training_run import train
from transformers import AutoModelForCausalLM

from fine_tuning.config import Preferences, Training
from fine_tuning.errors import Cancelled, TrainingError
from fine_tuning.events import Step
from fine_tuning.training.methods import choose_preference_method
from fine_tuning.training.preferences import (
    Pair,
    Rated,
    mismatch,
    pack_preferences,
    pack_preferences_within,
    preference_loss,
    read_preferences,
    with_reference,
)
from fine_tuning.training.trl_trainer import _padding_only

# What the trainers want to be made with; the losses are of tokens.
TEXTS = {"prompt": "a", "chosen": "b", "rejected": "c"}


def texts(count: int, shortest: int = 1) -> list[list[int]]:
    draw = random.Random(7)
    return [[draw.randrange(1, VOCABULARY) for _ in range(draw.randint(shortest, 9))] for _ in range(count)]


def adapted(base: Path):
    """A model with a LoRA adapter that does nothing yet."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)


def move(model) -> None:
    """Away from the base, the same way each time."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".default." in name:
            torch.nn.init.normal_(parameter, std=0.5)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name.replace("base_model.model.", ""): p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(base: Path, tmp_path: Path, items, examples, trainer_of) -> None:
    """Ours, with the base as reference, beside TRL's."""
    model = adapted(base)
    items = with_reference(model, items)
    move(model)
    mine, rewards = preference_loss(model, pack_preferences(items), beta=0.3)
    found = gradients(model, mine)
    words = _padding_only()
    words.eos_token = words.pad_token
    trainer = trainer_of(adapted(base), train_dataset=Dataset.from_list([TEXTS] * 2), processing_class=words)
    move(trainer.model)  # now, as TRL takes the adapter that it is given for the reference
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-5)
    wanted = gradients(trainer.model, theirs)
    assert found.keys() == wanted.keys() and rewards.abs().max() > 0.01
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-3)


def test_pairs_in_several_passes_have_the_loss_of_one(tiny_base):
    prompts, chosen, rejected = texts(7, 4), texts(14)[:7], texts(14)[7:]
    model = adapted(tiny_base)
    items = with_reference(model, [Pair(*sides) for sides in zip(prompts, chosen, rejected, strict=True)], tokens=40)
    move(model)
    whole = preference_loss(model, pack_preferences(items), beta=0.3)[0].item()
    parts = pack_preferences_within(items, 60)
    assert len(parts) > 2 and sum(len(part["reference"]) for part in parts) == 14
    losses = [preference_loss(model, part, beta=0.3)[0].item() * len(part["reference"]) / 14 for part in parts]
    assert sum(losses) == pytest.approx(whole, abs=1e-5)
    assert len(pack_preferences_within([Rated(prompts[0], chosen[0], True, rejected[0])] * 3, 1)) == 1


def test_dpo_has_the_loss_and_gradients_of_trl(tiny_base, tmp_path):
    from trl import DPOConfig, DPOTrainer

    prompts, chosen, rejected = texts(5, 4), texts(10)[:5], texts(10)[5:]
    pairs = [Pair(*sides) for sides in zip(prompts, chosen, rejected, strict=True)]
    examples = [{"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected} for pair in pairs]
    config = DPOConfig(str(tmp_path), beta=0.3, use_cpu=True, report_to=[], gradient_checkpointing=False, bf16=False)
    compare(
        tiny_base,
        tmp_path,
        pairs,
        examples,
        partial(DPOTrainer, args=config),
    )


def test_kto_has_the_loss_and_gradients_of_trl(tiny_base, tmp_path):
    from trl import KTOConfig, KTOTrainer

    ratings = list(zip(texts(5, 4), texts(10)[:5], [True, False, True, True, False], strict=True))
    items = mismatch(ratings)
    examples = [
        {
            "prompt_ids": item.prompt,
            "completion_ids": item.answer,
            "KL_completion_ids": item.other,
            "label": item.wanted,
        }
        for item in items
    ]
    config = KTOConfig(
        str(tmp_path),
        beta=0.3,
        use_cpu=True,
        report_to=[],
        gradient_checkpointing=False,
        bf16=False,
        per_device_train_batch_size=5,
    )
    compare(
        tiny_base,
        tmp_path,
        items,
        examples,
        partial(KTOTrainer, args=config),
    )


def test_both_answers_share_their_prompt_in_the_packed_row():
    batch = pack_preferences([Pair([1, 2, 3, 4], [5, 6], [7])])
    assert sorted(batch["input_ids"][0].tolist()) == [1, 2, 3, 4, 5]  # what comes last in an answer predicts nothing
    assert batch["answers"].tolist() == [0, 0, 1]


def test_no_rating_is_compared_with_an_answer_to_its_own_prompt():
    """Both sides of an edit are ratings of one prompt; from their own answers nobody could tell how
    far the model has moved elsewhere.
    """
    ratings = [([index // 2], [index], index % 2 == 0) for index in range(6)]
    items = mismatch(ratings)
    assert [(item.answer[0], item.other[0]) for item in items] == [(0, 5), (1, 5), (2, 1), (3, 1), (4, 3), (5, 3)]
    assert all(item.prompt[0] != item.other[0] // 2 for item in items)
    assert [item.other for item in mismatch([([1], [2], True), ([1], [3], False)])] == [[3], [2]]  # there is no other


def test_rows_are_read_and_a_bad_line_is_named(tmp_path):
    file = tmp_path / "preferences.jsonl"
    pair, rating = (
        '{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}',
        '{"prompt_ids": [1], "completion_ids": [2], "label": false}',
    )
    file.write_text(f"{pair}\n{rating}\n")
    assert read_preferences(file) == ([Pair([1], [2], [3])], [([1], [2], False)])
    file.write_text('{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}\n{"prompt_ids": [1]}\n')
    with pytest.raises(TrainingError, match=r"preferences\.jsonl, line 2: not a preference"):
        read_preferences(file)


# Trained with, after the chats


SETTINGS = Training(
    method="lora",
    lora_r=4,
    batch_size=4,
    num_epochs=1,
    dtype="float32",
    products="blas",
    save_steps=1,
    preferences=Preferences(learning_rate=1e-2, num_epochs=5, least=4),
)


@pytest.fixture
def preference_file(tmp_path: Path) -> Path:
    """Six questions, each of which wants the first of two answers; and as single ratings."""
    file = tmp_path / "preferences.jsonl"
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    records = [
        dict(zip(keys, sides, strict=True)) for sides in zip(texts(6, 4), texts(12)[:6], texts(12)[6:], strict=True)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.parametrize("how", ["dpo", "kto"])
def test_after_the_chats_the_model_prefers_what_people_did(tiny_base, row_folder, preference_file, tmp_path, how):
    wanted = SETTINGS.preferences.model_copy(update={"method": how, "num_epochs": 12})
    settings, seen = SETTINGS.model_copy(update={"preferences": wanted}), []
    result = train(tiny_base, row_folder, tmp_path / "run", settings, report=seen.append, preferences=preference_file)
    assert [step.part for step in seen] == ["chats"] * result.steps + ["preferences"] * result.preference_steps
    parts = [step for step in seen if step.part == "preferences"]
    assert result.preference_steps == parts[-1].steps == 12 * {"dpo": 3, "kto": 6}[how]
    assert parts[-1].loss < parts[0].loss
    assert result.agreement == 1.0


def test_a_run_killed_among_the_preferences_goes_on_to_the_very_same_adapter(
    tiny_base, row_folder, preference_file, tmp_path
):
    whole = train(tiny_base, row_folder, tmp_path / "whole", SETTINGS, preferences=preference_file)
    seen: list[Step] = []

    def cut() -> bool:
        return sum(step.part == "preferences" for step in seen) >= 4

    with pytest.raises(Cancelled):
        train(tiny_base, row_folder, tmp_path / "cut", SETTINGS, None, seen.append, cut, preferences=preference_file)
    again: list[Step] = []
    result = train(tiny_base, row_folder, tmp_path / "cut", SETTINGS, None, again.append, preferences=preference_file)
    assert {step.part for step in again} == {"preferences"} and again[0].step > 4  # the chats were not learned again
    for name, weight in load_file(whole.adapter / "adapter_model.safetensors").items():
        assert torch.equal(load_file(result.adapter / "adapter_model.safetensors")[name], weight)


@pytest.mark.parametrize(
    ("pairs", "ratings", "method", "chosen"),
    [
        (8, 0, "auto", "dpo"),
        (7, 0, "auto", "kto"),
        (3, 2, "auto", "kto"),
        (3, 1, "auto", None),
        (0, 9, "dpo", None),
        (9, 9, "off", None),
    ],
)
def test_pairs_are_compared_where_there_are_enough_and_else_rated(pairs, ratings, method, chosen):
    assert choose_preference_method(pairs, ratings, Preferences(method=method, least=8)) == chosen
