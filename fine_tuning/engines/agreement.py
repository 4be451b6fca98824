"""Checks whether two programs compute the same network.

Their logits at a few places of a few texts are compared. The distance between two logits vectors:
subtract each one's mean (which softmax ignores); take the length of the difference, divided by the
length of the served vector. It is 0 for the same network and about 1.4 for two that have nothing in
common, however sharp their predictions are.

llama.cpp rounds the inputs of a layer: to 8 bits before a product with quantised weights, else to
the weights' own 16 bits. It also rounds keys and values to float16. docs/families.md says how far
that alone moves the logits; the bounds here are two to six times as large.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from numpy.typing import NDArray

from fine_tuning.config import BaseWeights
from fine_tuning.engines import ggml
from fine_tuning.engines.gguf_file import GgufFile, read_gguf
from fine_tuning.errors import ExportError, TrainingError

Logits = NDArray[np.float32]  # [places, vocabulary]

# the distance that rounding explains, by how products with the weights are rounded
_EXACT, _BFLOAT, _EIGHT_BITS = 0.01, 0.04, 0.15
_TRAINED_IN_BFLOAT = 0.06  # more, if Transformers computes in bfloat16
_IN_NF4 = 0.65  # more, if the base is held in NF4, which rounds its weights once more (SmolLM2-135M: 0.42)
# (bits per weight, distance) of weights that the export rounded again
_REQUANTISED = ((8.0, 0.15), (6.5, 0.25), (5.0, 0.6), (0.0, 0.8))
_AS_BEFORE = 2.5  # the most for an export that rounds as finely as the base, as a multiple of the base's own distance
_SHARES, _SHARES_AS_BEFORE = (0.6, 1.6), (0.8, 1.25)  # least and most of what was learned that must be served
_TOLD = 0.75  # what was learned can be told from rounding if it moved the logits by this share of the found distance
# The same in bfloat16: there the trained networks before and after differ in their own rounding as
# well, which no export carries. If that is all they differ in, half of it seems to be served; above
# this, a fifth of it is hidden at the most.
_TOLD_IN_BFLOAT = 3.0

_SHORT, _LONG = 24, 160  # tokens of the texts
_EVERY = 6  # tokens between two places
_BEYOND = 64  # tokens beyond a sliding window
_PADDED = 256  # a row length that every type can store in whole blocks


@dataclass(frozen=True)
class Probe:
    """A text, and the tokens (by index) after which logits are compared."""

    tokens: list[int]
    places: list[int]


@dataclass(frozen=True)
class Reference:
    """What llama.cpp computes.

    `logits` has one array for each of `probes`; `rounding` is the distance that rounding explains.
    """

    source: Path
    probes: list[Probe]
    logits: list[Logits]
    rounding: float

    def save(self, file: Path) -> None:
        """Write it to a file, for another process."""
        probes = [asdict(probe) for probe in self.probes]
        _save(file, {"source": str(self.source), "probes": probes, "rounding": self.rounding}, {"logits": self.logits})

    @classmethod
    def load(cls, file: Path) -> "Reference":
        facts, arrays = _load(file)
        return cls(
            Path(facts["source"]), [Probe(**probe) for probe in facts["probes"]], arrays["logits"], facts["rounding"]
        )


@dataclass(frozen=True)
class Trained:
    """What Transformers computes for the base's probes, before the training and with its result.

    `base` is what llama.cpp computes with the base.
    """

    before: list[Logits]
    after: list[Logits]
    # distance that the training's number format explains (`of_format`), in addition to the served
    # side's rounding
    more: float
    base: Reference

    def save(self, file: Path) -> None:
        """Write everything but `base` to a file, for another process."""
        _save(file, {"more": self.more}, {"before": self.before, "after": self.after})

    @classmethod
    def load(cls, file: Path, base: Reference) -> "Trained":
        facts, arrays = _load(file)
        return cls(arrays["before"], arrays["after"], facts["more"], base)


def _save(file: Path, facts: dict[str, object], lists: dict[str, list[Logits]]) -> None:
    arrays = {f"{name}-{number}": array for name, each in lists.items() for number, array in enumerate(each)}
    with file.open("wb") as content:
        np.savez(content, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]


def _load(file: Path) -> tuple[dict[str, Any], dict[str, list[Logits]]]:
    with np.load(file, allow_pickle=False) as content:
        lists: dict[str, list[Logits]] = {}
        for key in sorted(content.files, key=lambda key: (len(key), key)):
            if key != "facts":
                lists.setdefault(key.rpartition("-")[0], []).append(content[key])
        return json.loads(str(content["facts"])), lists


def make_probes(rows: Sequence[Sequence[int]], file: GgufFile) -> list[Probe]:
    """Return probes made of training rows.

    They are the beginnings of two rows, which may share their first tokens, and one long text of
    all rows. The long text exceeds the model's sliding window if a row does.
    """
    window = file.header.metadata.get(f"{file.header.architecture}.attention.sliding_window", 0)
    reached = isinstance(window, int) and 0 < window < max(map(len, rows))
    long = [token for row in rows for token in row][: max(_LONG, window + _BEYOND) if reached else _LONG]
    texts = [list(row[:_SHORT]) for row in rows[:2]] + [long]
    step = max(_EVERY, len(long) // (_LONG // _EVERY))
    return [Probe(text, list(range(min(len(text), step) - 1, len(text), step))) for text in texts if text]


def rounding(gguf: Path, requantised: bool = False) -> float:
    """Return the distance that rounding explains.

    `requantised`: compared with the network before its weights were rounded to this file's types.
    """
    kinds = {info.kind for info in read_gguf(gguf).tensors.values() if len(info.shape) > 1}
    if kinds <= {Type.F32, Type.F16}:
        return _EXACT
    if kinds <= {Type.F32, Type.F16, Type.BF16}:
        return _BFLOAT
    if not requantised:
        return _EIGHT_BITS
    bits = min(ggml.row_bytes(kind, _PADDED) * 8 / _PADDED for kind in kinds)
    return next(bound for least, bound in _REQUANTISED if bits >= least)


def of_format(in_bfloat: bool, weights: BaseWeights) -> float:
    """Return the distance that the number format of the training explains."""
    return (_TRAINED_IN_BFLOAT if in_bfloat else 0) + (_IN_NF4 if weights == "nf4" else 0)


def distance(one: Sequence[Logits], served: Sequence[Logits]) -> float:
    """Return the mean distance over the places of a text, for the text where it is largest.

    Infinite if a logit is not a number.
    """
    found = [_apart(ours, theirs) for ours, theirs in zip(one, served, strict=True)]
    return max(found) if np.isfinite(found).all() else float("inf")


def _apart(ours: Logits, theirs: Logits) -> float:
    with np.errstate(invalid="ignore"):  # NaN logits give a NaN distance
        apart, spread = (np.linalg.norm(_centred(each), axis=1) for each in (ours - theirs, theirs))
        return float((apart / np.maximum(spread, 1e-30)).mean())


def _centred(logits: Logits) -> Logits:
    return logits - logits.mean(axis=1, keepdims=True)


def check_base(before: Sequence[Logits], served: Reference, more: float, network: str) -> float:
    """Return the distance of the logits that will be trained from the served ones.

    Raises TrainingError if rounding does not explain it. `network` names, for the message, the
    network that was loaded.
    """
    apart, bound = distance(before, served.logits), served.rounding + more
    if apart > bound:
        raise TrainingError(
            f"what would be trained is not what is served: {_said(network, served, apart, bound)}. Choose a base of "
            "a family that was "
            "compared (docs/families.md)"
        )
    return apart


def check_export(trained: Trained, served: Reference) -> float:
    """Return the distance of the trained network's logits from those of its export.

    Raises ExportError if rounding does not explain it, or if the export serves clearly less, or
    more, than what was learned.
    """
    apart, bound = distance(trained.after, served.logits), served.rounding + trained.more
    if as_before := served.rounding <= trained.base.rounding:
        bound = min(bound, max(_EXACT, _AS_BEFORE * distance(trained.before, trained.base.logits)))
    least, most = _SHARES_AS_BEFORE if as_before else _SHARES
    told = _TOLD_IN_BFLOAT if trained.more else _TOLD
    share = _share(trained, served) if distance(trained.after, trained.before) > told * apart else 1.0
    if apart > bound or not least <= share <= most:
        raise ExportError(
            f"what was exported is not what was trained: {_said('the trained network', served, apart, bound)}, and "
            f"{share:.0%} of what was "
            "learned is served. Nothing was registered: set deployment.mode or deployment.quantization to another, "
            "and retrain"
        )
    return apart


def _said(network: str, served: Reference, apart: float, bound: float) -> str:
    return (
        f"on the same text the logits of {network} in Transformers and those of {served.source} in llama.cpp lie "
        f"{apart:.1%} of their "
        f"spread apart, of which rounding explains {bound:.0%}"
    )


def _share(trained: Trained, served: Reference) -> float:
    """Return how far the served logits have moved from the base's to the trained ones: 1 is all the way."""
    logits = zip(trained.before, trained.after, served.logits, strict=True)
    ways: list[tuple[Logits, Logits]] = [
        (_centred(after - before), _centred(now - before)) for before, after, now in logits
    ]
    return float(sum((way * now).sum() for way, now in ways) / max(sum((way * way).sum() for way, _ in ways), 1e-30))
