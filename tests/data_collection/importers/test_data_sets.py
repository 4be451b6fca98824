"""Records as public data sets, annotation tools and help desks write them give the turns that are meant."""

import json
import sqlite3

import pytest

from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.errors import DataError

Q, A, Q2, A2 = "How deep is the lake?", "Forty metres.", "And how deep is the pond?", "Two metres."
STORY = "The lake is forty metres deep, the pond two."
SPOKEN = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]


def turns(log) -> list[tuple[str, str]]:
    return [(turn.user_message, turn.bot_response) for turn in log.turns()]


def lines(file, records):
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return file


QUESTIONS = [
    # an instruction is asked with what it is about, whatever names the two have
    ({"instruction": "Add.", "input": "2 and 3", "response": "5"}, "Add.\n\n2 and 3", "5"),
    ({"instruction": "Add.", "context": "2 and 3", "output": "5"}, "Add.\n\n2 and 3", "5"),
    ({"definition": "Add.", "inputs": "2 and 3", "targets": "5"}, "Add.\n\n2 and 3", "5"),
    ({"inputs": [1, 2], "inputs_pretokenized": Q, "targets": [3], "targets_pretokenized": A}, Q, A),
    # of several right answers the first is read; sentences are the paragraphs of one
    ({"question": Q, "answer": ["forty metres", "40 m"]}, Q, "forty metres"),
    ({"question": Q, "answer": ["It is deep.", "Forty metres."]}, Q, "It is deep.\n\nForty metres."),
    ({"question": Q, "answer": {"aliases": ["40 m"], "value": A, "type": "x"}}, Q, A),
    ({"question": Q, "answer": [{"user_id": "u", "value": A, "status": "submitted"}]}, Q, A),
    ({"title": Q, "selftext": "", "answers": {"a_id": ["x", "y"], "text": ["Hm.", A], "score": [1, 9]}}, Q, A),
    ({"query": Q, "answers": [A], "passages": {"is_selected": [1], "passage_text": [STORY]}}, Q, A),
    # choices are asked, and the right one is the answer
    ({"question": "Deepest?", "choices": ["pond", "sea"], "answer": 1}, "Deepest?\n\nA. pond\nB. sea", "B. sea"),
    ({"question": "Deepest?", "choices": ["pond", "sea"], "answer": "0"}, "Deepest?\n\nA. pond\nB. sea", "A. pond"),
    (
        {"question": "Deepest?", "choices": {"text": ["pond", "sea"], "label": ["1", "2"]}, "answerKey": "2"},
        "Deepest?\n\n1. pond\n2. sea",
        "2. sea",
    ),
    (
        {"article": STORY, "question": "Deepest?", "options": ["A) pond", "B) lake"], "answer": "B"},
        f"Deepest?\n\n{STORY}\n\nA) pond\nB) lake",
        "B) lake",
    ),
    ({"question": "Is it &quot;deep&quot;?", "correct_answer": "It&#039;s", "incorrect_answers": ["No"]},
     'Is it "deep"?', "It's"),
    # what the question is about may be titles with sentences
    (
        {"question": Q, "answer": "Forty", "context": {"title": ["Lake"], "sentences": [["Deep.", "Cold."]]}},
        f"{Q}\n\nLake\nDeep.\nCold.",
        "Forty",
    ),
    ({"Context": "I cannot sleep.", "Response": "Since when?"}, "I cannot sleep.", "Since when?"),
    ({"Patient": "I cough.", "Doctor": "Drink tea."}, "I cough.", "Drink tea."),
    ({"Front": Q, "Back": A, "Tags": "lakes"}, Q, A),
    ({"document_text": "The <P> Forty metres . </P>", "question_text": "how deep",
      "annotations": [{"short_answers": [{"start_token": 2, "end_token": 4}]}]}, "how deep", "Forty metres"),
    ({"conversations": [{"from": "human", "value": Q},
                        {"from": "gpt", "value": f'<div class="markdown x"><p>{A}</p></div>'}]}, Q, A),
    ({"item": {"question": Q}, "sample": {"output_text": A}}, Q, A),
    ({"input": {"inputBodyJson": {"messages": SPOKEN[:1]}}, "output": {"outputBodyJson": SPOKEN[1]}}, Q, A),
]  # fmt: skip


