"""The command import: import chats and documents into the log, list the imports, and undo an import."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, cast

from fine_tuning.cli.options import Commands, print_json, read_config, stop_on_signal
from fine_tuning.errors import ConfigError
from fine_tuning.events import Watch
from fine_tuning.units import counted

if TYPE_CHECKING:
    from fine_tuning.config import FineTuningConfig
    from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase
    from fine_tuning.data_collection.importers.importing import Imported, Report
    from fine_tuning.jobs.kinds import ImportRequest

_LOOK = 1_000  # maximum number of turns that are read for the preview before the confirmation
_EPILOG = """\
formats (detected automatically):
    exports of ChatGPT, Claude, DeepSeek, Gemini, Grok, Open WebUI, LM Studio,
    Jan, SillyTavern, text-generation-webui, llm, WhatsApp, Telegram,
    Messenger, Instagram, Discord, Slack and many others (docs/importing.md);
    messages, ShareGPT, Alpaca, Dolly, OpenAssistant, prompt and completion,
    preference pairs, tables with a column of questions and one of answers (CSV,
    TSV, Parquet), dialogues in plain text and Markdown;
    hf:owner/name, or hf:owner/name:CONFIG:SPLIT for a part of the dataset;
    module:function of your own
documents (--as document): Markdown, plain text, PDF, HTML and .docx, of which
    questions and answers are made, quoted from the text
"""


def add_commands(commands: Commands) -> None:
    """Add the command of this module to the program."""
    command = commands.add("import", _run, "read chats from elsewhere into the log", epilog=_EPILOG)
    command.add_argument(
        "place",
        nargs="*",
        metavar="FILE|FOLDER",
        help="a file, a folder, a ZIP archive, or hf:owner/name:CONFIG:SPLIT for a dataset of the Hugging Face hub",
    )
    command.add_argument(
        "--format",
        "--as",
        default="",
        metavar="NAME",
        help="the format of the files, if it is not detected; or a function of your own, as module:function",
    )
    command.add_argument(
        "--me",
        default="",
        metavar="NAME",
        help="for a chat between people: the name of the person whose messages are used as the answers",
    )
    command.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="the licence of the chats, which is recorded with each turn "
        "(default: the one that a dataset's card states)",
    )
    command.add_argument(
        "--source", default="", metavar="NAME", help="what to call the source (default: the file's name)"
    )
    command.add_argument(
        "--task",
        default="",
        metavar="NAME",
        help="a label for all these chats, such as summarization, for which mix.shares and mix.repeats can set how "
        "often they are learned (default: the label that the file states for each)",
    )
    command.add_argument(
        "--branches",
        choices=("best", "all"),
        default="best",
        help="which answers to keep where a question has several (default: best)",
    )
    command.add_argument(
        "--judge",
        default="",
        metavar="MODEL",
        help="also let this model of the engine judge each pair made from a document",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="read everything, show what would be added, and write nothing"
    )
    command.add_argument("--undo", metavar="ID", help="undo an import: remove all its turns from the log")
    command.add_argument("--list", action="store_true", help="list the imports that are in the log")
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _run(options: argparse.Namespace) -> None:
    """Import, list the imports, or undo an import, as the options say."""
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import imports, undo

    if bool(options.place) + bool(options.undo) + options.list != 1:
        raise ConfigError("name a file or folder to import, or use --list or --undo ID")
    config = read_config(options)
    log = ConversationLogger(config.log_path)
    if options.list and options.json:
        print_json(options, *imports(log))
    elif options.list:
        _show_imports(imports(log))
    elif options.undo:
        if _confirmed(options, f"Remove all turns of the import {options.undo} from the log?"):
            taken = undo(log, options.undo)
            if options.json:
                print_json(options, {"id": options.undo, "taken_back": taken})
            else:
                print(
                    f"{counted(taken, 'turn')} removed from the log. Versions that learned them are kept: "
                    "`byoai models` lists them"
                )
    else:
        _import(config, options)


def _import(config: "FineTuningConfig", options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_import
    from fine_tuning.cli.show import Terminal
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import preview
    from fine_tuning.jobs.doing import import_here
    from fine_tuning.jobs.kinds import read_request

    asked = {
        "config": config,
        "places": tuple(map(_from_anywhere, options.place)),
        "format": _from_anywhere(options.format) if ".py:" in options.format else options.format,
        **{name: getattr(options, name) for name in ("me", "licence", "source", "task", "branches", "judge")},
    }
    request = cast("ImportRequest", read_request("import", asked))
    if options.dry_run or not options.yes:
        found = preview(
            ConversationLogger(config.log_path),
            request.places,
            request.wanted(),
            limit=None if options.dry_run else _LOOK,
        )
        if options.dry_run and options.json:
            print_json(options, of_import(found, written=False))
            return
        read = "" if found.is_whole else f", of the first {counted(found.turns, 'turn')}"
        _show(found, f"would be added{read}")
        if options.dry_run or not _confirmed(options, "Import?"):
            return
    stopping = stop_on_signal()
    with Terminal() as terminal:
        done = import_here(request, Watch(terminal, stopping))
    if options.json:
        print_json(options, of_import(done, written=True))
        return
    _show(done, "added")
    if done.added:
        print(f"To undo this import: byoai import --undo {done.id}")
    if done.added and "document" in done.formats:
        print("To train on this document: byoai retrain --profile handbook")


def _from_anywhere(place: str) -> str:
    """Return the absolute path of a file; `hf:owner/name` unchanged.

    A relative path would be wrong in a resumed job, which may run in another folder.
    """
    # unlike pathlib's functions, these two leave a path with an unknown ~user unchanged
    return place if place.startswith("hf:") else os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111


def _confirmed(options: argparse.Namespace, question: str) -> bool:
    from fine_tuning.cli.prompts import confirmed

    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("nobody can confirm this, because the input is not a terminal: add --yes")
    return options.yes or confirmed(question)


def _short(text: str) -> str:
    """Return at most the first 60 characters of a text, quoted, with control characters escaped."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else f"{flat[:59]}…")


