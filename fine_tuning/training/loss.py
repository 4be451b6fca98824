"""Compute the loss of a packed row (packing.py), and the log-probabilities of its tokens.

To save memory, gradients are computed already in the forward pass. Logits are computed only for
the N supervised tokens (those that count in the loss), one chunk at a time, and the gradient of
the last layer's output is computed from each chunk at once. So only one chunk of the large
[N, vocabulary] tensors is in memory at a time, and none is saved for the backward pass.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fine_tuning.training.autograd import Context, apply
from fine_tuning.training.batch_sizes import chunks
from fine_tuning.training.fast.matmul import product
from fine_tuning.training.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def supervised_logits(model: "PreTrainedModel", batch: PackedBatch) -> Tensor:
    """Return the logits of the supervised tokens, [N, vocabulary] in fp32."""
    return _output(model, batch).float()


def packed_loss(
    model: "PreTrainedModel", batch: PackedBatch, kl_weight: float = 1.0, head: nn.Linear | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over the batch's supervised tokens, and the number predicted correctly.

    A token is predicted correctly if it is the model's most likely one; the count has no gradient.
    The loss of a token is its cross-entropy (nats); the loss of a replayed token is `kl_weight`
    times KL(base || model), over the base's k most likely tokens and one bucket for all others.
    `head`: the result of `plain_head`, which saves memory and time; None: use the model's logits.
    """
    vectors, weight = _vectors(model, batch, head)
    replayed = batch.get("replayed", torch.zeros_like(batch["shift_labels"], dtype=torch.bool))
    teacher = (batch.get("teacher_ids"), batch.get("teacher_logprobs"))
    arguments = vectors, weight, batch["shift_labels"], replayed, *teacher, kl_weight
    loss, hits = _Loss.apply(*arguments)  # type: ignore[no-untyped-call]  # torch does not say its types
    return loss, hits


def token_logprobs(model: "PreTrainedModel", batch: PackedBatch, head: nn.Linear | None = None) -> Tensor:
    """Return the log-probability (nats) of each supervised token, [N] in fp32.

    `head`: see `packed_loss`; it is ignored if its weight is trained.
    """
    vectors, weight = _vectors(model, batch, None if head is None or head.weight.requires_grad else head)
    return apply(_Logprobs, vectors, weight, batch["shift_labels"])


@torch.no_grad()
def plain_head(model: "PreTrainedModel") -> nn.Linear | None:
    """Return the model's output head, if the logits are just its product with the last layer's vectors.

    Return None if the head has a bias, or if the model processes the product further, for example
    by a soft cap.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    made: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: made.append(output.clone()))
    tokens, training = torch.arange(4, device=head.weight.device)[None], model.training
    logits = model.eval()(input_ids=tokens, use_cache=False).logits  # without dropout, which would draw random numbers
    model.train(training)
    handle.remove()
    return head if len(made) == 1 and torch.equal(made[0], logits) else None


@contextlib.contextmanager
def _without(head: nn.Linear) -> Iterator[None]:
    """Make the model with this head return its last layer's vectors instead of logits, within the `with` block."""
    before = head.forward
    vars(head)["forward"] = lambda vectors: vectors
    try:
        yield
    finally:
        vars(head)["forward"] = before


def _vectors(model: "PreTrainedModel", batch: PackedBatch, head: nn.Linear | None) -> tuple[Tensor, Tensor | None]:
    """Return the last layer's vectors [N, hidden], and the head's matrix [vocabulary, hidden].

    If `head` is None, return the logits [N, vocabulary] and None.
    """
    if head is None:
        return _output(model, batch), None
    with _without(head):
        return _output(model, batch), head.weight


def _output(model: "PreTrainedModel", batch: PackedBatch) -> Tensor:
    """Return the model's output for the supervised tokens.

    These are the logits [N, vocabulary], or the last layer's vectors [N, hidden] within a `with
    _without(head)` block.
    """
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        layout=batch["layout"],
        logits_to_keep=batch["predictors"],
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits.squeeze(0)


