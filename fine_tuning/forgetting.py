"""Delete turns permanently (`byoai forget`): from all files, together with the models trained on them.

The order of the steps lets the next call complete a deletion that a crash interrupted:

1. write the ids (never the texts) of the turns to data/forgetting.json, which is deleted after the
   last step;
2. remove their texts from datasets, uploads, unfinished trainings, runs, exports, state.db, and any
   other file in the data folder;
3. remove the turns from the log, and compact it;
4. train a new version from the base without the turns; then remove the versions that were trained on
   them, with their tags and weights.
"""

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fine_tuning import paths, state
from fine_tuning.branches import Tree
from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import conversations_of
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import DataExporter, exporting
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.redaction import (
    Pattern,
    holds,
    pattern,
    redact,
    redact_text,
    redact_value,
    search,
)
from fine_tuning.data_collection.upload_texts import uploads_holding
from fine_tuning.data_preparation.dataset_builder import delete_datasets_of
from fine_tuning.data_preparation.mixing import source_of
from fine_tuning.engines.base import Engine
from fine_tuning.errors import DataError, NoConversations, TooLittleData, TurnNotFound
from fine_tuning.events import Watch
from fine_tuning.json_values import parse_json
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_pruner import remove_version, run_of
from fine_tuning.model_management.model_registry import TEXTS, Registry, Version, latest_tag
from fine_tuning.model_management.model_switcher import step_down, use
from fine_tuning.outcome import NewVersion
from fine_tuning.pipeline import retrain
from fine_tuning.profiles import for_documents
from fine_tuning.runs import Run, all_runs, only_one
from fine_tuning.units import counted
from fine_tuning.workshop import Request

_TEXTS = {**TEXTS, **state.JOB_TEXTS, **chat_labels.TEXTS}
_SHORTEST = 3  # minimum characters of a text to search for: a shorter one occurs nearly everywhere
# minimum characters of a question or answer that is searched for in all files: "Yes." identifies nobody
_TELLING = 12


@dataclass(frozen=True)
class Case:
    """The turns to forget, and the versions affected."""

    turns: tuple[str, ...]  # ids
    texts: frozenset[str]  # the texts that identify the turns (`_telling`), and the text given to --matching
    versions: tuple[Version, ...]  # versions trained on one of the turns, or on unknown data
    said: dict[str, str]  # the questions of the turns that are still in the log, by the turn's id


@dataclass(frozen=True)
class Forgotten:
    """The result of `forget`: what was removed, what was made in its place, and what remains."""

    case: Case
    left: tuple[Path, ...]  # files that still contain the text
    version: str = ""  # the tag of the new version trained without the turns
    retired: tuple[str, ...] = ()  # tags of the removed versions
    # tags of versions that may be trained on the turns but were not removed, since byoai may not have made them
    strangers: tuple[str, ...] = ()
    unfinished: str = ""  # why the versions trained on the turns still exist; "" if they were removed


def examine(
    config: FineTuningConfig, engine: Engine, *wanted: str, matching: str | None = None, source: str | None = None
) -> Case:
    """Return the turns that `forget` would delete, and the versions that it would remove.

    `wanted`: ids of turns or of sessions. `matching`: a text; all turns that contain it are chosen
    too. `source`: the name of a source; all turns that were imported from it are chosen too. The
    turns of an interrupted call are always included. Raises TurnNotFound for an unknown id or
    source, and DataError if `matching` is too short or nothing is chosen.
    """
    log, started = ConversationLogger(config.log_path), _started()
    chosen = set(started)
    if matching is not None:
        if len("".join(matching.split())) < _SHORTEST:
            raise DataError(
                f"{matching!r} is too short to search for, since nearly everything would be forgotten: give a longer "
                "text"
            )
        chosen |= {id for each in _logs(config) for id in each.find(matching)}
    if source is not None:
        found = _of_source(_logs(config), source)
        if not found and not started:
            raise TurnNotFound(f"no turn was imported from {source!r}: `byoai import --list` shows the names")
        chosen |= found
    turns = [turn for each in _logs(config) for turn in each.turns(include_excluded=True)] if wanted else []
    questions = [answers for session in conversations_of(turns) for answers in Tree(session.turns).questions()]
    deleted = log.deleted_ids()
    for id in wanted:
        # All answers to a question are deleted together, or the question would remain with a hidden answer.
        together = [answers for answers in questions if any(id in (turn.id, turn.session_id) for turn in answers)]
        named = {turn.id for answers in together for turn in answers} | ({id} & deleted)
        if not named and not started:  # an interrupted call may have removed the turn already
            raise TurnNotFound(f"{log.path} has no turn or session {id!r}: --matching TEXT searches for what was said")
        chosen |= named
    if not wanted and matching is None and source is None and not started:
        raise DataError(
            "there is no stopped `forget` to continue: name the turn or session to forget, or use --matching TEXT or "
            "--source NAME"
        )
    reconcile(
        engine, Registry(), config.tuned_name()
    )  # a version unknown to the registry may have been trained on the turns
    texts = _telling(_logs(config), chosen) | ({matching} if matching else set())
    said = {
        turn.id: turn.user_message
        for log in _logs(config)
        for turn in log.turns(include_excluded=True)
        if turn.id in chosen
    }
    return Case(tuple(sorted(chosen)), frozenset(texts), learners(engine, chosen), said)


