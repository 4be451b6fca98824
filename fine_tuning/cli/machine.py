"""Commands about what the machine has: doctor, prepare."""

import argparse

from fine_tuning.cli.options import Commands, connect_engine, read_config


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    commands.add(
        "doctor",
        _doctor,
        "check whether everything works, and say what to do",
        "Disk, memory, log, both engines, base, versions, live model and template are checked; each model is asked a question.",
    )
    commands.add("prepare", _prepare, "make sure that there is an engine and a base model", "A base model is fetched if there is none.")


def _doctor(options: argparse.Namespace) -> int:
    from fine_tuning.integration.doctor import examine

    failed = False
    for check in examine(lambda: read_config(options), options.ollama_url):
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}", flush=True)
        failed |= not check.ok
    return int(failed)


def _prepare(options: argparse.Namespace) -> None:
    from fine_tuning.engines.default_base import ensure_some_model

    engine = connect_engine(options, read_config(options))
    print(f"engine: {engine.name} {engine.version()} ({engine.where})")
    if not engine.list_models():
        print("fetching a base model (98 MB, once) ...", flush=True)
    print(f"model:  {ensure_some_model(engine)}")
