"""Versions: numbers given once, one live version, lineage both ways, and speed."""

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest
from timing import growth

from fine_tuning import paths, state
from fine_tuning.errors import ByoaiError, ModelNotFound
from fine_tuning.model_management.model_registry import Registry

NAME = "fine_tuned_smollm2-135m"
FORK = multiprocessing.get_context("fork")


def _add(registry: Registry, count: int, name: str = NAME) -> None:
    for _ in range(count):
        registry.add(name, registry.next_number(name))


def _states(registry: Registry, name: str = NAME) -> list[str]:
    return [version.state for version in registry.list(name)]


def test_a_version_comes_back_as_it_was_entered(registry: Registry) -> None:
    added = registry.add(
        NAME,
        registry.next_number(NAME),
        base_tag="smollm2:135m",
        base_digest="ab" * 32,
        run="runs/20260101-a",
        dataset="c0ffee",
        method="qlora",
        mode="adapter",
        metrics={"perplexity": {"base": 20.5, "tuned": 4.25}, "note": "ß 猫"},
        verdict="better",
        notes="first",
        turns=["t1", "t2", "t2"],
    )
    assert registry.get(NAME, 1) == added == registry.list()[0]
    assert (added.number, added.state, added.tag, added.pinned) == (1, "candidate", f"{NAME}:v1", False)
    assert added.metrics == {"perplexity": {"base": 20.5, "tuned": 4.25}, "note": "ß 猫"}
    assert registry.turns_of(NAME, 1) == {"t1", "t2"}


def test_numbers_are_never_given_twice_also_when_nothing_came_of_them(registry: Registry) -> None:
    assert [registry.next_number(NAME) for _ in range(3)] == [1, 2, 3]
    assert registry.next_number("another") == 1
    registry.add(NAME, 9)
    assert registry.next_number(NAME) == 10
    with pytest.raises(ByoaiError, match=r"cannot get a version 9, .*next_number"):
        registry.add(NAME, 9)
    with pytest.raises(ByoaiError, match="cannot get a version 0"):
        registry.add(NAME, 0)


def _reserve(times: int) -> None:
    registry = Registry()
    for _ in range(times):
        registry.add("shared", registry.next_number("shared"))