@pytest.mark.parametrize(("record", "question", "answer"), QUESTIONS)
def test_a_question_and_its_answer(log, tmp_path, record, question, answer):
    report = import_files(log, [lines(tmp_path / "set.jsonl", [record])])
    assert turns(log) == [(question, answer)] and report.set_aside == 0


ASKED = "Deepest?"
CHOICES = f"{ASKED}\n\nA. pond\nB. lake\nC. sea\nD. well"
MEDMCQA = {"id": "1", "question": ASKED, "opa": "pond", "opb": "lake", "opc": "sea", "opd": "well",
           "choice_type": "single", "exp": "Ans. is 'c'", "subject_name": "Water", "topic_name": None}  # fmt: skip
SOCIAL = {"context": STORY, "question": ASKED, "answerA": "pond", "answerB": "lake", "answerC": "sea"}
COSMOS = {"id": "1", "context": STORY, "question": ASKED, **{f"answer{n}": text for n, text in enumerate("abcd")}}
WINOGRANDE = {"sentence": "The lake is deeper than the pond, so _ is colder.", "option1": "lake", "option2": "pond"}
PIQA = {"goal": "To measure the depth of a lake,", "sol1": "drop a line.", "sol2": "drop a hat."}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # the sample tells from which number choices are counted: from 0, and from 1 in the original files
        ([{**MEDMCQA, "cop": 0}, {**MEDMCQA, "cop": 2}], [(CHOICES, "A. pond"), (CHOICES, "C. sea")]),
        ([{**MEDMCQA, "cop": 1}, {**MEDMCQA, "cop": 4}], [(CHOICES, "A. pond"), (CHOICES, "D. well")]),
        ([{**MEDMCQA, "cop": 0}, {**MEDMCQA, "cop": -1}], [(CHOICES, "A. pond")]),  # kept secret, as in tests
        (
            [{**SOCIAL, "label": "1\n"}, {**SOCIAL, "label": "3\n"}],
            [(f"{ASKED}\n\n{STORY}\n\nA. pond\nB. lake\nC. sea", right) for right in ("A. pond", "C. sea")],
        ),
        (
            [{**COSMOS, "label": 0}, {**COSMOS, "label": 1}],
            [(f"{ASKED}\n\n{STORY}\n\nA. a\nB. b\nC. c\nD. d", right) for right in ("A. a", "B. b")],
        ),
        (
            [{**WINOGRANDE, "answer": "2"}, {**WINOGRANDE, "answer": "1"}],
            [(f"{WINOGRANDE['sentence']}\n\nA. lake\nB. pond", right) for right in ("B. pond", "A. lake")],
        ),
        (
            [{**PIQA, "label": 0}, {**PIQA, "label": 1}],
            [(f"{PIQA['goal']}\n\nA. drop a line.\nB. drop a hat.", right)
             for right in ("A. drop a line.", "B. drop a hat.")],
        ),
        (
            [{"Question": f"As {right}?", "Option A": "pond", "Option B": "lake", "Answer": right}
             for right in ("B", "b)", "Option B", "lake")],
            [(f"As {given}?\n\nA. pond\nB. lake", right)
             for given, right in (("B", "B. lake"), ("b)", "B. lake"), ("Option B", "B. lake"), ("lake", "lake"))],
        ),
        (
            [{"id": "1", "question": {"stem": ASKED, "choices": [{"text": "pond", "label": "A"},
              {"text": "sea", "label": "B"}]}, "answerKey": "B"}],
            [(f"{ASKED}\n\nA. pond\nB. sea", "B. sea")],
        ),
        # problems with code: the first solution, and the code that is to be completed
        (
            [{"problem_id": 1, "question": "Add two numbers.", "solutions": '["print(a + b)", "c = a + b"]',
              "input_output": '{"inputs": ["1 2"], "outputs": ["3"]}', "difficulty": "introductory", "url": "u",
              "starter_code": "def add(a, b):"}],
            [("Add two numbers.\n\ndef add(a, b):", "print(a + b)")],
        ),
        (
            [{"name": "1_A. Sum", "description": "Add two numbers.", "incorrect_solutions": {"solution": ["print(a)"]},
              "solutions": {"language": [3, 2], "solution": ["print(a + b)", "int c;"]}}],
            [("Add two numbers.", "print(a + b)")],
        ),
    ],
)  # fmt: skip
def test_choices_in_fields_of_their_own_and_solutions(log, tmp_path, records, expected):
    report = import_files(log, [lines(tmp_path / "set.jsonl", records)])
    assert turns(log) == expected and report.set_aside == 0


