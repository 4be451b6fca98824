"""A base that knows nothing, for what does not depend on what a model knows: it is trained, exported and
served as the real one, with the real one's vocabulary and template, in a fraction of the time.
"""

from pathlib import Path

import gguf
import numpy as np

from fine_tuning.engines.gguf_file import TensorInfo, entry, read_gguf, write_gguf

LAYERS, WIDTH, INNER, HEADS, KV_HEADS = 2, 64, 96, 4, 2
_SIZES = {
    "block_count": LAYERS,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "rope.dimension_count": WIDTH // HEADS,
}
_ENDS = 4.0  # how much longer the end token's vector is than others: an answer ends after a few tokens
_KIND = gguf.GGMLQuantizationType.Q8_0


def write_small_base(real: Path, target: Path) -> Path:
    """Write a llama of two narrow layers, its weights random, with all else as in the GGUF `real`."""
    file = read_gguf(real)
    metadata, vocabulary = dict(file.metadata), file.tensors["token_embd.weight"].rows
    for key, value in _SIZES.items():
        metadata[f"llama.{key}"] = entry(f"llama.{key}", value)
    few = WIDTH * KV_HEADS // HEADS
    matrices = {"attn_q": (WIDTH, WIDTH), "attn_k": (few, WIDTH), "attn_v": (few, WIDTH), "attn_output": (WIDTH, WIDTH)}
    matrices |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{norm}": (WIDTH,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in matrices.items()}
    noise = np.random.default_rng(1)
    drawn = {name: noise.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    drawn["token_embd"][file.header.metadata["tokenizer.ggml.eos_token_id"]] *= _ENDS
    write_gguf(target, metadata, [_tensor(f"{name}.weight", weights) for name, weights in drawn.items()])
    return target


def _tensor(name: str, drawn: np.ndarray) -> tuple[TensorInfo, list[bytes]]:
    shape = drawn.shape
    if len(shape) == 1:
        return TensorInfo(name, shape, gguf.GGMLQuantizationType.F32), [(1 + drawn / 10).tobytes()]
    content = gguf.quants.quantize(drawn / np.float32(shape[1] ** 0.5), _KIND)
    return TensorInfo(name, shape[::-1], _KIND), [content.tobytes()]