def _show(report: "Report", what: str) -> None:
    formats = ", ".join(f"{count} of {name}" for name, count in report.formats.items())
    known = f"; {report.known:,} known already, deleted from the log earlier, or found twice" * bool(report.known)
    conversations = f"{report.conversations}{f' ({formats})' if formats else ''}"
    print(f"{counted(report.added, 'turn')} {what}{known}. Conversations: {conversations}")
    for turn in report.first:
        print(f"  {turn.timestamp[:16].replace('T', ' ')}  {_short(turn.user_message)} -> {_short(turn.bot_response)}")
    if report.is_whole and report.added > report.logged > 0:
        share = 100 * report.added // (report.added + report.logged)
        print(
            f"Imported turns make up {share} % of the log now: the setting mix.largest_share limits their share of "
            "the training data"
        )
    _show_planted(report.planted)
    if report.context:
        print(f"not learned: {counted(report.context, 'answer')} that the source marks as context for later ones")
    if report.unanswered:
        print(f"left out: {counted(report.unanswered, 'conversation')} without any answered question")
    if report.open_questions:
        print(f"left out of the other conversations: {counted(report.open_questions, 'question')} without an answer")
    if report.set_aside:
        noun = "question" if set(report.formats) == {"document"} else "record"
        print(f"left out: {counted(report.set_aside, noun)}, for these reasons:")
        for fault in report.faults:
            print(f"  {fault.place}: {fault.reason}")
    if report.unread_count:
        print(
            f"skipped: {counted(report.unread_count, 'file')} in an unknown format (name it with --format): "
            f"{', '.join(report.unread)}"
        )


def _show_planted(found: "list[PlantedPhrase]") -> None:
    from fine_tuning.data_collection.cleaning.planted_phrases import WARNING, title_of

    if not found:
        return
    print(f"{title_of(found)}. {WARNING}")
    for each in found:
        print(f"  {_short(each.text)}, {each.where}:")
        for question, answer in each.examples:
            print(f"    {_short(question)} -> {_short(answer)}")


def _show_imports(found: "list[Imported]") -> None:
    for each in found:
        licence = f", {each.source['licence']}" if "licence" in each.source else ""
        print(
            f"{each.id}  {counted(each.turns, 'turn'):>12}  {each.source.get('name', '')} "
            f"({each.source.get('format', '')}{licence})"
        )
    if not found:
        print("no imports in the log")