SUM = {"question": "2+2?", "option1": "3", "option2": "4", "option3": "5", "option4": "6"}
SUMS = "2+2?\n\nA. 3\nB. 4\nC. 5\nD. 6"
LIST = {"question": "2+2?", "choices": ["3", "4", "2", "1"]}
LISTED = "2+2?\n\nA. 3\nB. 4\nC. 2\nD. 1"
SHUFFLED = {"question": "1+2?", "option1": "1", "option2": "3", "option3": "2", "option4": "4"}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # a number that is the text of a choice, where most answers are texts of choices
        ([{**SUM, "answer": "4"}], [(SUMS, "4")]),
        ([{**SUM, "answer": 4}], [(SUMS, "4")]),
        ([{**LIST, "answer": "2"}], [(LISTED, "2")]),
        ([{"question": "2+2?", "A": "1", "B": "4", "C": "2", "D": "3", "answer": "2"}],
         [("2+2?\n\nA. 1\nB. 4\nC. 2\nD. 3", "2")]),
        ([{"question": "2+2?", "options": {"A": "4", "B": "0", "C": "1"}, "answer": "1"}],
         [("2+2?\n\nA. 4\nB. 0\nC. 1", "C. 1")]),
        ([{"question": "First?", "option1": "B", "option2": "A", "answer": "A"}], [("First?\n\nA. B\nB. A", "A")]),
        # where most are places, it is a place
        ([{**SUM, "answer": "1"}, {**SUM, "answer": "2"}, {**SHUFFLED, "answer": "2"}, {**MEDMCQA, "cop": "4"}],
         [(SUMS, "A. 3"), (SUMS, "B. 4"), ("1+2?\n\nA. 1\nB. 3\nC. 2\nD. 4", "B. 3"), (CHOICES, "D. well")]),
        # an empty choice keeps its place, and is no answer
        ([{**MEDMCQA, "cop": 0}, {**MEDMCQA, "opa": None, "cop": 1}, {**MEDMCQA, "opa": "", "cop": 0}],
         [(CHOICES, "A. pond"), (CHOICES.replace("A. pond\n", ""), "B. lake")]),
        ([{**MEDMCQA, "opd": None, "cop": 3}, {**MEDMCQA, "opd": None, "cop": 1}],
         [(CHOICES.replace("\nD. well", ""), right) for right in ("C. sea", "A. pond")]),
        ([{"question": ASKED, "A": "", "B": "lake", "C": "sea", "answer": right} for right in (1, "A")],
         [(f"{ASKED}\n\nB. lake\nC. sea", "B. lake")]),
        # other ways to write a place
        ([{**MEDMCQA, "cop": 1.0}, {**MEDMCQA, "cop": 4.0}], [(CHOICES, "A. pond"), (CHOICES, "D. well")]),
        ([{"question": ASKED, "choices": ["pond", "lake", "sea", "well"], "answer": right} for right in (1, 4, -1)],
         [(CHOICES, "A. pond"), (CHOICES, "D. well")]),
        ([{"question": ASKED, "choices": ["pond", "sea"], "label": right} for right in (0, 1)],
         [(f"{ASKED}\n\nA. pond\nB. sea", right) for right in ("A. pond", "B. sea")]),
    ],
)  # fmt: skip
def test_what_names_the_right_choice_is_decided_for_the_file(log, tmp_path, records, expected):
    report = import_files(log, [lines(tmp_path / "set.jsonl", records)])
    assert turns(log) == expected and report.set_aside == 0


def test_a_number_that_is_no_place_and_no_text_of_a_choice_is_set_aside(log, tmp_path):
    report = import_files(log, [lines(tmp_path / "set.jsonl", [{**SUM, "answer": each} for each in ("4", "5", "7")])])
    assert turns(log) == [(SUMS, "4"), (SUMS, "5")] and report.set_aside == 1


