"""Find turns that a version was trained on and that never were in the log.

The registry stores only the ids of the turns that a version was trained on. A turn that is not in
the log was either forgotten, or is from the shipped sample or a file that was learned instead of the
log or besides it. Such turns are read from the sample or the file.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_preparation.raw_data import read_turns
from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.planning import read_beside
from fine_tuning.runs import Run

SAMPLE = "the shipped sample"
_LARGEST = 32 << 20  # largest file, in bytes, that is read while a person waits


@dataclass(frozen=True)
class Elsewhere:
    """A turn that a version was trained on, but that comes from the shipped sample or a file instead of the log."""

    turn: Turn
    source: str  # for people: `the shipped sample`, or the file's name


def taught_elsewhere(log: ConversationLogger, registry: Registry, version: Version) -> list[Elsewhere]:
    """Return the turns of the sample or of files that a version was trained on.

    Files that no longer exist or are large are skipped.
    """
    taught = registry.turns_of(version.name, version.number)
    absent = taught - log.index.there(taught)
    if not absent:
        return []
    found = {each.turn.id: each for each in _sources(version, absent) if each.turn.id in absent}
    return list(found.values())


def _sources(version: Version, absent: Collection[str]) -> Iterator[Elsewhere]:
    sample = {turn.id: turn for turn in read_beside("sample")}
    yield from (Elsewhere(sample[id], SAMPLE) for id in absent if id in sample)
    run = run_of(version)
    if run is None or not Run(run).config.exists() or all(id in sample for id in absent):
        return
    try:
        config = load_config(Run(run).config)
    except ByoaiError:  # such as a configuration of an older byoai
        return
    yield from _of_files(config)


def _of_files(config: FineTuningConfig) -> Iterator[Elsewhere]:
    """Yield the turns of the files that a run learned. Missing, unreadable and large files are skipped."""
    dataset = config.dataset
    names = [str(dataset.path)] if dataset.path else [name for name in config.mix.also if name != "sample"]
    for file in (Path(name).expanduser() for name in names):
        try:
            if not file.is_file() or file.stat().st_size > _LARGEST:
                continue
            turns = read_turns(file, dataset.format) if dataset.path else read_beside(str(file))
        except (ByoaiError, OSError):
            continue
        yield from (Elsewhere(turn, file.name) for turn in turns)
