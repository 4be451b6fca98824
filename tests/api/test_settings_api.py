"""Settings and doctor over HTTP."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served_app import client_of

from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.config import overlay as config_overlay
from fine_tuning.errors import ConfigError
from fine_tuning.integration.setting_words import words_of


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def change(client: TestClient, **settings: Any) -> dict[str, dict[str, Any]]:
    answer = client.put(
        "/api/settings", json={"settings": {key.replace("__", "."): value for key, value in settings.items()}}
    )
    assert answer.status_code == 200, answer.text
    return {each["key"]: each for each in answer.json()["items"]}


def test_all_settings_are_shown_with_where_they_come_from(client: TestClient) -> None:
    shown = client.get("/api/settings").json()
    by_key = {each["key"]: each for each in shown["items"]}
    assert by_key["training.num_epochs"] == {
        "key": "training.num_epochs",
        **words_of("training.num_epochs")._asdict(),
        "value": 3,
        "default": 3,
        "source": str(paths.DEFAULT_CONFIG),
        "changeable": True,
    }
    assert by_key["training.replay.share"]["value"] == 0.3
    assert not by_key["deployment.ollama_base_url"]["changeable"] and not by_key["training.output_dir"]["changeable"]
    assert (shown["file"], shown["fixed"]) == (str(paths.DEFAULT_CONFIG), False)


DEFAULTS = load_config(paths.DEFAULT_CONFIG).model_dump()
VALUES = [
    ("training.num_epochs", 5),
    ("training.learning_rate", 1e-05),
    ("training.use_dora", True),
    ("training.replay.share", 0.25),
    ("sweep.learning_rate", [1e-4, 0.01]),
    ("sweep.lora_r", [8]),
    ("training.base_model", "qwen3:0.6b"),
    ("deployment.model_name", "null"),
    ("deployment.model_name", "off"),
    ("deployment.model_name", "0042"),
    ("evaluation.canaries", ['it\'s: a # "secret"', "zwei\nZeilen", "日本"]),
    ("gate.enabled", False),
    ("schedule.enabled", True),
    ("schedule.hours", [22, 6]),
    ("data_collection.record", False),
    ("training.early_stop", 2),
]


@pytest.mark.parametrize(("key", "value"), VALUES, ids=map(str, range(len(VALUES))))
def test_a_change_holds_here_and_in_every_other_process(client: TestClient, key: str, value: Any) -> None:
    before = paths.DEFAULT_CONFIG.read_bytes()
    shown = change(client, **{key: value})[key]
    assert (shown["value"], shown["source"]) == (value, str(config_overlay.place()))
    told: Any = load_config().model_dump(mode="json")
    for part in key.split("."):
        told = told[part]
    assert told == value
    assert paths.DEFAULT_CONFIG.read_bytes() == before  # and all its comments
    assert load_config(paths.DEFAULT_CONFIG).model_dump() == DEFAULTS  # a file that is named stands for itself
    back = change(client, **{key: None})[key]
    assert back["source"] in (str(paths.DEFAULT_CONFIG), None) and load_config().model_dump() == DEFAULTS


def test_a_profile_and_a_command_line_lie_over_what_was_changed(client: TestClient) -> None:
    change(client, training__num_epochs=7, training__lora_r=4)
    assert load_config(overrides={"training.num_epochs": 2}).training.num_epochs == 2
    sample = load_config(profile="sample")
    assert (
        sample.training.num_epochs != 7 or "num_epochs" not in (paths.DEFAULT_CONFIG.parent / "sample.yaml").read_text()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"training.num_epochs": 0},
        {"training.num_epoch": 5},
        {"training.num_epochs": "many"},
        {"training.method": "magic"},
        {"training.output_dir": "/tmp/elsewhere"},
        {"training": {"num_epochs": 2}},
        {"deployment.ollama_base_url": "http://evil.test"},
        {"evaluation.metrics": ["evil/metric"]},
        {"data_collection.log_file": "../../etc/passwd"},
        {"training.base_model": "/etc"},
        {"dataset.path": "/etc/passwd"},
        {"training.use_dora": True, "training.method": "full"},
        {"sweep.lora_r": []},
        {"training.replay.share.deep": 1},
        {"": 1},
        {".": 1},
        {"training.": 1},
        {"training.seed": 10**400},
        {"training.replay": {"share": 0.1, "evil": 1}},
    ],
    ids=str,
)
def test_one_wrong_value_and_nothing_is_changed(client: TestClient, wrong: dict[str, Any]) -> None:
    change(client, training__lora_r=4)
    before = config_overlay.place().read_bytes()
    answer = client.put("/api/settings", json={"settings": {"training.lora_alpha": 64, **wrong}})
    assert answer.status_code in (400, 422), answer.text
    assert config_overlay.place().read_bytes() == before and load_config().training.lora_alpha == 32


def test_changes_at_once_are_all_kept(client: TestClient) -> None:
    keys = {
        "training.num_epochs": 4,
        "training.lora_r": 4,
        "training.lora_alpha": 8,
        "training.batch_size": 2,
        "gate.slower": 0.3,
    }
    threads = [threading.Thread(target=change, args=(client,), kwargs={key: value}) for key, value in keys.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert config_overlay.read() == {key: str(value) for key, value in keys.items()}


@pytest.mark.parametrize("text", ["- a list", "just text", "a: [", "training.num_epochs: many", "no.such: 1", "\0"])
def test_a_file_of_changes_that_was_spoilt_by_hand_is_named(home: Path, text: str) -> None:
    config_overlay.place().write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_config()


def test_what_was_spoilt_by_hand_can_be_taken_back(client: TestClient) -> None:
    config_overlay.place().write_text("training.num_epochs: many\n")
    assert client.get("/api/settings").status_code == 400
    assert change(client, training__num_epochs=None)["training.num_epochs"]["value"] == 3


def test_a_server_with_settings_of_its_own_keeps_them(home: Path) -> None:
    with client_of(load_config(overrides={"training.num_epochs": 9})) as client:
        shown = client.get("/api/settings").json()
        assert shown["fixed"] and {each["key"]: each["value"] for each in shown["items"]}["training.num_epochs"] == 9
        assert client.put("/api/settings", json={"settings": {"training.num_epochs": 2}}).status_code == 409
    assert not config_overlay.place().exists()


def test_the_doctor_checks_all_and_says_what_is_wrong(embedded: None, client: TestClient) -> None:
    found = client.post("/api/doctor", json={}).json()
    by_name = {each["name"]: each for each in found["items"]}
    assert by_name["configuration"]["ok"] and by_name["engine"]["ok"] and by_name["embedded"]["ok"]
    assert not by_name["base"]["ok"] and "byoai prepare" in by_name["base"]["text"] and found["ok"] is False
    assert client.get("/api/doctor").status_code == 405  # it mends what it finds, and no GET changes anything


def test_secrets_of_the_configuration_are_not_shown(home: Path) -> None:
    secret = {"notify.url": "https://hooks.example.org/T0/SECRET", "notify.allow_hosts": ["hooks.example.org"]}
    secret |= {
        "notify.command": ["notify-send", "SECRET"],
        "deployment.ollama_base_url": "http://me:SECRET@127.0.0.1:11434",
    }
    shown = client_of(load_config(overrides=secret)).get("/api/settings")
    assert "SECRET" not in shown.text
    values = {item["key"]: item["value"] for item in shown.json()["items"]}
    assert (
        values["notify.url"] == "https://hooks.example.org"
        and values["deployment.ollama_base_url"] == "http://127.0.0.1:11434"
    )