def test_a_number_that_may_count_from_0_or_1_is_set_aside(log, tmp_path):
    report = import_files(log, [lines(tmp_path / "set.jsonl", [{**MEDMCQA, "cop": 2}, {**MEDMCQA, "cop": 3}])])
    assert turns(log) == [] and report.set_aside == 2
    assert "counted from 0 or from 1" in report.faults[0].reason


@pytest.mark.parametrize(
    "record",
    [
        {"query": Q, "answers": ["No Answer Present."]},
        {"question": Q, "context": STORY, "answers": {"text": [], "answer_start": []}},
        {"document_text": STORY, "question_text": Q, "annotations": [{"short_answers": []}]},
    ],
)
def test_a_question_without_an_answer_is_counted(log, tmp_path, record):
    report = import_files(log, [lines(tmp_path / "set.jsonl", [record])])
    assert (report.turns, report.unanswered, report.set_aside) == (0, 1, 0)


@pytest.mark.parametrize(
    "records",
    [
        [{"conversation_id": "c", "question": Q, "answer": A}, {"conversation_id": "c", "question": Q2, "answer": A2}],
        [
            {"Context": [], "Question": Q, "Answer": A, "Conversation_no": 1, "Turn_no": 1},
            {"Context": [Q, A], "Question": Q2, "Answer": A2, "Conversation_no": 1, "Turn_no": 2},
        ],
        [
            {"candidates": ["No.", A], "history": [Q], "conv_id": 0, "utterance_idx": 0},
            {"candidates": ["No.", A2], "history": [Q, A, Q2], "conv_id": 0, "utterance_idx": 1},
        ],
        [{"turns": {"turn_id": ["0", "1", "2", "3"], "speaker": [0, 1, 0, 1], "utterance": [Q, A, Q2, A2]}}],
        [{"dialogue": f"Amanda: {Q}\r\nJerry: {A}\r\nAmanda: {Q2}\r\nJerry: {A2}", "summary": "On lakes."}],
        [{"dialogue": f"#Person1#: {Q}\n#Person2#: {A}\n#Person1#: {Q2}\n#Person2#: {A2}"}],
        [{"user 1 personas": "x",
          "Best Generated Conversation": f"User 1: {Q}\nUser 2: {A}\nUser 1: {Q2}\nUser 2: {A2}"}],
        [{"transcript": f"\n\nHuman: {Q}\n\nAssistant: {A}\n\nHuman: {Q2}\n\nAssistant: {A2}", "rating": 4.0}],
    ],
)  # fmt: skip
def test_the_exchanges_of_a_conversation_stay_one(log, tmp_path, records):
    report = import_files(log, [lines(tmp_path / "set.jsonl", records)])
    assert turns(log) == [(Q, A), (Q2, A2)] and report.set_aside == 0
    assert len({turn.session_id for turn in log.turns()}) == 1


@pytest.mark.parametrize(
    "passage",
    [
        {"story": STORY, "questions": [Q, Q2], "answers": {"input_text": [A, A2], "answer_start": [0, 1]}},
        {"context": f"{STORY} CANNOTANSWER", "questions": [Q, Q2], "answers": {"texts": [["x"], ["y"]]},
         "orig_answers": {"texts": [A, A2], "answer_starts": [0, 1]}},
    ],
)  # fmt: skip
def test_passages_as_hugging_face_stores_them(log, tmp_path, passage):
    import_files(log, [lines(tmp_path / "set.jsonl", [passage])])
    assert turns(log) == [(f"{Q}\n\n{STORY}", A), (Q2, A2)]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": Q, "response_0": "No.", "response_1": A, "better_response_id": 1, "is_response_0_safe": True},
        {"question": {"full_text": Q}, "answer_0": A, "answer_1": "No.", "score_0": 0.5, "score_1": -0.5},
        {"prompt": Q, "response1": A, "response2": "No.", "overall_preference": -2},
        {"prompt": Q, "response_a": A, "response_b": "No.", "winner": "model_a"},
        {"prompt": f'["{Q}"]', "response_a": '["No."]', "response_b": f'["{A}"]', "winner_model_a": 0,
         "winner_model_b": 1, "winner_tie": 0},
        {"id": 1, "data": {"prompt": Q, "answer1": "No.", "answer2": A},
         "annotations": [{"result": [{"value": {"selected": "right"}, "to_name": "answer1", "type": "pairwise"}]}]},
    ],
)  # fmt: skip
def test_the_better_one_of_two_numbered_answers_is_learned(log, tmp_path, record):
    import_files(log, [lines(tmp_path / "set.jsonl", [record])])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["original_response"]) == (Q, A, "No.")


