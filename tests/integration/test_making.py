"""Versions made of versions, as a page asks for them: what can be made of which, and what a measured one says."""

import json
from pathlib import Path

import pytest

from fine_tuning.config import FineTuningConfig
from fine_tuning.integration import making
from fine_tuning.integration.service import Service
from fine_tuning.jobs import store
from fine_tuning.jobs.kinds import read_request
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Registry, Version

NAME = "fine_tuned_smollm2-135m"
FOUND = {
    "tag": f"{NAME}:v1",
    "table": [
        {"name": "now", "size": 98_000_000, "faster": 1.0, "worse": {"value": 1.0}},
        {"name": "f16", "size": 270_000_000, "faster": 0.61, "worse": {"value": 0.9999}},
        {"name": "q4_0", "size": 80_000_000, "faster": 1.134, "worse": {"value": 1.0084}},
    ],
    "texts": 20,
    "recommended": "q4_0",
    "why": "q4_0: the smallest that stays within 1% of the perplexity now.",
}


def version(home: Path, number: int, base: str = "b1", *, adapter: bool = True) -> Version:
    folder = home / "runs" / str(number) / "adapter"
    folder.mkdir(parents=True)
    if adapter:
        (folder / "adapter_config.json").write_text("{}")
    return Registry().add(NAME, number, run=f"runs/{number}", base_digest=base)


@pytest.fixture
def service(home: Path) -> Service:
    """Something heavy runs: what is asked for waits."""
    store.add("retrain", {}, here=this_process(), detached=True)
    return Service(FineTuningConfig())


def measured(one: Version) -> Job:
    """A job of this process that has measured a version."""
    job = store.add("quantise", {"version": one.number, "name": one.name}, here=this_process())
    job.folder.mkdir(parents=True, exist_ok=True)
    job.result.write_text(json.dumps(FOUND))
    store.finish(job, State.COMPLETED, "done", 0)
    return store.get(job.id)


def test_only_adapters_on_the_very_same_base_can_be_combined(home: Path) -> None:
    one = version(home, 1)
    version(home, 2, base="b2")
    version(home, 3, adapter=False)
    version(home, 4)
    gone = version(home, 5)
    Registry().retire(NAME, 5)
    adopted = Registry().add(NAME, 6)
    assert [each.number for each in making.partners(Registry(), one)] == [4]
    assert making.partners(Registry(), adopted) == []
    assert making.can_be_made_smaller(one)
    assert not making.can_be_made_smaller(Registry().get(NAME, gone.number)) and not making.can_be_made_smaller(adopted)


def test_what_is_asked_for_is_a_job_that_is_found_again_by_its_version(home: Path, service: Service) -> None:
    one, two = version(home, 1), version(home, 2)
    assert making.measuring(service, one) is None and making.combining(service, one) is None
    asked = making.measure(service, one, "a page")
    smaller = making.make_smaller(service, one, "q4_0", "a page")
    combined = making.combine(service, [(one, 1.0), (two, 0.5)], "ties", "a page")
    assert making.measuring(service, one) == asked and making.shrinking(service, one) == smaller
    assert making.combining(service, one) == combined
    assert making.measuring(service, two) is None and making.combining(service, two) is None
    for job in (asked, smaller, combined):
        assert read_request(job.kind, job.request)
    assert [(part["version"], part["weight"]) for part in combined.request["parts"]] == [(1, 1.0), (2, 0.5)]


def test_a_measured_version_is_told_in_plain_figures_with_the_recommended_form_first(
    home: Path, service: Service
) -> None:
    one = version(home, 1)
    assert making.forms(making.measure(service, one, "a page")) is None
    measured(one)
    found = making.forms(making.measuring(service, one))
    assert found and found.smaller == ["q4_0"] and found.why == FOUND["why"]
    now, f16, small = found.table
    assert (now.speed, now.quality) == ("as it is", "as it is")
    assert (f16.speed, f16.quality) == ("0.61 times as fast", "none")
    assert (small.size, small.speed, small.quality) == ("80.0 MB", "1.13 times as fast", "0.8 %")
