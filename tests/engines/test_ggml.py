"""ggml through ctypes: the numbers of gguf's own Python code, and the files of llama-quantize."""

import subprocess
import sys
import textwrap
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fine_tuning.engines import ggml
from fine_tuning.errors import ExportError
from fine_tuning.paths import REPOSITORY

# What gguf can make in Python too: its converter's quantisations.
BOTH = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
K_QUANTS = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS]


def random_weights(rows: int = 7, columns: int = 256) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)


@pytest.mark.parametrize("kind", BOTH)
def test_quantised_bytes_are_those_of_llama_cpps_converter(kind: Type) -> None:
    weights = random_weights()
    assert ggml.quantize(weights, kind).tobytes() == gguf.quants.quantize(weights, kind).tobytes()


@pytest.mark.parametrize("kind", BOTH + K_QUANTS)
def test_dequantised_weights_are_those_that_transformers_trains_on(kind: Type) -> None:
    data = ggml.quantize(random_weights(), kind)
    weights = ggml.dequantize(data.ravel(), kind, 256)
    assert weights.shape == (7, 256)
    assert np.array_equal(weights, gguf.quants.dequantize(data, kind).reshape(7, 256))


@settings(max_examples=50)
@given(arrays.arrays(np.int32, (3, 32), elements=st.integers(-(10**6), 10**6)))
def test_q8_0_is_the_converters_for_any_weights(numbers: np.ndarray) -> None:
    weights = (numbers / 1000).astype(np.float32)
    assert ggml.quantize(weights, Type.Q8_0).tobytes() == gguf.quants.quantize(weights, Type.Q8_0).tobytes()


@pytest.mark.parametrize(("kind", "error"), [(Type.Q8_0, 0.02), (Type.Q6_K, 0.1), (Type.Q4_K, 0.4), (Type.IQ4_NL, 0.5)])
def test_what_is_quantised_comes_back_nearly(kind: Type, error: float) -> None:
    weights = random_weights()
    assert np.abs(ggml.dequantize(ggml.quantize(weights, kind).ravel(), kind, 256) - weights).max() < error


def test_weights_in_any_memory_order_are_taken() -> None:
    weights = random_weights()
    assert ggml.quantize(np.asfortranarray(weights), Type.Q8_0).tobytes() == ggml.quantize(weights, Type.Q8_0).tobytes()


def test_a_row_that_is_no_whole_number_of_blocks_is_refused() -> None:
    with pytest.raises(ExportError, match="rows of 100 weights cannot be stored as Q4_K, which packs 256"):
        ggml.quantize(random_weights(2, 100), Type.Q4_K)
    with pytest.raises(ExportError, match="not whole rows"):
        ggml.dequantize(np.zeros(35, np.uint8), Type.Q8_0, 32)


def test_a_type_that_needs_an_importance_matrix_is_refused_not_aborted() -> None:
    assert not ggml.can_quantize(Type.IQ2_XXS)
    with pytest.raises(ExportError, match="IQ2_XXS without an importance matrix"):
        ggml.quantize(random_weights(), Type.IQ2_XXS)


def test_a_type_without_weights_is_refused() -> None:
    with pytest.raises(ExportError, match="cannot read weights of type I32"):
        ggml.dequantize(np.zeros(128, np.uint8), Type.I32, 32)


def test_a_file_that_llama_cpp_cannot_quantise_is_an_error_with_its_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"could not convert .*no\.gguf to q4_k_m: .*llama_model_quantize: failed"):
        ggml.quantize_file(tmp_path / "no.gguf", tmp_path / "out.gguf", "q4_k_m")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_disk_that_fills_up_while_llama_cpp_writes_is_an_error(base_gguf: Path, tmp_path: Path) -> None:
    script = f"""
        import resource, signal
        from pathlib import Path
        from fine_tuning.engines import ggml
        from fine_tuning.errors import ExportError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))
        try:
            ggml.quantize_file(Path({str(base_gguf)!r}), Path({str(tmp_path)!r}) / "out.gguf", "q4_k_m")
        except ExportError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert "could not convert" in done.stdout
