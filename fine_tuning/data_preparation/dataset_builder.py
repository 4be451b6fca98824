"""Datasets and their token rows on disk.

data/datasets/<hash>/train.jsonl, validation.jsonl, test.jsonl   {"id", "messages": [...]}
                     manifest.json                               written last: without it the dataset is unfinished, and is built again
                     rows-<hash>/train.jsonl, ...                {"id", "input_ids", "trained"}: what a certain engine model makes of it
                                 manifest.json                   likewise
Both folders are named by a hash of all that they are made from, so what is there is never made twice.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import DataPreparation, DatasetFormat
from fine_tuning.conversation import Conversation, Message, parse_conversations
from fine_tuning.data_collection.dedupe import group_near_duplicates
from fine_tuning.data_preparation.formatter import TrainingDataFormatter
from fine_tuning.data_preparation.rows import ConversationTokenizer, Render, Tokenizer
from fine_tuning.data_preparation.split import SPLITS, assign_splits, join_groups
from fine_tuning.data_preparation.tokenizer import fingerprint
from fine_tuning.errors import DataError, NoConversations, TooLittleData

MANIFEST = "manifest.json"
VERSION = 3  # part of every hash: raise it when the same input would be built differently


@dataclass(frozen=True)
class Dataset:
    path: Path
    manifest: dict[str, Any]  # hash, seed, settings, splits{name: {conversations, turns}}, turn_ids, dropped{reason: turns}


def build_dataset(
    conversations: Sequence[Conversation | dict[str, Any]], settings: DataPreparation, dropped: Mapping[str, int] | None = None
) -> Dataset:
    """Split cleaned conversations and write them, unless the same dataset is there already.

    `dropped` (turns by reason, from the cleaning) is kept in the manifest. Conversations of one session share a split, near-duplicates too.
    Raises NoConversations for none, DataError naming every conversation that cannot be trained on.
    """
    parsed = parse_conversations(conversations)
    if not parsed:
        raise NoConversations("No conversations to train on: turn logging on, chat, and try again")
    pairs = TrainingDataFormatter(DatasetFormat.CHATML).create_training_pairs(parsed, settings.teach_thoughts)
    records = [{"id": id, **pair} for id, pair in zip(_unique_ids(parsed), pairs, strict=True)]
    facts = {
        "version": VERSION,
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
        "turn_ids": [turn.id for conversation in parsed for turn in conversation.turns],
        "dropped": dict(sorted((dropped or {}).items())),
    }
    digest = hash_of({**facts, "records": records, "sessions": [conversation.turns[0].session_id for conversation in parsed]})
    folder = paths.datasets_dir() / digest[:16]
    if not _finished(folder):
        chosen = _split(parsed, [record["id"] for record in records], settings)
        for split in SPLITS:
            write_jsonl(folder / f"{split}.jsonl", (record for record, of in zip(records, chosen, strict=True) if of == split))
        paths.write_json(folder / MANIFEST, {**facts, "hash": digest, "splits": _sizes(parsed, chosen)})
    return Dataset(folder, paths.read_json(folder / MANIFEST))


def tokenize_dataset(dataset_path: Path, render: Render, tokenizer: Tokenizer, max_length: int, template_key: str) -> Path:
    """The folder of the dataset's token rows, made unless it is there already.

    `template_key` names what `render` renders with (equal keys, equal renderings: the model's digest, say). The manifest counts, by split:
    conversations, rows, tokens, trained_tokens, turns (trained), `cut` (conversations that lost turns to `max_length`, but not all),
    `dropped` (those that lost all), `split` (those that needed several rows).
    Raises TooLittleData if no conversation of the train split fits, DataError for a broken one.
    """
    check_key(template_key, "template_key")
    facts = {
        "version": VERSION,
        "dataset": paths.read_json(dataset_path / MANIFEST)["hash"],
        "template_key": template_key,
        "vocabulary": fingerprint(tokenizer),
        "max_length": max_length,
    }
    digest = hash_of(facts)
    folder = dataset_path / f"rows-{digest[:16]}"
    if _finished(folder):
        return folder
    conversations = ConversationTokenizer(render, tokenizer, max_length)
    counts = {split: _tokenize_split(dataset_path / f"{split}.jsonl", conversations, folder / f"{split}.jsonl") for split in SPLITS}
    if not counts["train"]["rows"]:
        raise TooLittleData(f"no conversation to train on fits into {max_length} tokens: raise data_preparation.max_length")
    paths.write_json(folder / MANIFEST, {**facts, "hash": digest, "splits": counts})
    return folder


def doubts_of(conversations: Sequence[Conversation], dataset: Dataset, rows: Path) -> list[str]:
    """Return what a person should know before these conversations are learned: what of them does not fit into a row, and whether they
    look like many conversations that were logged as one."""
    found = []
    facts = paths.read_json(rows / MANIFEST)
    too_long = sum(counts["cut"] + counts["dropped"] for counts in facts["splits"].values())
    lost = sum(counts["turns"] - facts["splits"][split]["turns"] for split, counts in dataset.manifest["splits"].items())
    turns = sum(len(conversation.turns) for conversation in conversations)
    if too_long:
        found.append(
            f"{too_long} of {len(conversations)} conversation(s) are longer than {facts['max_length']} tokens: {lost} of {turns} turns do "
            f"not fit and are not learned. {_BEGIN_ANEW}, or raise data_preparation.max_length"
        )
    sizes = Counter(conversation.turns[0].session_id for conversation in conversations for _ in conversation.turns)
    session, most = sizes.most_common(1)[0]
    if most >= _MANY and 2 * most > turns:
        found.append(
            f"{most} of {turns} turns lie in one session ({session}) and are learned as one conversation, each after all before it. "
            f"{_BEGIN_ANEW}, if they have nothing to do with each other"
        )
    return found


_MANY = 8  # turns in one session that may be exchanges of their own
_BEGIN_ANEW = "Begin a new session for each conversation (New chat on the page, `new_session()` of the ConversationLogger)"


def delete_datasets_of(turn_ids: Collection[str]) -> list[Path]:
    """Remove every dataset that holds one of these turns, and every unfinished one: a deletion from the log really removes the text.

    Not while a dataset is being built. Returns the folders removed.
    """
    gone = set(turn_ids)
    folders = [folder for folder in sorted(paths.datasets_dir().glob("*")) if folder.is_dir()]
    hit = [each for each in folders if not (each / MANIFEST).exists() or gone & set(paths.read_json(each / MANIFEST)["turn_ids"])]
    for folder in hit:
        shutil.rmtree(folder)
    return hit


def _split(conversations: Sequence[Conversation], ids: Sequence[str], settings: DataPreparation) -> list[str]:
    texts = ["\n".join(f"{turn.user_message}\n{turn.bot_response}" for turn in conversation.turns) for conversation in conversations]
    # A turn dropped by the cleaning cuts a conversation in two: the halves still belong together.
    groups = join_groups(group_near_duplicates(texts), [conversation.turns[0].session_id for conversation in conversations])
    return assign_splits(ids, groups, (settings.train_ratio, settings.validation_ratio, settings.test_ratio), settings.seed)


def _sizes(conversations: Sequence[Conversation], chosen: Sequence[str]) -> dict[str, dict[str, int]]:
    turns: Counter[str] = Counter()
    for conversation, split in zip(conversations, chosen, strict=True):
        turns[split] += len(conversation.turns)
    return {split: {"conversations": chosen.count(split), "turns": turns[split]} for split in SPLITS}


def _tokenize_split(source: Path, conversations: ConversationTokenizer, target: Path) -> dict[str, int]:
    counts = Counter(dict.fromkeys(("conversations", "turns", "rows", "tokens", "trained_tokens", "cut", "dropped", "split"), 0))
    records: list[dict[str, Any]] = []
    for record in _read_jsonl(source):
        messages = [Message.model_validate(message) for message in record["messages"]]
        rows = conversations.rows(messages, id=record["id"])
        records += [row.record() for row in rows]
        turns = sum(row.turns for row in rows)
        counts["conversations"] += 1
        counts["turns"] += turns
        counts["rows"] += len(rows)
        counts["tokens"] += sum(map(len, rows))
        counts["trained_tokens"] += sum(sum(row.trained) for row in rows)
        counts["cut"] += 0 < turns < sum(message.role == "assistant" for message in messages)
        counts["dropped"] += not rows
        counts["split"] += len(rows) > 1
    write_jsonl(target, records)
    return dict(counts)


def _unique_ids(conversations: Sequence[Conversation]) -> list[str]:
    """Conversation ids; a repeated one (the parts of a conversation that was cut) gets its number: `x`, `x/2`."""
    seen: Counter[str] = Counter()
    ids = []
    for conversation in conversations:
        seen[conversation.id] += 1
        count = seen[conversation.id]
        ids.append(conversation.id if count == 1 else f"{conversation.id}/{count}")
    return ids


def check_key(key: str, what: str) -> None:
    """Raise DataError for a key that says nothing: with it, what was made of one model would be taken for another's."""
    if not key.strip():
        raise DataError(f"{what} is empty: say which model this is for (its digest), so that no other is fed what is made of it")


def hash_of(value: Any) -> str:
    """Of all that JSON can hold."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (MANIFEST, *(f"{split}.jsonl" for split in SPLITS)))


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A record a line, whole or not at all."""
    paths.atomic_write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
