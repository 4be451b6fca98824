"""An answer that its source marks as context is kept and read, and never trained on until the owner approves it."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fine_tuning.config import DataPreparation, DatasetFormat, FineTuningConfig
from fine_tuning.config.augmentation import Augmentation
from fine_tuning.conversation import Message, Turn, only_context
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned
from fine_tuning.data_collection.data_export import write_export
from fine_tuning.data_collection.importers.importing import import_files, preview
from fine_tuning.data_collection.peek import peek
from fine_tuning.data_collection.preferences import preferences_of
from fine_tuning.data_collection.record_files import csv_rows
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, tokenize_dataset
from fine_tuning.data_preparation.formatter import TrainingDataFormatter
from fine_tuning.data_preparation.preprocessing import prepare
from fine_tuning.data_preparation.raw_data import read_turns
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.data_preparation.split import SPLITS
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.jinja import render_chat
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.planning import sift
from fine_tuning.review import unjudged
from fine_tuning.token_rows import read_token_rows

ASKED = ("What is the capital of France?", "Can you be more sarcastic?", "How far is it from London by train?")
SAID = ("Paris", "Paris, as if everyone did not know that already.", "Two hours and a quarter through the tunnel.")


def messages(*weights: Any, key: str = "weight", role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    """Return a chat of which answer i has weights[i] under `key`; None for an answer without the key."""
    user, assistant = ("user", "assistant") if role == "role" else ("human", "gpt")
    found: list[dict[str, Any]] = []
    for asked, said, weight in zip(ASKED, SAID, weights, strict=False):
        found += [{role: user, content: asked}, {role: assistant, content: said}]
        found[-1] |= {} if weight is None else {key: weight}
    return found


def written(place: Path, *records: object) -> Path:
    place.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return place


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "openai.jsonl", {"messages": messages(0, 1, None)})


def cleaned(log: ConversationLogger) -> Cleaned:
    return sift(FineTuningConfig(), log.turns())


def read(log: ConversationLogger) -> list[tuple[str, bool]]:
    return [(turn.bot_response, only_context(turn)) for turn in log.turns()]


# In


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss", "loss_weight", "trainable"])
@pytest.mark.parametrize("value", [0, 0.0, False, "0", "false"])
def test_a_mark_is_read_in_messages_and_sharegpt(log: ConversationLogger, tmp_path: Path, key: str, value: Any) -> None:
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": messages(value, None, True, key=key)})])
    named = messages(None, value, 1, key=key, role="from", content="value")
    import_files(log, [written(tmp_path / "b.jsonl", {"conversations": named})])
    assert [is_context for _, is_context in read(log)] == [True, False, False, False, True, False]


def test_an_answer_that_is_context_in_part_is_context_as_a_whole(log: ConversationLogger, tmp_path: Path) -> None:
    parts = [{"begin_offset": 0, "end_offset": 4, "train": False}, {"begin_offset": 5, "end_offset": 9, "train": True}]
    call = [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]
    two = [
        {"role": "user", "content": ASKED[1]},
        {"role": "assistant", "content": "I look it up.", "weight": 0},
        {"role": "tool", "content": "Paris"},
        {"role": "assistant", "content": SAID[1], "weight": 1},
    ]
    silent = [{**two[0], "content": ASKED[2]}, {"role": "assistant", "tool_calls": call, "weight": 0}, *two[2:]]
    import_files(
        log,
        [written(tmp_path / "a.jsonl", *({"messages": each} for each in (messages(parts, key="train_detail"), two)))],
    )
    assert all(is_context for _, is_context in read(log)) and len(log.turns()) == 2
    import_files(log, [written(tmp_path / "b.jsonl", {"messages": silent})])
    assert read(log)[2:] == [(SAID[1], False)]  # a call without a text is no answer


def test_no_rating_of_the_file_approves_it(log: ConversationLogger, tmp_path: Path) -> None:
    chosen, rejected = messages(0), [*messages()[:1], {"role": "assistant", "content": "Lyon, I should think."}]
    place = written(tmp_path / "a.jsonl", {"messages": messages(1, 0), "label": True})
    import_files(log, [place])
    question = chosen[:1]
    place = written(tmp_path / "b.jsonl", {"prompt": question, "chosen": chosen[1:], "rejected": rejected})
    import_files(log, [place])
    assert read(log) == [(SAID[0], False), (SAID[1], True), (SAID[0], True)]
    assert preferences_of(log.turns(), cleaned(log).fit) == []


def test_the_preview_counts_it(log: ConversationLogger, file: Path) -> None:
    assert peek(file).context == preview(log, [file]).context == import_files(log, [file]).context == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize(("asked", "answered"), [("instruction", "output"), ("prompt", "completion"), ("q", "a")])
@pytest.mark.parametrize("weights", [[0, 1, 0], [0.0, 1.0, 0.0], [False, True, False], ["0", "1", "0.0"]])
def test_the_weights_of_a_record_are_those_of_all_its_answers(
    log: ConversationLogger, tmp_path: Path, name: str, asked: str, answered: str, weights: list[Any]
) -> None:
    history = [list(each) for each in zip(ASKED[:2], SAID[:2], strict=True)]
    record = {asked: ASKED[2], answered: SAID[2], "history": history, "weights": weights}
    place = tmp_path / name
    if name == "a.csv":
        place.write_bytes(b"".join(csv_rows([record], list(record))))
    else:
        written(place, record)
    import_files(log, [place])
    assert [is_context for _, is_context in read(log)] == [True, False, True]


def test_weights_that_fit_no_answers_are_refused_with_their_place(log: ConversationLogger, tmp_path: Path) -> None:
    pair = {"instruction": ASKED[0], "output": SAID[0]}
    records = [{**pair, "weights": [0, 1]}, {**pair, "weights": [0.3, 0.7]}, {**pair, "weights": "heavy"}]
    report = import_files(log, [written(tmp_path / "a.jsonl", *records)])
    assert [(fault.place, fault.reason) for fault in report.faults] == [
        ("a.jsonl, line 1", "expected as many weights as answers (1), found 2")
    ]
    assert read(log) == [(SAID[0], False)]


# Cleaned


def test_it_is_read_before_what_is_learned_however_short_it_is(log: ConversationLogger, file: Path) -> None:
    import_files(log, [file])
    found = cleaned(log)
    (conversation,) = found.conversations
    assert [turn.bot_response for turn in conversation.turns] == [*SAID]
    assert [turn.bot_response for turn in conversation.learned] == [*SAID[1:]]
    assert found.dropped == {"only_context": 1} and found.drops == [(log.turns()[0].id, "only_context")]
    assert log.index.count_whole() == 2


@pytest.mark.parametrize(("weights", "left"), [((1, 0, 0), 1), ((0, 0, 0), 0), ((0, 1, 0), 2)])
def test_at_the_end_it_is_left_out(log: ConversationLogger, tmp_path: Path, weights: Sequence[int], left: int) -> None:
    chat = messages(*weights)
    chat[1]["content"] = "The capital is Paris."
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": chat})])
    found = cleaned(log)
    assert [len(each.turns) for each in found.conversations] == ([left] if left else [])
    assert found.dropped == {"only_context": weights.count(0)}


def test_it_hides_no_answer_that_is_learned(log: ConversationLogger, tmp_path: Path) -> None:
    """The same exchange is neither a repeat of one that was only read, nor in conflict with it."""
    other = [*messages()[:0], {"role": "user", "content": ASKED[1]}, {"role": "assistant", "content": SAID[1]}]
    only_read = [other[0], {**other[1], "weight": 0}, *messages(1, 1, 1)[4:]]
    differs = [other[0], {**other[1], "content": "No, I am always serious.", "weight": 0}, *messages(1, 1, 1)[4:]]
    import_files(log, [written(tmp_path / "a.jsonl", *({"messages": each} for each in (only_read, other, differs)))])
    found = cleaned(log)
    assert [turn.bot_response for each in found.conversations for turn in each.learned] == [SAID[2], SAID[1], SAID[2]]
    assert found.conflicts == []


def test_what_is_rude_or_too_long_is_no_context_either(log: ConversationLogger, tmp_path: Path) -> None:
    chats = [messages(0, 1), messages(0, 1)]
    chats[0][1]["content"], chats[1][1]["content"] = (
        "Find it yourself, you asshole.",
        "It is Paris, on the Seine. " * 90,
    )
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": chats[0]}, {"messages": chats[1]})])
    found = cleaned(log)
    assert found.dropped == {"inappropriate": 1, "too_long": 1, "duplicate": 1}
    assert [[turn.bot_response for turn in each.turns] for each in found.conversations] == [[SAID[1]]]


def test_private_details_are_replaced_in_it_too(log: ConversationLogger, tmp_path: Path) -> None:
    chat = messages(0, 1)
    chat[1]["content"] = "jo@example.com"
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": chat})])
    assert [turn.bot_response for turn in cleaned(log).conversations[0].turns] == ["[EMAIL]", SAID[1]]


# Approved


def test_a_thumb_up_or_an_edit_has_it_learned(log: ConversationLogger, tmp_path: Path) -> None:
    chat = messages(0, 0, 1)
    chat[1]["content"] = "The capital is Paris."
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": chat})])
    first, second, _ = log.turns()
    assert [turn.id for turn in unjudged(log.turns())] == [log.turns()[2].id]
    log.rate(first.id, "up")
    log.edit(second.id, "I could, but would you notice?")
    assert [turn.bot_response for turn in cleaned(log).conversations[0].learned] == [
        chat[1]["content"], "I could, but would you notice?", SAID[2]
    ]  # fmt: skip
    assert cleaned(log).dropped == {} and log.index.count_whole() == 3
    log.rate(first.id, None)
    assert cleaned(log).dropped == {"only_context": 1} and log.index.count_whole() == 2


def test_it_is_in_no_preference_but_is_read_before_one(log: ConversationLogger, file: Path) -> None:
    import_files(log, [file])
    log.rate(log.turns()[0].id, "down")
    log.rate(log.turns()[1].id, "up")
    (rating,) = preferences_of(log.turns(), cleaned(log).fit)
    assert [message.content for message in rating.said] == [ASKED[0], SAID[0], ASKED[1]]
    assert (rating.chosen, rating.wanted) == (SAID[1], True)


# Learned


def prepared(log: ConversationLogger, base: Path, **augmentation: int) -> tuple[Dataset, Path, Vocabulary]:
    render = partial(render_chat, read_header(base).chat_template, bos_token="", eos_token="")
    vocabulary, found = Vocabulary(base), cleaned(log)
    dataset = build_dataset(
        found.conversations, DataPreparation(), found.dropped, augmentation=Augmentation(**augmentation)
    )
    return dataset, tokenize_dataset(dataset.path, render, vocabulary, 2048, "base"), vocabulary


def labels(rows: Path, vocabulary: Vocabulary) -> list[str]:
    """Return the texts of all trained stretches, of all splits."""
    found = []
    for row in (row for split in SPLITS for row in read_token_rows(rows / f"{split}.jsonl")):
        trained = [id if flag else -1 for id, flag in zip(row.input_ids, row.trained, strict=True)]
        ends = [place for place, id in enumerate(trained) if vocabulary.ends_turn(id)]
        for end in ends:
            begin = next((place + 1 for place in range(end, -1, -1) if trained[place] < 0), 0)
            found.append(vocabulary.decode(trained[begin:end]).strip())
        assert sum(flag for flag in row.trained) == sum(id >= 0 for id in trained) and ends
    return found


def test_the_rows_read_it_and_do_not_train_it(log: ConversationLogger, file: Path, base_gguf: Path) -> None:
    import_files(log, [file])
    dataset, rows, vocabulary = prepared(log, base_gguf)
    (row,) = read_token_rows(rows / "train.jsonl")
    assert SAID[0] in vocabulary.decode(row.input_ids) and labels(rows, vocabulary) == [*SAID[1:]]
    counts = json.loads((rows / "manifest.json").read_text())["splits"]["train"]
    assert counts["turns"] == row.turns == 2 and counts["cut"] == counts["dropped"] == 0
    assert dataset.manifest["splits"]["train"] == {"conversations": 1, "turns": 2}
    assert dataset.manifest["turn_ids"] == [turn.id for turn in log.turns()]  # so that forgetting finds its text
    assert "1 only context" in (dataset.path / "README.md").read_text()


def test_variants_of_a_conversation_do_not_train_it_either(
    log: ConversationLogger, file: Path, base_gguf: Path
) -> None:
    import_files(log, [file])
    dataset, rows, vocabulary = prepared(log, base_gguf, noise=1)
    assert dataset.manifest["augmented"]["noise"] == {"conversations": 1, "turns": 2}
    assert labels(rows, vocabulary) == [*SAID[1:]] * 2


def test_a_template_that_rewrites_what_was_said_gives_no_row_of_context_alone(base_gguf: Path) -> None:
    last = "{{ messages[-1].content }}<|im_end|>"
    rows = ConversationTokenizer(partial(render_chat, last, bos_token="", eos_token=""), Vocabulary(base_gguf), 99)
    said = [Message.model_validate(each) for each in messages(0, 1, 0)]
    assert [row.turns for row in rows.rows(said)] == [1]
    assert rows.last_answer(said) is not None


WORDS = [
    "anchor",
    "basket",
    "candle",
    "drawer",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
]
marks = st.lists(st.sampled_from([None, 0, 1, False, True]), min_size=1, max_size=4)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    chats=st.lists(st.tuples(marks, st.sampled_from(["weight", "train", "loss"])), min_size=1, max_size=6),
    judged=st.lists(st.sampled_from(["", "", "up", "down", "edit", "exclude"]), min_size=24, max_size=24),
)
def test_no_answer_that_is_only_context_is_ever_in_the_labels(
    home: Path, tmp_path: Path, base_gguf: Path, chats: list[tuple[list[Any], str]], judged: list[str]
) -> None:
    records, number = [], 0
    for weights, key in chats:
        said: list[dict[str, Any]] = []
        for weight in weights:
            first, second = WORDS[number % 14], WORDS[number // 2]
            said += [{"role": "user", "content": f"Where did you put the {first} number {number}?"}]
            said += [{"role": "assistant", "content": f"Behind {second} {number}, {first[::-1]} {second * 2} {first}."}]
            said[-1] |= {} if weight is None else {key: weight}
            number += 1
        records.append({"messages": said})
    place = home / "conversations" / "property.jsonl"
    place.unlink(missing_ok=True)
    log = ConversationLogger(place)
    import_files(log, [written(tmp_path / "chats.jsonl", *records)])
    for turn, how in zip(log.turns(), judged, strict=False):
        match how:
            case "up" | "down":
                log.rate(turn.id, how)
            case "edit":
                log.edit(turn.id, f"Better said: {turn.bot_response}")
            case "exclude":
                log.exclude(turn.id)
    turns = log.turns()
    wanted = [turn.bot_response for turn in turns if not only_context(turn) and turn.metadata.get("rating") != "down"]
    found = cleaned(log)
    assert [turn.bot_response for each in found.conversations for turn in each.learned] == wanted
    for each in preferences_of(turns, found.fit):
        by_id = {turn.id: turn for turn in turns}
        assert not only_context(by_id[each.turn_ids[-1]])
    if wanted:
        _, rows, vocabulary = prepared(log, base_gguf)
        assert sorted(labels(rows, vocabulary)) == sorted(wanted)


# Out


FORMATS = ("jsonl", "json", "csv", "parquet", "chatml", "chatml.parquet", "chatml.csv", "sharegpt", "sharegpt.parquet")
BY_TURN = ("alpaca", "alpaca.parquet", "alpaca.csv", "instruction", "instruction.parquet", "instruction.csv")


@pytest.mark.parametrize("format", FORMATS + BY_TURN)
def test_exported_and_imported_again_it_is_still_context(
    log: ConversationLogger, file: Path, tmp_path: Path, format: str
) -> None:
    import_files(log, [file])
    suffix = format.rpartition(".")[2] if "." in format else {"alpaca": "json"}.get(format, format)
    suffix = suffix if suffix in ("csv", "parquet", "json") else "jsonl"
    place = write_export(log.conversations(), format, tmp_path / f"out.{suffix}")
    again = ConversationLogger("again.jsonl")
    import_files(again, [place])
    assert dict(read(again)) == dict(read(log))


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_what_the_owner_decided_is_kept_where_byoai_exported_it(
    log: ConversationLogger, tmp_path: Path, format: str
) -> None:
    chat = messages(0, 0, 0)
    import_files(log, [written(tmp_path / "a.jsonl", {"messages": chat})])
    up, edited, down = log.turns()
    log.rate(up.id, "up")
    log.edit(edited.id, "I could, but would you notice?")
    log.rate(down.id, "down")
    place = write_export(log.conversations(), format, tmp_path / f"out.{format}")
    again = ConversationLogger("again.jsonl")
    assert peek(place).context == preview(again, [place]).context == import_files(again, [place]).context == 1
    assert read(again) == read(log) == [(SAID[0], False), ("I could, but would you notice?", False), (SAID[2], True)]
    assert [turn.metadata.get("rating") for turn in again.turns()] == ["up", None, "down"]
    if format != "csv":  # which has no column for an answer before its edit
        assert again.turns()[1].metadata["original_response"] == SAID[1]
    if format != "json":  # as a dataset of one's own; conversations in JSON are none
        kind = DatasetFormat.HUGGINGFACE if format == "parquet" else DatasetFormat(format)
        assert [only_context(turn) for turn in read_turns(place, kind)] == [False, False, True]


def test_converted_to_another_format_and_back_a_pair_is_the_same() -> None:
    pair = {"messages": messages(0, None, 0)}
    for name in (DatasetFormat.ALPACA, DatasetFormat.INSTRUCTION):
        (other,) = TrainingDataFormatter().convert([pair], name)
        assert other["weights"] == [0, 1, 0]
        assert TrainingDataFormatter(name).convert([other], DatasetFormat.CHATML) == [pair]


def test_a_dataset_of_ones_own_keeps_it(home: Path, tmp_path: Path, file: Path) -> None:
    def context(turns: Sequence[Turn]) -> list[bool]:
        return [only_context(turn) for turn in turns]

    assert context(read_turns(file, DatasetFormat.JSONL)) == [True, False, False]
    made = prepare(file, "jsonl", "chatml", [{"type": "transform", "operation": "strip"}], tmp_path / "made.jsonl")
    assert context(read_turns(made, DatasetFormat.CHATML)) == [True, False, False]
    last = written(tmp_path / "last.jsonl", {"messages": messages(0)}, {"messages": messages(1, 0)})
    for format in ("alpaca", "instruction"):
        made = prepare(last, "jsonl", format, target=tmp_path / f"{format}.jsonl")
        assert context(read_turns(made, DatasetFormat(format))) == [True, False, True]  # with the history


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_an_export_as_a_dataset_of_ones_own_keeps_it(
    log: ConversationLogger, file: Path, tmp_path: Path, format: str
) -> None:
    import_files(log, [file])
    place = write_export(log.conversations(), format, tmp_path / f"out.{format}")
    kind = DatasetFormat.HUGGINGFACE if format == "parquet" else DatasetFormat(format)
    assert [(turn.bot_response, only_context(turn)) for turn in read_turns(place, kind)] == read(log)


def test_a_dataset_without_marks_has_the_ids_that_it_always_had(tmp_path: Path) -> None:
    turns = read_turns(written(tmp_path / "a.jsonl", {"messages": messages(None, 1)}), DatasetFormat.JSONL)
    assert [turn.id for turn in turns] == ["dataset-20d012644d925ccc-0", "dataset-20d012644d925ccc-1"]
    marked = read_turns(written(tmp_path / "b.jsonl", {"messages": messages(None, 0)}), DatasetFormat.JSONL)
    assert {turn.id for turn in marked}.isdisjoint(turn.id for turn in turns)
