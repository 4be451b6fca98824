"""The `byoai` command: the only place that prints or exits.

Heavy imports wait until a command needs them, so that `byoai --help` answers at once.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tuning.errors import ByoaiError, ConfigError, GateRefused

if TYPE_CHECKING:
    from fine_tuning.config import FineTuningConfig
    from fine_tuning.engines.base import Engine
    from fine_tuning.pipeline import Outcome

EXIT_CODES = """\
exit codes:
  0  done, or (--if-new) nothing to do     5  training failed: memory, model, checkpoint
  1  any other error                       6  export failed: disk space, unsupported weights
  2  wrong configuration or arguments      7  the new model was refused; the live one still answers
  3  no, too few or unusable conversations 8  another retrain is running
  4  engine: not running, too old, unknown model        9  (scripts/retrain.sh) the set-up failed
  10 the gate refused the new version: kept as a candidate; the live one still answers
  130  stopped; the next retrain goes on from there
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's own (`byoai retrain --help` lists them)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal's encoding has no sign for is shown as its code
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    # Threads that spin while they wait for each other halve the speed on a busy machine; with a short spin nothing is lost on a free one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        _check_texts(options)
        return options.command(options) or 0
    except ByoaiError as error:
        print(f"byoai: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("byoai: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:  # noqa: BLE001 (the last guard: a person gets a sentence, and the traceback goes where it can be sent from)
        from fine_tuning.paths import write_fault

        print(f"byoai: {_told(error)} The details are in {write_fault(error)}", file=sys.stderr)
        return 1


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}. Is the disk full, or the folder read-only?"
    said = str(error).strip().partition("\n")[0]
    return f"a fault in byoai itself, not in what you did: {type(error).__name__}{f': {said}' if said else ''}. Please report it."


