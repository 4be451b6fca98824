"""What is forgotten is gone: from every byte of the data folder, and from every model that learned it."""

import contextlib
import gzip
import hashlib
import html
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fine_tuning import forgetting, paths
from fine_tuning.cli.main import main
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import DataExporter, exporting
from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.data_collection.log.chat_labels import labels, set_label
from fine_tuning.data_preparation.dataset_builder import build_dataset
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import Busy, DataError
from fine_tuning.events import Watch
from fine_tuning.forgetting import examine, forget
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.modelfile import modelfile_text
from fine_tuning.outcome import NothingToDo
from fine_tuning.runs import only_one

BASE = "smollm2:135m"
CONFIG = FineTuningConfig()
NAME = CONFIG.tuned_name()
SECRET = 'Zorbexine-"4711" für Ümlaut'
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Engine:
    engine = EmbeddedEngine(tmp_path_factory.mktemp("engine"))
    engine.create(BASE, ModelSpec(from_=base_gguf))
    return engine


@pytest.fixture(autouse=True)
def no_versions(engine: Engine) -> Iterator[None]:
    yield
    remove_versions(engine)


def remove_versions(engine: Engine) -> None:
    for model in engine.list_models():
        if model.tag.startswith("fine_tuned"):
            engine.delete(model.tag)


def tags(engine: Engine) -> set[str]:
    return {model.tag for model in engine.list_models()} - {BASE}


def make_version(engine: Engine, home: Path, number: int, turns: list[str]) -> Path:
    """A version that learned `turns`, and its run with all that a run holds. The base under another
    setting stands for its weights.
    """
    run = home / "runs" / f"run-{number}"
    (run / "checkpoints").mkdir(parents=True)
    spec = ModelSpec(from_=BASE, parameters={"seed": number})
    (run / "Modelfile").write_text(modelfile_text(spec, run), encoding="utf-8")
    paths.write_json(run / "inputs.json", {"seen": turns})
    paths.write_json(run / "manifest.json", {"version": number})
    Registry().add(NAME, number, run=str(run.relative_to(home)), turns=turns)
    engine.create(f"{NAME}:v{number}", spec)
    return run


def fill(engine: Engine, home: Path) -> tuple[ConversationLogger, dict[str, str]]:
    """A data folder with the secret wherever one can get to; the ids of its turns, by what they are."""
    log = ConversationLogger()
    ids = {"clean": log.log_conversation("Where is the printer?", "The printer is upstairs.").id}
    log.new_session()
    ids["asked"] = log.log_conversation(f"My word is {SECRET}, keep it.", "I will keep that word.").id
    ids["edited"] = log.log_conversation("What is it again?", "I do not know.").id
    log.edit(ids["edited"], f"It is {SECRET.upper()}.")
    log.edit(ids["edited"], "It is a secret, and stays one.")
    with log.path.open("ab") as file:
        file.write(b'{"id": "half", "session_id": "s", "user_message": ' + json.dumps(SECRET).encode() + b"\n")
    log.turns()  # sets the damaged line aside
    other = ConversationLogger("before.jsonl")
    ids["other log"] = other.log_conversation("And in the old log?", f"There it is {SECRET}, too.").id
    build_dataset(log.conversations(), CONFIG.data_preparation)
    DataExporter().export_all_formats(log.conversations())

    make_version(engine, home, 1, [ids["clean"]])
    learned = make_version(engine, home, 2, [ids["clean"], ids["asked"]])
    for name in ("evaluation.json", "checkpoints/rows.jsonl", "preferences.jsonl"):
        (learned / name).write_text(json.dumps({"answer": SECRET}))
    unfinished = home / "runs" / "run-3"
    unfinished.mkdir()
    paths.write_json(unfinished / "inputs.json", {"seen": list(ids.values()), "text": SECRET})
    (home / "runs" / "run-1" / "evaluation.json").write_text(
        json.dumps({"answer": f"They say {SECRET} here.", "score": 1.5})
    )
    (home / "report.html").write_text("<p>" + html.escape(SECRET) + "</p>")
    (home / "old.log.gz").write_bytes(gzip.compress(SECRET.encode()))
    (home / "conversations" / ".conversations.jsonl.abcdefgh").write_text(SECRET)
    for number in (1, 2):
        go_live(engine, Registry(), NAME, number)
    Registry().update(NAME, 1, verdict=f"leaks {SECRET}", notes="short")
    Registry().update(NAME, 1, metrics={"answer": SECRET, "perplexity": 2.5})
    set_label(log.session_id, title=f"About {SECRET}", folder=SECRET)
    set_label(log.index.turns([ids["clean"]])[0].session_id, title=f"Not {SECRET}", folder="Work")
    return log, ids


