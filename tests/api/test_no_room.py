"""A full disk while something is registered, exported, logged or asked over the API: it is named,
nothing is broken, and it goes on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served_app import OWN, client_of, door_of, service_of
from small_disk import Disk
from tiny_gguf import write_base

from fine_tuning import state
from fine_tuning.api.security import TOKEN_HEADER, Token
from fine_tuning.cli.main import main
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML, DEFAULT_TAG
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.model_deployer import go_live, register
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.model_switcher import live

NAME = "fine_tuned_full"
LONG = "It hangs behind the door. " * 2000  # more than is left of the last block


@pytest.fixture
def full_home(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder on the small disk, with a turn and a version."""
    if not disk.mounted:
        pytest.skip("no disk can be mounted here")
    monkeypatch.setenv("BYOAI_HOME", str(disk.folder / "home"))
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    ConversationLogger().log_conversation("Where is the key?", "Behind the door.")
    Registry().add(NAME, 1)
    return disk.folder / "home"


@pytest.mark.parametrize(
    "act",
    [
        lambda client, turn: client.put(f"/api/turns/{turn}/answer", json={"bot_response": LONG}),
        lambda client, turn: client.post(
            "/api/jobs", json={"kind": "compare", "request": {"prompts": [LONG[:9000]] * 4}}
        ),
        lambda client, turn: client.patch(f"/api/versions/{NAME}/1", json={"notes": LONG[:5000]}),
        lambda client, turn: client.put("/api/settings", json={"settings": {"training.num_epochs": 2}}),
    ],
    ids=["edit", "job", "version", "settings"],
)
def test_a_change_over_the_api_is_507_and_is_done_when_there_is_room(
    disk: Disk, full_home: Path, act: Callable[[Any, str], Any]
) -> None:
    client = client_of()
    (turn,) = ConversationLogger().turns()
    versions = Registry().list()
    disk.fill()
    answer = act(client, turn.id)
    if answer.status_code in (404, 405):
        pytest.fail(answer.text)
    assert answer.status_code == 507, answer.text
    assert any(word in answer.json()["error"]["message"].lower() for word in ("disk", "space", "room")), answer.text
    assert client.get(f"/api/turns/{turn.id}").status_code in (200, 507)  # to read, SQLite makes a file, too
    disk.make_room()
    assert ConversationLogger().turns() == [turn] and Registry().list() == versions
    assert act(client, turn.id).status_code < 300


@pytest.fixture
def served(full_home: Path, disk: Disk, small_base: Path) -> Iterator[TestClient]:
    """A server whose model is on the small disk, with a version in use and one that was before it."""
    engine, registry = EmbeddedEngine(full_home / "engine"), Registry()
    engine.create(DEFAULT_TAG, ModelSpec(small_base, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    for number in (1, 2):
        if number > 1:
            registry.add(NAME, number)
        engine.create(f"{NAME}:v{number}", ModelSpec(DEFAULT_TAG, parameters={"seed": number}))
    for number in (2, 1):
        go_live(engine, registry, NAME, number)
    service = service_of()
    yield TestClient(door_of(service), base_url=OWN, headers={TOKEN_HEADER: Token().read()})
    service.engine().unload()  # its process has the model's file open


def answered(client: TestClient, turn: str) -> Any:
    asked = {"model": DEFAULT_TAG, "messages": [{"role": "user", "content": LONG[:6000]}], "max_tokens": 4}
    return client.post("/v1/chat/completions", json=asked, headers={"X-Byoai-Record": "on"})


@pytest.mark.parametrize(
    ("act", "done"),
    [
        (answered, lambda: len(ConversationLogger().turns()) == 2),
        (lambda client, turn: client.put(f"/api/turns/{turn}/rating", json={"rating": "up"}), lambda: rating() == "up"),
        (lambda client, turn: client.post(f"/api/versions/{NAME}/2/use", json={}), lambda: in_use() == (2, 2)),
        (lambda client, turn: client.post(f"/api/versions/{NAME}/rollback", json={}), lambda: in_use() == (2, 2)),
        (
            lambda client, turn: client.patch(f"/api/versions/{NAME}/1", json={"pinned": True}),
            lambda: Registry().get(NAME, 1).pinned,
        ),
        (lambda client, turn: client.post("/api/forget", json={"turns": [turn]}), lambda: True),
    ],
    ids=["answer", "rating", "use", "rollback", "pin", "forget"],
)
def test_what_a_server_cannot_write_is_507_or_done_whole(
    disk: Disk, served: TestClient, act: Callable[[TestClient, str], Any], done: Callable[[], bool]
) -> None:
    (turn,) = ConversationLogger().turns()
    versions = Registry().list()
    assert served.get("/api/models").is_success
    with state.connect() as connection:  # as a server's, which keeps the database's files in memory and on the disk
        connection.execute("SELECT 1 FROM versions").fetchone()
        disk.fill()
        answer = act(served, turn.id)
    assert answer.status_code == 507 or answer.is_success, answer.text
    disk.make_room()
    if answer.is_success:  # there was room enough in files that exist
        assert done()
        return
    assert any(word in answer.json()["error"]["message"].lower() for word in ("disk", "space", "room")), answer.text
    assert ConversationLogger().turns() == [turn] and Registry().list() == versions and in_use() == (1, 1)
    assert act(served, turn.id).is_success and done()


def rating() -> object:
    (turn,) = ConversationLogger().turns()
    return turn.metadata.get("rating")


def in_use() -> tuple[int, int | None]:
    """Return the version in use as the registry has it, and as the engine has it."""
    version = Registry().live(NAME)
    assert version
    return version.number, live(EmbeddedEngine(), NAME)


def test_the_registry_keeps_what_it_had_and_the_next_version_is_entered_when_there_is_room(
    disk: Disk, full_home: Path
) -> None:
    before = Registry().list()
    disk.fill()
    with pytest.raises(ByoaiError, match=r"(?i)disk") as refused:
        for number in range(2, 200):
            Registry().add(NAME, number, notes=LONG)
    assert state.is_full(refused.value)
    disk.make_room()
    entered = Registry().list()
    assert entered[0] == before[0]  # and no half of a later one
    assert Registry().add(NAME, len(entered) + 1).number == len(entered) + 1 == Registry().next_number(NAME) - 1


def test_a_version_is_registered_whole_or_not_at_all(disk: Disk, full_home: Path, tmp_path: Path) -> None:
    engine = EmbeddedEngine(full_home / "engine")
    gguf = write_base(tmp_path / "tiny.gguf")
    disk.fill()
    with pytest.raises(ByoaiError, match=r"(?i)disk full|no space") as refused:
        register(engine, f"{NAME}:v1", ModelSpec(from_=gguf))
    assert state.is_full(refused.value) and engine.list_models() == []
    disk.make_room()
    register(engine, f"{NAME}:v1", ModelSpec(from_=gguf))
    assert [model.tag for model in engine.list_models()] == [f"{NAME}:v1"]


def test_a_command_says_so_and_calls_it_no_fault_of_byoai(
    disk: Disk, full_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(40):
        ConversationLogger().log_conversation(f"Where is the key? {LONG}", LONG)
    disk.fill()
    for command in (["export"], ["data", "--json"], ["stats"]):
        code = main(command)
        said = capsys.readouterr().err
        assert "a fault in byoai" not in said and "Traceback" not in said
        assert code == 0 or any(word in said.lower() for word in ("disk", "space")), said
    disk.make_room()
    assert len(ConversationLogger().turns()) == 41
