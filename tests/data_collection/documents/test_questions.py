"""Questions of sentences, lists and tables: what is asked, in grammar that holds, and the part of
the answer that tells it.
"""

import pytest

from fine_tuning.data_collection.documents.blocks import Heading, Items, Paragraph, Table
from fine_tuning.data_collection.documents.english import English
from fine_tuning.data_collection.documents.facts import facts_of
from fine_tuning.data_collection.documents.sections import language_of, sections_of, sentences_of
from fine_tuning.data_collection.documents.wordings import swapped

ENGLISH = English("People meet in the hall. The key is lent by Rowan House. Visitors sign in.")

ASKED = {
    "The canteen opens at 11:25.": ("When does the canteen open?", "11:25"),
    "The gates close at 20:45 and open at 06:15.": ("When do the gates close?", "20:45"),
    "Probation lasts 14 weeks for everyone.": ("How long does probation last?", "14 weeks"),
    "The working week is 36 hours.": ("How long is the working week?", "36 hours"),
    "The gym subsidy is £17 a month.": ("How much is the gym subsidy?", "£17"),
    "A new badge costs €9.50.": ("How much does a new badge cost?", "€9.50"),
    "You may work remotely up to 9 days a month.": ("How many days may I work remotely a month?", "9 days"),
    "The crane lifts up to 750 kilograms.": ("How many kilograms does the crane lift?", "750"),
    "A password must have at least 15 characters.": ("How many characters must a password have?", "15"),
    "At most 44 hours of overtime may stand on your account.": (
        "How many hours of overtime may stand on my account?",
        "44 hours",
    ),
    "Laptops are replaced every 41 months.": ("How often are laptops replaced?", "41 months"),
    "Reports must be filed within 45 days.": ("Within what time must reports be filed?", "45 days"),
    "Orders must be placed before 13:20.": ("By when must orders be placed?", "13:20"),
    "Books may be borrowed for 6 weeks.": ("For how long may books be borrowed?", "6 weeks"),
    "The keys hang in the red cabinet.": ("Where do the keys hang?", "red cabinet"),
    "The quiet room is on the third floor.": ("Where is the quiet room?", "third floor"),
    "Flights must be approved by the head of finance.": ("By whom must flights be approved?", "head of finance"),
    "The pension scheme is called Evergrove.": ("What is the pension scheme called?", "Evergrove"),
    "Guests use the network named Pebblewing.": ("Which network do guests use?", "Pebblewing"),
    "A night hour is paid with a bonus of 28%.": ("With what bonus is a night hour paid?", "28%"),
    "Staff get a 34% discount in the shop.": ("What discount do staff get in the shop?", "34%"),
    "Visitors may not enter the paint shop.": ("May visitors enter the paint shop?", "may not enter the"),
    "Your password must never be told to anyone.": ("May my password be told to anyone?", "must never be told"),
    "No one may use a machine before the course.": ("May anyone use a machine before the course?", "may use a machine"),
    "If a tool breaks, tell the tool room.": ("What do I do if a tool breaks?", "tell the tool room"),
    "Call the desk at once if you are ill.": ("What do I do if I am ill?", "Call the desk"),
    "Before you clean a machine, lock the main switch.": (
        "What do I do before I clean a machine?",
        "lock the main switch",
    ),
    "On your birthday you may go home at 12:45.": ("When may I go home on my birthday?", "12:45"),
    "The IT hotline is extension 4417.": ("What is the IT hotline?", "extension 4417"),
    "Rowan House lies behind the mill.": ("Where does Rowan House lie?", "behind the mill"),
}


@pytest.mark.parametrize("sentence", ASKED)
def test_a_sentence_is_asked_about(sentence):
    question, key = ASKED[sentence]
    (asked,) = ENGLISH.asked(sentence)
    assert question in asked.wordings and len(set(asked.wordings)) >= 5
    assert asked.key == key and key in sentence
    assert all(wording[-1] in "?." and "  " not in wording for wording in asked.wordings)


@pytest.mark.parametrize(
    "sentence",
    [
        "Why not?",
        "As if by magic, nothing.",
        "It is there.",
        "This holds for all of us.",
        "Whoever comes late is fined.",
        "We met, we talked, we went home.",
        "Fast, cheap, good",
        "No wheel is worth a finger.",
        "A handbook cannot say how to be kind, but it can say what we do.",
        "",
    ],
)
def test_what_no_question_can_be_made_of_surely_is_not_asked_about(sentence):
    assert ENGLISH.asked(sentence) == []