def _of_source(logs: Collection[ConversationLogger], source: str) -> set[str]:
    """Return the ids of all turns that were imported from `source`, excluded ones included."""
    turns = (turn for log in logs for turn in log.turns(include_excluded=True))
    return {turn.id for turn in turns if "source" in turn.metadata and source_of(turn) == source}


def held_elsewhere(config: FineTuningConfig, case: Case) -> list[Path]:
    """Return the files in the data folder, apart from the turns in the logs, that contain a text of `case`.

    `forget` would redact or remove these files.
    """
    logs = _logs(config)
    uploaded = [upload.content for upload in uploads_holding(case.texts, _imports_of(logs, case))]
    if (wanted := pattern(case.texts)) is None:
        return uploaded
    damaged = [log.path for log in logs if log.has_damaged(wanted)]
    database = [paths.state_db()] if _told_in_database(wanted) else []
    skipped = _without_sayings(config, logs)
    return [
        *damaged,
        *database,
        *uploaded,
        *(path for path in search(paths.home(), wanted, skipped) if path not in damaged),
    ]


def _told_in_database(wanted: Pattern) -> bool:
    if not paths.state_db().exists():
        return False
    with state.connect() as connection:
        columns = [(table, column) for table, names in _TEXTS.items() for column in names]
        texts = (row[0] for table, column in columns for row in connection.execute(f'SELECT "{column}" FROM "{table}"'))
        return any(isinstance(text, str) and holds(text, wanted) for text in texts)


def learners(engine: Engine, turns: Collection[str]) -> tuple[Version, ...]:
    """Return the versions that were trained on one of the turns, or whose training data is unknown.

    Versions of which neither a tag nor a run remains are left out.
    """
    registry, tags = Registry(), {model.tag for model in engine.list_models()}
    trained = registry.versions_of_turns(turns, with_context=True)
    learned = {(version.name, version.number) for version in trained}

    def may_have(version: Version) -> bool:
        return (version.name, version.number) in learned or not registry.turns_of(
            version.name, version.number, with_context=True
        )

    def is_there(version: Version) -> bool:
        run = run_of(version)
        return version.state != "retired" or version.tag in tags or bool(run and run.exists())

    return tuple(version for version in registry.list() if turns and is_there(version) and may_have(version))


def forget(
    config: FineTuningConfig, engine: Engine, watch: Watch, case: Case, *, teach_again: bool = True, now: bool = False
) -> Forgotten:
    """Delete the turns of `case` permanently, and the versions that were trained on them.

    With `teach_again`, a new version is trained without the turns. The old versions are removed
    once it is live. They are removed at once with `now`, without `teach_again`, or if too little
    training data is left; then the previous version becomes live if it was not trained on the
    turns, else the base is in use again. Raises Busy while a retrain runs, and the errors of
    `retrain`; after an error, the next call completes the deletion.
    """
    with only_one():
        paths.write_json(_journal(), list(case.turns))
        left = _erase(config, watch, case)
    at_once, made, why = now or not teach_again, "", ""
    if at_once:
        _retire(engine, watch, case.versions)
    if case.versions and teach_again and not (made := _made_without(config, case)):
        made, why = _teach_again(config, engine, watch)
    if not at_once:
        if why:
            return Forgotten(case, left, unfinished=why)
        _retire(engine, watch, case.versions)
    _journal().unlink()
    retired = tuple(version.tag for version in case.versions if version.made_here)
    return Forgotten(
        case, left, made, retired, tuple(version.tag for version in case.versions if not version.made_here)
    )


