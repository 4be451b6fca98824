"""Build the training data of preference methods: pairs of answers for DPO, single rated answers for KTO.

data/datasets/preferences-<hash>/manifest.json       written last: turn_ids, pairs, ratings
                                 preferences.jsonl   {"prompt_ids", "chosen_ids", "rejected_ids"}
                                                     or {"prompt_ids", "completion_ids", "label"}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.data_collection.preferences import Preference
from fine_tuning.data_preparation.dataset_builder import MANIFEST, VERSION, check_key, hash_of, write_jsonl
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.data_preparation.tokenizer import fingerprint
from fine_tuning.errors import DataError


@dataclass(frozen=True)
class PreferenceData:
    """A file of tokenized preferences, and what it contains."""

    path: Path
    pairs: int
    ratings: int
    turn_ids: list[str]


def build_preferences(
    preferences: Sequence[Preference], conversations: ConversationTokenizer, template_key: str
) -> PreferenceData:
    """Tokenize the preferences and write them to data/datasets, unless they exist; return the file and its counts.

    Pairs of equal texts are left out, and so are preferences that do not fit into a row.

    Args:
        preferences: The pairs and ratings.
        conversations: Renders and tokenizes them.
        template_key: Identifies the chat template, see `tokenize_dataset`.

    Raises DataError for an empty key.
    """
    check_key(template_key, "template_key")
    facts = [
        [[message.model_dump() for message in each.said], each.chosen, each.rejected, each.wanted, each.turn_ids]
        for each in preferences
    ]
    identity = [VERSION, facts, template_key, fingerprint(conversations.tokenizer), conversations.max_length]
    folder = paths.datasets_dir() / f"preferences-{hash_of(identity)[:16]}"
    if not (folder / MANIFEST).exists():
        records = [record for each in preferences if (record := _record(each, conversations)) is not None]
        write_jsonl(folder / "preferences.jsonl", records)
        ratings = sum("label" in record for record in records)
        turn_ids = sorted({id for each in preferences for id in each.turn_ids})
        paths.write_json(folder / MANIFEST, {"turn_ids": turn_ids, "pairs": len(records) - ratings, "ratings": ratings})
    return read_preference_data(folder)


def read_preference_data(folder: Path) -> PreferenceData:
    """Return the file and the counts of the preferences that `build_preferences` wrote to a folder.

    Raises ByoaiError if the manifest there cannot be read.
    """
    manifest = paths.read_json(folder / MANIFEST)
    return PreferenceData(folder / "preferences.jsonl", manifest["pairs"], manifest["ratings"], manifest["turn_ids"])


def _record(preference: Preference, conversations: ConversationTokenizer) -> dict[str, object] | None:
    tokens = [
        _split(preference.said, text, conversations)
        for text in (preference.chosen, preference.rejected)
        if text is not None
    ]
    if any(each is None for each in tokens):
        return None
    (prompt, chosen), *others = (each for each in tokens if each is not None)
    if not others:
        return {"prompt_ids": prompt, "completion_ids": chosen, "label": preference.wanted}
    ((other_prompt, rejected),) = others
    return (
        None
        if prompt != other_prompt or chosen == rejected
        else {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    )


def _split(
    said: Sequence[Message], answer: str, conversations: ConversationTokenizer
) -> tuple[list[int], list[int]] | None:
    """Return the tokens of the prompt and of the answer; None if a text is empty or they do not fit into a row."""
    try:
        return conversations.last_answer([*said, Message(role="assistant", content=answer)])
    except DataError:  # a text is empty
        return None
