"""Token rows for the tiny model."""

import random

VOCABULARY = 97


def random_rows(count: int, seed: int = 0, head: int = 9) -> list[dict[str, list[int]]]:
    """Rows that share a head of `head` tokens; some share more, some have two trained spans.
    Answers use 5 tokens: that can be learned.
    """
    draw = random.Random(seed)
    shared = [draw.randrange(VOCABULARY) for _ in range(head)]
    rows = []
    for index in range(count):
        question = [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 12))]
        answer = [draw.randrange(5) for _ in range(draw.randint(1, 9))]
        ids, trained = shared + question + answer, [0] * (head + len(question)) + [1] * len(answer)
        if index % 3 == 0:  # a second turn
            ids, trained = ids + question + answer[::-1], trained + [0] * len(question) + [1] * len(answer)
        rows.append({"input_ids": ids, "trained": trained})
    return rows
