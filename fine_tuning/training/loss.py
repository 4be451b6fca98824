"""The loss of a packed row (packing.py), or its tokens' log-probabilities, and their gradients already in the forward pass.

Logits are made for the supervised tokens only, some at a time, and each lot is at once turned into the gradient by what the last layer
gave: of the large [N, vocabulary] tensors only one lot is ever held, and none is kept for the backward pass.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fine_tuning.training.memory import LOGITS_AT_ONCE
from fine_tuning.training.products import product


def supervised_logits(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """[N, vocabulary] in fp32: logits for the supervised tokens only."""
    return _output(model, batch).float()


def packed_loss(model: nn.Module, batch: dict[str, Any], kl_weight: float = 1.0, head: nn.Linear | None = None) -> tuple[Tensor, Tensor]:
    """Mean loss over the batch's supervised tokens: cross-entropy for what is learned, divergence from the base for what is kept.

    The divergence is KL(base || model) over the base's k likeliest tokens and one bucket for all the others. Also returns how many of the
    supervised tokens are the model's likeliest (1 number, no gradient). `head`, see `plain_head`, saves memory and time.
    """
    vectors, weight = _vectors(model, batch, head)
    replayed = batch.get("replayed", torch.zeros_like(batch["shift_labels"], dtype=torch.bool))
    teacher = (batch.get("teacher_ids"), batch.get("teacher_logprobs"))
    return _Loss.apply(vectors, weight, batch["shift_labels"], replayed, *teacher, kl_weight)


def token_logprobs(model: nn.Module, batch: dict[str, Any], head: nn.Linear | None = None) -> Tensor:
    """[N] in fp32: the log-probability (nats) of each supervised token. `head`: see `packed_loss`; a trained one is not used."""
    vectors, weight = _vectors(model, batch, None if head is None or head.weight.requires_grad else head)
    return _Logprobs.apply(vectors, weight, batch["shift_labels"])


@torch.no_grad()
def plain_head(model: Any) -> nn.Linear | None:
    """The model's last matrix, if its product with the last layer's vectors is the logits and nothing more is done to them."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    made: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: made.append(output.clone()))
    tokens, training = torch.arange(4, device=head.weight.device)[None], model.training
    logits = model.eval()(input_ids=tokens, use_cache=False).logits  # no dropout, which would draw random numbers
    model.train(training)
    handle.remove()
    return head if len(made) == 1 and torch.equal(made[0], logits) else None


@contextlib.contextmanager
def _without(head: nn.Linear) -> Iterator[None]:
    """The model gives what its last layer gave, in place of logits."""
    before = head.forward
    vars(head)["forward"] = lambda vectors: vectors
    try:
        yield
    finally:
        vars(head)["forward"] = before


def _vectors(model: nn.Module, batch: dict[str, Any], head: nn.Linear | None) -> tuple[Tensor, Tensor | None]:
    """What the last layer gave [N, hidden], and the matrix that makes logits of it; without `head` the logits themselves, and None."""
    if head is None:
        return _output(model, batch), None
    with _without(head):
        return _output(model, batch), head.weight


def _output(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """[N, vocabulary], or [N, hidden] without the head: what the model says at the tokens before the supervised ones."""
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        layout=batch["layout"],
        logits_to_keep=batch["predictors"],
        use_cache=False,
    )
    return output.logits.squeeze(0)