# Texts


def _erase(config: FineTuningConfig, watch: Watch, case: Case) -> tuple[Path, ...]:
    """Remove the turns and their texts from the data folder; return the files that still contain a text.

    The log is cleaned last, since after an interruption the next call takes the texts to search for
    from it.
    """
    exporter, logs, wanted = DataExporter(), _logs(config), pattern(case.texts)
    with exporting():  # an export that has read the log is finished first, and the next one waits
        formats = exporter.exported()
        _erase_copies(config, watch, case, logs, wanted)
        with watch.stage("Removing it from the log"):
            gone = sum(log.forget(case.turns, wanted) for log in logs)
            watch.note(counted(gone, "turn"))
        again = ConversationLogger(config.log_path).conversations() if formats else []
        exported = exporter.export(again, formats).values() if formats else ()
    told = {log.path for log in logs for text in case.texts if log.find(text)}
    skipped = [*_without_sayings(config, logs), *exported]
    return tuple(sorted(told | set(search(paths.home(), wanted, skipped)))) if wanted else ()


def _erase_copies(
    config: FineTuningConfig, watch: Watch, case: Case, logs: Collection[ConversationLogger], wanted: Pattern | None
) -> None:
    """Remove the turns and their texts from the data folder, except from the log."""
    with watch.stage("Removing it from datasets, runs and exports"):
        datasets = delete_datasets_of(case.turns)
        runs = _clean_runs(config, case)
        exports = DataExporter().remove()
        uploaded = uploads_holding(case.texts, _imports_of(logs, case))
        for upload in uploaded:
            uploads.remove(upload.id)
        removed = f", of the uploads: {', '.join(upload.name for upload in uploaded)}" * bool(uploaded)
        watch.note(
            f"removed: {counted(len(datasets), 'dataset')}, the texts of {counted(runs, 'run')}, "
            f"{counted(len(exports), 'export')}{removed}"
        )
        if wanted:
            _redact_all(config, wanted, logs)


def _imports_of(logs: Collection[ConversationLogger], case: Case) -> set[str]:
    """Return the ids of the imports that added turns of `case` to the log."""
    turns = [turn for log in logs for turn in log.turns(include_excluded=True) if turn.id in case.turns]
    return {str(turn.metadata["import"]) for turn in turns if "import" in turn.metadata}


def _clean_runs(config: FineTuningConfig, case: Case) -> int:
    """Remove the files of runs that may contain texts of the turns; return the number of runs changed.

    In a run whose version was trained on the turns, only the files needed to serve the version are
    kept. A run that read the turns and has no version is removed completely.
    """
    learned = {folder for version in case.versions if (folder := run_of(version))}
    registered = {folder for version in Registry().list() if (folder := run_of(version))}
    cleaned = 0
    for run in (Run(found.folder.resolve()) for found in all_runs(config.runs_dir)):
        if run.folder not in registered and _knows(run, case.turns):  # unfinished, or its method makes no version
            shutil.rmtree(run.folder)
        elif run.folder in learned:
            for each in run.folder.iterdir():
                if each not in run.serving():
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
        else:
            continue
        cleaned += 1
    return cleaned


def _knows(run: Run, turns: Collection[str]) -> bool:
    """Return whether a run read one of the turns from the log; True if the run has no record of its turns."""
    return not run.inputs.exists() or not set(turns).isdisjoint(paths.read_json(run.inputs)["seen"])


def _redact_all(config: FineTuningConfig, wanted: Pattern, logs: Collection[ConversationLogger]) -> None:
    if paths.state_db().exists():
        state.rewrite_texts(lambda text: _redact_column(text, wanted), _TEXTS)
    quarantines = [log.path.with_name(log.path.name + ".damaged") for log in logs]
    datasets = paths.datasets_dir().resolve()
    for path in search(paths.home(), wanted, [*_without_sayings(config, logs), *quarantines]):
        if datasets in path.resolve().parents:  # a dataset is rebuilt when it is needed
            shutil.rmtree(datasets / path.resolve().relative_to(datasets).parts[0], ignore_errors=True)
        elif path.exists():
            redact(path, wanted)


def _redact_column(text: str, wanted: Pattern) -> str:
    """Return the text of a database column, which is JSON or plain text, redacted.

    It is returned unchanged if there is nothing to redact.
    """
    try:
        value = parse_json(text)
        cleaned = redact_value(value, wanted)
    except (ValueError, RecursionError):  # plain text, even if it begins with a thousand brackets
        return redact_text(text, wanted)
    return text if cleaned == value else json.dumps(cleaned)


