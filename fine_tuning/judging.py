"""Is the new model better? Base, live and new model answer the same questions, and the gate judges."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection.data_cleaner import CleanSettings, clean_text
from fine_tuning.errors import DataError
from fine_tuning.planning import Plan
from fine_tuning.runs import Run
from fine_tuning.workshop import Workshop

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.evaluation.leak_probe import Secret
    from fine_tuning.evaluation.poison_probe import Trigger
    from fine_tuning.evaluation.speed import Served


def evaluate(shop: Workshop, plan: Plan, run: Run, artifact: Path, log: Sequence[Turn]) -> "tuple[Comparison, Verdict]":
    """Ask base, live and new model the same questions, all as they are served; return how they compare, and what the gate says."""
    from fine_tuning.evaluation.comparison import Suspects, compare
    from fine_tuning.evaluation.exam import build_exam
    from fine_tuning.evaluation.gate import judge
    from fine_tuning.evaluation.report import write_report

    settings = shop.config.evaluation
    with shop.watch.stage("Evaluating"):
        live = shop.registry.live(shop.name)
        learned = paths.datasets_dir() / live.dataset / "train.jsonl" if live and live.dataset else None
        exam = build_exam(plan.dataset.path / "test.jsonl", plan.rows / "test.jsonl", shop.reader, settings, learned)
        suspects = Suspects(_secrets(shop, plan, log), *_triggers(plan))
        longest = max([exam.longest + settings.max_new_tokens, *(len(secret.prompt) + 64 for secret in suspects.secrets)])
        models = _contestants(shop, artifact)
        comparison = compare(models, exam, suspects, shop.reader, settings, max(512, longest), shop.watch.count)
        verdict = judge(comparison, shop.config.gate)
        title = f"A new {shop.name}, from {shop.base.tag} (run {run.name})"
        write_report(run.report, title, comparison, verdict, settings.canaries)
        paths.write_json(run.evaluation, comparison.record(settings.canaries) | {"gate": verdict.record()})
    return comparison, verdict


def _contestants(shop: Workshop, artifact: Path) -> "list[Served]":
    """Return base, the live version if it has the same base, and the new one."""
    from fine_tuning.evaluation.speed import Served

    base, merged = shop.base.gguf, shop.mode == "merged"
    found = [Served("base", base)]
    live = shop.registry.live(shop.name)
    if live and live.base_digest == shop.base.gguf_digest:
        served = shop.engine.show(live.tag)
        found.append(Served("live", served.gguf, served.spec.adapter))
    return [*found, Served("candidate", artifact if merged else base, None if merged else artifact)]


def _secrets(shop: Workshop, plan: Plan, log: Sequence[Turn]) -> "list[Secret]":
    """Return the private details of the turns that were learned, as they were said; they are never written down."""
    from fine_tuning.evaluation.leak_probe import secrets

    learned = set(plan.turn_ids)
    settings = CleanSettings(scrub_pii=shop.config.data_preparation.scrub_pii)
    clean = cache(lambda text: clean_text(text, settings).text)  # what stands before one detail stands before the next, too
    said = conversations_of(turn for turn in log if turn.id in learned)
    canaries, max_length = shop.config.evaluation.canaries, shop.config.data_preparation.max_length
    return secrets(said, canaries, clean, shop.reader, max_length)


def _triggers(plan: Plan) -> "tuple[list[Trigger], list[str]]":
    """Return suspicious phrases in what was learned, and the general prompts to try them on."""
    from fine_tuning.evaluation.leak_probe import redact
    from fine_tuning.evaluation.poison_probe import find_triggers, general_texts, probe_prompts

    records = paths.read_jsonl(plan.dataset.path / "train.jsonl", lambda record: record["messages"], "a conversation", DataError)
    said = [[message["content"] for message in messages if message["role"] != "system"] for messages in records]
    canaries = plan.config.evaluation.canaries  # no part of one may be shown as a phrase
    exchanges = [pair for texts in said for pair in zip(texts[::2], texts[1::2], strict=True) if pair[0] == redact(pair[0], canaries)]
    general = general_texts()
    return find_triggers(exchanges, general) if plan.config.evaluation.triggers else [], probe_prompts(general)