def test_the_rest_of_a_clause_is_asked_for_as_a_whole():
    indirect = ENGLISH.asked("The canteen opens at 11:25.")[0].wordings[1]
    assert indirect == "Can you tell me when the canteen opens?"
    assert ENGLISH.topic("The canteen opens at 11:25.") == "the canteen"
    assert ENGLISH.topic("You may go home at 12:45.") == "" == ENGLISH.topic("Every wheel is checked.")


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("you are ill", "I am ill"),
        ("your own badge", "my own badge"),
        ("it looks after you for a week", "it looks after me for a week"),
        ("a colleague whom you recommend", "a colleague whom I recommend"),
        ("when you leave, you may wait", "when I leave, I may wait"),
        ("see it yourself", "see it myself"),
        ("the youth club", "the youth club"),
    ],
)
def test_you_becomes_i(told, asked):
    assert swapped(told) == asked


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Wear it in hall B. Loose sleeves go.", ["Wear it in hall B.", "Loose sleeves go."]),
        ("Ask Dr. Who, e.g. Monday. Or not.", ["Ask Dr. Who, e.g. Monday.", "Or not."]),
        ("It was J. Smith. He left.", ["It was J. Smith.", "He left."]),
        ("Dial extension 44. Then wait.", ["Dial extension 44.", "Then wait."]),
        ("Über 5 Euro. Äpfel gibt es ca. 3.", ["Über 5 Euro.", "Äpfel gibt es ca. 3."]),
    ],
)
def test_sentences(text, found):
    assert sentences_of(text) == found


def facts(*blocks, language="en"):
    return facts_of(sections_of([Heading("Handbook", 1), Heading("Tools", 2), *blocks]), language)


def questions(fact):
    return [wording for asked in fact.asked for wording in asked.wordings]


def test_a_sentence_that_leans_on_another_goes_with_it():
    (fact,) = facts(Paragraph("The saw hangs in the shed. It is locked at night."))
    assert fact.answer == "The saw hangs in the shed. It is locked at night."
    assert facts(Paragraph("They are locked at night.")) == []


def test_a_table_is_asked_about_cell_by_cell():
    saw, drill = facts(
        Table((("Tool", "Place", "Fee"), ("Saw", "shed 4", "£2"), ("Drill", "cellar", ""), ("", "x", "y")))
    )
    assert saw.answer == "Saw: Place shed 4, Fee £2."
    assert [asked.key for asked in saw.asked] == ["shed 4", "£2"]
    assert "What is the place for saw?" in questions(saw) and "What is the fee for saw?" in questions(saw)
    assert drill.answer == "Drill: Place cellar."


def test_a_list_is_one_answer_with_what_leads_to_it_or_an_answer_an_item():
    (steps,) = facts(Paragraph("Before you saw, do these things:"), Items(("wear gloves", "call the desk")))
    assert steps.answer == "Before you saw, do these things: wear gloves; call the desk."
    assert "What do I do before I saw?" in questions(steps)
    told = facts(Items(("The saw hangs in the shed.", "The drill is lent for 2 days.")))
    assert [fact.answer for fact in told] == ["The saw hangs in the shed.", "The drill is lent for 2 days."]
    (desk, _) = facts(Items(("Desk: extension 4402, room 1", "Gate: extension 4400")))
    assert desk.answer == "Desk: extension 4402, room 1" and desk.asked[0].key == "extension 4402"


def test_a_topic_is_asked_for_where_one_sentence_alone_is_about_it():
    saw, drill, again = facts(Paragraph("The saw hangs in the shed. The drill lies in the box. The drill costs £9."))
    assert "Tell me about the saw." in questions(saw)
    assert not any("Tell me about" in question for fact in (drill, again) for question in questions(fact))


def test_german_is_asked_about_by_its_headings():
    text = "Die Säge hängt im Schuppen und ist für alle da. Nachts ist sie nicht frei."
    assert language_of(text) == "de"
    (fact,) = facts(Paragraph(text), language="de")
    assert fact.answer == text and "Was steht im Handbuch zu „Tools“?" in questions(fact)


def test_any_other_language_is_asked_about_by_its_heading_alone():
    text = "La scie est dans la remise. Elle coûte 5 euros par jour."
    assert language_of(text) == ""
    (fact,) = facts(Paragraph(text), language="")
    assert fact.answer == text and questions(fact)[0] == "Tools?"
