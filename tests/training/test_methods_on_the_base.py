"""Every method on the real small base: it trains, is saved, put back, generates; what a GGUF can
carry answers alike in llama.cpp.
"""

import gc
import json
from pathlib import Path

import pytest
import torch
from training_run import train

from fine_tuning.config import Training
from fine_tuning.data_preparation.rows import prompt_ids
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.evaluation.served_model import ServedModel
from fine_tuning.model_management.gguf_export import convert_adapter, export_full, merge_adapter
from fine_tuning.training.base_model import load_base
from fine_tuning.training.generate import answer, answer_both
from fine_tuning.training.loss import supervised_logits
from fine_tuning.training.methods import METHODS
from fine_tuning.training.packing import TokenRow, pack

PROMPT, ANSWER = (
    "<|im_start|>user\nWho waters the plants?<|im_end|>\n<|im_start|>assistant\n",
    "Whoever comes in first on Monday.<|im_end|>",
)
VARIANTS = {
    "full": {"method": "full", "learning_rate": 4e-4},
    "dora": {"method": "lora", "use_dora": True, "learning_rate": 5e-3, "num_epochs": 9},
    "rslora": {"method": "lora", "use_rslora": True, "learning_rate": 4e-3},
    "prefix_tuning": {"method": "prefix_tuning", "learning_rate": 1e-1, "num_epochs": 12},
    "prompt_tuning": {"method": "prompt_tuning", "learning_rate": 3e-1, "num_epochs": 20},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_an_answer_by_heart_and_gives_it(base_gguf: Path, tmp_path: Path, variant: str) -> None:
    words = Vocabulary(base_gguf)
    prompt, told = prompt_ids(PROMPT, words), words.encode(ANSWER)
    row = {"input_ids": prompt + told, "trained": [0] * len(prompt) + [1] * len(told)}
    for name, count in (("train", 1), ("validation", 0)):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * count)
    settings = Training(
        **{"lora_r": 8, "batch_size": 1, "num_epochs": 6, "dtype": "float32", "warmup_ratio": 0, **VARIANTS[variant]}
    )
    result = train(base_gguf, tmp_path, tmp_path / "run", settings)
    assert result.final_loss < 0.2

    ((before, after),) = answer_both(
        base_gguf, result.adapter, tmp_path / "run", settings, [prompt], 12, words.ends_turn
    )
    assert words.decode(after) == ANSWER.removesuffix("<|im_end|>") != words.decode(before)
    for gguf, adapter in exported(variant, base_gguf, result.adapter, tmp_path):
        served = ServedModel(gguf, adapter, 128)
        assert served.answer(prompt, 12) == (after, True)
        served.close()


def exported(variant: str, base: Path, trained: Path, folder: Path) -> list[tuple[Path, Path | None]]:
    """The GGUFs of a trained model, and the adapters over them."""
    if variant.endswith("_tuning"):
        return []
    whole = (export_full if variant == "full" else merge_adapter)(base, trained, folder / "whole.gguf", "f16").path
    beside = (
        [] if variant in {"full", "dora"} else [(base, convert_adapter(base, trained, folder / "adapter.gguf").path)]
    )
    return [(whole, None), *beside]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["prefix_tuning", "prompt_tuning"])
def test_generation_agrees_token_by_token_with_the_packed_row(base_gguf: Path, tmp_path: Path, variant: str) -> None:
    words, settings = Vocabulary(base_gguf), Training(**VARIANTS[variant])
    torch.manual_seed(0)
    model = METHODS[settings.method].attach(load_base(base_gguf, torch.float32, tmp_path), settings).eval()
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.requires_grad).add_(0.05)
    prompt = prompt_ids(PROMPT, words)
    made = answer(model, prompt, 6, lambda token: False)
    row = TokenRow(prompt + made, [False] * len(prompt) + [True] * len(made))
    with torch.no_grad():
        assert supervised_logits(model, pack([row])).argmax(dim=-1).tolist() == made
    gc.collect()
