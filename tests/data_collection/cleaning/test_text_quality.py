"""Rules for prose judge prose: code, tables, songs, drawings, numbers and emoji are kept, to the
byte where white space is meant.
"""

import base64
import random

import pytest

from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection.cleaning.plain_text import normalise
from fine_tuning.data_collection.cleaning.text_quality import is_repetitive
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import DataCleaner

CSS = "\n\n".join(
    f".button-{name} {{\n  color: white;\n  background: {name};\n  border: 1px solid black;\n  padding: 4px;\n}}"
    for name in ("red", "green", "blue", "grey", "pink", "brown", "navy", "teal")
)
MATRIX = "\n".join(" ".join("1" if row == column else "0" for column in range(6)) for row in range(6))
SONG = """The water is wide and I cannot go over,
And neither have I the wings to fly.
  Sing hey, sing ho, the river runs on,
  Sing hey, sing ho, to the sea.
Give me a boat that will carry us two,
And both shall row, my friend and I.
  Sing hey, sing ho, the river runs on,
  Sing hey, sing ho, to the sea.
There is a ship and she sails the bay,
She is loaded deep as deep can be.
  Sing hey, sing ho, the river runs on,
  Sing hey, sing ho, to the sea.
  Sing hey, sing ho, the river runs on,
  Sing hey, sing ho, to the sea."""
IMAGE = base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(240) + random.Random(0).randbytes(90)).decode()
WRAPPED = "\n".join(IMAGE[start : start + 76] for start in range(0, len(IMAGE), 76))
CAT = "   /\\_/\\\n  ( o.o )\n   > ^ <\n  /|   |\\\n (_|   |_)"
BOX = "+----------+\n|          |\n|    ##    |\n|          |\n+----------+"
ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
FAMILY = "👨\u200d👩\u200d👧\u200d👦"
HONEST = {
    "CSS for eight buttons": CSS,
    "the same, fenced": f"Here you are:\n\n```css\n{CSS}\n```",
    "JavaScript": "\n".join(f'document.getElementById("b{n}").addEventListener("click", () => '
                            f'show({n}));' for n in range(6)),
    "identity matrix": MATRIX,
    "the same in one line": "It is [" + ", ".join(f"[{row.replace(' ', ', ')}]" for row in MATRIX.split("\n")) + "].",
    "LaTeX matrix": "\\begin{pmatrix}\n"
                    "" + " \\\\\n".join(row.replace(" ", " & ") for row in MATRIX.split("\n")) + "\n\\end{pmatrix}",
    "table of zeros": "\n".join(["a,b,c,d"] + ["0,0,0,0"] * 12),
    "zeros": "A row of zeros: " + "0 " * 40,
    "Markdown table": "| Day | Open |\n|---|---|\n" + "\n".join(f"| {day} | from 9 to 5 "
                                                                "|" for day in ("Mo", "Tu", "We", "Th", "Fr", "Sa")),
    "TSV": "name\tfree\n" + "\n".join(f"room {n}\tyes, all day" for n in range(9)),
    "YAML": "\n".join(f"- name: {name}\n  image: base:latest\n  restart: "
                      "always" for name in ("web", "db", "cache", "mail")),
    "SQL": "\n".join(f"INSERT INTO rooms (id, free) VALUES ({n}, TRUE);" for n in range(8)),
    "song": SONG,
    "birthday": "Happy birthday to you,\nHappy birthday to you,\nHappy birthday, dear friend,\nHappy birthday to you.",
    "canon": "Brother Jacob, brother Jacob,\nAre you asleep? Are you asleep?\nRing the bells now, ring the bells "
             "now,\nDing dang dong.",
    "numbers": "The first fifty: " + ", ".join(map(str, range(1, 51))),
    "numbers one below the other": "\n".join(f"{n}." for n in range(1, 40)),
    "hexadecimal": "The bytes are 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00.",
    "binary": "In binary it is 00000000 00000000 00000001 00000001 00000000 00000000 00000001.",
    "cat": CAT,
    "cat with words": f"Here is a cat for you:\n\n{CAT}\n\nDo you like it?",
    "box": BOX,
    "progress": "It is done to a half: ██████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
    "heading": "Opening hours\n" + "=" * 60 + "\nFrom nine to five.",
    "form": "Name: " + "_" * 60,
    "image": f"The image: data:image/png;base64,{IMAGE}",
    "image over lines": f"The image:\n\n{WRAPPED}",
    "flags": f"These are the flags: {ENGLAND * 9}",
    "families": f"Emoji of families: {FAMILY} {FAMILY} {FAMILY} {FAMILY} {FAMILY} {FAMILY} {FAMILY} {FAMILY} {FAMILY}",
    "hearts": "With love from all of us " + "❤️" * 20,
    "pixels": "The picture is\n" + "\n".join(["🟦🟦🟦🟦🟦🟦🟦🟦", "🟦🟥🟥🟦🟦🟥🟥🟦", "🟦🟦🟦🟦🟦🟦🟦🟦", "🟦🟥🟦🟦🟦🟦🟥🟦"] * 2),  # noqa: E501
    "chess": "\n".join(["r n b q k b n r", "p p p p p p p p", ". . . . . . . .", ". . . . . . . .", "P P P P P P P P", "R N B Q K B N R"]),  # noqa: E501
    "phones": "\n".join(f"{name}: +44 20 7946 "
                        f"0{n}77" for n, name in enumerate(("Reception", "Workshop", "Canteen", "Stores"))),
}  # fmt: skip
BABBLE = {
    "one word": "no " * 30,
    "sentence": "I am sorry, I can not do that. " * 6,
    "lines": "I am sorry, I can not.\n" * 8,
    "two lines in turns": "What is it?\nIt is a plant.\n" * 6,
    "three long lines in turns": "It is a very good plan.\nThat is why we like it.\nAnd so it goes on and on.\n" * 4,
    "numbered lines": "\n".join(f"{n}. The best way to do this is to do it." for n in range(1, 9)),
    "an honest start": "The printer is upstairs, next to the lift and the stairs. " + "It is there. " * 20,
    "an honest start in lines": "The printer is upstairs.\nIt is next to the lift.\nAsk for the key.\n"
    + "It is there.\n" * 12,
    "after code": "```python\nprint(1)\n```\n" + "This prints the number one. " * 6,
    "after a table": "| a | b |\n|---|---|\n| 1 | 2 |\n\n" + "This is the table of it. " * 6,
    "one letter": "A" * 60,
    "no spaces": "lalalalalalalalalalalalalalalalala",
    "Chinese": "对不起我不知道" * 6,
    "Japanese": "申し訳ございません。" * 6,
    "placeholders": "[EMAIL] [PHONE] " * 8,
    "labels": "Answer: yes. Question: why? " * 6,
}


