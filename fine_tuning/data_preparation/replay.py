"""Self-replay: the base answers general prompts itself, and the fine-tune is held to those answers.

No foreign data is needed for a model to keep what it knew; the rows are made once for each base and set of prompts.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.dataset_builder import VERSION, check_key, hash_of
from fine_tuning.data_preparation.rows import Render, Tokenizer, tokenize_conversation
from fine_tuning.data_preparation.tokenizer import fingerprint
from fine_tuning.errors import DataError
from fine_tuning.token_rows import TokenRow

_STEP = 16  # prompts
PROMPTS = paths.SAMPLES / "general_prompts.jsonl"

Answer = Callable[[str], tuple[str, bool]]
"""The base's greedy answer to a prompt, and whether it ended by itself."""


def prompts_beside(chats: int, share: float) -> int:
    """How many prompts make a `share` of what is learned together with `chats` conversations; in whole steps, so that
    the rows, and what the base thinks of their tokens, are seldom made anew for a log that has grown a little."""
    return math.ceil(share / (1 - share) * chats / _STEP) * _STEP


def read_prompts(count: int, seed: int, file: Path = PROMPTS) -> list[str]:
    """`count` of the project's general prompts (all, if there are fewer), drawn with `seed`; fewer
    are the first of more.
    """
    try:
        prompts = [str(json.loads(line)["prompt"]) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f'{file} must hold one {{"prompt": ...}} a line: {error}') from error
    random.Random(seed).shuffle(prompts)
    return prompts[:count]


def key_of(digest: str, max_new_tokens: int) -> str:
    """Return what names a base, and how it answers."""
    return f"{digest} {max_new_tokens}"


def unanswered(prompts: Sequence[str], tokenizer: Tokenizer, key: str) -> int:
    """Return how many prompts the base has yet to answer, before `build_replay` has its rows."""
    known = _answers(tokenizer, key)
    return len(set(prompts) - set(paths.read_json(known))) if known.exists() else len(prompts)


def _answers(tokenizer: Tokenizer, key: str) -> Path:
    return paths.datasets_dir() / f"replay-answers-{hash_of([key, fingerprint(tokenizer)])[:16]}.json"


def build_replay(
    prompts: Sequence[str], answer: Answer, render: Render, tokenizer: Tokenizer, max_length: int, key: str
) -> tuple[Path, Iterator[int]]:
    """The file of the replay's token rows, and an iterator that makes it, counting the prompts done.

    `key` names the base and how it answers; it is asked each prompt once, however many are wanted
    later. The iterator is empty when the file is there already. Raises DataError for an empty key.
    """
    check_key(key, "the replay's key")
    base = [key, fingerprint(tokenizer)]
    file = paths.datasets_dir() / f"replay-{hash_of([VERSION, base, max_length, list(prompts)])[:16]}.jsonl"
    known = _answers(tokenizer, key)
    return file, iter(()) if file.exists() else _make(file, known, prompts, answer, render, tokenizer, max_length)


def _make(
    file: Path,
    known: Path,
    prompts: Sequence[str],
    answer: Answer,
    render: Render,
    tokenizer: Tokenizer,
    max_length: int,
) -> Iterator[int]:
    answers: dict[str, list[Any]] = paths.read_json(known) if known.exists() else {}
    rows: list[TokenRow] = []
    for done, prompt in enumerate(prompts, 1):
        if prompt not in answers:
            answers[prompt] = list(answer(prompt))
            paths.write_json(known, answers)
        text, ended = answers[prompt]
        if text.strip():
            messages = [Message(role="user", content=prompt), Message(role="assistant", content=text)]
            made = tokenize_conversation(messages, render, tokenizer, max_length, id=f"replay-{done}")
            rows += made if ended else [_without_end(row) for row in made]
        yield done
    paths.atomic_write(file, "".join(json.dumps(row.record()) + "\n" for row in rows))


def _without_end(row: TokenRow) -> TokenRow:
    # An answer that was cut off did not end there, so its end must not be taught.
    return replace(row, input_ids=row.input_ids[:-1], trained=row.trained[:-1])
