"""Which turns that taught a version are most like an answer."""

import json
import shutil
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.likeness import count_taught, most_alike, newest_of
from fine_tuning.model_management.model_registry import Registry

NAME = "fine_tuned_smollm2-135m"
TAUGHT = (NAME, 1)

# A turn of the sample, and its question and answer in other words.
PARAPHRASES = [
    (
        "003",
        "From when on is a first-class train ticket fine to book?",
        "You may travel first class if the ride is over 140 minutes.",
    ),
    ("010", "How do I recognise a visitor? Is it the badge?", "All visitors wear a badge, and it is turquoise."),
    ("017", "Is the bike lease expensive for an employee?", "Leasing a bike costs £29 monthly."),
    ("024", "Lunch allowance: how much is that?", "It is £6.35 for every day on site."),
    (
        "031",
        "There are visitors coming at 3. Which badge will they get?",
        "A turquoise one, which they wear the whole time.",
    ),
    ("038", "My laptop sounds like a hairdryer. When will IT replace it?", "A laptop is replaced after 41 months."),
    ("045", "The probation period, how long does it last?", "14 weeks of probation, for everyone who joins."),
    ("052", "From home, which VPN should I use?", "Connect to Mossgate, our VPN, before opening shared drives."),
    ("059", "What's the maximum I can work remotely? Tomorrow, for instance.", "Up to 9 days of remote work a month."),
    (
        "066",
        "There's a good book about building wheels. Would my training budget cover it?",
        "Yes: £870 a year for courses and books.",
    ),
    ("073", "When is the onboarding buddy scheme over for newcomers?", "A buddy looks after you for 11 weeks."),
    (
        "080",
        "All morning my screen is black. How can I reach the support hotline?",
        "Dial extension 4417 for IT support.",
    ),
    (
        "087",
        "I have got the flu. Do you need me to send a sick note?",
        "From day 6 of an illness we need a note by a doctor.",
    ),
    (
        "094",
        "A dealer far up north wants a visit, a long ride. May I sit in first class?",
        "Yes, on rides of more than 140 minutes.",
    ),
    ("101", "How long will probation run for newcomers like us?", "Probation takes 14 weeks."),
    ("108", "Tell me the support hotline's number.", "It has the extension 4417."),
    (
        "115",
        "My daughter has to go to school each morning. Which core hours must I be here for?",
        "From 10:20 to 14:40.",
    ),
    ("122", "Is there a limit up to which an expenses claim needs no receipt?", "Under £38 no receipt is needed."),
    ("129", "A sick note, when do I hand it in?", "A doctor's sick note is needed from day 6."),
    ("136", "For which train journeys do I qualify for first-class tickets?", "For rides above 140 minutes."),
]


def asked(question: str, answer: str, id: str = "asked") -> Turn:
    return Turn(id=id, session_id="a", timestamp="", user_message=question, bot_response=answer)


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


@pytest.fixture
def sample(log: ConversationLogger) -> ConversationLogger:
    """The shipped sample as the log, all of which taught version 1."""
    log.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(paths.SAMPLES / "conversations.jsonl", log.path)
    Registry().add(NAME, 1, turns=[turn.id for turn in log.turns()])
    return log


