"""Record the base's token probabilities on replay rows, so that the trained model can be kept close to them.

Replay rows are general questions and answers, mixed in so that the model keeps what it knew. On
these rows the base is the teacher: the loss is the KL divergence of the model's probabilities from
the recorded ones (loss.py).
"""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fine_tuning import paths
from fine_tuning.training.loss import supervised_logits
from fine_tuning.training.packing import TokenRow, pack
from fine_tuning.training.trainer_utils import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 64  # most likely tokens kept for each replayed token; all others share one bucket


def replay_rows(model: "PreTrainedModel", replay: Path, base: Path) -> list[TokenRow]:
    """Return the rows of the file `replay` with `teacher` set to the probabilities of the untrained `model`.

    The values are saved beside `replay`, and reused by the next training on the same `base` in the
    same number format. Raises TrainingError for a bad row.
    """
    rows, kept = read_rows(replay), replay.with_suffix(f".{str(model.dtype).removeprefix('torch.')}.safetensors")
    about = {"base": f"{base.name} {base.stat().st_size}", "rows": hashlib.sha256(replay.read_bytes()).hexdigest()}
    with contextlib.suppress(OSError, SafetensorError), safe_open(kept, "pt") as file:
        if file.metadata() == about:
            sizes = [len(row.targets()) for row in rows]
            ids, logprobs = (file.get_tensor(name).split(sizes) for name in ("ids", "logprobs"))
            return [
                replace(row, teacher=(likeliest, said))
                for row, likeliest, said in zip(rows, ids, logprobs, strict=True)
            ]
    if not (rows := teach(model, rows)):
        return rows
    ids, logprobs = (torch.cat([row.teacher[part] for row in rows if row.teacher]) for part in (0, 1))
    paths.atomic_write(kept, save({"ids": ids, "logprobs": logprobs}, about))
    return rows


@torch.no_grad()
def teach(model: "PreTrainedModel", rows: list[TokenRow], batch_size: int = 8) -> list[TokenRow]:
    """Return the rows with `teacher` set: the most likely tokens under `model`, and their log-probabilities.

    Both are [n, k] for the n supervised tokens of a row. `batch_size` rows are computed at once.
    """
    model.eval()
    taught: list[TokenRow] = []
    for start in range(0, len(rows), batch_size):
        group = rows[start : start + batch_size]
        logprobs = torch.log_softmax(supervised_logits(model, pack(group)), dim=-1)
        best = logprobs.topk(min(_TOKENS, logprobs.shape[1]), dim=-1)
        sizes = [len(row.targets()) for row in group]
        pairs = zip(group, best.indices.split_with_sizes(sizes), best.values.split_with_sizes(sizes), strict=True)
        taught += [replace(row, teacher=(ids, values)) for row, ids, values in pairs]
    return taught
