"""`byoai completion`: what makes a shell complete commands, options and names."""

import argparse

from fine_tuning.cli.options import Commands

_START_FILES = {
    "bash": '~/.bashrc:   eval "$(byoai completion bash)"',
    "zsh": '~/.zshrc:   autoload -U compinit && compinit; eval "$(byoai completion zsh)"',
    "fish": "~/.config/fish/config.fish:   byoai completion fish | source",
}


def add_commands(commands: Commands) -> None:
    """Add the command of this group."""
    lines = "\n".join(f"    {line}" for line in _START_FILES.values())
    command = commands.add(
        "completion",
        _run,
        "print what lets a shell complete what you type",
        epilog=f"put this into your shell's start file:\n{lines}\n",
        json=False,
    )
    command.add_argument("shell", choices=tuple(_START_FILES), help="which shell")


def _run(options: argparse.Namespace) -> None:
    from argcomplete import shellcode

    print(shellcode(["byoai"], shell=options.shell))
