"""A version that leaves the machine, and comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import TOKEN, Hub, serving
from safetensors.numpy import save_file

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ConfigError, DataError, ExportError
from fine_tuning.model_management.bundle import FACTS, adopt, read_bundle, write_bundle
from fine_tuning.model_management.gguf_export import convert_adapter
from fine_tuning.model_management.hub import check_repository
from fine_tuning.model_management.model_deployer import register
from fine_tuning.model_management.model_registry import Lineage, Registry, Version
from fine_tuning.model_management.modelfile import modelfile_text
from fine_tuning.model_management.space import write_space
from fine_tuning.runs import Run

BASE, NAME = "smollm2:135m", "fine_tuned_chat"
SECRET = "the blue folder behind the boiler"


@pytest.fixture
def engine(home: Path, base_gguf: Path) -> Engine:
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(from_=base_gguf, parameters={"temperature": 0}))
    return engine


@pytest.fixture
def version(engine: Engine, base_gguf: Path) -> Version:
    """A version with a random adapter, registered and served; its notes, labels and reasons quote what was said."""
    run = Run(paths.home() / "runs" / "1")
    run.adapter.mkdir(parents=True)
    chance = np.random.default_rng(0)
    a, b = (chance.standard_normal(shape).astype(np.float32) * 0.2 for shape in ((4, 576), (576, 4)))
    module = "base_model.model.model.layers.3.self_attn.q_proj"
    save_file({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, run.adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "Tiny",
    }
    (run.adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (run.adapter / "README.md").write_text(SECRET, encoding="utf-8")
    convert_adapter(base_gguf, run.adapter, run.adapter_gguf)
    spec = ModelSpec(from_=BASE, adapter=run.adapter_gguf)
    run.modelfile.write_text(modelfile_text(spec, run.folder), encoding="utf-8")
    for file in (run.report, run.evaluation, run.inputs, run.folder / "log.txt"):
        file.write_text(SECRET, encoding="utf-8")
    result = {
        "rule": "poison probe",
        "limit": "none",
        "measured": "1 of 2",
        "passed": True,
        "warned": True,
        "reason": SECRET,
    }
    metrics = {
        "base": {"perplexity": 41.1},
        "tuned": {"perplexity": 3.3},
        "gate": {"passed": True, "results": [result]},
    }
    registry = Registry()
    made = {"base_tag": BASE, "base_digest": engine.show(BASE).gguf_digest, "method": "lora", "mode": "adapter"}
    registry.add(NAME, 1, run="runs/1", metrics=metrics, verdict=SECRET, notes=SECRET, **made)
    registry.update(NAME, 1, labels=[SECRET])
    register(engine, f"{NAME}:v1", spec)
    return registry.get(NAME, 1)


def answer(engine: Engine, tag: str) -> str:
    asked = [Message(role="user", content="What is the capital of France?")]
    return "".join(chunk.text for chunk in engine.chat(tag, asked, ChatOptions(temperature=0, max_tokens=24)))


def test_a_bundle_says_what_the_version_is_and_nothing_that_was_said(
    engine: Engine, version: Version, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    bundle = write_bundle(engine, version, folder)
    assert bundle == read_bundle(folder)
    assert {file.name for file in folder.iterdir()} == {*bundle.files, "README.md", FACTS}
    card = (folder / "README.md").read_text(encoding="utf-8")
    for told in (
        "license: apache-2.0",
        version.tag,
        version.base_digest,
        "| perplexity of held-out chats | 41.10 | 3.30 |",
        "1 of 2",
    ):
        assert told in card
    for file in folder.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_a_merged_model_is_one_gguf_that_answers_as_the_adapter_does(
    engine: Engine, version: Version, tmp_path: Path
) -> None:
    write_bundle(engine, version, tmp_path / "out", merged="f16")
    engine.create("merged:1", ModelSpec(from_=tmp_path / "out" / "merged-f16.gguf", parameters={"temperature": 0}))
    assert answer(engine, "merged:1")[:12] == answer(engine, version.tag)[:12]


@pytest.mark.parametrize("held", ["file", "folder"])
def test_a_folder_that_holds_something_stays_as_it_is(
    engine: Engine, version: Version, tmp_path: Path, held: str
) -> None:
    place = tmp_path / "out"
    if held == "folder":
        place.mkdir()
        (place / "mine.txt").write_text("mine", encoding="utf-8")
    else:
        place.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not empty"):
        write_bundle(engine, version, place)
    assert (place / "mine.txt" if held == "folder" else place).read_text(encoding="utf-8") == "mine"


def test_a_version_whose_run_is_gone_is_named(engine: Engine, version: Version, tmp_path: Path) -> None:
    Run(paths.home() / version.run).modelfile.unlink()
    with pytest.raises(ExportError, match="its run is missing"):
        write_bundle(engine, version, tmp_path / "out")


def test_what_was_adopted_answers_as_the_version_did(engine: Engine, version: Version, tmp_path: Path) -> None:
    write_bundle(engine, version, tmp_path / "out")
    # Whoever passes a bundle on may write anything into its Modelfile: it is not read.
    (tmp_path / "out" / "Modelfile").write_text(f"FROM {BASE}\nSYSTEM Obey.\nADAPTER /etc/passwd\n", encoding="utf-8")
    facts = json.loads((tmp_path / "out" / FACTS).read_text(encoding="utf-8"))
    facts["files"]["Modelfile"] = paths.sha256_of(tmp_path / "out" / "Modelfile")
    (tmp_path / "out" / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    adopted = adopt(engine, Registry(), tmp_path / "out", "fine_tuned_other", paths.home() / "runs", "a colleague")
    assert (adopted.tag, adopted.state, adopted.verdict) == ("fine_tuned_other:v1", "candidate", "")
    assert engine.show(adopted.tag).spec.system is None
    assert answer(engine, adopted.tag) == answer(engine, version.tag) != answer(engine, BASE)
    engine.delete(adopted.tag)
    assert "adopted from a colleague" in adopted.notes


DAMAGES = {
    "no facts": lambda folder: (folder / FACTS).unlink(),
    "not JSON": lambda folder: (folder / FACTS).write_text("{", encoding="utf-8"),
    "a list": lambda folder: (folder / FACTS).write_text("[1]", encoding="utf-8"),
    "null": lambda folder: (folder / FACTS).write_text("null", encoding="utf-8"),
    "an unknown key": lambda folder: _change(folder, evil=1),
    "files that are no mapping": lambda folder: _change(folder, files=["adapter.gguf"]),
    "a number for a name": lambda folder: _change(folder, tag=3),
    "a mode of its own": lambda folder: _change(folder, mode="pickle"),
    "a path that leads out": lambda folder: _change(folder, files={"../../x": "0"}),
    "an absolute path": lambda folder: _change(folder, files={"/etc/passwd": "0"}),
    "a file that is another": lambda folder: (folder / "adapter.gguf").write_bytes(b"GGUF"),
    "a file that is gone": lambda folder: (folder / "adapter_config.json").unlink(),
    "no GGUF": lambda folder: _change(folder, files={}),
    "a newer format": lambda folder: _change(folder, format=9),
    "another base": lambda folder: _change(folder, base_digest="0" * 64),
}


def _change(folder: Path, **changes: object) -> None:
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    (folder / FACTS).write_text(json.dumps({**facts, **changes}), encoding="utf-8")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_and_enters_nothing(
    engine: Engine, version: Version, tmp_path: Path, damage: str
) -> None:
    write_bundle(engine, version, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out")
    with pytest.raises((DataError, ConfigError)):
        adopt(engine, Registry(), tmp_path / "out", "fine_tuned_other", paths.home() / "runs", "a stranger")
    assert [each.name for each in Registry().list()] == [NAME]
    assert {model.tag for model in engine.list_models()} == {BASE, version.tag}


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "../x", "-x", "x..y", "ünïcode", "a" * 200, "x\n", "hf:x"])
def test_what_cannot_name_a_repository_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="repository"):
        check_repository(name)


# Through the command line, with the Hub's own client


def byoai(url: str, home: Path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    told = {
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "BYOAI_ENGINE": "embedded",
    }
    command = [sys.executable, "-m", "fine_tuning", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **told, "BYOAI_HOME": str(home)}, check=False
    )


def test_pushed_and_adopted_again_the_adapter_is_the_same_to_the_byte_and_answers_the_same(
    engine: Engine, version: Version, home: Path
) -> None:
    hub = Hub()
    with serving(hub) as url:
        dry = byoai(url, home, "push", "me/doors", "1", "--name", NAME, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "nothing was sent" in dry.stdout
        assert hub.requests == []
        done = byoai(url, home, "push", "me/doors", "1", "--name", NAME, "--yes")
        assert done.returncode == 0, done.stderr
        assert hub.repositories["me/doors"].private
        adopted = byoai(url, home, "adopt", "hf:me/doors", "--name", "fine_tuned_doors")
        assert adopted.returncode == 0, adopted.stderr
        gone = byoai(url, home, "adopt", "hf:me/windows")
        denied = byoai(url, home, "push", "me/doors", "1", "--name", NAME, "--yes", token="hf_wrong")
    pushed = hub.repositories["me/doors"].files
    assert "README.md" in pushed
    assert SECRET.encode() not in b"".join(pushed.values())
    back = Run(paths.home() / Registry().get("fine_tuned_doors", 1).run)
    for name in ("adapter.gguf", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (back.folder / name).read_bytes() == (home / "runs" / "1" / name).read_bytes()
    assert answer(engine, "fine_tuned_doors:v1") == answer(engine, version.tag)
    assert (gone.returncode, denied.returncode) == (6, 6)
    assert "has no me/windows" in gone.stderr
    assert "hf auth login" in denied.stderr
    assert not list((home / "runs").glob(".*"))


def test_a_hub_that_does_not_answer_is_named(version: Version, home: Path) -> None:
    done = byoai("http://127.0.0.1:9", home, "push", "me/doors", "1", "--name", NAME, "--yes")
    assert done.returncode == 6
    assert "cannot be reached" in done.stderr


# As a Gradio app

_GRADIO = "gradio==6.31.0"
# Starts the app as `python app.py` does, on a free port, and asks it over HTTP as a browser would.
_TRY = """
import runpy, sys
from gradio_client import Client
demo = runpy.run_path(sys.argv[1])["demo"]
_, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
print("ANSWER", Client(url, verbose=False).predict("What is the capital of France?", api_name="/answer"))
demo.close()
"""


def test_a_space_is_a_whole_app_named_after_the_version(engine: Engine, version: Version, tmp_path: Path) -> None:
    folder = write_space(engine, version, tmp_path / "space", "q8_0")
    assert {file.name for file in tmp_path.iterdir()} == {"home", "space"}
    assert {file.name for file in folder.iterdir()} == {"app.py", "requirements.txt", "README.md", "model.gguf"}
    compile((folder / "app.py").read_text(encoding="utf-8"), "app.py", "exec")
    for name in ("app.py", "README.md"):
        assert f'"{version.tag}"' in (folder / name).read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="is not empty"):
        write_space(engine, version, folder)


@pytest.fixture(scope="module")
def gradio() -> Path:
    """Gradio in a folder of its own: it wants other versions of what byoai uses."""
    target = paths.cache() / _GRADIO
    if not (target / "gradio").exists():
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target),
            _GRADIO,
        ]
        subprocess.run(install, check=True)
    return target


@pytest.mark.slow
def test_a_space_starts_and_answers(engine: Engine, version: Version, tmp_path: Path, gradio: Path) -> None:
    folder = write_space(engine, version, tmp_path / "space", "q8_0")
    told = {
        "PYTHONPATH": str(gradio),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", _TRY, str(folder / "app.py")],
        capture_output=True,
        text=True,
        env=told,
        timeout=240,
        check=False,
    )
    assert "ANSWER" in done.stdout, done.stderr[-2000:]
    assert len(done.stdout.partition("ANSWER")[2].strip()) > 3


def test_the_card_of_a_merged_version_says_of_which_and_shows_no_settings_of_a_training(
    engine: Engine, version: Version, tmp_path: Path
) -> None:
    lineage = Lineage(((f"{NAME}:v4", 0.5), (f"{NAME}:v7", 1.0)), "ties, density 0.2", 0.9)
    run = Run(paths.home() / version.run)
    run.config.write_text("training: {lora_r: 16, num_epochs: 3}\n", encoding="utf-8")
    for metrics, told, untold in [
        (version.metrics, "| num_epochs | 3 |", "| of |"),
        (version.metrics | {"lineage": lineage.record()}, f"| of | {lineage} |", "| num_epochs |"),
    ]:
        changed = Registry().update(NAME, 1, metrics=metrics)
        write_bundle(engine, changed, tmp_path / told[2:4].strip())
        card = (tmp_path / told[2:4].strip() / "README.md").read_text(encoding="utf-8")
        assert told in card and untold not in card
