import pytest
import torch
from test_packing import gradients, rows_of
from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from fine_tuning.training import batch_sizes
from fine_tuning.training.loss import _Loss, packed_loss, plain_head, supervised_logits, token_logprobs
from fine_tuning.training.packing import pack
from fine_tuning.training.teacher import teach


def drawn(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels, which are replayed, and the teacher's log-probabilities of all tokens for those."""
    torch.manual_seed(0)
    replayed = torch.rand(count) < 0.5
    return (
        3 * torch.randn(count, size),
        torch.randint(size, (count,)),
        replayed,
        torch.log_softmax(torch.randn(int(replayed.sum()), size), -1),
    )


def reference(logits, labels, replayed, teacher, kl_weight):
    """By autograd."""
    logprobs = torch.log_softmax(logits, -1)
    mine, base = logprobs[replayed].gather(1, teacher.indices), teacher.values
    rest = [torch.log(1 - part.exp().sum(1)) for part in (base, mine)]
    divergence = (base.exp() * (base - mine)).sum(1) + rest[0].exp() * (rest[0] - rest[1])
    learned = -logprobs.gather(1, labels[:, None])[:, 0][~replayed]
    return (learned.sum() + kl_weight * divergence.sum()) / len(labels)


@pytest.mark.parametrize("lot", [256, 5], ids=["one lot", "several"])
@pytest.mark.parametrize("kl_weight", [0.7, 0.0])
def test_the_gradient_taken_in_the_forward_pass_is_that_of_autograd(monkeypatch, lot, kl_weight):
    monkeypatch.setattr(batch_sizes, "LOGITS_AT_ONCE", lot)
    logits, labels, replayed, teacher = drawn(count=17, size=11)
    best = teacher.topk(4, -1)
    logits.requires_grad_()
    mine, hits = _Loss.apply(logits, None, labels, replayed, best.indices, best.values, kl_weight)
    wanted = reference(logits, labels, replayed, best, kl_weight)
    torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(torch.autograd.grad(mine, logits), torch.autograd.grad(wanted, logits))
    assert hits == (logits.argmax(-1) == labels).sum()


def test_with_the_last_matrix_loss_and_gradients_are_those_of_its_logits():
    _, labels, replayed, teacher = drawn(count=17, size=11)
    best = teacher.topk(4, -1)
    vectors, weight = torch.randn(17, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    mine, _ = _Loss.apply(vectors, weight, labels, replayed, best.indices, best.values, 0.7)
    wanted = reference(vectors @ weight.t(), labels, replayed, best, 0.7)
    torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(mine, (vectors, weight)), torch.autograd.grad(wanted, (vectors, weight))
    )


def test_a_label_that_is_all_but_impossible_has_a_finite_loss_and_gradient():
    logits = torch.tensor([[0.0, 300.0, 0.0]], requires_grad=True)
    found, _ = _Loss.apply(logits, None, torch.tensor([2]), torch.tensor([False]), None, None, 1.0)
    assert found.item() == 300
    assert torch.autograd.grad(found, logits)[0].tolist() == [[0.0, 1.0, -1.0]]


def test_a_models_own_head_is_used_and_changes_neither_loss_nor_gradients(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    head, batch = plain_head(model), pack(rows_of(5))
    assert head is model.get_output_embeddings()
    with_head, without = packed_loss(model, batch, head=head), packed_loss(model, batch)
    assert with_head[1] == without[1] and abs(with_head[0].item() - without[0].item()) < 1e-6
    for mine, theirs in zip(gradients(model, with_head[0]), gradients(model, without[0]), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-4)
    # the head is back
    assert supervised_logits(model, batch).shape == (len(batch["shift_labels"]), model.config.vocab_size)


@pytest.mark.parametrize("own_head", [True, False], ids=["by lots of the last matrix", "by logits"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained head", "frozen head"])
def test_log_probabilities_and_their_gradients_are_those_of_autograd(tiny_base, monkeypatch, own_head, trained):
    monkeypatch.setattr(batch_sizes, "LOGITS_AT_ONCE", 5)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    head, batch = plain_head(model), pack(rows_of(5))
    assert head is not None
    head.weight.requires_grad_(trained)
    slopes = torch.linspace(-1, 1, len(batch["shift_labels"]))
    mine = token_logprobs(model, batch, head if own_head else None)
    wanted = supervised_logits(model, batch).log_softmax(-1).gather(1, batch["shift_labels"][:, None])[:, 0]
    torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients(model, mine @ slopes), gradients(model, wanted @ slopes), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
}
SMALL |= {"num_key_value_heads": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    "kind, config",
    [
        (CohereForCausalLM, CohereConfig(**SMALL)),
        (Gemma2ForCausalLM, Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
    ],
    ids=["scaled", "capped"],
)
def test_a_model_that_does_more_with_its_logits_has_no_plain_head(kind, config):
    assert plain_head(kind(config)) is None


def test_replayed_rows_cost_nothing_until_the_model_has_changed(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    rows = teach(model, rows_of(4, seed=5))
    assert packed_loss(model, pack(rows))[0].abs().item() < 1e-5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert packed_loss(model, pack(rows))[0].item() > 0.01


def test_logits_are_made_for_supervised_tokens_only(tiny_base):
    model, rows = AutoModelForCausalLM.from_pretrained(tiny_base), rows_of(4)
    assert supervised_logits(model, pack(rows)).shape[0] == sum(len(row.targets()) for row in rows)