class _Loss(torch.autograd.Function):
    """Loss and hits of `vectors` [N, hidden], and the gradients by them and by `weight` [vocabulary, hidden]; without a weight the
    vectors are the logits themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        weight: Tensor | None,
        labels: Tensor,
        replayed: Tensor,
        teacher_ids: Tensor | None,
        teacher_logprobs: Tensor | None,
        kl_weight: float,
    ) -> tuple[Tensor, Tensor]:
        d_vectors = torch.empty_like(vectors)
        d_weight = torch.zeros_like(weight) if weight is not None and ctx.needs_input_grad[1] else None
        total, hits, taught = vectors.new_zeros((), dtype=torch.float32), labels.new_zeros(()), 0
        count = max(len(labels), 1)
        for lot in _lots(len(labels)):
            logits = _logits(vectors[lot], weight)
            entropy, likeliest = _to_probabilities(logits, labels[lot])
            old = replayed[lot]
            total += entropy[~old].sum()
            hits += likeliest.sum()
            logits[torch.arange(len(old), device=old.device), labels[lot]] -= torch.where(old, 0.0, 1.0)
            if teacher_ids is not None and teacher_logprobs is not None:
                ids, said = (known[taught : taught + int(old.sum())] for known in (teacher_ids, teacher_logprobs))
                taught += len(ids)
                divergence, logits[old] = _divergence(logits[old], ids, said.exp())
                total += kl_weight * divergence.sum()
            slope, scale = logits.to(vectors.dtype), (torch.where(old, kl_weight, 1.0) / count)[:, None]
            d_vectors[lot] = (slope if weight is None else product(slope, weight.t())) * scale
            if d_weight is not None:
                d_weight += product(slope.t(), (vectors[lot] * scale).to(slope.dtype).t())
        ctx.save_for_backward(d_vectors, d_weight)
        ctx.mark_non_differentiable(hits)
        return total / count, hits

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        d_vectors, d_weight = ctx.saved_tensors
        return d_vectors * outer[0], None if d_weight is None else d_weight * outer[0], None, None, None, None, None


class _Logprobs(torch.autograd.Function):
    """Log-probabilities [N] of `labels` by `vectors` and `weight` (see `_Loss`; no gradient by the weight)."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor | None, labels: Tensor) -> Tensor:
        logprobs = vectors.new_empty(len(labels), dtype=torch.float32)
        slopes = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None  # of each log-probability by its vector
        for lot in _lots(len(labels)):
            logits = _logits(vectors[lot], weight)
            entropy, _ = _to_probabilities(logits, labels[lot])
            logprobs[lot] = -entropy
            if slopes is not None:
                logits.neg_()
                logits[torch.arange(len(entropy), device=labels.device), labels[lot]] += 1
                slope = logits.to(vectors.dtype)
                slopes[lot] = slope if weight is None else product(slope, weight.t())
        ctx.save_for_backward(slopes)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * outer[0][:, None].to(slopes.dtype), None, None


def _lots(count: int) -> Iterator[slice]:
    """`count` tokens in lots of about one size."""
    size = -(-count // max(1, -(-count // LOGITS_AT_ONCE)))
    return (slice(start, start + size) for start in range(0, count, max(size, 1)))


def _logits(vectors: Tensor, weight: Tensor | None) -> Tensor:
    """[n, vocabulary] in fp32, to be written over."""
    return (vectors.clone() if weight is None else product(vectors, weight)).float()


def _to_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Turns `logits` [n, V] in place into probabilities. Cross-entropy [n], and whether the label is the likeliest [n]."""
    chosen = (logits.gather(1, labels[:, None]) - logits.amax(dim=-1, keepdim=True))[:, 0]
    torch.softmax(logits, dim=-1, out=logits)
    # The likeliest's is 1 / sum of exp(logit - greatest); the label's own may be too small for a number.
    return -logits.amax(dim=-1).log() - chosen, chosen >= 0


def _divergence(probabilities: Tensor, ids: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || p) [M], and its gradient by the logits [M, V], where p = `probabilities` [M, V], which are written over, are those of
    the model, and `teacher` [M, k] those of the base for the tokens `ids`; what is left of both is one bucket."""
    kept = probabilities.gather(1, ids)
    rest, rest_teacher = ((1 - part.sum(dim=1)).clamp(min=1e-6) for part in (kept, teacher))
    divergence = (teacher * (teacher.clamp(min=1e-12) / kept.clamp(min=1e-12)).log()).sum(dim=1) + rest_teacher * (
        rest_teacher / rest
    ).log()
    # d/dz_j: p_j - t_j for a kept token, p_j - t_rest * p_j / p_rest for any other.
    slope = probabilities.mul_((1 - rest_teacher / rest)[:, None])
    return divergence, slope.scatter_(1, ids, kept - teacher)
