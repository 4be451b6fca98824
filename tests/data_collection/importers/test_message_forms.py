"""Messages under the names of other programs become the same turns as OpenAI's."""

import json

import pytest

from fine_tuning.data_collection.importers.importing import Wanted, import_files

AT = "2026-03-01T10:00:00Z"
SPOKEN = [("user", "Which tea is green?"), ("assistant", "Sencha is."), ("user", "And black?"), ("assistant", "Assam.")]
TURNS = [("Which tea is green?", "Sencha is."), ("And black?", "Assam.")]


def sides(user: str, assistant: str) -> list[tuple[str, str]]:
    return [(user if role == "user" else assistant, text) for role, text in SPOKEN]


def pairs(log) -> list[tuple[str, str]]:
    return [(turn.user_message, turn.bot_response) for turn in log.turns()]


ONE_RECORD = {
    "grok": {
        "conversations": [
            {
                "conversation": {"id": "c", "title": "Tea"},
                "responses": [
                    {"response": {"sender": who, "message": text, "create_time": {"$date": {"$numberLong": "1"}}}}
                    for who, text in sides("human", "ASSISTANT")
                ],
            }
        ]
    },
    "ai studio": {
        "runSettings": {"model": "m"},
        "chunkedPrompt": {"chunks": [{"role": who, "text": text} for who, text in sides("user", "model")]},
    },
    "gemini cli": {
        "sessionId": "s",
        "messages": [{"type": who, "content": [text], "timestamp": AT} for who, text in sides("user", "gemini")],
    },
    "librechat": {
        "title": "Tea",
        "messages": [
            {"sender": who, "isCreatedByUser": who == "User", "text": text} for who, text in sides("User", "Large 2")
        ],
    },
    "author and content": [
        {"title": "Tea", "log": [{"author": {"role": who}, "content": text} for who, text in SPOKEN]},
    ],
    "langchain": {"messages": [{"type": who, "data": {"content": text}} for who, text in sides("human", "ai")]},
    "parts of a value": {
        "messages": [{"role": who, "content": [{"type": "text", "value": text}]} for who, text in SPOKEN]
    },
    "gemini api": {"contents": [{"role": who, "parts": [{"text": text}]} for who, text in sides("user", "model")]},
    "gemini cli, with a note": {
        "messages": [
            *({"type": who, "content": text} for who, text in sides("user", "gemini")[:2]),
            {"type": "info", "content": "Request cancelled."},
            *({"type": who, "content": text} for who, text in sides("user", "gemini")[2:]),
        ],
    },
    "opencode": {
        "info": {"id": "ses_1"},
        "messages": [
            {
                "info": {"role": who, "time": {"created": 1705312800000, "completed": 1705312801000}},
                "parts": [{"type": "step-start"}, {"type": "text", "text": text}],
            }
            for who, text in SPOKEN
        ],
    },
    "continue": {"history": [{"message": {"role": who, "content": text}, "contextItems": []} for who, text in SPOKEN]},
    "newest first": {
        "turns": [
            {"role": who, "text": text, "timestamp": f"2026-03-01T10:0{3 - n}:00Z"}
            for n, (who, text) in enumerate(reversed(SPOKEN))
        ]
    },
    "poe": {
        "data": {
            "chat": {
                "messages": {
                    "edges": [{"node": {"author": who, "text": text}} for who, text in sides("human", "chinchilla")]
                }
            }
        }
    },
    "nested": {"data": {"session": {"thread": [{"speaker": who, "text": text} for who, text in SPOKEN]}}},
}

LINES = {
    "claude code": [
        {"type": "summary", "summary": "Tea"},
        {"type": "user", "isMeta": True, "sessionId": "s", "message": {"role": "user", "content": "<caveat-x>"}},
        *(
            {"type": who, "sessionId": "s", "timestamp": AT, "message": {"role": who, "content": text}}
            for who, text in SPOKEN
        ),
        {"type": "file-history-snapshot", "snapshot": {}},
    ],
    "codex": [
        {"type": "session_meta", "payload": {"id": "s"}},
        *(
            {"type": "response_item", "payload": {"type": "message", "role": who, "content": [{"text": text}]}}
            for who, text in SPOKEN
        ),
    ],
    "copilot cli": [
        {"type": "session.start", "data": {"sessionId": "s"}, "id": "0", "parentId": None},
        *(
            {"type": f"{who}.message", "data": {"content": text}, "id": text, "timestamp": AT, "parentId": "0"}
            for who, text in SPOKEN
        ),
    ],
    "what agents insert": [
        {"type": "user", "isCompactSummary": True, "message": {"role": "user", "content": "This session goes on."}},
        {
            "type": "user",
            "message": {
                "role": "user",
                "content": [
                    {"type": "text", "text": "# AGENTS.md instructions for /x\n\n<INSTRUCTIONS>\n</INSTRUCTIONS>"},
                    {"type": "text", "text": f"<task>\n{SPOKEN[0][1]}\n</task>"},
                    {"type": "text", "text": "<environment_details>\nx\n</environment_details>"},
                ],
            },
        },
        {"type": "assistant", "message": {"role": "assistant", "content": SPOKEN[1][1]}},
        {
            "type": "user",
            "message": {"role": "user", "content": [{"type": "text", "text": "[Request interrupted by user]"}]},
        },
        {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": SPOKEN[2][1]}]}},
        {"type": "assistant", "message": {"role": "assistant", "content": SPOKEN[3][1]}},
    ],
    "a conversation's id": [
        {"conversation_id": "a", "author": {"role": who}, "content": text, "create_time": AT} for who, text in SPOKEN
    ],
}


@pytest.mark.parametrize("name", ONE_RECORD)
def test_a_record_with_a_list_of_messages(log, tmp_path, name):
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(ONE_RECORD[name], indent=1))
    report = import_files(log, [file])
    assert pairs(log) == TURNS and report.set_aside == 0
    assert import_files(log, [file]).added == 0


