"""Filter and transform a user's own dataset step by step, and write the result for training.

A step is one of:
{"type": "filter", "condition": "length > 10"}        keep the records that meet the condition (conditions.py)
{"type": "transform", "operation": "lowercase"}       change all texts by one of OPERATIONS; only questions or
                                                      answers with "field": "question" or "answer"
{"type": "deduplicate"}                               keep the first of equal records
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import DatasetFormat
from fine_tuning.data_preparation.conditions import read_condition
from fine_tuning.data_preparation.dataset_builder import hash_of
from fine_tuning.data_preparation.formatter import TrainingDataFormatter
from fine_tuning.data_preparation.raw_data import Record, read_records, texts_of
from fine_tuning.errors import ConfigError, NoConversations
from fine_tuning.events import Watch

Step = Callable[[Iterable[Record]], Iterator[Record]]

OPERATIONS: dict[str, Callable[[str], str]] = {
    "lowercase": str.lower,
    "uppercase": str.upper,
    "strip": str.strip,
    "collapse_whitespace": lambda text: " ".join(text.split()),
    "strip_html": lambda text: re.sub(r"<[^<>]{1,200}>", "", text),
}
_KEYS = {"filter": {"condition"}, "transform": {"operation", "field"}, "deduplicate": set[str]()}
_ROLES = {"question": "user", "answer": "assistant"}
_WRITTEN = (DatasetFormat.JSONL, DatasetFormat.CHATML, DatasetFormat.ALPACA, DatasetFormat.INSTRUCTION)


def prepare(
    source: str | Path,
    format: DatasetFormat | str,
    output_format: DatasetFormat | str = DatasetFormat.JSONL,
    steps: Sequence[Mapping[str, object]] = (),
    target: Path | None = None,
    watch: Watch | None = None,
) -> Path:
    """Read a dataset, apply the steps, and write the result; return the file.

    Args:
        source: The dataset: a file, a folder or a name, see raw_data.py.
        format: The format of `source`. For the format custom, the code that `source` names is run.
        output_format: The format of the result: jsonl, chatml, alpaca or instruction.
        steps: The steps, in order.
        target: The file to write; by default a file in data/prepared/, named by a hash of its content.
        watch: Can stop the work.

    Raises ConfigError with the number of an invalid step, DataError for a record that cannot be
    read, NoConversations if no record is left, and Cancelled, without writing anything, if `watch`
    asks to stop.
    """
    read_as, write_as = (_known(each) for each in (format, output_format))
    if write_as not in _WRITTEN:
        raise ConfigError(f"a prepared dataset cannot be written as {write_as}: choose one of {', '.join(_WRITTEN)}")
    records: Iterable[Record] = _stoppable(read_records(source, read_as, trusted=True), watch or Watch())
    for step in check_steps(steps):
        records = step(records)
    found = [record for record in records if texts_of(record)["text"].strip()]
    if not found:
        raise NoConversations(
            f"nothing is left of {source}, because it is empty or the steps remove everything: check the file and the "
            "steps"
        )
    lines = [json.dumps(line, ensure_ascii=False) for line in _written(found, write_as)]
    stem = paths.slug(Path(str(source)).stem, 40)
    file = target or paths.prepared_dir() / f"{stem}-{hash_of(lines)[:12]}.jsonl"
    paths.atomic_write(file, "\n".join(lines) + "\n")
    return file


def check_steps(steps: Sequence[Mapping[str, object]]) -> list[Step]:
    """Return for each step a function that applies it to records.

    Raises ConfigError with the number of an invalid step.
    """
    return [_step(number, step) for number, step in enumerate(steps, 1)]


def _stoppable(records: Iterable[Record], watch: Watch) -> Iterator[Record]:
    for record in records:
        watch.stop_if_asked()
        yield record


def _known(name: DatasetFormat | str) -> DatasetFormat:
    try:
        return DatasetFormat(name)
    except ValueError:
        raise ConfigError(f"unknown dataset format {name!r}: choose one of {', '.join(DatasetFormat)}") from None


def _written(records: Sequence[Record], format: DatasetFormat) -> list[Any]:
    if format in (DatasetFormat.JSONL, DatasetFormat.CHATML):
        return list(records)
    pairs = [record for record in records if "messages" in record]
    return TrainingDataFormatter(DatasetFormat.CHATML).convert(pairs, format)


def _step(number: int, step: Mapping[str, object]) -> Step:
    kind = step.get("type") if isinstance(step, Mapping) else None
    if kind not in _KEYS:
        raise ConfigError(f"step {number}: its type is {kind!r}, but must be one of {', '.join(_KEYS)}")
    if unknown := set(step) - _KEYS[kind] - {"type"}:
        raise ConfigError(
            f"step {number} ({kind}): unknown key {', '.join(sorted(map(str, unknown)))}: leave it out. The keys of "
            f"such a step are {', '.join(['type', *sorted(_KEYS[kind])])}"
        )
    try:
        return {"filter": _filter, "transform": _transform, "deduplicate": _deduplicate}[kind](step)
    except ConfigError as error:
        raise ConfigError(f"step {number} ({kind}): {error}") from error


def _filter(step: Mapping[str, Any]) -> Step:
    condition = read_condition(step.get("condition", ""))
    return lambda records: (record for record in records if condition(texts_of(record)))


def _transform(step: Mapping[str, object]) -> Step:
    name, field = step.get("operation"), step.get("field")
    if name not in OPERATIONS:
        raise ConfigError(f"unknown operation {name!r}: choose one of {', '.join(OPERATIONS)}")
    if field not in (None, "text", *_ROLES):
        raise ConfigError(f"unknown field {field!r}: choose one of {', '.join(_ROLES)}, or leave it out for all")
    change = OPERATIONS[name]

    def changed(record: Record) -> Record:
        if "messages" not in record:
            return {**record, "text": change(record["text"])}
        role = _ROLES.get(str(field))
        said = [
            {**message, "content": change(message["content"])} if role in (None, message["role"]) else message
            for message in record["messages"]
        ]
        return {**record, "messages": said}

    return lambda records: (changed(record) for record in records)


def _deduplicate(step: Mapping[str, object]) -> Step:
    def once(records: Iterable[Record]) -> Iterator[Record]:
        seen: set[str] = set()
        for record in records:
            if (told := json.dumps(record, sort_keys=True)) not in seen:
                seen.add(told)
                yield record

    return once
