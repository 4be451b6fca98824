"""Held-out questions about imported documents: which are asked, when an answer is right, and what the gate says."""

import json
from dataclasses import replace

import pytest
from comparisons import GOOD

from fine_tuning.config import DataPreparation, Gate
from fine_tuning.config import Evaluation as Settings
from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.data_preparation.dataset_builder import build_dataset
from fine_tuning.evaluation.evaluator import Recalled
from fine_tuning.evaluation.gate import judge
from fine_tuning.evaluation.test_set import Key, Reader, build_test_set, is_said, keys_of
from fine_tuning.paths import SAMPLES

READER = Reader(lambda said: said[-1].content, lambda text: [len(text)], lambda said: [([1, 2], [1])])


@pytest.mark.parametrize(
    ("key", "answer", "right"),
    [
        ("11:25", "The canteen opens at 11:25.", True),
        ("11:25", "The canteen opens at 11:2", False),
        ("41 months", "Laptops are replaced every 41\n  months, all of them.", True),
        ("41 months", "Laptops are replaced every 141 months.", False),
        ("4470", "Call extension 44701.", False),
        ("Copperlark", "it is COPPERLARK", True),
        ("turquoise badge", "a badge of turquoise", False),
        ("C++ (2020)", "We write C++ (2020) here.", True),
        ("Straße 9", "in der STRASSE 9", True),
        ("x", "", False),
    ],
)
def test_an_answer_is_right_when_the_key_is_in_it_as_whole_words(key, answer, right):
    assert is_said(key, answer) == right


def turn(session: str, **metadata: object) -> Turn:
    time = "2026-01-01T00:00:00+00:00"
    return Turn(id=session, session_id=session, timestamp=time, user_message="q", bot_response="a", metadata=metadata)


def test_only_what_a_document_held_out_has_a_key():
    found = keys_of(
        [
            turn("a", split="test", key="11:25", source={"section": "Hours"}),
            turn("b", split="train", key="11:25"),
            turn("c", split="test"),
            turn("d", split="test", key="  "),
            turn("e", split="test", key=["11:25"], source="a file"),
            turn("f", split="test", key="4470", source="a file"),
            turn("g"),
        ]
    )
    assert found == {"a": Key("11:25", "Hours"), "f": Key("4470")}


def asked(tmp_path, records, keys, **settings):
    lines = [
        {"id": id, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for id, question, answer in records
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rows.jsonl").write_text("")
    found = build_test_set(tmp_path / "test.jsonl", tmp_path / "rows.jsonl", READER, Settings(**settings), None, keys)
    return [(each.text, each.answers) for each in found.facts]


def test_each_section_is_asked_about_before_one_is_asked_about_twice(tmp_path):
    keys = {
        f"{section}{n}": Key("yes", section)
        for section, count in {"A": 40, "B": 3, "C": 1}.items()
        for n in range(count)
    }
    records = [(id, id, "Yes.") for id in keys]
    found = [text for text, _ in asked(tmp_path, records, keys, facts=8)]
    assert sorted(text[0] for text in found) == ["A"] * 4 + ["B"] * 3 + ["C"]
    assert found == [text for text, _ in asked(tmp_path, records, keys, facts=8)]  # the same each time
    assert len(asked(tmp_path, records, keys, facts=100)) == len(records)
    assert asked(tmp_path, records, keys, facts=0) == []


@pytest.mark.parametrize(
    ("answer", "is_asked"),
    [
        ("Call extension 4470.", True),
        ("Call [PHONE_1].", False),  # it was scrubbed: no version can know it
        ("Call the front desk.", False),  # its owner edited the answer
    ],
)
def test_a_question_is_asked_while_its_answer_has_the_key(tmp_path, answer, is_asked):
    found = asked(tmp_path, [("a", "Whom do I call?", answer), ("b", "Hello", "Hi")], {"a": Key("4470")})
    assert found == ([("Whom do I call?", ("4470",))] if is_asked else [])


def test_the_shipped_handbook_gives_questions_from_most_of_its_sections(home, tmp_path):
    log = ConversationLogger()
    import_files(log, [SAMPLES / "handbook.md"], Wanted("document"))
    turns = log.turns()
    dataset = build_dataset(list(conversations_of(turns)), DataPreparation())
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    found = build_test_set(dataset.path / "test.jsonl", rows, READER, Settings(), None, keys_of(turns)).facts
    held_out = {each.user_message: each for each in turns if each.metadata["split"] == "test"}
    sections = {each.metadata["source"]["section"] for each in held_out.values()}
    assert len(found) == 30
    assert len({held_out[each.text].metadata["source"]["section"] for each in found}) == min(30, len(sections))
    assert all(each.is_right(held_out[each.text].bot_response) for each in found)


def told(right: int, of: int) -> list[Recalled]:
    return [Recalled(f"q{n}", "41", "41" if n < right else "7", n < right) for n in range(of)]


@pytest.mark.parametrize(
    ("right", "of", "state"),
    [
        (2, 6, "failed"),  # what a newcomer saw go live
        (4, 6, "warned"),
        (6, 6, "passed"),
        (24, 30, "passed"),
        (23, 30, "warned"),
        (15, 30, "failed"),
        (0, 1, "failed"),
        (1, 1, "passed"),
        (0, 30, "failed"),
    ],
)
def test_a_version_that_answers_most_questions_about_a_document_wrongly_is_refused(right, of, state):
    evidence = replace(
        GOOD, base=replace(GOOD.base, facts=told(0, of)), tuned=replace(GOOD.tuned, facts=told(right, of))
    )
    verdict = judge(evidence, Gate())
    first = verdict.results[0]
    assert (first.rule, first.state) == ("facts", state)
    assert verdict.passed == (state != "failed")
    assert f"{right} of {of} facts of your document" in first.reason
    if state == "failed":
        assert "handbook" in str(verdict)


@pytest.mark.parametrize("right", range(30))
@pytest.mark.parametrize("of", [1, 2, 3, 5, 8, 13, 21, 30])
def test_fewer_than_half_right_never_passes(right, of):
    evidence = replace(
        GOOD, base=replace(GOOD.base, facts=told(0, of)), tuned=replace(GOOD.tuned, facts=told(min(right, of), of))
    )
    assert judge(evidence, Gate()).passed or right < of
    if 2 * right < of:
        assert judge(evidence, Gate()).failed == ["facts"]


def test_the_limit_can_be_set_and_switched_off():
    evidence = replace(GOOD, base=replace(GOOD.base, facts=told(0, 30)), tuned=replace(GOOD.tuned, facts=told(9, 30)))
    assert judge(evidence, Gate(facts=0.3)).passed
    assert judge(evidence, Gate(facts=0)).passed
    assert not judge(evidence, Gate(facts=0.5)).passed


def test_without_documents_the_gate_has_its_usual_rules():
    assert "facts" not in [result.rule for result in judge(GOOD, Gate()).results]
