"""Commands about the versions of the fine-tuned model: models, use, rollback, prune."""

import argparse
from typing import Any

from fine_tuning.cli.options import (
    Commands,
    add_dry_run,
    add_model_name,
    connect_engine,
    count,
    model_name,
    print_json,
    read_config,
)


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    models = commands.add("models", _models, "list the base models and the versions; pin, label and annotate versions")
    models.add_argument("--pin", type=count, metavar="N", help="never prune version N")
    models.add_argument("--unpin", type=count, metavar="N", help="let version N be pruned again")
    models.add_argument("--note", nargs=2, metavar=("N", "TEXT"), help="write a note of your own on version N")
    models.add_argument("--label", nargs=2, metavar=("N", "A,B"), help='give version N these labels instead of its own ("" for none)')

    use = commands.add("use", _use, "make a version live")
    deploy = commands.add("deploy", _use, "another name of `use`: make a version live")  # the configuration calls it so, too
    for command in (use, deploy):
        command.add_argument("version", help="a number, or a tag such as fine_tuned_smollm2-135m:v2")
        command.add_argument("--promote", action="store_true", help="also one that the gate refused; this is noted")

    rollback = commands.add("rollback", _rollback, "make the version before the live one live again", "Without one, the base answers.")

    prune = commands.add(
        "prune", _prune, "remove old versions, with their runs", "The live one, the one before it and the pinned ones are kept."
    )
    add_dry_run(prune)
    for command in (models, use, deploy, rollback, prune):
        add_model_name(command)


def _models(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_models
    from fine_tuning.cli.show import show_models
    from fine_tuning.model_management.model_deployer import reconcile
    from fine_tuning.model_management.model_registry import Registry

    config = read_config(options)
    registry = Registry()
    for number, changes in _changes(options):
        registry.update(model_name(options, config), number, **changes)
    engine = connect_engine(options, config)
    for name in {version.name for version in registry.list()}:
        for finding in reconcile(engine, registry, name):
            print(finding.text)
    if options.json:
        print_json(options, *of_models(engine, registry, config.deployment.model_name_prefix))
    else:
        show_models(engine, registry, config.deployment.model_name_prefix)


def _changes(options: argparse.Namespace) -> list[tuple[int, dict[str, Any]]]:
    """Return the versions to change, by number, each with its new values."""
    from fine_tuning.integration.ollama_integration import version_number

    changes: list[tuple[int, dict[str, Any]]] = [
        (number, {"pinned": pinned}) for number, pinned in ((options.pin, True), (options.unpin, False)) if number is not None
    ]
    if options.note:
        changes.append((version_number(options.note[0]), {"notes": options.note[1]}))
    if options.label:
        labels = [label.strip() for label in options.label[1].split(",")]
        changes.append((version_number(options.label[0]), {"labels": [label for label in labels if label]}))
    return changes


def _use(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_version
    from fine_tuning.integration.ollama_integration import use, version_number

    version_number(options.version)  # a wrong one is refused before an engine is looked for
    config = read_config(options)
    version = use(connect_engine(options, config), config, options.version, name=options.name, by_hand=options.promote)
    if options.json:
        print_json(options, of_version(version))
    else:
        print(f"{version.tag} is live")


def _rollback(options: argparse.Namespace) -> None:
    from fine_tuning.integration.ollama_integration import roll_back

    config = read_config(options)
    version = roll_back(connect_engine(options, config), config, name=options.name)
    if options.json:
        print_json(options, {"name": model_name(options, config), "live": version.tag if version else None})
    elif version:
        print(f"{version.tag} is live again")
    else:
        print(f"no version of {model_name(options, config)} is live any more: the base answers")


def _prune(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_pruned
    from fine_tuning.cli.show import show_pruned
    from fine_tuning.model_management.model_pruner import prune
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.runs import only_one

    config = read_config(options)
    engine, name = connect_engine(options, config), model_name(options, config)
    with only_one():  # the run of a retrain that is going on looks unfinished
        found = prune(engine, Registry(), name, config.runs_dir, options.dry_run)
    if options.json:
        print_json(options, *of_pruned(found, options.dry_run))
    else:
        show_pruned(found, options.dry_run)
