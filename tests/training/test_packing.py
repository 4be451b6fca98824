from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_rows import VOCABULARY, random_rows
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, MistralConfig, Qwen2Config

from fine_tuning.config import Training
from fine_tuning.training import methods
from fine_tuning.training.base_model import load_base
from fine_tuning.training.fast import tree_attention
from fine_tuning.training.fast.fused import fuse
from fine_tuning.training.loss import packed_loss
from fine_tuning.training.packing import TokenRow, pack


def rows_of(count: int, seed: int = 0, head: int = 9) -> list[TokenRow]:
    return [
        TokenRow(row["input_ids"], [bool(flag) for flag in row["trained"]]) for row in random_rows(count, seed, head)
    ]


def one_at_a_time(model, rows: list[TokenRow]) -> torch.Tensor:
    """The reference: each conversation alone, through the model's own causal mask, and the mean
    over all supervised tokens.
    """
    total, count = torch.zeros(()), 0
    for row in rows:
        # without virtual ones
        logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0][-len(row.input_ids) :]
        for target in row.targets():
            total = total - torch.log_softmax(logits[target - 1].float(), -1)[row.input_ids[target]]
            count += 1
    return total / count


def gradients(model, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad]))


@pytest.fixture(scope="module")
def model(tiny_base, tmp_path_factory):
    """As it is trained: with the attention over the tree."""
    return load_base(tiny_base, torch.float32, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("attention", [tree_attention.NAME, "sdpa"])
def test_packed_loss_and_gradients_equal_one_conversation_a_row(tiny_base, attention):
    tree_attention.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation=attention)
    for rows in (rows_of(8), rows_of(5, seed=4, head=0), rows_of(1), rows_of(3, seed=7, head=40)):
        packed, reference = packed_loss(model, pack(rows))[0], one_at_a_time(model, rows)
        assert abs(packed.item() - reference.item()) < 1e-5
        for mine, theirs in zip(gradients(model, packed), gradients(model, reference), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TINY |= {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "initializer_range": 0.2, "sliding_window": 7}


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**TINY),
        Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=1),
        Gemma2Config(**TINY),
        Gemma3TextConfig(**TINY, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=["every layer", "the upper layer", "with capped scores", "with norms of queries and keys"],
)
@pytest.mark.parametrize("fused", [False, True], ids=["as it is", "fused with LoRA"])
def test_layers_that_look_back_over_a_window_only_do_so_in_a_packed_row_too(config, fused):
    torch.manual_seed(0)
    tree_attention.register()
    model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=tree_attention.NAME)
    reference = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager")
    reference.load_state_dict(model.state_dict())
    if fused:
        model = methods.METHODS["lora"].attach(model, Training(method="lora"))
        fuse(model)
    rows = rows_of(6, head=12)
    with torch.no_grad():
        packed, wanted = packed_loss(model, pack(rows))[0], one_at_a_time(reference, rows)
    assert abs(packed.item() - wanted.item()) < 1e-4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=8), min_size=1, max_size=8))
def test_any_rows_of_few_tokens_so_that_much_is_shared_give_the_reference_loss(model, texts):
    rows = [TokenRow(text, [True] * len(text)) for text in texts]
    with torch.no_grad():
        assert abs(packed_loss(model, pack(rows))[0].item() - one_at_a_time(model, rows).item()) < 1e-5


def test_what_rows_share_is_computed_once():
    rows = [
        TokenRow([1, 2, 3, 4, 5], [False] * 3 + [True] * 2),
        TokenRow([1, 2, 3, 6], [False] * 3 + [True]),
        TokenRow([1, 2, 3, 4, 7], [False] * 4 + [True]),
    ]
    batch = pack(rows)
    assert sorted(batch["input_ids"][0].tolist()) == [1, 2, 3, 4]  # each row's last token predicts nothing
    assert batch["tokens"].item() == 14
    assert len(batch["shift_labels"]) == 4


def test_a_token_never_sees_another_conversation():
    batch = pack(
        [TokenRow([1, 2, 8, 4], [False, False, True, True]), TokenRow([1, 3, 9, 4], [False, False, True, True])]
    )
    tokens, mask = batch["input_ids"][0].tolist(), batch["attention_mask"][0, 0]
    seen = [tokens[index] for index in mask[tokens.index(9)].nonzero().flatten().tolist()]
    assert seen == [1, 3, 9]


def test_the_memory_of_attention_does_not_grow_with_other_conversations(model):
    rows = rows_of(16, seed=3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        packed_loss(model, batch := pack(rows))
    tokens = batch["input_ids"].numel()
    assert tokens > 100 and all(tensor.shape[-2:] != (tokens, tokens) for tensor in kept)


def test_what_no_loss_depends_on_is_not_computed():
    rows = [
        TokenRow([1, 2, 3, 4, 5], [False, False, True, False, False]),
        TokenRow([1, 2, 6, 7], [False, False, False, True]),
    ]
    batch = pack(rows)
    assert sorted(batch["input_ids"][0].tolist()) == [1, 2, 6]
    assert batch["tokens"].item() == 9
    assert batch["shift_labels"].tolist() == [3, 7]