def holding(home: Path, text: str = "orbexine") -> list[str]:
    """Files that hold a piece of the secret that no way of writing changes but for its case."""
    found = []
    for path in sorted(home.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if text.encode() in content.lower():
            found.append(str(path.relative_to(home)))
    return found


def test_no_byte_of_it_is_left_anywhere_and_the_rest_stays(engine: Engine, home: Path) -> None:
    log, ids = fill(engine, home)
    assert len(holding(home)) >= 14  # the test looks where it is
    case = examine(CONFIG, engine, matching=SECRET.lower())
    assert set(case.turns) == {ids["asked"], ids["edited"], ids["other log"]}
    assert [version.number for version in case.versions] == [2]
    outcome = forget(CONFIG, engine, Watch(), case, teach_again=False)
    assert holding(home) == []
    assert outcome.left == ()
    assert [turn.id for turn in log.turns()] == [ids["clean"]]
    assert log.deleted_ids() == {ids["asked"], ids["edited"]}
    assert [json.loads(line)["id"] for line in (home / "exports" / "conversations.jsonl").read_text().splitlines()] == [
        ids["clean"]
    ]
    assert json.loads((home / "runs" / "run-1" / "evaluation.json").read_text())["score"] == 1.5
    (label,) = labels().values()
    assert label.folder == "Work" and label.title.startswith("Not ")
    version = Registry().get(NAME, 1)
    assert (version.notes, version.metrics["perplexity"]) == ("short", 2.5)
    assert "leaks" in version.verdict
    assert not (home / "runs" / "run-2").exists() and not (home / "runs" / "run-3").exists()
    assert not list((home / "datasets").iterdir())
    assert not (home / "forgetting.json").exists()


def test_an_export_that_read_the_log_before_keeps_nothing(engine: Engine, home: Path) -> None:
    log, _ = fill(engine, home)
    case = examine(CONFIG, engine, matching=SECRET.lower())
    with ThreadPoolExecutor() as pool:
        with exporting():
            said = log.conversations()
            forgetting_it = pool.submit(forget, CONFIG, engine, Watch(), case, teach_again=False)
            wait([forgetting_it], timeout=1)
            DataExporter().export(said, ["jsonl", "sharegpt.csv"])
            DataExporter(home / "mine").export(said, ["jsonl"])
        assert forgetting_it.result().left == ()
    assert holding(home) == [] and (home / "exports" / "conversations.jsonl").exists()


def test_nothing_is_removed_while_an_export_takes_long(
    engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = fill(engine, home)
    case = examine(CONFIG, engine, matching=SECRET.lower())
    monkeypatch.setattr(paths, "_PATIENCE", 0.1)
    with exporting(), ThreadPoolExecutor() as pool, pytest.raises(Busy, match="try again"):
        pool.submit(forget, CONFIG, engine, Watch(), case, teach_again=False).result()
    assert log.find("Zorbexine")
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=SECRET.lower()), teach_again=False)
    assert holding(home) == []


