"""A version in fewer bits: what is recommended, what is refused, and the whole way on the real base."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_training import SMALL, log_doors

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.config import load_config
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.connect import connect
from fine_tuning.errors import ConfigError
from fine_tuning.evaluation.compression import Measured, recommend
from fine_tuning.evaluation.metrics import Interval
from fine_tuning.jobs.kinds import read_request
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.outcome import NewVersion
from fine_tuning.pipeline import retrain
from fine_tuning.runs import Run


def measured(name: str, size: int, worse: float, faster: float = 1.0) -> Measured:
    return Measured(name, size, 100.0, 10.0, faster, 5 * worse, Interval(worse, worse - 0.01, worse + 0.01))


@pytest.mark.parametrize(
    ("others", "name", "told"),
    [
        ([("q8_0", 60, 1.001), ("q5_k_m", 40, 1.008), ("q4_0", 30, 1.05)], "q5_k_m", "+0.8%"),
        ([("q8_0", 60, 1.001), ("q4_0", 30, 0.99)], "q4_0", "-1.0%"),
        ([("q8_0", 60, 1.2), ("q4_0", 30, 1.5)], "now", "Keep it as it is"),
        ([("f16", 200, 1.0), ("q8_0", 110, 0.999)], "now", "Keep it as it is"),  # good, but larger
        ([("q4_0", 30, 1.0101)], "now", "Keep it"),
    ],
)
def test_the_smallest_that_is_about_as_good_is_recommended(
    others: list[tuple[str, int, float]], name: str, told: str
) -> None:
    best, why = recommend([measured("now", 100, 1.0), *(measured(*each, faster=1.3) for each in others)])
    assert best == name and told in why
    assert name == "now" or ("130% of the speed" in why and "% of the size" in why)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"version": 0}, "version"),
        ({"use": ""}, "use"),
        ({"quantisations": []}, "quantisations"),
        ({"folder": "/"}, "folder"),
    ],
)
def test_a_request_that_cannot_be_done_names_the_fault(home: Path, request_: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_request("quantise", request_)


NAME = "fine_tuned_smollm2-135m"


@pytest.fixture
def served(embedded: None, home: Path, base_gguf: Path) -> None:
    connect().create("smollm2:135m", ModelSpec(from_=base_gguf))


def add_version(number: int = 1, *, adapter: bool = True) -> None:
    """A version with a small random adapter, whose test set is gone."""
    engine = connect()
    run, chance = Run(paths.home() / "runs" / str(number)), np.random.default_rng(number)
    run.adapter.mkdir(parents=True)
    if adapter:
        tensors = {
            f"base_model.model.model.layers.3.self_attn.q_proj.lora_{side}.weight": chance.standard_normal(
                shape
            ).astype(np.float32)
            * 0.02
            for side, shape in (("A", (2, 576)), ("B", (576, 2)))
        }
        save_file(tensors, run.adapter / "adapter_model.safetensors")
        (run.adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2}))
    run.modelfile.write_text("FROM smollm2:135m\n")
    engine.copy("smollm2:135m", f"{NAME}:v{number}")
    base = engine.show("smollm2:135m").gguf_digest
    made = {"base_tag": "smollm2:135m", "base_digest": base, "method": "lora", "mode": "adapter"}
    Registry().add(NAME, number, run=f"runs/{number}", **made)


def quantise(*words: str, settings: Mapping[str, object] = SMALL) -> int:
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return main(["quantise", *words, *changes])


@pytest.mark.slow
def test_what_cannot_be_quantised_is_refused_with_the_reason(served: None, capsys: pytest.CaptureFixture[str]) -> None:
    add_version(1)
    add_version(2, adapter=False)
    for words, told in [
        (["1", "--only", "q9"], "there is no quantization 'q9'"),
        (["1", "--use", "nothing"], "there is no quantization 'nothing'"),
        (["1", "--use", "q8_0"], "the chats that were kept to test it were deleted"),
        (["2", "--only", "q8_0"], "cannot be quantised to any of q8_0"),
        (["9"], "has no version 9"),
        ([], "is live: name one"),
    ]:
        assert quantise(*words) != 0, words
        assert told in "".join(capsys.readouterr()), words


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_table_is_measured_and_the_chosen_one_becomes_a_version(
    served: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_doors(12)
    quick = SMALL | {"training.num_epochs": 1, "evaluation.general": 0, "evaluation.test_prompts": []}
    made = retrain(load_config(overrides=quick), connect())
    assert isinstance(made, NewVersion) and made.live
    capsys.readouterr()

    assert quantise("--only", "f16,q4_0", "--json") == 0
    result = json.loads(capsys.readouterr().out)["result"]
    by_name = {each["name"]: each for each in result["table"]}
    assert list(by_name) == ["now", "f16", "q4_0"]
    sizes = [by_name[name]["size"] for name in ("f16", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    # The same weights; but beside matrices of 4 bits llama.cpp rounds what it multiplies them with, too.
    assert by_name["f16"]["worse"]["value"] == pytest.approx(1, abs=0.05)
    assert by_name["q4_0"]["worse"]["value"] > by_name["f16"]["worse"]["value"] - 0.005
    assert all(each["speed"] > 0 and each["prompt_speed"] > 0 for each in by_name.values())
    print(*result["table"], result["why"], sep="\n", file=sys.stderr)
    assert result["recommended"] in by_name and result["why"] and result["texts"] > 2
    assert not list((home / "runs").glob(".quantise*"))

    assert quantise("--use", "Q8_0", settings=quick) == 0
    assert ":v2 is live" in capsys.readouterr().out
    version, before = Registry().get(NAME, 2), Registry().get(NAME, 1)
    assert (version.mode, version.method, version.dataset) == ("merged", "quantised to q8_0", before.dataset)
    assert version.lineage and version.lineage.versions == ((f"{NAME}:v1", 1.0),) and "q8_0" in version.notes
    assert Registry().turns_of(NAME, 2) == Registry().turns_of(NAME, 1) != set()
    assert by_name["q4_0"]["size"] < connect().show(f"{NAME}:latest").gguf.stat().st_size < by_name["f16"]["size"]
