"""Shared parts of the commands: adding a command, common options, and reading them."""

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
"""Runs a command with its options; returns the exit code, where None is 0."""

EXIT_CODES = """\
exit codes:
    0  done, or (--if-new) nothing to do
    1  any other error
    2  wrong configuration or arguments
    3  no, too few or unusable conversations
    4  the engine is not running or too old, or does not know the model
    5  the training failed: memory, model, checkpoint
    6  the export failed: disk space, unsupported weights
    7  the new version was refused; the live one still answers
    8  another retrain is running
    9  (scripts/retrain.sh) the set-up failed
   10  the gate refused the new version: kept as a candidate, not live
  130  stopped; the next retrain goes on from there
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
        """Add the command `name`; return its parser, for the command's own options.

        Args:
            help: One line for the list of commands.
            more: Further sentences for the command's help.
            epilog: Text to print unchanged below the options.
            json: Whether the command supports `--json` (`print_json`).
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
    """A help formatter that keeps the line breaks of texts with several lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


# JSON output


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    text = "print the result as JSON for programs: one object, or one object per line. All other output goes to stderr"
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=text)


def print_json(options: argparse.Namespace, *facts: object) -> None:
    """Print mappings or dataclasses as JSON, one per line.

    The output goes to `options.facts_to`, by default stdout.
    """
    for each in facts:
        print(json.dumps(_plain(each)), file=options.facts_to, flush=True)


def _plain(value: object) -> object:
    """Return a JSON-able form of a value, with None for infinite numbers and NaN."""
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
    """Return a parser with the options of every command."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("configuration")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="read FILE instead of config/fine_tuning_config.yaml"
    )
    group.add_argument("--profile", metavar="NAME", help="apply config/NAME.yaml on top of it; several: A,B")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one value, e.g. training.num_epochs=5"
    )
    group.add_argument(
        "--ollama-url", metavar="URL", help="address of Ollama (default: OLLAMA_HOST, then the configuration)"
    )
    return shared


AUTO = "lower the tokens computed at once, the sequence length or the rank until the training fits into the memory"


def add_training_options(command: argparse.ArgumentParser) -> None:
    """Add the options that retrain and sweep share."""
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


def add_dry_run(command: argparse.ArgumentParser, help: str = "only say what would be removed") -> None:
    """Add the option `--dry-run`."""
    command.add_argument("--dry-run", action="store_true", help=help)


# Types of option values


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` to `most` in ASCII digits."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


count, positive, port = _whole(0, 2**31 - 1), _whole(1, 2**31 - 1), _whole(1, 65_535)


# Reading the options


def read_config(options: argparse.Namespace) -> "FineTuningConfig":
    """Return the configuration that the options select. Raises ConfigError with all its faults."""
    from fine_tuning.config import load_config, read_settings

    return load_config(options.config, options.profile, read_settings(options.set))


def given_config(options: argparse.Namespace) -> "FineTuningConfig | None":
    """Return the configuration that the options select; None if they select none.

    With None, the default file applies, including its later changes.
    """
    return read_config(options) if options.config or options.profile or options.set else None


def read_training_config(options: argparse.Namespace) -> "FineTuningConfig":
    """Return the configuration for training on the log.

    If the options name no file, profile or sample, the profile for documents applies where the log
    consists of documents.
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
    """Return the engine that the options select. Raises EngineError if it is not available."""
    from fine_tuning.engines.connect import connect

    return connect(options.ollama_url, config)


def say_if_fetching(engine: "Engine") -> None:
    """Print that a base model will be downloaded, if the engine has none that is whole."""
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
    """Return a function that tells whether SIGINT or SIGTERM has arrived. A second signal ends the program."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            sys.exit(130)
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(asked)