def test_a_tie_is_set_aside(log, tmp_path):
    record = {"prompt": Q, "response1": A, "response2": "No.", "overall_preference": 0}
    (fault,) = import_files(log, [lines(tmp_path / "set.jsonl", [record])]).faults
    assert "it is a tie" in fault.reason


ADDED = [
    {"value": {"chatmessage": {"role": role, "content": text}}} for role, text in (("user", Q2), ("assistant", A2))
]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"data": {"chat": SPOKEN}, "annotations": [{"result": ADDED}]}, [(Q, A), (Q2, A2)]),
        ({"fields": {"prompt": Q}, "responses": [{"values": {"x": {"value": "No."}}, "status": "discarded"},
          {"values": {"x": {"value": A}}, "status": "submitted"}]}, [(Q, A)]),
        ({"text": Q, "_task_hash": 1, "answer": "accept", "user_input": A}, [(Q, A)]),
    ],
)  # fmt: skip
def test_what_annotators_wrote(log, tmp_path, record, expected):
    import_files(log, [lines(tmp_path / "set.jsonl", [record])])
    assert turns(log) == expected


COMMENTS = [("kim", A), ("ann", Q2), ("kim", A2)]
PAGE = {"type": "doc", "content": [{"type": "paragraph", "content": [{"type": "text", "text": Q}]}]}


@pytest.mark.parametrize(
    "record",
    [
        {"title": "Lake", "body": Q, "user": {"login": "ann"},
         "comments": [{"user": {"login": who}, "body": text} for who, text in COMMENTS]},
        {"issues": [{"key": "A-1", "fields": {"summary": "Lake", "description": PAGE, "reporter": {"accountId": "ann"},
         "comment": {"comments": [{"author": {"accountId": who}, "body": text} for who, text in COMMENTS]}}}]},
    ],
)  # fmt: skip
def test_who_opens_an_issue_asks(log, tmp_path, record):
    file = tmp_path / "issues.json"
    file.write_text(json.dumps(record))
    import_files(log, [file])
    assert turns(log) == [(f"Lake\n\n{Q}", A), (Q2, A2)]


@pytest.mark.parametrize(
    "record",
    [
        {"helpdesk_ticket": {"description": Q, "requester_id": 5,
                             "notes": [{"helpdesk_note": {"body": A, "incoming": False}}]}},
        {"Transcript": [{"Content": Q, "ParticipantRole": "CUSTOMER"}, {"Content": A, "ParticipantRole": "AGENT"}]},
        {"messages": [{"sender": {"t": "v"}, "msg": Q}, {"sender": {"t": "a", "n": "Kim"}, "msg": A}]},
    ],
)  # fmt: skip
def test_the_sides_of_more_help_desks(log, tmp_path, record):
    import_files(log, [lines(tmp_path / "set.jsonl", [record])])
    assert turns(log) == [(Q, A)]


@pytest.mark.parametrize(
    "value",
    [
        {"question": {"0": Q, "1": Q2}, "answer": {"0": A, "1": A2}},
        {"columns": ["question", "answer"], "index": [0, 1], "data": [[Q, A], [Q2, A2]]},
        {"question": [Q, Q2], "answer": [A, A2]},
        {"x": {"question": Q, "answer": A}, "y": {"question": Q2, "answer": A2}},
        {"u1": {"conversation_id": "u1", "text": Q, "speaker": "a", "reply-to": None},
         "u2": {"conversation_id": "u1", "text": A, "speaker": "b", "reply-to": "u1"},
         "u3": {"conversation_id": "u3", "text": Q2, "speaker": "a", "reply-to": None},
         "u4": {"conversation_id": "u3", "text": A2, "speaker": "b", "reply-to": "u3"}},
    ],
)  # fmt: skip
def test_rows_that_an_object_stores_by_column_or_by_id(log, tmp_path, value):
    file = tmp_path / "table.json"
    file.write_text(json.dumps(value))
    import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, A2)]


