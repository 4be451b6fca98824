"""MLflow's store: settings, curves and figures of each run get there once, texts never, and no job suffers from it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import unused_port
from waiting import wait_for

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ByoaiError, Cancelled
from fine_tuning.events import Finished, Note, Planned, RunOpened, Step, Watch
from fine_tuning.forgetting import examine, forget
from fine_tuning.jobs import store, tracking
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import State
from fine_tuning.jobs.tracking import figures, is_installed, parameters
from fine_tuning.runs import Run


def with_mlflow(test: Any) -> Any:
    """Mark a test that needs MLflow, which takes its time to be imported and to make its tables."""
    skipped = pytest.mark.skipif(
        find_spec("mlflow") is None, reason="MLflow is not installed (the extra byoai[mlflow])"
    )
    return pytest.mark.slow(skipped(test))


SAID = "Zorbexine 4711 lives in Kiel"
TEXTS = {"evaluation": {"test_prompts": [f"Where is {SAID}?"], "canaries": [f"canary {SAID}"]}}
CONFIG = FineTuningConfig(
    **TEXTS,
    training={"lora_r": 24, "learning_rate": 3e-4},
    tracking={"mlflow": "on"},
    deployment={"ollama_base_url": "http://user:s3cr3t@127.0.0.1:11434"},
)
EVALUATION = {
    "base": {
        "scores": {"perplexity": 20.5, "chrf": 11.0},
        "answers": [{"prompt": SAID, "answer": SAID}],
        "said": [{"answer": SAID}],
    },
    "tuned": {
        "scores": {"perplexity": 9.25, "odd (metric)": 1},
        "answers": [{"prompt": SAID, "answer": SAID}],
        "notes": [SAID],
    },
    "leaks": {"details": 3, "leaks": [{"kind": "email", "turn": "t1", "prompt": SAID}]},
    "poison": {"planted": [{"phrase": SAID}]},
    "speeds": {"base": {"tokens_per_second": 50.0}, "candidate": {"tokens_per_second": 40.0}},
    "own_perplexity_ratio": {"value": 0.45, "low": 0.4, "high": None},
    "reference": "base",
    "gate": {
        "passed": False,
        "results": [
            {"rule": "own chats", "passed": True, "warned": False, "reason": SAID, "measured": SAID, "limit": "none"},
            {
                "rule": "poison probe",
                "passed": False,
                "warned": False,
                "reason": SAID,
                "measured": SAID,
                "limit": "none",
            },
            {"rule": "speed", "passed": True, "warned": True, "reason": SAID, "measured": SAID, "limit": "none"},
        ],
    },
}


def step(number: int, loss: float, part: str = "chats") -> Step:
    validation = loss + 0.1 if number % 2 == 0 else None
    return Step(part, number, 6, number / 2, loss, 0.5, 1e-4 * number, 1.0, 100, 250.0, 0.4, 1.0, 10**8, validation)  # type: ignore[arg-type]


def retrain(
    home: Path, steps: list[Step], *, name: str = "20261128-120000-abcd1234", raised: Cancelled | None = None
) -> str:
    """Do what a retrain does with its run's folder and its watch; return the job's id."""
    run = Run(home / "runs" / name)
    watch = Watch()
    try:
        with listed("retrain", RetrainRequest(config=CONFIG), watch) as told:
            (job,) = (each for each in store.find() if each.active)
            resumed = run.folder.exists()
            if not resumed:
                run.folder.mkdir(parents=True)
                paths.atomic_write(run.config, yaml.safe_dump(CONFIG.model_dump(mode="json")))
                inputs = {
                    "dataset": "d" * 16,
                    "rows": "r1",
                    "base_digest": "b" * 16,
                    "base": "smollm2:135m",
                    "seen": [SAID],
                }
                paths.write_json(run.inputs, {**inputs, "mark": None, "preferences": "p1"})
            told.tell(RunOpened(str(run.folder), resumed))
            told.tell(Planned((("what", SAID),)))
            told.tell(Note(f"skipped a damaged checkpoint: {SAID}"))
            for each in steps:
                told.tell(each)
            if raised:
                raise raised
            run.adapter.mkdir()
            run.report.write_text(f"<p>{SAID}</p>")
            paths.write_json(run.evaluation, EVALUATION)
            paths.write_json(
                run.manifest, {"version": 3, "tag": "fine_tuned_smollm2-135m:v3", "seconds": {"Training": 3.5}}
            )
            told.tell(
                Finished("refused", f"refused because of {SAID}", "fine_tuned_smollm2-135m:v3", ((SAID, SAID, SAID),))
            )
    except Cancelled:
        pass
    return job.id


def rows(home: Path, select: str) -> list[tuple[Any, ...]]:
    file = home / "mlflow" / "mlflow.db"
    if not file.exists():
        return []
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return connection.execute(select).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return []
    finally:
        connection.close()


def tracked(home: Path, id: str, state: str) -> None:
    """Wait until an ended job is in the store."""
    wanted = [(f"1 {state}",)]
    failed = lambda: "not tracked" in store.get(id).log.read_text()  # noqa: E731
    wait_for(lambda: failed() or rows(home, f"SELECT value FROM tags WHERE key = 'job.{id}'") == wanted, 120, "its tag")
    assert not failed(), store.get(id).log.read_text()


def held(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A data folder with one run that was stopped, gone on with by another job, and refused by the
    gate; and the jobs' ids.
    """
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("tracked")
        patch.setenv("BYOAI_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", "http://203.0.113.1:5000")  # of other programs: not ours to tell
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
        first = retrain(home, [step(number, 4.0 - number / 10) for number in (1, 2, 3, 4)], raised=Cancelled("stopped"))
        tracked(home, first, "cancelled")
        states = rows(home, "SELECT status FROM runs")
        assert states == [("KILLED",)]
        again = [step(number, 4.0 - number / 10) for number in (3, 4, 5, 6)]  # from the checkpoint at step 2
        second = retrain(home, [*again, step(1, 0.7, "preferences")])
        tracked(home, second, "completed")
        yield home, [first, second]