def test_processes_that_reserve_at_once_get_different_numbers(registry: Registry) -> None:
    processes = [FORK.Process(target=_reserve, args=(5,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [version.number for version in registry.list("shared")] == list(range(1, 21))


def test_promoting_makes_one_live_one_previous_and_retires_the_one_before(registry: Registry) -> None:
    _add(registry, 4)
    _add(registry, 1, "another")
    assert registry.live(NAME) is None and registry.previous(NAME) is None
    for number, states in (
        (1, ["live", "candidate", "candidate", "candidate"]),
        (2, ["previous", "live", "candidate", "candidate"]),
        (4, ["retired", "previous", "candidate", "live"]),
        (2, ["retired", "live", "candidate", "previous"]),
        (2, ["retired", "live", "candidate", "previous"]),  # again: no change
        (1, ["live", "previous", "candidate", "retired"]),
    ):
        assert registry.promote(NAME, number).state == "live"
        assert _states(registry) == states
    assert _states(registry, "another") == ["candidate"]


def test_an_unknown_version_is_named_with_those_that_there_are(registry: Registry) -> None:
    _add(registry, 2)
    for call in (registry.get, registry.promote, registry.update):
        with pytest.raises(ModelNotFound, match=f"{NAME} has no version 7. Its versions: v1, v2."):
            call(NAME, 7)
    with pytest.raises(ModelNotFound, match="none yet"):
        registry.get("nothing", 1)


@pytest.mark.parametrize("tag", [f"{NAME}:v2", f"{NAME}:latest", f"{NAME}:v3", NAME, "another:v2", ""])
def test_a_version_is_found_by_its_own_tag_alone(registry: Registry, tag: str) -> None:
    _add(registry, 2)
    _add(registry, 1, "another")
    found = registry.tagged(tag)
    assert (found == registry.get(NAME, 2)) if tag == f"{NAME}:v2" else found is None


def test_what_was_judged_can_change_and_what_it_was_made_of_cannot(registry: Registry) -> None:
    _add(registry, 1)
    changed = registry.update(
        NAME, 1, metrics={"bleu": 3.0}, verdict="forgot too much", pinned=True, notes="keep", labels=["warm", "ß"]
    )
    assert changed.labels == ("warm", "ß")
    assert (changed.metrics, changed.verdict, changed.pinned, changed.notes) == (
        {"bleu": 3.0},
        "forgot too much",
        True,
        "keep",
    )
    for forbidden in ("state", "base_digest"):
        with pytest.raises(ByoaiError, match=f"not {forbidden}"):
            registry.update(NAME, 1, **{forbidden: "x"})


def test_a_retired_version_is_neither_live_nor_kept(registry: Registry) -> None:
    _add(registry, 2)
    registry.promote(NAME, 1)
    registry.update(NAME, 1, pinned=True)
    retired = registry.retire(NAME, 1)
    assert (retired.state, retired.pinned) == ("retired", False)
    assert registry.live(NAME) is None
    assert registry.promote(NAME, 2).state == "live"
    with pytest.raises(ModelNotFound):
        registry.retire(NAME, 3)


def test_lineage_is_known_from_the_version_and_from_the_turn(registry: Registry) -> None:
    registry.add(NAME, 1, turns=["a", "b"])
    registry.add(NAME, 2, turns=["b", "c"])
    registry.add("another", 1, turns=["b", "z"])
    assert registry.turns_of(NAME, 2) == {"b", "c"}
    assert [(version.name, version.number) for version in registry.versions_of_turn("b")] == [
        ("another", 1),
        (NAME, 1),
        (NAME, 2),
    ]
    assert registry.versions_of_turn("never said") == ()


def test_what_a_version_only_read_is_not_learned_and_still_found(registry: Registry) -> None:
    registry.add(NAME, 1, turns=["a", "b"], context=["b", "not in the data"])
    assert registry.turns_of(NAME, 1) == {"a"} and registry.turns_of(NAME, 1, with_context=True) == {"a", "b"}
    assert registry.turn_counts() == {(NAME, 1): 1} and registry.versions_of_turn("b") == ()
    assert [each.number for each in registry.versions_of_turns(["b"], with_context=True)] == [1]


def test_a_failed_entry_leaves_nothing(registry: Registry) -> None:
    registry.add(NAME, 1, turns=["a"])
    with pytest.raises(ByoaiError):
        registry.add(NAME, 1, turns=["b"])
    assert registry.turns_of(NAME, 1) == {"a"}


def _die_in_promote(steps: int) -> None:
    """Ends the process after so many of SQLite's own steps (one every 15 instructions of its virtual machine)."""
    left = iter(range(steps))

    def step() -> int:
        if next(left, None) is None:
            os._exit(9)
        return 0

    connect = sqlite3.connect

    def counted(*arguments: object, **settings: object) -> sqlite3.Connection:
        connection = connect(*arguments, **settings)
        connection.set_progress_handler(step, 15)
        return connection

    sqlite3.connect = counted
    Registry().promote(NAME, 3)


def test_a_process_killed_while_promoting_leaves_the_old_or_the_new_state(registry: Registry) -> None:
    _add(registry, 3)
    registry.promote(NAME, 1)
    registry.promote(NAME, 2)
    seen = []
    for steps in range(1, 1000):
        process = FORK.Process(target=_die_in_promote, args=(steps,))
        process.start()
        process.join()
        seen.append(tuple(_states(registry)))
        if process.exitcode == 0:
            break
    assert process.exitcode == 0  # it got through in the end
    assert len(seen) > 10
    assert set(seen[:-1]) <= {("previous", "live", "candidate"), ("retired", "previous", "live")}
    assert seen[-1] == ("retired", "previous", "live")


def test_the_time_of_listing_grows_with_the_versions(registry: Registry) -> None:
    metrics = '{"perplexity": {"base": 20.5, "tuned": 4.25}, "accuracy": {"base": 0.4, "tuned": 0.8}}'
    rows = [(f"{NAME}{many}", number, metrics) for many in (100, 1000) for number in range(1, many + 1)]
    with state.connect() as connection, state.transaction(connection):
        connection.executemany(
            "INSERT INTO versions (name, number, base_tag, base_digest, run, dataset, method, mode, metrics, created)"
            " VALUES (?, ?, 'smollm2:135m', 'ab', 'runs/a', 'c0ffee', 'lora', 'adapter', ?, "
            "'2026-01-01T00:00:00+00:00')",
            rows,
        )
    assert len(registry.list(f"{NAME}1000")) == 1000
    assert growth(lambda many: registry.list(f"{NAME}{many}"), 100) <= 30


def test_the_registry_can_lie_elsewhere(tmp_path: Path, home: Path) -> None:
    Registry(tmp_path / "other.db").add(NAME, 1)
    assert not paths.state_db().exists()
