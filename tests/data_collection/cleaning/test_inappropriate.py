"""Filth is found in its disguises, and honest words are not taken for it."""

import pytest
from timing import growth

from fine_tuning.data_collection.cleaning.inappropriate import is_inappropriate


@pytest.mark.parametrize(
    "text",
    [
        "fuck you", "This is FUCKING great", "clusterfuck", "you piece of shit", "what a cunt", "what bullshit",
        "stupid bitch",
        "you faggot",
        "sh1t", "a$$hole", "fuuuuuck this", "f u c k off", "F.U.C.K.", "f*ck you", "oh f**k", "shiiiit", "fuck_you",
        "nigger",
        "du Arschloch", "hijo de puta", "Salope !", "kurwa", "сука блядь",
    ],
)  # fmt: skip
def test_obscene_words_are_found_in_any_disguise(text: str) -> None:
    assert is_inappropriate(text)
    assert is_inappropriate(f"Well, {text}, I say.")


@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe is a town in Lincolnshire; Penistone and Shitterton are places too.",
        "The assassin waited in the class, assessed the assets and passed the assignment.",
        "How do I analyse the analog signal? Analysis of anal fissures.",
        "Bass guitar, grass, glass, brass, mass, embarrass. A cocktail in Middlesex, Essex and Sussex.",
        "Dick Whittington and Moby Dick; Dickens; the Hooker valley; Felix Wankel.",
        "What the hell, that is damn good coffee. The bug is killing me, this code sucks. Is it a crap shoot?",
        "How is breast cancer treated? Sex education and sexual health; homo sapiens.",
        "Pussy willow and pussycat; tit for tat; a cock crows; a butt joint; spick and span; a chink in the armour; "
        "fire retardant.",
        "Snigger at the niggardly offer. Niger and Nigeria are countries. The Raccoon.",
        "Shiitake; Shih Tzu; Fukushima; fuchsia; as shown in class; push it; mishit.",
        "Das dicke Buch, der Fuchs, die Pute, Schlamperei. Troie, batard, Kike, stronzio, FCK gegen FCB.",
        "computadora, reputación, disputa, cono.",
        "s*t = d and f*k = c, **bold** text, a b c d e f, e.g. i.e. U.S.A.",
        "",
    ],
)
def test_honest_words_are_not_taken_for_filth(text: str) -> None:
    assert not is_inappropriate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Jag fick ett brev", "Filmen är slut", "Nu är det slut på kaffet.",
        "Hun er slut i dag, og det er en god film.", "Fick's first law",
        "Adolf Fick described the law of diffusion.", "Slut", "Dva puta tri je šest, a nekoliko puta više je puno.",
        "Putas ir balts vilnis",
        'In Swedish, "Filmen är slut" means that the film is over.', "Das erste Gesetz von Adolf Fick",
        "Энэ хуй салхи байна", "Han fick en bok och var glad när den var slut.",
    ],
)  # fmt: skip
def test_one_languages_slur_is_anothers_word(text: str) -> None:
    assert not is_inappropriate(text)


@pytest.mark.parametrize(
    "text",
    [
        "You slut", "She said that he is a slut and a liar.", "Fick dich!", "Ich will dich ficken",
        "Das ist mir egal, fick das und die anderen.",
        "Vete a la puta calle", "Eres una puta", "Пошел на хуй", "Sluts, the lot of you.",
    ],
)  # fmt: skip
def test_a_shared_word_counts_in_its_own_language(text: str) -> None:
    assert is_inappropriate(text)


@pytest.mark.parametrize(
    "text",
    [
        "s**t", "return c**t", "What is s**t in Python?", "y = s**t + f**k", "The value of c**t grows.",
        "Use `s**t` for powers.",
        "```\nprint(s**t)\n```", "for s = 2 and t = 3, s**t is 8", "def f(s, t):\n    return s**t", "x + c**t",
        "s and t give s**t",
        "lambda c, t: c**t", "area(f*ck)",
    ],
)  # fmt: skip
def test_operators_are_no_masked_words(text: str) -> None:
    assert not is_inappropriate(text)


@pytest.mark.parametrize(
    "text",
    [
        "What the f**k is this",
        "s**t happens",
        "this is s**t!",
        "sh*t, I forgot",
        "you b*tch",
        "don't be a c**t",
        "f**king great",
    ],
)
def test_masked_words_in_prose_are_found(text: str) -> None:
    assert is_inappropriate(text)


@pytest.mark.parametrize("piece", ["a", "s**t ", "slut ", "f*", "* ", "f u c k", "fick. ", "aa", "`s**t", "s.s."])
def test_no_text_takes_long(piece: str) -> None:
    assert growth(lambda size: is_inappropriate(piece * (size // len(piece))), 10_000) <= 30