def test_copies_of_exports_are_redacted(engine: Engine, home: Path) -> None:
    log, _ = fill(engine, home)
    DataExporter().export(log.conversations(), ["jsonl"])
    (home / "exports" / "mine.jsonl").write_bytes((home / "exports" / "conversations.jsonl").read_bytes())
    assert (
        forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=SECRET.lower()), teach_again=False).left == ()
    )
    assert holding(home) == [] and (home / "exports" / "mine.jsonl").exists()


@pytest.mark.parametrize("brackets", [400, 5000])
def test_no_text_in_the_database_stops_it(engine: Engine, home: Path, brackets: int) -> None:
    """A note of many brackets looks like JSON that is nested too deeply to be read."""
    log = ConversationLogger()
    own = log.log_conversation("What is it called?", f"It is called {SECRET}.").id
    make_version(engine, home, 1, ["another"])
    note = "[" * brackets + f'"{SECRET}"' + "]" * brackets
    Registry().update(NAME, 1, notes=note)
    (home / "deep.json").write_text(note)
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, own, matching="orbexine"), teach_again=False)
    assert holding(home) == [] and Registry().get(NAME, 1).notes.startswith("[" * brackets)


def test_a_source_is_forgotten_as_a_whole(engine: Engine, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ConversationLogger()
    own = log.log_conversation("Where is the printer?", "The printer is upstairs.").id
    letters = home.parent / "letters.jsonl"
    said = [{"prompt": f"Orbexine letter number {n}?", "completion": f"It says orbexine {n}."} for n in range(5)]
    letters.write_text("".join(json.dumps(each) + "\n" for each in said))
    import_files(log, [letters], Wanted(licence="private"))
    log.exclude(log.turns()[-1].id)
    build_dataset(log.conversations(), CONFIG.data_preparation)
    DataExporter().export(log.conversations(), ["jsonl", "alpaca.csv"])
    make_version(engine, home, 1, [own])
    assert len(holding(home)) >= 4
    case = examine(CONFIG, engine, source="letters.jsonl")
    assert len(case.turns) == 5
    forget(CONFIG, engine, Watch(), case, teach_again=False)
    assert holding(home) == [] and [turn.id for turn in log.turns(include_excluded=True)] == [own]
    assert main(["forget", "--source", "letters.jsonl", "--yes"]) == 3
    assert "no turn was imported from 'letters.jsonl'" in capsys.readouterr().err


def test_the_version_before_answers_if_it_never_learned_it(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    outcome = forget(CONFIG, engine, Watch(), examine(CONFIG, engine, ids["asked"]), teach_again=False)
    assert outcome.retired == (f"{NAME}:v2",)
    assert tags(engine) == {f"{NAME}:v1", f"{NAME}:latest"}
    live = Registry().live(NAME)
    assert live and live.number == 1
    assert Registry().get(NAME, 2).state == "retired"


def test_the_base_answers_if_every_version_learned_it(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, ids["clean"]), teach_again=False)
    assert tags(engine) == set()
    assert Registry().live(NAME) is None


def test_a_version_of_which_nobody_knows_what_taught_it_goes_too(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    engine.create(f"{NAME}:v7", ModelSpec(from_=BASE, parameters={"seed": 7}))
    Registry().add(NAME, 7, notes="found in the engine")
    assert [version.number for version in examine(CONFIG, engine, ids["asked"]).versions] == [2, 7]


def test_a_version_that_only_read_it_as_context_goes_too(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    Registry().add(NAME, 7, turns=[ids["edited"], ids["clean"]], context=[ids["edited"]])
    engine.create(f"{NAME}:v7", ModelSpec(from_=BASE, parameters={"seed": 7}))
    assert [version.number for version in examine(CONFIG, engine, ids["edited"]).versions] == [7]


def test_what_no_version_learned_is_forgotten_without_a_training(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    before = tags(engine)
    outcome = forget(CONFIG, engine, Watch(), examine(CONFIG, engine, ids["edited"]))
    assert (outcome.version, outcome.retired, tags(engine)) == ("", (), before)


def test_a_session_is_forgotten_as_a_whole(engine: Engine, home: Path) -> None:
    log, ids = fill(engine, home)
    session = next(turn.session_id for turn in log.turns() if turn.id == ids["asked"])
    assert set(examine(CONFIG, engine, session).turns) == {ids["asked"], ids["edited"]}


@pytest.mark.parametrize(
    ("wanted", "matching", "said"),
    [("nobody", None, "no turn or session"), (None, "a ", "too short"), (None, None, "name the turn")],
)
def test_what_is_not_there_or_would_hit_all_is_refused(
    engine: Engine, home: Path, wanted: str, matching: str, said: str
) -> None:
    fill(engine, home)
    with pytest.raises(DataError, match=said):
        examine(CONFIG, engine, *filter(None, [wanted]), matching=matching)


def test_nothing_is_forgotten_while_a_retrain_runs(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    case = examine(CONFIG, engine, ids["asked"])
    with only_one(), pytest.raises(Busy):
        forget(CONFIG, engine, Watch(), case, teach_again=False)
    assert not (home / "forgetting.json").exists() and holding(home)


@pytest.mark.parametrize("word", ["Ada", "model", "live", "smollm2", "adapter", "passed", "user"])
def test_a_word_that_also_names_fields_models_or_states_is_forgotten_without_harm(
    engine: Engine, home: Path, word: str
) -> None:
    log, ids = fill(engine, home)
    kept = log.log_conversation("Is there tea?", "There is.", {"model": "smollm2:135m"}).id
    asked = log.log_conversation(f"Who said {word}?", "Nobody did.").id
    Registry().update(NAME, 1, metrics={"passed": True, "perplexity": 2.5, "answer": f"{word} it was."})
    names = ("Modelfile", "manifest.json", "inputs.json")
    before = [(home / "runs" / "run-1" / name).read_bytes() for name in names]
    outcome = forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=word), teach_again=False)
    assert outcome.left == ()
    assert {turn.id for turn in log.turns()} == {*ids.values(), kept} - {asked, ids["other log"]}
    version = Registry().get(NAME, 1)
    assert (version.metrics["passed"], version.metrics["perplexity"]) == (True, 2.5)
    assert version.metrics["answer"] == "*" * len(word) + " it was."
    assert [(home / "runs" / "run-1" / name).read_bytes() for name in names] == before
    assert Registry().live(NAME) is not None


def test_all_answers_to_a_forgotten_turns_question_go_with_it(engine: Engine, home: Path) -> None:
    log = ConversationLogger()
    first = log.log_conversation("Where does the aunt live?", "In the sea.").id
    second = log.log_conversation("Where does the aunt live?", "In Kiel.", {"regenerates": first}).id
    other = log.log_conversation("Is there tea?", "There is.").id
    assert set(examine(CONFIG, engine, second).turns) == {first, second}
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, second), teach_again=False)
    assert [turn.id for turn in log.turns()] == [other]


def test_runs_without_a_version_and_what_a_killed_registration_left_go_too(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    run = home / "runs" / "run-4"
    (run / "adapter").mkdir(parents=True)
    paths.write_json(run / "inputs.json", {"seen": {ids["asked"]: "1234"}})
    paths.write_json(run / "manifest.json", {"version": None})
    engine.create(f"{NAME}:v2.trial", ModelSpec(from_=BASE, parameters={"seed": 9}))
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=SECRET), teach_again=False)
    assert not run.exists()
    assert tags(engine) == {f"{NAME}:v1", f"{NAME}:latest"}


