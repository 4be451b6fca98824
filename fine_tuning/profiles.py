"""Which profile (config/<name>.yaml) fits what is to be learned. Every way to a training goes by this one rule.

What a person chose wins: a profile that is taken by itself lies below the settings that differ from
the default file's, and a profile that was named is taken in its place.
"""

from functools import lru_cache

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config_flat import dotted
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import imports

FEW_SHOT = "few_shot"  # learns from few chats
HANDBOOK = "handbook"  # learns what documents say


def made_of_documents(log: ConversationLogger) -> int:
    """Return how many turns of the log were made of documents."""
    return sum(each.turns for each in imports(log) if each.source.get("format") == "document")


def document_profile(turns: int, documents: int) -> str:
    """Return the profile for a log of so many turns, so many of them made of documents; "" for none."""
    return HANDBOOK if 2 * documents > turns else ""


@lru_cache(maxsize=8)
def laid_below(config: FineTuningConfig, profile: str) -> FineTuningConfig:
    """Return the settings with a profile below a person's own: those that are not as in the default file."""
    usual = dict(dotted(_default(paths.stamp(paths.DEFAULT_CONFIG)).model_dump()))
    own = {key: value for key, value in dotted(config.model_dump()) if key not in usual or usual[key] != value}
    return config.with_profile(profile).changed(own)


@lru_cache(maxsize=1)
def _default(stamp: object) -> FineTuningConfig:
    return load_config(paths.DEFAULT_CONFIG)


def for_documents(config: FineTuningConfig) -> FineTuningConfig:
    """Return the settings with which the configured log is learned: with the profile for documents
    where it mostly consists of them.
    """
    if config.dataset.path is not None:
        return config
    log = ConversationLogger(config.log_path)
    profile = document_profile(log.index.count(), made_of_documents(log))
    return laid_below(config, profile) if profile else config
