"""How far two networks' logits lie apart, and where they are compared."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import write_base

from fine_tuning.engines.agreement import (
    Probe,
    Reference,
    Trained,
    check_base,
    check_export,
    distance,
    make_probes,
    of_format,
    rounding,
)
from fine_tuning.engines.gguf_file import entry, read_gguf, write_gguf
from fine_tuning.errors import ExportError, TrainingError

noise = np.random.default_rng(0)
PROBES = [Probe([1, 2, 3], [0, 2]), Probe([4, 5], [1])]


def logits(scale: float = 1.0) -> list[np.ndarray]:
    return [(noise.standard_normal((len(probe.places), 500)) * scale).astype(np.float32) for probe in PROBES]


def plus(one: list[np.ndarray], other: list[np.ndarray], share: float = 1.0) -> list[np.ndarray]:
    return [left + np.float32(share) * right for left, right in zip(one, other, strict=True)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_the_distance_is_a_share_of_the_spread_however_sharp_the_predictions_are(scale: float) -> None:
    served = logits(scale)
    assert distance(served, served) == 0
    assert distance(plus(served, logits(scale), 0.1), served) == pytest.approx(0.1, rel=0.1)
    assert distance([each + np.float32(7 * scale) for each in served], served) < 1e-5  # softmax does not see it either
    assert distance(logits(scale), served) == pytest.approx(2**0.5, rel=0.1)


def test_the_worst_text_counts_and_what_is_no_number_is_far() -> None:
    served = logits()
    assert distance([served[0], -served[1]], served) == pytest.approx(2)
    for value in (np.nan, np.inf):
        broken = [served[0], served[1].copy()]
        broken[1][0, 3] = value
        assert distance(broken, served) == float("inf")
        with pytest.raises(TrainingError):
            check_base(
                broken,
                Reference(Path("base.gguf"), PROBES, served, 0.15),
                of_format(False, "dequantised"),
                "tiny's llama",
            )


def test_a_training_in_bfloat16_may_lie_farther_away() -> None:
    served = logits()
    reference, near = Reference(Path("base.gguf"), PROBES, served, 0.01), plus(served, logits(), 0.04)
    check_base(near, reference, of_format(True, "dequantised"), "tiny's llama")
    with pytest.raises(TrainingError, match=r"tiny's llama.*base\.gguf.*rounding explains only 1%.*docs/families\.md"):
        check_base(near, reference, of_format(False, "dequantised"), "tiny's llama")


@pytest.mark.parametrize(
    ("learned", "carried", "rounded", "fine"),
    [
        (1.0, 1.0, 0.03, True),
        (1.0, 0.0, 0.03, False),  # the adapter is ignored
        (1.0, 0.5, 0.03, False),  # half of its scale
        (0.1, 0.0, 0.03, False),  # too little for the distance, but not for the share
        (0.1, 1.0, 0.03, True),
        (0.1, 2.0, 0.03, False),
        (0.01, 0.0, 0.03, True),  # nothing can be told
        (0.0, 0.0, 0.0, True),
    ],
)
def test_what_was_learned_must_be_served(learned: float, carried: float, rounded: float, fine: bool) -> None:
    base, way = logits(), logits()
    after = plus(base, way, learned)
    served = plus(plus(base, way, learned * carried), logits(), rounded)
    trained = Trained(base, after, 0.0, Reference(Path("base.gguf"), PROBES, plus(base, logits(), 0.03), 0.15))
    reference = Reference(Path("adapter.gguf"), PROBES, served, 0.15)
    if fine:
        check_export(trained, reference)
        return
    with pytest.raises(ExportError, match=r"of what was learned: .*adapter\.gguf.*Nothing was registered"):
        check_export(trained, reference)


@pytest.mark.parametrize(
    ("kind", "loaded", "merged"),
    [
        (Type.F32, 0.01, 0.01),
        (Type.F16, 0.01, 0.01),
        (Type.BF16, 0.04, 0.04),
        (Type.Q8_0, 0.15, 0.15),
        (Type.Q5_0, 0.15, 0.6),
        (Type.Q4_0, 0.15, 0.8),
    ],
)
def test_what_rounding_explains_depends_on_the_weights(
    tmp_path: Path, kind: Type, loaded: float, merged: float
) -> None:
    base = write_base(tmp_path / "base.gguf", kind)
    assert (rounding(base), rounding(base, requantised=True)) == (loaded, merged)


def windowed(folder: Path, window: int) -> Path:
    file = read_gguf(write_base(folder / "plain.gguf"))
    content, key = file.path.read_bytes(), "llama.attention.sliding_window"
    tensors = [(info, [content[file.starts[info.name] :][: info.size]]) for info in file.tensors.values()]
    write_gguf(folder / "base.gguf", dict(file.metadata) | {key: entry(key, window)}, tensors)
    return folder / "base.gguf"


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=300), min_size=1, max_size=4))
def test_every_place_is_in_its_text_and_the_last_part_of_the_long_one_is_seen(
    rows: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = read_gguf(write_base(tmp_path_factory.mktemp("probes") / "base.gguf"))
    probes = make_probes(rows, file)
    assert all(
        probe.places and probe.places == sorted(set(probe.places)) and probe.places[-1] < len(probe.tokens)
        for probe in probes
    )
    assert sum(len(probe.tokens) for probe in probes) <= 208
    assert probes[-1].places[-1] >= min(sum(map(len, rows)), 160) - 12


def test_a_window_is_passed_where_a_row_is_longer(tmp_path: Path) -> None:
    file = read_gguf(windowed(tmp_path, 400))
    assert len(make_probes([[1] * 390] * 9, file)[-1].tokens) == 160
    long = make_probes([[1] * 450] * 9, file)[-1]
    assert len(long.tokens) == 464 and long.places[-1] > 440 and len(long.places) < 40


def test_what_is_served_and_what_was_trained_survive_the_way_to_another_process(tmp_path: Path) -> None:
    logits = [np.random.default_rng(number).normal(size=(number + 1, 5)).astype(np.float32) for number in range(12)]
    served = Reference(Path("base.gguf"), [Probe([1, 2, 3], [0, 2]), Probe([4], [0])], logits, 0.15)
    served.save(tmp_path / "served")
    back = Reference.load(tmp_path / "served")
    assert (back.source, back.probes, back.rounding) == (served.source, served.probes, 0.15)
    assert all((one == other).all() for one, other in zip(back.logits, logits, strict=True))
    Trained(logits[:2], logits[2:4], 0.06, served).save(tmp_path / "trained")
    trained = Trained.load(tmp_path / "trained", back)
    assert trained.more == 0.06 and trained.base is back
    assert (trained.before[1] == logits[1]).all() and (trained.after[1] == logits[3]).all() and len(trained.after) == 2


@pytest.mark.parametrize("learned", [0.0, 0.01, 0.03, 0.06, 0.1, 0.3])
@pytest.mark.parametrize("served_in_full", [True, False])
def test_in_bfloat16_what_was_learned_is_told_from_its_own_rounding(learned: float, served_in_full: bool) -> None:
    """Two networks in bfloat16 differ in their rounding too: of little that was learned it hides
    half, although all is served.
    """
    network, way, rounded = logits(), logits(), 0.03
    before, after = plus(network, logits(), rounded), plus(plus(network, way, learned), logits(), rounded)
    base = Reference(Path("base.gguf"), PROBES, plus(network, logits(), rounded), 0.15)
    export = plus(plus(network, way, learned if served_in_full else 0.0), logits(), rounded)
    trained = Trained(before, after, of_format(True, "dequantised"), base)
    served = Reference(Path("adapter.gguf"), PROBES, export, 0.15)
    # less moves the logits no farther than rounding does: whether it is served cannot be told
    if served_in_full or learned < 0.1:
        check_export(trained, served)
    else:
        with pytest.raises(ExportError, match="differs from the trained one"):
            check_export(trained, served)
