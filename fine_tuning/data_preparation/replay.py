"""Build the replay: general questions and answers that keep a model from forgetting what its base model knows.

On these exchanges the model is trained to give each token the same probability as the base model
does (training/teacher.py), so their texts themselves are not learned. The exchanges are shipped in
`data/samples`. All answers are complete, so that the model does not forget to end its answers.
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

_STEP = 16  # the number of exchanges is a multiple of this
EXCHANGES = paths.SAMPLES / "general_prompts.jsonl"


def exchanges_beside(chats: int, share: float) -> int:
    """Return the number of general exchanges that make up a `share` (0 to below 1) of all training conversations.

    `chats` is the number of all other training conversations. The result is rounded up to a
    multiple of _STEP, so that it often stays the same when the log grows a little. Then the stored
    token rows and probabilities of the exchanges can be used again.
    """
    return math.ceil(share / (1 - share) * chats / _STEP) * _STEP


def read_exchanges(count: int, seed: int, file: Path = EXCHANGES) -> list[tuple[str, str]]:
    """Return `count` general (prompt, answer) pairs in an order drawn with `seed`; all if there are fewer.

    The result for a smaller count is the beginning of the result for a larger one. Raises DataError
    if the file cannot be read or has another format.
    """
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        exchanges = [(str(record["prompt"]), str(record["answer"])) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'{file} must have one object {{"prompt": ..., "answer": ...}} a line: {error}') from error
    random.Random(seed).shuffle(exchanges)
    return exchanges[:count]


def build_replay(
    exchanges: list[tuple[str, str]], render: Render, tokenizer: Tokenizer, max_length: int, key: str
) -> Path:
    """Return the file of the exchanges' token rows; write it unless it exists.

    Args:
        exchanges: (prompt, answer) pairs.
        render: Renders messages with the base model's chat template.
        tokenizer: The base model's tokenizer.
        max_length: The maximum length of a row in tokens; longer exchanges are left out.
        key: Identifies the base model, for example by its digest.

    Raises DataError for an empty key.
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
