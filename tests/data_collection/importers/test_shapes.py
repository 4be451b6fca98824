"""Further kinds of files, as their programs and data sets write them, become the turns that are meant."""

import csv
import json
import sqlite3

import pytest

from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.errors import DataError

Q, A, Q2, A2 = "How deep is the lake?", "It is forty metres deep.", "And how deep is the pond?", "Two metres."
BAD, SYSTEM, STORY = "Nobody knows.", "You know all lakes.", "The lake is deep."
ASKED, ANSWERED = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
DONE = {"choices": [{"index": 0, "message": ANSWERED}]}


def turns(log) -> list[tuple[str, str]]:
    return [(turn.user_message, turn.bot_response) for turn in log.turns()]


def lines(file, *records):
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return file


def table(file, *rows):
    with file.open("w", newline="") as target:
        csv.writer(target).writerows(rows)
    return file


PACKED = {
    "messages as JSON text": {"uuid": "1", "messages": json.dumps([ASKED, ANSWERED]), "question": "What?"},
    "a call as JSON texts": {"request": json.dumps({"messages": [ASKED]}), "response": json.dumps(DONE)},
    "OpenTelemetry": {
        "attributes": {
            "gen_ai.request.model": "m",
            "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": Q}]}]),
            "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": A}]}]),
        }
    },
    "OpenLLMetry": {
        "attributes": {
            "gen_ai.system": "openai",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": Q,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": A,
        }
    },
    "Phoenix": {
        "attributes": {
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": Q,
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": A,
            "output.value": A,
        }
    },
    "Phoenix's table": {
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": Q}],
        "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": A}],
    },
    "Phoenix's objects": {
        "attributes": {
            "llm": {"input_messages": [{"message": ASKED}], "output_messages": [{"message": ANSWERED}]},
        }
    },
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_records(log, tmp_path, name):
    report = import_files(log, [lines(tmp_path / "set.jsonl", PACKED[name])])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, report.set_aside) == (Q, A, 0) and "system" not in turn.metadata


