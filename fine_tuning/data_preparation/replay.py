"""Self-replay: the base model answers general prompts, and the fine-tune is also trained on those
answers, so that it keeps what the base knows.

This needs no external data. The rows are built once for each base and set of prompts.
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

_STEP = 16  # the number of prompts is a multiple of this
PROMPTS = paths.SAMPLES / "general_prompts.jsonl"

Answer = Callable[[str], tuple[str, bool]]
"""Returns the base's greedy answer to a prompt, and whether it ended with an end token."""


def prompts_beside(chats: int, share: float) -> int:
    """Return the number of prompts that make up a `share` of the training data beside `chats`
    conversations. It is rounded up to a multiple of 16, so that the rows and the base's
    probabilities for them can be reused when the log has grown a little."""
    return math.ceil(share / (1 - share) * chats / _STEP) * _STEP


def read_prompts(count: int, seed: int, file: Path = PROMPTS) -> list[str]:
    """Return `count` of the project's general prompts (all, if there are fewer), drawn with `seed`. A
    smaller count gives the first prompts of a larger one.
    """
    try:
        prompts = [str(json.loads(line)["prompt"]) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f'{file} must contain one {{"prompt": ...}} per line: {error}') from error
    random.Random(seed).shuffle(prompts)
    return prompts[:count]


def build_replay(
    prompts: Sequence[str], answer: Answer, render: Render, tokenizer: Tokenizer, max_length: int, key: str
) -> tuple[Path, Iterator[int]]:
    """Return the file of the replay's token rows, and an iterator that builds it and yields the number of prompts done.

    `key` identifies the base and its sampling settings. Each prompt is answered once; later calls
    reuse the answers. The iterator is empty if the file exists. Raises DataError for an empty key.
    """
    check_key(key, "the replay's key")
    base = [key, fingerprint(tokenizer)]
    file = paths.datasets_dir() / f"replay-{hash_of([VERSION, base, max_length, list(prompts)])[:16]}.jsonl"
    known = paths.datasets_dir() / f"replay-answers-{hash_of(base)[:16]}.json"
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
    # The answer was cut off by the length limit, so the end token is not trained on.
    return replace(row, input_ids=row.input_ids[:-1], trained=row.trained[:-1])
