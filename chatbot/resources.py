"""Provide the pages with the engine, its models (read at most once a second), and the numbers of recorded turns."""

import streamlit as st

from chatbot.server import config, service
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.ollama_integration import Models
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import count_new


def engine() -> Engine:
    """Return the engine that pages and API share. Raises EngineError if none is available."""
    return service().engine()


@st.cache_data(ttl=1.0, show_spinner=False)
def models() -> Models:
    try:
        return service().models()
    except ByoaiError as error:
        return Models(trouble=str(error))


def connect_again() -> None:
    """Forget the engine, so that the next use connects again, perhaps to another engine."""
    service().connect_again()
    models.clear()


def recorded() -> tuple[int, int]:
    """Return the number of turns in the log, and how many of them no version has learned yet.

    Raises DataError if the log cannot be read.
    """
    log = ConversationLogger(config().log_path)
    return log.index.count(), count_new(config(), log, Registry())
