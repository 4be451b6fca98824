"""Decide which model answers, and change it, by one policy for the command line, the pages and programs."""

import os
import re
from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import Engine, known_tag
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_some_model, is_damaged
from fine_tuning.errors import ConfigError, ModelNotFound, ModelNotOurs
from fine_tuning.integration import first_model
from fine_tuning.model_management import model_switcher
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Registry, Version, latest_tag
from fine_tuning.model_management.model_switcher import Choice, choices
from fine_tuning.runs import Run, only_one


@dataclass(frozen=True)
class Models:
    """The models that the engine offers. `trouble` explains, for people, why there are none."""

    found: tuple[Choice, ...] = ()
    engine: str = ""  # which one, and where
    default: Choice | None = None  # the model that answers unless a person picks another
    prefix: str = ""  # beginning of the names of fine-tuned models
    trouble: str = ""
    missing: str = ""  # message for people if there is no base, with what to do
    lost: str = ""  # message for people if the engine lost the live version, with what to do

    def get(self, tag: str | None) -> Choice | None:
        return next((choice for choice in self.found if choice.tag == tag), None)

    def title(self, tag: str) -> str:
        """Return a model's name for people, such as `smollm2:135m · base` or `fine-tuned v3 · live`.

        For a model that no longer exists, return its tag.
        """
        choice = self.get(tag)
        if choice is None:
            return tag
        if choice.kind == "base":
            return f"{choice.label} · base"
        version = f" v{choice.number}" if choice.number else ""
        several = len({each.name for each in self.found if each.kind == "fine_tuned"}) > 1
        of = f" of {choice.name.removeprefix(self.prefix)}" if several else ""
        return f"fine-tuned{version}{of}" + (" · live" if choice.live else " · refused" if choice.refused else "")


def look(engine: Engine, config: FineTuningConfig) -> Models:
    """Return the models that `engine` offers, and which of them answers by default."""
    prefix = config.deployment.model_name_prefix
    listed = tuple(choices(engine, prefix, Registry()))
    found = _whole(engine, listed)
    has_base = any(choice.kind == "base" for choice in found)
    return Models(
        found,
        _engine_line(engine, config),
        default_of(found, config),
        prefix,
        missing="" if has_base else first_model.missing(damaged=len(found) < len(listed)),
        lost=_lost(engine, config, listed),
    )


def _whole(engine: Engine, listed: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Return the models that can answer: all of `listed` except a damaged default base and versions made from it."""
    if not any(choice.tag == DEFAULT_TAG for choice in listed) or not is_damaged(engine, DEFAULT_TAG):
        return listed
    return tuple(choice for choice in listed if not is_damaged(engine, choice.tag))


def _lost(engine: Engine, config: FineTuningConfig, found: tuple[Choice, ...]) -> str:
    """Return a message if the live version cannot answer because its tags were removed; else ""."""
    live = Registry().live(config.tuned_name())
    if live is None or any(choice.live and choice.name == live.name for choice in found):
        return ""
    gone = f"{live.tag} was live, and is gone from {engine.name}"
    if any(choice.tag == live.tag for choice in found):
        return (
            f"{latest_tag(live.name)} is gone from {engine.name}: `byoai use v{live.number}` puts {live.tag} back in "
            "use"
        )
    if (run := run_of(live)) is None or not Run(run).modelfile.exists():
        return f"{gone}; so is its run, {live.run or 'which is not known'}. `byoai use` puts another version in use"
    return f"{gone}: `byoai use v{live.number}` makes it again from its run"


def default_of(found: tuple[Choice, ...], config: FineTuningConfig) -> Choice | None:
    """Return the model that answers by default; None if there are no models.

    This is the live version (the one in use) of the configured fine-tuned model, else another live
    version, else the configured base model, else the first model.
    """
    live = [choice for choice in found if choice.live]
    named = [choice for choice in live if choice.name == config.tuned_name()]
    return next(iter([*named, *live, *_configured(found, config), *found]), None)


def base_of(found: tuple[Choice, ...], config: FineTuningConfig) -> Choice | None:
    """Return the configured base if it is in `found`, else the first model that byoai did not make; None if none is."""
    return next(iter([*_configured(found, config), *(choice for choice in found if choice.kind == "base")]), None)


def _configured(found: tuple[Choice, ...], config: FineTuningConfig) -> list[Choice]:
    known = known_tag(config.training.base_model, [choice.tag for choice in found])
    return [choice for choice in found if choice.tag == known]


def answering(engine: Engine, config: FineTuningConfig) -> str:
    """Return the tag of the model that answers by default.

    If there is no intact model, the default base is downloaded.
    """
    found = default_of(_whole(engine, tuple(choices(engine, config.deployment.model_name_prefix))), config)
    return found.tag if found else ensure_some_model(engine)


def use(
    engine: Engine, config: FineTuningConfig, version: str, *, name: str | None = None, by_hand: bool = False
) -> Version:
    """Make a version live, so that it answers by default, and return it. `version` is "v2", "2", or a whole tag.

    Raises ConfigError if the text names no version, and the errors of `model_switcher.use`.
    """
    number, named = version_number(version), version.rpartition(":")[0]
    return model_switcher.use(engine, Registry(), named or name or config.tuned_name(), number, by_hand=by_hand)


def roll_back(engine: Engine, config: FineTuningConfig, *, name: str | None = None) -> Version | None:
    """Make the previously live version live again; return it, or None if there is none and the base model answers."""
    return model_switcher.rollback(engine, Registry(), name or config.tuned_name())


def remove_base(engine: Engine, config: FineTuningConfig, tag: str, *, force: bool = False) -> None:
    """Remove a base model, and its weights unless another model needs them.

    `force`: remove it from Ollama too, where other programs may use it. Raises ModelNotFound if the
    engine does not have the model, ModelNotOurs for a model in Ollama without `force` and for a
    version of a fine-tuned model (model_pruner removes those), and Busy while a training is running.
    """
    found = {choice.tag: choice for choice in choices(engine, config.deployment.model_name_prefix)}
    known = known_tag(tag, found)
    if known is None:
        cure = f"name one of its models ({', '.join(found)})" if found else "it has no models at all"
        raise ModelNotFound(f"{engine.name} has no model {tag[:200]!r}: {cure}")
    if found[known].kind == "fine_tuned":
        raise ModelNotOurs(
            f"{known} is not a base, but a version of a fine-tuned model: remove it as one (byoai prune)"
        )
    if engine.name == "ollama" and not force:
        raise ModelNotOurs(
            f"{known} belongs to Ollama, and other programs may use it: pass `force` to remove it nevertheless"
        )
    with only_one():
        engine.delete(known)


def version_number(text: str) -> int:
    """Return the number in `v3`, `3` or `fine_tuned_chat:v3`. Raises ConfigError if there is none."""
    found = re.fullmatch(r"v?([0-9]{1,18})", text.rpartition(":")[2])
    if not found:
        raise ConfigError(f"{text[:80]!r} is not a version: give its number (byoai models lists them)")
    return int(found[1])


def _engine_line(engine: Engine, config: FineTuningConfig) -> str:
    if engine.name == "ollama":
        return f"Ollama {engine.version()} · {engine.where.removeprefix('http://')}"
    missing = os.environ.get("OLLAMA_HOST") or config.deployment.ollama_base_url
    return f"Embedded engine in use: no Ollama at {missing.removeprefix('http://')}"
