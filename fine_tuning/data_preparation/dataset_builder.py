"""Build datasets and their token rows, and store them on disk.

data/datasets/<hash>/train.jsonl, validation.jsonl, test.jsonl   {"id", "messages": [...]}; a variant also has "augmented"; an answer with "weight": 0 is only context
                     texts.sketches                              sketches and numbers of words of its conversations, for the next dataset (kept_sketches.py)
                     README.md                                   the dataset's card: counts, lengths, sources, licences; no texts
                     manifest.json                               written last: without it the dataset is unfinished, and is built again
                     rows-<hash>/train.jsonl, ...                {"id", "input_ids", "trained"}: token rows of the dataset for one model of the engine
                                 train.index, ...                what is in each row, to find and count rows without parsing them (row_index.py)
                                 manifest.json                   written last: without it the rows are built again
Both folders are named by a hash of everything that they are made from, so nothing is built twice.
"""  # noqa: E501

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fine_tuning import paths
from fine_tuning.config import DataPreparation
from fine_tuning.config.augmentation import Augmentation
from fine_tuning.config.mix import Mix
from fine_tuning.conversation import Conversation, Message, parse_conversations, trained_answers
from fine_tuning.data_collection.cleaning.dedupe import grouped
from fine_tuning.data_collection.cleaning.sketches import Sketches
from fine_tuning.data_collection.pair_formats import examples_of
from fine_tuning.data_preparation import kept_sketches, mixing
from fine_tuning.data_preparation.augmentation import augmenter
from fine_tuning.data_preparation.by_hash import hashes_of, stretches
from fine_tuning.data_preparation.dataset_card import card_of, facts_of
from fine_tuning.data_preparation.kept_rows import EarlierRows, earlier_rows
from fine_tuning.data_preparation.manifest import read_facts, read_turn_ids, write_manifest
from fine_tuning.data_preparation.paraphrase import Rewording
from fine_tuning.data_preparation.rows import ConversationTokenizer, Render, Tokenizer
from fine_tuning.data_preparation.split import SPLITS, assign_splits, join_groups
from fine_tuning.data_preparation.spool import Spool
from fine_tuning.data_preparation.tokenizer import fingerprint
from fine_tuning.data_preparation.topics import topics_of
from fine_tuning.errors import DataError, NoConversations, TooLittleData
from fine_tuning.row_index import ENTRY, Entries, counts_of, entries_of, write_index
from fine_tuning.units import counted

MANIFEST, CARD = "manifest.json", "README.md"
AS_THEY_ARE = Mix()  # each conversation once per epoch
NO_VARIANTS = Augmentation()
VERSION = 3  # part of every hash: increase it when a change of the code gives another dataset for the same input


@dataclass(frozen=True)
class Dataset:
    """A dataset in the folder `path`."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json.

        Its keys include hash, seed, settings, turn_ids, splits (by name, {conversations, turns}),
        dropped (number of turns by reason), augmented (by kind of variant, {conversations, turns}),
        and those of `dataset_card.facts_of`. Raises ByoaiError if the file cannot be read.
        """
        found: dict[str, Any] = paths.read_json(self.path / MANIFEST)
        return found


