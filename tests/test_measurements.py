"""What was measured is kept, however many measure at once."""

from functools import partial
from pathlib import Path

from at_once import at_once

from fine_tuning import measurements


def test_of_several_that_measure_at_once_each_is_kept(home: Path) -> None:
    names = [f"speed {number}" for number in range(5)]
    at_once([partial(measurements.keep, name, {"tokens": len(name)}) for name in names])
    assert [measurements.recall(name) for name in names] == [{"tokens": len(name)} for name in names]