CELLS = {
    "a call": (["input", "output"], [json.dumps([ASKED]), json.dumps(ANSWERED)]),
    "n8n": (
        ["session_id", "message"],
        ["s", json.dumps({"type": "human", "content": Q})],
        ["s", json.dumps({"type": "ai", "content": A})],
    ),
    "LangChain": (
        ["session_id", "message"],
        ["s", json.dumps({"type": "human", "data": {"content": Q}})],
        ["s", json.dumps({"type": "ai", "data": {"content": A}})],
    ),
    "Copilot Studio": (
        ["name", "content"],
        [
            "x",
            json.dumps(
                {
                    "activities": [
                        {"type": "trace", "from": {"id": "", "role": 0}},
                        {"type": "message", "from": {"id": "u", "role": 1}, "text": Q},
                        {"type": "message", "from": {"id": "b", "role": 0}, "text": A},
                    ]
                }
            ),
        ],
    ),
    "C-Eval": (["id", "question", "A", "B", "C", "D", "answer"], ["0", Q, "1 m", "40 m", "2 m", "3 m", "B"]),
    "toxic-chat": (["conv_id", "user_input", "model_output", "toxicity"], ["1", Q, A, "0"]),
    "Salesforce": (
        ["ConversationId", "ActorType", "ActorName", "EntryTime", "Message"],
        ["c", "EndUser", "Ann", "2025-06-01T10:00:00Z", Q],
        ["c", "Agent", "Kim", "2025-06-01T10:00:05Z", A],
    ),
    "Chatwoot": (["conversation_id", "sender_type", "content"], ["1", "Contact", Q], ["1", "User", A]),
    "AnnoMI": (
        ["transcript_id", "utterance_id", "interlocutor", "utterance_text"],
        ["0", "0", "client", Q],
        ["0", "1", "therapist", A],
    ),
    "WeChatMsg": (
        ["TalkerId", "Type", "IsSender", "CreateTime", "StrContent", "StrTime", "NickName"],
        ["7", "1", "0", "1628863878", Q, "2021-08-13 22:11:18", "Ann"],
        ["7", "1", "1", "1628863886", A, "2021-08-13 22:11:26", "Kim"],
    ),
    "Threema": (
        ["isoutbox", "posted_at", "type", "body"],
        [0, 1700000000000, "TEXT", Q],
        [1, 1700000005000, "TEXT", A],
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_tables_of_programs(log, tmp_path, name):
    report = import_files(log, [table(tmp_path / "table.csv", *CELLS[name])])
    choices = f"{Q}\n\nA. 1 m\nB. 40 m\nC. 2 m\nD. 3 m", "B. 40 m"
    assert turns(log) == [choices if name == "C-Eval" else (Q, A)] and report.set_aside == 0


def test_json_that_is_an_answer_stays_text(log, tmp_path):
    answers = ['{"entities": [{"type": "PERSON", "text": "Ann"}]}', '[{"a": 1}]']
    import_files(log, [lines(tmp_path / "set.jsonl", *({"instruction": Q, "output": each} for each in answers))])
    assert [answer for _, answer in turns(log)] == answers


DATABASES = {
    "Ollama's app": (
        "CREATE TABLE chats (id TEXT, title TEXT)",
        "CREATE TABLE messages (id INTEGER, chat_id TEXT, role TEXT, content TEXT, thinking TEXT, model_name TEXT)",
        f"INSERT INTO messages VALUES (1, 'a', 'user', '{Q}', '', NULL), (2, 'b', 'user', '{Q2}', '', NULL)",
        f"INSERT INTO messages VALUES (3, 'a', 'assistant', '{A}', '', 'm'), (4, 'b', 'assistant', '{A2}', '', 'm')",
    ),
    "Goose": (
        "CREATE TABLE messages (id INTEGER, session_id TEXT, role TEXT, content_json TEXT, created_timestamp INTEGER)",
        *(
            f"INSERT INTO messages VALUES ({n}, 's', '{role}', '[{{\"type\": \"text\", \"text\": \"{text}\"}}]', {n})"
            for n, (role, text) in enumerate([("user", Q), ("assistant", A), ("user", Q2), ("assistant", A2)], 1)
        ),
    ),
    "AnythingLLM": (
        "CREATE TABLE workspace_chats (id INTEGER, prompt TEXT, response TEXT)",
        f"""INSERT INTO workspace_chats VALUES (1, '{Q}', '{{"text": "{A}", "sources": []}}')""",
        f"""INSERT INTO workspace_chats VALUES (2, '{Q2}', '{{"text": "{A2}", "sources": []}}')""",
    ),
    "Cursor": (
        "CREATE TABLE ItemTable (key TEXT, value BLOB)",
        "INSERT INTO ItemTable VALUES ('chat', CAST('"
        + json.dumps({"tabs": [{"bubbles": [{"type": "user", "text": Q}, {"type": "ai", "rawText": A}]},
                               {"bubbles": [{"type": "user", "text": Q2}, {"type": "ai", "rawText": A2}]}]})
        + "' AS BLOB))",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATABASES)
def test_databases_of_programs(log, tmp_path, name):
    with sqlite3.connect(tmp_path / "chats.db") as database:
        for statement in DATABASES[name]:
            database.execute(statement)
    database.close()
    import_files(log, [tmp_path / "chats.db"])
    assert turns(log) == [(Q, A), (Q2, A2)]


RECORDS = [
    # programs
    {"data": [{"object": "thread.message", "created_at": n, "thread_id": "t", "role": role,
               "content": [{"type": "text", "text": {"value": text, "annotations": []}}]}
              for n, role, text in ((1700000005, "assistant", A), (1700000000, "user", Q))]},
    {"id": "c", "chat": {"history": {"currentId": "2", "messages": {
        "1": {"id": "1", "role": "user", "content": Q, "parentId": None},
        "2": {"id": "2", "role": "assistant", "content": "", "parentId": "1",
              "content_list": [{"content": "Hm.", "phase": "think"}, {"content": A, "phase": "answer"}]}}}}},
    {"store": {"u": [{"role": role, "blocks": [{"block_type": "text", "text": text}]}
                     for role, text in (("user", Q), ("assistant", A))]}},
    {"logs": [{"request": {"input": {"message_type": "text", "text": Q}},
               "response": {"output": {"generic": [{"response_type": "text", "text": A}]}}}]},
    {"inputTranscript": Q, "botResponse": A, "requestId": "r"},
    {"inputTranscript": Q, "messages": [{"contentType": "PlainText", "content": A}], "sessionId": "s"},
    {"transcripts": [{"phrases": [{"text": Q, "participantPurpose": "external"},
                                  {"text": A, "participantPurpose": "internal"}]}]},
    {"messages": [{"direction": "incoming", "type": "text", "payload": {"text": Q}},
                  {"direction": "outgoing", "type": "text", "payload": {"text": A}}]},
    {"results": {"utterances": [{"speaker": 0, "transcript": Q}, {"speaker": 1, "transcript": A}]}},
    {"transcript": {"sentences": [{"speaker_name": "Ann", "text": Q}, {"speaker_name": "Kim", "text": A}]}},
    {"trajectory": [{"action": "ls"}], "history": [{"role": "system", "content": SYSTEM}, ASKED, ANSWERED]},
    # pairs
    {"problem": Q, "generated_solution": A, "expected_answer": "40"},
    {"problem": Q, "solution": A, "answer": "40"},
    {"input": Q, "content": A, "reasoning_content": "Hm."},
    {"question": Q, "human_answers": [A], "chatgpt_answers": [BAD]},
    {"question": Q, "answer": None, "short_answer": A, "answer_type": "x"},
    {"question": Q, "reference_answer": A, "responses": [{"response": BAD}]},
    {"question": {"text": Q, "tokens": ["How"]}, "answers": [{"text": A, "tokens": ["It"]}]},
    {"role_1": "x", "topic;": "y", "message_1": Q, "message_2": A},
    {"text": f"<|start|>user<|message|>{Q}<|end|><|start|>assistant<|channel|>final<|message|>{A}<|return|>"},
    # tests of a program: what is expected is learned
    {"user_input": Q, "retrieved_contexts": ["x"], "response": BAD, "reference": A},
    {"question": Q, "contexts": ["x"], "answer": BAD, "ground_truth": A},
    {"input": Q, "actual_output": BAD, "expected_output": A},
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_records_of_programs_and_data_sets(log, tmp_path, record):
    report = import_files(log, [lines(tmp_path / "set.jsonl", record)])
    assert turns(log) == [(Q, A)] and report.set_aside == 0


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question_title": Q, "question_content": STORY, "best_answer": A}, f"{Q}\n\n{STORY}", A),
        ({"question": Q, "context": {"contexts": [STORY], "labels": [], "meshes": []}, "long_answer": A,
          "final_decision": "yes"}, f"{Q}\n\n{STORY}", A),
        ({"passage": STORY, "question": Q, "answers_spans": {"spans": ["forty"], "types": ["span"]}},
         f"{Q}\n\n{STORY}", "forty"),
        ({"question": Q, "answer": "40 m", "options": {"A": "1 m", "B": "40 m"}, "answer_idx": "B"},
         f"{Q}\n\nA. 1 m\nB. 40 m", "B. 40 m"),
        ({"context": STORY, "query": Q, "options": ["1 m", "40 m"], "correct_option": 1},
         f"{Q}\n\n{STORY}\n\nA. 1 m\nB. 40 m", "B. 40 m"),
    ],
)  # fmt: skip
def test_questions_with_what_they_are_about(log, tmp_path, record, question, answer):
    import_files(log, [lines(tmp_path / "set.jsonl", record)])
    assert turns(log) == [(question, answer)]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": f"Human:{Q}\nAssistant:{A}\nHuman:{Q2}\nAssistant:", "input": "", "output": A2},
        {"chat_history": [{"role": "USER", "message": Q}, {"role": "CHATBOT", "message": A}],
         "message": Q2, "text": A2},
        {"topic": "x", "input": f"[|Human|] {Q}\n[|AI|] {A}\n[|Human|] {Q2}\n[|AI|] {A2}\n[|Human|]"},
        {"dialogue": [{"turn_id": 0, "user_utterance": Q, "system_utterance": A},
                      {"turn_id": 1, "user_utterance": Q2, "system_utterance": A2}]},
        [{"message_type": "user_message", "content": Q}, {"message_type": "reasoning_message", "reasoning": "Hm."},
         {"message_type": "assistant_message", "content": A}, {"message_type": "user_message", "content": Q2},
         {"message_type": "assistant_message", "content": A2}],
        [{"role": role, "content": text, "sessionId": "s"} for role, text in
         (("userMessage", Q), ("apiMessage", A), ("userMessage", Q2), ("apiMessage", A2))],
        [{"sender": who, "text": text, "session_id": "s"} for who, text in
         (("User", Q), ("Machine", A), ("User", Q2), ("Machine", A2))],
        [{"parts": [{"content": SYSTEM, "part_kind": "system-prompt"}, {"content": Q, "part_kind": "user-prompt"}],
          "kind": "request"},
         {"parts": [{"tool_name": "look", "args": "{}", "part_kind": "tool-call"}], "kind": "response"},
         {"parts": [{"tool_name": "look", "content": "40", "part_kind": "tool-return"}], "kind": "request"},
         {"parts": [{"content": A, "part_kind": "text"}], "kind": "response"},
         {"parts": [{"content": Q2, "part_kind": "user-prompt"}], "kind": "request"},
         {"parts": [{"content": A2, "part_kind": "text"}], "kind": "response"}],
        [{"ticket_id": 5, "sender": "Customer", "body": f"<p>{Q}</p>", "content_type": "text/html"},
         {"ticket_id": 5, "sender": "Agent", "body": "Who knows?", "internal": True},
         {"ticket_id": 5, "sender": "Agent", "body": A, "internal": False},
         {"ticket_id": 5, "sender": "Customer", "body": Q2}, {"ticket_id": 5, "sender": "Agent", "body": A2}],
    ],
)  # fmt: skip
def test_conversations_of_programs_and_data_sets(log, tmp_path, record):
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(record))
    report = import_files(log, [file])
    assert turns(log) == [(Q, A), (Q2, A2)] and report.set_aside == 0


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": Q, "response_1": A, "response_2": BAD, "preference_strength": -2},
        {"context": [ASKED], "response1": BAD, "response2": A, "overall_preference": 2},
        {"chosen_conversations": [ASKED, ANSWERED],
         "rejected_conversations": [ASKED, {"role": "assistant", "content": BAD}]},
        {"prompt": Q, "pos_resp": A, "neg_resp": BAD},
    ],
)  # fmt: skip
def test_preferences_of_more_data_sets(log, tmp_path, record):
    import_files(log, [lines(tmp_path / "set.jsonl", record)])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["original_response"]) == (Q, A, BAD)