def build_dataset(
    conversations: Iterable[Conversation | dict[str, object]],
    settings: DataPreparation,
    dropped: Mapping[str, int] | None = None,
    mix: Mix = AS_THEY_ARE,
    augmentation: Augmentation = NO_VARIANTS,
    reword: Rewording | None = None,
) -> Dataset:
    """Split cleaned conversations, and write them as a dataset unless the same dataset exists; return it.

    Sessions and near-duplicates stay in one split. A conversation whose turns name a split in
    `metadata["split"]` goes to that split. Raises NoConversations if there are none, and DataError,
    which names every invalid conversation.

    Args:
        conversations: Cleaned conversations; they are read one by one and not kept in memory.
        settings: The section `data_preparation` of the configuration.
        dropped: Number of dropped turns by reason, for the manifest; read after the last conversation.
        mix: The share of each source or task in the train split; with a share of 0 it is in no split.
        augmentation: How many variants of each conversation are added to the train split.
        reword: Rewords the questions of variants with a model.
    """
    parsed: Iterable[Any] = parse_conversations(conversations) if isinstance(conversations, Sequence) else conversations
    with Spool() as spool, Sketches() as sketches:
        for conversation, pair in examples_of(parsed, settings.teach_thoughts):
            spool.add(conversation, pair)
        if not len(spool):
            raise NoConversations("No conversations to train on: turn recording on, chat, and try again")
        facts = _facts(settings, dropped or {}, mix, augmentation, reword)
        digest = hash_of({**facts, "conversations": spool.digest})
        folder = paths.datasets_dir() / digest[:16]
        if not is_finished(folder):
            words = kept_sketches.sketch_all(spool, sketches)
            splits = _split(spool, sketches, settings)
            often = _mixed(spool, splits, mix, settings.seed)
            variants = _write_splits(folder, spool, splits, often, settings.seed, augmentation, reword)
            sizes = spool.sizes(splits, often)
            for unit in sizes["train"]:
                sizes["train"][unit] += sum(counts[unit] for counts in variants.values())
            told = facts_of(spool, words, splits, often, settings.seed)
            known = {**facts, "hash": digest, "splits": sizes, **told}
            if variants:
                known["augmented"] = variants
            kept_sketches.keep(folder, spool, words, sketches, often)
            paths.atomic_write(folder / CARD, card_of(known))
            write_manifest(folder / MANIFEST, known, spool.turn_ids(often))
    return Dataset(folder)


def _write_splits(
    folder: Path,
    spool: Spool,
    splits: Sequence[str],
    often: Sequence[int],
    seed: int,
    augmentation: Augmentation,
    reword: Rewording | None,
) -> dict[str, dict[str, int]]:
    """Write the conversations of each split, and return the number of variants by kind, {conversations, turns}.

    Each conversation is written as often as `often` says. Raises NoConversations if nothing is left to train on.
    """
    here = {split: [count if of == split else 0 for of, count in zip(splits, often, strict=True)] for split in SPLITS}
    if not any(here["train"]):
        there = ", ".join(sorted(set(spool.sources())))
        raise NoConversations(
            f"No conversations to train on, because mix leaves out every source that exists ({there}): give one of "
            "them more than 0"
        )
    for split in SPLITS[1:]:
        paths.atomic_write(folder / f"{split}.jsonl", spool.records(here[split]))
    held_out = (json.loads(record) for split in SPLITS[1:] for record in spool.records(here[split]))
    making = augmenter(augmentation, seed, spool.said, held_out, reword)
    if augmentation.wanted:
        write_jsonl(folder / "train.jsonl", making.beside(spool.epoch(here["train"])))
    else:
        paths.atomic_write(folder / "train.jsonl", spool.records(here["train"]))
    return making.made


def _facts(
    settings: DataPreparation,
    dropped: Mapping[str, int],
    mix: Mix,
    augmentation: Augmentation,
    reword: Rewording | None,
) -> dict[str, object]:
    """Return the version, settings and counts that are in a dataset's hash and manifest beside its conversations."""
    facts: dict[str, object] = {
        "version": VERSION,
        # without the private words themselves, which the cleaning has removed from the records
        "settings": settings.model_dump(mode="json", exclude={"own_words"}),
        "seed": settings.seed,
        "dropped": dict(sorted(dropped.items())),
    }
    if mix != AS_THEY_ARE:
        facts["mix"] = {**mix.model_dump(mode="json"), "version": mixing.VERSION}
    if augmentation.wanted:
        facts["augmentation"] = {**augmentation.model_dump(mode="json"), "models": reword.key if reword else ""}
    return facts


