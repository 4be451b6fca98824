import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fine_tuning import paths
from fine_tuning.config import DataPreparation
from fine_tuning.conversation import Conversation, Message, Turn
from fine_tuning.data_preparation import dataset_builder
from fine_tuning.data_preparation.dataset_builder import (
    VERSION,
    Dataset,
    build_dataset,
    delete_datasets_of,
    tokenize_dataset,
)
from fine_tuning.data_preparation.kept_rows import EarlierRows
from fine_tuning.data_preparation.manifest import read_facts, read_turn_ids, write_manifest
from fine_tuning.data_preparation.split import SPLITS
from fine_tuning.errors import ByoaiError, DataError, NoConversations, TooLittleData
from fine_tuning.row_index import counts_of, read_index
from fine_tuning.training.workload import computed_rows

SETTINGS = DataPreparation()
# Thirty exchanges that have next to no words in common.
WORDS = (
    "anchor basket candle drawer engine feather garden hammer island jacket kettle ladder mirror needle orange "
    "pencil quarry ribbon saddle "
    "tunnel umbrella violin window xylophone yogurt zipper bottle cactus dragon eraser"
)
THINGS = WORDS.split()
ANSWERS = [
    f"{thing[::-1]} {thing * 2} {other[::-1]} {other}"
    for thing, other in zip(THINGS, THINGS[7:] + THINGS[:7], strict=True)
]


def conversation(
    name: str, *pairs: tuple[str, str], session: str | None = None, system: str | None = None
) -> Conversation:
    turns = [
        Turn(id=f"{name}-{i}", session_id=session or name, timestamp="", user_message=user, bot_response=bot)
        for i, (user, bot) in enumerate(pairs)
    ]
    return Conversation(id=session or name, turns=tuple(turns), system=system)


@pytest.fixture
def conversations() -> list[Conversation]:
    return [
        conversation(f"c{i}", (thing, answer)) for i, (thing, answer) in enumerate(zip(THINGS, ANSWERS, strict=True))
    ]


