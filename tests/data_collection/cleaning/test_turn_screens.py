"""Texts that are screened together get the decisions that they get one by one: a screen never misses a sign."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fine_tuning.data_collection.cleaning import text_signs
from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.cleaning.text_signs import Batch, Sequences
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings, Exchange, decide, decide_all
from fine_tuning.data_collection.cleaning.turn_screens import screen
from tests.data_collection.test_quick_signs import texts

_MORE = """
    jo@example.com 4111 1111 1111 1111 GB82WEST12345698765432 123-45-6789 +44 20 7946 0958 (415) 555-0127
    pin: 4711 api-key=9f8a7b6c pass–phrase wachtwoord: geheim1 2001:db8::7 10.20.30.40 fuuuck sh1t H.u.r.e b*tch f**k
    As an AI I cannot qwertz asdfgh strngths xcvbn straße STRASSE ß [EMAIL] [NAME_12] … – — “so” ‘so’ it's 5' 6" 3 MB/s
    aaaaaaaaaaaaaaaa the the The THE on no cat act |a|b| ```py nan, 5, 6 -7 é è ü ñ coño puta Fick 中文 😀 \\x85 \x1f
"""
wild = st.one_of(
    texts,
    st.lists(st.sampled_from(_MORE.split()), max_size=40).map(" ".join),
    st.lists(st.sampled_from(["no", "on", "go", "the cat", "Ab", "x1", "\n", "a b c d", "."]), max_size=40).map(
        " ".join
    ),
)
_EVERYTHING = CleanSettings(min_length=1, max_length=400, drop_polite_only=True, own_words=["cat"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Exchange, wild, wild, st.none() | wild, st.none() | wild, st.booleans()), max_size=6))
@example([Exchange("How do I sort in C++?", "Call std::sort of the header algorithm")])
def test_decisions_on_many_turns_are_those_on_each(turns: list[Exchange]) -> None:
    assert decide_all(turns, _EVERYTHING) == [decide(turn, _EVERYTHING) for turn in turns]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc é09x’\0\n", max_size=30), min_size=1, max_size=6))
def test_sequences_are_found_where_a_regular_expression_finds_them(given: list[str]) -> None:
    wanted = {1 << number: (sequence,) for number, sequence in enumerate(("A", r"\d.", "[^a-c]é", r"\0[\s0]", "x\0"))}
    sequences, batch = Sequences(wanted), Batch(given)
    at = sequences.at(batch)
    for text, start, size in zip(given, batch.starts, batch.sizes, strict=True):
        for sign, (sequence,) in wanted.items():
            if re.search(sequence, f"\0{text}\0", re.IGNORECASE | re.DOTALL):
                assert sequences.has(sign, at[start : start + size + 1]).any()


def test_an_everyday_text_has_no_signs_and_each_rule_has_one() -> None:
    everyday = [
        "Could you tell me when the library opens today?",
        "It opens at nine, and closes late, on Tuesday.",
        "Room 12 seats 40 people while the hall downstairs holds 600 of us.",
        "Remotely? Perhaps! Neighbour, aunt, uncle? Cousin!",
    ]
    signs = {
        "See www.example.com for it.": text_signs.URL,
        "Write to jo@example.com.": text_signs.EMAIL,
        "My password is hunter22.": text_signs.SECRET,
        "GB82WEST12345698765432": text_signs.IBAN,
        "4111 1111 1111 1111": text_signs.CARD,
        "123-45-6789": text_signs.SSN,
        "10.20.30.40": text_signs.IP,
        "415 555 0127": text_signs.PHONE,
        "What the fuuuck": text_signs.OBSCENE,
        "no no no no no no no no no": text_signs.REPEATED,
        "-- -- -- ": text_signs.LITTLE,
        "As an AI I cannot": text_signs.REFUSAL,
        "qwertz asdfgh": text_signs.GIBBERISH,
        "x = f(y)": text_signs.FORMULA | text_signs.CODE | text_signs.KEPT,
        "5 MB": text_signs.UNIT,
        "the 'word'": text_signs.QUOTED,
        "1, 2,\n3, 4": text_signs.ROWS,
        "中文": text_signs.ALL,
    }
    layouts = list(map(Layout, (*everyday, *signs)))
    screen(layouts)
    assert [layout.signs for layout in layouts[: len(everyday)]] == [0] * len(everyday)
    for layout in layouts[len(everyday) :]:
        assert layout.signs & signs[layout.text] == signs[layout.text], layout.text
