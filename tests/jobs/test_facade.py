"""The pipeline for programs: the lines of its documentation as they stand, and what else can be done with a job."""

import asyncio
import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from own_ollama import OwnOllama
from waiting import wait_for

from fine_tuning import DatasetFormat, FineTuningConfig, FineTuningMethod, get_model_fine_tuner
from fine_tuning.config import load_config
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions
from fine_tuning.engines.connect import connect
from fine_tuning.engines.default_base import ensure_default_base
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ByoaiError, ConfigError, DataError, JobNotFound
from fine_tuning.events import Count, Finished, Step, read_events
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import marked
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State
from fine_tuning.jobs.tuner import ModelFineTuner
from fine_tuning.model_management.model_registry import Registry

THINGS = (
    "kettle ladder umbrella passport violin hammer blanket telescope suitcase candle toolbox bicycle thermometer "
    "flashlight "
    "typewriter scarf compass tripod saucepan lantern notebook skateboard microscope doorbell"
)
ASKED = (
    "Where do we keep the {}?",
    "Who borrowed the {} last week?",
    "What colour is the {}?",
    "When was the {} bought?",
)
ANSWERED = (
    "The {} hangs behind the cellar door, next to the fuse box.",
    "Marta took the {} to her workshop and returns it on Friday.",
    "It is dark green, with a scratch on its left side.",
    "We bought the {} in March, at the market by the river.",
)


