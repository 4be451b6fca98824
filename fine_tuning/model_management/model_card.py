"""Write the model card of a version: a description of its base, training data and evaluation.

The card contains no text of conversations. Its format is that of Hugging Face
(https://huggingface.co/docs/hub/model-cards): a YAML header, then Markdown.
templates/model_card.md.jinja defines the layout.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fine_tuning import paths
from fine_tuning.engines.base import ModelDetails
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.model_management.model_registry import Version
from fine_tuning.runs import Run
from fine_tuning.units import counted

_KEYS = ("num_epochs", "learning_rate", "batch_size", "lora_r", "lora_alpha", "lora_dropout", "seed")
_WORDS = {"perplexity": "perplexity of held-out chats", "general_perplexity": "perplexity of general texts"}
_REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", re.ASCII)


def model_card(version: Version, run: Run, base: ModelDetails) -> str:
    """Return the card as Markdown.

    `run` is the run that made the version, `base` the engine's details of the base. If a file of
    the run is missing, the facts that it would give are left out. The version's notes and labels
    and the gate's reasons are always left out, since they may quote conversations.
    """
    about = read_header(base.gguf).metadata
    settings = _settings(run)
    page = _environment().get_template("model_card.md.jinja")
    return page.render(
        front=_front(version, about),
        version=version,
        base=base,
        base_name=about.get("general.name") or version.base_tag,
        settings=[(key, settings[key]) for key in _KEYS if key in settings and not version.lineage],
        data=_data(version),
        scores=_scores(version.metrics),
        gate=version.metrics.get("gate"),
    )


@cache
def _environment() -> Environment:
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    # without HTML escaping, since the card is Markdown
    plain = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    plain.keep_trailing_newline = True
    return plain


def _front(version: Version, about: dict[str, object]) -> str:
    """Return the card's YAML header, by which the Hugging Face Hub classifies models.

    `about` is the metadata of the base's GGUF.
    """
    facts: dict[str, object] = {"tags": ["byoai", "gguf", *(["peft", "lora"] if version.mode == "adapter" else [])]}
    facts["pipeline_tag"] = "text-generation"
    if version.mode == "adapter":
        facts["library_name"] = "peft"
    if isinstance(license := about.get("general.license"), str):
        facts["license"] = license
    if found := next(filter(None, (_REPOSITORY.fullmatch(str(about.get(key, ""))) for key in _ADDRESSES)), None):
        facts["base_model"] = found[1]
    return yaml.safe_dump(facts, sort_keys=True)


_ADDRESSES = (
    "general.source.repo_url",
    "general.repo_url",
    "general.base_model.0.repo_url",
    "general.source.url",
    "general.url",
)


def _settings(run: Run) -> dict[str, object]:
    if not run.config.exists():
        return {}
    settings: dict[str, object] = yaml.safe_load(run.config.read_text(encoding="utf-8")).get("training", {})
    return settings


def _data(version: Version) -> list[tuple[str, str]]:
    """Return facts about the version's dataset as (name, value), without texts; none if its manifest is missing."""
    manifest = paths.datasets_dir() / version.dataset / "manifest.json"
    if not version.dataset or not manifest.exists():
        return []
    known = paths.read_json(manifest)
    splits = [
        (f"{name} split", f"{counted(counts['conversations'], 'conversation')}, {counted(counts['turns'], 'turn')}")
        for name, counts in known["splits"].items()
    ]
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in known["dropped"].items() if count)
    private = "replaced by placeholders before training" if known["settings"].get("scrub_pii") else "not looked for"
    return [
        *splits,
        ("dropped by the cleaning", dropped or "none"),
        ("private details", private),
        ("hash", known["hash"][:16]),
    ]


def _scores(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, the base's value, the version's value) of each metric that was measured on both models."""
    base, tuned = metrics.get("base", {}), metrics.get("tuned", {})
    return [
        (_WORDS.get(name, name.replace("_", " ")), f"{base[name]:.2f}", f"{tuned[name]:.2f}")
        for name in sorted(base)
        if name in tuned
    ]