def test_a_table_of_questions_without_a_head(log, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(f'{Q},{A}\n{Q2},"Two metres, at most."\nAny fish?,Perch.\n')
    import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, "Two metres, at most."), ("Any fish?", "Perch.")]


def test_utterances_with_a_number_in_their_conversation(log, tmp_path):
    head = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance\n"
    rows = [(1, 1, "I saw a lake_comma_ a deep one."), (2, 0, "How deep?"), (3, 1, "Very."), (4, 0, "Oh!")]
    file = tmp_path / "train.csv"
    file.write_text(head + "".join(f"c,{number},joy,At the lake.,{who},{text}\n" for number, who, text in rows))
    import_files(log, [file])
    assert turns(log) == [("I saw a lake, a deep one.", "How deep?"), ("Very.", "Oh!")]


def test_numbers_of_utterances_that_begin_again_are_no_ids(log, tmp_path):
    said = [(0, 0, "Joey", Q), (0, 1, "Ross", A), (1, 0, "Joey", Q2), (1, 1, "Ross", A2)]
    rows = "".join(f"{text},{who},neutral,{dialogue},{number}\n" for dialogue, number, who, text in said)
    file = tmp_path / "train.csv"
    file.write_text(f"Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n{rows}")
    report = import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, A2)] and report.set_aside == 0


@pytest.mark.parametrize(
    "text",
    [
        f"text:{Q}\tlabels:{A}\ntext:{Q2}\tlabels:{A2}|Two.\tepisode_done:True\n",
        f"{Q} __eou__ {A} __eou__ {Q2} __eou__ {A2} __eou__\n",
        f"1 {Q}\t{A}\n2 {Q2}\t{A2}\n",
    ],
)
def test_dialogues_with_a_turn_on_each_line(log, tmp_path, text):
    file = tmp_path / "train.txt"
    file.write_text(text)
    import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, A2)] and len({turn.session_id for turn in log.turns()}) == 1


def test_what_a_recogniser_heard_is_joined_and_needs_speakers(log, tmp_path):
    heard = [("S0", " How deep"), ("S0", " is the lake?"), ("S1", " Forty metres.")]
    segments = [{"start": n, "end": n + 1, "text": text, "speaker": who} for n, (who, text) in enumerate(heard)]
    file = tmp_path / "speech.json"
    file.write_text(json.dumps({"segments": segments, "language": "en"}))
    import_files(log, [file])
    assert turns(log) == [(Q, A)]
    file.write_text(json.dumps({"segments": [{**each, "speaker": None} for each in segments]}))
    with pytest.raises(DataError, match="in no format"):
        import_files(log, [file])


@pytest.mark.parametrize(
    ("text", "me"),
    [
        (f'<faqs><faq id="1"><question>{Q}</question><answer><p>{A}</p></answer></faq></faqs>', ""),
        (f"<rss><channel><item><title>{Q}</title><answer>{A}</answer></item></channel></rss>", ""),
        (
            '<chat xmlns="urn:x"><message sender="robin" time="2024-01-15T10:00:00Z">'
            f"<div><span>{Q}</span></div></message>"
            f'<message sender="kim" time="2024-01-15T10:01:00Z"><div>{A}</div></message></chat>',
            "kim",
        ),
        ('<TEI xmlns="urn:x"><text><body><u who="#A">How deep <pause/>is the lake?</u>'
         f'<u who="#B">{A}</u></body></text></TEI>', ""),
    ],
)  # fmt: skip
def test_xml_of_many_programs(log, tmp_path, text, me):
    file = tmp_path / "chat.xml"
    file.write_text(f'<?xml version="1.0"?>\n{text}')
    import_files(log, [file], Wanted(me=me))
    assert turns(log) == [(Q, A)]


