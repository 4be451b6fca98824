"""Records as programs and data sets write them, besides the samples: each kind gives its turns."""

import json

import pytest

from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.errors import DataError

Q, A, BAD = "Which tea is green?", "Sencha is.", "All are."
USER, BOT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}


def imported(log, file, records, **wanted):
    lines = records if isinstance(records, list) else [records]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return import_files(log, [file], Wanted(**wanted))


def pairs(log):
    return [(turn.user_message, turn.bot_response) for turn in log.turns()]


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": A}, "rejected": BAD},
        {"chosen_messages": [USER, BOT], "rejected_messages": [USER, {"role": "assistant", "content": BAD}]},
        {"question": Q, "response_j": A, "response_k": BAD},
        {"messages": [USER, BOT], "rejected_response": BAD},
        {"instruction": Q, "chosen_response": A, "rejected_response": BAD},
        {"conversation": [USER], "chosen": BOT, "rejected": {"role": "assistant", "content": BAD}},
    ],
)
def test_preferences_under_other_names(log, tmp_path, record):
    report = imported(log, tmp_path / "pairs.jsonl", record)
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["original_response"]) == (Q, A, BAD)
    assert report.set_aside == 0


@pytest.mark.parametrize(
    "record",
    [
        {"query": "And black?", "response": "Assam.", "history": [[Q, A]]},
        {"instruction": "And black?", "response": "Assam.", "history": [[Q, A]]},
        {"question": "And black?", "answer": "Assam.", "history": [USER, BOT]},
        {"prompt": "And black?", "completion": "Assam.", "history": [[Q, A]]},
        {"instruction": "And black?", "input": "", "output": "Assam.", "history": [USER, BOT]},
    ],
)
def test_what_was_said_before_is_kept(log, tmp_path, record):
    imported(log, tmp_path / "pairs.jsonl", record)
    assert pairs(log) == [(Q, A), ("And black?", "Assam.")]
    assert len({turn.session_id for turn in log.turns()}) == 1


def test_a_history_in_a_cell_of_a_table(log, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(f'query,response,history\nAnd black?,Assam.,"[[""{Q}"", ""{A}""]]"\n')
    import_files(log, [file])
    assert pairs(log) == [(Q, A), ("And black?", "Assam.")]


def _node(id, role, text, **more):
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}
    return {id: {"id": id, "message": message, **more}}


LONG = "1" * 5000  # more digits than Python reads as a number


@pytest.mark.parametrize(
    "record",
    [
        {f"prompt.{LONG}.role": "user", f"prompt.{LONG}.content": Q},
        {"question": Q, "choices": ["Sencha", "Assam"], "answer": LONG},
        {"id": LONG, "messages": [USER, BOT], "create_time": LONG},
        {"instruction": Q, "output": A, "label": LONG},
    ],
)
def test_a_number_of_thousands_of_digits_is_no_fault_of_byoai(log, tmp_path, record):
    try:
        imported(log, tmp_path / "set.jsonl", [record] * 3)
    except DataError:
        assert not pairs(log)


@pytest.mark.parametrize("parents", [{}, {"parent": None, "children": []}])
def test_messages_of_chatgpt_without_a_tree_are_taken_in_their_order(log, tmp_path, parents):
    mapping = _node("1", "user", Q, **parents) | _node("2", "assistant", A, **parents)
    imported(log, tmp_path / "conversations.jsonl", {"id": "c", "mapping": mapping})
    assert pairs(log) == [(Q, A)]


def test_marks_of_citations_that_are_not_closed_are_no_text(log, tmp_path):
    mapping = _node("1", "user", Q) | _node("2", "assistant", f"\ue203{A}\ue204")
    imported(log, tmp_path / "conversations.jsonl", {"id": "c", "mapping": mapping})
    assert pairs(log) == [(Q, A)]


def test_a_chat_of_deepseek(log, tmp_path):
    mapping = {
        "root": {"id": "root", "parent": None, "children": ["1"], "message": None},
        "1": {"id": "1", "parent": "root", "message": {"fragments": [{"type": "REQUEST", "content": Q}]}},
        "2": {
            "id": "2",
            "parent": "1",
            "message": {
                "inserted_at": "2026-03-01T10:00:00+08:00",
                "model": "deepseek-reasoner",
                "fragments": [
                    {"type": "THINK", "content": "Japan."},
                    {"type": "SEARCH"},
                    {"type": "RESPONSE", "content": A},
                ],
            },
        },
    }
    imported(log, tmp_path / "conversations.jsonl", {"id": "c", "mapping": mapping, "inserted_at": "2026-03-01"})
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.timestamp[:19]) == (Q, A, "2026-03-01T02:00:00")
    assert turn.metadata["thoughts"] == "Japan." and turn.metadata["model"] == "deepseek-reasoner"
    assert turn.metadata["parts"] == [{"role": "assistant", "part": {"type": "SEARCH"}}]


def test_claudes_files_may_be_names_and_its_messages_null(log, tmp_path):
    messages = [None, {"sender": "human", "text": Q, "files": ["tea.txt"]}, {"sender": "assistant", "text": A}]
    report = imported(log, tmp_path / "conversations.jsonl", {"uuid": "c", "chat_messages": messages})
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, report.set_aside) == (Q, A, 0)
    assert turn.metadata["parts"] == [{"role": "user", "part": {"attachment": "tea.txt"}}]


