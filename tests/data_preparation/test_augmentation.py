"""Variants of conversations lie beside them in the train split, labelled, and nowhere else."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.config import DataPreparation, load_config
from fine_tuning.config.augmentation import Augmentation
from fine_tuning.config.mix import Mix
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_preparation.augmentation import Augmenter
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, delete_datasets_of
from fine_tuning.data_preparation.split import SPLITS
from fine_tuning.errors import ConfigError
from fine_tuning.training.cross_validation import _parts
from fine_tuning.training.packing import TokenRow

NOISE = Augmentation(noise=2)
WORDS = "anchor basket candle drawer engine feather garden hammer island jacket kettle ladder mirror needle orange"
THINGS = WORDS.split()


def asked(things: list[str] = THINGS, turns: int = 1) -> list[Conversation]:
    """A conversation about each thing."""
    return [
        Conversation(
            id=thing,
            turns=tuple(
                Turn(
                    id=f"{thing}-{number}",
                    session_id=thing,
                    timestamp="",
                    user_message=f"Where does the {thing * (number + 1)} stand today?",
                    bot_response=f"{thing[::-1]} {thing * 3} {number + 7}",
                )
                for number in range(turns)
            ),
        )
        for thing in things
    ]


def records(dataset: Dataset, split: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset.path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def questions(record: dict[str, Any]) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


def answers(record: dict[str, Any]) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "assistant"]


def test_without_it_the_dataset_is_the_one_of_before(home: Path) -> None:
    dataset = build_dataset(asked(), DataPreparation())
    assert build_dataset(asked(), DataPreparation(), augmentation=Augmentation()) == dataset
    assert not any("augmented" in record for record in records(dataset))
    assert "augmented" not in dataset.manifest


@pytest.mark.parametrize("turns", [1, 3])
def test_each_training_conversation_has_its_variants_behind_it(home: Path, turns: int) -> None:
    dataset = build_dataset(asked(turns=turns), DataPreparation(), augmentation=NOISE)
    found = records(dataset)
    originals = [record for record in found if "augmented" not in record]
    assert len(found) == 3 * len(originals)
    for place, original in enumerate(originals):
        one, other = found[3 * place + 1 : 3 * place + 3]
        assert found[3 * place] == original
        assert (one["id"], other["id"]) == (f"{original['id']}~noise-1", f"{original['id']}~noise-2")
        for variant in (one, other):
            assert answers(variant) == answers(original)
            assert variant["augmented"]["how"] == "noise"
            changed = [old != new for old, new in zip(questions(original), questions(variant), strict=True)]
            assert variant["augmented"]["of"] == [
                f"{original['id']}-{number}" for number, differs in enumerate(changed) if differs
            ]
        assert not set(questions(one)) & set(questions(other)) - set(questions(original))


def test_what_is_held_out_has_no_variants_and_is_what_it_is_without_them(home: Path) -> None:
    plain, varied = (build_dataset(asked(), DataPreparation(), augmentation=each) for each in (Augmentation(), NOISE))
    for split in SPLITS[1:]:
        assert records(plain, split) == records(varied, split) != []
    held_out = {record["id"] for split in SPLITS[1:] for record in records(varied, split)}
    assert not held_out & {record["id"].partition("~")[0] for record in records(varied)}


def test_the_card_counts_them(home: Path) -> None:
    plain, varied = (
        build_dataset(asked(turns=2), DataPreparation(), augmentation=each) for each in (Augmentation(), NOISE)
    )
    train = plain.manifest["splits"]["train"]
    assert varied.manifest["splits"]["train"] == {unit: 3 * count for unit, count in train.items()}
    assert varied.manifest["augmented"] == {"noise": {unit: 2 * count for unit, count in train.items()}}
    assert varied.manifest["turn_ids"] == plain.manifest["turn_ids"]


def test_forgetting_a_turn_forgets_its_variants(home: Path) -> None:
    dataset = build_dataset(asked(), DataPreparation(), augmentation=NOISE)
    turn = records(dataset)[1]["augmented"]["of"][0]
    assert delete_datasets_of([turn]) == [dataset.path]
    assert not dataset.path.exists()
    thing = turn.partition("-")[0]
    again = build_dataset(asked([each for each in THINGS if each != thing]), DataPreparation(), augmentation=NOISE)
    assert not any(thing in question for record in records(again) for question in questions(record))


def test_no_turn_has_more_variants_than_the_cap(home: Path) -> None:
    dataset = build_dataset(asked(turns=2), DataPreparation(), augmentation=Augmentation(noise=5, most_per_turn=3))
    of = Counter(id for record in records(dataset) for id in record.get("augmented", {"of": []})["of"])
    assert set(of.values()) == {3}


def test_they_are_in_an_epoch_as_often_as_their_original(home: Path) -> None:
    mix = Mix(shares={"chats": 0.5, "other": 0.5})
    others = [
        each.model_copy(
            update={"turns": tuple(turn.model_copy(update={"metadata": {"source": "other"}}) for turn in each.turns)}
        )
        for each in asked(THINGS[:3])
    ]
    whole = DataPreparation(train_ratio=1, validation_ratio=0, test_ratio=0)
    dataset = build_dataset([*asked(THINGS[3:]), *others], whole, mix=mix, augmentation=Augmentation(noise=1))
    often = Counter(record["id"] for record in records(dataset))
    assert max(often.values()) > 1
    assert all(often[f"{id}~noise-1"] == count for id, count in often.items() if "~" not in id)


def test_the_same_log_makes_the_same_variants_and_another_seed_makes_others(home: Path) -> None:
    dataset = build_dataset(asked(), DataPreparation(), augmentation=NOISE)
    before = records(dataset)
    delete_datasets_of([f"{THINGS[0]}-0"])
    assert records(build_dataset(asked(), DataPreparation(), augmentation=NOISE)) == before
    other = build_dataset(asked(), DataPreparation(seed=1), augmentation=NOISE)
    assert {question for each in records(other) for question in questions(each)} != {
        question for each in before for question in questions(each)
    }


def test_no_variant_asks_what_is_held_out() -> None:
    told = {"id": "a", "messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]}
    made = {"paraphrase": (2, lambda record, place, number: ["What one?", "Which one?"][number - 1])}
    found = list(Augmenter(made, 4, {"which one"}).beside([(told, ["t"], 1)]))
    assert [questions(each) for each in found] == [["Which?"], ["What one?"]]


def test_a_conversation_and_its_variants_are_in_one_part_of_a_cross_validation() -> None:
    rows = [TokenRow([number, extra], [False, True], origin=f"c{number}") for number in range(5) for extra in range(3)]
    parts = _parts(rows, 3)
    assert sorted(len(part) for part in parts) == [3, 6, 6]
    origins = [{row.origin for row in part} for part in parts]
    assert sum(map(len, origins)) == 5


@pytest.mark.parametrize("key", ["noise=-1", "noise=100", "noise_rate=2", "most_per_turn=0", "typos=3"])
def test_a_wrong_setting_is_named(key: str) -> None:
    name, _, value = key.partition("=")
    with pytest.raises(ConfigError, match=re.escape(f"augmentation.{name}")):
        load_config(overrides={f"augmentation.{name}": value})
