"""The base weights, from the GGUF that the engine serves or from a folder in Hugging Face format."""

from pathlib import Path
from typing import Any

import torch

from fine_tuning.errors import TrainingError


def load_base(source: Path, dtype: torch.dtype, folder_for_links: Path) -> Any:
    """A causal language model with the weights of `source`, on the CPU, in `dtype`, in evaluation mode.

    A GGUF's weights are dequantised exactly as llama.cpp does, so training starts from the very function that is served.
    Raises TrainingError when Transformers cannot read the architecture.
    """
    from transformers import AutoModelForCausalLM

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source)}
    if source.is_file():
        where = {"pretrained_model_name_or_path": str(folder_for_links), "gguf_file": _link(source, folder_for_links).name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise TrainingError(f"cannot load {source} for training: {error}. Choose a base of a known family (llama, qwen, ...)") from error
    if source.is_file():
        _forget_quantisation(model)
    model.config.use_cache = False
    return model


def _link(gguf: Path, folder: Path) -> Path:
    """Transformers asks for a `.gguf` name in a folder; an engine's blob is named by its hash."""
    link = folder / "base.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.exists():
        link.unlink()
    link.symlink_to(gguf.resolve())
    return link


def _forget_quantisation(model: Any) -> None:
    # The weights are dequantised; without this the Trainer takes the model for a quantised one and refuses it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
