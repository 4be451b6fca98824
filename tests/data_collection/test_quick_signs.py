"""Most texts are told by a quick look for signs, which must never miss what the whole rule finds."""

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fine_tuning.data_collection import privacy
from fine_tuning.data_collection.cleaning import code_parts, empty_answers, inappropriate, plain_text, wording
from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.cleaning.text_signs import ALL
from fine_tuning.data_collection.private_details import addresses, credentials
from fine_tuning.data_collection.private_details.reading import Reading

_PIECES = """
    as an AI ai, I language model artificial intelligence I'm I’m i am can't cannot help with that
    sorry als eine KI bin ich nur künstliche Intelligenz Sprachmodell en tant qu'IA je que modèle
    de langage como una IA no modelo de lenguaje come in quanto modello linguistico non
    intelligenza artificiale AÍ Aİ aı ſprachmodell KI qwert asdf oiuzt yxcv bcdfg strengths dwdwd
    f u c k s h i t x = y f(x) [0, 1) 2*(3 5! 10² 5mW 3 Mb 3-5 .5 10:30 a::b -x A- i-- 5 - 3
    well-known and/or (see 12) e.g. 5% C# … ?! := 1.2.3.4 192.168.17.3 v1.2.3 fe80::1
    2001:db8:0:0:0:0:2:1 ::ffff:10.2.3.4 de:ad:be:ef:00:11:22:33 here: 9:00 password hunter22
    PASSWORT passwort: pin token=abc123 şifre ŞİFRE ключ 密码 sk-abcdefghijklmnop1234
    a_bcdefghijklmnopq AIza aıza http://x.org/a WWW.a.de www.a.de example.com/path jo@example.com
    -----BEGIN -----begın 12 import os return x; select a ls -la /* // def f(a): a,b,c | | ```` #
    @ " ' { } > < ; $
"""
_ODD = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n",
    " \n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u200b",
    "\u2028",
    "e\u0301",
    "`",
    "",
    "-",
    ".",
]
texts = st.lists(st.one_of(st.sampled_from([*_PIECES.split(), *_ODD]), st.text(max_size=4)), max_size=14).flatmap(
    lambda parts: st.sampled_from(["", " ", " ", "\n"]).map(lambda between: between.join(parts))
)


def _always(text: str, signs: int = ALL) -> bool:
    return True


def _without(module: object, name: str, act: Callable[[], object], quick: Callable[..., bool] = _always) -> object:
    """Return what `act` does without a quick look."""
    before = getattr(module, name)
    setattr(module, name, quick)
    try:
        return act()
    finally:
        setattr(module, name, before)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_a_text_that_is_taken_as_it_is_would_not_be_changed(text: str) -> None:
    slow = _without(plain_text, "_is_plain", lambda: plain_text.normalise(text), lambda text: False)
    assert plain_text.normalise(text) == slow


@example("a,b,c\nd,e,f\ng,h,i")
@example("a,,b\nc,,d\ne,,f")
@example("nan 1.5\nnan 2.5")
@example("– 5\n– 7")
@example("− 5 6 7\nx 5 6 7")
@example(". . 5\n. . 7")
@example(". . .\n– – –")
@example("a 1 2 3\nb 4 5 6")
@settings(max_examples=400, deadline=None)
@given(texts)
def test_code_and_tables_have_a_sign(text: str) -> None:
    assert code_parts.parts(text) == _without(code_parts, "_may_hold_any", lambda: code_parts.parts(text)) or not text


@settings(max_examples=400, deadline=None)
@given(texts)
def test_private_details_have_a_sign(text: str) -> None:
    assert privacy._may_hold_any(text) == (privacy._ANY.search(text) is not None)
    reading = Reading(text)
    if list(addresses.machines(reading)):
        assert privacy._OF_MACHINE.search(reading.plain)
    if credentials._ASSIGNED.search(reading.plain):
        assert credentials._names_one(reading.plain)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_refusals_have_a_sign(text: str) -> None:
    said = text[: empty_answers._BEGINNING]
    found = empty_answers._BARE_REFUSAL.match(said) or empty_answers._TALK_OF_ITSELF.search(said)
    assert empty_answers.refuses(text) == bool(found)


@settings(max_examples=400, deadline=None)
@given(st.text("bcdfghjklmnpqrstvwxyzaeiouäßç", min_size=4, max_size=25))
def test_words_of_keys_hit_at_random_have_a_sign(word: str) -> None:
    if empty_answers._is_mashed(word.casefold()):
        assert empty_answers._HARDLY_VOWELS.search(word.casefold()) or any(
            sign in word.casefold() for sign in empty_answers._SIGNS_OF_RUNS
        )


def test_runs_of_keys_have_a_sign() -> None:
    assert all(any(sign in run for sign in empty_answers._SIGNS_OF_RUNS) for run in empty_answers.RUNS)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_spelled_words_and_signs_that_count_have_a_sign(text: str) -> None:
    if inappropriate._SPELLED.search(text):
        assert inappropriate._OF_SPELLED.search(text)
    if wording._FORMULA.search(text):
        assert wording._IN_FORMULA.search(text)
    if wording._UNIT.search(text):
        assert wording._BEGINS_UNIT.search(text)
    for kept, begins in (
        (wording._KEPT, wording._BEGINS_KEPT),
        (wording._KEPT_IN_FORMULA, wording._BEGINS_KEPT_IN_FORMULA),
    ):
        found = [match.span() for match in wording._found(kept, begins, text)]
        assert found == [match.span() for match in kept.finditer(text)]


def test_marks_become_spaces_as_by_the_table_of_all_characters() -> None:
    every = "".join(map(chr, range(0x110000)))  # half surrogates as well
    assert wording._spaced(every) == every.translate(wording._MARKS)
    assert wording._spaced(every[:128]) == every[:128].translate(wording._MARKS)


def test_a_layout_is_found_once() -> None:
    layout = Layout("Run it:\n```\nls\n```\nThat is all.")
    assert layout.parts is layout.parts
    assert layout.pieces is layout.pieces
