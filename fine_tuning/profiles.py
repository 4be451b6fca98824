"""Choose the profile (config/<name>.yaml) that fits the training data, by the same rule for all callers.

The user's choices take precedence: settings that differ from the default file override the profile,
and if the user named a profile, no other is chosen.
"""

from functools import lru_cache

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config.flat import dotted
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import imports

FEW_SHOT = "few_shot"  # for few chats
HANDBOOK = "handbook"  # for imported documents


def made_of_documents(log: ConversationLogger) -> int:
    """Return the number of turns in the log that were made from documents."""
    return sum(each.turns for each in imports(log) if each.source.get("format") == "document")


def document_profile(turns: int, documents: int) -> str:
    """Return the profile for a log of `turns` turns, of which `documents` were made from documents; "" for none."""
    return HANDBOOK if 2 * documents > turns else ""


@lru_cache(maxsize=8)
def laid_below(config: FineTuningConfig, profile: str) -> FineTuningConfig:
    """Return `config` with the values of a profile for all settings that are still as in the default file."""
    usual = dict(dotted(_default(paths.stamp(paths.DEFAULT_CONFIG)).model_dump()))
    own = {key: value for key, value in dotted(config.model_dump()) if key not in usual or usual[key] != value}
    return config.with_profile(profile).changed(own)


@lru_cache(maxsize=1)
def _default(stamp: object) -> FineTuningConfig:
    return load_config(paths.DEFAULT_CONFIG)


def for_documents(config: FineTuningConfig) -> FineTuningConfig:
    """Return `config` with the profile for documents, if most turns of the log were made from documents.

    Return it unchanged otherwise, or if a dataset is used instead of the log.
    """
    if config.dataset.path is not None:
        return config
    log = ConversationLogger(config.log_path)
    profile = document_profile(log.index.count(), made_of_documents(log))
    return laid_below(config, profile) if profile else config
