"""Check that Transformers, which trains a model, and llama.cpp, which serves it, compute the same logits.

The logits of both are compared at some positions of a few texts. The distance between two logits
vectors is the norm of their difference divided by the norm of llama.cpp's vector, after each
vector's mean, which softmax ignores, is subtracted. It is 0 for the same network and about 1.4 for
two unrelated networks, however sharp their predictions are.

In practice it is never exactly 0, since llama.cpp rounds the inputs of a layer: to 8 bits if the
layer's weights are quantised, to 16 bits if the weights have 16 bits. It also rounds keys and
values to float16. docs/families.md lists the distances that this rounding causes; the bounds below
are two to six times as large.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from numpy.typing import NDArray

from fine_tuning.config.training import BaseWeights
from fine_tuning.engines import ggml
from fine_tuning.engines.gguf_file import GgufFile, read_gguf
from fine_tuning.errors import ExportError, TrainingError

Logits = NDArray[np.float32]  # [compared positions, vocabulary]

# bounds for the distance that rounding causes, by the precision of products with the weights
_EXACT, _BFLOAT, _EIGHT_BITS = 0.01, 0.04, 0.15
_TRAINED_IN_BFLOAT = 0.06  # added if Transformers computes in bfloat16
_IN_NF4 = 0.65  # added if the base is held in NF4, which rounds its weights again (SmolLM2-135M: 0.42)
# (minimum bits per weight, bound for the distance) for exports that rounded the weights again
_REQUANTISED = ((8.0, 0.15), (6.5, 0.25), (5.0, 0.6), (0.0, 0.8))
_AS_BEFORE = 2.5  # limit for an export that rounds as finely as the base, as a multiple of the base's own distance
# Allowed range of `_share`, in general and for an export that rounds as finely as the base.
_SHARES, _SHARES_AS_BEFORE = (0.6, 1.6), (0.8, 1.25)
# `_share` is meaningful only if the training moved the logits by more than this multiple of the
# distance between the trained network and its export; otherwise rounding hides the change.
_TOLD = 0.75
# The same for training in bfloat16, where the networks before and after training also differ by
# their own rounding, which no export reproduces.
_TOLD_IN_BFLOAT = 3.0

_SHORT, _LONG = 24, 160  # tokens of the short texts and of the long one
_EVERY = 6  # tokens between two compared places
_BEYOND = 64  # tokens by which the long text exceeds a sliding window
_PADDED = 256  # weights in a row; every type stores that many in whole blocks


@dataclass(frozen=True)
class Probe:
    """A text as token ids, and the indices of the tokens after which logits are compared."""

    tokens: list[int]
    places: list[int]


@dataclass(frozen=True)
class Reference:
    """The logits that llama.cpp computes for some probes."""

    source: Path  # the GGUF of the model, for messages
    probes: list[Probe]
    logits: list[Logits]  # one array for each probe
    rounding: float  # bound for the distance that rounding causes (`rounding`)

    def save(self, file: Path) -> None:
        """Write the reference to `file`, from which another process can load it."""
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
    """The logits that Transformers computes for the probes of `base`, before and after the training."""

    before: list[Logits]
    after: list[Logits]
    more: float  # distance to allow for the training's number format, in addition to rounding (`of_format`)
    base: Reference  # the logits that llama.cpp computes with the base

    def save(self, file: Path) -> None:
        """Write everything but `base` to `file`, from which another process can load it."""
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
    """Return the probes on which to compare logits of the model in `file`.

    The texts come from `rows` of token ids: the beginnings of the first two rows, and one long text
    that joins the rows. The long text is longer than the model's sliding window if some row is
    longer than it.
    """
    window = file.header.metadata.get(f"{file.header.architecture}.attention.sliding_window", 0)
    reached = isinstance(window, int) and 0 < window < max(map(len, rows))
    long = [token for row in rows for token in row][: max(_LONG, window + _BEYOND) if reached else _LONG]
    texts = [list(row[:_SHORT]) for row in rows[:2]] + [long]
    step = max(_EVERY, len(long) // (_LONG // _EVERY))
    return [Probe(text, list(range(min(len(text), step) - 1, len(text), step))) for text in texts if text]


def rounding(gguf: Path, requantised: bool = False) -> float:
    """Return a bound for the distance that rounding causes, from the weight types in `gguf`.

    `requantised`: the export rounded the network's weights to these types, and its logits are
    compared with those before the rounding, so the bound must allow for the rounding too.
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
    """Return the distance to allow for the training's number format, in addition to `rounding`.

    `in_bfloat`: Transformers computes in bfloat16. `weights`: how it holds the base's matrices.
    """
    return (_TRAINED_IN_BFLOAT if in_bfloat else 0) + (_IN_NF4 if weights == "nf4" else 0)


