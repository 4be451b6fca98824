"""Read a LoRA adapter in PEFT's format, without torch and without unpickling.

The files are adapter_config.json and adapter_model.safetensors.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tuning.errors import ExportError
from fine_tuning.json_values import parse_json
from fine_tuning.model_management.safetensors_file import StoredTensor, read_safetensors

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".pkl")
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB]|magnitude_vector)(\.weight)?")
_MAGNITUDE = "magnitude_vector"

# Settings of adapter_config.json with which the adapted weights are not simply W + scale * B @ A.
_UNSUPPORTED = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "biases of LoRA's own",
    "layer_replication": "replicated layers",
    "megatron_config": "Megatron layers",
    "modules_to_save": "modules trained whole",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained tokens",
}
# Other initialisations (PiSSA, OLoRA, CorDA, LoftQ ...) change the base's weights before the training.
_HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraPair:
    """The two matrices `a` and `b` of one module, which change its weight W to W + scale * b @ a.

    W has the shape (outputs, inputs); for an embedding, (tokens, width). With DoRA there is also a
    magnitude for each row of W: the norm that the row has after the change.
    """

    module: str  # as in the model, e.g. "model.layers.0.self_attn.q_proj"
    scale: float
    rank: int
    shape: tuple[int, int]  # the shape of W
    _a: StoredTensor
    _b: StoredTensor
    _embedding: bool
    _magnitude: StoredTensor | None = None

    @property
    def of_embedding(self) -> bool:
        return self._embedding

    @property
    def has_magnitude(self) -> bool:
        return self._magnitude is not None

    def load_magnitude(self) -> NDArray[np.float32] | None:
        """Return the learned norms of the rows of W, of the shape (outputs,); None without DoRA."""
        return self._magnitude.load() if self._magnitude else None

    def load(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the matrices `a`, of the shape (rank, inputs), and `b`, (outputs, rank).

        Raises ExportError if they contain infinities or NaN, or cannot be read.
        """
        a, b = self._a.load(), self._b.load()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ExportError(
                f"the adapter's weights for {self.module} in {self._a.path} are not finite numbers: the training "
                "diverged. Train again with a lower learning_rate."
            )
        return (b.T, a.T) if self._embedding else (a, b)


def read_adapter(folder: str | Path) -> list[LoraPair]:
    """Return a LoraPair for each adapted module; the weights are loaded only when they are needed.

    Raises ExportError if `folder` is not a LoRA adapter, contains pickles, or changes the model in
    ways that a GGUF cannot represent.
    """
    folder = Path(folder)
    config = _config(folder)
    found: dict[str, dict[str, tuple[StoredTensor, bool]]] = {}
    for key, tensor in read_safetensors(folder / _WEIGHTS).items():
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if match:
            found.setdefault(match["module"], {})[match["side"]] = (tensor, bool(match["embedding"]))
        elif not key.endswith(".base_layer.weight"):  # such a key is a copy of the base's weights
            raise ExportError(
                f"{folder / _WEIGHTS} contains {key}, which is not a LoRA weight: train with bias='none' and without "
                "modules_to_save"
            )
    if not found:
        raise ExportError(f"{folder / _WEIGHTS} contains no LoRA weights: name the folder of another adapter")
    return [_pair(folder, module, sides, config) for module, sides in found.items()]


def _pair(
    folder: Path, module: str, sides: dict[str, tuple[StoredTensor, bool]], config: dict[str, object]
) -> LoraPair:
    magnitude = sides.pop(_MAGNITUDE, (None, False))[0]
    if bool(config.get("use_dora")) != (magnitude is not None):
        raise ExportError(
            f"{folder} is incomplete: {_CONFIG} and {_WEIGHTS} disagree whether {module} was trained with DoRA. Train "
            "the adapter again, or copy it again"
        )
    if set(sides) != {"A", "B"}:
        raise ExportError(
            f"{folder / _WEIGHTS} is incomplete: it contains only half of the adapter of {module}. Train the adapter "
            "again, or copy it again"
        )
    (a, embedding), (b, _) = sides["A"], sides["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise ExportError(
            f"{folder / _WEIGHTS} is damaged, because the two matrices of {module} do not fit together ({a.shape} and "
            f"{b.shape}). Train the adapter again, or copy it again"
        )
    shape = (a.shape[1], b.shape[0]) if embedding else (b.shape[0], a.shape[1])
    if magnitude and (embedding or magnitude.shape != shape[:1]):
        raise ExportError(
            f"{folder / _WEIGHTS} cannot be used, because the DoRA magnitude of {module} is {magnitude.shape}, and not "
            "of a linear layer's outputs: train without DoRA"
        )
    return LoraPair(module, _scale(config, module, a.shape[0]), a.shape[0], shape, a, b, embedding, magnitude)


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Return a module's scale: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732).

    The first entry of `alpha_pattern` that matches the module replaces lora_alpha, as in PEFT's
    get_pattern_key.
    """
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), config["lora_alpha"]
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(folder: Path) -> dict[str, object]:
    if pickles := sorted(path.name for path in folder.glob("adapter_model*") if path.suffix in _PICKLES):
        raise ExportError(
            f"{folder / pickles[0]} is a pickle, which can run any code when it is read; byoai reads only {_WEIGHTS}. "
            f"Delete it, or save the adapter again with save_pretrained(..., safe_serialization=True)."
        )
    try:
        config = parse_json((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} is not a PEFT adapter, because {_CONFIG} cannot be read ({error}): name another folder"
        ) from error
    if (
        not isinstance(config, dict)
        or config.get("peft_type") != "LORA"
        or not isinstance(config.get("lora_alpha"), int | float)
    ):
        raise ExportError(
            f"{folder / _CONFIG} does not describe a LoRA adapter (peft_type LORA with a lora_alpha): name another "
            "folder"
        )
    faults = [text for key, text in _UNSUPPORTED.items() if config.get(key)]
    if config.get("init_lora_weights", True) not in _HARMLESS_STARTS:
        faults.append(f"a base changed by init_lora_weights={config['init_lora_weights']!r}")
    if faults:
        raise ExportError(
            f"{folder / _CONFIG} asks for {', '.join(faults)}, which a GGUF cannot hold: train a plain LoRA"
        )
    return config