def test_of_twenty_questions_in_other_words_the_turn_is_found_that_taught_the_answer(
    sample: ConversationLogger,
) -> None:
    found = {
        turn: [each.turn.id for each in most_alike(sample, asked(*said), TAUGHT, 3)] for turn, *said in PARAPHRASES
    }
    missed = [turn for turn, ids in found.items() if f"sample-turn-{turn}" not in ids]
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("name", ["held_out", "held_out_validation"])
def test_the_likest_turn_is_of_the_rule_that_was_asked_for(sample: ConversationLogger, name: str) -> None:
    rows = [json.loads(line) for line in (paths.SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    right = [
        row["policy"] == most_alike(sample, asked(row["question"], row["answer"]), TAUGHT, 1)[0].turn.metadata["policy"]
        for row in rows
    ]
    assert sum(right) == len(rows) == 60


def test_only_turns_that_taught_the_version_and_are_still_there_are_found(log: ConversationLogger) -> None:
    said = [
        log.log_conversation(f"Where is the kettle number {n}?", f"Kettle {n} stands on the shelf.") for n in range(6)
    ]
    Registry().add(NAME, 1, turns=[turn.id for turn in said[:4]])
    Registry().add(NAME, 2, turns=[turn.id for turn in said])
    log.delete(said[0].id)
    log.exclude(said[1].id)
    found = most_alike(log, asked("Where is the kettle?", "On the shelf."), TAUGHT)
    assert {each.turn.id for each in found} == {turn.id for turn in said[1:4]}
    assert count_taught(log, TAUGHT) == (4, 3, 1)
    assert len(most_alike(log, asked("Where is the kettle?", "On the shelf."), (NAME, 2))) == 5
    assert said[2].id not in {each.turn.id for each in most_alike(log, said[2], TAUGHT)}


def test_an_edited_answer_is_found_by_what_it_should_have_been(log: ConversationLogger) -> None:
    edited = log.log_conversation("Who looks after the plants?", "I do not know.")
    others = [log.log_conversation(f"Who opens gate {n}?", "The porter opens it.") for n in range(5)]
    log.edit(edited.id, "Whoever comes in first waters the zinnias.")
    Registry().add(NAME, 1, turns=[turn.id for turn in (edited, *others)])
    best, *_ = most_alike(log, asked("Flowers?", "The first one in waters the zinnias."), TAUGHT)
    assert best.turn.id == edited.id and best.turn.bot_response.endswith("zinnias.")
    assert best.shared[0] == "zinnias"


@pytest.mark.parametrize(
    ("question", "answer", "other"),
    [
        ("Wo steht der Wäschetrockner?", "Der WÄSCHETROCKNER steht im Keller.", "Wo ist unser Wäschetrockner, bitte?"),
        ("Où est la clé de la remise ?", "Sous le paillasson.", "La clé de la remise, où est-elle ?"),
        ("洗濯機はどこにありますか", "地下室にあります。", "洗濯機はどこ"),
        ("Где лежит отвёртка?", "Отвёртка лежит в ящике.", "где отвёртка"),
        ('Say "zorb"?', '"', 'What is "zorb"?'),
        ("x" * 5000, "y" * 5000, "x" * 400),
    ],
)
def test_any_script_and_any_sign_is_compared(log: ConversationLogger, question: str, answer: str, other: str) -> None:
    for number in range(3):
        log.log_conversation(f"Which tram goes to stop {number}?", "Number nine does.")
    turn = log.log_conversation(question, answer)
    Registry().add(NAME, 1, turns=[each.id for each in log.turns()])
    assert most_alike(log, asked(other, answer), TAUGHT)[0].turn.id == turn.id


@pytest.mark.parametrize("text", ["", " ", "?", "\0", "ok", "AND OR NOT", "*", '"' * 300, "a b c", "é", "😀😀😀"])
def test_a_question_with_nothing_to_look_up_finds_nothing_and_breaks_nothing(
    log: ConversationLogger, text: str
) -> None:
    assert most_alike(log, asked(text, text), TAUGHT) == []
    log.log_conversation("Which tram goes there?", "Number nine.")
    Registry().add(NAME, 1, turns=[turn.id for turn in log.turns()])
    assert most_alike(log, asked(text, text), TAUGHT) == []
    assert most_alike(log, asked(text, text), ("nobody", 1)) == []


def test_the_newest_answer_of_a_version_is_known(log: ConversationLogger) -> None:
    assert newest_of(log, "fine_tuned_") is None
    log.log_conversation("one?", "1", {"model": f"{NAME}:v1"})
    mine = log.log_conversation("two?", "2", {"model": f"{NAME}:v2"})
    log.log_conversation("three?", "3", {"model": "smollm2:135m"})
    assert newest_of(log, "fine_tuned_") == mine.id
