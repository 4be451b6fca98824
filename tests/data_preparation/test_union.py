"""The union of datasets: what tests it was learned by none of them."""

from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import DataPreparation
from fine_tuning.conversation import Turn
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, delete_datasets_of
from fine_tuning.data_preparation.union import unite
from fine_tuning.errors import ByoaiError, DataError

SUBJECTS = (
    "canteen opens at half past eleven",
    "printer upstairs is called Bramble",
    "visitors wear turquoise badges",
    "laptops are swapped after three years",
    "overtime needs a signature beforehand",
    "parking lot closes before midnight",
)


def dataset(**splits: str) -> Dataset:
    """A dataset of the subjects named by digits: `train="01", test="2"`. Digit 0 of every dataset is the same turn."""
    turns = [
        Turn(
            id=f"turn-{digit}",
            session_id=f"session-{digit}",
            timestamp="2026-03-02T09:06:25+00:00",
            user_message=f"Tell me something about number {digit}: which {SUBJECTS[int(digit)].split()[0]}?",
            bot_response=f"The {SUBJECTS[int(digit)]}.",
            metadata={"split": split},
        )
        for split, digits in splits.items()
        for digit in digits
    ]
    from fine_tuning.conversation import conversations_of

    return build_dataset(conversations_of(turns), DataPreparation())


def digits(of: Dataset, split: str) -> str:
    records = paths.read_jsonl(of.path / f"{split}.jsonl", lambda record: record["id"], "a record", DataError)
    return "".join(sorted(id.removeprefix("session-").partition("/")[0] for id in records))


@pytest.mark.parametrize(
    ("one", "other", "train", "validation", "test"),
    [
        ({"train": "01", "test": "2"}, {"train": "34", "test": "5"}, "0134", "", "25"),
        ({"train": "01", "test": "2"}, {"train": "23", "test": "5"}, "0123", "", "5"),  # 2 was learned by the other
        ({"train": "01", "test": "2"}, {"train": "012"}, "012", "", ""),
        ({"train": "01", "test": "2"}, {"train": "01", "test": "2"}, "01", "", "2"),
        ({"train": "0", "validation": "1", "test": "2"}, {"train": "1", "test": "23"}, "01", "", "23"),
        ({"train": "0", "validation": "1"}, {"train": "3", "test": "1"}, "03", "1", ""),
        ({"train": "0", "test": "2"}, {"train": "013", "test": "25"}, "013", "", "25"),  # the log has grown
    ],
)
def test_what_any_of_them_learned_tests_nothing(
    home: Path, one: dict[str, str], other: dict[str, str], train: str, validation: str, test: str
) -> None:
    first, second = dataset(**one), dataset(**other)
    united = unite([first.path, second.path], ["from-elsewhere"])
    assert [digits(united, split) for split in ("train", "validation", "test")] == [train, validation, test]
    assert set(united.manifest["turn_ids"]) == {
        "from-elsewhere",
        *(f"turn-{digit}" for splits in (one, other) for digits in splits.values() for digit in digits),
    }
    assert united.manifest["splits"]["test"]["conversations"] == len(test)
    assert unite([second.path, first.path], ["from-elsewhere"]).path == united.path  # whichever is named first


def near(text: str, id: str, split: str) -> Turn:
    return Turn(
        id=id,
        session_id=f"session-{id}",
        timestamp="2026-03-02T09:06:25+00:00",
        user_message=text,
        bot_response="The printer on the second floor is called Bramble, and it prints in colour.",
        metadata={"split": split},
    )


def test_near_duplicates_of_what_another_learned_test_nothing(home: Path) -> None:
    from fine_tuning.conversation import conversations_of

    held = near("What is the printer on the second floor called, please?", "a", "test")
    taught = near("What is the printer on the second floor called, please, tell me?", "b", "train")
    one = build_dataset(
        conversations_of([held, near("Something else entirely is asked.", "c", "train")]), DataPreparation()
    )
    other = build_dataset(conversations_of([taught]), DataPreparation())
    assert unite([one.path, other.path], []).manifest["splits"]["test"]["conversations"] == 0
    both = build_dataset(conversations_of([held, taught]), DataPreparation())  # this one chose to keep it apart
    assert unite([both.path, both.path], []).manifest["splits"]["test"]["conversations"] == 1


def test_forgetting_a_turn_of_either_removes_the_union(home: Path) -> None:
    first, second = dataset(train="01", test="2"), dataset(train="34", test="5")
    united = unite([first.path, second.path], ["elsewhere"])
    assert set(delete_datasets_of(["turn-3"])) == {second.path, united.path}
    again = unite([first.path], ["elsewhere"])
    assert delete_datasets_of(["elsewhere"]) == [again.path]


def test_a_damaged_dataset_is_named(home: Path) -> None:
    first = dataset(train="01", test="2")
    (first.path / "test.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"test\.jsonl, line 1"):
        unite([first.path], [])
    with pytest.raises(ByoaiError, match="manifest"):
        unite([home / "nowhere"], [])
