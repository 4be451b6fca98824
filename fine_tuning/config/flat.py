"""Convert the flat form of the configuration, `FineTuningConfig(model_id=..., epochs=3)`, to sections.

Errors in the values name the flat keys, as the caller wrote them.
"""

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

Place = tuple[str, str]  # section and key


def into_sections(
    values: Mapping[str, object], flat: Mapping[str, Place]
) -> tuple[dict[str, object], dict[Place, str]]:
    """Return the values in sections, and for each place that was given by a flat key, this key.

    `flat` maps each flat key to its place. Raises ValueError for a setting that is given twice.
    """
    sections = {key: value for key, value in values.items() if key not in flat}
    written: dict[Place, str] = {}
    for name, (section, key) in flat.items():
        if name not in values:
            continue
        there = sections.get(section) or {}
        there = there.model_dump(exclude_unset=True) if isinstance(there, BaseModel) else there
        if not isinstance(there, Mapping):
            continue  # not a section: the validation reports it
        if key in there:
            other = written.get((section, key), f"{section}.{key}")
            raise ValueError(f"{name} and {other} are the same setting: give only one of them")
        sections[section] = {**there, key: values[name]}
        written[(section, key)] = name
    return sections, written


def dotted(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """Yield each value of nested sections with its dotted key: `training.num_epochs`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{key}.")
        else:
            yield before + key, value


def as_written(error: ValidationError, written: Mapping[Place, str]) -> ValidationError:
    """Return a copy of `error` in which each fault names the key that the caller wrote.

    `written` is the second result of `into_sections`.
    """
    faults = []
    for fault in error.errors(include_url=False):
        place = tuple(map(str, fault["loc"][:2]))
        name = written.get((place[0], place[1])) if len(place) == 2 else None
        loc = (name, *fault["loc"][2:]) if name else fault["loc"]
        faults.append(InitErrorDetails(type=fault["type"], loc=loc, input=fault["input"], ctx=fault.get("ctx", {})))
    return ValidationError.from_exception_data(error.title, faults)
