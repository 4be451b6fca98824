"""Check that the compiled llama.cpp runs on this processor.

The check generates an answer with a tiny model of random weights, in a child process.
scripts/lib.sh runs this file after every build; `byoai doctor` runs the same check.
"""

import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from fine_tuning.engines.native import Native, threads
from fine_tuning.errors import EngineError

_WIDTH, _LAYERS, _HEADS, _VOCABULARY = 256, 2, 4, 288  # K-quants pack 256 weights, and tiles are 32 wide
# A different type for each matrix of a layer (q, k, v, o, gate, up, down), to run every common kernel.
_TYPES = (
    (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.F16, Type.BF16),
    (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS),
)
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_PROMPT = "Does it run? " * 8  # many tokens, since llama.cpp computes long prompts and single tokens differently


def smoke() -> None:
    """Generate an answer with a tiny random model. Raises EngineError if llama.cpp cannot load it, or crashes."""
    with tempfile.TemporaryDirectory() as folder:
        model = Native(
            "fine_tuning.engines.llama:Chat", str(write_model(Path(folder) / "tiny.gguf")), None, 512, threads()
        )
        tokens = model.call("encode", _PROMPT, False, True)
        for _ in model.stream("answer", tokens, {"temp": 0.0}, 0, 0, 8, []):
            pass
        model.close()


def write_model(path: Path) -> Path:
    """Write a GGUF of 3 MB to `path`, a llama model with random weights of all common types; return `path`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer)
    draw = np.random.default_rng(1)  # with this seed the model generates eight tokens before it ends
    _add_matrix(writer, draw, "token_embd", _VOCABULARY, _WIDTH, Type.Q8_0)
    norms = ["output_norm", *(f"blk.{layer}.{name}_norm" for layer in range(_LAYERS) for name in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    for layer in range(_LAYERS):
        for name, kind in zip(_MATRICES, _TYPES[layer], strict=True):
            rows, columns = {"ffn_gate": (2, 1), "ffn_up": (2, 1), "ffn_down": (1, 2)}.get(name, (1, 1))
            _add_matrix(writer, draw, f"blk.{layer}.{name}", rows * _WIDTH, columns * _WIDTH, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Add a vocabulary: the usual special tokens, one token for each byte, and filler tokens."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"filler{number}" for number in range(_VOCABULARY - len(tokens))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_matrix(
    writer: gguf.GGUFWriter, draw: np.random.Generator, name: str, rows: int, columns: int, kind: Type
) -> None:
    """Add a matrix of random weights of type `kind`, or of zeros if gguf cannot quantise to this type."""
    try:
        data = gguf.quants.quantize(
            draw.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5), kind
        )
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = np.zeros((rows, columns // block * size), np.uint8)
    writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)


if __name__ == "__main__":
    try:
        smoke()
    except EngineError as error:
        sys.exit(f"byoai: {error}")
