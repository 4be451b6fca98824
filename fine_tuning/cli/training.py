"""The commands retrain, train, sweep and evaluate: make versions, search for settings, and measure a version."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.cli.jobs import add_detach, do_job, exit_code, show_end
from fine_tuning.cli.options import (
    AUTO,
    EXIT_CODES,
    Commands,
    add_dry_run,
    add_model_name,
    add_training_options,
    choose_sample,
    connect_engine,
    count,
    print_json,
    read_config,
    read_training_config,
    stop_on_signal,
)
from fine_tuning.errors import GateRefused

if TYPE_CHECKING:
    from fine_tuning.outcome import Outcome


_FORMATS = """\
formats:
    jsonl        one object per line: {"messages": [...]}, or question and
                 answer under their usual names (prompt, input, output ...)
    csv          a table with a column of questions and one of answers
    text         paragraphs; "User: ... Assistant: ..." becomes a conversation
    huggingface  a dataset of the hub (owner/name), or a folder of one
    custom       module:function, which yields the records
"""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    _add_retrain(commands)
    _add_train(commands)
    _add_sweep(commands)
    _add_evaluate(commands)


def _add_retrain(commands: Commands) -> None:
    retrain = commands.add(
        "retrain", _retrain, "learn from the chats, and make the new version live", epilog=EXIT_CODES
    )
    add_training_options(retrain)
    add_dry_run(retrain, "only show what would be learned, and the memory and time that it would take")
    retrain.add_argument(
        "--if-new",
        type=count,
        metavar="N",
        help="do nothing if there are fewer than N new turns since the last version (for cron)",
    )
    retrain.add_argument(
        "--few-shot",
        action="store_true",
        help="for 5 to 50 pairs (profile `few_shot`): a low learning rate and early stopping",
    )
    retrain.add_argument(
        "--promote",
        action="store_true",
        help="make the version live even if the gate refuses it; the registry records this",
    )


def _add_sweep(commands: Commands) -> None:
    sweep = commands.add(
        "sweep",
        _sweep,
        "search for better training settings",
        "The best settings are written to a configuration to retrain with. A stopped sweep continues where it was, and "
        "several processes may work on the same one. The section `sweep` of the configuration has the defaults of the "
        "options.",
        epilog=EXIT_CODES,
    )
    add_training_options(sweep)
    sweep.add_argument(
        "--sampler",
        choices=("tpe", "grid"),
        help="tpe: choose settings by the results so far; grid: try every combination",
    )
    sweep.add_argument(
        "--trials",
        type=count,
        metavar="N",
        help="total number of trials, including those of earlier runs and other processes",
    )
    sweep.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, even in the middle of a trial")
    sweep.add_argument(
        "--name",
        metavar="STUDY",
        help="name of the search; the name of an earlier search continues it (default: derived from dataset, base "
        "and ranges)",
    )
    sweep.add_argument("--retrain", action="store_true", help="after the sweep, retrain with the best settings")


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add(
        "evaluate",
        _evaluate,
        "evaluate a version again",
        "It is evaluated on the chats that its own training held out. The live version stays live, whatever the score.",
    )
    evaluate.add_argument(
        "version", nargs="?", help="a number, or a tag such as fine_tuned_smollm2-135m:v2 (default: the live one)"
    )
    add_model_name(evaluate)
    add_detach(evaluate)


def _add_train(commands: Commands) -> None:
    train = commands.add(
        "train",
        _train,
        "learn a dataset of your own instead of the chats",
        "The gate judges the result, which becomes the next version, as with `byoai retrain`. --set "
        "deployment.model_name=NAME gives it a name of its own.",
        epilog=f"{_FORMATS}\n{EXIT_CODES}",
    )
    train.add_argument(
        "dataset", metavar="DATASET", help="a file or folder, owner/name of the Hugging Face hub, or module:function"
    )
    train.add_argument(
        "--format",
        choices=("jsonl", "csv", "text", "huggingface", "custom"),
        help="the format of the dataset, see below (default: detected from DATASET)",
    )
    train.add_argument("--auto", action="store_true", help=AUTO)
    train.add_argument(
        "--promote",
        action="store_true",
        help="make the version live even if the gate refuses it; the registry records this",
    )
    add_detach(train)


def _retrain(options: argparse.Namespace) -> int:
    from fine_tuning.cli.facts import of_plan
    from fine_tuning.cli.show import Terminal, show_plan
    from fine_tuning.events import Watch
    from fine_tuning.jobs.doing import retrain_here
    from fine_tuning.planning import make_plan
    from fine_tuning.workshop import Request, Workshop

    choose_sample(options)
    if options.few_shot:
        options.profile = f"{options.profile},few_shot" if options.profile else "few_shot"
    config = read_training_config(options)
    request = Request(options.sample, options.if_new, options.force, options.auto, options.promote)
    stopping = stop_on_signal()
    with Terminal() as terminal:
        engine, watch = connect_engine(options, config), Watch(terminal, stopping)
        if not options.dry_run:
            outcome = retrain_here(config, watch, request, options.ollama_url, engine)
        else:
            plan = make_plan(Workshop(config, engine, watch, request))
    if options.dry_run:
        if options.json:
            print_json(options, of_plan(plan))
        else:
            show_plan(plan)
        return 0
    return _ended(options, outcome)


def _train(options: argparse.Namespace) -> int:
    from fine_tuning.data_preparation.preprocessing import prepare
    from fine_tuning.jobs.kinds import TrainRequest

    read_as = options.format or _format_of(options.dataset)
    prepared = prepare(options.dataset, read_as)  # before the job, so that read errors are reported immediately
    config = read_config(options).changed({"dataset.path": str(prepared), "dataset.format": "jsonl"})
    request = TrainRequest(config=config, ollama_url=options.ollama_url, auto=options.auto, promote=options.promote)
    if (job := do_job(options, "train", request.record())) is None:
        return 0
    result = show_end(options, job)
    refused = job.state == "completed" and result.get("passed") is False and not result.get("live")
    return GateRefused.exit_code if refused else exit_code(job)


def _format_of(dataset: str) -> str:
    """Return the format of a dataset, which is detected from its name and from whether it is a file or a folder."""
    path = Path(dataset)
    if not path.exists():
        return "custom" if ":" in dataset else "jsonl" if path.suffix else "huggingface"
    return "huggingface" if path.is_dir() else _SUFFIXES.get(path.suffix.lower(), "jsonl")


_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".parquet": "huggingface",
    ".arrow": "huggingface",
}


def _evaluate(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import show_facts, show_scores
    from fine_tuning.evaluation.comparison import MetricScores
    from fine_tuning.integration.ollama_integration import version_number
    from fine_tuning.integration.versions import facts_in
    from fine_tuning.jobs.kinds import EvaluateRequest

    number, named = None, ""
    if options.version is not None:
        number, named = version_number(options.version), options.version.rpartition(":")[0]
    request = EvaluateRequest(
        config=read_config(options), ollama_url=options.ollama_url, version=number, name=named or options.name
    )
    if (job := do_job(options, "evaluate", request.record())) is None:
        return 0
    result = show_end(options, job)
    if result and not options.json:
        show_scores(result["tag"], [MetricScores(**score) for score in result["scores"]])
        show_facts(facts_in(result["evaluation"]))
    return exit_code(job)


def _sweep(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import Terminal, show_found
    from fine_tuning.config import load_config
    from fine_tuning.events import Watch
    from fine_tuning.jobs.doing import listed, retrain_here
    from fine_tuning.jobs.kinds import SweepRequest
    from fine_tuning.sweeping import sweep
    from fine_tuning.workshop import Request

    choose_sample(options)
    for key in ("sampler", "trials", "minutes"):
        if getattr(options, key) is not None:
            options.set.append(f"sweep.{key}={getattr(options, key)}")
    config = read_training_config(options)
    engine, stopping = connect_engine(options, config), stop_on_signal()
    request = Request(sample=options.sample, force=options.force, auto=options.auto)
    asked = SweepRequest(
        config=config,
        ollama_url=options.ollama_url,
        sample=options.sample,
        force=options.force,
        auto=options.auto,
        name=options.name,
    )
    with Terminal() as terminal, listed("sweep", asked, Watch(terminal, stopping)) as watch:
        found = sweep(config, engine, watch, request, options.name)
    if not options.json:
        show_found(found)
    elif not options.retrain:
        print_json(
            options,
            {name: getattr(found, name) for name in ("folder", "settings", "loss", "finished", "pruned", "failed")},
        )
    if not options.retrain:
        return 0
    with Terminal() as terminal:
        best = load_config(found.folder / "best.yaml")
        outcome = retrain_here(best, Watch(terminal, stopping), request, options.ollama_url, engine)
    return _ended(options, outcome)


def _ended(options: argparse.Namespace, outcome: "Outcome") -> int:
    """Show the outcome of a retrain; return the exit code, which is not 0 if the gate refused the version."""
    from fine_tuning.cli.show import show_outcome
    from fine_tuning.jobs.version_kinds import result_of
    from fine_tuning.outcome import NewVersion

    if options.json:
        print_json(options, result_of(outcome))
    else:
        show_outcome(outcome)
    return GateRefused.exit_code if isinstance(outcome, NewVersion) and outcome.refused else 0