class _Loss(torch.autograd.Function):
    """Loss and number of correct predictions for `vectors` [N, hidden] and `weight` [vocabulary, hidden].

    If `weight` is None, `vectors` [N, vocabulary] are the logits themselves. The other arguments
    are fields of PackedBatch, and `kl_weight` as in `packed_loss`.
    """

    @staticmethod
    def forward(
        ctx: Context,
        vectors: Tensor,
        weight: Tensor | None,
        labels: Tensor,
        replayed: Tensor,
        teacher_ids: Tensor | None,
        teacher_logprobs: Tensor | None,
        kl_weight: float,
    ) -> tuple[Tensor, Tensor]:
        grad_vectors = torch.empty_like(vectors)
        grad_weight = torch.zeros_like(weight) if weight is not None and ctx.needs_input_grad[1] else None
        total, hits, taught = vectors.new_zeros((), dtype=torch.float32), labels.new_zeros(()), 0
        count = max(len(labels), 1)
        for lot in chunks(len(labels)):
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
            grad_vectors[lot] = (slope if weight is None else product(slope, weight.t())) * scale
            if grad_weight is not None:
                grad_weight += product(slope.t(), (vectors[lot] * scale).to(slope.dtype).t())
        ctx.save_for_backward(grad_vectors, grad_weight)
        ctx.mark_non_differentiable(hits)
        return total / count, hits

    @staticmethod
    def backward(ctx: Context, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grad_vectors, grad_weight = ctx.saved_tensors
        return (
            grad_vectors * outer[0],
            None if grad_weight is None else grad_weight * outer[0],
            None,
            None,
            None,
            None,
            None,
        )


class _Logprobs(torch.autograd.Function):
    """Log-probabilities [N] of `labels`, for `vectors` and `weight` as in `_Loss`; `weight` gets no gradient."""

    @staticmethod
    def forward(ctx: Context, vectors: Tensor, weight: Tensor | None, labels: Tensor) -> Tensor:
        logprobs = vectors.new_empty(len(labels), dtype=torch.float32)
        # gradient of each log-probability for its vector
        slopes = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None
        for lot in chunks(len(labels)):
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
    def backward(ctx: Context, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * outer[0][:, None].to(slopes.dtype), None, None


def _logits(vectors: Tensor, weight: Tensor | None) -> Tensor:
    """Return the logits [n, vocabulary] in fp32, in a tensor that the caller may overwrite."""
    return (vectors.clone() if weight is None else product(vectors, weight)).float()


def _to_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Turn `logits` [n, V] into probabilities in place.

    Return the cross-entropy [n], and whether the label is the most likely token [n].
    """
    chosen = (logits.gather(1, labels[:, None]) - logits.amax(dim=-1, keepdim=True))[:, 0]
    torch.softmax(logits, dim=-1, out=logits)
    # Computed from the most likely token's probability, since the label's own may underflow.
    return -logits.amax(dim=-1).log() - chosen, chosen >= 0


def _divergence(probabilities: Tensor, ids: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(teacher || model) [M], and its gradient with respect to the logits [M, V].

    `probabilities` [M, V]: the model's; they are overwritten. `teacher` [M, k]: the base's
    probabilities of the tokens `ids`. All other tokens count as one bucket.
    """
    kept = probabilities.gather(1, ids)
    rest, rest_teacher = ((1 - part.sum(dim=1)).clamp(min=1e-6) for part in (kept, teacher))
    divergence = (teacher * (teacher.clamp(min=1e-12) / kept.clamp(min=1e-12)).log()).sum(dim=1) + rest_teacher * (
        rest_teacher / rest
    ).log()
    # d/dz_j: p_j - t_j for a kept token, p_j - t_rest * p_j / p_rest for any other.
    slope = probabilities.mul_((1 - rest_teacher / rest)[:, None])
    return divergence, slope.scatter_(1, ids, kept - teacher)
