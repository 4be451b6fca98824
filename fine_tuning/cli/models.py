"""The commands about the versions of a fine-tuned model: models, use, rollback, merge, quantise and prune."""

import argparse

from fine_tuning.cli.jobs import add_detach, do_job, exit_code, show_end
from fine_tuning.cli.options import (
    EXIT_CODES,
    Commands,
    add_dry_run,
    add_model_name,
    connect_engine,
    count,
    model_name,
    positive,
    print_json,
    read_config,
)
from fine_tuning.errors import ConfigError, GateRefused


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    models = commands.add("models", _models, "list the base models and the versions; pin, label and annotate versions")
    models.add_argument("--pin", type=count, metavar="N", help="keep version N: `byoai prune` never removes it")
    models.add_argument("--unpin", type=count, metavar="N", help="undo --pin: `byoai prune` may remove version N again")
    models.add_argument("--note", nargs=2, metavar=("N", "TEXT"), help="attach a note to version N")
    models.add_argument(
        "--label", nargs=2, metavar=("N", "A,B"), help='replace the labels of version N ("" removes them all)'
    )

    use = commands.add("use", _use, "make a version live")
    # an alias that matches the configuration's section `deployment`
    deploy = commands.add("deploy", _use, "another name for `use`: make a version live")
    for command in (use, deploy):
        command.add_argument("version", help="the version, as a number or a tag such as fine_tuned_smollm2-135m:v2")
        command.add_argument(
            "--promote",
            action="store_true",
            help="make the version live even if the gate refused it; the registry records this",
        )

    rollback = commands.add(
        "rollback", _rollback, "make the previous live version live again", "If there is none, the base model answers."
    )

    _add_merge(commands)
    _add_quantise(commands)

    prune = commands.add(
        "prune",
        _prune,
        "remove old versions, with their runs",
        "The live version, the one that was live before it, and pinned versions are kept.",
    )
    add_dry_run(prune)
    for command in (models, use, deploy, rollback, prune):
        add_model_name(command)


def _add_merge(commands: Commands) -> None:
    merge = commands.add(
        "merge",
        _merge,
        "merge several versions into one",
        "Their adapters are combined into one, which the gate judges and which becomes the next version. All versions "
        "must have been trained on the same base.",
        epilog=f"{_WAYS}\n{EXIT_CODES}",
    )
    merge.add_argument(
        "parts",
        nargs="+",
        metavar="VERSION[=WEIGHT]",
        help="the number or tag of a version, and its weight (default: 1)",
    )
    merge.add_argument(
        "--method",
        choices=("linear", "ties", "dare", "dare_ties"),
        default="linear",
        help="how the adapters are merged; the methods are explained below (default: linear)",
    )
    merge.add_argument(
        "--density",
        type=float,
        default=0.5,
        metavar="D",
        help="for all methods but linear: the share of each adapter's changes that is kept (default: 0.5)",
    )
    merge.add_argument(
        "--seed", type=count, default=0, metavar="N", help="random seed for what dare and dare_ties drop (default: 0)"
    )
    merge.add_argument(
        "--rank", type=positive, metavar="R", help="compress the result to this rank (default: the sum of the ranks)"
    )
    merge.add_argument(
        "--promote",
        action="store_true",
        help="make the version live even if the gate refuses it; the registry records this",
    )
    add_model_name(merge)
    add_detach(merge)


def _add_quantise(commands: Commands) -> None:
    quantise = commands.add(
        "quantise",
        _quantise,
        "measure a version at lower precision (size, speed, quality), or make a new version of it",
        "Each quantisation is compared with the version as it is stored now: both are timed alternately, and "
        "their perplexity on the held-out texts is computed.",
        epilog=EXIT_CODES,
    )
    quantise.add_argument("version", nargs="?", help="the version, as a number or a tag (default: the live version)")
    quantise.add_argument(
        "--only", metavar="A,B", help="measure only these quantisations (default: all from f16 to q4_0)"
    )
    quantise.add_argument(
        "--use",
        metavar="QUANTISATION",
        help="make a new version in this quantisation, e.g. Q5_K_M, instead of measuring",
    )
    quantise.add_argument(
        "--promote",
        action="store_true",
        help="with --use: make the new version live even if the gate refuses it; the registry records this",
    )
    add_model_name(quantise)
    add_detach(quantise)


