"""Commands that train: retrain, sweep."""

import argparse
from typing import TYPE_CHECKING

from fine_tuning.cli.options import (
    EXIT_CODES,
    Commands,
    add_dry_run,
    add_training_options,
    connect_engine,
    count,
    read_config,
    stop_on_signal,
)
from fine_tuning.errors import GateRefused

if TYPE_CHECKING:
    from fine_tuning.pipeline import Outcome


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    retrain = commands.add("retrain", _retrain, "learn from the chats, and make the new version live", epilog=EXIT_CODES)
    add_training_options(retrain)
    add_dry_run(retrain, "only show what would be learned, and the memory and time that it would take")
    retrain.add_argument(
        "--if-new", type=count, metavar="N", help="do nothing with fewer than N new turns since the last version (for cron)"
    )
    retrain.add_argument("--few-shot", action="store_true", help="learn from 5 to 50 pairs (profile `few_shot`): small steps, an early end")
    retrain.add_argument("--promote", action="store_true", help="make the version live although the gate refuses it; this is noted")

    sweep = commands.add(
        "sweep",
        _sweep,
        "search for better training settings",
        "The best ones are written to a configuration to retrain with. A stopped sweep goes on where it was, and several processes may "
        "work on the same one. Options that are left out are those of `sweep` in the configuration.",
        epilog=EXIT_CODES,
    )
    add_training_options(sweep)
    sweep.add_argument("--sampler", choices=("tpe", "grid"), help="how settings are chosen: by what did well so far, or every combination")
    sweep.add_argument("--trials", type=count, metavar="N", help="trainings in all, those of earlier and other processes included")
    sweep.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, in the middle of a trial if need be")
    sweep.add_argument(
        "--name", metavar="STUDY", help="the same name goes on with the same study (default: one for each dataset and range)"
    )
    sweep.add_argument("--retrain", action="store_true", help="then retrain with the best settings")


def _retrain(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import Terminal, show_plan
    from fine_tuning.events import Watch
    from fine_tuning.jobs.doing import retrain_here
    from fine_tuning.planning import make_plan
    from fine_tuning.workshop import Request, Workshop

    _choose_sample(options)
    if options.few_shot:
        options.profile = f"{options.profile},few_shot" if options.profile else "few_shot"
    config = read_config(options)
    request = Request(options.sample, options.if_new, options.force, options.auto, options.promote)
    stopping = stop_on_signal()
    with Terminal() as terminal:
        engine, watch = connect_engine(options, config), Watch(terminal, stopping)
        if not options.dry_run:
            outcome = retrain_here(config, watch, request, options.ollama_url, engine)
        else:
            plan = make_plan(Workshop(config, engine, watch, request))
    if options.dry_run:
        show_plan(plan)
        return 0
    return _ended(outcome)


def _sweep(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import Terminal, show_found
    from fine_tuning.config import load_config
    from fine_tuning.events import Watch
    from fine_tuning.jobs.doing import listed, retrain_here
    from fine_tuning.jobs.kinds import SweepRequest
    from fine_tuning.pipeline import sweep
    from fine_tuning.workshop import Request

    _choose_sample(options)
    for key in ("sampler", "trials", "minutes"):
        if getattr(options, key) is not None:
            options.set.append(f"sweep.{key}={getattr(options, key)}")
    config = read_config(options)
    engine, stopping = connect_engine(options, config), stop_on_signal()
    request = Request(sample=options.sample, force=options.force, auto=options.auto)
    asked = SweepRequest(
        config=config, ollama_url=options.ollama_url, sample=options.sample, force=options.force, auto=options.auto, name=options.name
    )
    with Terminal() as terminal, listed("sweep", asked, Watch(terminal, stopping)) as watch:
        found = sweep(config, engine, watch, request, options.name)
    show_found(found)
    if not options.retrain:
        return 0
    with Terminal() as terminal:
        best = load_config(found.folder / "best.yaml")
        outcome = retrain_here(best, Watch(terminal, stopping), request, options.ollama_url, engine)
    return _ended(outcome)


def _choose_sample(options: argparse.Namespace) -> None:
    """Let `--sample` take the profile of the sample, unless another is named."""
    if options.sample and not options.profile:
        options.profile = "sample"


def _ended(outcome: "Outcome") -> int:
    """Show how a retrain ended, and return the exit code."""
    from fine_tuning.cli.show import show_outcome
    from fine_tuning.pipeline import NewVersion

    show_outcome(outcome)
    return GateRefused.exit_code if isinstance(outcome, NewVersion) and outcome.refused else 0