def kept(answer: str) -> str | None:
    turn = Turn(id="x", session_id="s", timestamp="", user_message="Please show me that.", bot_response=answer)
    cleaned = DataCleaner(CleanSettings(max_length=5000, scrub_pii=False)).filter_conversations(
        conversations_of([turn])
    )
    assert cleaned.dropped in ({}, {"repetitive": 1}, {"low_quality": 1}, {"inappropriate": 1})
    return cleaned.conversations[0].turns[0].bot_response if cleaned.conversations else None


@pytest.mark.parametrize("answer", HONEST.values(), ids=HONEST)
def test_what_repeats_itself_by_its_nature_is_kept_as_it_is(answer: str) -> None:
    assert not is_repetitive(answer)
    assert kept(answer) == answer.rstrip(" ")


@pytest.mark.parametrize("answer", BABBLE.values(), ids=BABBLE)
def test_prose_that_goes_round_in_circles_is_seen(answer: str) -> None:
    assert is_repetitive(answer)
    assert kept(answer) is None


@pytest.mark.parametrize(
    "text",
    [
        'print("a  b")\n',
        "x = '\t'\ny = 'a   b'",
        "a\tb\tc\n1\t\t3\n4\t2\t1",
        "a\tb\tc\n1\t\t3\n4\t2\t\n\t\t5",
        "Look:\n\nid\tname\n1\tAnna\t\n\tBo\t\n\nSo it is.",
        "    indented = 1\n    also = 2",
        "def f():\n\n\n\n    return  1   \n\tpass",
        "Look:\n\n```\na  b   \n\n\n\n\tc\u00a0d\u3000e\n```\n\nSo it is.",
        "~~~\nAnna    eats   a\t\tpear.\n~~~",
        'Write `print("a  b")` or ``x  `y`  z``, and `a\tb`.',
        "Name      Age   Town\nAnna      30    Rome\nBo        40    Oslo",
        "| a   | b  |\n|-----|----|\n| 1   | 2  |",
        "SELECT  name\nFROM    users\nWHERE   id = 3;",
        CAT,
        BOX,
        f"{ENGLAND} and 👩🏽\u200d🚀, ❤️, 1️⃣, 🏳️\u200d🌈",
        "\U0001f3f4\U000e0075\U000e0073\U000e0063\U000e0061\U000e007f is California's",
    ],
)
def test_white_space_in_code_and_tables_and_joined_emoji_stay_to_the_byte(text: str) -> None:
    assert normalise(text) == text.strip("\n")


@pytest.mark.parametrize(
    ("said", "learned"),
    [
        ("hidden\U000e0068\U000e0069 tags", "hidden tags"),
        (
            "🏴\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065\U000e0061\U000e006c\U000e006c\U000e007f",
            "🏴",
        ),
        ("🏴\U000e0067\U000e0062 no end", "🏴 no end"),
        (
            "Look:   here\n\n\n\n```\na  b\r\n\n\n\nc\n```\n\n\n\n\nThe   end.",
            "Look: here\n\n```\na  b\n\n\n\nc\n```\n\nThe end.",
        ),
    ],
)
def test_prose_around_them_and_what_nobody_sees_are_tidied(said: str, learned: str) -> None:
    assert normalise(said) == learned
