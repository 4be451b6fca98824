"""Merged adapters against the whole changes of their matrices."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fine_tuning.errors import ConfigError
from fine_tuning.training.adapter_merge import Merged, MergeMethod, Recipe, Update, merge, share_held, write_adapter


def updates(ranks: Sequence[int], shape: tuple[int, int] = (12, 9), seed: int = 0) -> list[Update]:
    chance, (outputs, inputs) = np.random.default_rng(seed), shape
    return [
        Update(
            chance.standard_normal((rank, inputs)).astype(np.float32),
            chance.standard_normal((outputs, rank)).astype(np.float32),
            weight=float(chance.uniform(0.2, 1.5)),
        )
        for rank in ranks
    ]


def dense(update: Update) -> np.ndarray:
    return update.b.astype(float) @ update.a


def change(merged: Merged) -> np.ndarray:
    return merged.b.astype(float) @ merged.a


@pytest.mark.parametrize("ranks", [(2, 2), (1, 4), (3,), (2, 3, 1), (9, 9), (8, 8, 8)])
def test_linear_is_the_weighted_sum_whatever_the_ranks(ranks: tuple[int, ...]) -> None:
    given = updates(ranks)
    merged = merge("q", given, Recipe())
    wanted = sum(each.weight * dense(each) for each in given)
    np.testing.assert_allclose(change(merged), wanted, rtol=1e-4, atol=1e-4)
    assert merged.lost == 0 and merged.wanted == pytest.approx(float(np.square(wanted).sum()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_rank_that_is_asked_for_holds_as_much_as_any_of_that_rank_can(rank: int) -> None:
    given = updates((4, 4), (80, 120))
    merged = merge("q", given, Recipe(rank=rank))
    lengths = np.linalg.svd(sum(each.weight * dense(each) for each in given), compute_uv=False)
    assert merged.rank == rank
    assert merged.lost == pytest.approx(float(np.square(lengths[rank:]).sum()), rel=0.01)
    assert share_held({"q": merged}) == pytest.approx(1 - np.square(lengths[rank:]).sum() / np.square(lengths).sum())


@pytest.mark.parametrize(("density", "ranks"), [(0.2, (2, 2)), (0.5, (1, 3)), (1.0, (2, 2, 2)), (0.7, (4,))])
def test_ties_trims_elects_a_sign_and_averages_those_that_have_it(density: float, ranks: tuple[int, ...]) -> None:
    given = updates(ranks)
    merged = merge("q", given, Recipe("ties", density=density, rank=9))
    trimmed = []
    for each in given:
        delta = dense(each)
        least = np.sort(np.abs(delta), axis=None)[::-1][int(density * delta.size) - 1]
        trimmed.append(np.where(np.abs(delta) >= least, delta, 0))
    elected = np.where(np.sum(trimmed, axis=0) >= 0, 1, -1)
    agree = [np.sign(delta) == elected for delta in trimmed]
    total = sum(each.weight * delta * mask for each, delta, mask in zip(given, trimmed, agree, strict=True))
    np.testing.assert_allclose(change(merged), total / np.maximum(np.sum(agree, axis=0), 1), rtol=1e-4, atol=1e-4)


def test_ties_by_hand() -> None:
    """Two changes of one row: (3, -1, 2, 0.1) and (1, 4, -0.2, 0.3); the two largest numbers of each stay."""
    one, two = (np.array([numbers], np.float32) for numbers in ((3, -1, 2, 0.1), (1, 4, -0.2, 0.3)))
    b = np.ones((1, 1), np.float32)
    merged = merge("q", [Update(one, b), Update(two, b)], Recipe("ties", density=0.5))
    np.testing.assert_allclose(change(merged), [[2, 4, 2, 0]], atol=1e-5)  # (3 + 1) / 2, 4 alone, 2 alone, nobody


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_what_dare_drops_depends_on_the_seed_and_the_module_alone(method: MergeMethod) -> None:
    given, recipe = updates((2, 2)), Recipe(method, density=0.5, seed=7)
    first = merge("q", given, recipe)
    merge("k", given, recipe)
    before = torch.get_rng_state()
    assert np.array_equal(change(merge("q", given, recipe)), change(first))
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's chance is touched
    for other in (merge("q", given, Recipe(method, density=0.5, seed=8)), merge("k", given, recipe)):
        assert not np.allclose(change(other), change(first))


@pytest.mark.parametrize("density", [0.3, 0.5, 0.9])
def test_dare_is_the_weighted_sum_on_average(density: float) -> None:
    given = updates((2, 1), (6, 5))
    wanted = sum(each.weight * dense(each) for each in given)
    drawn = [change(merge("q", given, Recipe("dare", density=density, seed=seed, rank=5))) for seed in range(600)]
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - wanted) < 5 * error + 1e-3).all()
    kept = np.mean([np.isclose(each, 0, atol=1e-4) for each in drawn])
    assert kept == pytest.approx((1 - density) ** 2, abs=0.02)  # where both dropped theirs


def test_dare_that_drops_nothing_is_linear() -> None:
    given = updates((2, 2))
    whole = merge("q", given, Recipe("dare", density=1.0))
    np.testing.assert_allclose(change(whole), change(merge("q", given, Recipe())), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"method": "slerp"}, "linear, ties, dare, dare_ties"),
        ({"density": 0.0}, "above 0"),
        ({"density": 1.1}, "at most 1"),
        ({"density": float("nan")}, "density"),
        ({"density": -1.0}, "density"),
        ({"rank": 0}, "at least 1"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(recipe: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Recipe(**recipe)  # type: ignore[arg-type]


def test_a_merged_adapter_is_read_by_peft_as_it_was_merged(tmp_path: Path) -> None:
    """Ranks differ by module, and a module's name is the beginning of another's."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(
                [torch.nn.ModuleDict({"q": torch.nn.Linear(9, 12, bias=False)}) for _ in range(12)]
            )

    modules = {
        f"layers.{number}.q": merge(f"{number}", updates(ranks, seed=number), Recipe())
        for number, ranks in ((1, (2, 3)), (11, (1,)), (5, (2, 2)))
    }
    write_adapter(tmp_path, "tiny", modules)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    config, model = PeftConfig.from_pretrained(str(tmp_path)), Tiny()
    before = {name: layer["q"].weight.detach().clone() for name, layer in enumerate(model.layers)}
    config.target_modules, config.inference_mode, config.task_type = list(modules), False, None
    peft = get_peft_model(model, config)
    set_peft_model_state_dict(
        peft, {name: torch.from_numpy(each) for name, each in load_file(tmp_path / "adapter_model.safetensors").items()}
    )
    after = peft.merge_and_unload()
    for number in (1, 5, 11):
        added = (after.layers[number]["q"].weight - before[number]).detach().numpy()
        np.testing.assert_allclose(added, change(modules[f"layers.{number}.q"]), rtol=1e-4, atol=1e-4)