def test_a_version_that_only_the_engine_knows_goes_too(engine: Engine, home: Path) -> None:
    _, ids = fill(engine, home)
    engine.create(f"{NAME}:v9", ModelSpec(from_=BASE, parameters={"seed": 9}))
    assert [version.number for version in examine(CONFIG, engine, ids["asked"]).versions] == [2, 9]


def test_a_version_without_it_that_was_put_live_by_hand_ends_the_forgetting(
    engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a retrain that the gate refused: nothing has to be learned once more."""
    _, ids = fill(engine, home)
    monkeypatch.setattr(forgetting, "retrain", lambda *arguments: NothingToDo("as it is"))
    assert forget(CONFIG, engine, Watch(), examine(CONFIG, engine, ids["asked"])).unfinished
    make_version(engine, home, 3, [ids["clean"]])
    go_live(engine, Registry(), NAME, 3)
    monkeypatch.setattr(forgetting, "retrain", lambda *arguments: pytest.fail("trained once more"))
    outcome = forget(CONFIG, engine, Watch(), examine(CONFIG, engine))
    assert (outcome.unfinished, outcome.version, outcome.retired) == ("", f"{NAME}:v3", (f"{NAME}:v2",))
    assert not (home / "forgetting.json").exists()


def test_the_command_shows_asks_and_says_what_is_left(
    engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, ids = fill(engine, home)
    monkeypatch.setattr("fine_tuning.engines.connect.connect", lambda url, config: engine)
    assert main(["forget", "--matching", "zorbexine", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert ids["asked"] in said and f"{NAME}:v2 (live)" in said
    assert holding(home)
    assert main(["forget", ids["asked"]]) == 2  # nobody to be asked
    assert "--yes" in capsys.readouterr().err
    assert main(["lineage", ids["asked"]]) == 0
    assert f"{NAME}:v2 (live)" in capsys.readouterr().out
    assert main(["forget", "--matching", "zorbexine", "--yes", "--no-retrain"]) == 0
    assert "nothing of it is left" in capsys.readouterr().out
    assert holding(home) == []
    assert main(["lineage", "--version", "1"]) == 0
    assert "Where is the printer?" in capsys.readouterr().out


def _lines(each: Any) -> Any:
    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != forgetting.__file__:
            return None
        if event == "line":
            each(frame.f_lineno)
        return trace

    return trace


def _on_disk(*folders: Path) -> str:
    """Return a fingerprint of all that stands in files; the base's weights count by their size."""
    found = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if not path.name.endswith("-shm")):
        found.update(str(path).encode())
        if path.is_file():
            size = path.stat().st_size
            found.update(path.read_bytes() if size < 10_000_000 else str(size).encode())
    return found.hexdigest()


