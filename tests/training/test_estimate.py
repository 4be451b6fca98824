"""The estimate of memory and time: what it counts is what torch keeps, and what it advises fits."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from token_rows import VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from fine_tuning.config import Replay, Training
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.errors import NotEnoughMemory
from fine_tuning.training import attention
from fine_tuning.training import estimate as forecast
from fine_tuning.training.estimate import Estimate, estimate, largest_fitting
from fine_tuning.training.fast import tree_attention
from fine_tuning.training.fast.fused import fuse
from fine_tuning.training.machine import Machine
from fine_tuning.training.model_shape import Shape, shape_of
from fine_tuning.training.workload import BatchSize, ComputedRow, Workload, workload

SMOL = Shape(
    parameters=134_515_008,
    layers=30,
    heads=9,
    hidden=576,
    attention=576,
    keys=192,
    feed_forward=1536,
    vocabulary=49152,
    linear=106_168_320,
    matrices=7,
    inputs=4992,
    outputs=5184,
    largest=49152 * 576,
    quantised=66_355_200,
)
TINY = replace(SMOL, layers=1, hidden=64, attention=64, keys=32, feed_forward=192, inputs=576, outputs=640)
LORA = Training(method="lora", replay=Replay(share=0))
BATCH = BatchSize(tokens=500, scores=60_000, logits=200, targets=200)


WIDE = (
    replace(
        TINY,
        heads=4,
        hidden=192,
        attention=192,
        keys=96,
        feed_forward=512,
        inputs=1664,
        outputs=1792,
        linear=2 * 192 * 192 + 2 * 192 * 96 + 3 * 192 * 512,
    ),
    {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48},
)


CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "phi3": Phi3Config,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
}


def bytes_saved(
    layers: int,
    tokens: int,
    settings: Training,
    dtype: torch.dtype = torch.float32,
    config: Any = LlamaConfig,
    **sizes: int,
) -> int:
    """What autograd keeps for the backward pass of a real model, weights not counted, each storage once."""
    from fine_tuning.training.loss import packed_loss
    from fine_tuning.training.methods import METHODS
    from fine_tuning.training.packing import TokenRow, pack

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    } | sizes
    shaped = config(vocab_size=VOCABULARY, num_hidden_layers=layers, **sizes)
    model = AutoModelForCausalLM.from_config(
        shaped, attn_implementation=(tree_attention if settings.fused else attention).register()
    ).to(dtype)
    model = METHODS[settings.method].attach(model, settings).train()
    if settings.fused:
        fuse(model)  # as PackedTrainer does
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[torch.Tensor] = []
    draw = random.Random(1)
    row = TokenRow([draw.randrange(VOCABULARY) for _ in range(tokens)], [False] * (tokens - 2) + [True] * 2)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        packed_loss(model, pack([row]))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


@pytest.mark.parametrize(
    ("dtype", "dropout"), [(torch.float32, 0.0), (torch.float32, 0.1), (torch.bfloat16, 0.0), (torch.bfloat16, 0.1)]
)
def test_what_a_layer_saves_is_what_torch_saves(dtype, dropout):
    settings, tokens = LORA.model_copy(update={"lora_r": 4, "lora_dropout": dropout}), 100
    measured = bytes_saved(3, tokens, settings, dtype) - bytes_saved(2, tokens, settings, dtype)
    assert tokens * forecast._saved(TINY, settings, dtype.itemsize) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"use_dora": True}),
        ("llama", {"method": "prefix_tuning"}),
        ("llama", {"method": "prompt_tuning"}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("phi3", {}),
        ("gemma2", {}),
        ("gemma3", {}),
        ("gemma3", {"method": "prompt_tuning"}),
    ],
)
def test_what_is_not_fused_keeps_about_so_much_more(architecture, changes):
    shape, wide = WIDE
    shape = replace(shape, architecture=architecture)
    settings, config = LORA.model_copy(update={"lora_r": 8, **changes}), CONFIGS[architecture]
    measured = bytes_saved(3, 300, settings, config=config, **wide) - bytes_saved(
        2, 300, settings, config=config, **wide
    )
    estimated = forecast._activations(shape, settings, BatchSize(300, 300 * 300, 1, 2), 4)
    assert 0.9 * measured < estimated < 1.25 * measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("changes", [{}, {"method": "prefix_tuning"}], ids=["lora", "prefix"])
def test_without_fused_layers_no_less_is_foretold_than_is_kept(architecture, dtype, changes):
    shape, wide, settings = *WIDE, LORA.model_copy(update={"lora_r": 8, "fused": False, **changes})
    config, shape = CONFIGS[architecture], replace(shape, architecture=architecture)
    measured = bytes_saved(3, 300, settings, dtype, config, **wide) - bytes_saved(
        2, 300, settings, dtype, config, **wide
    )
    estimated = forecast._activations(shape, settings, BatchSize(300, 300 * 300, 1, 2), dtype.itemsize)
    assert 0.9 * measured < estimated < 3 * measured


def test_trainings_with_a_part_held_out_take_their_time_but_not_the_replays():
    rows = [ComputedRow(tuple(range(start, start + 50)), 10) for start in range(0, 1000, 50)]
    settings = LORA.model_copy(update={"folds": 10, "batch_size": 6, "num_epochs": 3})
    work = workload([*rows, *(replace(row, replayed=True) for row in rows)], settings)
    assert work.steps == 7
    # 18 of the 20 chats, by threes: half of a batch of six are chats
    assert work.held_out and work.held_out.steps == 10 * 6
    took = [
        estimate(SMOL, settings, each, Machine(1e11, 10**10)).seconds for each in (work, replace(work, held_out=None))
    ]
    assert took[0] > 4 * took[1]


def test_the_shape_of_the_real_base_is_read_from_its_file(base_gguf):
    assert shape_of(read_gguf(base_gguf)) == SMOL


def at_most(available: int, rows: list[ComputedRow]):
    return lambda settings, length: estimate(SMOL, settings, workload(rows, settings, length), Machine(1e11, available))


ROWS = [ComputedRow(tuple(range(start, start + 400)), 100) for start in range(0, 40_000, 400)]


@pytest.mark.parametrize(("available", "lowered"), [(3.5e9, "batch_tokens"), (1.95e9, "max_length")])
def test_what_is_advised_fits_and_one_more_would_not(available, lowered):
    settings = LORA.model_copy(update={"batch_size": 32})
    at = at_most(int(available), ROWS)
    assert not at(settings, 400).fits
    advice = largest_fitting(settings, 400, at)
    *_, last = advice
    assert last.endswith(lowered)

    def applied(changes):
        training = {
            key.removeprefix("training."): value for key, value in changes.items() if key.startswith("training.")
        }
        return at(settings.model_copy(update=training), changes.get("data_preparation.max_length", 400))

    limit = forecast._MARGIN * available
    assert applied(advice).memory <= limit < applied({**advice, last: advice[last] + 1}).memory


def test_a_qlora_base_stays_quantised_only_where_the_dequantised_one_does_not_fit():
    qlora = LORA.model_copy(update={"method": "qlora", "batch_size": 1})
    whole = at_most(10**10, ROWS)(qlora, 400)
    assert whole.base_weights == "dequantised"
    less = at_most(whole.memory - 1, ROWS)(qlora, 400)
    assert less.base_weights == "quantised" and less.fits
    assert whole.parts["weights"] - less.parts["weights"] == SMOL.linear * 4 - SMOL.quantised
    assert less.seconds > whole.seconds
    for settings in (
        LORA,
        qlora.model_copy(update={"use_dora": True}),
        qlora.model_copy(update={"base_weights": "dequantised"}),
    ):
        assert at_most(whole.memory - 1, ROWS)(settings, 400).base_weights == "dequantised"
    for wanted in ("quantised", "nf4"):
        assert at_most(10**10, ROWS)(qlora.model_copy(update={"base_weights": wanted}), 400).base_weights == wanted


def test_nf4_takes_half_a_byte_a_weight_and_eight_bit_states_a_quarter():
    qlora = LORA.model_copy(update={"method": "qlora", "batch_size": 1})
    whole = at_most(10**10, ROWS)(qlora, 400)
    nf4 = at_most(10**10, ROWS)(qlora.model_copy(update={"base_weights": "nf4"}), 400)
    assert whole.parts["weights"] - nf4.parts["weights"] == SMOL.linear * 4 - int(SMOL.linear * 0.516)
    eight = at_most(10**10, ROWS)(qlora.model_copy(update={"optimizer": "adamw_8bit"}), 400)
    trained = 16 * SMOL.layers * (SMOL.inputs + SMOL.outputs)
    assert whole.parts["training"] - eight.parts["training"] == 6 * trained


def test_no_advice_where_even_the_base_does_not_fit():
    assert largest_fitting(LORA, 400, at_most(1_000_000_000, ROWS)) is None


def test_too_much_is_refused_with_the_settings_that_fit_and_their_option():
    settings = LORA.model_copy(update={"batch_size": 32})
    at = at_most(3_500_000_000, ROWS)
    advice = largest_fitting(settings, 400, at)
    with pytest.raises(
        NotEnoughMemory, match=rf"activations.*--set training.batch_tokens={advice['training.batch_tokens']} \(--auto"
    ):
        forecast.require(at(settings, 400), settings, "smollm2:135m", advice)
    forecast.require(at_most(10**10, ROWS)(LORA, 400), LORA, "smollm2:135m", None)


def test_more_of_anything_takes_more():
    base = estimate(SMOL, LORA, Workload(10, (BATCH,)), Machine(1e11, 10**10))
    for work, settings in (
        (Workload(10, (replace(BATCH, tokens=600),)), LORA),
        (Workload(10, (replace(BATCH, logits=300, targets=300),)), LORA),
        (Workload(10, (replace(BATCH, scores=90_000),)), LORA),
        (Workload(10, (BATCH,)), LORA.model_copy(update={"lora_r": 64})),
    ):
        more = estimate(SMOL, settings, work, Machine(1e11, 10**10))
        assert more.memory > base.memory and more.seconds > base.seconds


def test_many_passes_take_the_memory_of_the_largest_and_the_time_of_all():
    one, few = (LORA.model_copy(update={"batch_size": 32, "batch_tokens": tokens}) for tokens in (100_000, 1000))
    # 32, 32, 32 and 4 chats, by twos
    assert [round(workload(ROWS, settings).passes, 1) for settings in (one, few)] == [1.0, 12.5]
    whole, parts = (
        estimate(SMOL, settings, workload(ROWS, settings), Machine(1e11, 10**11)) for settings in (one, few)
    )
    assert parts.memory < whole.memory / 4 and parts.steps == whole.steps
    assert whole.seconds < parts.seconds < 1.5 * whole.seconds


def test_shared_heads_cost_once():
    head, settings = tuple(range(300)), LORA.model_copy(update={"batch_size": 8})
    shared = [ComputedRow(head + tuple(range(1000 * index, 1000 * index + 20)), 10) for index in range(1, 9)]
    apart = [
        replace(row, ids=tuple(-index - 1000 * number for index in range(320))) for number, row in enumerate(shared)
    ]
    assert at_most(10**10, shared)(settings, 400).memory < at_most(10**10, apart)(settings, 400).memory


@pytest.mark.slow
def test_auto_takes_what_fits_and_says_so(home, monkeypatch, capsys):
    from fine_tuning.cli.main import main
    from fine_tuning.training import machine

    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    monkeypatch.setattr(machine, "free_ram", lambda: 2_300_000_000)
    arguments = ["retrain", "--sample", "--dry-run", "--set", "training.batch_size=64"]
    assert main([*arguments, "--auto"]) == 0
    said = capsys.readouterr().out
    assert "--auto changes the settings to training.batch_tokens=" in said
    assert "2.3 GB free" in said


def test_the_parts_of_an_estimate_are_its_memory():
    found = estimate(SMOL, LORA, Workload(10, (BATCH,)), Machine(1e11, 10**10))
    assert isinstance(found, Estimate)
    assert found.memory == sum(size for part, size in found.parts.items() if part != "loading")