def _check_texts(options: argparse.Namespace) -> None:
    """ConfigError for an argument that is no text: bytes that are not UTF-8 (but in a path, where they may stand), or NUL."""
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if "\0" in str(text):
                raise ConfigError(f"{name}: {str(text)!r} holds a NUL character")
            if isinstance(text, str) and not _is_unicode(text):
                raise ConfigError(f"{name}: {text!r} is not UTF-8 text: type it in a terminal whose encoding is UTF-8")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="configuration instead of config/fine_tuning_config.yaml")
    shared.add_argument("--profile", metavar="NAME", help="config/NAME.yaml over the configuration")
    shared.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one value, e.g. training.num_epochs=5")
    shared.add_argument("--ollama-url", metavar="URL", help="the engine (default: OLLAMA_HOST, else the configuration)")

    parser = argparse.ArgumentParser(prog="byoai", description="A chatbot on your own machine that learns from your own conversations.")
    parser.add_argument("--version", action="version", version="byoai 0.1.0")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], help: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=help, description=help, parents=[shared], formatter_class=argparse.RawDescriptionHelpFormatter, **more
        )
        command.set_defaults(command=run)
        return command

    chat = add("chat", _chat, "open the chat in the browser")
    chat.add_argument("--port", type=_port, help="default: 8501, or the next free one")
    chat.add_argument("--no-browser", action="store_true", help="only serve")

    retrain = add("retrain", _retrain, "learn from the chats, and make the new version live", epilog=EXIT_CODES)
    retrain.add_argument("--sample", action="store_true", help="learn the shipped sample (profile `sample`) instead of your chats")
    retrain.add_argument(
        "--if-new", type=_count, metavar="N", help="do nothing with fewer than N new turns since the last version (for cron)"
    )
    retrain.add_argument("--dry-run", action="store_true", help="show what would be learned, and the memory and time it would take")
    retrain.add_argument(
        "--auto", action="store_true", help="compute less at once, or lower length or rank, until the training fits into the memory"
    )
    retrain.add_argument("--force", action="store_true", help="go on with little data")
    retrain.add_argument("--few-shot", action="store_true", help="for 5 to 50 pairs (profile `few_shot`): small steps, and an early end")
    retrain.add_argument("--promote", action="store_true", help="make the version live although the gate refuses it; this is noted")

    sweep = add("sweep", _sweep, "search for better training settings; the best are a configuration to retrain with", epilog=EXIT_CODES)
    sweep.add_argument("--sample", action="store_true", help="on the shipped sample (profile `sample`) instead of your chats")
    sweep.add_argument("--sampler", choices=("tpe", "grid"), help="default: sweep.sampler of the configuration, and so on")
    sweep.add_argument("--trials", type=_count, metavar="N", help="trainings in all, those of before and of other processes counted")
    sweep.add_argument("--minutes", type=float, metavar="M", help="begin no trial, and go on with none, after M minutes")
    sweep.add_argument("--name", help="of the study (default: one for each dataset, base and ranges); the same name goes on with it")
    sweep.add_argument("--retrain", action="store_true", help="then retrain with the best settings")
    sweep.add_argument(
        "--auto", action="store_true", help="compute less at once, or lower length or rank, until the training fits into the memory"
    )
    sweep.add_argument("--force", action="store_true", help="go on with little data")

    ask = add("ask", _ask, "ask one question in the terminal")
    ask.add_argument("question")
    ask.add_argument("--model", help="a tag (default: the live fine-tuned model, else the base)")

    compare = add("compare", _compare, "several models answer the same prompts, side by side; or blind, for a vote")
    compare.add_argument("prompt", nargs="+")
    compare.add_argument("--models", metavar="A,B", help="base, live, v3, or any tag (default: base,live)")
    compare.add_argument("--run", type=Path, metavar="RUN", help="what a run of prefix or prompt tuning trained, which is no version")
    compare.add_argument("--blind", action="store_true", help="two of them, unnamed and in random order; your vote makes their Elo")
    compare.add_argument("--max-tokens", type=_positive, metavar="N", help="of an answer")
    review = add("review", _review, "rate or edit the answers that teach the most")
    review.add_argument("--count", type=_positive, default=10, metavar="N")
    review.add_argument("--list", action="store_true", help="only list them")
    review.add_argument("--json", action="store_true", help="only list them, an object a line")

    models = add("models", _models, "list the base models and the versions of the fine-tuned one; pin, label and annotate them")
    models.add_argument("--pin", type=_count, metavar="N", help="never prune version N")
    models.add_argument("--unpin", type=_count, metavar="N")
    models.add_argument("--note", nargs=2, metavar=("N", "TEXT"), help="a note of your own on version N")
    models.add_argument("--label", nargs=2, metavar=("N", "A,B"), help='labels of version N, in place of those it has ("" for none)')
    use = add("use", _use, "make a version live")
    use.add_argument("version", help="a number, or a tag such as fine_tuned_smollm2-135m:v2")
    use.add_argument("--promote", action="store_true", help="also one that the gate refused; this is noted")
    rollback = add("rollback", _rollback, "make the version live that was so before, or let the base answer")
    prune = add("prune", _prune, "remove old versions, with their runs: all but the live one, the one before it, and the pinned ones")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    forget = add("forget", _forget, "remove what was said from the log and all that was made of it, and the versions that learned it")
    forget.add_argument(
        "what", nargs="?", metavar="TURN|SESSION", help="an id; without, and without --matching: go on with an interrupted one"
    )
    forget.add_argument("--matching", metavar="TEXT", help="every turn that holds this text")
    forget.add_argument("--dry-run", action="store_true", help="only say what would go")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.add_argument("--no-retrain", action="store_true", help="remove the versions that learned it without making a new one")
    forget.add_argument("--now", action="store_true", help="remove them before the new one is made: until then the base answers")
    lineage = add("lineage", _lineage, "say which versions learned a turn, or which turns taught a version")
    lineage.add_argument("turn", nargs="?", metavar="TURN|SESSION")
    lineage.add_argument("--version", type=_count, metavar="N")
    for command in (models, use, rollback, prune, lineage):
        command.add_argument("--name", help="the fine-tuned model (default: that of the configuration)")
    add("stats", _stats, "say what the log holds")
    export = add("export", _export, "write the log in all formats for other programs")
    export.add_argument("folder", type=Path, nargs="?", help="default: data/exports")
    add("doctor", _doctor, "check disk, memory, log, engines, base, versions and template, each model with a question; say what to do")
    add("prepare", _prepare, "make sure that there are an engine and a base model")
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return what argparse makes a whole number of, within these ends."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {least} to {most}")
        return int(text)

    return number