def _without_sayings(config: FineTuningConfig, logs: Collection[ConversationLogger]) -> list[Path]:
    """Return the files and folders of the data folder that need not be searched for texts.

    They contain no texts of chats, or are searched in another way (logs, uploads, state.db).
    """
    database = paths.state_db()
    of_database = [database.with_name(database.name + ending) for ending in ("", "-wal", "-shm")]
    of_runs = [file for run in config.runs_dir.glob("*") for file in Run(run).serving()]
    own = [paths.engine_dir(), paths.uploads_dir(), paths.tracking_dir()]
    return [*own, *of_database, *of_runs, *(log.path for log in logs)]


def _telling(logs: Collection[ConversationLogger], turns: Collection[str]) -> set[str]:
    """Return the questions and answers of `turns` (ids) that identify them.

    These have at least `_TELLING` characters, and occur in no other turn.
    """
    said = {text for log in logs for text in log.said(turns)}
    elsewhere = {
        text for log in logs for text in log.said({turn.id for turn in log.turns(include_excluded=True)} - set(turns))
    }
    return {text for text in said - elsewhere if len(text) >= _TELLING}


def _logs(config: FineTuningConfig) -> list[ConversationLogger]:
    """Return the configured log first, then all other logs in the folder of logs.

    The others were used with an earlier configuration, or were moved aside. Files that are not logs
    are skipped.
    """
    log = ConversationLogger(config.log_path)
    others = {paths.real(path) for path in paths.conversations_dir().glob("*.jsonl")} - {log.path}
    inside = [ConversationLogger(path) for path in sorted(others) if path.is_relative_to(paths.real(paths.home()))]
    return [log, *(each for each in inside if _is_log(each))]


def _is_log(logger: ConversationLogger) -> bool:
    try:
        logger.check()
    except DataError:
        return False
    return True


def _journal() -> Path:
    return paths.home() / "forgetting.json"


def _started() -> list[str]:
    """Return the ids of the turns of an interrupted deletion; [] if there is none."""
    return [str(turn) for turn in paths.read_json(_journal())] if _journal().exists() else []


# Versions


def _made_without(config: FineTuningConfig, case: Case) -> str:
    """Return the live version's tag if it is newer than every version of `case`; else "".

    Such a version was trained by an earlier call without the turns, and the user made it live.
    """
    live = Registry().live(config.tuned_name())
    return live.tag if live and live.number > max(version.number for version in case.versions) else ""


def _teach_again(config: FineTuningConfig, engine: Engine, watch: Watch) -> tuple[str, str]:
    """Train a new version on what is left after the turns were erased; return (tag, reason).

    If the new version is live, this is (its tag, ""); else ("", why no new version is live). If
    too little training data is left, `watch` gets a note, and both are "".
    """
    # It need not be better than the live version, which is removed anyway.
    config = for_documents(config).changed({"gate.better": False})
    try:
        outcome = retrain(config, engine, watch, Request(force=True))
    except (NoConversations, TooLittleData) as error:
        watch.note(
            f"too little is left to train on ({error}), so no new version is made; the versions that learned the text "
            "are removed now"
        )
        return "", ""
    if not isinstance(outcome, NewVersion):
        return "", f"no new version was made ({outcome.reason})"
    return (outcome.tag, "") if outcome.live else ("", f"{outcome.tag} was made, but did not go live")


def _retire(engine: Engine, watch: Watch, versions: Collection[Version]) -> None:
    """Remove the versions that byoai made, and mark the others as retired.

    If one of them is live, the previous version becomes live. If there is no previous version, or
    it is removed too, the base is in use again.
    """
    registry = Registry()
    gone = {(version.name, version.number) for version in versions}
    for name in {version.name for version in versions}:
        reconcile(engine, registry, name)
        live, previous = registry.live(name), registry.previous(name)
        if live is None or (name, live.number) not in gone:
            continue
        if previous and (name, previous.number) not in gone:
            watch.note(f"{use(engine, registry, name, previous.number).tag} is in use again")
        else:
            step_down(engine, registry, name)
            watch.note(f"{latest_tag(name)} was removed: the base model is used again")
    for version in versions:
        if version.made_here:
            remove_version(engine, registry, version)
            watch.note(f"{version.tag} was removed")
        else:
            registry.retire(version.name, version.number)