def test_damaged_xml_gives_what_is_whole(log, tmp_path):
    faq = "<faq><question>{}</question><answer>{}</answer></faq>"
    file = tmp_path / "faq.xml"
    file.write_text(f'<?xml version="1.0"?><faqs>{faq.format(Q, A)}{faq.format(Q2, A2)}<faq><question>Cut')
    import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, A2)]
    file.write_text(f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "{tmp_path / "secret"}">]><faqs>'
                    f"{faq.format(Q, '&b;')}{faq.format(Q2, A2)}</faqs>")  # fmt: skip
    (tmp_path / "secret").write_text("a secret")
    import_files(log, [file])
    assert not any("secret" in answer for _, answer in turns(log))


def test_half_an_emoji_in_xml_costs_only_its_message(log, tmp_path):
    sms = '<sms address="1" date="170531280000{}" type="{}" contact_name="Robin" body="{}" />'
    said = [(1, Q), (2, "&#55357; broken"), (2, A)]
    file = tmp_path / "sms.xml"
    rows = "".join(sms.format(number, kind, text) for number, (kind, text) in enumerate(said))
    file.write_text(f"<?xml version='1.0'?><smses>{rows}</smses>")
    report = import_files(log, [file], Wanted(me="Me"))
    assert turns(log) == [(Q, A)] and report.set_aside >= 1


def test_mails_in_files_of_their_own_are_one_conversation(log, tmp_path):
    mail = "Message-ID: <{}@x>\n{}Date: Mon, 15 Jan 2024 1{}:00:00 +0000\nFrom: {}\nSubject: {}\n\n{}\n"
    (tmp_path / "inbox").mkdir()
    asked = mail.format("a", "", 0, "Robin <r@x.org>", "Lake", Q)
    (tmp_path / "inbox" / "2.eml").write_text(asked)
    (tmp_path / "1.eml").write_text(mail.format("b", "In-Reply-To: <a@x>\n", 1, "Kim <k@y.org>", "Re: Lake", A))
    (tmp_path / "3.eml").write_text(mail.format("c", "In-Reply-To: <a@x>\n", 2, "Lee <l@y.org>", "Re: Lake", "No."))
    import_files(log, [tmp_path], Wanted(me="Lee"))
    assert turns(log) == [(f"Lake\n\n{Q}", "No.")]
    import_files(log, [tmp_path], Wanted(me="k@y.org"))
    assert turns(log)[1:] == [(f"Lake\n\n{Q}", A)]


def test_both_files_of_a_batch_are_needed(log, tmp_path):
    asked = {"custom_id": "1", "params": {"model": "m", "messages": SPOKEN[:1]}}
    answered = {"custom_id": "1", "result": {"type": "succeeded", "message": SPOKEN[1]}}
    with pytest.raises(DataError, match="holds the questions of a batch without the answers: put both files"):
        import_files(log, [lines(tmp_path / "asked.jsonl", [asked])])
    lines(tmp_path / "results.jsonl", [answered])
    import_files(log, [tmp_path])
    assert turns(log) == [(Q, A)]


def test_threads_in_the_databases_of_zed_and_amazon_q(log, tmp_path, sample):
    import pyarrow

    def stored(name, columns, rows):
        with sqlite3.connect(file := tmp_path / name) as database:
            database.execute(f"CREATE TABLE threads ({columns})")
            database.executemany(f"INSERT INTO threads VALUES ({', '.join('?' * len(rows[0]))})", rows)
        database.close()
        return file

    threads = json.loads(sample("zed.json").read_text())[:2]
    packed = pyarrow.compress(json.dumps(threads[0]).encode(), "zstd", asbytes=True)
    rows = [("t1", "Buoys", "zstd", packed), ("t2", "Knots", "json", json.dumps(threads[1]).encode())]
    import_files(log, [stored("threads.db", "id, summary, data_type, data", rows)])
    assert turns(log) == [
        ("What colour is a port buoy?", "Red.\n\nAt least in Europe."),
        ("Which knot makes a loop?", "A bowline."),
    ]
    chat = json.dumps(json.loads(sample("amazon_q.json").read_text()))
    import_files(log, [stored("data.sqlite3", "key, conversation_id, value", [("/home", "c", chat)])])
    assert turns(log)[2:] == [
        ("Which file holds the port?", "I look into the folder.\n\nIt is server.toml."),
        ("Which port is it?", "8080."),
    ]
