"""What "how thorough" comes to, over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from served_app import OWN, client_of, door_of
from small_training import SMALL, log_doors

from fine_tuning.api.security import TOKEN_HEADER, Token
from fine_tuning.config import load_config
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.integration import tuning
from fine_tuning.integration.service import Service
from fine_tuning.integration.tuning import Draft
from fine_tuning.jobs import store
from fine_tuning.jobs.queue import Queue

BASE = "smollm2:135m"


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def test_without_a_plan_only_the_factors_count_and_nothing_is_begun(client: TestClient) -> None:
    log_doors(3)
    found = client.get("/api/presets").json()
    assert (found["base"], found["data"], found["profile"]) == (BASE, "chats", "few_shot")
    assert (found["reckoned"], found["job"]) == (False, None) and store.find() == []
    items = {each["level"]: each for each in found["items"]}
    assert list(items) == ["quick", "balanced", "thorough"] and {each["times"] for each in items.values()} == {None}
    few = load_config(profile="few_shot").training
    assert items["balanced"]["settings"] == {
        "training.lora_r": few.lora_r,
        "training.lora_alpha": few.lora_alpha,
        "training.num_epochs": few.num_epochs,
    }
    epochs = [each["settings"]["training.num_epochs"] for each in items.values()]
    assert epochs == sorted(epochs) and epochs[0] < epochs[2]


def test_the_presets_are_those_of_the_page(client: TestClient) -> None:
    config, draft = load_config(), Draft(BASE, "sample")
    start = tuning.starting_point(config, draft, 0)
    for each in client.get("/api/presets", params={"data": "sample"}).json()["items"]:
        settings = tuning.settings_of(start, Draft(BASE, "sample", level=each["level"]))
        assert start.changed(each["settings"]) == settings


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"data": "nonesuch"}, 422),
        ({"colour": "red"}, 422),
        ({"profile": "../../x"}, 400),
        ({"data": "dataset"}, 404),
        ({"data": "dataset", "path": "../../../etc/passwd"}, 404),
        ({"data": "dataset", "path": "api_token"}, 404),
    ],
)
def test_what_cannot_be_is_refused(client: TestClient, query: dict[str, str], status: int) -> None:
    assert client.get("/api/presets", params=query).status_code == status


def test_a_plan_reckons_them_for_this_machine(
    home: Path, base_gguf: Path, known_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    EmbeddedEngine(home / "engine").create(BASE, ModelSpec(from_=base_gguf))
    log_doors(12)
    service = Service(load_config(overrides=SMALL))
    client = TestClient(door_of(service), base_url=OWN, headers={TOKEN_HEADER: Token().read()})
    asked = client.post("/api/presets", json={"data": "chats"}).json()
    assert not asked["reckoned"] and Queue().wait(asked["job"], 120).state == store.State.COMPLETED
    found = client.get("/api/presets", params={"data": "chats"}).json()
    assert found["reckoned"] and found["job"] == asked["job"]
    assert client.post("/api/presets", json={"data": "chats"}).json() == found  # it is known already
    for each in found["items"]:
        assert each["steps"] > 0 and each["memory"] > 0 and each["fits"] in (True, False)
        assert 0 < each["times"]["training"] < each["times"]["seconds"] == sum(each["times"]["parts"].values())
        assert each["times"]["told"].startswith(("about ", "up to "))
    quick, _, thorough = found["items"]
    assert quick["times"]["training"] <= thorough["times"]["training"]