def tokenize_dataset(
    dataset_path: Path, render: Render, tokenizer: Tokenizer, max_length: int, template_key: str
) -> Path:
    """Return the folder of the dataset's token rows; build the rows unless they exist.

    The manifest there counts for each split: conversations, turns (trained ones), rows, tokens,
    trained_tokens, cut (conversations that lost some turns to `max_length`), dropped (conversations
    that lost all), and split (conversations that needed several rows).

    Args:
        dataset_path: The folder of the dataset.
        render: Renders messages with the model's chat template.
        tokenizer: The model's tokenizer.
        max_length: The maximum length of a row in tokens.
        template_key: Identifies the chat template behind `render`, for example by the model's
            digest: equal keys must mean equal renderings.

    Raises TooLittleData if no conversation of the train split fits, and DataError for a malformed
    conversation or an empty key.
    """
    check_key(template_key, "template_key")
    facts = {
        "version": VERSION,
        "dataset": read_facts(dataset_path / MANIFEST)["hash"],
        "template_key": template_key,
        "vocabulary": fingerprint(tokenizer),
        "max_length": max_length,
    }
    digest = hash_of(facts)
    folder = dataset_path / f"rows-{digest[:16]}"
    if is_finished(folder):
        return folder
    conversations = ConversationTokenizer(render, tokenizer, max_length)
    name = "{}.jsonl".format
    with earlier_rows(facts, SPLITS) as earlier:
        counts = {
            split: _tokenize_split(dataset_path / name(split), conversations, folder / name(split), earlier)
            for split in SPLITS
        }
    if not counts["train"]["rows"]:
        raise TooLittleData(
            f"no conversation to train on fits into {max_length} tokens: raise data_preparation.max_length"
        )
    paths.write_json(folder / MANIFEST, {**facts, "hash": digest, "splits": counts})
    return folder


def doubts_of(conversations: Sequence[Conversation], dataset: Dataset, rows: Path) -> list[str]:
    """Return warnings about a dataset, which the user should see before the training.

    They are about turns that do not fit into a row, and about a session that looks like many
    conversations logged as one. `rows` is the folder of the dataset's token rows.
    """
    found = []
    facts = paths.read_json(rows / MANIFEST)
    too_long = sum(counts["cut"] + counts["dropped"] for counts in facts["splits"].values())
    lost = sum(
        counts["turns"] - facts["splits"][split]["turns"] for split, counts in dataset.manifest["splits"].items()
    )
    sizes = Counter[str]()
    for conversation in conversations:
        sizes[conversation.turns[0].session_id] += len(conversation.learned)
    turns = sizes.total()
    if too_long:
        found.append(
            f"longer than {facts['max_length']} tokens: {too_long} of {counted(len(conversations), 'conversation')}. "
            f"What does not fit is not learned: {lost} of {counted(turns, 'turn')}. {_BEGIN_ANEW}, or raise "
            "data_preparation.max_length"
        )
    session, most = sizes.most_common(1)[0]
    if most >= _MANY and 2 * most > turns:
        found.append(
            f"{most} of {turns} turns are in one session ({session}), so they are learned as one long conversation. "
            f"{_BEGIN_ANEW}, if they have nothing to do with each other"
        )
    return found


_MANY = 8  # a session with this many turns may be several unrelated conversations
_BEGIN_ANEW = (
    "Begin a new session for each conversation (New chat on the page, `new_session()` of the ConversationLogger)"
)


def delete_datasets_of(turn_ids: Collection[str]) -> list[Path]:
    """Remove every dataset that contains one of these turns, and every unfinished one; return their folders.

    Otherwise the text of turns that are deleted from the log would remain in datasets. Do not call
    this while a dataset is being built.
    """
    gone = set(turn_ids)
    folders = [folder for folder in sorted(paths.datasets_dir().glob("*")) if folder.is_dir()]
    hit = [
        each
        for each in folders
        if not (each / MANIFEST).exists() or not gone.isdisjoint(read_turn_ids(each / MANIFEST))
    ]
    for folder in hit:
        shutil.rmtree(folder)
    return hit


def _split(spool: Spool, sketches: Sketches, settings: DataPreparation) -> list[str]:
    """Return the split of each conversation."""
    # Both parts of a conversation that the cleaning cut in two must be in the same split: sessions are groups, too.
    groups = join_groups(grouped(spool.texts(), sketches).tolist(), spool.session_numbers())
    pinned, ids = spool.pinned(), spool.ids()
    free = [number for number, split in enumerate(pinned) if not split]
    ratios = (settings.train_ratio, settings.validation_ratio, settings.test_ratio)
    dealt = assign_splits([ids[number] for number in free], [groups[number] for number in free], ratios, settings.seed)
    for number, split in zip(free, dealt, strict=True):
        pinned[number] = split
    return pinned