@pytest.mark.parametrize(("key", "wrong", "right"), [("label", 0, 1), ("is_safe", False, True)])
def test_a_verdict_on_an_answer_rates_it(log, tmp_path, key, wrong, right):
    records = {"question": Q, "answer": BAD, key: wrong}, {"question": Q, "answer": A, key: right}
    import_files(log, [lines(tmp_path / "set.jsonl", *records)])
    assert [turn.metadata["rating"] for turn in log.turns()] == ["down", "up"]


def test_labels_of_classes_are_no_verdicts(log, tmp_path):
    records = {"question": Q, "answer": A, "label": 0}, {"question": Q2, "answer": A2, "label": 2}
    import_files(log, [lines(tmp_path / "set.jsonl", *records)])
    assert [turn.metadata.get("rating") for turn in log.turns()] == [None, None]


def test_steps_with_a_verdict_on_each_are_no_answer(log, tmp_path):
    record = {"prompt": Q, "completions": ["One.", "Two."], "labels": [True, False]}
    (fault,) = import_files(log, [lines(tmp_path / "set.jsonl", record)]).faults
    assert "found its steps with a verdict on each" in fault.reason


@pytest.mark.parametrize(
    ("name", "text", "me"),
    [
        ("logs.md", f"# 2025-06-01T10:00:00 conversation: a\n\n## Prompt\n\n{Q}\n\n## Response\n\n{A}\n\n"
         f"# 2025-06-01T10:01:00 conversation: b\n\n## Prompt\n\n{Q2}\n\n## Response\n\n{A2}\n", ""),
        ("thread.md", f'<img src="https://x" width="120"/>\n\n# {Q}\n\n{A}[^1_1]\n\n[^1_1]: https://x\n\n'
         f'<div align="center">⁂</div>\n\n---\n\n# {Q2}\n\n{A2}\n\n<div style="text-align: center">⁂</div>\n', ""),
        ("chat.csv", f"消息ID,发送人,时间,内容\n1,Ann,2021-08-13 22:11:18,{Q}\n2,Kim,2021-08-13 22:11:26,{A}\n"
         f"3,Ann,2021-08-13 22:12:18,{Q2}\n4,Kim,2021-08-13 22:12:26,{A2}\n", "Kim"),
        ("sms.json", json.dumps([{"address": "1", "date": f"170000000{n}000", "type": str(1 + n % 2), "body": text}
                                 for n, text in enumerate((Q, A, Q2, A2))]), ""),
        ("keybase.json", json.dumps([{"msg": {"sender": {"username": who}, "sent_at": 1700000000 + n,
                                              "content": {"type": "text", "text": {"body": text}}}}
                                     for n, (who, text) in enumerate(
                                         [("ann", Q), ("kim", A), ("ann", Q2), ("kim", A2)])]), "kim"),
    ],
)  # fmt: skip
def test_texts_and_messengers(log, tmp_path, name, text, me):
    file = tmp_path / name
    file.write_text(text)
    import_files(log, [file], Wanted(me=me))
    assert turns(log) == [(Q, A), (Q2, A2)]


@pytest.mark.parametrize(
    ("record", "advice"),
    [
        ({"prompt": Q, "code": "x"}, 'It has a question \\(prompt\\) without an answer: .* the name "answer"'),
        ({"sentence": Q, "answer": A}, 'It has an answer \\(answer\\) without a question: .* the name "question"'),
        ({"text": Q, "number": 1}, "It does not say who wrote each text"),
        ({"ts": 1, "type": "say", "say": "text", "text": Q}, "import api_conversation_history.json beside it"),
        ({"cells": [], "nbformat": 4}, "A notebook holds no chat"),
    ],
)
def test_a_refusal_says_in_a_line_what_is_missing(log, tmp_path, record, advice):
    with pytest.raises(DataError, match=advice) as refused:
        import_files(log, [lines(tmp_path / "set.jsonl", record)])
    assert len(str(refused.value)) < 400


def test_labels_that_are_objects_are_no_verdicts(log, tmp_path):
    record = {"question": Q, "answer": A, "label": {"ability": ["maths"]}}
    import_files(log, [lines(tmp_path / "set.jsonl", record)])
    assert turns(log) == [(Q, A)]
