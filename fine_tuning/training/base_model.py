"""Load the base model from the GGUF that the engine serves, or from a folder in Hugging Face format."""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from torch import nn

from fine_tuning.config.training import BaseWeights
from fine_tuning.engines import ggml
from fine_tuning.engines.gguf_file import GgufFile, TensorInfo, read_gguf, write_gguf
from fine_tuning.errors import ExportError, TrainingError
from fine_tuning.training import attention, families
from fine_tuning.training.fast import tree_attention
from fine_tuning.training.fast.quantised_linear import HeldLinear, Nf4Linear, QuantisedLinear
from fine_tuning.training.rope import Rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor

_FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_VOCABULARY = 64 << 10  # bytes: any longer metadata entry of a GGUF belongs to the vocabulary


def load_base(
    source: str | Path,
    dtype: torch.dtype,
    scratch: str | Path,
    weights: BaseWeights = "dequantised",
    fused: bool = True,
) -> "PreTrainedModel":
    """Return a causal language model with the weights of `source`: on the CPU, in `dtype`, in evaluation mode.

    A GGUF's weights are dequantised one at a time with llama.cpp's arithmetic, so training starts
    from exactly the model that is served.

    Args:
        source: a GGUF, or a folder in Hugging Face format.
        dtype: the number format of all weights that are not kept quantised.
        scratch: a folder for temporary files.
        weights: how the layers' matrices are stored. `dequantised`: in `dtype`; `quantised`: as the
            blocks of the GGUF; `nf4`: quantised again. The last two are dequantised for each pass
            (quantised_linear.py).
        fused: use tree attention (fast/tree_attention.py), else masked attention (attention.py).

    Raises TrainingError if Transformers does not know the architecture, a weight is missing, or the
    weights are stored as a pickle.
    """
    source, scratch = Path(source), Path(scratch)
    attention_name = tree_attention.register() if fused else attention.register()
    try:
        if source.is_file():
            model = _load_gguf(source, dtype, scratch, weights, attention_name)
        else:
            model = _load_folder(source, dtype, weights, attention_name)
    except (ValueError, KeyError, NotImplementedError, OSError, ExportError) as error:
        raise TrainingError(
            f"cannot load {source} for training: {error}. Choose a base of a known family (llama, qwen, ...)"
        ) from error
    model.config.use_cache = False
    model.eval()
    return model


def _load_folder(folder: Path, dtype: torch.dtype, weights: BaseWeights, attention_name: str) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    if not any(folder.glob("*.safetensors")):
        if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
            raise ValueError(
                f"its weights are a pickle ({pickles[0]}), which can run any code when it is read; save it as "
                "safetensors"
            )
        raise ValueError("its folder contains no *.safetensors file")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation=attention_name, trust_remote_code=False, use_safetensors=True
    )
    if weights == "nf4":
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and _within_layers(model, module):
                _place(model, f"{name}.weight", module.weight.data, dtype, weights)
    return model


def _load_gguf(
    gguf: Path, dtype: torch.dtype, scratch: Path, weights: BaseWeights, attention_name: str
) -> "PreTrainedModel":
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    file = read_gguf(gguf)
    config = families.config_of(file) or _config_by_transformers(file, scratch)
    rope = Rope(file)
    rope.configure(config.get_text_config())
    with init_empty_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention_name, trust_remote_code=False
        )
    with gguf.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name, weight in _weights(file, content, model, weights == "quantised"):
            _place(model, name, weight, dtype, weights)
        rope.apply(model, _tensor(file, content, rope.factors) if rope.factors else None)
    model.tie_weights()
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"it has no weights for {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}")
    return model


def _config_by_transformers(file: GgufFile, scratch: Path) -> "PreTrainedConfig":
    """Return the configuration that Transformers derives for a family that families.py does not describe."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(str(scratch), gguf_file=_outline(file, scratch).name)
    config.get_text_config().vocab_size = file.tensors["token_embd.weight"].rows
    return config


def _outline(file: GgufFile, folder: Path) -> Path:
    """Write a copy of a GGUF without vocabulary and weights; return its path.

    Each weight is replaced by a single number. Transformers derives a configuration from the copy
    at once; from the original it would first read the whole vocabulary, which takes ten seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "outline.gguf"
    metadata = {key: entry for key, entry in file.metadata.items() if len(entry) < _VOCABULARY}
    number = TensorInfo("", (1,), GGMLQuantizationType.F32)
    write_gguf(
        path, metadata, [(TensorInfo(name, number.shape, number.kind), [bytes(number.size)]) for name in file.tensors]
    )
    return path


class _Made(Protocol):
    """A tensor that was converted from GGUF to Transformers, with its name and its values."""

    name: str
    weights: NDArray[np.float64]


