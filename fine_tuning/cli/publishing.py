"""The commands bundle, push, space and adopt, which share versions between machines."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.cli.options import (
    Commands,
    add_model_name,
    connect_engine,
    model_name,
    print_json,
    read_config,
    stop_on_signal,
)
from fine_tuning.units import counted, size

if TYPE_CHECKING:
    from fine_tuning.config import FineTuningConfig
    from fine_tuning.events import Watch
    from fine_tuning.model_management.hub import Kind, Pushing
    from fine_tuning.model_management.model_registry import Version

_QUANTIZATION = "f16, q8_0, q4_k_m and others of llama.cpp"


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    bundle = commands.add(
        "bundle",
        _bundle,
        "write a version to a folder: adapter, GGUF, Modelfile, model card",
        "It contains no chats.",
    )
    bundle.add_argument("folder", type=Path, help="the folder to write to: new or empty")

    push = commands.add(
        "push",
        _push,
        "push a version to the Hugging Face Hub",
        "Private, unless --public. Log in with `hf auth login`.",
    )
    push.add_argument("repository", metavar="OWNER/NAME", help="the repository; it is created if it does not exist")
    push.add_argument("--public", action="store_true", help="make the repository public")
    push.add_argument(
        "--space",
        action="store_true",
        help="push a Gradio Space that answers with the version, instead of the version's files",
    )
    push.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    push.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    space = commands.add(
        "space", _space, "write a Gradio app that answers with a version", "`python app.py` in the folder starts it."
    )
    space.add_argument("folder", type=Path, help="the folder to write to: new or empty")
    for command in (bundle, push, space):
        command.add_argument("version", nargs="?", help="the version, as a number or a tag (default: the live version)")
        text = f"also write base and adapter as one GGUF: {_QUANTIZATION}"
        command.add_argument(
            "--merged",
            metavar="QUANTIZATION",
            help=text if command is not space else f"quantization of the GGUF (default: q8_0): {_QUANTIZATION}",
        )
        add_model_name(command)

    adopt = commands.add(
        "adopt",
        _adopt,
        "add a version that `bundle` or `push` wrote, for example on another machine",
        "It becomes a candidate: compare it, then make it live with `byoai use`.",
    )
    adopt.add_argument(
        "place",
        metavar="FOLDER|hf:OWNER/NAME",
        help="a folder that `byoai bundle` wrote, or a repository of the Hugging Face Hub that `byoai push` wrote to",
    )
    add_model_name(adopt)


def _bundle(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.bundle import write_bundle

    config = read_config(options)
    engine = connect_engine(options, config)
    with _watch() as watch:
        bundle = write_bundle(engine, _version(options, config), options.folder, options.merged, watch)
    if options.json:
        print_json(options, bundle)
    else:
        print(f"{bundle.tag} is in {options.folder}: {', '.join(bundle.files)}")


def _space(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.space import write_space

    config = read_config(options)
    with _watch() as watch:
        engine, version = connect_engine(options, config), _version(options, config)
        folder = write_space(engine, version, options.folder, options.merged or "q8_0", watch)
    if options.json:
        print_json(options, {"folder": folder})
    else:
        print(f"cd {folder} && pip install -r requirements.txt && python app.py")


def _push(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.bundle import write_bundle
    from fine_tuning.model_management.hub import check_repository, push
    from fine_tuning.model_management.space import write_space

    check_repository(options.repository)
    config = read_config(options)
    engine, version = connect_engine(options, config), _version(options, config)
    with tempfile.TemporaryDirectory(dir=config.runs_dir, prefix=".push-") as temporary:
        folder = Path(temporary) / "files"
        with _watch() as watch:
            if options.space:
                write_space(engine, version, folder, options.merged or "q8_0", watch)
            else:
                write_bundle(engine, version, folder, options.merged, watch)
        kind: Kind = "space" if options.space else "model"
        would = push(folder, options.repository, kind=kind, public=options.public, dry_run=True)
        if options.dry_run or not _agreed(options, would, version.tag):
            _show(options, would)
        else:
            _show(options, push(folder, options.repository, kind=kind, public=options.public))


def _adopt(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_version
    from fine_tuning.model_management.bundle import adopt
    from fine_tuning.model_management.hub import fetch
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.runs import only_one

    config = read_config(options)
    engine, name = connect_engine(options, config), model_name(options, config)
    config.runs_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.runs_dir, prefix=".adopt-") as temporary:
        folder = Path(options.place)
        if options.place.startswith("hf:"):
            folder = fetch(options.place.removeprefix("hf:"), Path(temporary) / "files")
        with only_one():
            version = adopt(engine, Registry(), folder, name, config.runs_dir, options.place)
    if options.json:
        print_json(options, of_version(version))
    else:
        tried = 'byoai compare "a question"'
        print(
            f"{version.tag} was added. The gate has not judged it on this machine: try `{tried}`, "
            f"then `byoai use {version.number}`"
        )


def _version(options: argparse.Namespace, config: "FineTuningConfig") -> "Version":
    """Return the version that the options name, by default the version in use.

    Raises ModelNotFound if there is no such version, or none is in use.
    """
    from fine_tuning.errors import ModelNotFound
    from fine_tuning.integration.ollama_integration import version_number
    from fine_tuning.model_management.model_registry import Registry

    name = model_name(options, config)
    if options.version:
        named = options.version.rpartition(":")[0]
        return Registry().get(named or name, version_number(options.version))
    if live := Registry().live(name):
        return live
    raise ModelNotFound(f"no version of {name} is live: name one (`byoai models` lists them)")


@contextmanager
def _watch() -> "Iterator[Watch]":
    from fine_tuning.cli.show import Terminal
    from fine_tuning.events import Watch

    with Terminal() as terminal:
        yield Watch(terminal, stop_on_signal())


def _agreed(options: argparse.Namespace, would: "Pushing", tag: str) -> bool:
    from fine_tuning.cli.prompts import confirmed

    seen = "you alone" if would.private else "EVERYBODY"
    what = f"{counted(len(would.files), 'file')}, {size(would.bytes)}"
    question = f"Push {tag} ({what}) to {would.url}, for {seen} to see?"
    return options.yes or confirmed(question)


def _show(options: argparse.Namespace, pushed: "Pushing") -> None:
    if options.json:
        print_json(options, pushed)
        return
    for name, bytes in pushed.files:
        print(f"  {size(bytes):>13}  {name}")
    seen = "you alone" if pushed.private else "public"
    print(f"{pushed.url} ({seen})" if pushed.done else f"nothing was sent; it would go to {pushed.url} ({seen})")
