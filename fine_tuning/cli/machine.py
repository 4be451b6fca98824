"""The commands doctor, prepare and pull: check this machine, and download models."""

import argparse

from fine_tuning.cli.jobs import add_detach, do_job, exit_code, show_end
from fine_tuning.cli.options import Commands, connect_engine, print_json, read_config, say_if_fetching


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    commands.add(
        "doctor",
        _doctor,
        "check whether everything works, and say what to do",
        "It checks disk, memory, log, both engines, base, versions, live model and template, and asks each model a "
        "question.",
    )
    commands.add(
        "prepare",
        _prepare,
        "make sure that there is an engine and a base model",
        "If there is no base model, one is downloaded.",
    )

    pull = commands.add(
        "pull",
        _pull,
        "fetch a model from Ollama's library",
        "The model can then answer, or be the base that is fine-tuned.",
    )
    pull.add_argument("model", metavar="MODEL", help="the model to download, e.g. qwen3:0.6b")
    add_detach(pull)


def _doctor(options: argparse.Namespace) -> int:
    from fine_tuning.integration.doctor import examine

    failed = False
    for check in examine(lambda: read_config(options), options.ollama_url):
        if options.json:
            print_json(options, check)
        else:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}", flush=True)
        failed |= not check.ok
    return int(failed)


def _prepare(options: argparse.Namespace) -> None:
    from fine_tuning.engines.default_base import ensure_some_model

    engine = connect_engine(options, read_config(options))
    if not options.json:
        print(f"engine: {engine.name} {engine.version()} ({engine.where})", flush=True)
    say_if_fetching(engine)
    model = ensure_some_model(engine)
    if options.json:
        print_json(options, {"engine": engine.name, "version": engine.version(), "where": engine.where, "model": model})
    else:
        print(f"model:  {model}")


def _pull(options: argparse.Namespace) -> int:
    from fine_tuning.jobs.kinds import PullRequest

    request = PullRequest(config=read_config(options), ollama_url=options.ollama_url, model=options.model)
    if (job := do_job(options, "pull", request.record())) is None:
        return 0
    show_end(options, job)
    return exit_code(job)
