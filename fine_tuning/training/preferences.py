"""Learning from what people preferred: DPO (arXiv 2305.18290) from pairs of answers, KTO (arXiv 2402.01306) from single ratings.

Answers to one prompt share it: in the packed row (packing.py) it is computed once. The reference model is the one that the preference
training starts from, and its log-probabilities are taken once, before the first step, so that no second model is in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fine_tuning import paths
from fine_tuning.config import Preferences, Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.loss import plain_head, token_logprobs
from fine_tuning.training.packing import Row, pack


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, in tokens. `reference` holds the sums of their log-probabilities under the reference model."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reference: tuple[float, float] = (0.0, 0.0)

    def rows(self) -> list[Row]:
        return [_row(self.prompt, self.chosen), _row(self.prompt, self.rejected)]


@dataclass(frozen=True)
class Rated:
    """An answer that was wanted or not, and `other`, the answer to another prompt, from which KTO estimates how far the model has moved."""

    prompt: list[int]
    answer: list[int]
    wanted: bool
    other: list[int]
    reference: tuple[float, float] = (0.0, 0.0)

    def rows(self) -> list[Row]:
        return [_row(self.prompt, self.answer), _row(self.prompt, self.other)]


Preference = Pair | Rated


def read_preferences(path: Path) -> tuple[list[Pair], list[tuple[list[int], list[int], bool]]]:
    """The pairs, and the single ratings as (prompt, answer, wanted), of {"prompt_ids", "chosen_ids", "rejected_ids"} and
    {"prompt_ids", "completion_ids", "label"}, one a line. TrainingError names a bad line."""

    def preference(record: Any) -> Pair | tuple[list[int], list[int], bool]:
        if "label" in record:
            return list(record["prompt_ids"]), list(record["completion_ids"]), bool(record["label"])
        return Pair(list(record["prompt_ids"]), list(record["chosen_ids"]), list(record["rejected_ids"]))

    found = paths.read_jsonl(path, preference, "a preference", TrainingError)
    return [each for each in found if isinstance(each, Pair)], [each for each in found if not isinstance(each, Pair)]


def choose(pairs: int, ratings: int, settings: Preferences) -> Literal["dpo", "kto"] | None:
    """How so many pairs and single ratings are learned; None: they are too few, or are not to be."""
    if settings.method in ("auto", "dpo") and pairs >= settings.least:
        return "dpo"
    return "kto" if settings.method in ("auto", "kto") and 2 * pairs + ratings >= settings.least else None


def read_items(path: Path, settings: Training) -> list[Preference]:
    """What is to be learned of a file of preferences: pairs, or for KTO each side of a pair as a rating beside the others."""
    pairs, ratings = read_preferences(path)
    how = choose(len(pairs), len(ratings), settings.preferences)
    if how == "dpo":
        return list(pairs)
    sides = [side for pair in pairs for side in ((pair.prompt, pair.chosen, True), (pair.prompt, pair.rejected, False))]
    return list(mismatch([*sides, *ratings])) if how == "kto" else []


def mismatch(ratings: Sequence[tuple[list[int], list[int], bool]]) -> list[Rated]:
    """Each rating with the answer of the one before it, the first with that of the last: of those to another prompt, if there are any."""

    def other(index: int) -> list[int]:
        before = (ratings[index - back] for back in range(1, len(ratings)))
        return next((answer for prompt, answer, _ in before if prompt != ratings[index][0]), ratings[index - 1][1])

    return [Rated(prompt, answer, wanted, other(index)) for index, (prompt, answer, wanted) in enumerate(ratings)]


def pack_preferences(items: Sequence[Preference]) -> dict[str, Tensor]:
    """What `packing.pack` returns for the items' rows, two each, with `answers` [N] (the row of each supervised token), `reference` [R],
    and for ratings `wanted` [R / 2] (bool)."""
    rows = [row for item in items for row in item.rows()]
    batch = pack(rows)
    batch["answers"] = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.targets()) for row in rows]))
    batch["reference"] = torch.tensor([value for item in items for value in item.reference])
    if isinstance(items[0], Rated):
        batch["wanted"] = torch.tensor([item.wanted for item in items if isinstance(item, Rated)])
    return batch


def pack_preferences_within(items: Sequence[Preference], tokens: int) -> list[dict[str, Tensor]]:
    """The same in parts of at most `tokens` tokens each; ratings in one, since their divergence is the batch's."""
    return [pack_preferences(part) for part in ([items] if isinstance(items[0], Rated) else _divided(items, tokens))]


def _divided(items: Sequence[Preference], tokens: int) -> list[list[Preference]]:
    """The items in parts of at most `tokens` tokens each; a longer one is alone."""
    parts: list[list[Preference]] = []
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


def preference_loss(model: Any, batch: dict[str, Tensor], beta: float, head: nn.Linear | None = None) -> tuple[Tensor, Tensor]:
    """Mean loss over the batch, and the rewards [R], beta * (log-probability - reference's), without gradient. `head`: see loss.py."""
    moved = _sums(model, batch, head) - batch["reference"]
    wanted = batch.get("wanted")
    loss = dpo(moved[0::2] - moved[1::2], beta) if wanted is None else kto(moved[0::2], moved[1::2], wanted, beta)
    return loss, beta * moved.detach()


def dpo(margin: Tensor, beta: float) -> Tensor:
    """Equation 7: `margin` [pairs] is how much more the model moved towards the chosen answer than towards the rejected one."""
    return -logsigmoid(beta * margin).mean()


def kto(moved: Tensor, others: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Equation 7 with both weights 1: `moved` and `others` [ratings] are the log-ratios of the answers and of mismatched ones."""
    divergence = others.mean().clamp(min=0).detach()
    return (1 - torch.sigmoid(beta * torch.where(wanted, moved - divergence, divergence - moved))).mean()


@torch.no_grad()
def with_reference(model: Any, items: Sequence[Preference], tokens: int = 4096) -> list[Preference]:
    """The items with the reference log-probabilities of `model` as it is now; at most so many `tokens` at once."""
    model.eval()
    head = plain_head(model)
    found: list[Preference] = []
    for group in _divided(items, tokens):
        sums = _sums(model, pack_preferences(group), head).view(-1, 2).tolist()
        found += [replace(item, reference=(first, second)) for item, (first, second) in zip(group, sums, strict=True)]
    return found


def _sums(model: Any, batch: dict[str, Tensor], head: nn.Linear | None) -> Tensor:
    """[R]: the log-probability of each answer."""
    logprobs = token_logprobs(model, batch, head)
    return logprobs.new_zeros(len(batch["reference"])).index_add(0, batch["answers"], logprobs)


def _row(prompt: list[int], answer: list[int]) -> Row:
    return Row(prompt + answer, [False] * len(prompt) + [True] * len(answer))
