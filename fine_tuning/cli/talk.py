"""The command talk: chat in the terminal or through a pipe.

It uses the chat page's session (chatbot/session.py), which records turns and builds prompts.
"""

import argparse
import contextlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fine_tuning.cli.options import Commands, connect_engine, print_json, read_config, tag_that_answers
from fine_tuning.errors import ByoaiError, ConfigError, DataError

if TYPE_CHECKING:
    from chatbot.session import Answer, Chat
    from fine_tuning.config import FineTuningConfig
    from fine_tuning.conversation import Turn
    from fine_tuning.data_collection.conversation_logger import Rating
    from fine_tuning.engines.base import Engine

_HELP = """\
    /model [NAME]       choose the model that answers (base, live, v3, any tag);
                        without NAME: list the models
    /rate up|down|none  rate the last answer, or take the rating back
    /edit [TEXT]        replace the last answer by what it should have been
    /again              ask the last question again
    /new                begin a new conversation
    /help, /quit        show this; end (also Ctrl-D). Ctrl-C stops an answer
"""
_COMMAND = re.compile(r"/(\w+)(?:\s+(.*))?", re.DOTALL)
_PROMPT = ">>> "


def add_commands(commands: Commands) -> None:
    """Add the command of this module to the program."""
    talk = commands.add(
        "talk",
        _talk,
        "chat in the terminal",
        "Turns are recorded as on the chat page. In a pipe each line is a question, and its answer is printed as it is "
        "generated.",
        epilog=f"while you talk:\n{_HELP}",
    )
    talk.add_argument(
        "--model",
        metavar="NAME",
        help="the model that answers: base, live, v3, or any tag (default: as on the chat page)",
    )
    talk.add_argument(
        "--no-record", action="store_true", help="record nothing: the chat is lost at the end, and never learned"
    )


def _talk(options: argparse.Namespace) -> None:
    from chatbot.log_watch import keep_looking
    from chatbot.session import stop_all
    from fine_tuning.data_collection.conversation_logger import ConversationLogger

    config = read_config(options)
    ConversationLogger(config.log_path).check()
    talk = Talk(config, connect_engine(options, config), options)
    ended = threading.Event()
    threading.Thread(target=keep_looking, args=(ended,), name="log-watch", daemon=True).start()
    for number in ("SIGTERM", "SIGHUP"):  # SIGHUP, when the terminal is closed, does not exist on Windows
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), lambda *_: sys.exit(130))
    try:
        talk.run()
    finally:
        ended.set()
        stop_all()  # records unfinished answers


