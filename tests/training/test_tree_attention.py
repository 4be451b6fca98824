"""Attention over a packed row against PyTorch's own with the row's mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fine_tuning.training.attention import within_window
from fine_tuning.training.fast.tree_attention import Layout, attend, attend_backward
from fine_tuning.training.packing import TokenRow, pack


def packed(lengths: list[int], head: int) -> dict:
    """Conversations of so many tokens of their own after `head` that all share."""
    shared = list(range(head))
    return pack(
        [
            TokenRow(shared + [1000 * index + place for place in range(1, own + 1)] + [0], [True] * (head + own + 1))
            for index, own in enumerate(lengths, 1)
        ]
    )


def reference(rows: torch.Tensor, groups: int, mask: torch.Tensor) -> torch.Tensor:
    heads = rows.shape[1] - 2 * groups
    query, key, value = (part.transpose(0, 1)[None] for part in rows.split([heads, groups, groups], dim=1))
    return (
        scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True, scale=0.3)[0]
        .transpose(0, 1)
        .flatten(1)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=7), st.integers(1, 40), st.sampled_from([(4, 4), (4, 2), (3, 1)])
)
def test_any_lengths_give_the_attention_and_the_gradients_of_the_mask(lengths, head, heads_and_groups):
    batch, (heads, groups) = packed(lengths, head), heads_and_groups
    torch.manual_seed(len(lengths))
    rows = torch.randn(batch["input_ids"].numel(), heads + 2 * groups, 8, requires_grad=True)
    wanted = reference(rows, groups, batch["attention_mask"])
    found, *kept = attend(rows.detach(), groups, 0.3, batch["layout"])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    d_out = torch.randn_like(wanted)
    gradient = attend_backward(kept, d_out, rows.shape, groups, 0.3, batch["layout"])
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, rows, d_out)[0], atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=7), st.integers(1, 40), st.integers(1, 60))
def test_with_a_window_no_token_sees_so_far_back(lengths, head, window):
    batch, heads, groups = packed(lengths, head), 4, 2
    positions = batch["position_ids"][0]
    near = positions[:, None] - positions < window
    assert torch.equal(within_window(batch["layout"].paths, window), near)
    rows = torch.randn(len(positions), heads + 2 * groups, 8, requires_grad=True)
    wanted = reference(rows, groups, batch["attention_mask"] & near)
    found, *kept = attend(rows.detach(), groups, 0.3, batch["layout"], window)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    d_out = torch.randn_like(wanted)
    gradient = attend_backward(kept, d_out, rows.shape, groups, 0.3, batch["layout"], window)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, rows, d_out)[0], atol=1e-5, rtol=1e-4)


def test_weights_are_kept_for_the_backward_pass_where_they_are_small_only():
    for length, kept in ((30, 2), (300, 1)):  # the rows in order and one group's weights; the rows alone
        batch = packed([length], 1)
        assert len(attend(torch.randn(batch["input_ids"].numel(), 8, 16), 2, 0.3, batch["layout"])) == 1 + kept


def scores(layout: Layout) -> int:
    return sum(group.bias(None).numel() for group in layout.groups)


@pytest.mark.parametrize("lengths", [[20] * 7 + [300], [2000], [5, 9, 40, 44, 160, 170, 400, 420]])
def test_no_more_scores_are_made_than_a_little_above_those_that_are_needed(lengths):
    layout = packed(lengths, head=30)["layout"]
    needed = 30 * 31 / 2 + sum(own * 30 + own * (own + 1) / 2 for own in lengths)
    assert scores(layout) < 1.35 * needed + 1000 * len(lengths)


def test_conversations_of_like_size_are_one_group_and_a_much_longer_one_is_another():
    assert len(packed([20, 21, 22, 23, 20, 21, 22, 23], head=10)["layout"].groups) == 1
    assert len(packed([20, 21, 22, 23, 20, 21, 22, 300], head=10)["layout"].groups) > 1