@with_mlflow
def test_a_run_is_one_run_also_where_two_jobs_made_it(history: tuple[Path, list[str]]) -> None:
    home, (first, second) = history
    ((status, name, start, end),) = rows(home, "SELECT status, name, start_time, end_time FROM runs")
    assert (status, name) == ("FINISHED", "20261128-120000-abcd1234") and end > start
    assert start == int(1000 * (store.get(first).begun or 0)) and end == int(1000 * (store.get(second).ended or 0))
    assert ("fine_tuned_smollm2-135m",) in rows(home, "SELECT name FROM experiments")


@with_mlflow
def test_each_step_of_its_curves_is_there_once(history: tuple[Path, list[str]]) -> None:
    curves = "SELECT step, value FROM metrics WHERE key = '{}' ORDER BY step"
    home, _ = history
    assert rows(home, curves.format("chats/loss")) == [
        (number, pytest.approx(4.0 - number / 10)) for number in range(1, 7)
    ]
    assert [number for number, _ in rows(home, curves.format("chats/validation_loss"))] == [2, 4, 6]
    assert rows(home, curves.format("chats/learning_rate"))[-1] == (6, pytest.approx(6e-4))
    assert rows(home, curves.format("chats/tokens_per_second"))[0] == (1, 250.0)
    assert rows(home, curves.format("preferences/loss")) == [(1, 0.7)]


@with_mlflow
def test_settings_hashes_figures_and_verdict_are_there(history: tuple[Path, list[str]]) -> None:
    home, _ = history
    params = dict(rows(home, "SELECT key, value FROM params"))
    assert (params["training.lora_r"], params["training.learning_rate"], params["gate.forgetting"]) == (
        "24",
        "0.0003",
        "0.05",
    )
    assert (params["dataset"], params["base.digest"], params["base.tag"]) == ("d" * 16, "b" * 16, "smollm2:135m")
    latest = dict(rows(home, "SELECT key, value FROM latest_metrics"))
    assert (latest["base/perplexity"], latest["tuned/perplexity"], latest["tuned/odd _metric_"]) == (20.5, 9.25, 1.0)
    assert (latest["own_perplexity_ratio/value"], latest["tuned/tokens_per_second"]) == (0.45, 40.0)
    tags = dict(rows(home, "SELECT key, value FROM tags"))
    assert (tags["gate"], tags["gate.own chats"], tags["gate.poison probe"], tags["gate.speed"]) == (
        "refused",
        "passed",
        "failed",
        "warned",
    )
    assert (tags["outcome"], tags["version"]) == ("refused", "fine_tuned_smollm2-135m:v3")
    run = Run(home / "runs" / "20261128-120000-abcd1234")
    assert (tags["report.html"], tags["adapter"]) == (str(run.report), str(run.adapter))
    (manifest,) = (home / "mlflow" / "artifacts").rglob("manifest.json")
    assert manifest.read_bytes() == run.manifest.read_bytes()


