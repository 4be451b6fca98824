"""The base weights, from the GGUF that the engine serves or from a folder in Hugging Face format."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from fine_tuning.config import BaseWeights
from fine_tuning.engines import ggml
from fine_tuning.engines.gguf_file import GgufFile, TensorInfo, read_gguf, write_gguf
from fine_tuning.errors import ExportError, TrainingError
from fine_tuning.training import families, tree_attention
from fine_tuning.training.quantised_linear import HeldLinear, Nf4Linear, QuantisedLinear
from fine_tuning.training.rope import Rope

_FLOATS = {ggml.GGMLQuantizationType.F32, ggml.GGMLQuantizationType.F16, ggml.GGMLQuantizationType.BF16}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_VOCABULARY = 64 << 10  # bytes: an entry of a GGUF's metadata that is longer is a part of the vocabulary


def load_base(source: str | Path, dtype: torch.dtype, scratch: str | Path, weights: BaseWeights = "dequantised") -> Any:
    """A causal language model with the weights of `source`, on the CPU, in `dtype`, in evaluation mode.

    A GGUF's weights are dequantised as llama.cpp does, one at a time, so training starts from the very function that is served. The
    layers' matrices may stay as they are in the file (`quantised`; a folder has no such blocks), or be held as `nf4`: both are
    dequantised for each pass (quantised_linear.py).
    `scratch` is a folder of the run. Raises TrainingError when Transformers does not know the architecture or a weight is missing.
    """
    source, scratch = Path(source), Path(scratch)
    try:
        model = _load_gguf(source, dtype, scratch, weights) if source.is_file() else _load_folder(source, dtype, weights)
    except (ValueError, KeyError, NotImplementedError, OSError, ExportError) as error:
        raise TrainingError(f"cannot load {source} for training: {error}. Choose a base of a known family (llama, qwen, ...)") from error
    model.config.use_cache = False
    return model.eval()


def _load_folder(folder: Path, dtype: torch.dtype, weights: BaseWeights) -> Any:
    from transformers import AutoModelForCausalLM

    if not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
            raise ValueError(f"its weights are a pickle ({pickles[0]}), which can run any code when it is read; save it as safetensors")
        raise ValueError("there are no *.safetensors in it")
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation=tree_attention.register(), trust_remote_code=False, use_safetensors=True
    )
    if weights == "nf4":
        for name, module in list(model.named_modules()):
            if _within_layers(model, module):
                _place(model, f"{name}.weight", module.weight.data, dtype, weights)
    return model


def _load_gguf(gguf: Path, dtype: torch.dtype, scratch: Path, weights: BaseWeights) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    file = read_gguf(gguf)
    config = families.config_of(file) or _config_by_transformers(file, scratch)
    rope = Rope(file)
    rope.configure(config.get_text_config())
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=tree_attention.register(), trust_remote_code=False
        )
    with gguf.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name, weight in _weights(file, content, model, weights == "quantised"):
            _place(model, name, weight, dtype, weights)
        rope.apply(model, _tensor(file, content, rope.factors) if rope.factors else None)
    model.tie_weights()
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"it has no weights for {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}")
    return model


def _config_by_transformers(file: GgufFile, scratch: Path) -> Any:
    """Return the configuration of a family that only Transformers knows (families.py)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(scratch), gguf_file=_outline(file, scratch).name)
    config.get_text_config().vocab_size = file.tensors["token_embd.weight"].rows
    return config


def _outline(file: GgufFile, folder: Path) -> Path:
    """A GGUF with the same metadata and tensor names, but neither vocabulary nor weights.

    Transformers makes a configuration of it at once; of the whole file it reads every token as an array of its own, for ten seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "outline.gguf"
    metadata = {key: entry for key, entry in file.metadata.items() if len(entry) < _VOCABULARY}
    number = TensorInfo("", (1,), ggml.GGMLQuantizationType.F32)
    write_gguf(path, metadata, [(TensorInfo(name, number.shape, number.kind), [bytes(number.size)]) for name in file.tensors])
    return path


def _weights(file: GgufFile, content: mmap.mmap, model: Any, quantised: bool) -> Iterator[tuple[str, torch.Tensor | QuantisedLinear]]:
    """Each weight under Transformers' name, as it goes into `model`."""
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    architecture = file.header.architecture
    processor = families.tensor_processor(architecture, model.config)
    shallow = _shallow(model, [(model.base_model_prefix, _shallow(model.base_model, []))])
    names = get_gguf_hf_weights_map(shallow, processor, architecture if architecture in families.FAMILIES else None)
    gathered: dict[str, dict[str, torch.Tensor]] = {"tensors": {}}  # what is one weight in Transformers and several in the file

    def processed(weights: Any, name: str) -> Any:
        return processor.process(weights=weights, name=name, tensor_key_mapping=names, parsed_parameters=gathered)

    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for info in file.tensors.values():
        data = np.frombuffer(content, np.uint8, info.size, file.starts[info.name])
        stays = quantised and info.name.startswith("blk.") and info.kind not in _FLOATS and names.get(info.name) in linear
        if stays and (rows := _row_order(processed, info)) is not None:
            blocks = torch.from_numpy(data.reshape(info.rows, -1)[rows])
            yield names[info.name], QuantisedLinear(blocks, info.kind, info.columns)
            continue
        made = processed(ggml.dequantize(data, info.kind, info.columns).reshape(info.shape[::-1]), info.name)
        if made.name in names:
            yield names[made.name], torch.from_numpy(np.ascontiguousarray(made.weights))
    yield from gathered["tensors"].items()


def _tensor(file: GgufFile, content: mmap.mmap, name: str) -> torch.Tensor:
    info = file.tensors[name]
    return torch.from_numpy(
        ggml.dequantize(np.frombuffer(content, np.uint8, info.size, file.starts[name]), info.kind, info.columns)
    ).flatten()


def _shallow(module: Any, children: list[tuple[str, Any]]) -> Any:
    # Transformers makes the table of names anew for every module within, 26 ms each; all of them are in that of the topmost two.
    return SimpleNamespace(config=module.config, state_dict=module.state_dict, named_children=lambda: children)


def _row_order(processed: Any, info: TensorInfo) -> Any:
    """Where Transformers has each row of a matrix: some families' GGUFs hold them in another order. None if that is not all it changes."""
    made = processed(np.arange(info.rows, dtype=np.float64)[:, None], info.name)
    rows = made.weights.reshape(-1).astype(np.int64)
    return rows if made.name == info.name and np.array_equal(np.sort(rows), np.arange(info.rows)) else None


def _within_layers(model: Any, module: nn.Module) -> bool:
    """Return whether `module` is a matrix of a layer, and not the output's, which is often the embedding."""
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


def _place(model: Any, name: str, weight: torch.Tensor | HeldLinear, dtype: torch.dtype, weights: BaseWeights) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    wanted = getattr(owner, leaf)
    shape = tuple(weight.shape)
    if shape != tuple(wanted.shape):
        raise ValueError(f"its {name} is of shape {shape}, and Transformers wants {tuple(wanted.shape)}")
    if weights == "nf4" and leaf == "weight" and isinstance(weight, torch.Tensor) and _within_layers(model, owner):
        weight = Nf4Linear(weight.to(dtype))
    if isinstance(weight, HeldLinear):
        weight.take_place_of(owner, dtype)
        model.set_submodule(path, weight)
        return
    setattr(owner, leaf, nn.Parameter(weight.to(dtype)))
