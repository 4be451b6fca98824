"""Replay: general questions and answers on which a training is held to what the base finds likely.

They are the project's own, in `data/samples`, and none is learned as it stands: what counts is the
base's probability of each token (training/teacher.py). All end, so the model also keeps when to end.
"""

import json
import math
import random
from pathlib import Path

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.dataset_builder import VERSION, check_key, hash_of
from fine_tuning.data_preparation.rows import Render, Tokenizer, tokenize_conversation
from fine_tuning.data_preparation.tokenizer import fingerprint
from fine_tuning.errors import DataError

_STEP = 16  # exchanges
EXCHANGES = paths.SAMPLES / "general_prompts.jsonl"


def exchanges_beside(chats: int, share: float) -> int:
    """Return how many general exchanges make a `share` of what is learned together with `chats` conversations.

    It is a multiple of a step, so that the rows, and what the base thinks of their tokens, are
    seldom made anew for a log that has grown a little.
    """
    return math.ceil(share / (1 - share) * chats / _STEP) * _STEP


def read_exchanges(count: int, seed: int, file: Path = EXCHANGES) -> list[tuple[str, str]]:
    """Return `count` of the general prompts with their answers, drawn with `seed`; all, if there are fewer.

    Fewer are always the first of more. Raises DataError for a file that holds anything else.
    """
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        exchanges = [(str(record["prompt"]), str(record["answer"])) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'{file} must hold one {{"prompt": ..., "answer": ...}} a line: {error}') from error
    random.Random(seed).shuffle(exchanges)
    return exchanges[:count]


def build_replay(
    exchanges: list[tuple[str, str]], render: Render, tokenizer: Tokenizer, max_length: int, key: str
) -> Path:
    """Return the file of the exchanges' token rows, which is made unless it is there.

    `key` names the base, whose template `render` applies. Raises DataError for an empty key.
    """
    check_key(key, "the replay's key")
    identity = [VERSION, key, fingerprint(tokenizer), max_length, exchanges]
    file = paths.datasets_dir() / f"replay-{hash_of(identity)[:16]}.jsonl"
    if not file.exists():
        rows = [
            row
            for number, (prompt, answer) in enumerate(exchanges, 1)
            for row in tokenize_conversation(
                [Message(role="user", content=prompt), Message(role="assistant", content=answer)],
                render,
                tokenizer,
                max_length,
                id=f"replay-{number}",
            )
        ]
        paths.atomic_write(file, "".join(json.dumps(row.record()) + "\n" for row in rows))
    return file
