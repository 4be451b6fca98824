"""Typing errors stay in words that may be mistyped, and are the same each time."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.data_preparation.noise import names_in, noisy

ROUNDS = 200


def all_noisy(question: str, rate: float = 1.0, names: set[str] | None = None) -> set[str]:
    return {noisy(question, Random(seed), rate, names or set()) for seed in range(ROUNDS)}


def test_a_question_is_mistyped_in_all_ways() -> None:
    found = all_noisy("Where does the kettle stand?", 0.01)
    assert "Where does the kettle stand?" not in found
    assert any("KETTLE" in each for each in found)
    assert any("kkettle" in each or "kketle" in each or "kettlle" in each or "kettlee" in each for each in found)
    assert any("ketle" in each or "kette" in each or "kettl " in each for each in found)
    assert any(re.search(r"ket[rygfd]le|k[wrds]ttle", each) for each in found)
    assert any(each.startswith("where") for each in found)
    assert any(not each.endswith("?") for each in found)
    assert all(" the " in each for each in found)  # short words stay


def test_the_rate_says_how_many_words_are_mistyped() -> None:
    question = "which kettle stands beside that other yellow window over there"
    changed = lambda text: sum(one != other for one, other in zip(question.split(), text.split(), strict=True))  # noqa: E731
    few, many = ([changed(noisy(question, Random(seed), rate)) for seed in range(ROUNDS)] for rate in (0.0, 0.8))
    assert set(few) <= {0, 1}  # a letter may be doubled by its neighbour
    assert sum(many) > 6 * ROUNDS


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("please explain `sorted(items)` now", "`sorted(items)`"),
        ("please explain this:\n```python\nfor thing in things:\n    print(thing)\n```\n", "for thing in things:"),
        ("please write to [EMAIL] or [the office]", "[EMAIL] or [the office]"),
        ("what does room4b cost with 25percent less", "room4b"),
        ("does anna know where Anna lives", "Anna"),
        ("open https://example.com/some/page please", "https://example.com/some/page"),
        ("where does src/main/program.py begin", "src/main/program.py"),
        ("please fill in {name} and <title> there", "{name} and <title>"),
        ('what does the word "kettle" mean', '"kettle"'),
        ("what does „kessel“ mean there", "„kessel“"),
        ("where does max_length stand there", "max_length"),
        ("please write to office@example.com today", "office@example.com"),
        ("does the McDonald family live there", "McDonald"),
        ("costs between 1000 and 2000 euros", "1000 and 2000"),
        ("kann ich Gepäck mitnehmen", "Gepäck"),
        ("please run byoai --profile sample today", "--profile"),
        ("これは何ですか please tell", "これは何ですか"),
    ],
)
def test_what_is_no_plain_word_stays(question: str, kept: str) -> None:
    found = all_noisy(question)
    assert len(found) > 1
    assert all(kept in each for each in found)


@pytest.mark.parametrize("question", ["", "Why?", "a b c", "[EMAIL]", "12 + 30 = 42", "```\nkettle\n```", "NASA, ESA"])
def test_what_cannot_be_mistyped_is_returned_as_it_is(question: str) -> None:
    assert {each.rstrip("?").lower() for each in all_noisy(question)} == {question.rstrip("?").lower()}


def test_names_of_the_conversation_are_kept_though_they_are_typed_small() -> None:
    names = names_in("where is mossgate\nIt is called Mossgate. Bring the key. Anna has it; ask Ben.")
    assert {"mossgate", "anna", "ben"} <= names
    assert not names & {"it", "key", "called", "where"} - {"it"}
    assert all("mossgate" in each for each in all_noisy("please tell where mossgate lies", names=names))


def test_no_error_makes_one_known_word_of_another() -> None:
    known = {"from", "fort", "for", "frm", "orm", "fomr", "forrm", "foorm", "formm"}
    made = {noisy("form", Random(seed), 1.0, known=known) for seed in range(ROUNDS)}
    assert not (made - {"form"}) & known


def test_the_same_seed_makes_the_same_errors() -> None:
    one, other = (noisy("where does the kettle stand today?", Random(7), 0.5) for _ in range(2))
    assert one == other


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["where", "kettle", "Anna", "[EMAIL]", "`code here`", "```\nx = 1\n```", "3.50", "it's", '"quoted words"', "?"]
    ),
)


@given(st.lists(PIECES, max_size=12), st.integers(0, 2**32), st.floats(0, 1))
def test_whatever_is_typed_numbers_code_placeholders_and_capitals_stay(
    pieces: list[str], seed: int, rate: float
) -> None:
    question = " ".join(pieces)
    made = noisy(question, Random(seed), rate)
    assert re.findall(r"\d+", made) == re.findall(r"\d+", question)
    for kept in ("[EMAIL]", "Anna"):
        assert made.count(kept) >= question.count(kept)
    assert made.count("`") == question.count("`")
    assert len(made.split("\n")) == len(question.split("\n"))
    assert abs(len(made) - len(question)) <= len(question.split()) + len(question) - len(question.rstrip("?.! \n"))
    assert made.strip() or not question.strip()
