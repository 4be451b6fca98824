"""Whichever library multiplies, the products are the same."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_run import train

from fine_tuning.config import Training
from fine_tuning.errors import TrainingError
from fine_tuning.training import hardware
from fine_tuning.training.fast import matmul

FASTER = matmul._faster.__wrapped__  # asked anew each time
MEASURED = hardware.gemm_flops  # anew each time
SIZES = st.integers(1, 70)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def seeded(*shape, **more):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), **more)


@needs_onednn
@given(
    tokens=st.integers(0, 70),
    inner=SIZES,
    outer=SIZES,
    biased=st.booleans(),
    turned=st.booleans(),
    strided=st.booleans(),
    narrowed=st.booleans(),
)
def test_onednn_multiplies_as_blas_does_also_by_a_transpose_or_a_part_and_of_a_part(
    tokens, inner, outer, biased, turned, strided, narrowed
):
    x = seeded(tokens, 2 * inner)[:, ::2] if strided else seeded(tokens, inner)
    weight = seeded(outer, inner + 5)[:, 5:] if narrowed else seeded(outer, inner)
    weight = (seeded(inner, outer + 3)[:, 3:] if narrowed else seeded(inner, outer)).t() if turned else weight
    bias = seeded(outer) if biased else None
    matmul.use("onednn")
    made = matmul.product(x, weight, bias)
    matmul.use("blas")
    assert made.shape == (tokens, outer)
    torch.testing.assert_close(made, matmul.product(x, weight, bias), atol=1e-4, rtol=1e-4)


@needs_onednn
@pytest.mark.parametrize("width", [7, matmul._WIDE])
def test_products_are_added_alike_by_both(width: int) -> None:
    one, other, totals = seeded(9, width), seeded(9, 5), [seeded(4, 3), seeded(width - 4, 2)]
    wanted = [totals[0] + 0.5 * one[:, :4].t() @ other[:, :3], totals[1] + 0.5 * one[:, 4:].t() @ other[:, 3:]]
    alone = seeded(width, 5)
    for library in ("blas", "onednn"):
        matmul.use(library)
        made, made_alone = [total.clone() for total in totals], alone.clone()
        matmul.add_products(made, one, other, 0.5)
        matmul.add_products([made_alone], one, other, 2.0)
        torch.testing.assert_close([*made, made_alone], [*wanted, alone + 2 * one.t() @ other], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("library", ["blas", pytest.param("onednn", marks=needs_onednn)])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 0, 5)])
def test_what_comes_before_the_last_dimension_stays(library, shape) -> None:
    matmul.use(library)
    x, weight = seeded(*shape), seeded(7, 5)
    torch.testing.assert_close(matmul.product(x, weight), nn.functional.linear(x, weight))


@needs_onednn
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_relayed_layer_gives_the_same_and_has_the_same_gradients(trained: bool, biased: bool) -> None:
    layer = nn.Sequential(nn.Linear(5, 7, bias=biased)).requires_grad_(trained)

    def step():
        layer.zero_grad()
        x = seeded(2, 3, 5).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        return [y, x.grad, *(parameter.grad.clone() for parameter in layer.parameters() if trained)]

    wanted = step()
    matmul.use("onednn")
    matmul.relay(layer)
    assert "forward" in vars(layer[0])
    for made, known in zip(step(), wanted, strict=True):
        torch.testing.assert_close(made, known)


@pytest.mark.parametrize(("factor", "chosen"), [(0.4, "onednn"), (0.95, "blas"), (3.0, "blas")])
def test_onednn_is_taken_only_where_it_is_clearly_faster(monkeypatch, factor: float, chosen: str) -> None:
    clock = [0.0]

    def takes(seconds):
        def by(x, weight, bias):
            clock[0] += seconds

        return by

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(matmul.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(matmul, "_by_blas", takes(1.0))
    monkeypatch.setattr(matmul, "_by_onednn", takes(factor))
    monkeypatch.setattr(matmul, "_faster", FASTER)
    assert matmul.choose(Training()) == chosen
    assert matmul.choose(Training(backend="trl")) == "blas"


@needs_onednn
def test_a_run_goes_on_with_the_library_that_it_began_with(tiny_base, row_folder, tmp_path, monkeypatch) -> None:
    settings = Training(method="lora", num_epochs=1, dtype="float32", threads=1, products="onednn")
    result = train(tiny_base, row_folder, tmp_path / "run", settings)
    assert result.products == json.loads((tmp_path / "run" / "chosen.json").read_text())["products"] == "onednn"
    monkeypatch.setattr(matmul, "_faster", lambda: "blas")  # what another probe would say
    assert (
        train(tiny_base, row_folder, tmp_path / "run", settings.model_copy(update={"products": "auto"})).products
        == "onednn"
    )


@needs_onednn
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_learned_does_not_depend_on_the_library(tiny_base, row_folder, tmp_path, method: str) -> None:
    losses = []
    for library in ("blas", "onednn"):
        told = []
        settings = Training(method=method, num_epochs=1, dtype="float32", threads=1, products=library)
        train(tiny_base, row_folder, tmp_path / library, settings, report=told.append)
        losses.append([step.loss for step in told])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@needs_onednn
def test_memory_does_not_grow_with_the_number_of_different_lengths() -> None:
    """In a process of its own: the caches' sizes are read once."""
    measure = """
import psutil, torch
from fine_tuning.training.fast import matmul
matmul.use("onednn")
held = []
weight = torch.randn(600, 500)
for tokens in range(100, 400):
    for each in (weight, weight.t()):
        matmul.product(torch.ones(tokens, each.shape[1]), each)
    held.append(psutil.Process().memory_info().rss)
print(held[-1] - held[50])
"""
    others = {key: value for key, value in os.environ.items() if key not in matmul._KERNEL_CACHES}
    grown = int(
        subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True, env=others).stdout
    )
    assert grown < 40e6  # with all kernels kept more than 200 MB


def test_a_library_that_torch_does_not_have_is_refused_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(matmul, "_has_onednn", lambda: False)
    with pytest.raises(TrainingError, match="set it to blas or auto"):
        matmul.use("onednn")
    assert matmul.choose(Training(products="auto")) == "blas"


def test_the_machine_is_measured_by_the_library_that_is_used(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(hardware, "product", lambda x, weight, library=None: asked.append(x.shape))
    MEASURED()
    assert asked