def _forget_until(line: int, where: str) -> None:
    engine = EmbeddedEngine(Path(where))
    sys.settrace(_lines(lambda reached: os._exit(9) if reached == line else None))
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=SECRET), teach_again=False)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_line_the_next_call_forgets_the_rest(engine: Engine, home: Path) -> None:
    fill(engine, home)
    kept = home.with_name("kept")
    shutil.copytree(home, kept)  # to be filled once
    reached: dict[int, str] = {}  # what is on the disk when a line is come to
    sys.settrace(_lines(lambda line: reached.setdefault(line, _on_disk(home, Path(engine.where)))))
    forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=SECRET), teach_again=False)
    sys.settrace(None)
    assert len(reached) > 40
    # two lines between which nothing was written are the same to whoever is killed there
    moments = [next(same)[0] for _, same in itertools.groupby(reached.items(), key=lambda each: each[1])]
    assert len(moments) > 10
    for line in moments:
        shutil.rmtree(home)
        shutil.copytree(kept, home)
        remove_versions(engine)
        for number in (1, 2):
            engine.create(f"{NAME}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number}))
        engine.copy(f"{NAME}:v2", f"{NAME}:latest")
        child = FORK.Process(target=_forget_until, args=(line, engine.where))
        child.start()
        child.join()
        assert child.exitcode == 9
        with contextlib.suppress(DataError):  # nothing to go on with: it was killed at its last line
            text = SECRET if ConversationLogger().find(SECRET) else None
            forget(CONFIG, engine, Watch(), examine(CONFIG, engine, matching=text), teach_again=False)
        assert holding(home) == [], f"killed at line {line}"
        assert tags(engine) == {f"{NAME}:v1", f"{NAME}:latest"}
        assert not (home / "forgetting.json").exists()
