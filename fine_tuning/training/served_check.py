"""Compare the logits of the network to be trained with those that llama.cpp computes for the served model.

engines/agreement.py defines the distance between logits, and how large it may be.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from fine_tuning.engines.agreement import Logits, Probe, Reference, check_base
from fine_tuning.training.loss import supervised_logits
from fine_tuning.training.packing import PackedBatch, TokenRow, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_served(model: "PreTrainedModel", served: Reference, tolerance: float, name: str) -> list[Logits]:
    """Return the model's logits for the probes of `served`, after comparing them with llama.cpp's.

    `tolerance`: distance to allow in addition to `served.rounding`. `name` names the model in the
    message. Raises TrainingError if the distance is larger than allowed.
    """
    found = probe_logits(model, served.probes)
    check_base(found, served, tolerance, name)
    return found


@torch.no_grad()
def probe_logits(model: "PreTrainedModel", probes: Sequence[Probe]) -> list[Logits]:
    """Return for each probe (a text) the model's logits [len(probe.places), vocabulary].

    All probes are packed into one row, as the training packs conversations.
    """
    training = model.training
    model.eval()
    batch = pack([_row(probe) for probe in probes])
    on_device = {key: part.to(model.device) if isinstance(part, torch.Tensor) else part for key, part in batch.items()}
    found = supervised_logits(model, cast(PackedBatch, on_device)).cpu().numpy()
    model.train(training)
    return np.split(found, np.cumsum([len(probe.places) for probe in probes])[:-1])


def _row(probe: Probe) -> TokenRow:
    """Return a token row with loss on the token after each of the probe's places."""
    carries = [False, *(index in set(probe.places) for index in range(len(probe.tokens)))]
    return TokenRow([*probe.tokens, 0], carries)  # nothing depends on the last token