_count, _positive, _port = _whole(0, 2**31 - 1), _whole(1, 2**31 - 1), _whole(1, 65_535)


# Commands


def _chat(options: argparse.Namespace) -> None:
    from chatbot.server import PORT, free_port, serve, url

    if options.ollama_url:
        os.environ["OLLAMA_HOST"] = options.ollama_url  # the page connects by itself
    port = options.port or free_port(PORT)
    print(f"The chat is at {url(port)} (Ctrl-C ends it)", flush=True)
    serve(port, browser=not options.no_browser)


def _retrain(options: argparse.Namespace) -> int:
    from fine_tuning.pipeline import Request, make_plan, retrain
    from fine_tuning.terminal import Terminal, show_plan

    if options.sample and not options.profile:
        options.profile = "sample"
    if options.few_shot:
        options.profile = f"{options.profile},few_shot" if options.profile else "few_shot"
    config = _config(options)
    stopped = _stops()
    terminal = Terminal()
    request = Request(options.sample, options.if_new, options.force, options.auto, options.promote, lambda: bool(stopped))
    with terminal:
        if options.dry_run:
            plan = make_plan(config, _engine(options, config), terminal, request)
        else:
            outcome = retrain(config, _engine(options, config), terminal, request)
    if options.dry_run:
        show_plan(plan, config)
        return 0
    return _ended(outcome)


def _sweep(options: argparse.Namespace) -> int:
    from fine_tuning.config import load_config
    from fine_tuning.pipeline import Request, retrain, sweep
    from fine_tuning.terminal import Terminal, show_found

    if options.sample and not options.profile:
        options.profile = "sample"
    for key in ("sampler", "trials", "minutes"):
        if getattr(options, key) is not None:
            options.set.append(f"sweep.{key}={getattr(options, key)}")
    config = _config(options)
    engine, stopped = _engine(options, config), _stops()
    request = Request(sample=options.sample, force=options.force, auto=options.auto, cancelled=lambda: bool(stopped))
    with Terminal() as terminal:
        found = sweep(config, engine, terminal, request, options.name)
    show_found(found)
    if options.retrain:
        with Terminal() as terminal:
            outcome = retrain(load_config(found.folder / "best.yaml"), engine, terminal, request)
        return _ended(outcome)
    return 0


def _ended(outcome: "Outcome") -> int:
    from fine_tuning.terminal import show_outcome

    show_outcome(outcome)
    refused = outcome.verdict and not outcome.verdict.passed and not outcome.live
    return GateRefused.exit_code if refused else 0


def _ask(options: argparse.Namespace) -> None:
    from fine_tuning.conversation import Message

    config = _config(options)
    engine = _engine(options, config)
    tag = options.model or _answering(engine, config)
    for chunk in engine.chat(tag, [Message(role="user", content=options.question)]):
        print(chunk.text, end="", flush=True)
    print()


def _answering(engine: "Engine", config: "FineTuningConfig") -> str:
    from fine_tuning.engines.default_base import ensure_some_model
    from fine_tuning.model_management.model_registry import latest_tag

    base, there = config.training.base_model, [model.tag for model in engine.list_models()]
    wanted = (latest_tag(config.tuned_name()), base, f"{base}:latest")
    return next((tag for tag in wanted if tag in there), None) or ensure_some_model(engine)


