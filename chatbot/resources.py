"""What the pages share: the configuration, the engine, and one look a second at its models and at the log."""

import logging
import os
from dataclasses import dataclass

import streamlit as st

from chatbot.server import config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, known_tag
from fine_tuning.engines.connect import connect
from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.model_switcher import Choice, choices
from fine_tuning.pipeline import new_turns

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What the engine offers. `trouble` says, for people, why it offers nothing."""

    found: tuple[Choice, ...] = ()
    engine: str = ""
    default: Choice | None = None  # who answers unless a person picked another
    trouble: str = ""

    def get(self, tag: str | None) -> Choice | None:
        return next((choice for choice in self.found if choice.tag == tag), None)

    def title(self, tag: str) -> str:
        """For people: `smollm2:135m · base`, `fine-tuned v3 · live`; the tag itself for a model that is gone."""
        choice = self.get(tag)
        if choice is None:
            return tag
        if choice.kind == "base":
            return f"{choice.label} · base"
        version = f" v{choice.number}" if choice.number else ""
        several = len({each.name for each in self.found if each.kind == "fine_tuned"}) > 1
        of = f" of {choice.name.removeprefix(config().deployment.model_name_prefix)}" if several else ""
        return f"fine-tuned{version}{of}" + (" · live" if choice.live else " · refused" if choice.refused else "")


@st.cache_resource(show_spinner="Looking for Ollama …")
def engine() -> Engine:
    """Where it does not agree with the registry any more, that is mended now, and said in the terminal."""
    found = connect(config=config())
    for finding in reconcile(found, Registry(), config().tuned_name()):
        _logger.warning("%s", finding.text)
    return found


@st.cache_data(ttl=1.0, show_spinner=False)
def models() -> Models:
    try:
        found = tuple(choices(engine(), config().deployment.model_name_prefix, Registry()))
        return Models(found, _engine_line(engine()), _default(found))
    except ByoaiError as error:
        return Models(trouble=str(error))


def _default(found: tuple[Choice, ...]) -> Choice | None:
    """The live version of the configured model, else another live one, else the configured base, else the first."""
    wanted, live = config().training.base_model, [choice for choice in found if choice.live]
    named = [choice for choice in live if choice.name == config().tuned_name()]
    known = known_tag(wanted, [choice.tag for choice in found])
    base = [choice for choice in found if choice.tag == known]
    return next(iter([*named, *live, *base, *found]), None)


def connect_again() -> None:
    """Forget the engine: the next look finds the one that is there now."""
    engine.clear()
    models.clear()


def recorded() -> tuple[int, int]:
    """Return how many turns the log holds, and how many of them a retrain would find new. DataError if it cannot be read."""
    log = ConversationLogger(config().log_path)
    return log.index.count(), len(new_turns(config(), log, Registry()))


def _engine_line(engine: Engine) -> str:
    if engine.name == "ollama":
        return f"Ollama {engine.version()} · {engine.where.removeprefix('http://')}"
    missing = os.environ.get("OLLAMA_HOST") or config().deployment.ollama_base_url
    return f"Embedded engine in use: no Ollama at {missing.removeprefix('http://')}"
