"""The command completion: print a shell script that completes commands, options and names.

When the user presses Tab, the script calls `byoai`, and `complete` prints the completions.
"""

import argparse

from fine_tuning.cli.options import Commands

_START_FILES = {
    "bash": '~/.bashrc:   eval "$(byoai completion bash)"',
    "zsh": '~/.zshrc:   autoload -U compinit && compinit; eval "$(byoai completion zsh)"',
    "fish": "~/.config/fish/config.fish:   byoai completion fish | source",
}


def add_commands(commands: Commands) -> None:
    """Add the command of this module to the program."""
    lines = "\n".join(f"    {line}" for line in _START_FILES.values())
    command = commands.add(
        "completion",
        _run,
        "print a script that completes commands in your shell",
        epilog=f"put this into your shell's start file:\n{lines}\n",
        json=False,
    )
    command.add_argument("shell", choices=tuple(_START_FILES), help="the shell for which the script is written")


def complete(parser: argparse.ArgumentParser) -> None:
    """Print the completions that the shell asked for, and exit."""
    from argcomplete import autocomplete

    _add_names(parser)
    autocomplete(parser)


def _add_names(parser: argparse.ArgumentParser) -> None:
    """Add completers for the names of profiles, versions and jobs to a parser and its subparsers."""
    for action in parser._actions:
        if action.dest in _NAMES:
            action.completer = _NAMES[action.dest]  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _add_names(command)


def _profiles(**_: object) -> list[str]:
    from fine_tuning import paths

    return [file.stem for file in paths.DEFAULT_CONFIG.parent.glob("*.yaml") if file != paths.DEFAULT_CONFIG]


def _versions(**_: object) -> list[str]:
    from fine_tuning.model_management.model_registry import Registry

    return sorted({f"v{version.number}" for version in Registry().list()})


def _jobs(**_: object) -> list[str]:
    from fine_tuning.jobs import store

    return [job.id for job in store.find(limit=50)]


_NAMES = {"profile": _profiles, "version": _versions, "job": _jobs}
"""The completers by name of the option or argument."""


def _run(options: argparse.Namespace) -> None:
    from argcomplete import shellcode

    print(shellcode(["byoai"], shell=options.shell))