def _models(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.model_deployer import reconcile
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.terminal import show_models

    config = _config(options)
    registry = Registry()
    for number, changes in _changes(options):
        registry.update(options.name or config.tuned_name(), number, **changes)
    engine = _engine(options, config)
    for name in {version.name for version in registry.list()}:
        for finding in reconcile(engine, registry, name):
            print(finding.text)
    show_models(engine, registry, config.deployment.model_name_prefix)


def _compare(options: argparse.Namespace) -> None:
    import random

    from fine_tuning.dialogue import compare, compare_blind
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.model_management.compare import chosen_tags
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.pipeline import answers_of_run, base_of
    from fine_tuning.terminal import show_answers

    config = _config(options)
    if options.run:
        if options.blind or options.models:
            raise ConfigError("--run compares one run with its base: leave out --models and --blind")
        show_answers(answers_of_run(config, _engine(options, config), options.run, options.prompt, options.max_tokens))
        return
    engine, wanted = _engine(options, config), options.models.split(",") if options.models else []
    tags = chosen_tags(engine, Registry(), config.tuned_name(), base_of(config, engine).tag, wanted)
    chat = ChatOptions(max_tokens=options.max_tokens)
    if options.blind and len(tags) < 2:
        raise ConfigError(f"a blind comparison needs two models, not only {tags[0]}: --models A,B")
    if options.blind:
        compare_blind(engine, tags, options.prompt, chat, random.Random())
    else:
        compare(engine, tags, options.prompt, chat)


def _review(options: argparse.Namespace) -> None:
    import json

    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.dialogue import review
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.pipeline import base_of
    from fine_tuning.review import worth_reviewing
    from fine_tuning.terminal import Terminal

    config = _config(options)
    log, live = ConversationLogger(config.log_path), Registry().live(config.tuned_name())
    engine = _engine(options, config)
    base = base_of(config, engine).tag
    with Terminal() as terminal:
        report = (lambda done, total: None) if options.json else terminal.count
        found = worth_reviewing(engine, log.turns(), live.tag if live else base, base, options.count, report)
    if not options.list and not options.json:
        print(f"{review(log, found)} of {len(found)} judged" if found else "nothing to review: every answer was judged already")
        return
    for each in found:
        if options.json:
            facts = {"surprise": each.surprise, "shift": each.shift, "alike": each.alike}
            print(json.dumps({**each.turn.model_dump(), **facts}, ensure_ascii=False))
        else:
            print(f"{each.turn.id}  {each.worth:.2f}  {' '.join(each.turn.user_message.split())[:80]}")


def _changes(options: argparse.Namespace) -> list[tuple[int, dict[str, Any]]]:
    """What `byoai models` is asked to change: a version's number, and how."""
    changes: list[tuple[int, dict[str, Any]]] = [
        (number, {"pinned": pinned}) for number, pinned in ((options.pin, True), (options.unpin, False)) if number is not None
    ]
    if options.note:
        changes.append((_number(options.note[0]), {"notes": options.note[1]}))
    if options.label:
        labels = [label.strip() for label in options.label[1].split(",")]
        changes.append((_number(options.label[0]), {"labels": [label for label in labels if label]}))
    return changes


def _number(text: str) -> int:
    found = re.fullmatch(r"v?([0-9]{1,18})", text.rpartition(":")[2])
    if not found:
        raise ConfigError(f"{text[:80]!r} is no version: give its number (byoai models lists them)")
    return int(found[1])


def _prune(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.model_pruner import prune
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.pipeline import only_one
    from fine_tuning.terminal import show_pruned

    config = _config(options)
    engine, name = _engine(options, config), options.name or config.tuned_name()
    with only_one():  # a retrain's run looks unfinished
        found = prune(engine, Registry(), name, config.runs_dir, options.dry_run)
    show_pruned(found, options.dry_run)


def _use(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.model_management.model_switcher import use

    number, name = _number(options.version), options.version.rpartition(":")[0]
    config = _config(options)
    name = name or options.name or config.tuned_name()
    version = use(_engine(options, config), Registry(), name, number, by_hand=options.promote)
    print(f"{version.tag} is live")


def _rollback(options: argparse.Namespace) -> None:
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.model_management.model_switcher import rollback

    config = _config(options)
    name = options.name or config.tuned_name()
    version = rollback(_engine(options, config), Registry(), name)
    print(f"{version.tag} is live again" if version else f"no version of {name} is live any more: the base answers")


def _forget(options: argparse.Namespace) -> int:
    from fine_tuning.errors import PromotionRefused
    from fine_tuning.forgetting import examine, forget, held_elsewhere
    from fine_tuning.terminal import Terminal, confirmed, show_case, show_forgotten

    config = _config(options)
    engine = _engine(options, config)
    case = examine(config, engine, options.what, options.matching)
    elsewhere = [] if case.turns else held_elsewhere(config, case)
    if not case.turns and not elsewhere:
        print(f"nothing holds {options.matching!r}: no turn of the log, and no other file of the data folder. There is nothing to forget")
        return 0
    show_case(case, elsewhere)
    if options.dry_run:
        return 0
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("forgetting cannot be undone, and nobody is here to be asked: add --yes")
    if not options.yes and not confirmed("Forget this for good?"):
        return 0
    with Terminal() as terminal:
        outcome = forget(config, engine, terminal, case, teach_again=not options.no_retrain, now=options.now)
    show_forgotten(outcome)
    return PromotionRefused.exit_code if outcome.unfinished else int(bool(outcome.left or outcome.strangers))


def _lineage(options: argparse.Namespace) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.errors import DataError
    from fine_tuning.model_management.model_registry import Registry

    if (options.turn is None) == (options.version is None):
        raise ConfigError("say either a turn (or session), or --version N")
    config, registry = _config(options), Registry()
    said = {turn.id: turn for turn in ConversationLogger(config.log_path).turns(include_excluded=True)}
    if options.version is not None:
        version = registry.get(options.name or config.tuned_name(), options.version)
        taught = registry.turns_of(version.name, version.number)
        for id in [*(id for id in said if id in taught), *sorted(taught - said.keys())]:
            print(f"{id}  {' '.join(said[id].user_message.split())[:80] if id in said else '(not in the log)'}")
        print(f"{len(taught)} turn(s) taught {version.tag}")
        return
    for id in [turn.id for turn in said.values() if options.turn in (turn.id, turn.session_id)] or [options.turn]:
        versions = registry.versions_of_turn(id)
        if id not in said and not versions:
            raise DataError(f"no turn or session {id!r}: byoai forget --dry-run --matching TEXT finds what was said")
        print(f"{id}  {', '.join(f'{each.tag} ({each.state})' for each in versions) or 'no version has learned it'}")


def _stats(options: argparse.Namespace) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.pipeline import new_turns

    config = _config(options)
    logger = ConversationLogger(config.log_path)
    for key, value in logger.get_conversation_stats().items():
        print(f"{key.replace('_', ' ')}: {value}")
    print(f"new since the last version: {len(new_turns(config, logger, Registry()))}")


def _export(options: argparse.Namespace) -> None:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.data_export import DataExporter
    from fine_tuning.errors import NoConversations

    log = ConversationLogger(_config(options).log_path)
    if not (conversations := log.conversations()):
        left_out = "only excluded turns" if log.turns(include_excluded=True) else "no turns"
        raise NoConversations(f"nothing to export, and nothing was written: {log.path} holds {left_out}. Chat first, with recording on")
    for format, path in DataExporter(options.folder).export_all_formats(conversations).items():
        print(f"{format}: {path}")


def _doctor(options: argparse.Namespace) -> int:
    from fine_tuning.doctor import examine

    failed = False
    for check in examine(lambda: _config(options), options.ollama_url):
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}", flush=True)
        failed |= not check.ok
    return int(failed)


def _prepare(options: argparse.Namespace) -> None:
    from fine_tuning.engines.default_base import ensure_some_model

    engine = _engine(options, _config(options))
    print(f"engine: {engine.name} {engine.version()} ({engine.where})")
    if not engine.list_models():
        print("fetching a base model (98 MB, once) ...", flush=True)
    print(f"model:  {ensure_some_model(engine)}")


# What commands share


def _stops() -> list[int]:
    """Holds something once the person asked to stop; asked again, the program ends at once."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(1) if not stopped else sys.exit(130))
    return stopped


def _config(options: argparse.Namespace) -> "FineTuningConfig":
    from fine_tuning.config import load_config, read_settings

    return load_config(options.config, options.profile, read_settings(options.set))


def _engine(options: argparse.Namespace, config: "FineTuningConfig") -> "Engine":
    from fine_tuning.engines.connect import connect

    return connect(options.ollama_url, config)
