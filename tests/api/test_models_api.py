"""Models, versions, votes and review over HTTP, on the embedded engine."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from own_ollama import OwnOllama
from served_app import OWN, client_of, door_of, service_of

from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.runs import only_one

TAG, TUNED = "smollm2:135m", "fine_tuned_smollm2-135m"
GATE = {"gate": {"passed": False, "results": [{"rule": "better", "passed": False, "reason": "it is worse"}]}}


@pytest.fixture
def engine(embedded: None, home: Path, base_gguf: Path) -> EmbeddedEngine:
    """With a base and four versions: 1 retired, 2 previous, 3 live, 4 refused by the gate."""
    engine, registry = EmbeddedEngine(home / "engine"), Registry()
    engine.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    for number in range(1, 5):
        run = home / "runs" / f"run-{number}"
        run.mkdir(parents=True)
        (run / "manifest.json").write_text("{}")
        engine.create(f"{TUNED}:v{number}", ModelSpec(TAG, parameters={"seed": number}))
        metrics = GATE if number == 4 else {}
        registry.add(
            TUNED,
            number,
            base_tag=TAG,
            run=f"runs/run-{number}",
            metrics=metrics,
            turns=[f"turn-{each}" for each in range(number)],
        )
        if number < 4:
            registry.promote(TUNED, number)
    engine.copy(f"{TUNED}:v3", f"{TUNED}:latest")
    return engine


@pytest.fixture
def client(engine: EmbeddedEngine) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def tags(engine: EmbeddedEngine) -> set[str]:
    return {model.tag for model in engine.list_models()}


def test_models_are_listed_with_who_answers_and_who_is_held_back(client: TestClient) -> None:
    listed = client.get("/api/models").json()
    assert "Embedded engine" in listed["engine"] and listed["default"] == f"{TUNED}:v3"
    by_tag = {each["tag"]: each for each in listed["items"]}
    assert (by_tag[TAG]["kind"], by_tag[TAG]["title"]) == ("base", f"{TAG} · base")
    assert [each["number"] for each in listed["items"] if each["live"]] == [3]
    assert "it is worse" in by_tag[f"{TUNED}:v4"]["refused"] and not by_tag[f"{TUNED}:v3"]["refused"]
    assert by_tag[TAG]["size"] > 50_000_000


def test_one_model_is_shown_by_any_spelling_of_its_name(client: TestClient) -> None:
    shown = client.get("/api/models/SmolLM2:135m").json()
    assert (shown["tag"], shown["made"]["parameters"], shown["made"]["template"]) == (
        TAG,
        {"stop": ["<|im_end|>"]},
        CHATML,
    )
    assert shown["context_length"] > 0 and len(shown["gguf_digest"]) == 64
    for unknown in ("none", "hf.co/nobody/nothing:latest", "a..b", "x/y/z/w"):
        assert client.get(f"/api/models/{unknown}").status_code == 404


def test_a_base_is_removed_and_versions_and_trials_are_not(client: TestClient, engine: EmbeddedEngine) -> None:
    engine.copy(TAG, "other:1b")
    assert client.delete("/api/models/other:1b").status_code == 204
    before = tags(engine)
    assert "other:1b" not in before
    for tag, status in ((f"{TUNED}:v1", 409), (f"{TUNED}:latest", 404), ("other:1b", 404), ("none", 404)):
        assert client.delete(f"/api/models/{tag}").status_code == status, tag
        assert client.delete(f"/api/models/{tag}", params={"force": True}).status_code == status
    with only_one():
        assert client.delete(f"/api/models/{TAG}").status_code == 409
    assert tags(engine) == before


def test_versions_are_listed_by_pages_and_shown_with_what_they_learned(client: TestClient) -> None:
    first = client.get("/api/versions", params={"limit": 3}).json()
    rest = client.get("/api/versions", params={"limit": 3, "cursor": first["next"]}).json()
    assert [each["number"] for each in first["items"] + rest["items"]] == [4, 3, 2, 1] and rest["next"] is None
    assert [each["state"] for each in first["items"]] == ["candidate", "live", "previous"]
    shown = client.get(f"/api/versions/{TUNED}/4").json()
    assert (shown["learned"], shown["metrics"]) == (4, GATE) and "it is worse" in shown["refused"]
    learned = client.get(f"/api/versions/{TUNED}/4/turns", params={"limit": 3}).json()
    assert learned["items"] == ["turn-0", "turn-1", "turn-2"]
    assert client.get(f"/api/versions/{TUNED}/4/turns", params={"cursor": learned["next"]}).json()["items"] == [
        "turn-3"
    ]
    for address in (f"{TUNED}/9", "none/1", f"{TUNED}/{2**53}"):
        assert client.get(f"/api/versions/{address}").status_code == 404


def test_a_refused_version_goes_live_only_by_hand_and_a_rollback_goes_back(client: TestClient) -> None:
    refused = client.post(f"/api/versions/{TUNED}/4/use", json={})
    assert refused.status_code == 409 and refused.json()["error"]["type"] == "GateRefused"
    assert client.post(f"/api/versions/{TUNED}/2/use", json={}).json()["state"] == "live"
    live = client.post(f"/api/versions/{TUNED}/4/use", json={"by_hand": True}).json()
    assert (live["state"], live["notes"][:16]) == ("live", "promoted by hand")
    assert client.post(f"/api/versions/{TUNED}/rollback", json={}).json()["live"]["number"] == 2
    assert client.get("/api/models").json()["default"] == f"{TUNED}:v2"
    assert client.post("/api/versions/none/rollback", json={}).status_code == 404
    assert client.post(f"/api/versions/{TUNED}/9/use", json={}).status_code == 404


def test_a_version_is_annotated_and_what_is_left_out_stays(client: TestClient) -> None:
    address = f"/api/versions/{TUNED}/1"
    assert client.patch(address, json={"notes": "the first", "labels": ["a", "b"]}).json()["labels"] == ["a", "b"]
    pinned = client.patch(address, json={"pinned": True}).json()
    assert (pinned["pinned"], pinned["notes"], pinned["labels"]) == (True, "the first", ["a", "b"])
    assert client.patch(address, json={"state": "live"}).status_code == 422
    assert client.patch(f"/api/versions/{TUNED}/9", json={}).status_code == 404


def test_only_what_pruning_would_remove_is_removed(client: TestClient, engine: EmbeddedEngine, home: Path) -> None:
    registry = Registry()
    registry.update(TUNED, 1, pinned=True)
    registry.add(TUNED, 5)  # found in the engine, and perhaps somebody else's
    for number, why in ((1, "pinned"), (2, "rollback"), (3, "live"), (5, "somebody else's")):
        kept = client.delete(f"/api/versions/{TUNED}/{number}")
        assert kept.status_code == 409 and why in kept.json()["error"]["message"]
    with only_one():
        assert client.delete(f"/api/versions/{TUNED}/4").status_code == 409
    assert f"{TUNED}:v4" in tags(engine)
    removed = client.delete(f"/api/versions/{TUNED}/4").json()
    assert (removed["version"], removed["tag"]) == (4, f"{TUNED}:v4")
    assert f"{TUNED}:v4" not in tags(engine) and not (home / "runs" / "run-4").exists()
    assert registry.get(TUNED, 4).state == "retired"


def test_pruning_names_first_what_it_would_remove(client: TestClient, engine: EmbeddedEngine) -> None:
    before = tags(engine)
    planned = client.post(f"/api/versions/{TUNED}/prune", json={"dry_run": True}).json()["items"]
    assert [each["version"] for each in planned] == [1, 4] and tags(engine) == before
    assert client.post(f"/api/versions/{TUNED}/prune", json={}).json()["items"] == planned
    assert before - tags(engine) == {f"{TUNED}:v1", f"{TUNED}:v4"}
    assert client.post("/api/versions/none/prune", json={}).status_code == 404


def test_votes_make_ratings(client: TestClient) -> None:
    assert client.get("/api/votes").json() == {"items": []}
    client.post("/api/votes", json={"one": TAG, "other": f"{TUNED}:v3", "better": "other"})
    rated = client.post("/api/votes", json={"one": "SmolLM2:135m", "other": f"{TUNED}:v3", "better": "tie"})
    assert rated.status_code == 201
    assert [(each["tag"], each["votes"]) for each in rated.json()["items"]] == [(f"{TUNED}:v3", 2), (TAG, 2)]
    for wrong, status in (
        ({"one": TAG, "other": "none", "better": "one"}, 404),
        ({"one": TAG, "other": TAG, "better": "one"}, 400),
        ({"one": TAG, "other": f"{TUNED}:v3", "better": "both"}, 422),
        ({"one": TAG, "other": f"{TUNED}:v3", "better": 1}, 422),
    ):
        assert client.post("/api/votes", json=wrong).status_code == status
    assert client.get("/api/votes").json() == rated.json()


def test_what_is_most_worth_a_review_comes_first(client: TestClient) -> None:
    assert client.post("/api/review", json={}).json() == {"items": []}
    log = ConversationLogger()
    for question, answer in (
        ("What is the capital of France?", "Paris."),
        ("Name a colour.", "zxqv pluvk 7#"),
        ("Is water wet?", "Yes."),
    ):
        log.new_session()
        log.log_conversation(question, answer)
    found = client.post("/api/review", json={"count": 2}).json()["items"]
    assert found[0]["turn"]["bot_response"] == "zxqv pluvk 7#" and len(found) == 2
    assert found[0]["surprise"] > found[1]["surprise"]


def test_no_engine_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with client_of() as client:
        for answer in (client.get("/api/models"), client.get("/api/models/x"), client.delete("/api/models/x")):
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "EngineUnavailable")
        assert client.get("/api/versions").json()["items"] == []


@pytest.mark.engine
def test_an_ollama_that_is_started_again_answers_again(
    home: Path, base_gguf: Path, own_ollama: OwnOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not take the embedded engine in its place, which has other models."""
    own_ollama.start().create("base:latest", ModelSpec(base_gguf))
    monkeypatch.setenv("OLLAMA_HOST", own_ollama.url)
    monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    asked = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": True}
    with client_of() as client:
        before = client.get("/api/models").json()
        assert [model["tag"] for model in before["items"]] == ["base:latest"]
        own_ollama.kill()
        for _ in range(2):
            assert client.get("/api/models").status_code == 503
            assert client.post("/v1/chat/completions", json=asked).status_code == 503
        own_ollama.start()
        assert client.get("/api/models").json() == before


