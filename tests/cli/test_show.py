"""What the commands show: nobody should have to look twice."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparisons import GOOD, race

from fine_tuning.cli import show
from fine_tuning.config import Gate
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.gate import judge
from fine_tuning.events import Count, Note, Stage, Step
from fine_tuning.forgetting import Case, Forgotten
from fine_tuning.model_management import elo, model_switcher
from fine_tuning.model_management.model_pruner import Pruned
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.outcome import NewVersion, NothingToDo, NoVersion
from fine_tuning.runs import Run
from fine_tuning.training.lora_trainer import TrainingResult
from fine_tuning.training.sweep import SweepResult

RUN = Run(Path("/data/runs/r1"))
TRAINED = TrainingResult(RUN.adapter, 12, 3.0, 4200, 1.2, 2_100_000_000, "float32", 2, "blas", 0)


def version(number: int, **changes: object) -> Version:
    found = Version(
        "fine_tuned_x",
        number,
        "base",
        "ab",
        "runs/r",
        "d",
        "lora",
        "adapter",
        {},
        "",
        "candidate",
        False,
        "",
        "2026-03-02T09:06",
    )
    return replace(found, **changes)


def ended(evidence: Comparison, live: bool, **changes: object) -> NewVersion:
    seconds = {"Training": 62.0, "Evaluating": 3.2}
    whole = NewVersion(RUN, 3, "fine_tuned_x:v3", live, TRAINED, evidence, judge(evidence, Gate()), seconds)
    return replace(whole, **changes)


# Long work


class Screen(io.StringIO):
    """A terminal that keeps what is drawn."""

    def isatty(self) -> bool:
        return True


def step(number: int, **changes: object) -> Step:
    found = Step("chats", number, 12, 1.0, 1.25, 0.5, 1e-4, 1.0, 900, 150.0, 0.5, 65.0, 2_100_000_000, None)
    return replace(found, **changes)


def test_in_a_log_file_progress_is_a_line_now_and_then(capsys) -> None:
    with show.Terminal() as terminal:
        for event in (
            Stage("Training"),
            Note("a note"),
            *map(step, range(1, 13)),
            Stage("Evaluating"),
            Count(1, 2),
            Count(2, 2),
        ):
            terminal(event)
    lines = capsys.readouterr().out.splitlines()
    assert [lines[at] for at in (0, 1, -2, -1)] == ["▸ Training", "  a note", "▸ Evaluating", "  2/2"]
    assert "  step 12/12  loss 1.250  150 tokens/s  2.1 GB  ETA 1 min 5 s" in lines
    assert len(lines) <= 6  # the first step at most, and the last


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (Count(98_000_000, 98_000_000, "bytes"), "98.0 MB of 98.0 MB"),
        (Count(812, 2000, "bytes"), "812 bytes of 2.0 kB"),
        (Count(40, 100, "percent"), "40 %"),
        (Count(3, 8), "3/8"),
    ],
)
def test_how_far_it_is_has_its_unit(count: Count, shown: str, capsys) -> None:
    with show.Terminal() as terminal:
        terminal(count)
    assert capsys.readouterr().out == f"  {shown}\n"


def test_an_epochs_validation_loss_and_another_part_are_named(capsys) -> None:
    with show.Terminal() as terminal:
        terminal(step(12, validation_loss=1.5, epoch=2.0))
        terminal(step(12, part="preferences"))
    said = capsys.readouterr().out
    assert "epoch 2: validation loss 1.500" in said and "preferences, step 12/12" in said


def test_in_a_terminal_a_bar_is_drawn_and_wiped(monkeypatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    with show.Terminal() as terminal:
        for event in (Stage("Training"), step(3), Stage("Evaluating")):
            terminal(event)
    drawn = screen.getvalue()
    assert "step 3/12" in drawn and drawn.index("step 3/12") < drawn.index("Evaluating")


# How work ended


@pytest.mark.parametrize(
    ("evidence", "live", "last"),
    [
        (
            GOOD,
            True,
            "fine_tuned_x:v3 is live: the chat answers with it now. In a terminal: byoai talk --model fine_tuned_x:v3",
        ),
        (GOOD, False, "fine_tuned_x:v3 is registered, not live (deployment.auto_deploy is off)"),
        (replace(GOOD, race=race(0.3)), False, "fine_tuned_x:v3 was refused and kept as a candidate"),
        (replace(GOOD, race=race(0.3)), True, "fine_tuned_x:v3 is live by hand, although the gate refused it"),
    ],
)
def test_a_retrain_ends_with_scores_rules_and_who_answers_now(
    evidence: Comparison, live: bool, last: str, capsys
) -> None:
    show.show_outcome(ended(evidence, live))
    said = capsys.readouterr().out
    assert "fine_tuned_x:v3 against its base" in said and "general questions" in said
    assert said.count("passed  ") + said.count("failed  ") == 8
    assert ("failed  speed" in said) is (evidence is not GOOD)
    assert (
        "12 steps, 4200 tokens, float32 (blas) on 2 threads, peak 2.1 GB; 1 min 5 s in all. Everything is in "
        f"{RUN.folder}" in said
    )
    assert said.splitlines()[-1].startswith(last)


@pytest.mark.parametrize(("live", "served"), [(True, "fine_tuned_x"), (False, "fine_tuned_x:v3")])
def test_ollama_is_named_only_where_it_serves(live: bool, served: str) -> None:
    talk = "In a terminal: byoai talk --model fine_tuned_x:v3"
    assert ended(GOOD, live).commands() == talk and "byoai" not in ended(GOOD, live).summary()
    assert ended(GOOD, live, by_ollama=True).commands() == f"{talk}, or ollama run {served}"


def test_the_scores_have_a_column_for_the_live_model_where_there_is_one(capsys) -> None:
    show.show_outcome(ended(replace(GOOD, live=GOOD.base), True))
    (heading,) = [line for line in capsys.readouterr().out.splitlines() if "metric" in line]
    assert [word.strip() for word in heading.strip("┃").split("┃")] == ["metric", "base", "live", "fine-tuned", ""]


def test_preferences_are_told_only_where_some_were_learned(capsys) -> None:
    show.show_outcome(ended(GOOD, True, training=replace(TRAINED, preference_steps=4, agreement=0.75, threads=0)))
    assert (
        "12 steps, 4 on preferences (75% now ranked as people did), 4200 tokens, float32, peak"
        in capsys.readouterr().out
    )


def test_a_retrain_that_made_nothing_says_why(capsys) -> None:
    show.show_outcome(NothingToDo("2 new turns: nothing to do"))
    assert capsys.readouterr().out == "2 new turns: nothing to do\n"
    show.show_outcome(NoVersion(RUN, TRAINED, (("Who?", "Ann\n\nor Bob", "Eve"),), "no GGUF can carry it"))
    assert capsys.readouterr().out.split("\n") == [
        "",
        "Who?",
        "  base        Ann or Bob",
        "  fine-tuned  Eve",
        "no GGUF can carry it",
        "",
    ]


def test_a_sweep_ends_with_the_command_that_learns_with_the_best(capsys) -> None:
    show.show_found(SweepResult(Path("/s"), {"learning_rate": 0.000321, "lora_r": 16}, 1.23456, 7, 2, 1))
    said = capsys.readouterr().out
    assert "Trials: 7 finished, 2 pruned, 1 failed" in said and "1.2346" in said
    assert "--set training.learning_rate=0.000321 --set training.lora_r=16" in said
    assert said.splitlines()[-1] == "  byoai retrain --config /s/best.yaml"


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_pruned_is_named_with_its_size(dry_run: bool, capsys) -> None:
    found = [Pruned(version(1), "fine_tuned_x:v1", Path("/runs/a"), 45_200_000), Pruned(None, "", Path("/runs/b"), 812)]
    show.show_pruned(found, dry_run)
    assert capsys.readouterr().out.splitlines() == [
        "fine_tuned_x:v1: its tag and its run a, 45.2 MB",
        "an unfinished training: its run b, 812 bytes",
        f"2 {'would be removed' if dry_run else 'removed'}, 45.2 MB",
    ]
    show.show_pruned([], dry_run)
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_would_be_forgotten_is_shown_and_what_learned_it(capsys) -> None:
    turns = tuple(f"t{number}" for number in range(23))
    show.show_case(
        Case(turns, frozenset(), (version(1), version(2, state="live")), {"t0": "my  secret\nword"}), [Path("/data/x")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["23 turns to forget:", "  t0  my secret word", "  t1  (no longer in the log)"]
    assert lines[-3:] == [
        "  and 3 more",
        "  in /data/x, to be redacted",
        "learned by: fine_tuned_x:v1 (candidate), fine_tuned_x:v2 (live)",
    ]


CASE = Case(("t",), frozenset({"secret"}), (version(1),), {})


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Forgotten(CASE, ()), "the data folder was searched: nothing of it is left"),
        (Forgotten(replace(CASE, texts=frozenset()), ()), "nothing of it is left"),
        (
            Forgotten(CASE, (), version="fine_tuned_x:v2"),
            "fine_tuned_x:v2 was made without it, and is live",
        ),
        (Forgotten(CASE, (Path("/data/left"),)), "still contains the text: /data/left"),
        (Forgotten(CASE, (), strangers=("mine:v1",)), "mine:v1 may have learned the text, and byoai did not make it"),
        (
            Forgotten(CASE, (), unfinished="the gate refused it"),
            "the gate refused it. The versions that learned it are still there: fine_tuned_x:v1.",
        ),
    ],
)
def test_a_forgetting_says_what_is_left(outcome: Forgotten, said: str, capsys) -> None:
    show.show_forgotten(outcome)
    shown = capsys.readouterr().out
    assert said in shown
    assert ("nothing of it is left" in shown) is not (outcome.left or outcome.strangers)


# Words and figures


@pytest.mark.parametrize(
    ("bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (45_200_000, "45.2 MB"), (1_300_000_000, "1.3 GB")],
)
def test_sizes_are_read_easily(bytes: int, text: str) -> None:
    assert show.size(bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (45.4, "45 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3599.7, "1 h 0 min"), (7800, "2 h 10 min")],
)
def test_times_are_read_easily(seconds: float, text: str) -> None:
    assert show.clock(seconds) == text


@pytest.mark.parametrize(
    "text", ["[bold]x[/bold]", "[/]", "[red on", ":smile:", "https://example.com/[a]", "\\[x]", "猫 🦊"]
)
def test_markup_in_what_was_said_is_shown_as_it_is(text: str, capsys) -> None:
    show.show_answers([(text, text, text)])
    assert capsys.readouterr().out == f"\n{text}\n  base        {text}\n  fine-tuned  {text}\n"


def test_a_long_answer_is_cut_and_stays_on_one_line(capsys) -> None:
    show.show_answers([("Who?", "word\n" * 200, "x")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  base")]
    assert line.endswith("…") and len(line) == 314


# What there is


@pytest.mark.parametrize("columns", ["80", "200"])
def test_models_are_listed_with_their_whole_names_and_what_is_known_of_each(
    tmp_path, monkeypatch, capsys, columns: str
) -> None:
    registry = Registry(tmp_path / "state.db")
    reason = "general perplexity +5.1 %: too much was forgotten"
    metrics = {"base": {"perplexity": 17.2}, "tuned": {"perplexity": 2.1}}
    for number, verdict in enumerate(("passed every rule", reason), 1):
        registry.add("fine_tuned_sample", number, base_tag="smollm2:135m", metrics=metrics, verdict=verdict)
    registry.update("fine_tuned_sample", 2, labels=["short answers"])
    registry.add("fine_tuned_sample", 3, notes="found in the engine; how it was made is not known")
    there = [
        SimpleNamespace(tag="fine_tuned_sample:v1", kind="fine-tuned", live=True),
        SimpleNamespace(tag="fine_tuned_sample:v2", kind="fine-tuned", live=False),
        SimpleNamespace(tag="fine_tuned_sample:v3", kind="fine-tuned", live=False),
        SimpleNamespace(tag="smollm2:135m", kind="base", live=False),
    ]
    monkeypatch.setattr(model_switcher, "choices", lambda engine, prefix: there)
    monkeypatch.setattr(elo, "ratings", lambda: {"fine_tuned_sample:v1": (1016.0, 3)})
    monkeypatch.setenv("COLUMNS", columns)
    show.show_models(None, registry, "fine_tuned_")
    first, of_first, second, of_second, third, of_third, base = capsys.readouterr().out.splitlines()
    assert first.startswith("fine_tuned_sample:v1  live; ") and first.endswith(
        "; from smollm2:135m; Elo 1016 after 3 votes"
    )
    assert of_first.strip() == "perplexity 2.10, the base's 17.20; passed every rule"
    assert second.startswith("fine_tuned_sample:v2  ")
    assert of_second.strip() == f"perplexity 2.10, the base's 17.20; {reason}; short answers"
    assert "from" not in third and of_third.strip() == "found in the engine; how it was made is not known"
    assert base.split() == ["smollm2:135m", "base"]