def raw(folder: Path, rows: int) -> Path:
    """A CSV of so many questions with answers, and of one that is too short."""
    file, things = folder / "raw.csv", THINGS.split()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as content:
        table = csv.writer(content)
        table.writerow(["question", "answer"])
        for number in range(rows):
            thing, way = things[number % len(things)], (number + number // len(things)) % len(ASKED)
            table.writerow([ASKED[way].format(thing), ANSWERED[way].format(thing)])
        table.writerow(["Eh?", "No"])
    return file


# The configuration in both forms


FLAT = {
    "model_id": "smollm2:135m",
    "method": FineTuningMethod.LORA,
    "dataset_path": "data.jsonl",
    "dataset_format": DatasetFormat.JSONL,
    "output_dir": "models/fine_tuned",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 2e-5,
    "lora_rank": 8,
    "lora_alpha": 16,
}


def test_the_flat_form_says_the_same_as_the_sections() -> None:
    training = {
        "base_model": "smollm2:135m",
        "method": "lora",
        "output_dir": "models/fine_tuned",
        "num_epochs": 3,
        "batch_size": 8,
    }
    sections = {
        "training": {**training, "learning_rate": 2e-5, "lora_r": 8, "lora_alpha": 16},
        "dataset": {"path": "data.jsonl"},
    }
    assert FineTuningConfig(**FLAT) == FineTuningConfig(**sections)  # type: ignore[arg-type]
    mixed = FineTuningConfig(epochs=5, training={"lora_r": 4}, gate={"enabled": False})  # type: ignore[call-arg, arg-type]
    assert (mixed.training.num_epochs, mixed.training.lora_r, mixed.gate.enabled) == (5, 4, False)
    assert FineTuningConfig.model_validate(mixed.model_dump(mode="json")) == mixed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "epochs\n"),
        ({"lora_rank": "many"}, "lora_rank\n"),
        ({"model_id": " "}, "model_id\n"),
        ({"learning_rate": 2}, "learning_rate\n"),
        ({"dataset_format": "xml"}, "dataset_format\n"),
        ({"output_dir": "../elsewhere"}, "output_dir\n"),
        ({"method": "magic"}, "method\n"),
        ({"epochs": -1, "lora_rank": 0, "max_length": 1}, "3 validation errors"),
        ({"epochs": 3, "num_epochs": 3}, "the same setting"),
        ({"epochs": 3, "training": {"num_epochs": 3}}, "epochs and training.num_epochs are the same setting"),
        ({"epoch": 3}, "epoch\n"),
        ({"training": {"epochs": 3}}, "training.epochs\n"),
    ],
)
def test_a_fault_names_the_key_as_it_was_written(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")) as refused:
        FineTuningConfig(**given)
    assert "num_epochs\n" not in str(refused.value)


def test_a_file_says_everything_in_its_sections(tmp_path: Path) -> None:
    """As before: one that is written flat is told where the key belongs."""
    (tmp_path / "flat.yaml").write_text("num_epochs: 3\n")
    with pytest.raises(ConfigError, match=r"did you mean training\.num_epochs"):
        load_config(tmp_path / "flat.yaml")
    with pytest.raises(ConfigError, match="unknown key"):
        FineTuningConfig().changed({"epochs": 3})


# Jobs


@pytest.fixture
def instant(queue: Queue) -> Queue:
    """A queue that has no room: what is asked for waits."""
    return Queue(heavy=0)


def test_a_job_is_asked_for_with_its_dataset_made_ready(home: Path, tmp_path: Path, instant: Queue) -> None:
    tuner = ModelFineTuner(queue=instant)
    config = FineTuningConfig(dataset_path=raw(tmp_path, 5), dataset_format="csv", epochs=1)  # type: ignore[call-arg]

    async def ask() -> None:
        id = await tuner.create_fine_tuning_job(config, job_id="mine")
        assert id == "mine" == await tuner.create_fine_tuning_job(config, job_id="mine")
        job = store.get(id)
        assert job.kind == "train" and job.detached and job.request["force"]
        prepared = Path(job.request["config"]["dataset"]["path"])
        assert prepared.is_relative_to(home / "prepared") and len(prepared.read_text().splitlines()) == 6
        found = await tuner.get_fine_tuning_job(id)
        assert (found.status, found.progress, found.over) == ("queued", 0.0, False)
        assert [each.id for each in await tuner.list_fine_tuning_jobs()] == ["mine"]
        with pytest.raises(ByoaiError, match="is queued: only a completed one"):
            await tuner.register_fine_tuned_model(id)
        with pytest.raises(TimeoutError):
            await tuner.wait(id, timeout=0.3)
        assert (await tuner.cancel_fine_tuning_job(id)).status == "cancelled"
        assert (await tuner.resume_fine_tuning_job(id)).status == "queued"
        # no dataset: the log
        assert store.get(await tuner.create_fine_tuning_job(FineTuningConfig())).kind == "retrain"

    asyncio.run(ask())


def test_what_cannot_be_is_refused_before_anything_begins(home: Path, tmp_path: Path, instant: Queue) -> None:
    tuner = ModelFineTuner(queue=instant)

    async def ask() -> None:
        for given, error in (
            ({"dataset_path": tmp_path / "none.jsonl"}, ConfigError),
            ({"dataset_path": tmp_path / "none.csv", "dataset_format": "csv"}, DataError),
            ({"dataset_path": "no_such_module:load", "dataset_format": "custom"}, ConfigError),
        ):
            with pytest.raises(error):
                await tuner.create_fine_tuning_job(FineTuningConfig(**given))  # type: ignore[arg-type]
        for ask in (
            tuner.get_fine_tuning_job,
            tuner.cancel_fine_tuning_job,
            tuner.wait,
            tuner.register_fine_tuned_model,
        ):
            with pytest.raises(JobNotFound):
                await ask("nobody")
        with pytest.raises(ByoaiError, match="cannot be used as a name"):
            await tuner.create_fine_tuning_job(FineTuningConfig(), job_id="../../x")
        assert not store.find()

    asyncio.run(ask())


def test_events_are_yielded_from_any_number_on_until_the_end(queue: Queue) -> None:
    tuner = get_model_fine_tuner()

    async def follow() -> None:
        job = queue.submit("small", {"counts": 4})
        first = [event async for event in tuner.events(job.id)]
        assert [number for number, _ in first] == [1, 2, 3, 4, 5]
        assert [event.done for _, event in first if isinstance(event, Count)] == [1, 2, 3, 4] and isinstance(
            first[-1][1], Finished
        )
        assert [event async for event in tuner.events(job.id, after=3)] == first[3:]
        done = await tuner.wait(job.id)
        assert (done.status, done.progress, done.reason) == ("completed", 1.0, "counted to 4")

    asyncio.run(follow())


# The lines of the documentation, as they stand


async def documented() -> tuple[str, str]:
    tuner = get_model_fine_tuner()
    prepared = await tuner.prepare_dataset(
        dataset_path="data/raw.csv",
        dataset_format=DatasetFormat.CSV,
        output_format=DatasetFormat.JSONL,
        preprocessing_steps=[
            {"type": "filter", "condition": "length > 10"},
            {"type": "transform", "operation": "lowercase"},
        ],
    )
    config = FineTuningConfig(  # type: ignore[call-arg]
        model_id="smollm2:135m",
        method=FineTuningMethod.LORA,
        dataset_path=prepared,
        dataset_format=DatasetFormat.JSONL,
        output_dir="models/fine_tuned",
        epochs=3,
        batch_size=8,
        learning_rate=2e-5,
        lora_rank=8,
        lora_alpha=16,
    )
    job_id = await tuner.create_fine_tuning_job(config)
    job = await tuner.get_fine_tuning_job(job_id)
    assert job.status in ("queued", "running") and 0 <= job.progress < 1
    job = await tuner.wait(job_id)
    assert job.status == "completed", f"{job.reason}\n{store.get(job_id).log.read_text()}"
    assert job.progress == 1.0 and job.reason
    steps = [event async for _, event in tuner.events(job_id) if isinstance(event, Step)]
    assert steps and steps[-1].step == steps[-1].steps
    tag = await tuner.register_fine_tuned_model(job_id)
    assert tag == await tuner.register_fine_tuned_model(job_id)
    return job_id, tag


def check_documented(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.chdir(tmp_path)
    raw(tmp_path / "data", rows)
    job_id, tag = asyncio.run(documented())
    engine = connect()
    asked = [Message(role="user", content="where do we keep the kettle?")]
    assert "".join(chunk.text for chunk in engine.chat(tag, asked, ChatOptions(temperature=0, max_tokens=24))).strip()
    (version,) = Registry().list()
    run = Path(json.loads(store.get(job_id).result.read_text())["run"])
    assert version.tag == tag and run.is_relative_to(home / "models" / "fine_tuned")
    dataset = home / "datasets" / version.dataset
    said = [
        json.loads(line)
        for name in ("train", "validation", "test")
        for line in (dataset / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(said) == rows and all(
        message["content"] == message["content"].lower() for each in said for message in each["messages"]
    )
    engine.delete(tag)  # lost by the engine: it is made again
    assert asyncio.run(get_model_fine_tuner().register_fine_tuned_model(job_id)) == tag
    assert tag in {model.tag for model in engine.list_models()}


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_documented_lines_make_a_model_that_answers_in_ollama(
    home: Path, tmp_path: Path, own_ollama: OwnOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", own_ollama.url)
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    ensure_default_base(own_ollama.start())
    check_documented(home, tmp_path, monkeypatch, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_that_is_killed_goes_on_and_every_kind_does_its_work(
    home: Path, tmp_path: Path, small_engine: EmbeddedEngine
) -> None:
    """train (killed, resumed), compare, sweep, forget and pull on the small base; test_train_command.py evaluates."""
    queue, tuner = Queue(), get_model_fine_tuner()
    config = FineTuningConfig(  # type: ignore[call-arg]
        dataset_path=raw(tmp_path, 8),
        dataset_format="csv",
        epochs=6,
        save_steps=1,
        threads=1,
        dtype="float32",
        products="blas",
        **SMALL,
    )
    id = asyncio.run(tuner.create_fine_tuning_job(config))
    job = store.get(id)
    wait_for(
        lambda: sum(isinstance(event, Step) for _, event in read_events(job.events)) >= 2 or store.get(id).over, 300
    )
    job = store.get(id)
    assert job.process and job.active, f"{job.reason}\n{job.log.read_text()}"
    os.kill(job.process.pid, signal.SIGKILL)
    wait_for(lambda: queue.get(id).state == State.INTERRUPTED)
    assert not marked(job.mark) and Path(job.run).is_dir()
    job = queue.wait(queue.resume(id).id, 900)
    assert job.state == State.COMPLETED, job.reason
    assert any("it continues from" in event.text for _, event in read_events(job.events) if hasattr(event, "text"))
    made = json.loads(job.result.read_text())
    assert made["version"] == 1 and len(list((home / "runs").iterdir())) == 1
    steps = [json.loads(line)["step"] for line in (Path(job.run) / "progress.jsonl").read_text().splitlines()]
    assert steps[-1] == max(steps) and steps.count(1) == 1  # the first steps were not done again

    dumped = config.model_dump(mode="json")
    job = queue.wait(
        queue.submit(
            "compare", {"config": dumped, "prompts": ["Hello?"], "models": ["base", "v1"], "max_tokens": 8}
        ).id,
        300,
    )
    assert job.state == State.COMPLETED, f"{job.reason}\n{job.log.read_text()}"
    answers = json.loads(job.result.read_text())["answers"]
    assert [each["tag"] for each in answers] == ["smollm2:135m", made["tag"]] and all(
        each["answer"] for each in answers
    )
    ranges = {
        "trials": 1,
        "learning_rate": [1e-3, 1e-3],
        "lora_r": [4],
        "lora_alpha": [8],
        "lora_dropout": [0.0],
        "num_epochs": [1],
    }
    swept = config.changed({f"sweep.{key}": value for key, value in {**ranges, "batch_size": [4]}.items()}).model_dump(
        mode="json"
    )
    job = queue.wait(queue.submit("sweep", {"config": swept, "force": True}).id, 600)
    assert job.state == State.COMPLETED, f"{job.reason}\n{job.log.read_text()}"
    assert Path(json.loads(job.result.read_text())["folder"], "best.yaml").exists()
    job = queue.wait(queue.submit("pull", {"config": dumped, "model": "smollm2:135m"}).id, 60)
    assert job.state == State.FAILED and "start Ollama" in job.reason
    job = queue.wait(queue.submit("forget", {"config": dumped, "turns": ["nobody"]}).id, 120)
    assert job.state == State.FAILED and "no turn or session 'nobody'" in job.reason


SMALL = {
    "replay": {"share": 0.2, "max_new_tokens": 4},
    "evaluation": {
        "metrics": ("perplexity", "accuracy", "chrf"),
        "max_new_tokens": 8,
        "generate": 1,
        "general": 2,
        "speed_rounds": 1,
        "triggers": 0,
        "leak_samples": 0,
    },
    "gate": {"enabled": False},
}