def _mixed(spool: Spool, splits: Sequence[str], mix: Mix, seed: int) -> list[int]:
    """Return how often each conversation is in its split.

    In the train split this is decided by `mix`; in the others it is once, or never if `mix` gives
    the source or the task a share of 0.
    """
    tasks = spool.tasks()
    parts = [mixing.part_of(source, task, mix) for source, task in zip(spool.sources(), tasks, strict=True)]
    left_out = {part for named in (mix.shares, mix.repeats) for part, weight in named.items() if not weight}
    often = [int(part not in left_out) for part in parts]
    if mix.model_copy(update={"also": (), "most_repeats": AS_THEY_ARE.most_repeats}) == AS_THEY_ARE:
        return often
    train = [number for number, split in enumerate(splits) if split == "train"]
    ids = spool.ids()
    topics = topics_of(spool.texts(), seed) if mix.topic_temperature > 1 else [0] * len(parts)
    drawable = [number for number in train if parts[number] not in left_out | mix.repeats.keys()]
    for number in train:
        often[number] *= mix.repeats.get(parts[number], 1)
    strata = [mixing.Stratum(parts[number], tasks[number], topics[number]) for number in drawable]
    shares = mixing.stratum_shares(strata, mix)
    drawn = mixing.draw([ids[number] for number in drawable], strata, shares, mix.most_repeats, seed)
    for number, count in zip(drawable, drawn, strict=True):
        often[number] = count
    return often


def _tokenize_split(
    source: Path, conversations: ConversationTokenizer, target: Path, earlier: EarlierRows
) -> dict[str, int]:
    """Write the token rows of a split and their index; return the numbers for the manifest."""
    index = bytearray()

    def lines() -> Iterator[bytes]:
        with source.open("rb") as file:
            for rows, entries in _rows_of(file, conversations, earlier):
                index.extend(entries.tobytes())
                yield rows

    paths.atomic_write(target, lines())
    write_index(target, index)
    return counts_of(np.frombuffer(index, ENTRY))


def _rows_of(
    records: Iterator[bytes], conversations: ConversationTokenizer, earlier: EarlierRows
) -> Iterator[tuple[bytes, Entries]]:
    """Yield the token rows of all records (lines of JSON) in order, as they are stored, with their index.

    They are taken from `earlier`, those of many records at once, or else made anew.
    """
    while batch := list(islice(records, _AT_ONCE)):
        hashes = hashes_of(batch)
        places = earlier.find(hashes)
        new = [json.loads(batch[number]) for number in np.flatnonzero(places < 0).tolist()]
        said = [(each["id"], [Message.model_validate(message) for message in each["messages"]]) for each in new]
        made = zip(new, conversations.rows_of(said), strict=True)
        for begin, end in stretches(places):
            if places[begin] >= 0:
                yield earlier.read(int(places[begin]), end - begin)
            else:
                record, rows = next(made)
                lines = [json.dumps(row.record(), ensure_ascii=False).encode() + b"\n" for row in rows]
                answers = trained_answers(record["messages"])
                yield b"".join(lines), entries_of(hashes[begin], answers, rows, list(map(len, lines)))


_AT_ONCE = 100  # conversations that are tokenized at once


def check_key(key: str, what: str) -> None:
    """Raise DataError if `key`, which identifies a model, is blank; `what` names the key in the message.

    With a blank key the files made for one model would be used for another.
    """
    if not key.strip():
        raise DataError(
            f"{what} is empty: give the digest of the model that this is for, so that it is not used for another model"
        )


def hash_of(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of any value that JSON can express."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (MANIFEST, *(f"{split}.jsonl" for split in SPLITS)))


def write_jsonl(path: Path, records: Iterable[dict[str, object]]) -> None:
    """Write one record per line, atomically, with one record in memory at a time."""
    paths.atomic_write(path, (json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
