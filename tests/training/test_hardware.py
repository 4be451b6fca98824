import pytest
import torch

from fine_tuning.config import Training
from fine_tuning.training import hardware
from fine_tuning.training.fast import matmul

FASTER = hardware._faster_dtype.__wrapped__  # asked anew each time


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_configured_number_of_threads_is_taken() -> None:
    assert hardware.choose_threads(Training(threads=3)) == 3


@pytest.mark.parametrize(("half", "chosen"), [(0.5, 2), (0.95, 4), (2.0, 4)])
def test_half_of_the_threads_are_taken_only_where_they_are_clearly_faster(
    monkeypatch, half: float, chosen: int
) -> None:
    takes(monkeypatch, lambda passed, threads: 0.004 if threads == 4 else half * 0.004)
    before = torch.get_num_threads()
    assert hardware.choose_threads(Training()) == chosen
    assert torch.get_num_threads() == before


def test_a_moments_load_does_not_cost_the_training_half_of_its_threads(monkeypatch) -> None:
    takes(monkeypatch, lambda passed, threads: (0.020 if passed < 0.6 else 0.004) if threads == 4 else 0.008)
    assert hardware.choose_threads(Training()) == 4


def takes(monkeypatch, seconds) -> None:
    """A product takes `seconds` of the time that has passed since now, and of the threads, of which
    this machine has four.
    """
    monkeypatch.setattr(hardware, "THREADS", 4)
    lasts(monkeypatch, lambda rows, passed: seconds(passed, torch.get_num_threads()))


def lasts(monkeypatch, seconds) -> None:
    """A product takes `seconds` of its rows and of the time that has passed, by a clock that only it moves."""
    clock = [0.0]

    def product(rows, weight, library=None) -> None:
        clock[0] += seconds(rows, clock[0])

    monkeypatch.setattr(matmul.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(hardware, "product", product)


def test_one_thread_stays_one() -> None:
    assert hardware.choose_threads(Training()) == 1  # as for all tests of the training


@pytest.mark.parametrize(("share", "chosen"), [(0.2, torch.bfloat16), (0.6, torch.float32), (1.5, torch.float32)])
def test_bfloat16_is_taken_only_where_its_products_are_much_faster(
    monkeypatch, share: float, chosen: torch.dtype
) -> None:
    monkeypatch.setattr(hardware, "_faster_dtype", FASTER)
    lasts(monkeypatch, lambda rows, _: 0.005 * (share if rows.dtype == torch.bfloat16 else 1))
    assert hardware.choose_dtype(Training(), "blas") == chosen
    assert hardware.choose_dtype(Training(method="full"), "blas") == torch.float32