def test_claudes_results_of_tools_are_no_questions(log, tmp_path):
    messages = [
        {"sender": "human", "text": Q},
        {"sender": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "name": "look"}]},
        {"sender": "human", "content": [{"type": "tool_result", "content": "Sencha"}]},
        {"sender": "assistant", "text": A},
    ]
    imported(log, tmp_path / "conversations.jsonl", {"uuid": "c", "chat_messages": messages})
    assert pairs(log) == [(Q, f"I look.\n\n{A}")]


def test_a_single_chat_of_open_webui(log, tmp_path):
    """The page saves it without the record around it."""
    messages = {
        "1": {"id": "1", "parentId": None, "role": "user", "content": Q},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "All are."},
        "3": {
            "id": "3",
            "parentId": "1",
            "role": "assistant",
            "content": f'<details type="reasoning" done="true"><summary>Thought</summary>\n> Japan.\n</details>\n{A}',
        },
    }
    chat = {"id": "", "models": ["m"], "history": {"messages": messages, "currentId": "3"}, "messages": []}
    imported(log, tmp_path / "chat.jsonl", chat)
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["thoughts"]) == (Q, A, "Japan.")


@pytest.mark.parametrize("content", [None, {}, []])
def test_an_exchange_of_amazon_q_without_content_costs_only_its_conversation(log, tmp_path, content):
    def exchange(content):
        return {"user": {"content": content}, "assistant": {"Response": {"content": A}}}

    whole = {"conversation_id": "1", "history": [exchange({"Prompt": {"prompt": Q}})]}
    spoilt = {"conversation_id": "2", "history": [*whole["history"], exchange(content)]}
    report = imported(log, tmp_path / "chats.jsonl", [whole, spoilt, {**whole, "conversation_id": "3"}])
    assert pairs(log) == [(Q, A)] * 2 and report.set_aside == 1
    assert "in each exchange of the history" in report.faults[0].reason


def test_an_event_in_a_chat_of_agnai_is_left_out(log, tmp_path):
    told = [{"userId": "5d1f", "msg": Q}, {"msg": "It rains."}, {"msg": None}, {"characterId": "imported", "msg": A}]
    report = imported(log, tmp_path / "chat.jsonl", {"name": "Exported", "scenario": "", "messages": told})
    assert pairs(log) == [(Q, A)] and report.set_aside == 0


def test_a_message_of_jan_whose_id_is_no_text_is_set_aside(log, tmp_path):
    told = [{**message, "id": id, "thread_id": "t"} for id, message in enumerate((USER, BOT))]
    told = [{**each, "content": [{"type": "text", "text": {"value": each["content"]}}]} for each in told]
    report = imported(log, tmp_path / "messages.jsonl", [*told, {**told[0], "id": {}, "thread_id": "another"}])
    assert pairs(log) == [(Q, A)] and report.set_aside == 1


def test_what_has_no_answer_is_counted(log, tmp_path):
    chats = [
        {"id": "a", "mapping": {}},
        {"id": "b", "mapping": _node("1", "user", Q)},
        {"id": "c", "mapping": _node("1", "user", Q) | _node("2", "assistant", A) | _node("3", "user", "And black?")},
    ]
    report = imported(log, tmp_path / "conversations.jsonl", chats)
    assert (report.turns, report.unanswered, report.open_questions) == (1, 2, 1)


def test_activities_of_gemini_without_an_answer_are_counted(log, tmp_path):
    activity = {"header": "Gemini Apps", "title": "Prompted tea", "time": "2026-03-01T10:00:00Z", "products": ["x"]}
    file = tmp_path / "MyActivity.json"
    file.write_text(json.dumps([activity]))
    assert import_files(log, [file]).unanswered == 1


def test_who_only_begins_the_chat_answers_nobody(log, tmp_path):
    file = tmp_path / "chat.txt"
    file.write_text("31/12/23, 21:15 - Kim: Hello\n31/12/23, 21:16 - Robin: Hi\n")
    with pytest.raises(DataError, match="no text of 'Kim' follows a message of somebody else"):
        import_files(log, [file], Wanted(me="Kim"))


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nquestion;answer\nq;a\n",
        "Title,User Question,Bot Answer\nx,q,a\n",
        "question_id,Question text,answer_type,The answer\n1,q,short,a\n",
        "inputs\ttargets\nq\ta\n",
        "Prompt (final),Model response,response_time\nq,a,5\n",
    ],
)
def test_the_columns_of_tables_that_people_make(log, tmp_path, text):
    file = tmp_path / ("table.tsv" if "\t" in text else "table.csv")
    file.write_text(text)
    import_files(log, [file])
    assert pairs(log) == [("q", "a")]


def test_a_tree_of_open_assistant_may_begin_with_its_first_message(log, tmp_path):
    answers = [
        {"message_id": f"{id}a", "role": "assistant", "text": text, "rank": rank, "replies": []}
        for id, text, rank in (("1", BAD, 1), ("2", A, 0))
    ]
    trees = [
        {"message_id": id, "parent_id": None, "role": "prompter", "text": Q, "replies": answers} for id in ("x", "y")
    ]
    imported(log, tmp_path / "trees.jsonl", trees)
    assert pairs(log) == [(Q, A), (Q, A)] and len({turn.session_id for turn in log.turns()}) == 2
