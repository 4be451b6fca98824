"""Filth is found in its disguises, and honest words are not taken for it."""

import pytest

from fine_tuning.data_collection.inappropriate import is_inappropriate


@pytest.mark.parametrize(
    "text",
    [
        "fuck you", "This is FUCKING great", "clusterfuck", "you piece of shit", "what a cunt", "what bullshit", "stupid bitch",
        "you faggot",
        "sh1t", "a$$hole", "fuuuuuck this", "f u c k off", "F.U.C.K.", "f*ck you", "oh f**k", "shiiiit", "fuck_you", "nigger",
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
        "Pussy willow and pussycat; tit for tat; a cock crows; a butt joint; spick and span; a chink in the armour; fire retardant.",
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
