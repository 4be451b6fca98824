# PYTHON_ARGCOMPLETE_OK
"""The entry point of `byoai`: parse the command line, run the command, turn errors into messages and exit codes.

Commands import heavy modules only when they run, so that `byoai --help` is fast.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from fine_tuning.cli import (
    chat,
    completion,
    conversations,
    imports,
    jobs,
    machine,
    models,
    publishing,
    serving,
    talk,
    tracking,
    training,
)
from fine_tuning.cli.options import Commands
from fine_tuning.errors import ByoaiError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name (default: sys.argv); return the exit code.

    Each kind of error has its own exit code (`byoai retrain --help` lists them).
    """
    _open_closed_streams()
    # print characters that the terminal's encoding lacks as escapes, and read bytes that are no text as U+FFFD
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(io.UnsupportedOperation):  # a program has read from stdin before it called this
                stream.reconfigure(errors=errors)
    try:
        return _run(arguments)
    finally:
        _flush()


def _open_closed_streams() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed, as after `>&-`.

    The next file that is opened would otherwise get the number of the closed one: what libraries
    print would be written into it, for example into the log of conversations.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r", encoding="utf-8"))


def _flush() -> None:
    """Write what was printed. If that fails, end the program with an exit code.

    Python itself would report such an error with a traceback when it ends.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be written
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        print(f"byoai: the output could not be written: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: Sequence[str] | None) -> int:
    whole = parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        completion.complete(whole)
    options = whole.parse_args(arguments)
    if options.command is None:
        whole.print_help()
        return ConfigError.exit_code
    # Limit how long OpenMP threads wait in a busy loop, which halves the speed where other programs need the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        _check_texts(options)
        with _only_json(options), _signals_as_before():
            return options.command(options) or 0
    except ByoaiError as error:
        print(f"byoai: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("byoai: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:  # noqa: BLE001 (unexpected errors: print a sentence, write the traceback to a file)
        from fine_tuning.paths import write_fault
        from fine_tuning.state import is_full

        if is_full(error):
            file = getattr(error, "filename", None)  # None: stdout, for example
            print(f"byoai: the disk is full{f' ({file})' if file else ''}: make room, and try again", file=sys.stderr)
            return 1
        print(f"byoai: {_explain(error)} The details are in {write_fault(error)}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM after the `with` block, for programs that call `main`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    about = "A chatbot on your own machine that learns from your own conversations."
    headings: dict[str, str] = {}
    whole = argparse.ArgumentParser(
        prog="byoai",
        description=about,
        epilog="`byoai COMMAND --help` explains a command and its options.",
        formatter_class=partial(_Listing, headings),
    )
    whole.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = Commands(whole)
    for heading, modules in _GROUPS.items():
        known = len(commands.names)
        for module in modules:
            module.add_commands(commands)
        headings[commands.names[known]] = heading
    return whole


_GROUPS = {
    "Chat": (chat, talk),
    "Conversations": (conversations, imports),
    "Learn": (training, jobs),
    "Versions": (models,),
    "Share": (publishing,),
    "Programs": (serving, tracking),
    "This machine": (machine, completion),
}


class _Listing(argparse.HelpFormatter):
    """A help formatter that lists the commands under headings."""

    def __init__(self, headings: Mapping[str, str], prog: str) -> None:
        """Set the headings. The key of each heading is the first command below it."""
        super().__init__(prog)
        self._headings = headings
        self._action_max_length = 16  # room for the longest command name

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # without the line "COMMAND" above all
            return self._join_parts(self._format_action(command) for command in self._iter_indented_subactions(action))
        told = super()._format_action(action)
        heading = self._headings.get(action.dest) if not action.option_strings else None
        return f"\n  {heading}:\n{told}" if heading else told


class _ShowVersion(argparse.Action):
    """Prints the version of the installed package and exits.

    The version is read from the package's metadata only here, since that costs time.
    """

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"byoai {version('byoai')}")
        except PackageNotFoundError:
            parser.exit(
                1,
                "byoai: the version is unknown, because the package is not installed: ./scripts/start.sh installs it\n",
            )
        parser.exit()


@contextlib.contextmanager
def _only_json(options: argparse.Namespace) -> Iterator[None]:
    """With `--json`, redirect all output within the `with` block to stderr, except that of `print_json`."""
    if not options.json:
        yield
        return
    options.facts_to = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _explain(error: Exception) -> str:
    """Return the message for an unexpected error: about the file for an OSError, else a request to report it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}. Is the disk full, or the folder read-only?"
    message = str(error).strip().partition("\n")[0]
    return (
        "a fault in byoai itself, not in what you did: "
        f"{type(error).__name__}{f': {message}' if message else ''}. Please report it."
    )


def _check_texts(options: argparse.Namespace) -> None:
    """Raise ConfigError for an argument that contains a NUL character, or a text that is not UTF-8.

    Paths may have any encoding.
    """
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if "\0" in str(text):
                raise ConfigError(f"{name}: {str(text)!r} contains a NUL character: leave it out")
            if isinstance(text, str) and not _is_unicode(text):
                raise ConfigError(f"{name}: {text!r} is not UTF-8 text: type it in a terminal whose encoding is UTF-8")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
