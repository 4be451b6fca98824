"""Learn people's preferences: with DPO from pairs of answers, with KTO from single ratings.

DPO is arXiv 2305.18290, KTO arXiv 2402.01306. Both compare the model with a reference model: the
model at the start of this training phase. The reference model's log-probabilities are computed
before the first step, so no second model is held in memory. A prompt that two answers share is
computed once, in the packed row (packing.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fine_tuning import paths
from fine_tuning.config.training import Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.loss import plain_head, token_logprobs
from fine_tuning.training.methods import choose_preference_method
from fine_tuning.training.packing import PackedBatch, TokenRow, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, as token ids, of which people preferred `chosen`.

    `reference`: the log-probabilities of both answers under the reference model.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reference: tuple[float, float] = (0.0, 0.0)

    def rows(self) -> list[TokenRow]:
        return [_row(self.prompt, self.chosen), _row(self.prompt, self.rejected)]


@dataclass(frozen=True)
class Rated:
    """An answer that people liked (`wanted`) or disliked, and `other`, the answer to another prompt.

    All texts are token ids. KTO estimates from `other` how far the model has diverged from the
    reference model. `reference`: the log-probabilities of `answer` and of `other`, each after
    `prompt`, under the reference model.
    """

    prompt: list[int]
    answer: list[int]
    wanted: bool
    other: list[int]
    reference: tuple[float, float] = (0.0, 0.0)

    def rows(self) -> list[TokenRow]:
        return [_row(self.prompt, self.answer), _row(self.prompt, self.other)]


ReferencedAnswers = Pair | Rated
Rating = tuple[list[int], list[int], bool]
"""A prompt, an answer, and whether people liked it."""


def read_preferences(path: Path) -> tuple[list[Pair], list[Rating]]:
    """Return the pairs and the single ratings of a JSONL file. Raises TrainingError for a bad line.

    Pairs are {"prompt_ids", "chosen_ids", "rejected_ids"}, ratings {"prompt_ids", "completion_ids",
    "label"}.
    """

    def preference(record: Mapping[str, list[int]]) -> Pair | Rating:
        if "label" in record:
            return list(record["prompt_ids"]), list(record["completion_ids"]), bool(record["label"])
        return Pair(list(record["prompt_ids"]), list(record["chosen_ids"]), list(record["rejected_ids"]))

    found = paths.read_jsonl(path, preference, "a preference", TrainingError)
    return [each for each in found if isinstance(each, Pair)], [each for each in found if not isinstance(each, Pair)]


def read_items(path: Path, settings: Training) -> list[ReferencedAnswers]:
    """Return the items to train on from a file of preferences; an empty list if there are too few.

    For DPO these are the pairs; for KTO the single ratings, and both answers of each pair as
    ratings. Raises TrainingError for a bad line.
    """
    pairs, ratings = read_preferences(path)
    how = choose_preference_method(len(pairs), len(ratings), settings.preferences)
    if how == "dpo":
        return list(pairs)
    sides = [side for pair in pairs for side in ((pair.prompt, pair.chosen, True), (pair.prompt, pair.rejected, False))]
    return list(mismatch([*sides, *ratings])) if how == "kto" else []


def mismatch(ratings: Sequence[Rating]) -> list[Rated]:
    """Return each rating together with the answer to another prompt (KTO's mismatched answer).

    The other answer comes from the nearest previous rating with a different prompt; before the
    first rating, the search continues at the end of the list. If all prompts are the same, the
    answer comes from the previous rating.
    """

    def other(index: int) -> list[int]:
        before = (ratings[index - back] for back in range(1, len(ratings)))
        return next((answer for prompt, answer, _ in before if prompt != ratings[index][0]), ratings[index - 1][1])

    return [Rated(prompt, answer, wanted, other(index)) for index, (prompt, answer, wanted) in enumerate(ratings)]


def pack_preferences(items: Sequence[ReferencedAnswers]) -> PackedBatch:
    """Return a packed row of the items' R answers (two per item), with the fields for preferences set."""
    rows = [row for item in items for row in item.rows()]
    batch = pack(rows)
    batch["answers"] = torch.repeat_interleave(
        torch.arange(len(rows)), torch.tensor([len(row.targets()) for row in rows])
    )
    batch["reference"] = torch.tensor([value for item in items for value in item.reference])
    if isinstance(items[0], Rated):
        batch["wanted"] = torch.tensor([item.wanted for item in items if isinstance(item, Rated)])
    return batch


def pack_preferences_within(items: Sequence[ReferencedAnswers], tokens: int) -> list[PackedBatch]:
    """Return packed rows of at most `tokens` tokens each for pairs, and a single packed row for ratings.

    Ratings are not divided, since KTO estimates the divergence over the whole batch.
    """
    return [pack_preferences(part) for part in ([items] if isinstance(items[0], Rated) else _divided(items, tokens))]


def _divided(items: Sequence[ReferencedAnswers], tokens: int) -> list[list[ReferencedAnswers]]:
    """Divide the items into parts of at most `tokens` tokens each; a longer item gets its own part."""
    parts: list[list[ReferencedAnswers]] = []
    size = 0
    for item in items:
        own = sum(len(row.input_ids) for row in item.rows())
        if parts and size + own <= tokens:
            parts[-1].append(item)
        else:
            parts.append([item])
            size = 0
        size += own
    return parts


def preference_loss(
    model: "PreTrainedModel", batch: PackedBatch, beta: float, head: nn.Linear | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over the batch, and the reward of each answer [R], without gradient.

    A reward is `beta` times the answer's log-ratio: its log-probability (nats) under the model
    minus that under the reference model. `head`: see `loss.plain_head`.
    """
    moved = _sums(model, batch, head) - batch["reference"]
    wanted = batch.get("wanted")
    loss = dpo(moved[0::2] - moved[1::2], beta) if wanted is None else kto(moved[0::2], moved[1::2], wanted, beta)
    return loss, beta * moved.detach()


def dpo(margin: Tensor, beta: float) -> Tensor:
    """Return DPO's loss (equation 7).

    `margin` [pairs]: log-ratio (`preference_loss`) of the chosen answer minus the log-ratio of the
    rejected one.
    """
    return -logsigmoid(beta * margin).mean()


def kto(moved: Tensor, others: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Return KTO's loss (equation 7, both weights 1).

    `moved`, `others` [ratings]: log-ratios (`preference_loss`) of the rated answers and of the
    mismatched ones. `wanted` [ratings]: whether people liked the answer.
    """
    divergence = others.mean().clamp(min=0).detach()
    return (1 - torch.sigmoid(beta * torch.where(wanted, moved - divergence, divergence - moved))).mean()


@torch.no_grad()
def with_reference(
    model: "PreTrainedModel", items: Sequence[ReferencedAnswers], tokens: int = 4096
) -> list[ReferencedAnswers]:
    """Return the items with `reference` set to their log-probabilities under the current `model`.

    At most `tokens` tokens are computed at once, or one item if it is longer.
    """
    model.eval()
    head = plain_head(model)
    found: list[ReferencedAnswers] = []
    for group in _divided(items, tokens):
        sums = cast(list[list[float]], _sums(model, pack_preferences(group), head).view(-1, 2).tolist())
        found += [replace(item, reference=(first, second)) for item, (first, second) in zip(group, sums, strict=True)]
    return found


def _sums(model: "PreTrainedModel", batch: PackedBatch, head: nn.Linear | None) -> Tensor:
    """Return the log-probability (nats) of each answer [R]: the sum over its tokens."""
    logprobs = token_logprobs(model, batch, head)
    return logprobs.new_zeros(len(batch["reference"])).index_add(0, batch["answers"], logprobs)


def _row(prompt: list[int], answer: list[int]) -> TokenRow:
    return TokenRow(prompt + answer, [False] * len(prompt) + [True] * len(answer))