def _quantise(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import show_quantisations, show_scores
    from fine_tuning.evaluation.comparison import MetricScores
    from fine_tuning.integration.ollama_integration import version_number
    from fine_tuning.jobs.version_kinds import QuantiseRequest

    number, named = None, ""
    if options.version is not None:
        number, named = version_number(options.version), options.version.rpartition(":")[0]
    request = QuantiseRequest(
        config=read_config(options),
        ollama_url=options.ollama_url,
        version=number,
        name=named or options.name,
        quantisations=tuple(options.only.split(",")) if options.only else None,
        use=options.use,
        promote=options.promote,
    )
    if (job := do_job(options, "quantise", request.record())) is None:
        return 0
    result = show_end(options, job)
    if result and not options.json:
        if options.use:
            show_scores(result["tag"], [MetricScores(**score) for score in result["scores"]])
        else:
            show_quantisations(result)
    refused = bool(options.use and result) and not result["passed"] and not result["live"]
    return GateRefused.exit_code if refused else exit_code(job)


_WAYS = """\
methods:
    linear       the weighted sum of what the versions learned, exactly
    ties         the largest changes of each version; where their signs differ,
                 the mean of those with the dominant sign
    dare         a random share of each version's changes, scaled up and summed
    dare_ties    a random share of each version's changes, then as ties
"""


def _merge(options: argparse.Namespace) -> int:
    from fine_tuning.cli.show import show_scores
    from fine_tuning.evaluation.comparison import MetricScores
    from fine_tuning.jobs.kinds import read_request

    asked = {name: getattr(options, name) for name in ("method", "density", "seed", "rank", "name", "promote")}
    config = read_config(options).model_dump(mode="json")
    parts = [_part(text) for text in options.parts]
    request = read_request("merge", {**asked, "parts": parts, "config": config, "ollama_url": options.ollama_url})
    if (job := do_job(options, "merge", request.record())) is None:
        return 0
    result = show_end(options, job)
    if result and not options.json:
        show_scores(result["tag"], [MetricScores(**score) for score in result["scores"]])
    refused = bool(result) and not result["passed"] and not result["live"]
    return GateRefused.exit_code if refused else exit_code(job)


def _part(text: str) -> dict[str, object]:
    """Return the version, the model's name (None if not given) and the weight in `VERSION[=WEIGHT]`.

    Raises ConfigError if the text is invalid.
    """
    from fine_tuning.integration.ollama_integration import version_number

    version, _, weight = text.partition("=")
    try:
        factor = float(weight) if weight else 1.0
    except ValueError:
        raise ConfigError(
            f"{text[:80]!r}: {weight[:40]!r} is not a weight: write a number above 0, as in {version}=0.5"
        ) from None
    return {"version": version_number(version), "name": version.rpartition(":")[0] or None, "weight": factor}


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


def _changes(options: argparse.Namespace) -> list[tuple[int, dict[str, object]]]:
    """Return (number of the version, new values) for each of --pin, --unpin, --note and --label that was given."""
    from fine_tuning.integration.ollama_integration import version_number

    changes: list[tuple[int, dict[str, object]]] = [
        (number, {"pinned": pinned})
        for number, pinned in ((options.pin, True), (options.unpin, False))
        if number is not None
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

    version_number(options.version)  # rejects an invalid version before connecting to an engine
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
        print(f"no version of {model_name(options, config)} is live any more: the base model answers now")


def _prune(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_pruned
    from fine_tuning.cli.show import show_pruned
    from fine_tuning.model_management.model_pruner import prune
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.runs import only_one

    config = read_config(options)
    engine, name = connect_engine(options, config), model_name(options, config)
    with only_one():  # the run of a running training would look unfinished
        found = prune(engine, Registry(), name, config.runs_dir, options.dry_run)
    if options.json:
        print_json(options, *of_pruned(found, options.dry_run))
    else:
        show_pruned(found, options.dry_run)
