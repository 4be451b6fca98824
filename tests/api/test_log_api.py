"""Conversations and turns over HTTP: listed, searched, read, judged, exported, forgotten."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from served_app import client_of

from fine_tuning import state
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import ALL_FORMATS, write_export
from fine_tuning.data_collection.log.index import SESSIONS
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs import store
from fine_tuning.model_management.model_registry import Registry


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


def said(log: ConversationLogger, *conversations: int) -> list[list[str]]:
    """Log conversations of so many turns each; the ids of the turns."""
    ids = []
    for count in conversations:
        log.new_session()
        number = len(ids)
        ids.append(
            [
                log.log_conversation(f"question {number}.{turn}\n  Straße?", f"answer {number}.{turn}").id
                for turn in range(count)
            ]
        )
    return ids


def pages(client: TestClient, address: str, limit: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    cursor = None
    while True:
        answer = client.get(address, params={"limit": limit, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["items"]) <= limit
        found += answer.json()["items"]
        if not (cursor := answer.json()["next"]):
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_each_conversation_is_listed_once_the_last_that_was_gone_on_with_first(
    client: TestClient, log: ConversationLogger, limit: int
) -> None:
    said(log, 1, 3, 2)
    first = log.turns()[0].session_id
    log.session_id = first
    log.log_conversation("and once more", "yes")
    listed = pages(client, "/api/conversations", limit)
    assert [each["turns"] for each in listed] == [2, 2, 3]
    assert (listed[0]["id"], listed[0]["title"]) == (first, "question 0.0 Straße?")
    assert str(listed[0]["begun"]) < str(listed[0]["last"])


def test_an_empty_log_has_no_conversations(client: TestClient) -> None:
    assert client.get("/api/conversations").json() == {"items": [], "next": None}
    assert client.get("/api/turns", params={"text": "a"}).json() == {"items": []}
    assert client.get("/api/conversations/none").status_code == 404
    assert client.get("/api/export").status_code == 409


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_conversation_is_read_by_pages_as_it_stands(client: TestClient, log: ConversationLogger, limit: int) -> None:
    ids = said(log, 2, 5)[1]
    log.edit(ids[1], "better")
    log.exclude(ids[2])
    read = pages(client, f"/api/conversations/{log.session_id}", limit)
    assert read == [turn.model_dump() for turn in log.session_turns(log.session_id)]
    assert [turn["id"] for turn in read] == ids


def test_a_page_after_a_turn_that_was_deleted_says_so(client: TestClient, log: ConversationLogger) -> None:
    said(log, 3)
    first = client.get(f"/api/conversations/{log.session_id}", params={"limit": 1}).json()
    log.delete(first["items"][0]["id"])
    gone = client.get(f"/api/conversations/{log.session_id}", params={"limit": 1, "cursor": first["next"]})
    assert gone.status_code == 404 and "begin with the first page" in gone.json()["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "straße",
        "STRASSE",
        "question 1.0",
        "1.0 question",
        "\0",
        "a\0b",
        "question\0",
        "qu\0estion",
        '"',
        "'",
        "AND",
        "*",
        "%",
        "\ud7ff",
        "(",
        "x" * 400,
    ],
)
def test_what_was_said_is_found_and_nothing_breaks_the_search(
    client: TestClient, log: ConversationLogger, text: str
) -> None:
    said(log, 2, 1)
    answer = client.get("/api/turns", params={"text": text})
    assert answer.status_code == 200, answer.text
    assert answer.json()["items"] == [turn.model_dump() for turn in log.search(text)]
    assert bool(answer.json()["items"]) == (text.casefold().split()[0] in ("strasse", "question", "1.0"))


@pytest.mark.parametrize("text", ["a\0b", "\0b", "bcd\0", "abc\0bcd", "a\0\0\0b"])
def test_a_nul_and_what_was_said_after_it_are_found(log: ConversationLogger, text: str) -> None:
    id = log.log_conversation(f"it said {text} then", "yes").id
    said(log, 2)
    assert [turn.id for turn in log.search(text)] == [id]
    assert log.find(text) == log.find("it said") == {id}
    assert [turn.id for turn in log.search("then")] == [id] and log.find("then") == {id}


def test_answers_are_judged_as_on_the_page(client: TestClient, log: ConversationLogger) -> None:
    ((id, _),) = said(log, 2)
    rated = client.put(f"/api/turns/{id}/rating", json={"rating": "up"}).json()
    edited = client.put(f"/api/turns/{id}/answer", json={"bot_response": "better"}).json()
    left_out = client.put(f"/api/turns/{id}/excluded", json={"excluded": True}).json()
    assert rated["metadata"]["rating"] == "up"
    assert (edited["bot_response"], edited["metadata"]["original_response"]) == ("better", "answer 0.0")
    assert left_out["metadata"]["excluded"] is True
    assert client.get(f"/api/turns/{id}").json() == left_out == log.index.turns([id])[0].model_dump()
    assert client.put(f"/api/turns/{id}/rating", json={"rating": None}).json()["metadata"].get("rating") is None
    assert "excluded" not in client.put(f"/api/turns/{id}/excluded", json={"excluded": False}).json()["metadata"]


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("rating", {"rating": "great"}, 422),
        ("rating", {}, 422),
        ("rating", {"rating": "up", "by": "somebody"}, 422),
        ("answer", {"bot_response": ""}, 422),
        ("answer", {"bot_response": " \n"}, 400),
        ("answer", {"bot_response": "x" * 1_000_001}, 422),
        ("excluded", {"excluded": None}, 422),
    ],
)
def test_a_wrong_judgement_changes_nothing(
    client: TestClient, log: ConversationLogger, what: str, body: dict[str, object], status: int
) -> None:
    ((id,),) = said(log, 1)
    before = log.path.read_bytes()
    assert client.put(f"/api/turns/{id}/{what}", json=body).status_code == status
    assert log.path.read_bytes() == before
    assert client.put(
        f"/api/turns/none/{what}", json={"rating": "up", "bot_response": "x", "excluded": True}
    ).status_code in (404, 422)


@pytest.mark.parametrize("format", ALL_FORMATS)
def test_an_export_is_what_the_command_writes(
    client: TestClient, log: ConversationLogger, tmp_path: Path, format: str
) -> None:
    ids = said(log, 3, 1, 2)
    log.exclude(ids[0][1])
    log.log_conversation('a "quoted", question', "=1+1\n\u2028")
    log.edit(log.turns()[0].id, "another answer")
    answer = client.get("/api/export", params={"format": format})
    assert answer.content == write_export(log.conversations(), format, tmp_path / "export").read_bytes()
    assert "attachment" in answer.headers["content-disposition"]
    one = client.get("/api/export", params={"format": format, "conversation": log.turns()[0].session_id})
    assert one.content == write_export(log.conversations()[:1], format, tmp_path / "export").read_bytes()


def test_training_data_is_exported_as_the_kind_of_file_that_is_named(
    client: TestClient, log: ConversationLogger, tmp_path: Path
) -> None:
    said(log, 1)
    assert client.get("/api/export", params={"format": "dpo"}).status_code == 409
    log.edit(log.turns()[0].id, "another answer")
    answer = client.get("/api/export", params={"format": "dpo", "as": "parquet"})
    assert answer.content == write_export(log.conversations(), "dpo.parquet", tmp_path / "export").read_bytes()
    assert 'filename="dpo.parquet"' in answer.headers["content-disposition"]
    assert client.get("/api/export", params={"format": "markdown", "as": "csv"}).status_code == 400


def test_every_export_of_the_log_is_offered(client: TestClient) -> None:
    known = client.get("/api/openapi.json").json()["paths"]["/api/export"]["get"]["parameters"][0]["schema"]["enum"]
    assert tuple(known) == ALL_FORMATS


def test_a_conversation_is_renamed_pinned_and_filed(client: TestClient, log: ConversationLogger) -> None:
    said(log, 1)
    address = f"/api/conversations/{log.session_id}"
    assert client.patch(address, json={"title": " The\nprinter "}).json()["title"] == "The printer"
    assert client.patch(address, json={"pinned": True, "folder": "Work"}).json()["pinned"] is True
    (listed,) = client.get("/api/conversations").json()["items"]
    assert (listed["title"], listed["pinned"], listed["folder"]) == ("The printer", True, "Work")
    assert client.patch(address, json={}).json() == listed
    back = client.patch(address, json={"title": "", "pinned": False, "folder": ""}).json()
    assert (back["title"], back["pinned"], back["folder"]) == ("question 0.0 Straße?", False, "")
    assert client.patch("/api/conversations/none", json={"title": "x"}).status_code == 404


@pytest.mark.parametrize(
    "body", [{"title": 1}, {"title": "x" * 201}, {"pinned": "yes"}, {"folder": "x" * 61}, {"name": "x"}, []]
)
def test_a_wrong_label_changes_nothing(client: TestClient, log: ConversationLogger, body: object) -> None:
    said(log, 1)
    assert client.patch(f"/api/conversations/{log.session_id}", json=body).status_code == 422
    assert client.get("/api/conversations").json()["items"][0]["title"] == "question 0.0 Straße?"


def test_to_delete_a_conversation_is_to_forget_it(client: TestClient, log: ConversationLogger) -> None:
    said(log, 2)
    answer = client.delete(f"/api/conversations/{log.session_id}", params={"teach_again": False})
    assert (answer.status_code, answer.json()["kind"]) == (202, "forget")
    asked = store.get(answer.json()["id"]).request
    assert (asked["turns"], asked["teach_again"], asked["now"]) == ([log.session_id], False, False)
    assert "Straße" not in json.dumps(asked, ensure_ascii=False)
    assert client.delete("/api/conversations/none").status_code == 404


def test_turns_are_forgotten_by_a_job_and_asked_twice_it_is_one(client: TestClient, log: ConversationLogger) -> None:
    ((id, other),) = said(log, 2)
    asked = {"turns": [id, other], "now": True, "id": "mine"}
    first, again = client.post("/api/forget", json=asked), client.post("/api/forget", json=asked)
    assert first.status_code == again.status_code == 202
    assert [job["id"] for job in client.get("/api/jobs").json()["items"]] == ["mine"]
    assert store.get("mine").request["turns"] == [id, other]
    for wrong in ([], ["../x"], [""], "all", None):
        assert client.post("/api/forget", json={"turns": wrong}).status_code == 422


def test_a_long_log_is_listed_from_its_end(client: TestClient, log: ConversationLogger) -> None:
    """Structure, and no clock: nothing is sorted or gathered, so that the first page costs what is on it."""
    said(log, *(random.Random(0).choices(range(1, 5), k=60)))
    assert len(pages(client, "/api/conversations", 7)) == 60
    with state.connect() as database:
        plan = [row["detail"] for row in database.execute(f"EXPLAIN QUERY PLAN {SESSIONS}", (1, 1000, 50))]
    assert not any("TEMP B-TREE" in step for step in plan)
    assert [step for step in plan if step.startswith("SCAN")] == []
    assert sum("COVERING INDEX log_turns_by_session (log=? AND session=?" in step for step in plan) == 3


def test_where_an_answer_was_learned_is_told_at_once_and_with_likelihoods(
    client: TestClient, log: ConversationLogger, home: Path, base_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    engine, name = EmbeddedEngine(home / "engine"), "fine_tuned_smollm2-135m"
    engine.create("smollm2:135m", ModelSpec(base_gguf, template=CHATML))
    engine.create(f"{name}:v1", ModelSpec("smollm2:135m", parameters={"seed": 1}))
    taught = [
        log.log_conversation(f"Where is key {number}?", f"Key {number} hangs by the door.") for number in range(3)
    ]
    Registry().add(name, 1, base_tag="smollm2:135m", turns=[turn.id for turn in taught])
    id = log.log_conversation("Where does key 2 hang?", "By the door.", {"model": f"{name}:v1"}).id
    log.delete(taught[0].id)
    found = client.get(f"/api/turns/{id}/learned-from", params={"limit": 1}).json()
    assert (found["version"], found["base"], found["taught"], found["gone"]) == (f"{name}:v1", "smollm2:135m", 3, 1)
    assert [each["turn"]["id"] for each in found["items"]] == [taught[2].id]
    assert found["likelihood"] is found["items"][0]["likelihood"] is None
    weighed = client.post(f"/api/turns/{id}/learned-from", json={}).json()
    assert [each["turn"]["id"] for each in weighed["items"]] == [taught[2].id, taught[1].id]
    assert all(each["likelihood"]["times"] == pytest.approx(1) for each in [weighed, *weighed["items"]])
    for address, status in ((id, 200), (taught[1].id, 400), ("none", 404), ("..", 404)):
        assert client.get(f"/api/turns/{address}/learned-from").status_code == status
    for body in ({"limit": 0}, {"limit": 21}, {"limit": "5"}, {"count": 3}):
        assert client.post(f"/api/turns/{id}/learned-from", json=body).status_code == 422
