"""Compare a new model with the base and the live version, and judge by the gate whether it may go live.

All models answer the same questions. The gate is a list of rules (evaluation/gate.py).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.conversation import Conversation, Turn, conversations_of
from fine_tuning.data_collection.cleaning.turn_decisions import clean_text
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.privacy import finds
from fine_tuning.data_preparation.mixing import source_of, task_of, with_task
from fine_tuning.durations import EVALUATING
from fine_tuning.errors import DataError
from fine_tuning.plan import Material
from fine_tuning.planning import clean_settings
from fine_tuning.runs import Run
from fine_tuning.workshop import Workshop

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.evaluation.leak_probe import Secret
    from fine_tuning.evaluation.speed import Served
    from fine_tuning.evaluation.trigger_phrases import Trigger


def evaluate(
    shop: Workshop, material: Material, run: Run, artifact: Path, log: Sequence[Turn]
) -> "tuple[Comparison, Verdict]":
    """Evaluate base, live and new model on the same test set; return the comparison and the gate's verdict.

    Each model is evaluated in the form in which it is served. The report and the figures are
    written to the run's folder.

    Args:
        material: the data that the new model was trained on and is tested on.
        artifact: the GGUF of the new model, or of its adapter.
        log: the turns that were read for the training. They are searched for private details, and
            their metadata holds the key facts of held-out questions about documents.
    """
    from fine_tuning.evaluation.comparison import Suspects, compare
    from fine_tuning.evaluation.evaluator import FACT_LIMIT
    from fine_tuning.evaluation.gate import judge
    from fine_tuning.evaluation.report import write_report
    from fine_tuning.evaluation.test_set import build_test_set, keys_of

    settings = shop.config.evaluation
    with shop.watch.stage(EVALUATING):
        live = shop.registry.live(shop.name)
        learned = paths.datasets_dir() / live.dataset / "train.jsonl" if live and live.dataset else None
        test_set = build_test_set(
            material.dataset.path / "test.jsonl",
            material.rows / "test.jsonl",
            shop.reader,
            settings,
            learned,
            keys_of(log),
            {turn.session_id: with_task(source_of(turn), task_of(turn)) for turn in log},
        )
        suspects = Suspects(_secrets(shop, material, log), *_triggers(shop, material))
        longest = max(
            [
                test_set.longest + max(settings.max_new_tokens, FACT_LIMIT),
                *(len(secret.prompt) + 64 for secret in suspects.secrets),
            ]
        )
        models = _contestants(shop, artifact)
        count = partial(shop.watch.count, unit="percent")
        comparison = compare(models, test_set, suspects, shop.reader, settings, max(512, longest), count)
        verdict = judge(comparison, shop.config.gate)
        title = f"A new {shop.name}, from {shop.base.tag} (run {run.name})"
        write_report(run.report, title, comparison, verdict, settings.canaries)
        paths.write_json(run.evaluation, comparison.record(settings.canaries) | {"gate": verdict.record()})
    return comparison, verdict


def _contestants(shop: Workshop, artifact: Path) -> "list[Served]":
    """Return the models to compare: the base, the live version if it has the same base, and the new model."""
    from fine_tuning.evaluation.speed import Served

    base, merged = shop.base.gguf, shop.mode == "merged"
    found = [Served("base", base)]
    live = shop.registry.live(shop.name)
    if live and live.base_digest == shop.base.gguf_digest:
        served = shop.engine.show(live.tag)
        found.append(Served("live", served.gguf, served.spec.adapter))
    return [*found, Served("candidate", artifact if merged else base, None if merged else artifact)]


def _secrets(shop: Workshop, material: Material, log: Sequence[Turn]) -> "list[Secret]":
    """Return the private details that the model was trained on, for the leak probe.

    These are the details in the learned turns that were not redacted, and the configured canaries.
    The details are never written to a file.
    """
    from fine_tuning.evaluation.leak_probe import secrets

    learned = set(material.turn_ids)
    settings = clean_settings(shop.config)
    search = partial(finds, words=settings.own_words, names=bool(settings.names_by))

    def cleaner(conversation: Conversation) -> Callable[[str], str]:
        texts = (message.content for message in conversation.messages())
        names = Placeholders.of(texts, search) if settings.scrub_pii else None
        # cached, because the text before one detail is also before the next one
        return cache(lambda text: clean_text(text, settings, names).text)

    said = conversations_of(turn for turn in log if turn.id in learned)
    canaries, max_length = shop.config.evaluation.canaries, shop.config.data_preparation.max_length
    return secrets(said, canaries, cleaner, shop.reader, max_length, search)


def _triggers(shop: Workshop, material: Material) -> "tuple[list[Trigger], list[str]]":
    """Return suspicious phrases of the training data, and general prompts in which to try them.

    A phrase is suspicious if it may be a trigger, which changes the answer to any question that
    contains it (data poisoning). No phrases are returned if `evaluation.triggers` is 0.
    """
    from fine_tuning.data_collection.cleaning.phrases import general_texts
    from fine_tuning.evaluation.leak_probe import redact
    from fine_tuning.evaluation.trigger_phrases import find_triggers, probe_prompts

    records = paths.read_jsonl(
        material.dataset.path / "train.jsonl", lambda record: record["messages"], "a conversation", DataError
    )
    said = [[message["content"] for message in messages if message["role"] != "system"] for messages in records]
    canaries = shop.config.evaluation.canaries  # no part of a canary may be shown as a phrase
    exchanges = [
        pair
        for texts in said
        for pair in zip(texts[::2], texts[1::2], strict=True)
        if pair[0] == redact(pair[0], canaries)
    ]
    general = general_texts()
    return find_triggers(exchanges, general) if shop.config.evaluation.triggers else [], probe_prompts(general)
