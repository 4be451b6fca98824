"""Checkpoints on their way to the stand-in of the Hugging Face Hub."""

from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub, Repository, serving

from fine_tuning.errors import ConfigError
from fine_tuning.events import Event, Note, Step, Watch
from fine_tuning.model_management.pushed_checkpoints import PushedCheckpoints

STEP = Step("chats", 1, 9, 0.1, 1.0, 0.5, 1e-4, 1.0, 100, 50.0, 0.5, 3.0, 0)


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "state.safetensors", "manifest.json"):
        (made / name).write_text(f"{name} {step}")
    return made


def test_each_complete_checkpoint_is_pushed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, told = Hub(), list[Event]()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(hub) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        checkpoint(tmp_path, 5)  # of an earlier process
        pushing = PushedCheckpoints(tmp_path, "me/doors", Watch(told.append))
        watch = Watch(told.append).telling(pushing)
        for step in (10, 100):
            checkpoint(tmp_path, step)
            watch.tell(STEP)
        (checkpoint(tmp_path, 200) / "manifest.json").unlink()
        watch.tell(STEP)
        sent = len(hub.requests)
        watch.tell(STEP)
        assert len(hub.requests) == sent
    (name,) = hub.repositories
    assert name == "me/doors" and hub.repositories[name].private
    assert hub.repositories[name].files == {
        f"checkpoint-{step}/{file}": f"{file} {step}".encode()
        for step in (10, 100)
        for file in ("adapter_config.json", "adapter_model.safetensors")
    }
    notes = [event.text for event in told if isinstance(event, Note)]
    assert [note.split()[0] for note in notes] == ["checkpoint-10", "checkpoint-100"]


def test_after_a_failed_push_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, told = Hub(), list[Event]()
    hub.repositories["me/doors"] = Repository(True, "model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with serving(hub) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        pushing = PushedCheckpoints(tmp_path, "me/doors", Watch(told.append))
        for step in (10, 20):
            checkpoint(tmp_path, step)
            pushing(STEP)
    (note,) = told
    assert isinstance(note, Note) and "the training goes on" in note.text and "hf auth login" in note.text


def test_a_wrong_repository_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a repository"):
        PushedCheckpoints(tmp_path, "a/b/c", Watch())