@with_mlflow
def test_no_byte_of_what_was_said_is_there_and_forgetting_leaves_the_store_as_it_is(
    history: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = history
    monkeypatch.setenv("BYOAI_HOME", str(home))
    log = ConversationLogger()
    log.log_conversation(f"Who said {SAID}?", "fine_tuned_smollm2-135m")  # an answer that is also a name in the store
    log.log_conversation("Is there tea in the kitchen?", "There is tea in the kitchen.")
    assert held(home / "runs", SAID) and held(home / "mlflow", "s3cr3t") == []
    assert held(home / "mlflow", "Zorbexine") == held(home / "mlflow", "orbexine 4711") == []
    before = (home / "mlflow" / "mlflow.db").read_bytes()
    engine = EmbeddedEngine(tmp_path / "engine")
    outcome = forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching="zorbexine 4711"), teach_again=False)
    assert outcome.left == () and (home / "mlflow" / "mlflow.db").read_bytes() == before


@with_mlflow
@pytest.mark.parametrize("broken", ["no database", "no folder"])
def test_a_store_that_cannot_be_used_is_one_line_in_the_log(home: Path, broken: str) -> None:
    folder = home / "mlflow"
    if broken == "no folder":
        folder.symlink_to("/proc/no/such")
    else:
        folder.mkdir()
        (folder / "mlflow.db").write_bytes(b"no database" * 1000)
    id = retrain(home, [step(1, 3.0)])
    wait_for(lambda: "not tracked" in store.get(id).log.read_text(), 60)
    time.sleep(0.5)
    job = store.get(id)
    assert job.state == State.COMPLETED and job.exit_code == 0
    assert len(job.log.read_text().splitlines()) == 1 and "cannot be used" in job.log.read_text()


@pytest.mark.parametrize("name", ["a?mode=memory", "50%20", "x#y"])
def test_a_folder_that_would_be_taken_for_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("BYOAI_HOME", str(tmp_path / name))
    with pytest.raises(ByoaiError, match="cannot open paths"):
        tracking.store_uri()


# Without it


