"""What is kept, taught and held out; and the check that the text says it."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning import paths
from fine_tuning.data_collection.documents.blocks import Heading, Items, Paragraph, Table
from fine_tuning.data_collection.documents.entailment import unsupported
from fine_tuning.data_collection.documents.pairs import Pair, Refused, pairs_of
from fine_tuning.data_collection.documents.reading import blocks_of

PASSAGE = "The saw hangs in the shed. Visitors may not use the saw after 18:00, and nobody may take it home."


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where does the saw hang?", "The saw hangs in the shed."),
        ("May visitors use the saw?", "Visitors may not use the saw after 18:00, and nobody may take it home."),
        ("Tell me about the saw.", "The saw hangs in the shed."),
        ("What about tools?", "The saw hangs in the shed."),  # a heading
    ],
)
def test_what_the_passage_says_is_supported(question, answer):
    assert unsupported(PASSAGE, ["Handbook", "Tools"], question, answer) == ""


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Where does the saw hang?", "The saw hangs in the barn.", "'barn'"),
        ("When may visitors use the saw?", "Visitors may use the saw after 18:00.", "'use'"),  # a denial is left out
        ("When may visitors use the saw?", "Visitors may not use the saw after 19:00.", "'19:00'"),
        ("When may visitors use the saw?", "Visitors may never use the saw after 18:00.", "'never'"),
        ("Where does the saw hang?", "The shed hangs in the saw.", "'hangs'"),  # another order
        ("Where does the drill hang?", "The saw hangs in the shed.", "the question's 'drill'"),
        ("Where does the saw hang in 2031?", "The saw hangs in the shed.", "the question's '2031'"),
    ],
)
def test_what_the_passage_does_not_say_is_named(question, answer, said):
    assert said in unsupported(PASSAGE, ["Handbook", "Tools"], question, answer)


@pytest.fixture(scope="module")
def pairs():
    return [
        found
        for found in pairs_of(blocks_of("md", (paths.SAMPLES / "handbook.md").read_bytes()))
        if isinstance(found, Pair)
    ]


def test_the_sample_handbook_gives_enough_and_each_answer_is_a_quotation(pairs):
    text = (paths.SAMPLES / "handbook.md").read_text(encoding="utf-8")
    assert 2_900 <= len(text.split()) <= 3_300
    assert len({pair.answer for pair in pairs}) >= 200 and {pair.level for pair in pairs} == {
        "fact",
        "condition",
        "table",
        "list",
        "topic",
    }
    sentences = [pair.answer for pair in pairs if pair.level in ("fact", "condition", "topic")]
    assert sum(answer in text for answer in sentences) == len(sentences)


def test_each_fact_is_taught_and_tested_in_other_words(pairs):
    splits = Counter(pair.split for pair in pairs)
    assert splits["test"] >= 60 and 0 < splits["validation"] < splits["test"] < splits["train"]
    assert len({pair.question.casefold() for pair in pairs}) == len(pairs)
    for _, group in groupby(pairs, key=lambda pair: pair.answer):
        of_fact = list(group)
        assert sum(pair.split == "train" for pair in of_fact) >= 2
    taught = {pair.answer for pair in pairs if pair.split == "train"}
    for pair in pairs:
        assert pair.key.casefold() in pair.answer.casefold() and pair.answer in taught and pair.section
        assert len(pair.answer) <= 400


def test_the_same_document_gives_the_same_pairs_and_a_new_sentence_changes_only_its_own():
    one = [Heading("Tools", 1), Paragraph("The saw hangs in the shed. The drill is lent for 2 days.")]
    two = [
        Heading("Tools", 1),
        Paragraph("The saw hangs in the shed. The drill is lent for 2 days. The lamp lies in the box."),
    ]
    before, after = list(pairs_of(one)), list(pairs_of(two))
    assert before == list(pairs_of(one)) and after[: len(before)] == before and len(after) > len(before)


def test_a_judge_has_the_last_word():
    asked = []

    def judge(passage, question, answer):
        asked.append((passage, question, answer))
        return "drill" not in answer

    blocks = [Heading("Tools", 1), Paragraph("The saw hangs in the shed. The drill is lent for 2 days.")]
    found = list(pairs_of(blocks, judge))
    assert {pair.answer for pair in found if isinstance(pair, Pair)} == {"The saw hangs in the shed."}
    assert all("the judge" in each.reason for each in found if isinstance(each, Refused))
    assert any("drill" in answer for _, _, answer in asked) and all(answer in passage for passage, _, answer in asked)


WORDS = st.lists(
    st.sampled_from(
        [
            "The",
            "a",
            "saw",
            "you",
            "may",
            "must",
            "not",
            "is",
            "are",
            "hangs",
            "costs",
            "5",
            "£9",
            "days",
            "if",
            "before",
            "by",
            "the",
            "hall,",
            "Rowan",
            "every",
            ":",
            ";",
            ".",
            "!",
            "?",
            "every",
            "week",
        ]
    ),
    max_size=14,
).map(" ".join)


@given(
    st.lists(
        st.one_of(
            st.builds(Heading, WORDS, st.integers(1, 6)),
            st.builds(Paragraph, st.one_of(WORDS, st.text(max_size=80))),
            st.builds(Items, st.lists(WORDS, min_size=1, max_size=4).map(tuple)),
            st.builds(Table, st.lists(st.lists(WORDS, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)),
        ),
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_blocks_give_pairs(blocks):
    for found in pairs_of(blocks):
        if isinstance(found, Pair):
            assert found.question.strip() and found.answer.strip() and found.key