def distance(one: Sequence[Logits], served: Sequence[Logits]) -> float:
    """Return the distance (see the module's docstring) between two sets of logits for the same texts.

    `one` and `served` have one array for each text. A text's distance is the mean over its compared
    positions; the result is the largest of the texts' distances, or infinity if a logit is not a
    number.
    """
    found = [_apart(ours, theirs) for ours, theirs in zip(one, served, strict=True)]
    return max(found) if np.isfinite(found).all() else float("inf")


def _apart(ours: Logits, theirs: Logits) -> float:
    with np.errstate(invalid="ignore"):  # NaN logits give a NaN distance
        apart, spread = (np.linalg.norm(_centred(each), axis=1) for each in (ours - theirs, theirs))
        return float((apart / np.maximum(spread, 1e-30)).mean())


def _centred(logits: Logits) -> Logits:
    centred: Logits = logits - logits.mean(axis=1, keepdims=True)
    return centred


def check_base(before: Sequence[Logits], served: Reference, more: float, network: str) -> float:
    """Check that the network loaded for training computes what llama.cpp computes; return the distance.

    `before`: the loaded network's logits before the training. `served`: llama.cpp's logits. `more`:
    distance to allow in addition to `served.rounding`. `network` names the loaded network in the
    message. Raises TrainingError if the distance is larger than allowed.
    """
    apart, bound = distance(before, served.logits), served.rounding + more
    if apart > bound:
        raise TrainingError(
            "With this base, Transformers (which trains) and llama.cpp (which answers) give different results, so the "
            f"training would be wasted: {_said(network, served, apart, bound)}. Choose a base of a family that "
            "docs/families.md lists"
        )
    return apart


def check_export(trained: Trained, served: Reference) -> float:
    """Check that llama.cpp computes with the exported model what the trained network computes; return the distance.

    `served`: llama.cpp's logits with the exported model. Raises ExportError if the distance is
    larger than rounding can cause, or if the export contains clearly less, or more, than the change
    that was learned (`_share`).
    """
    apart, bound = distance(trained.after, served.logits), served.rounding + trained.more
    if as_before := served.rounding <= trained.base.rounding:
        bound = min(bound, max(_EXACT, _AS_BEFORE * distance(trained.before, trained.base.logits)))
    least, most = _SHARES_AS_BEFORE if as_before else _SHARES
    told = _TOLD_IN_BFLOAT if trained.more else _TOLD
    share = _share(trained, served) if distance(trained.after, trained.before) > told * apart else 1.0
    if apart > bound or not least <= share <= most:
        raise ExportError(
            f"the exported version differs from the trained one, and contains {share:.0%} of what was learned: "
            f"{_said('the trained network', served, apart, bound)}. Nothing was registered: change deployment.mode or "
            "deployment.quantization, and retrain"
        )
    return apart


def _said(network: str, served: Reference, apart: float, bound: float) -> str:
    return (
        f"on the same text the logits of {network} in Transformers and those of {served.source} in llama.cpp differ by "
        f"{apart:.1%} of their spread, but rounding explains only {bound:.0%}"
    )


def _share(trained: Trained, served: Reference) -> float:
    """Return the share of the learned change that the export contains.

    It is 0 if the served logits equal the base's, and 1 if they equal the trained network's: the
    length of the served change (served minus base logits), projected onto the learned change
    (trained minus base logits), divided by the length of the learned change.
    """
    logits = zip(trained.before, trained.after, served.logits, strict=True)
    ways: list[tuple[Logits, Logits]] = [
        (_centred(after - before), _centred(now - before)) for before, after, now in logits
    ]
    return float(sum((way * now).sum() for way, now in ways) / max(sum((way * way).sum() for way, _ in ways), 1e-30))