class _Processor(Protocol):
    """Interface of a converter of GGUF tensors to Transformers' weights (families.tensor_processor)."""

    def process(self, *, weights: NDArray[np.floating], name: str, **context: object) -> _Made: ...


def _weights(
    file: GgufFile, content: mmap.mmap, model: "PreTrainedModel", quantised: bool
) -> Iterator[tuple[str, torch.Tensor | QuantisedLinear]]:
    """Yield the name in Transformers and the value of each weight for `model`.

    Values are dequantised. If `quantised`, the layers' quantised matrices are instead yielded as
    QuantisedLinear, except matrices in which the conversion to Transformers changes more than the
    order of the rows.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    architecture = file.header.architecture
    processor = cast(_Processor, families.tensor_processor(architecture, model.config))
    shallow = _shallow(model, [(model.base_model_prefix, _shallow(model.base_model, []))])
    names: dict[str, str] = get_gguf_hf_weights_map(
        shallow, cast("TensorProcessor", processor), architecture if architecture in families.FAMILIES else None
    )
    gathered: dict[str, dict[str, torch.Tensor]] = {"tensors": {}}  # weights that are merged from several tensors

    def process(weights: NDArray[np.floating], name: str) -> _Made:
        return processor.process(weights=weights, name=name, tensor_key_mapping=names, parsed_parameters=gathered)

    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for info in file.tensors.values():
        data = np.frombuffer(content, np.uint8, info.size, file.starts[info.name])
        stays = (
            quantised and info.name.startswith("blk.") and info.kind not in _FLOATS and names.get(info.name) in linear
        )
        if stays and (rows := _row_order(process, info)) is not None:
            blocks = torch.from_numpy(data.reshape(info.rows, -1)[rows])
            yield names[info.name], QuantisedLinear(blocks, info.kind, info.columns)
            continue
        made = process(ggml.dequantize(data, info.kind, info.columns).reshape(info.shape[::-1]), info.name)
        if made.name in names:
            yield names[made.name], torch.from_numpy(np.ascontiguousarray(made.weights))
    yield from gathered["tensors"].items()


def _tensor(file: GgufFile, content: mmap.mmap, name: str) -> torch.Tensor:
    """Return the dequantised values of the tensor `name` as a vector. `content`: the bytes of the file."""
    info = file.tensors[name]
    data = np.frombuffer(content, np.uint8, info.size, file.starts[name])
    return torch.from_numpy(ggml.dequantize(data, info.kind, info.columns)).flatten()


def _shallow(module: nn.Module, children: list[tuple[str, SimpleNamespace]]) -> SimpleNamespace:
    # Transformers would build the table of tensor names for every submodule, 26 ms each; the tables
    # of the two topmost modules already contain all names.
    return SimpleNamespace(config=module.config, state_dict=module.state_dict, named_children=lambda: children)


def _row_order(process: Callable[[NDArray[np.floating], str], _Made], info: TensorInfo) -> NDArray[np.int64] | None:
    """Return, for each row of a matrix in Transformers, its index in the GGUF.

    The GGUFs of some families store the rows in another order. Return None if `process`, the
    conversion, changes more than the order of the rows.
    """
    made = process(np.arange(info.rows, dtype=np.float64)[:, None], info.name)
    rows = made.weights.reshape(-1).astype(np.int64)
    return rows if made.name == info.name and np.array_equal(np.sort(rows), np.arange(info.rows)) else None


def _within_layers(model: "PreTrainedModel", module: nn.Module) -> bool:
    """Return whether `module` is a linear layer other than the output head.

    The head is never quantised, since its weight is often shared with the embedding.
    """
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


def _place(
    model: "PreTrainedModel", name: str, weight: torch.Tensor | HeldLinear, dtype: torch.dtype, weights: BaseWeights
) -> None:
    """Set the weight `name` of the model to `weight`, converted to `dtype`, or to NF4 where `weights` asks for it.

    A HeldLinear replaces the whole module that owns the weight. Raises ValueError if the shape of
    `weight` differs from the model's.
    """
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    wanted = getattr(owner, leaf)
    shape = tuple(weight.shape)
    if shape != tuple(wanted.shape):
        raise ValueError(f"its weight {name} has the shape {shape}, but Transformers needs {tuple(wanted.shape)}")
    if weights == "nf4" and leaf == "weight" and isinstance(weight, torch.Tensor) and _within_layers(model, owner):
        weight = Nf4Linear(weight.to(dtype))
    if isinstance(weight, HeldLinear):
        weight.take_place_of(cast(nn.Linear, owner), dtype)
        model.set_submodule(path, weight)
        return
    setattr(owner, leaf, nn.Parameter(weight.to(dtype)))
