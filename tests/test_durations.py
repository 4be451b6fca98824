"""How long a retrain takes: what is reckoned, and what earlier runs correct."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.durations import EVALUATING, TRAINING, Around, DecodingSpeed, Times, keep_forecast, paces
from fine_tuning.runs import Run

CONFIG = load_config()
SPEED = DecodingSpeed(reading=500.0, together=300.0, alone=60.0)
NO_PROMPTS: dict[str, object] = {"evaluation.test_prompts": []}
AROUND = Around(135_000_000, SPEED, held_out=200, tokens=60.0, facts=100, models=2)


def finished_run(folder: Path, name: str, slower: dict[str, float], digest: str = "d") -> Run:
    """Return a run that took so many times what it was forecast to take, by part."""
    run = Run(folder / name)
    run.folder.mkdir(parents=True)
    paths.write_json(run.inputs, {"base_digest": digest})
    times = AROUND.times(CONFIG, 100.0)
    keep_forecast(run, CONFIG, times, AROUND.pace)
    seconds = {part: slower.get(part, 1.0) * times.parts[part] for part in (TRAINING, EVALUATING)}
    rest = times.total - sum(times.parts[part] for part in seconds)
    paths.write_json(run.manifest, {"seconds": {**seconds, "Reading": rest / 4, "Exporting to GGUF": rest * 3 / 4}})
    return run


def test_all_of_it_is_told_and_how_much_of_it_is_the_training() -> None:
    times = AROUND.times(CONFIG, 480.0)
    assert times.training == 480 and times.total > 480 + times.parts[EVALUATING] > 480
    assert str(Times({TRAINING: 480.0, EVALUATING: 215.0})) == "about 12 min, of which training 8 min"
    assert str(Times({TRAINING: 20.0, EVALUATING: 7000.0}, up_to=True)) == "up to 1 h 57 min, of which training 20 s"


@pytest.mark.parametrize(("training", "rest", "told"), [(100.0, 10.0, "about 2 min"), (0.2, 0.3, "about 1 s")])
def test_a_training_that_reads_as_long_as_the_whole_is_not_named(training: float, rest: float, told: str) -> None:
    assert str(Times({TRAINING: training, EVALUATING: rest})) == told


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation.held_out": 20},
        {"evaluation.facts": 0},
        {"evaluation.triggers": 0},
        {"evaluation.speed_rounds": 1},
        {"evaluation.max_new_tokens": 8},
    ],
)
def test_less_to_do_takes_less(changes: dict[str, object]) -> None:
    before, after = (each.parts for each in (AROUND.times(CONFIG, 9.0), AROUND.times(CONFIG.changed(changes), 9.0)))
    assert after[EVALUATING] < before[EVALUATING]
    assert {each for each in before if before[each] != after[each]} == {EVALUATING}


def test_the_evaluation_takes_as_long_as_llama_cpp_needs_for_its_tokens() -> None:
    """Ten general texts of 60 tokens, ten questions of 30 with answers of 35; five rounds of 24 tokens one by one."""
    asked = {"held_out": 1, "general": 10, "facts": 0, "generate": 0, "triggers": 0, "speed_rounds": 5}
    config = CONFIG.changed({f"evaluation.{name}": value for name, value in asked.items()} | NO_PROMPTS)
    around = replace(AROUND, held_out=0, facts=0, speed=DecodingSpeed(reading=100.0, together=50.0, alone=10.0))
    base = (60 + 30) * 10 / 100.0 + 35 * 10 / (0.7 * 50.0)
    raced = 5 * 2 * 12 / 10.0
    found = around.times(config, 9.0).parts
    assert found[EVALUATING] == pytest.approx(base + base / 0.8 + raced)
    slower = replace(around, speed=DecodingSpeed(reading=50.0, together=25.0, alone=5.0)).times(config, 9.0).parts
    assert slower == pytest.approx(found | {EVALUATING: 2 * found[EVALUATING]})


def test_a_live_version_is_compared_too_and_what_no_engine_serves_is_not() -> None:
    two, three, none = (replace(AROUND, models=count).times(CONFIG, 9.0).parts[EVALUATING] for count in (2, 3, 0))
    assert three > two > none == 0


def test_what_earlier_runs_of_the_same_base_took_corrects_the_next(home: Path) -> None:
    folder = home / "runs"
    assert paces(folder, "d") == {}
    for number, slower in enumerate((2.0, 3.0, 40.0)):
        finished_run(folder, f"2026-{number}", {EVALUATING: slower})
    finished_run(folder, "2026-9", {EVALUATING: 0.1}, digest="another base")
    pace = paces(folder, "d")
    assert pace[EVALUATING] == pytest.approx(3.0) and pace[TRAINING] == pytest.approx(1.0)
    before, after = AROUND.times(CONFIG, 50.0), replace(AROUND, pace=pace).times(CONFIG, 50.0)
    assert after.parts[EVALUATING] == pytest.approx(3 * before.parts[EVALUATING])
    assert after.training == pytest.approx(50.0)


def test_a_correction_is_not_made_twice(home: Path) -> None:
    """A run's forecast is kept as it was before it was corrected."""
    for number in range(2):
        pace = paces(home / "runs", "d")
        run = finished_run(home / "runs", f"2026-{number}", {EVALUATING: 2.0})
        corrected = replace(AROUND, pace=pace)
        keep_forecast(run, CONFIG, corrected.times(CONFIG, 100.0), pace)
    assert paces(home / "runs", "d")[EVALUATING] == pytest.approx(2.0)


def test_of_a_training_that_may_end_early_nothing_is_learned(home: Path) -> None:
    run = finished_run(home / "runs", "2026-1", {TRAINING: 0.2})
    keep_forecast(run, CONFIG.changed({"training.early_stop": 2}), AROUND.times(CONFIG, 100.0), {})
    assert TRAINING not in paces(home / "runs", "d")
