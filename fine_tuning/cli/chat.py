"""The commands chat, ask and compare: open the chat page, and get answers from models in the terminal."""

import argparse
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.cli.options import (
    Commands,
    connect_engine,
    message,
    positive,
    print_json,
    read_config,
    tag_that_answers,
)
from fine_tuning.cli.serving import add_server_options, server_of
from fine_tuning.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fine_tuning.engines.base import ChatOptions, Engine


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    chat = commands.add(
        "chat",
        _chat,
        "open the chat in the browser",
        "Only this machine can reach it, unless --lan is given.",
        json=False,
    )
    add_server_options(chat)
    chat.add_argument("--no-browser", action="store_true", help="serve the page without opening a browser")

    ask = commands.add("ask", _ask, "ask one question in the terminal")
    ask.add_argument("question", type=message, help="the question, in quotes")
    ask.add_argument(
        "--model",
        metavar="TAG",
        help="the model that answers (default: the live version, or the base model if no version is live)",
    )

    compare = commands.add(
        "compare",
        _compare,
        "let several models answer the same prompts",
        "The answers are shown side by side. With --blind two models answer without their names, and you choose the "
        "better answer.",
    )
    compare.add_argument(
        "prompt", type=message, nargs="+", help="a prompt in quotes; each prompt starts a new conversation"
    )
    compare.add_argument(
        "--models", metavar="A,B", help="the models: base, live, a version (v3) or any tag (default: base,live)"
    )
    compare.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="compare a run of prefix or prompt tuning, which makes no version, with its base; RUN is its folder",
    )
    compare.add_argument(
        "--blind",
        action="store_true",
        help="show two answers without the models' names, in random order; your votes determine the Elo ratings",
    )
    compare.add_argument("--max-tokens", type=positive, metavar="N", help="maximum length of an answer, in tokens")


def _chat(options: argparse.Namespace) -> None:
    from chatbot.server import serve

    settings, access = server_of(options)
    print(f"The chat is at {access.url} (Ctrl-C ends it)", flush=True)
    serve(access, settings=settings, ollama_url=options.ollama_url, browser=not options.no_browser)


def _ask(options: argparse.Namespace) -> None:
    from fine_tuning.cli.show import visible
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions

    config = read_config(options)
    engine = connect_engine(options, config)
    tag, started, pieces = options.model or tag_that_answers(engine, config), time.monotonic(), []
    settings = ChatOptions(default_max_tokens=config.chat.max_tokens)
    for chunk in engine.chat(tag, [Message(role="user", content=options.question)], settings):
        pieces.append(chunk.text)
        if not options.json:
            print(visible(chunk.text), end="", flush=True)
    if options.json:
        seconds = round(time.monotonic() - started, 2)
        print_json(options, {"model": tag, "question": options.question, "answer": "".join(pieces), "seconds": seconds})
    else:
        print()


def _compare(options: argparse.Namespace) -> None:
    if options.run:
        _compare_run(options)
        return
    from fine_tuning.cli.prompts import compare, compare_blind
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.model_management.compare import chosen_tags
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.workshop import base_of

    config = read_config(options)
    engine, wanted = connect_engine(options, config), options.models.split(",") if options.models else []
    tags = chosen_tags(engine, Registry(), config.tuned_name(), base_of(config, engine).tag, wanted)
    settings = ChatOptions(max_tokens=options.max_tokens, default_max_tokens=config.chat.max_tokens)
    if options.json:
        _compare_as_json(options, engine, tags, settings)
    elif not options.blind:
        compare(engine, tags, options.prompt, settings)
    elif len(tags) < 2:
        raise ConfigError(
            f"a blind comparison needs two models, and there is only {tags[0]}: name them with --models A,B"
        )
    else:
        compare_blind(engine, tags, options.prompt, settings, random.Random())


def _compare_as_json(
    options: argparse.Namespace, engine: "Engine", tags: "Sequence[str]", settings: "ChatOptions"
) -> None:
    from fine_tuning.conversation import Message
    from fine_tuning.model_management.compare import side_by_side

    if options.blind:
        raise ConfigError(
            "--blind asks you which answer is better, which is not possible with --json: leave out one of the two"
        )
    for prompt in options.prompt:
        said = dict.fromkeys(tags, "")
        for tag, chunk in side_by_side(engine, tags, [Message(role="user", content=prompt)], settings):
            said[tag] += chunk.text
        print_json(options, *({"prompt": prompt, "model": tag, "answer": answer} for tag, answer in said.items()))


def _compare_run(options: argparse.Namespace) -> None:
    from fine_tuning.cli.show import show_answers
    from fine_tuning.run_answers import answers_of_run

    if options.blind or options.models:
        raise ConfigError("--run compares one run with its base: leave out --models and --blind")
    config = read_config(options)
    answers = answers_of_run(config, connect_engine(options, config), options.run, options.prompt, options.max_tokens)
    if options.json:
        print_json(options, *({"prompt": prompt, "base": base, "tuned": tuned} for prompt, base, tuned in answers))
    else:
        show_answers(answers)
