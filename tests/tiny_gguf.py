"""A llama small enough to export in milliseconds, adapters for it, and what the export should come
to, written down independently.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

LAYERS, HEADS, KV_HEADS, VOCABULARY = 2, 4, 2, 96
MODULES = {  # of one layer: the name in Hugging Face's model, and in a GGUF
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Weights = dict[str, np.ndarray]  # float32 (outputs, inputs)


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of a layer's matrices, by their names in the GGUF."""
    few, inner = width * KV_HEADS // HEADS, width * 3 // 2
    return {
        **{"attn_q": (width, width), "attn_k": (few, width), "attn_v": (few, width), "attn_output": (width, width)},
        **{"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)},
    }


def write_base(path: Path, kind: Type = Type.F32, width: int = 64, arch: str = "llama", tied: bool = True) -> Path:
    """Random weights, matrices of type `kind`; with keys and arrays that no exporter knows."""
    noise = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("general.name", "Tiny")
    writer.add_uint64("custom.unknown", 2**40)
    writer.add_array("custom.floats", [0.5, -1.5])
    writer.add_file_type(0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(width * 3 // 2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_bool("custom.last", True)

    def matrix(name: str, rows: int, columns: int) -> None:
        weights = noise.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, 1 + noise.standard_normal(width, dtype=np.float32) / 10)

    matrix("token_embd.weight", VOCABULARY, width)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        for name, (rows, columns) in shapes(width).items():
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        norm(f"blk.{layer}.ffn_norm.weight")
    norm("output_norm.weight")
    if not tied:
        matrix("output.weight", VOCABULARY, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_spm_vocabulary(
    path: Path, special: Sequence[tuple[str, gguf.TokenType]], pieces: Sequence[str], like_llama2: bool = False
) -> Path:
    """A SentencePiece vocabulary: `special` tokens with their types (unknown, begin and end first),
    a token for each byte, then pieces.

    `like_llama2`: it says itself that it wants a begin token, and a space before the text.
    """
    tokens = [text for text, _ in special] + [f"<0x{byte:02X}>" for byte in range(256)] + list(pieces)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * (len(special) + 256) + [float(len(piece)) for piece in pieces])
    writer.add_token_types(
        [kind for _, kind in special] + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(pieces)
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if like_llama2:
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(True)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(
    folder: Path,
    width: int = 64,
    rank: int = 4,
    alpha: float = 8,
    size: float = 0.3,
    dtype: str = "F32",
    dora: bool = False,
    **config: Any,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A PEFT adapter of every matrix of every layer; its (A, B) by the GGUF's names. `config` goes
    into adapter_config.json.
    """
    noise = np.random.default_rng(2)
    stored, pairs = {}, {}
    for layer in range(LAYERS):
        for module, name in MODULES.items():
            outputs, inputs = shapes(width)[name]
            a = (noise.standard_normal((rank, inputs)) * size).astype(np.float32)
            b = (noise.standard_normal((outputs, rank)) * size).astype(np.float32)
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            stored[f"{prefix}.lora_A.weight"], a = encode(a, dtype)
            stored[f"{prefix}.lora_B.weight"], b = encode(b, dtype)
            pairs[f"blk.{layer}.{name}.weight"] = (a, b)
            if dora:
                stored[f"{prefix}.lora_magnitude_vector"], _ = encode(magnitudes(outputs), dtype)
    save_adapter(folder, stored, {"r": rank, "lora_alpha": alpha, **({"use_dora": True} if dora else {}), **config})
    return pairs


def magnitudes(outputs: int) -> np.ndarray:
    """The rows' lengths that `write_adapter` gives a matrix with DoRA, in Hugging Face's order."""
    return np.linspace(0.5, 2, outputs, dtype=np.float32)


def write_model(folder: Path, width: int = 64, size: float = 0.3, dtype: str = "F32", leave_out: str = "") -> Weights:
    """A whole model in Hugging Face's format, as a full fine-tune saves it; its weights as the GGUF
    of a llama has them.
    """
    noise = np.random.default_rng(4)
    names = {
        "model.embed_tokens.weight": ("token_embd.weight", (VOCABULARY, width)),
        "model.norm.weight": ("output_norm.weight", (width,)),
    }
    for layer in range(LAYERS):
        here, there = f"model.layers.{layer}", f"blk.{layer}"
        names[f"{here}.input_layernorm.weight"] = (f"{there}.attn_norm.weight", (width,))
        names[f"{here}.post_attention_layernorm.weight"] = (f"{there}.ffn_norm.weight", (width,))
        for module, name in MODULES.items():
            names[f"{here}.{module}.weight"] = (f"{there}.{name}.weight", shapes(width)[name])
    stored, found = {}, {}
    for hf_name, (name, shape) in names.items():
        if name != leave_out:
            stored[hf_name], weights = encode((noise.standard_normal(shape) * size).astype(np.float32), dtype)
            found[name] = in_order(name, weights)
    save_adapter(folder, stored, {})
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    return found


def in_order(name: str, rows: np.ndarray, arch: str = "llama") -> np.ndarray:
    """Hugging Face's rows in the order of the GGUF's `name`."""
    heads = HEADS if "attn_q" in name else KV_HEADS if "attn_k" in name else None
    return permuted(rows, heads) if arch == "llama" and heads else rows


def encode(values: np.ndarray, dtype: str) -> tuple[tuple[str, tuple[int, ...], bytes], np.ndarray]:
    """`values` as a safetensors file holds them, and the float32 that they are then."""
    if dtype == "BF16":
        upper = (values.view(np.uint32) >> 16).astype(np.uint16)
        return (dtype, values.shape, upper.tobytes()), (upper.astype(np.uint32) << 16).view(np.float32)
    rounded = values.astype({"F32": np.float32, "F16": np.float16}[dtype])
    return (dtype, values.shape, rounded.tobytes()), rounded.astype(np.float32)


def save_adapter(folder: Path, stored: dict[str, tuple[str, tuple[int, ...], bytes]], config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header, body = {}, b""
    for name, (dtype, shape, data) in stored.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + body)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}), encoding="utf-8")


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row by row, as llama.cpp's rotary embedding wants it: of each head, the first of either half,
    the second of either half, ...
    """

    def order() -> Iterator[int]:
        size = len(rows) // heads
        for head in range(heads):
            for pair in range(size // 2):
                yield head * size + pair
                yield head * size + size // 2 + pair

    return rows[list(order())]


def delta(name: str, a: np.ndarray, b: np.ndarray, scale: float, arch: str = "llama") -> np.ndarray:
    """What the adapter adds to the GGUF's `name`."""
    return in_order(name, (b @ a) * np.float32(scale), arch)


def weights(path: Path) -> Weights:
    """Every tensor, dequantised by gguf's own Python code."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def raw(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}