@pytest.mark.engine
def test_an_ollama_that_is_started_after_the_server_answers_once_no_answer_is_being_generated(
    home: Path, engine: EmbeddedEngine, base_gguf: Path, own_ollama: OwnOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", own_ollama.url)
    monkeypatch.setattr("fine_tuning.integration.service._LOOK", 0.0)
    service = service_of()
    client = TestClient(door_of(service), base_url=OWN)

    def answering() -> list[str]:
        return [client.get(path).json()["engine"].partition(" ")[0] for path in ("/api/models", "/api/models")]

    monkeypatch.delenv("BYOAI_ENGINE")
    assert answering() == ["Embedded", "Embedded"]
    empty = own_ollama.start()
    assert answering() == ["Embedded", "Embedded"]  # that Ollama has no model that could answer
    empty.create("base:latest", ModelSpec(base_gguf))
    with closing(service.engine().chat(TAG, [Message(role="user", content="Hi")])) as answer:
        next(iter(answer))
        assert answering() == ["Embedded", "Embedded"]
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    assert answering() == ["Embedded", "Embedded"]
    monkeypatch.delenv("BYOAI_ENGINE")
    assert answering() == ["Ollama", "Ollama"]
    assert "base:latest" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    own_ollama.kill()
    assert [client.get("/api/models").status_code for _ in range(2)] == [503, 503]  # the embedded engine is not back


@pytest.mark.engine
def test_what_belongs_to_ollama_is_removed_only_by_force(
    home: Path, base_gguf: Path, ollama_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    tag = f"api-base:{uuid.uuid4().hex[:8]}"
    OllamaEngine(ollama_url).create(tag, ModelSpec(base_gguf))
    with client_of() as client:
        shown = client.get(f"/api/models/{tag}").json()
        assert (shown["tag"], shown["kind"]) == (tag, "base") and shown["size"] > 50_000_000
        refused = client.delete(f"/api/models/{tag}")
        assert (refused.status_code, refused.json()["error"]["type"]) == (409, "ModelNotOurs")
        assert tag in [each["tag"] for each in client.get("/api/models").json()["items"]]
        assert client.delete(f"/api/models/{tag}", params={"force": True}).status_code == 204
        assert client.get(f"/api/models/{tag}").status_code == 404


def test_a_report_is_shown_without_any_right(client: TestClient, home: Path) -> None:
    assert client.get(f"/api/versions/{TUNED}/3/report").status_code == 404
    (home / "runs/run-3/report.html").write_text("<p>better</p><script>alert(1)</script>")
    shown = client.get(f"/api/versions/{TUNED}/3/report")
    assert shown.status_code == 200 and "better" in shown.text and shown.headers["content-type"].startswith("text/html")
    policies = shown.headers.get_list("content-security-policy")
    assert any(policy.startswith("sandbox; default-src 'none'") for policy in policies)
    assert client.get(f"/api/versions/{TUNED}/99/report").status_code == 404
    assert client.get("/api/versions/..%2F..%2Fetc/1/report").status_code in (404, 422)