def test_nothing_of_it_is_imported_and_no_process_begins_unless_it_is_wanted(home: Path) -> None:
    code = (
        "import sys, fine_tuning.jobs.worker, fine_tuning.cli.main as main; main.parser(); print('mlflow' "
        "in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    for mode in ("off", *(() if is_installed() else ("auto",))):
        config = FineTuningConfig(tracking={"mlflow": mode}).model_dump(mode="json")
        tracking.begin(store.add("retrain", {"config": config}, id=mode, here=this_process()))
        assert not store.get(mode).log.exists()


@pytest.mark.skipif(is_installed(), reason="the extra is installed")
def test_the_command_says_how_to_install_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mlflow"]) == 1
    said = capsys.readouterr().err
    assert "MLflow is not installed" in said and f"{sys.executable} -m pip install" in said and "[mlflow]" in said


def test_that_it_is_wanted_and_not_there_is_one_line_in_the_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_there", lambda package: False)
    id = retrain(home, [])
    assert store.get(id).state == State.COMPLETED
    (line,) = store.get(id).log.read_text().splitlines()
    assert line.startswith("not tracked: tracking.mlflow is on, and MLflow is not installed") and "pip install" in line


# What is taken


def test_every_setting_that_may_hold_a_text_is_left_out() -> None:
    secret = "Zorbexine"
    config = FineTuningConfig(
        evaluation={"test_prompts": [secret], "canaries": [secret]},
        dataset={"path": f"/data/{secret}.jsonl"},
        data_collection={"log_file": f"{secret}.jsonl"},
        deployment={"ollama_base_url": f"http://user:{secret}@host:1"},
        notify={"url": f"https://example.org/{secret}", "allow_hosts": ["example.org"], "command": ["tell", secret]},
    )
    found = parameters(
        config, {"dataset": "d1", "base": "b", "base_digest": "x", "seen": [secret], "mark": {"text": secret}}
    )
    assert secret not in json.dumps(found) and len(found) > 50
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(
    ("evaluation", "found"),
    [
        ({}, {}),
        ({"base": {"scores": {"bleu": 1}}, "live": None}, {"base/bleu": 1.0}),
        ({"live": {"scores": {"bleu": True, "chrf": "7", "rouge": None, "f1": 2.5}}}, {"live/f1": 2.5}),
        ({"speeds": {"candidate": {"load": 1.0}}}, {}),
        ({"general_perplexity_ratio": {"value": 1.1, "low": None}}, {"general_perplexity_ratio/value": 1.1}),
        ({"base": {"answers": [{"prompt": "p"}], "tokens": 5}}, {}),
    ],
)
def test_only_numbers_are_figures(evaluation: dict[str, Any], found: dict[str, float]) -> None:
    assert figures(evaluation) == found


# Its pages


def asked(port: int, path: str, host: str, origin: str = "", body: bytes | None = None) -> int:
    headers = {"Host": host, "Content-Type": "application/json", **({"Origin": origin} if origin else {})}
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="MLflow's pages are not installed (the extra byoai[mlflow])")
def test_its_pages_are_for_this_machine_and_this_address_only(home: Path) -> None:
    old = retrain(home, [step(1, 3.0)], name="20261128-110000-aaaa1111")
    tracked(home, old, "completed")
    (home / "mlflow" / "mlflow.db").unlink()  # as before the extra was installed: the store is made of what is there
    port = unused_port()
    command = [sys.executable, "-m", "fine_tuning", "mlflow", "--port", str(port), "--no-browser"]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
        "MLFLOW_HOST": "0.0.0.0",
    }
    shown = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=paths.REPOSITORY)
    try:
        assert shown.stdout
        wait_for(lambda: "MLflow is at" in shown.stdout.readline() or shown.poll() is not None, 120)  # type: ignore[union-attr]
        assert rows(home, "SELECT count(*) FROM metrics WHERE key = 'chats/loss'") == [(1,)]
        search = "/ajax-api/2.0/mlflow/experiments/search"
        for own in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert asked(port, "/", own) == asked(port, search, own, body=b'{"max_results": 5}') == 200
            assert asked(port, search, own, "http://evil.example", b'{"max_results": 5}') == 403
        for evil in (
            "evil",
            f"evil:{port}",
            "127.0.0.1",
            f"127.0.0.1.evil:{port}",
            "192.168.1.5",
            "10.0.0.1",
            f"[::1]:{port}",
            "0.0.0.0",
        ):
            for path in (
                "/",
                search,
                "/static-files/favicon.ico",
                "/ajax-api/3.0/mlflow/server-info",
                "/api/2.0/mlflow/runs/search",
            ):
                assert asked(port, path, evil) == 403, (evil, path)
        server = [each for each in connections() if each[0] == port]
        assert server == [(port, "127.0.0.1")]
    finally:
        shown.send_signal(signal.SIGTERM)
        assert shown.wait(30) == 130
    assert connections_of(port) == []


def connections() -> list[tuple[int, str]]:
    import psutil

    return [
        (each.laddr.port, each.laddr.ip) for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN
    ]


def connections_of(port: int) -> list[tuple[int, str]]:
    return [each for each in connections() if each[0] == port]


@with_mlflow
def test_of_a_run_that_was_removed_nothing_is_written(home: Path) -> None:
    job = store.add("retrain", {}, here=this_process())
    for name in ("config.yaml", "inputs.json"):
        (home / "runs" / name).mkdir(parents=True)
        (home / "runs" / name / name).write_text("{}")
    code = (
        "from dataclasses import replace; from fine_tuning.jobs import store; from fine_tuning.jobs.tracking import "
        "Tracker; "
        f"tracker, job = Tracker(), store.get({job.id!r}); "
        f"[tracker.track(replace(job, run={str(home / 'runs')!r} + name)) for name in ('/gone', '/config.yaml', "
        "'/inputs.json')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert rows(home, "SELECT * FROM runs") == []
