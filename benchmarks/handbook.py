"""Measure how well a model answers questions about a document on which it was trained.

    python benchmarks/handbook.py --ollama-url http://127.0.0.1:11434          # data/samples/handbook.md
    python benchmarks/handbook.py --ollama-url URL --document my.pdf --home FOLDER --verbose

The document is imported, a version is trained, and the held-out questions are asked through a real
Ollama. A held-out question is another wording of a trained question. The greedy answer, of at most
80 tokens, is correct if it contains the question's key fact, which the import recorded, as whole
words, ignoring case. The data folder is temporary unless --home names one.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fine_tuning.conversation import Turn
    from fine_tuning.engines.base import Engine

ROOT = Path(__file__).parent.parent


def ask(engine: "Engine", tag: str, turns: "Sequence[Turn]", verbose: bool) -> float:
    """Ask the model `tag` the questions of these turns; return the share of answers that contain the key fact.

    The counts are printed by the level of the questions; with `verbose`, also each wrong answer.
    """
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.evaluation.evaluator import FACT_LIMIT
    from fine_tuning.evaluation.test_set import is_said

    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for turn in turns:
        messages = [Message(role="user", content=turn.user_message)]
        said = "".join(
            chunk.text
            for chunk in engine.chat(tag, messages, ChatOptions(temperature=0, seed=0, max_tokens=FACT_LIMIT))
        )
        level, key = turn.metadata["level"], turn.metadata["key"]
        asked[level] += 1
        right[level] += is_said(key, said)
        if verbose and not is_said(key, said):
            print(f"  {turn.user_message} [{key}] {' '.join(said.split())[:140]}")
    total, found = asked.total(), right.total()
    levels = ", ".join(f"{level} {right[level]} of {count}" for level, count in sorted(asked.items()))
    print(
        f"{tag}  key facts of held-out questions: {found} of {total} ({100 * found / max(total, 1):.1f} %): {levels}",
        flush=True,
    )
    return found / max(total, 1)


def measure(options: argparse.Namespace) -> None:
    from fine_tuning.config import load_config, read_settings
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import Wanted, import_files
    from fine_tuning.engines.connect import connect
    from fine_tuning.engines.default_base import ensure_default_base
    from fine_tuning.events import Event, Note, Watch
    from fine_tuning.outcome import NewVersion
    from fine_tuning.pipeline import retrain
    from fine_tuning.workshop import Request

    config = load_config(
        profile=options.profile, overrides={"deployment.model_name": "handbook", **read_settings(options.set)}
    )
    engine = connect(options.ollama_url, config)
    ensure_default_base(engine)
    log = ConversationLogger(config.log_path)
    started = time.perf_counter()
    report = import_files(log, [options.document], Wanted("document"))
    turns = log.turns()
    splits = Counter(turn.metadata["split"] for turn in turns)
    answers = len({turn.bot_response for turn in turns})
    seconds = time.perf_counter() - started
    print(
        f"{report.added} questions, {answers} answers, {dict(splits)}, {report.set_aside} set aside: {seconds:.1f} s",
        flush=True,
    )

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            print(f"  {event.text}", flush=True)

    outcome = retrain(config, engine, Watch(tell), Request(force=True))
    assert isinstance(outcome, NewVersion)
    print(
        f"training {outcome.seconds['Training']:.0f} s; all stages "
        f"{ ({k: round(v) for k, v in outcome.seconds.items()}) }"
    )
    print(outcome.verdict)
    for result in outcome.verdict.results:
        print(f"     {result.rule:18} {result.measured:44} {result.reason}", flush=True)
    held_out = [turn for turn in turns if turn.metadata["split"] == "test"]
    if options.base:
        ask(engine, config.training.base_model, held_out, False)
    ask(engine, outcome.tag, held_out, options.verbose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", default=str(ROOT / "data/samples/handbook.md"))
    parser.add_argument("--ollama-url")
    parser.add_argument("--profile", default="handbook")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting over the profile's")
    parser.add_argument("--home", help="a data folder that stays")
    parser.add_argument("--base", action="store_true", help="ask the base model, too")
    parser.add_argument("--verbose", action="store_true", help="show what was not right")
    options = parser.parse_args()
    if options.home:
        os.environ["BYOAI_HOME"] = options.home
        measure(options)
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["BYOAI_HOME"] = home
        measure(options)


if __name__ == "__main__":
    sys.exit(main())
