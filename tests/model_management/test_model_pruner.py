"""Old versions go, with all that was theirs; what answers, or may be wanted again, stays. On both engines."""

from pathlib import Path

from served import digests, make_version

from fine_tuning import paths
from fine_tuning.engines.base import Engine
from fine_tuning.model_management import model_switcher
from fine_tuning.model_management.model_deployer import go_live, reconcile
from fine_tuning.model_management.model_pruner import prune
from fine_tuning.model_management.model_registry import Registry


def _five(engine: Engine, registry: Registry, name: str, home: Path) -> Path:
    """Versions 1 retired, 2 previous, 3 live, 4 pinned, 5 candidate; the folder of their runs."""
    for number in range(1, 6):
        version = make_version(engine, registry, name, home)
        paths.write_json(home / version.run / "manifest.json", {"version": number})
        if number < 4:
            go_live(engine, registry, name, number)
    registry.update(name, 4, pinned=True)
    return home / "runs"


def _runs(runs: Path) -> list[str]:
    return sorted(run.name.rpartition("-")[2] for run in runs.iterdir())


def test_the_live_the_previous_and_the_pinned_version_stay_and_all_others_go(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    runs = _five(engine, registry, name, home)
    before = digests(engine)
    expected = {
        number: 2 * (run / "adapter.gguf").stat().st_size for number in (1, 5) if (run := runs / f"{name}-{number}")
    }
    found = prune(engine, registry, name, runs)
    assert [each.version.number for each in found if each.version] == [1, 5]
    for each in found:
        assert each.version and each.bytes > expected[each.version.number]
    assert digests(engine) == {tag: digest for tag, digest in before.items() if tag not in (f"{name}:v1", f"{name}:v5")}
    assert _runs(runs) == ["2", "3", "4"]
    assert [version.state for version in registry.list(name)] == ["retired", "previous", "live", "candidate", "retired"]
    assert model_switcher.rollback(engine, registry, name).number == 2
    assert reconcile(engine, registry, name) == []
    assert prune(engine, registry, name, runs) == []


def test_a_dry_run_names_the_same_and_removes_nothing(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    runs = _five(engine, registry, name, home)
    before, versions = digests(engine), registry.list(name)
    planned = prune(engine, registry, name, runs, dry_run=True)
    assert (digests(engine), registry.list(name), _runs(runs)) == (before, versions, ["1", "2", "3", "4", "5"])
    assert [each.run for each in prune(engine, registry, name, runs)] == [each.run for each in planned]


def test_an_interrupted_prune_is_finished_by_the_next(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    runs = _five(engine, registry, name, home)
    registry.retire(name, 5)  # as after a kill right behind the registry's step
    engine.delete(f"{name}:v1")  # and as after one behind the engine's
    prune(engine, registry, name, runs)
    assert _runs(runs) == ["2", "3", "4"]
    assert not {f"{name}:v1", f"{name}:v5"} & digests(engine).keys()


def test_only_unfinished_runs_that_no_retrain_would_go_on_with_are_removed(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for run, finished in (("1-old", False), ("2-done", True), ("3-new", False)):
        (home / "runs" / run).mkdir(parents=True)
        if finished:
            paths.write_json(home / "runs" / run / "manifest.json", {})
    assert [each.run.name for each in prune(engine, registry, name, home / "runs") if each.run] == ["1-old"]
    assert _runs(home / "runs") == ["done", "new"]


def test_a_run_outside_of_the_data_folder_is_never_removed(
    engine: Engine, name: str, registry: Registry, home: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    registry.add(name, 1, run=str(outside))
    registry.add(name, 2, run="..")
    registry.add(name, 3, run=".")
    assert prune(engine, registry, name, home / "runs") == []
    assert outside.exists() and home.exists()


def test_after_an_interrupted_promotion_what_answers_stays_and_is_gone_back_from(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    runs = _five(engine, registry, name, home)
    engine.copy(f"{name}:v5", f"{name}:latest")  # killed before the registry's step: for it, 3 is live and 2 was before
    assert 5 not in [each.version.number for each in prune(engine, registry, name, runs, dry_run=True) if each.version]
    assert model_switcher.rollback(engine, registry, name).number == 3
