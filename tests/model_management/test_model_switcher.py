"""Switching: what can answer, which version is live, to any version and one step back. On both engines."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import BASE, digests, make_version

from fine_tuning.engines.base import Engine
from fine_tuning.errors import ExportError, ModelNotFound
from fine_tuning.model_management.model_deployer import TRIAL, reconcile
from fine_tuning.model_management.model_registry import Registry, latest_tag
from fine_tuning.model_management.model_switcher import Choice, choices, live, rollback, use, versions


def _make(engine: Engine, registry: Registry, name: str, home: Path, count: int) -> None:
    for _ in range(count):
        make_version(engine, registry, name, home)


def _states(registry: Registry, name: str) -> list[str]:
    return [version.state for version in registry.list(name)]


def test_versions_come_in_the_order_of_their_numbers(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    assert versions(engine, name) == [] and live(engine, name) is None
    _make(engine, registry, name, home, 1)
    for number in (2, 10, 9):
        engine.copy(f"{name}:v1", f"{name}:v{number}")
    for other in ("v0", "v02", "vx", "draft"):
        engine.copy(BASE, f"{name}:{other}")
    assert [version.number for version in versions(engine, name)] == [1, 2, 9, 10]
    assert [version.tag for version in versions(engine, name) if version.live] == []


def test_use_moves_latest_and_nothing_else(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    _make(engine, registry, name, home, 2)
    made = digests(engine)
    for number in (1, 2, 1):
        assert use(engine, registry, name, number).number == number
        assert live(engine, name) == number
        assert digests(engine) == {**made, f"{name}:latest": made[f"{name}:v{number}"]}
    assert _states(registry, name) == ["live", "previous"]


def test_switches_at_the_same_time_all_succeed_and_agree(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 3)
    with ThreadPoolExecutor(6) as threads:
        switched = list(threads.map(lambda number: use(engine, registry, name, number).number, [1, 2, 3] * 8))
    now = registry.live(name)
    assert switched == [1, 2, 3] * 8 and now and now.number == live(engine, name)


def test_use_makes_a_removed_version_again_from_its_run(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 2)
    use(engine, registry, name, 1)
    made = digests(engine)[f"{name}:v2"]
    engine.delete(f"{name}:v2")
    use(engine, registry, name, 2)
    assert digests(engine)[f"{name}:v2"] == digests(engine)[f"{name}:latest"] == made


def test_use_of_a_version_that_is_gone_for_good_changes_nothing(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 1)
    use(engine, registry, name, 1)
    registry.add(name, 2, run="runs/never")
    with pytest.raises(ExportError, match=rf"cannot make {name}:v2 again: cannot read .*Modelfile"):
        use(engine, registry, name, 2)
    with pytest.raises(ModelNotFound, match="has no version 3"):
        use(engine, registry, name, 3)
    assert live(engine, name) == 1
    assert _states(registry, name) == ["live", "candidate"]


def test_rollback_is_one_step_and_is_taken_back_by_another(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 3)
    with pytest.raises(ModelNotFound, match="nothing to go back from"):
        rollback(engine, registry, name)
    for number in (1, 2, 3):
        use(engine, registry, name, number)
    before = digests(engine)
    back = rollback(engine, registry, name)
    changed = [tag for tag, digest in digests(engine).items() if before.get(tag) != digest]
    assert changed == [latest_tag(name)]  # a name is moved, and nothing is made anew
    assert back and back.number == live(engine, name) == 2
    again = rollback(engine, registry, name)
    assert again and again.number == live(engine, name) == 3


def test_from_the_first_version_a_rollback_goes_to_the_base(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 1)
    use(engine, registry, name, 1)
    assert rollback(engine, registry, name) is None
    assert live(engine, name) is None and latest_tag(name) not in {model.tag for model in engine.list_models()}
    assert reconcile(engine, registry, name) == []  # nobody puts it back
    again = rollback(engine, registry, name)
    assert again and again.number == live(engine, name) == 1


def test_equal_versions_count_as_the_newest(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    for _ in range(2):
        make_version(engine, registry, name, home, seed=1)
    use(engine, registry, name, 1)
    assert live(engine, name) == 2
    assert [choice.live for choice in choices(engine) if choice.name == name] == [True, False]


def test_choices_are_the_bases_and_every_version_newest_first(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 2)
    engine.copy(f"{name}:v1", f"{name}:v3{TRIAL}")
    use(engine, registry, name, 1)
    found = choices(engine)
    assert [choice for choice in found if choice.name == name] == [
        Choice(tag=f"{name}:v2", label=f"{name} v2", kind="fine_tuned", live=False, name=name, number=2),
        Choice(tag=f"{name}:v1", label=f"{name} v1 (live)", kind="fine_tuned", live=True, name=name, number=1),
    ]
    assert Choice(tag=BASE, label=BASE, kind="base") in found
    assert not any(TRIAL in choice.tag for choice in found)
    kinds = [choice.kind for choice in found]
    assert kinds == sorted(kinds)  # bases first


def test_a_latest_that_is_no_version_can_still_be_chosen(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    _make(engine, registry, name, home, 1)
    engine.copy(BASE, f"{name}:latest")
    assert [(choice.tag, choice.label, choice.live) for choice in choices(engine) if choice.name == name] == [
        (f"{name}:latest", f"{name} (live)", True),
        (f"{name}:v1", f"{name} v1", False),
    ]


def test_the_prefix_of_fine_tuned_names_can_be_another(engine: Engine, name: str) -> None:
    engine.copy(BASE, f"deploy-{name}:v1")
    engine.copy(BASE, f"deploy-{name}:latest")
    tuned = [choice for choice in choices(engine, prefix="deploy-fine") if choice.kind == "fine_tuned"]
    assert [choice.label for choice in tuned] == [f"deploy-{name} v1 (live)"]
    plain = {choice.tag: choice.label for choice in choices(engine) if choice.kind == "base"}
    assert plain[f"deploy-{name}:latest"] == f"deploy-{name}"
