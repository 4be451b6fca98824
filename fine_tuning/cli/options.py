"""Define what the commands share: how a command is added, common options, and how options are read."""

import argparse
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fine_tuning.config import FineTuningConfig
    from fine_tuning.engines.base import Engine

Run = Callable[[argparse.Namespace], int | None]
"""A function that runs a command with its options, and returns the exit code; None means 0."""

EXIT_CODES = """\
exit codes:
    0  done, or (--if-new) nothing to do
    1  any other error
    2  wrong configuration or arguments
    3  no, too few or unusable conversations
    4  the engine is not running or too old, or does not know the model
    5  the training failed: memory, model, checkpoint
    6  the export failed: disk space, unsupported weights
    7  the new version does not answer as it was trained: not live
    8  another training is running
    9  (scripts/retrain.sh) the set-up failed
   10  the gate refused the new version: kept as a candidate, not live
  130  stopped; the next training continues from there
"""


class Commands:
    """The commands of `byoai`; each group module adds its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(command=None)
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND")
        self._shared = _shared_options()

    @property
    def names(self) -> list[str]:
        """Return the names of the commands added so far, in order."""
        return list(self._parsers.choices)

    def add(
        self, name: str, run: Run, help: str, more: str = "", epilog: str = "", *, json: bool = True
    ) -> argparse.ArgumentParser:
        """Add the command `name`; return its parser, to which the command's own options can be added.

        Args:
            name: The command.
            run: The function that runs it.
            help: One line about it, for the list of commands.
            more: Further sentences for the command's own help.
            epilog: A text that is printed unchanged below the options in its help.
            json: Whether it supports `--json`, by calling `print_json`.
        """
        description = f"{help[0].upper()}{help[1:]}. {more}"
        command = self._parsers.add_parser(
            name, help=help, description=description, epilog=epilog, parents=[self._shared], formatter_class=_Formatter
        )
        command.set_defaults(command=run, json=False, facts_to=None)
        if json:
            add_json(command)
        return command


class _Formatter(argparse.HelpFormatter):
    """A help formatter that prints texts with line breaks as they are, and wraps all others."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


# JSON output


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    text = "print the result as JSON for programs: one object, or one object per line. All other output goes to stderr"
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=text)


def print_json(options: argparse.Namespace, *facts: object) -> None:
    """Print mappings or dataclasses as JSON, one per line, to `options.facts_to` (None: stdout)."""
    for each in facts:
        print(json.dumps(_plain(each)), file=options.facts_to, flush=True)


def _plain(value: object) -> object:
    """Return a value as JSON values: dataclasses as dictionaries, paths as text, infinite numbers and NaN as None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


# Options of several commands


def _shared_options() -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("configuration")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="read FILE instead of config/fine_tuning_config.yaml"
    )
    group.add_argument(
        "--profile",
        metavar="NAME",
        help="also use the settings in the profile config/NAME.yaml; several are given as A,B",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting for this command, e.g. training.num_epochs=5",
    )
    group.add_argument(
        "--ollama-url", metavar="URL", help="address of Ollama (default: OLLAMA_HOST, then the configuration)"
    )
    return shared


AUTO = "lower the tokens computed at once, the sequence length or the rank until the training fits into the memory"


def add_training_options(command: argparse.ArgumentParser) -> None:
    """Add the options `--sample`, `--auto` and `--force`, which retrain and sweep share."""
    add_sample(command)
    command.add_argument("--auto", action="store_true", help=AUTO)
    command.add_argument("--force", action="store_true", help="train even if there is little data")


def add_sample(command: argparse.ArgumentParser) -> None:
    """Add the option `--sample`, which `choose_sample` applies."""
    command.add_argument(
        "--sample", action="store_true", help="train on the shipped sample (profile `sample`) instead of your chats"
    )


def add_model_name(command: argparse.ArgumentParser) -> None:
    """Add the option `--name`, which `model_name` reads."""
    command.add_argument(
        "--name", metavar="MODEL", help="name of the fine-tuned model (default: the name given by the configuration)"
    )


def add_dry_run(command: argparse.ArgumentParser, help: str = "only show what would be removed") -> None:
    """Add the option `--dry-run`."""
    command.add_argument("--dry-run", action="store_true", help=help)


# Types of option values


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` to `most`, written in the digits 0 to 9."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def message(text: str) -> str:
    """Return `text` unchanged: an argparse type for a question. Raises ArgumentTypeError if it is blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty: write it in quotes")
    return text


count, positive, port = _whole(0, 2**31 - 1), _whole(1, 2**31 - 1), _whole(1, 65_535)


# Reading the options


def read_config(options: argparse.Namespace) -> "FineTuningConfig":
    """Return the configuration that the options select. Raises ConfigError, which lists all faults in it."""
    from fine_tuning.config import load_config, read_settings

    return load_config(options.config, options.profile, read_settings(options.set))


def given_config(options: argparse.Namespace) -> "FineTuningConfig | None":
    """Return the configuration that the options select; None if they select none.

    None tells a server to use the default file, and to read it again whenever it changes.
    """
    return read_config(options) if options.config or options.profile or options.set else None


def read_training_config(options: argparse.Namespace) -> "FineTuningConfig":
    """Return the configuration that the options select, for a training on the log.

    If the options name no file, profile or sample, and the log consists mostly of imported
    documents, the profile for documents supplies the values that the user has not set. Raises
    ConfigError, which lists all faults.
    """
    from fine_tuning.config import read_settings
    from fine_tuning.profiles import for_documents

    config = read_config(options)
    if options.config or options.profile or options.sample:
        return config
    return for_documents(config).changed(read_settings(options.set))


def choose_sample(options: argparse.Namespace) -> None:
    """Apply `--sample` by setting the profile `sample`, unless another profile is given."""
    if options.sample and not options.profile:
        options.profile = "sample"


def connect_engine(options: argparse.Namespace, config: "FineTuningConfig") -> "Engine":
    """Return the engine that the options and the configuration select. Raises EngineError if it is not available."""
    from fine_tuning.engines.connect import connect

    return connect(options.ollama_url, config)


def say_if_fetching(engine: "Engine") -> None:
    """Print that a base model will be downloaded, if the engine has no model, or only a damaged default base."""
    from fine_tuning.engines.default_base import DEFAULT_TAG, is_damaged

    if all(model.tag == DEFAULT_TAG and is_damaged(engine, model.tag) for model in engine.list_models()):
        print("fetching a base model (98 MB, once) ...", file=sys.stderr, flush=True)


def tag_that_answers(engine: "Engine", config: "FineTuningConfig") -> str:
    """Return the tag of the model that answers by default.

    If the engine has no models, the default base is downloaded, with a message.
    """
    from fine_tuning.integration.ollama_integration import answering

    say_if_fetching(engine)
    return answering(engine, config)


def model_name(options: argparse.Namespace, config: "FineTuningConfig") -> str:
    """Return the name of the fine-tuned model, without a version, that the options select."""
    return options.name or config.tuned_name()


def stop_on_signal() -> Callable[[], bool]:
    """Handle SIGINT and SIGTERM from now on; return a function that returns whether one of them has arrived.

    The first signal is only noted, so that the work can stop at a safe point. A second one ends the
    program at once, with exit code 130.
    """
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            sys.exit(130)
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(asked)