@pytest.mark.parametrize("name", LINES)
def test_messages_line_by_line(log, tmp_path, name):
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in LINES[name]))
    report = import_files(log, [file])
    assert pairs(log) == TURNS and report.set_aside == 0
    assert import_files(log, [file]).added == 0


def test_another_id_begins_another_conversation(log, tmp_path):
    file = tmp_path / "chats.jsonl"
    messages = [{"session_id": id, "role": role, "content": text} for id in "ab" for role, text in SPOKEN]
    file.write_text("".join(f"{json.dumps(message)}\n" for message in messages))
    import_files(log, [file])
    assert len({turn.session_id for turn in log.turns()}) == 2


def test_the_results_of_tools_are_no_questions(log, tmp_path):
    """Claude writes what a tool returned as a message of the user."""
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "4 degrees"}]
    messages = [
        {"role": "user", "content": "How cold is it?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "name": "look"}]},
        {"role": "user", "content": result},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "4."}, {"type": "text", "text": "Four."}]},
    ]
    file = tmp_path / "chat.json"
    file.write_text(json.dumps({"messages": messages}))
    import_files(log, [file])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response) == ("How cold is it?", "I look.\n\nFour.")
    assert turn.metadata["thoughts"] == "4." and {"role": "tool", "part": result[0]} in turn.metadata["parts"]


def test_what_an_agents_program_inserts_is_no_question(log, tmp_path):
    texts = [("user", "<command-name>/status</command-name>\n<command-args></command-args>"), *SPOKEN[:2]]
    file = tmp_path / "session.jsonl"
    lines = [{"type": who, "sessionId": "s", "message": {"role": who, "content": text}} for who, text in texts]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    import_files(log, [file])
    assert pairs(log) == TURNS[:1]


@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_an_answer_that_is_labelled_bad_is_rated_down(log, tmp_path, key):
    file = tmp_path / "kto.jsonl"
    records = [
        {"messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}], key: False},
        {"messages": [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}], key: True},
    ]
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    import_files(log, [file])
    assert [turn.metadata.get("rating") for turn in log.turns()] == ["down", "up"]


CONVERSATIONS = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}] for n in range(1, 4)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CONVERSATIONS),
        "".join(f"{json.dumps(each)}\n" for each in CONVERSATIONS),
        json.dumps({f"chat {n}": {"messages": each} for n, each in enumerate(CONVERSATIONS)}),
        json.dumps({"chats": {f"chat {n}": {"log": each} for n, each in enumerate(CONVERSATIONS)}}),
        json.dumps([{"id": n, "messages": each} for n, each in enumerate(CONVERSATIONS)], indent=2),
    ],
)
def test_every_conversation_is_read_whatever_holds_them(log, tmp_path, text):
    file = tmp_path / "chats.json"
    file.write_text(text)
    import_files(log, [file])
    assert pairs(log) == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]
    assert len({turn.session_id for turn in log.turns()}) == 3


@pytest.mark.parametrize(
    ("own", "parent"),
    [
        ("id", "parent_id"),
        ("messageId", "parentMessageId"),
        ("uuid", "parentUuid"),
        ("response_id", "parent_response_id"),
        ("user_message_id", "parent_message_id"),
    ],
)
def test_of_several_answers_the_last_is_read_or_all(log, tmp_path, own, parent):
    said = [("1", None, "user", "q"), ("2", "1", "assistant", "old"), ("3", "1", "assistant", "new")]
    said += [("4", "3", "user", "q2"), ("5", "4", "assistant", "a2")]
    messages = [{own: id, parent: to, "role": role, "content": text} for id, to, role, text in said]
    record, alone = tmp_path / "record.json", tmp_path / "list.jsonl"
    record.write_text(json.dumps({"messages": messages}))
    alone.write_text("".join(f"{json.dumps(message)}\n" for message in messages))
    for file in (record, alone):
        import_files(log, [file])
        assert pairs(log) == [("q", "new"), ("q2", "a2")]
    import_files(log, [record], Wanted(branches="all"))
    assert ("q", "old") in pairs(log)


NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    "messages",
    [
        [{"messageId": "1", "parentMessageId": NOBODY, "sender": "User", "text": "q", "isCreatedByUser": True,
          "children": [
            {"messageId": "2", "parentMessageId": "1", "sender": "m", "text": "old", "isCreatedByUser": False},
            {"messageId": "3", "parentMessageId": "1", "sender": "m", "text": "new", "isCreatedByUser": False,
             "children": [
                {"messageId": "4", "parentMessageId": "3", "sender": "User", "text": "q2", "isCreatedByUser": True},
                {"messageId": "5", "parentMessageId": "4", "sender": "m", "text": "a2", "isCreatedByUser": False}]}]}],
        [{"id": "0", "from": "system", "content": "", "children": ["1"]},
         {"id": "1", "from": "user", "content": "q", "children": ["2", "3"]},
         {"id": "2", "from": "assistant", "content": "old", "children": []},
         {"id": "3", "from": "assistant", "content": "new", "children": ["4"]},
         {"id": "4", "from": "user", "content": "q2", "children": ["5"]},
         {"id": "5", "from": "assistant", "content": "a2", "children": []}],
    ],
)  # fmt: skip
def test_trees_of_messages_within_messages_and_by_the_ids_of_replies(log, tmp_path, messages):
    file = tmp_path / "chat.json"
    file.write_text(json.dumps({"title": "Tea", "messages": messages}))
    import_files(log, [file])
    assert pairs(log) == [("q", "new"), ("q2", "a2")]


def test_the_threads_of_a_chat_are_chats_of_their_own(log, tmp_path):
    chat = {"messages": CONVERSATIONS[0], "threads": [{"messages": CONVERSATIONS[1]}, {"messages": CONVERSATIONS[2]}]}
    file = tmp_path / "chatbox.json"
    file.write_text(json.dumps({"session:1": chat}))
    import_files(log, [file])
    assert pairs(log) == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]
    assert len({turn.session_id for turn in log.turns()}) == 3


def test_a_message_that_answers_none_begins_a_conversation(log, tmp_path):
    said = [("1", None, "user", "q"), ("2", "1", "assistant", "a"), ("3", None, "user", "q2")]
    said += [("4", "3", "assistant", "old"), ("5", "3", "assistant", "a2")]
    messages = [{"id": id, "parent_message_id": to, "role": role, "text": text} for id, to, role, text in said]
    file = tmp_path / "list.json"
    file.write_text(json.dumps(messages))
    import_files(log, [file])
    assert pairs(log) == [("q", "a"), ("q2", "a2")] and len({turn.session_id for turn in log.turns()}) == 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"author": "human", "text": "q"}, {"author": "chinchilla", "text": "a"}],
        [{"speaker": "USER", "utterance": "q"}, {"speaker": "SYSTEM", "utterance": "a"}],
        [{"role": "Prompt", "say": "q"}, {"role": "Response", "say": "a"}],
        [{"role": "user", "data": "q"}, {"role": "char", "data": "a"}],
        [{"role": "user", "contentParts": [{"type": "text", "text": "q"}]},
         {"role": "assistant", "contentParts": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "fragments": [{"ft": "content", "part": {"pt": "text", "text": "q"}}]},
         {"role": "assistant", "fragments": [{"ft": "content", "part": {"pt": "text", "text": "a"}}]}],
        [{"event": "action", "name": "listen"}, {"event": "user", "text": "q"}, {"event": "bot", "text": "a"}],
        [{"author": {"type": "user"}, "body": "q"}, {"author": {"type": "admin"}, "body": "a"}],
        [{"src": {"is_human": True}, "text": "q"}, {"src": {"is_human": False}, "text": "a"}],
    ],
)  # fmt: skip
def test_the_sides_of_many_programs(log, tmp_path, messages):
    for name, value in (("list.json", messages), ("chats.json", {"app": {"chats": [{"messages": messages}]}})):
        file = tmp_path / name
        file.write_text(json.dumps(value))
        import_files(log, [file])
        assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a")]


def test_messages_of_several_chats_in_one_list_are_told_apart(log, tmp_path):
    said = [("s1", "user", "q1"), ("s2", "user", "q2"), ("s1", "assistant", "a1"), ("s2", "assistant", "a2")]
    file = tmp_path / "state.json"
    file.write_text(
        json.dumps({"messages": [{"sessionId": id, "role": role, "content": text} for id, role, text in said]})
    )
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q1", "a1"), ("q2", "a2")]