def records(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").split("\n") if line]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_ino) for file in sorted(folder.rglob("*"))}


def split_of(dataset: Dataset) -> dict[str, str]:
    return {record["id"]: split for split in ("train", "validation", "test") for record in records(dataset.path, split)}


def test_a_dataset_holds_every_conversation_once_split_by_the_ratios(
    home: Path, conversations: list[Conversation]
) -> None:
    dataset = build_dataset(conversations, SETTINGS)
    assert dataset.path.parent == home / "datasets"
    found = [record for split in ("train", "validation", "test") for record in records(dataset.path, split)]
    assert sorted(record["id"] for record in found) == sorted(conversation.id for conversation in conversations)
    assert {record["id"]: record["messages"] for record in found} == {
        conversation.id: [message.model_dump() for message in conversation.messages()] for conversation in conversations
    }
    sizes = {split: size["conversations"] for split, size in dataset.manifest["splits"].items()}
    assert sizes == {"train": 24, "validation": 3, "test": 3}


def test_the_manifest_tells_what_went_in_and_what_did_not(home: Path) -> None:
    given = [conversation("a", ("Hi", "Hello"), ("Bye", "See you"), system="Be kind")]
    dataset = build_dataset(given, SETTINGS, dropped={"too_short": 3, "duplicate": 1})
    assert dataset.manifest == json.loads((dataset.path / "manifest.json").read_text())
    assert dataset.manifest["turn_ids"] == ["a-0", "a-1"]
    assert dataset.manifest["dropped"] == {"too_short": 3, "duplicate": 1}
    assert dataset.manifest["seed"] == SETTINGS.seed
    assert dataset.manifest["settings"] == SETTINGS.model_dump(mode="json", exclude={"own_words"})
    assert dataset.manifest["splits"]["train"] == {"conversations": 1, "turns": 2}
    assert dataset.manifest["splits"]["test"] == {"conversations": 0, "turns": 0}
    assert records(dataset.path, "train")[0]["messages"][0] == {"role": "system", "content": "Be kind"}


def test_the_same_input_is_not_built_twice(home: Path, conversations: list[Conversation]) -> None:
    first = build_dataset(conversations, SETTINGS)
    before = stamps(first.path)
    assert build_dataset(conversations, SETTINGS) == first
    assert stamps(first.path) == before


def test_another_input_or_setting_is_another_dataset(home: Path, conversations: list[Conversation]) -> None:
    edited = [*conversations[:-1], conversation("c29", ("eraser", "something else"))]
    built = [
        build_dataset(conversations, SETTINGS),
        build_dataset(conversations, DataPreparation(seed=1)),
        build_dataset(edited, SETTINGS),
        build_dataset(conversations[:-1], SETTINGS),
        build_dataset(conversations, SETTINGS, dropped={"too_short": 1}),
    ]
    assert len({dataset.path for dataset in built}) == len(built)


@pytest.mark.parametrize("missing", ["manifest.json", "test.jsonl"])
def test_an_unfinished_dataset_is_built_again(home: Path, conversations: list[Conversation], missing: str) -> None:
    first = build_dataset(conversations, SETTINGS)
    whole = {file.name: file.read_bytes() for file in first.path.iterdir()}
    (first.path / missing).unlink()
    (first.path / "train.jsonl").write_text('{"id": "to')
    assert build_dataset(conversations, SETTINGS) == first
    assert {file.name: file.read_bytes() for file in first.path.iterdir()} == whole


def test_near_duplicates_share_a_split_whatever_the_seed(home: Path, conversations: list[Conversation]) -> None:
    question, answer = (
        "How many days do I have to return an opened kettle to your shop in Lindenstrasse?",
        "You have thirty days to return an opened kettle, as long as you have kept the receipt and the box.",
    )
    near = [
        conversation("near-1", (question, answer)),
        conversation("near-2", (question.replace("How many", "how many"), answer)),
        conversation("near-3", (question, answer.replace("receipt and the box", "receipt and its box"))),
    ]
    for seed in range(8):
        of = split_of(build_dataset([*conversations, *near], DataPreparation(seed=seed)))
        assert len({of[name] for name in ("near-1", "near-2", "near-3")}) == 1


def test_the_parts_of_a_session_share_a_split_and_keep_names_of_their_own(
    home: Path, conversations: list[Conversation]
) -> None:
    parts = [
        conversation("one", ("harbour", "ruobrah salt wind"), session="s"),
        conversation("two", ("telescope", "far away moons"), session="s"),
    ]
    for seed in range(8):
        of = split_of(build_dataset([*conversations, *parts], DataPreparation(seed=seed)))
        assert of["s"] == of["s/2"]


def test_the_smallest_datasets_have_something_to_train_on(home: Path, conversations: list[Conversation]) -> None:
    for count in (1, 2, 3):
        assert build_dataset(conversations[:count], SETTINGS).manifest["splits"]["train"]["conversations"] == count


def test_text_with_odd_line_separators_stays_one_record(home: Path) -> None:
    odd = "one\u2028two\x85three\x0bfour\r\nfive"
    dataset = build_dataset([conversation("a", (odd, odd))], SETTINGS)
    assert records(dataset.path, "train")[0]["messages"][0]["content"] == odd


def test_no_conversations_is_said_with_the_cure(home: Path) -> None:
    with pytest.raises(NoConversations, match="No conversations to train on: turn recording on"):
        build_dataset([], SETTINGS)


def test_an_empty_answer_is_refused_by_its_index_and_nothing_is_written(home: Path) -> None:
    with pytest.raises(DataError, match="pair 1"):
        build_dataset([conversation("a", ("Hi", "Hello")), conversation("b", ("Hi", ""))], SETTINGS)
    assert not (home / "datasets").exists()


def test_deleting_turns_removes_the_datasets_that_hold_them_and_unfinished_ones(
    home: Path, conversations: list[Conversation]
) -> None:
    with_it, without = build_dataset(conversations, SETTINGS), build_dataset(conversations[1:], SETTINGS)
    unfinished = home / "datasets" / "half"
    unfinished.mkdir()
    (unfinished / "train.jsonl").write_text("secret")
    assert set(delete_datasets_of(["c0-0"])) == {with_it.path, unfinished}
    assert [folder.name for folder in (home / "datasets").iterdir()] == [without.path.name]
    assert delete_datasets_of(["c0-0"]) == []


def test_deleting_from_an_empty_home_removes_nothing(home: Path) -> None:
    assert delete_datasets_of(["x"]) == []


# --- token rows


def tokenize(dataset: Dataset, served: Any, max_length: int = 2048, key: str = "k") -> tuple[Path, dict[str, Any]]:
    folder = tokenize_dataset(dataset.path, served.render, served.vocabulary, max_length, key)
    return folder, json.loads((folder / "manifest.json").read_text())["splits"]


def test_every_split_becomes_rows_and_is_counted(
    home: Path, all_served: Any, conversations: list[Conversation]
) -> None:
    dataset = build_dataset(conversations, SETTINGS)
    folder, counts = tokenize(dataset, all_served["chatml"])
    assert folder.parent == dataset.path
    for split in ("train", "validation", "test"):
        rows = records(folder, split)
        assert [row["id"] for row in rows] == [record["id"] for record in records(dataset.path, split)]
        assert set().union(*(row["trained"] for row in rows)) == {0, 1}
        assert all(len(row["input_ids"]) == len(row["trained"]) for row in rows)
        assert counts[split] == {
            "conversations": len(rows),
            "turns": len(rows),
            "rows": len(rows),
            "tokens": sum(len(row["input_ids"]) for row in rows),
            "trained_tokens": sum(sum(row["trained"]) for row in rows),
            "cut": 0,
            "dropped": 0,
            "split": 0,
        }


def test_rows_are_made_once_for_a_model_a_template_and_a_length(home: Path, all_served: Any) -> None:
    dataset = build_dataset([conversation("a", ("hello", "hello"))], SETTINGS)
    first, _ = tokenize(dataset, all_served["chatml"])
    before = stamps(first)

    def never(messages: Sequence[Message]) -> str:
        raise AssertionError("rendered again")

    assert tokenize_dataset(dataset.path, never, all_served["chatml"].vocabulary, 2048, "k") == first
    assert stamps(first) == before
    others = [
        tokenize(dataset, all_served["chatml"], max_length=1024)[0],
        tokenize(dataset, all_served["chatml"], key="other")[0],
        tokenize(dataset, all_served["llama2"])[0],
    ]
    assert len({first, *others}) == 4


def test_unfinished_rows_are_made_again(home: Path, all_served: Any) -> None:
    dataset = build_dataset([conversation("a", ("hello", "hello"))], SETTINGS)
    folder, _ = tokenize(dataset, all_served["chatml"])
    rows = records(folder, "train")
    (folder / "manifest.json").unlink()
    (folder / "train.jsonl").write_text("{")
    assert tokenize(dataset, all_served["chatml"])[0] == folder
    assert records(folder, "train") == rows


def test_what_was_cut_dropped_and_split_is_counted(home: Path, all_served: Any) -> None:
    long = " ".join(THINGS * 2)
    given = [
        conversation("short", ("hello", "hello")),
        conversation("cut", ("harbour", "ruobrah salt wind"), ("moon", long)),
        conversation("dropped", (long, "telescope")),
        conversation("thinking", ("why", "<think>hm</think>because"), ("how", "like this")),
    ]
    dataset = build_dataset(
        given, DataPreparation(train_ratio=1, validation_ratio=0, test_ratio=0, teach_thoughts=True)
    )
    folder, counts = tokenize(dataset, all_served["think"], max_length=60)
    assert [row["id"] for row in records(folder, "train")] == ["short", "cut", "thinking", "thinking#2"]
    train = counts["train"]
    assert (train["conversations"], train["turns"], train["rows"]) == (4, 4, 4)
    assert (train["cut"], train["dropped"], train["split"]) == (1, 1, 1)
    assert max(len(row["input_ids"]) for row in records(folder, "train")) <= 60


def test_nothing_that_fits_is_an_error_with_the_cure_and_leaves_no_manifest(home: Path, all_served: Any) -> None:
    dataset = build_dataset([conversation("a", ("hello", "hello"))], SETTINGS)
    with pytest.raises(TooLittleData, match=r"fits into 16 tokens: raise data_preparation\.max_length"):
        tokenize(dataset, all_served["chatml"], max_length=16)
    assert not list(dataset.path.glob("rows-*/manifest.json"))


def test_a_folder_that_is_no_dataset_is_named(home: Path, all_served: Any) -> None:
    with pytest.raises(ByoaiError, match=r"cannot read .*nowhere.manifest\.json"):
        tokenize_dataset(
            paths.datasets_dir() / "nowhere", all_served["chatml"].render, all_served["chatml"].vocabulary, 100, "k"
        )


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_rows_of_a_model_without_a_name_are_refused(
    home: Path, all_served: Any, conversations: list[Conversation], key: str
) -> None:
    dataset, chatml = build_dataset(conversations, SETTINGS), all_served["chatml"]
    with pytest.raises(DataError, match="template_key is empty: give the digest"):
        tokenize_dataset(dataset.path, chatml.render, chatml.vocabulary, 100, key)


# Streams


def odd(*texts: str) -> list[Conversation]:
    return [conversation(text[:3] or "-", (text, f"Answer to {text!r}")) for text in texts]


INPUTS: dict[str, list[Conversation]] = {
    "one": odd("What is it?"),
    "repeated ids": [conversation("a", (f"Question {n}?", f"Answer {n}.")) for n in range(5)],
    "repeated ids apart": [conversation("ab"[n % 2], (f"Question {n}?", f"Answer {n}.")) for n in range(7)],
    "scripts": odd("你好吗？", "Wie geht’s dir\u2028heute?", 'Say "yes"\\no', "😀 und ½", "a\tb\nc", "[], {}"),
    "look-alikes": [
        conversation(str(n), ("Where is the printer on our floor?", f"It stands beside door number {n}, as always."))
        for n in range(20)
    ],
    "long": [conversation(str(n), *((f"Question {n} {k}?", f"Answer {n} {k}.") for k in range(9))) for n in range(30)],
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("dropped", [{}, {"too_short": 3, "duplicate": 1}])
def test_a_dataset_is_written_and_described_as_if_it_were_in_one_piece(
    home: Path, name: str, dropped: dict[str, int]
) -> None:
    given = INPUTS[name]
    dataset = build_dataset(iter(given), SETTINGS, dropped)
    seen: dict[str, int] = {}
    whole = []
    for each in given:
        seen[each.id] = seen.get(each.id, 0) + 1
        id = each.id if seen[each.id] == 1 else f"{each.id}/{seen[each.id]}"
        whole.append({"id": id, "messages": [message.model_dump() for message in each.messages()]})
    facts = {
        "version": VERSION,
        "settings": SETTINGS.model_dump(mode="json", exclude={"own_words"}),
        "seed": SETTINGS.seed,
        "turn_ids": [turn.id for each in given for turn in each.turns],
        "dropped": dict(sorted(dropped.items())),
    }
    assert dataset.path.name == dataset.manifest["hash"][:16]
    assert dataset.manifest == {
        **facts,
        "hash": dataset.manifest["hash"],
        "splits": dataset.manifest["splits"],
        **{key: dataset.manifest[key] for key in ("sources", "tasks", "licences", "words", "topics")},
    }
    written = (dataset.path / "manifest.json").read_bytes()
    paths.write_json(home / "whole.json", dataset.manifest)
    assert written == (home / "whole.json").read_bytes()
    lines = [
        line for split in SPLITS for line in (dataset.path / f"{split}.jsonl").read_text("utf-8").split("\n") if line
    ]
    assert sorted(lines) == sorted(json.dumps(record, ensure_ascii=False) for record in whole)
    assert {each.name for each in home.iterdir()} == {"whole.json", "datasets"}


def test_whatever_is_another_makes_another_dataset(home: Path) -> None:
    one, two = conversation("one", ("Where is it?", "Here.")), conversation("two", ("When is it?", "Now."))
    turn = one.turns[0]
    others = [
        {"user_message": "Where was it?"},
        {"bot_response": "There."},
        {"id": "another"},
        {"session_id": "another"},
        {"metadata": {"split": "test"}},
        {"metadata": {"source": {"name": "another"}}},
    ]
    inputs = [
        [one, two],
        [two, one],
        [one],
        [one, two, two],
        [one.model_copy(update={"id": "another"}), two],
        [one.model_copy(update={"system": "Be brief."}), two],
        *([one.model_copy(update={"turns": (turn.model_copy(update=other),)}), two] for other in others),
    ]
    datasets = [build_dataset(iter(given), SETTINGS) for given in inputs]
    datasets.append(build_dataset(iter(inputs[0]), SETTINGS, {"too_short": 1}))
    assert len({dataset.manifest["hash"] for dataset in datasets}) == len(datasets)
    assert [build_dataset(iter(given), SETTINGS) for given in inputs] == datasets[:-1]


@pytest.mark.parametrize("ids", [[], ["a"], ["a", 'b",', "  ]", '  "turn_ids": [', "c\u2028d", "é\n"]])
def test_a_manifests_turns_are_read_without_its_facts_and_its_facts_without_them(home: Path, ids: list[str]) -> None:
    facts = {"hash": "x", "dropped": {"turn_ids": 1}, "version": VERSION}
    file = home / "manifest.json"
    quoted = (json.dumps(id, ensure_ascii=False).encode() for id in ids)
    write_manifest(file, facts, quoted)
    assert paths.read_json(file) == {**facts, "turn_ids": ids}
    assert list(read_turn_ids(file)) == ids
    assert read_facts(file)["hash"] == "x" and (not ids or "turn_ids" not in read_facts(file))
    # by hand, or by another program
    for form in ({"indent": 4}, {"separators": (",", ":")}, {"indent": 2, "sort_keys": True}):
        file.write_text(json.dumps({**facts, "turn_ids": ids}, **form), encoding="utf-8")  # type: ignore[arg-type]
        assert list(read_turn_ids(file)) == ids
        assert read_facts(file)["hash"] == "x"


def test_several_ids_of_a_manifest_may_be_given_at_once(home: Path) -> None:
    for given in ([b'"a"\n"b"', b'"c"'], [b'"a"', b'"b"', b'"c"']):
        write_manifest(home / "manifest.json", {"hash": "x"}, given)
        assert list(read_turn_ids(home / "manifest.json")) == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["", "{", '{\n  "turn_ids": [\n    "a\n'])
def test_a_broken_manifest_is_named(home: Path, content: str) -> None:
    file = home / "manifest.json"
    file.write_text(content)
    for read in (read_facts, lambda path: list(read_turn_ids(path))):
        with pytest.raises(ByoaiError, match=r"manifest\.json"):
            read(file)


def test_conversations_are_taken_one_by_one_and_let_go(home: Path) -> None:
    alive: list[weakref.ref[Conversation]] = []
    most = 0

    def given() -> Iterator[Conversation]:
        nonlocal most
        for number in range(300):
            each = conversation(str(number), (f"Question {number}?", f"Answer {number}."))
            alive.append(weakref.ref(each))
            most = max(most, sum(reference() is not None for reference in alive))
            yield each

    build_dataset(given(), SETTINGS)
    assert most <= 3


# Rows that were made before


def chats(count: int) -> list[Conversation]:
    return [conversation(f"c{n}", (f"Question {n} of {THINGS[n % 30]}?", ANSWERS[n % 30])) for n in range(count)]


def rendered(served: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Say which conversations' rows are made."""
    made: list[str] = []
    rows_of = dataset_builder.ConversationTokenizer.rows_of
    monkeypatch.setattr(
        dataset_builder.ConversationTokenizer,
        "rows_of",
        lambda self, said: made.extend(id for id, _ in said) or rows_of(self, said),
    )
    return made


def test_rows_of_what_is_said_again_are_copied(home: Path, all_served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served, given = all_served["think"], chats(40)
    given[3] = conversation("c3", ("Hm?", "<think>a</think>Yes."), ("And?", "No."), ("word " * 300, "Too long."))
    made = rendered(served, monkeypatch)
    tokenize_dataset(build_dataset(given, SETTINGS).path, served.render, served.vocabulary, 256, "k")
    assert sorted(made) == sorted(each.id for each in given)
    made.clear()
    larger = build_dataset([*given, *chats(45)[40:]], SETTINGS).path
    copied = tokenize_dataset(larger, served.render, served.vocabulary, 256, "k")
    assert sorted(made) == [f"c{n}" for n in range(40, 45)]
    content = {file.name: file.read_bytes() for file in copied.iterdir()}
    shutil.rmtree(copied)
    monkeypatch.setattr(dataset_builder, "earlier_rows", lambda facts, splits: EarlierRows([]))
    anew = tokenize_dataset(larger, served.render, served.vocabulary, 256, "k")
    assert {file.name: file.read_bytes() for file in anew.iterdir()} == content


@pytest.mark.parametrize("change", ["template", "length", "text", "id", "forgotten", "index gone", "rows cut"])
def test_rows_are_made_anew_for_all_that_differs(
    home: Path, all_served: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    served, given = all_served["chatml"], chats(10)
    first = build_dataset(given, SETTINGS).path
    rows = tokenize_dataset(first, served.render, served.vocabulary, 256, "k")
    made, key, length, expected = rendered(served, monkeypatch), "k", 256, {each.id for each in given}
    match change:
        case "template":
            key = "other"
        case "length":
            length = 128
        case "text":
            given = [each.model_copy(update={"system": "Be brief."}) for each in given]
        case "id":
            given = [each.model_copy(update={"id": f"{each.id}-new"}) for each in given]
            expected = {each.id for each in given}
        case "forgotten":
            delete_datasets_of(["c0-0"])
            given = given[1:]
            expected -= {"c0"}
        case "index gone":
            (rows / "train.index").unlink()
        case "rows cut":
            lost = {record["id"] for record in records(first, "train")}
            (rows / "train.jsonl").write_bytes(b"")
            expected = lost
    given = [*given, conversation("more", ("Is there more?", "There is always more of it."))]
    made_of = tokenize_dataset(build_dataset(given, SETTINGS).path, served.render, served.vocabulary, length, key)
    assert set(made) == expected | {"more"}
    assert {record["id"] for split in SPLITS for record in records(made_of, split)} == {each.id for each in given}


def test_rows_that_moved_to_another_split_are_copied_as_they_are(
    home: Path, all_served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, given = all_served["think"], chats(60)
    given[7] = conversation("c7", ("word " * 300, "Too long."))
    tokenize_dataset(build_dataset(given, SETTINGS).path, served.render, served.vocabulary, 256, "k")
    moved = build_dataset(given[::-1], DataPreparation(seed=1, train_ratio=0.4, validation_ratio=0.3, test_ratio=0.3))
    made = rendered(served, monkeypatch)
    copied = tokenize_dataset(moved.path, served.render, served.vocabulary, 256, "k")
    assert made == []
    content = {file.name: file.read_bytes() for file in copied.iterdir()}
    shutil.rmtree(copied)
    monkeypatch.setattr(dataset_builder, "earlier_rows", lambda facts, splits: EarlierRows([]))
    anew = tokenize_dataset(moved.path, served.render, served.vocabulary, 256, "k")
    assert {file.name: file.read_bytes() for file in anew.iterdir()} == content


def test_the_index_tells_of_rows_what_the_rows_tell(home: Path, all_served: Any) -> None:
    served, long = all_served["think"], " ".join(THINGS * 2)
    given = [
        *chats(30),
        conversation("cut", ("harbour", "ruobrah salt wind"), ("moon", long)),
        conversation("dropped", (long, "telescope")),
        conversation("split", ("why", "<think>hm</think>because"), ("how", "like this")),
    ]
    dataset = build_dataset(given, DataPreparation(teach_thoughts=True))
    rows = tokenize_dataset(dataset.path, served.render, served.vocabulary, 60, "k")
    for split in SPLITS:
        file = rows / f"{split}.jsonl"
        index = read_index(file)
        assert index is not None and counts_of(index) == paths.read_json(rows / "manifest.json")["splits"][split]
        known = computed_rows(file)
        file.with_suffix(".index").unlink()
        read = computed_rows(file)
        assert [(list(row.ids), len(row.ids), row.targets) for row in known] == [
            (list(row.ids), len(row.ids), row.targets) for row in read
        ]


def test_a_record_that_speaks_of_roles_is_counted_right(home: Path, all_served: Any) -> None:
    served = all_served["chatml"]
    told = 'They wrote {"role": "assistant", "content": "x"} in it.'
    dataset = build_dataset(
        [conversation("a", (told, told))], DataPreparation(train_ratio=1, validation_ratio=0, test_ratio=0)
    )
    rows = tokenize_dataset(dataset.path, served.render, served.vocabulary, 2048, "k")
    assert paths.read_json(rows / "manifest.json")["splits"]["train"]["cut"] == 0