class Talk:
    """A chat that reads questions and commands from stdin, one per line.

    Answers go to stdout, everything else to stderr.
    """

    def __init__(self, config: "FineTuningConfig", engine: "Engine", options: argparse.Namespace) -> None:
        self._config, self._engine, self._options = config, engine, options
        self._interactive, self._over = sys.stdin.isatty(), False
        self._recording = config.data_collection.record and not options.no_record
        self._picked = self._tag_of(options.model) if options.model else None  # the chosen tag; None: the default
        self._who = ""  # title of the model that answered last
        self._chat = self._open()
        self._commands: dict[str, Callable[[str], None]] = {
            "model": self._model,
            "rate": self._rate,
            "edit": self._edit,
            "again": self._again,
            "new": self._new,
            "help": lambda _: _note(_HELP.rstrip("\n")),
            "quit": self._quit,
        }

    def run(self) -> None:
        """Process lines until the end of the input or /quit.

        In a terminal errors are printed; in a pipe the first error is raised.
        """
        if self._interactive:
            self._welcome()
        while not self._over and (line := self._read()) is not None:
            try:
                self._do(line.replace("\0", "").strip())
            except (ByoaiError, OSError) as error:
                if not self._interactive:
                    raise
                _note(f"byoai: {error}")

    def _do(self, line: str) -> None:
        command = _COMMAND.fullmatch(line)
        if command is None:
            if line:
                self._follow(self._chat.ask(self._engine, self._tag(), line))
        elif command[1] in self._commands:
            self._commands[command[1]]((command[2] or "").strip())
        else:
            raise ConfigError(f"there is no /{command[1]}: /help lists the commands")

    # Input and output

    def _welcome(self) -> None:
        self._tag()
        kept = "What you say is recorded on this machine, and the next version learns from it"
        _note(f"{kept if self._recording else 'Nothing is recorded'}. /help lists commands, Ctrl-D ends.")

    def _read(self) -> str | None:
        """Return the next line; None at the end of the input."""
        if not self._interactive:
            return sys.stdin.readline() or None
        with contextlib.suppress(ImportError):  # not available on Windows
            import readline  # noqa: F401  (enables line editing and history)
        while True:
            try:
                return _typed_line()
            except EOFError:
                _note("")
                return None
            except KeyboardInterrupt:
                _note("\n(Ctrl-D or /quit ends)")

    def _follow(self, answer: "Answer") -> None:
        """Print an answer while it is generated; Ctrl-C stops it. Raises the error that ended it, if any."""
        from fine_tuning.cli.show import visible

        shown = 0
        with _stopped_by_ctrl_c(answer):
            for text in answer.texts():
                if not self._options.json:
                    print(visible(text[shown:]), end="", flush=True)
                shown = len(text)
        if shown and not self._options.json:
            print(flush=True)
        self._ended(answer)
        if answer.stopping and not self._interactive and not answer.forgotten:
            raise KeyboardInterrupt

    def _ended(self, answer: "Answer") -> None:
        """Print how an answer ended if it was stopped or cut off; with `--json`, also print its turn.

        Raises the answer's error, if it has one.
        """
        turns, unfinished = self._chat.look()
        if answer.forgotten:
            _note("(the conversation was forgotten in the meantime, so this answer is not kept)")
        elif answer.error:
            raise answer.error
        elif unfinished is answer and not answer.incomplete:
            raise ByoaiError("the answer was lost because of a fault in byoai itself: ask again, and please report it")
        elif unfinished is answer:
            _note("(stopped before the first word: /again asks it once more)")
        else:
            if self._options.json:
                print_json(self._options, _facts(turns[-1]))
            if answer.incomplete:
                how = "stopped" if answer.incomplete == "stopped" else "cut off, because it was too long"
                _note(f"({how}; learned only if you rate it up or edit it)")

    # The model

    def _tag(self) -> str:
        """Return the tag of the model that answers now, and print its name if it has changed.

        As on the chat page, this is the model that the user chose, or else the default, which a
        retrain may have changed.
        """
        from fine_tuning.integration.ollama_integration import look

        models = look(self._engine, self._config)
        choice = models.get(self._picked) or models.default
        if choice is None:
            return tag_that_answers(self._engine, self._config)
        if (who := models.title(choice.tag)) != self._who and self._interactive:
            _note(
                f"{who} answers{' from here on' if self._who else ''}.{f' It was {choice.refused}' if choice.refused else ''}"  # noqa: E501
            )
            if models.lost:
                _note(models.lost)
        self._who = who
        return choice.tag

    def _tag_of(self, name: str) -> str:
        """Return the tag of the model `name`: "base", "live", a version such as "v3", or a tag.

        Raises ModelNotFound if there is no such model.
        """
        from fine_tuning.engines.base import known_tag
        from fine_tuning.model_management.compare import chosen_tags
        from fine_tuning.model_management.model_registry import Registry

        base = self._config.training.base_model
        known = known_tag(base, [model.tag for model in self._engine.list_models()])
        return chosen_tags(self._engine, Registry(), self._config.tuned_name(), known or base, [name])[0]

    def _model(self, name: str) -> None:
        from fine_tuning.integration.ollama_integration import look

        if name:
            self._picked = self._tag_of(name)
        models = look(self._engine, self._config)
        if models.default and self._picked == models.default.tag:
            self._picked = None  # choosing the default means to follow later changes of the default
        if name:
            self._tag()
            return
        now = models.get(self._picked) or models.default
        for choice in models.found:
            _note(f"{'*' if choice == now else ' '} {choice.tag}  {models.title(choice.tag)}")

    # Commands for the conversation and its last answer

    def _open(self) -> "Chat":
        from chatbot.session import open_chat

        chat = open_chat(
            self._config.log_path, None, self._config.data_collection.export_every, self._config.chat.max_tokens
        )
        chat.recording = self._recording
        return chat

    def _last(self) -> "Turn":
        """Return the last turn. Raises DataError if there is none, or if it was not recorded."""
        from chatbot.session import recorded

        turns, _ = self._chat.look()
        if not turns:
            raise DataError("there is no answer yet: ask something first")
        if not recorded(turns[-1]):
            raise DataError(
                "this answer was not recorded, and only recorded ones can be rated or edited: turn recording on "
                "(data_collection.record, and no --no-record), and ask again"
            )
        return turns[-1]

    def _rate(self, value: str) -> None:
        ratings: dict[str, Rating | None] = {"up": "up", "down": "down", "none": None}
        if value not in ratings:
            raise ConfigError("type /rate up, /rate down, or /rate none")
        self._chat.rate(self._last().id, ratings[value])
        _note(f"(rated {value})" if ratings[value] else "(the rating is taken back)")

    def _edit(self, text: str) -> None:
        last = self._last()
        if not text and self._interactive:
            text = _typed("The answer as it should have been: ", last.bot_response)
        if not text:
            raise ConfigError("type what the answer should have been: /edit TEXT")
        self._chat.edit(last.id, text)
        _note("(saved: your text is learned instead of the model's answer)")

    def _again(self, _: str) -> None:
        from fine_tuning.conversation import approved

        unfinished = self._chat.look()[1]
        if unfinished:
            self._follow(self._chat.ask(self._engine, self._tag(), unfinished.user_message))
        elif (turns := self._chat.look()[0]) and approved(turns[-1]):
            raise DataError(
                "the last answer was rated up or edited, so it is kept: take the rating back first, or ask in other "
                "words"
            )
        else:
            self._follow(self._chat.regenerate(self._engine, self._tag()))

    def _new(self, _: str) -> None:
        self._chat = self._open()
        _note("(a new conversation)")

    def _quit(self, _: str) -> None:
        self._over = True


