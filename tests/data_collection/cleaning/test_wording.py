"""Two texts have one wording if they say the same, and not if a sign, a unit or a letter of a name
makes another of it.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import growth

from fine_tuning.data_collection.cleaning.repeats import RepeatedTurns, fingerprint
from fine_tuning.data_collection.cleaning.wording import wording

ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
ANSWER = "That is right, yes."


def repeats(one: str, other: str) -> bool:
    """Whether a question repeats another that had the same answer, and an answer one to the same question."""
    known = RepeatedTurns()
    answer = wording(ANSWER)
    for question in (one, other):
        found = known.numbers([question], [fingerprint(wording(question), answer)])
    return found[0][1]


DIFFERENT = [
    # signs
    ("The offset is -3 hours.", "The offset is 3 hours."),
    ("Is it −3 °C outside?", "Is it 3 °C outside?"),
    ("Is it (-3) or more?", "Is it (3) or more?"),
    ("The shift is –5 %, right?", "The shift is 5 %, right?"),
    ("Does it cost -$5?", "Does it cost $5?"),
    ("It moved by +2 points", "It moved by 2 points"),
    ("Is ±2 mm allowed?", "Is 2 mm allowed?"),
    ("Is his blood group A- then?", "Is his blood group A then?"),
    # operators
    ("Is x != y here?", "Is x = y here?"),
    ("Is x == y here?", "Is x = y here?"),
    ("What does a->b mean?", "What does a>b mean?"),
    ("What does a := b do?", "What does a = b do?"),
    ("What does i-- do?", "What does i++ do?"),
    ("What does i-- do?", "What does i do?"),
    ("What does x -= 1 do?", "What does x = 1 do?"),
    ("How much is 5 - 3 then?", "How much is 5 + 3 then?"),
    ("How much is 5 - 3 then?", "How much is 5 3 then?"),
    ("What is x - y in words?", "What is x y in words?"),
    ("What is 5! / 3, please?", "What is 5 / 3, please?"),
    ("What does !ready mean?", "What does ready mean?"),
    ("How much is (2 + 3) * 4?", "How much is 2 + 3 * 4?"),
    ("What is f(g(x)) here?", "What is f(g)(x) here?"),
    ("Is it in [0, 1) or not?", "Is it in (0, 1] or not?"),
    ("What is items[1:] here?", "What is items[1] here?"),
    ("What is items[1::2] here?", "What is items[1:2] here?"),
    ("What does std::sort do?", "What does std sort do?"),
    ("What does my_list hold?", "What does my list hold?"),
    ("What does ls --all do?", "What does ls all do?"),
    ("What does grep -v do?", "What does grep v do?"),
    ("Is a && b the same?", "Is a & b the same?"),
    ("Is a <= b the same?", "Is a < b the same?"),
    ("Is `Path` a class?", "Is `path` a class?"),
    ("x != y", "x == y"),
    ("```\nif a:\n    b()\n    c()\n```", "```\nif a:\n    b()\nc()\n```"),
    ("a\tb\tc\n1\t\t2\n3\t4\t5", "a\tb\tc\n1\t2\t\n3\t4\t5"),
    ("What is in .env, please?", "What is in env, please?"),
    # digits
    ("Is it 3.5 or less?", "Is it 35 or less?"),
    ("Is it 3.5 or less?", "Is it 3 5 or less?"),
    ("Is it .5 or less?", "Is it 5 or less?"),
    ("Rooms 3-5 are free?", "Rooms 3, 5 are free?"),
    ("Meet at 10:30 there?", "Meet at 10, 30 there?"),
    ("How much is 10² then?", "How much is 102 then?"),
    ("How much is 10² then?", "How much is 10³ then?"),
    ("Is version 1.2.3 out?", "Is version 12.3 out?"),
    ("Room 12 is where?", "Room 13 is where?"),
    # units
    ("Does it draw 5 mW?", "Does it draw 5 MW?"),
    ("Does it hold 10 Mb?", "Does it hold 10 MB?"),
    ("Is it 5 m or so?", "Is it 5 km or so?"),
    ("Is it 5' or less?", 'Is it 5" or less?'),
    ("Is it 5 % or less?", "Is it 5 ‰ or less?"),
    ("Is it 5 °C there?", "Is it 5 °F there?"),
    ("Is it $5 or less?", "Is it €5 or less?"),
    ("Is it 5 m² or less?", "Is it 5 m³ or less?"),
    # negations
    ("Is it allowed here?", "Is it not allowed here?"),
    ("Can I park there?", "Can't I park there?"),
    ("Is this legal here?", "Is this illegal here?"),
    ("Darf ich eine Pause machen?", "Darf ich keine Pause machen?"),
    # names, and words that inflect
    ("Where does Martin work?", "Where does Martina work?"),
    ("Where does martin work?", "Where does martina work?"),
    ("Martin works where?", "Martina works where?"),
    ("Jansen works where?", "Janssen works where?"),
    ("Where does Hansen work?", "Where does Hanson work?"),
    ("Where does Kristin work?", "Where does Kirstin work?"),
    ("Who is Catherine Meyer?", "Who is Catherine Meier?"),
    ("Is iPhone 5 better than iPads?", "Is iPhone 5 better than iPods?"),
    ("Wo arbeitet Herr Schmidt?", "Wo arbeitet Herr Schmitt?"),
    ("¿Dónde está mi hermano?", "¿Dónde está mi hermana?"),
    ("¿Dónde están mis hermanos?", "¿Dónde están mis hermanas?"),
    ("Dov'è il ragazzo?", "Dov'è la ragazza?"),
    ("Где работает Александр?", "Где работает Александра?"),
    ("где моя подруга живёт?", "где мои подруги живёт?"),
    ("Gdzie pracuje Stanisław?", "Gdzie pracuje Stanisława?"),
    ("Notice is eighty days?", "Notice is eight days?"),
    ("这里可以抽烟吗", "这里不可以抽烟吗"),
    # emoji
    (f"What is {ENGLAND}?", f"What is {SCOTLAND}?"),
    ("What does 👨\u200d👩\u200d👧 mean?", "What does 👨 👩 👧 mean?"),
    ("What does 👍🏻 mean?", "What does 👍🏿 mean?"),
]  # fmt: skip

SAME = [
    ("How many days do I get?", "how many days do i get"),
    ("How many days do I get?", "HOW MANY DAYS DO I GET???"),
    ("How many days do I get?", "  How many\tdays do I get ?! "),
    ("Well, how many days (in all) do I get?", "Well how many days in all do I get"),
    ("Is it “allowed”, or isn’t it?", 'Is it "allowed", or isn\'t it?'),
    ("Isn't it allowed?", "Isnt it allowed?"),
    ("«Wo» ist das?", "„Wo“ ist das?"),
    ("Is it −3 °C outside?", "is it -3°C outside?".replace("3°", "3 °")),
    ("Rooms 3–5 are free?", "rooms 3-5 are free"),
    ("Ｒｏｏｍ　１２！＝３", "room 12!=3"),
    ("The printer – where is it?", "The printer - where is it?"),
    ("The printer — where is it?", "The printer, where is it?"),
    ("Where is it...", "Where is it…"),
    ("Where's the printer?", "Where’s the pritner?"),
    ("Where is the printer?", "where is the pinter"),
    ("Where is the printer?", "Where is the printter?"),
    ("Where is the printer?", "Where is the prunter?"),
    ("Where is the printer?", "Wheer is the printer?"),
    ("Where is the printer of Martin?", "where is the prniter of martin"),
    ("Who pays for holidays?", "Who pays for holiday?"),
    ("Что такое компьютер?", "что такое компютер"),
    ("Is x != y here?", "is x  !=  y here"),
    ("I love it ❤️ so", "I love it ❤ so"),
    ("Which of the top 10 is “5”?", 'Which of the "top 10" is 5?'),
    ("¿Cómo se llama la oficina?", "Como se llama la oficina".replace("Como", "Cómo")),
    ("你好，请问年假有几天？", "你好 请问年假有几天"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_sign_an_operator_a_unit_or_a_letter_of_a_name_makes_another_question(one: str, other: str) -> None:
    assert not repeats(one, other)
    assert not repeats(other, one)
    assert wording(one) != wording(other)  # nor is it the same answer


@pytest.mark.parametrize(("one", "other"), SAME)
def test_case_spacing_marks_and_slips_do_not(one: str, other: str) -> None:
    assert repeats(one, other)
    assert repeats(other, one)


@given(st.text())
def test_every_text_has_its_own_wording(text: str) -> None:
    assert wording(text).words == wording(text).words
    assert repeats(text, text)


@pytest.mark.parametrize(
    "piece", ["-", "!", "'", '"', "a'", "(", "1.", "a-", "`", "*:", "<!", "1:", "[", "\u200d", "5 M", "= ", "\n- "]
)
def test_no_text_takes_long(piece: str) -> None:
    assert growth(lambda size: wording(piece * (size // len(piece))), 5_000) <= 30
