"""The commands about the log: find, review, forget, lineage, why, stats, data and export."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.cli.options import (
    Commands,
    add_dry_run,
    add_model_name,
    add_sample,
    choose_sample,
    connect_engine,
    count,
    model_name,
    positive,
    print_json,
    read_config,
    stop_on_signal,
)
from fine_tuning.errors import ConfigError, NoConversations, PromotionRefused, TurnNotFound
from fine_tuning.units import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fine_tuning.config import FineTuningConfig
    from fine_tuning.conversation import Conversation, Turn
    from fine_tuning.review import Candidate


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    find = commands.add(
        "find", _find, "search the recorded chats", "Lists the turns that contain all of the words, newest first."
    )
    find.add_argument(
        "words", nargs="+", metavar="WORD", help="a word to search for; upper and lower case do not matter"
    )
    find.add_argument("--count", type=positive, default=20, metavar="N", help="list at most N turns (default: 20)")

    review = commands.add(
        "review",
        _review,
        "rate or edit the answers that would teach the most",
        "With --json it only lists the answers.",
    )
    review.add_argument("--count", type=positive, default=10, metavar="N", help="show at most N answers (default: 10)")
    review.add_argument("--list", action="store_true", help="list the answers without asking you to rate them")

    _add_forget(commands)

    lineage = commands.add("lineage", _lineage, "show which versions learned a turn, or which turns taught a version")
    lineage.add_argument("turn", nargs="?", metavar="TURN|SESSION", help="the id of a turn or a session")
    lineage.add_argument("--version", type=count, metavar="N", help="list the turns that version N was trained on")
    add_model_name(lineage)

    _add_why(commands)

    commands.add("stats", _stats, "show how many chats are recorded, rated and edited")

    data = commands.add(
        "data",
        _data,
        "show what the next training would learn, and what it would leave out",
        "No model is loaded, and nothing is trained. `byoai retrain --dry-run` also counts tokens and estimates memory "
        "and time.",
    )
    add_sample(data)

    _add_export(commands)


def _add_forget(commands: Commands) -> None:
    forget = commands.add(
        "forget",
        _forget,
        "remove conversations, and everything that was made from them",
        "The turns are removed from the log, and so are the versions that learned them; a new version is trained "
        "without them.",
    )
    forget.add_argument(
        "what",
        nargs="?",
        metavar="TURN|SESSION",
        help="the id of a turn or a session (default, without --matching and --source too: go on with a stopped "
        "`forget`)",
    )
    forget.add_argument("--matching", metavar="TEXT", help="forget every turn that contains TEXT")
    forget.add_argument(
        "--source",
        metavar="NAME",
        help="forget everything that was imported from this source; `byoai import --list` shows the names",
    )
    forget.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    forget.add_argument(
        "--no-retrain",
        action="store_true",
        help="remove the versions that learned the turns, and train no new one",
    )
    forget.add_argument(
        "--now",
        action="store_true",
        help="remove the versions that learned the turns at once, before the new one is trained; the base model "
        "answers in the meantime",
    )
    add_dry_run(forget)


def _add_why(commands: Commands) -> None:
    why = commands.add(
        "why",
        _why,
        "show which turns an answer was learned from",
        "Of the turns that the answering version was trained on, it lists those that are most similar to the answer. "
        "For each it shows how much likelier the version finds the turn's answer than the base model does.",
    )
    why.add_argument("turn", nargs="?", metavar="TURN", help="the id of the turn whose answer is to be explained")
    why.add_argument("--last", action="store_true", help="use the newest answer that a fine-tuned version gave")
    why.add_argument("--count", type=positive, default=5, metavar="N", help="list at most N turns (default: 5)")
    why.add_argument(
        "--quick",
        action="store_true",
        help="only list the most similar turns, without loading the models that would compare likelihoods",
    )


def _add_export(commands: Commands) -> None:
    export = commands.add(
        "export",
        _export,
        "write the log for other programs",
        "The log is written as JSON Lines, JSON, CSV, Parquet and Markdown, and as training data in the format of "
        "data_preparation.format_type, or in the formats of --format. Training data are without answers that are rated "
        "down or incomplete. The other options select turns, like the filters "
        "of the page Data; excluded turns are left out.",
    )
    export.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="write only this format: jsonl, json, csv, parquet, markdown, chatml, sharegpt, alpaca, instruction, dpo "
        "or dpo-text; can be given several times",
    )
    export.add_argument(
        "--as",
        dest="kind",
        default="",
        choices=("jsonl", "csv", "parquet"),
        help="the file type for training data (default: jsonl, except for alpaca, which is written as JSON)",
    )
    export.add_argument("folder", type=Path, nargs="?", help="the folder to write to (default: data/exports)")
    export.add_argument("--text", default="", metavar="WORDS", help="only turns that contain all of these words")
    export.add_argument(
        "--state",
        default="",
        choices=("new", "learned", "kept", "dropped", "edited", "up", "down", "imported"),
        help="only turns in this state; kept and dropped: as cleaning decided when the page Data last looked through "
        "the turns",
    )
    export.add_argument("--model", default="", metavar="TAG", help="only turns that this model answered")
    export.add_argument(
        "--import", dest="imported", default="", metavar="ID", help="only turns of the import with this id"
    )


def _review(options: argparse.Namespace) -> None:
    from fine_tuning.cli.prompts import review
    from fine_tuning.cli.show import Terminal
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.events import Watch
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.review import worth_reviewing
    from fine_tuning.workshop import base_of

    config = read_config(options)
    log, live = ConversationLogger(config.log_path), Registry().live(config.tuned_name())
    found: list[Candidate] = []
    if turns := log.turns():
        engine = connect_engine(options, config)
        base = base_of(config, engine).tag
        with Terminal() as terminal:
            found = worth_reviewing(engine, turns, live.tag if live else base, base, options.count, Watch(terminal))
    if options.json:
        facts = [{"surprise": each.surprise, "shift": each.shift, "alike": each.alike} for each in found]
        print_json(
            options, *(each.turn.model_dump(mode="json") | more for each, more in zip(found, facts, strict=True))
        )
    elif options.list and found:
        _list_candidates(found)
    elif not found:
        print(f"nothing to review: {'every answer is rated or edited already' if turns else 'no chats are recorded'}")
    else:
        print(f"rated or edited: {review(log, found)} of {counted(len(found), 'answer')}")


def _list_candidates(candidates: "Sequence[Candidate]") -> None:
    for each in candidates:
        print(f"{each.turn.id}  {each.worth:.2f}  {_first_words(each.turn)}")


def _find(options: argparse.Namespace) -> None:
    from fine_tuning.cli.show import show_turns
    from fine_tuning.data_collection.conversation_logger import ConversationLogger

    log = ConversationLogger(read_config(options).log_path)
    found = log.search(" ".join(options.words), options.count)
    if options.json:
        print_json(options, *(turn.model_dump(mode="json") for turn in found))
    elif not found:
        print(f"no recorded turn contains {' and '.join(map(repr, options.words))}: try other words")
    else:
        show_turns(found)


def _forget(options: argparse.Namespace) -> int:
    from fine_tuning.cli.facts import of_case, of_forgotten
    from fine_tuning.cli.prompts import confirmed
    from fine_tuning.cli.show import Terminal, show_case, show_forgotten
    from fine_tuning.events import Watch
    from fine_tuning.forgetting import examine, forget, held_elsewhere
    from fine_tuning.jobs.doing import listed
    from fine_tuning.jobs.kinds import ForgetRequest

    config = read_config(options)
    engine = connect_engine(options, config)
    case = examine(config, engine, *filter(None, [options.what]), matching=options.matching, source=options.source)
    elsewhere = [] if case.turns else held_elsewhere(config, case)
    if not case.turns and not elsewhere:
        print(f"nothing to forget: neither the log nor another file of the data folder contains {options.matching!r}")
        if options.json:
            print_json(options, of_case(case, elsewhere))
        return 0
    if options.dry_run and options.json:
        print_json(options, of_case(case, elsewhere))
        return 0
    show_case(case, elsewhere)
    if options.dry_run:
        return 0
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError(
            "forgetting cannot be undone, and this is not a terminal, so nobody can confirm it: add --yes"
        )
    if not options.yes and not confirmed("Forget this for good?"):
        return 0
    teach_again = not options.no_retrain
    asked = ForgetRequest(
        config=config, ollama_url=options.ollama_url, turns=case.turns, teach_again=teach_again, now=options.now
    )
    with Terminal() as terminal, listed("forget", asked, Watch(terminal, stop_on_signal())) as watch:
        outcome = forget(config, engine, watch, case, teach_again=teach_again, now=options.now)
    if options.json:
        print_json(options, of_forgotten(outcome))
    else:
        show_forgotten(outcome)
    return PromotionRefused.exit_code if outcome.unfinished else int(bool(outcome.left or outcome.strangers))


def _lineage(options: argparse.Namespace) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.model_management.model_registry import Registry

    if (options.turn is None) == (options.version is None):
        raise ConfigError("name either a turn (or a session), or a version with --version N")
    config, registry = read_config(options), Registry()
    said = {turn.id: turn for turn in ConversationLogger(config.log_path).turns(include_excluded=True)}
    if options.version is not None:
        version = registry.get(model_name(options, config), options.version)
        taught = registry.turns_of(version.name, version.number)
        if options.json:
            asked = {id: turn.user_message for id, turn in said.items()}
            print_json(
                options, *({"turn": id, "version": version.tag, "user_message": asked.get(id)} for id in sorted(taught))
            )
        else:
            _list_teachers(version.tag, taught, said)
        return
    for id in [turn.id for turn in said.values() if options.turn in (turn.id, turn.session_id)] or [options.turn]:
        versions = registry.versions_of_turn(id)
        if id not in said and not versions:
            raise TurnNotFound(
                f"there is no turn or session {id!r}: `byoai find WORD` searches the log and shows the ids"
            )
        if options.json:
            print_json(options, {"turn": id, "versions": [{"tag": each.tag, "state": each.state} for each in versions]})
            continue
        print(f"{id}  {', '.join(f'{each.tag} ({each.state})' for each in versions) or 'no version has learned it'}")


def _why(options: argparse.Namespace) -> None:
    from fine_tuning.cli.facts import of_learned_from
    from fine_tuning.cli.show import show_learned_from
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.integration.learned_from import learned_from, newest_answer, with_likelihoods
    from fine_tuning.model_management.model_registry import Registry

    if (options.turn is None) == (not options.last):
        raise ConfigError("name either the id of a turn, or --last for the newest answer")
    config = read_config(options)
    log = ConversationLogger(config.log_path)
    turn = options.turn or newest_answer(log, config.deployment.model_name_prefix)
    found = learned_from(log, Registry(), turn, options.count)
    if not options.quick:
        found = with_likelihoods(found, connect_engine(options, config))
    if options.json:
        print_json(options, of_learned_from(found))
    else:
        show_learned_from(found)


def _list_teachers(tag: str, taught: set[str], said: "Mapping[str, Turn]") -> None:
    """Print the turns that a version was trained on: first those in the log, then those that the log no longer has."""
    for id in [*(id for id in said if id in taught), *sorted(taught - said.keys())]:
        print(f"{id}  {_first_words(said[id]) if id in said else '(no longer in the log)'}")
    print(f"{tag} was trained on {counted(len(taught), 'turn')}")


def _first_words(turn: "Turn") -> str:
    return " ".join(turn.user_message.split())[:80]


def _stats(options: argparse.Namespace) -> None:
    from fine_tuning.cli.show import show_stats
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.planning import count_new

    config = read_config(options)
    log = ConversationLogger(config.log_path)
    stats, new = log.get_conversation_stats(), count_new(config, log, Registry())
    if options.json:
        print_json(options, {**stats, "new_turns": new})
    else:
        show_stats(stats, new)


def _data(options: argparse.Namespace) -> None:
    from fine_tuning.cli.show import show_plan
    from fine_tuning.survey import survey

    choose_sample(options)
    found = survey(read_config(options), sample=options.sample)
    if options.json:
        print_json(options, found)
    else:
        show_plan(found)


def _export(options: argparse.Namespace) -> None:
    from fine_tuning.data_collection.data_export import LOG_FORMATS, DataExporter, check_records, exporting, in_file

    config = read_config(options)
    if options.format:
        formats = [in_file(format, options.kind) for format in options.format]
    else:
        formats = [*LOG_FORMATS, in_file(config.data_preparation.format_type, options.kind)]
    with exporting():
        conversations = _to_export(options, config)
        for format in formats if options.format else ():
            check_records(conversations, format)
        files = DataExporter(options.folder).export(conversations, formats)
    for format, path in files.items():
        if options.json:
            print_json(options, {"format": format, "path": path})
        else:
            print(f"{format}: {path}")


def _to_export(options: argparse.Namespace, config: "FineTuningConfig") -> "list[Conversation]":
    """Return the wanted conversations, without excluded turns. Raises NoConversations if there are none."""
    from fine_tuning.conversation import conversations_of
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.log import turn_list
    from fine_tuning.data_collection.log.turn_list import Wanted
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.planning import learned

    log = ConversationLogger(config.log_path)
    wanted = Wanted(text=options.text, state=options.state, model=options.model, imported=options.imported)
    if wanted == Wanted():
        conversations = log.conversations()
    else:
        known = learned(config, log, Registry())
        turns = log.index.turns(turn_list.ids(log.index, known, wanted))
        conversations = conversations_of(turn for turn in turns if not turn.metadata.get("excluded"))
        if not conversations:
            raise NoConversations(
                f"nothing to export, and nothing was written: no turn of {log.path} matches the options"
            )
    if not conversations:
        left_out = "only excluded turns" if log.turns(include_excluded=True) else "no turns"
        raise NoConversations(
            f"nothing to export, and nothing was written: {log.path} holds {left_out}. Chat first, with recording on"
        )
    return conversations
