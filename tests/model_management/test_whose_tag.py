"""A tag that byoai did not make is never written over and never deleted, whatever it is called. On both engines."""

from pathlib import Path

import pytest
from served import BASE, digests, make_version, write_adapter

from fine_tuning import paths
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.errors import ModelNotFound, ModelNotOurs
from fine_tuning.model_management.model_deployer import check_name, go_live, reconcile, register
from fine_tuning.model_management.model_pruner import prune
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.model_switcher import rollback, step_down, use


def test_a_free_name_and_one_of_our_own_are_taken(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    check_name(engine, registry, name, BASE)
    for number in (1, 2):
        make_version(engine, registry, name, home)
        check_name(engine, registry, name, BASE)
        go_live(engine, registry, name, number)
        check_name(engine, registry, name, BASE)
    rollback(engine, registry, name)
    check_name(engine, registry, name, BASE)


@pytest.mark.parametrize("end", ["latest", "v1", "LATEST", "V1"])
def test_the_name_of_the_base_itself_is_refused(engine: Engine, name: str, registry: Registry, end: str) -> None:
    with pytest.raises(ModelNotOurs, match="the same name as its base"):
        check_name(engine, registry, name, f"{name}:{end}")


def test_a_latest_that_somebody_else_made_is_never_written(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    engine.create(f"{name}:latest", ModelSpec(from_=BASE, parameters={"seed": 5}))
    before = digests(engine)
    with pytest.raises(ModelNotOurs, match=rf"{name}:latest is not a version that byoai made.*deployment\.model_name"):
        check_name(engine, registry, name, BASE)
    make_version(engine, registry, name, home)
    for act in (lambda: use(engine, registry, name, 1), lambda: go_live(engine, registry, name, 1)):
        with pytest.raises(ModelNotOurs):
            act()
    with pytest.raises(ModelNotFound):
        rollback(engine, registry, name)
    step_down(engine, registry, name)
    assert {tag: digest for tag, digest in digests(engine).items() if tag != f"{name}:v1"} == before


def test_a_latest_in_place_of_the_live_version_stops_a_retrain(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.create(f"{name}:latest", ModelSpec(from_=BASE, parameters={"seed": 5}))
    with pytest.raises(ModelNotOurs, match="would be overwritten"):
        check_name(engine, registry, name, BASE)
    use(engine, registry, name, 1)
    check_name(engine, registry, name, BASE)


def test_a_live_version_that_lost_its_tag_and_its_run_stops_nothing(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    version = make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.delete(version.tag)
    (home / version.run / "Modelfile").unlink()
    check_name(engine, registry, name, BASE)


def test_a_version_tag_that_somebody_else_made_is_neither_written_nor_removed(
    engine: Engine, name: str, registry: Registry, home: Path, tmp_path: Path
) -> None:
    for number in (1, 3):
        engine.create(f"{name}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number}))
    engine.copy(f"{name}:v3", f"{name}:latest")
    before = digests(engine)
    reconcile(engine, registry, name)
    assert [(version.number, version.made_here) for version in registry.list(name)] == [(1, False), (3, False)]
    check_name(engine, registry, name, BASE)
    assert make_version(engine, registry, name, home).number == 4
    go_live(engine, registry, name, 4)
    assert prune(engine, registry, name, home / "runs") == []
    with pytest.raises(ModelNotFound, match="not recorded which version was live"):
        registry.retire(name, 3)
        rollback(engine, registry, name)
    use(engine, registry, name, 1)
    after = digests(engine)
    assert {tag: after[tag] for tag in (f"{name}:v1", f"{name}:v3")} == {
        tag: before[tag] for tag in (f"{name}:v1", f"{name}:v3")
    }


def test_what_was_only_found_and_is_live_is_not_taken_down_by_a_rollback(
    engine: Engine, name: str, registry: Registry
) -> None:
    engine.create(f"{name}:v1", ModelSpec(from_=BASE, parameters={"seed": 1}))
    engine.copy(f"{name}:v1", f"{name}:latest")
    before = digests(engine)
    with pytest.raises(ModelNotFound, match="not recorded which version was live"):
        rollback(engine, registry, name)
    assert digests(engine) == before


def test_a_lost_registry_knows_again_what_its_runs_made(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for number in (1, 2, 3):
        version = make_version(engine, registry, name, home)
        if number < 3:
            paths.write_json(home / version.run / "manifest.json", {"version": number, "tag": version.tag})
    (home / version.run / "manifest.json").write_text("{dam")
    go_live(engine, registry, name, 2)
    paths.state_db().unlink()
    reconcile(engine, registry, name)
    assert [version.made_here for version in registry.list(name)] == [True, True, False]
    assert [each.version.number for each in prune(engine, registry, name, home / "runs") if each.version] == [1]
    assert f"{name}:v1" not in digests(engine) and f"{name}:v3" in digests(engine)


@pytest.mark.engine
def test_ollama_takes_a_name_in_any_case_and_so_does_the_check(
    ollama_url: str, base_gguf: Path, registry: Registry, tmp_path: Path
) -> None:
    from fine_tuning.engines.ollama import OllamaEngine

    engine, name = OllamaEngine(ollama_url), "fine_tuned_deploycase"
    engine.create(BASE, ModelSpec(from_=base_gguf))
    engine.create(name.upper() + ":LATEST", ModelSpec(from_=BASE))
    before = digests(engine)
    try:
        with pytest.raises(ModelNotOurs, match="is taken by a model that byoai did not make"):
            check_name(engine, registry, name, BASE)
        engine.copy(BASE, name.upper() + ":V1")
        with pytest.raises(ModelNotOurs, match="is taken"):
            register(engine, f"{name}:v1", ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / "one.gguf", 1)))
        assert {tag: digests(engine)[tag] for tag in before} == before
    finally:
        for tag in digests(engine).keys() - {BASE}:
            if tag.lower().startswith(name):
                engine.delete(tag)