def _facts(turn: "Turn") -> dict[str, object]:
    from chatbot.session import recorded

    facts = {name: turn.metadata.get(name) for name in ("model", "seconds", "tokens", "incomplete", "regenerates")}
    said = {"id": turn.id, "session_id": turn.session_id, "question": turn.user_message, "answer": turn.bot_response}
    return {**said, **facts, "recorded": recorded(turn)}


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _typed_line() -> str:
    if sys.stdout.isatty():
        return input(_PROMPT)
    print(_PROMPT, end="", file=sys.stderr, flush=True)  # redirected stdout gets answers only
    return input()


def _typed(prompt: str, before: str) -> str:
    """Ask the user for a line and return it; "" if the input ends or Ctrl-C is pressed.

    If the terminal supports it and `before` is a single line, the user can edit this text instead of
    typing from scratch.
    """
    line_editing = sys.modules.get("readline")
    if line_editing and "\n" not in before:
        line_editing.set_startup_hook(lambda: line_editing.insert_text(before))
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        return ""
    finally:
        if line_editing:
            line_editing.set_startup_hook(None)


@contextlib.contextmanager
def _stopped_by_ctrl_c(answer: "Answer") -> Iterator[None]:
    """Make Ctrl-C stop the answer within the `with` block; a second Ctrl-C raises KeyboardInterrupt."""

    def stop(*_: object) -> None:
        if answer.stopping:
            raise KeyboardInterrupt
        answer.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
