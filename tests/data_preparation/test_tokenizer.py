import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from fine_tuning.conversation import Message
from fine_tuning.data_preparation.tokenizer import HuggingFaceTokenizer, TokenizerUtils, fingerprint
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import ModelNotFound
from fine_tuning.token_rows import TokenRow


def strings(gguf: Path, key: str) -> list[str]:
    """An array of strings in a GGUF's metadata (GGUFReader takes seconds for it)."""
    data = gguf.read_bytes()
    place = data.index(key.encode()) + len(key)
    _, _, count = struct.unpack_from("<IIQ", data, place)
    place += 16
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(data[place + 8 : place + 8 + length].decode())
        place += 8 + length
    return found


@pytest.fixture(scope="session")
def folder(base_gguf: Path, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer as a Hugging Face folder, from the tokens and merges in its GGUF."""
    tokens = strings(base_gguf, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in strings(base_gguf, "tokenizer.ggml.merges")]
    fast = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True) for token in vocabulary.control_tokens()])
    path = tmp_path_factory.mktemp("smollm2")
    fast.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "bos_token": {"content": "<|im_start|>"}})
    )
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return path


@pytest.fixture(scope="session")
def hub(folder: Path) -> TokenizerUtils:
    return TokenizerUtils(folder)


@pytest.fixture(scope="session")
def gguf(base_gguf: Path) -> TokenizerUtils:
    return TokenizerUtils(base_gguf)


def test_a_gguf_is_known_by_its_content_since_ollamas_blobs_have_no_suffix(base_gguf: Path, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"
    blob.symlink_to(base_gguf)
    assert isinstance(TokenizerUtils(blob).tokenizer, Vocabulary)


@settings(max_examples=25, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["Hello", " wörld", "42", "\n", "  ", "<|im_end|>", "你好", "don't", "?!", "<|im"])
    ).map("".join)
)
def test_the_folder_and_the_gguf_of_one_model_give_the_same_tokens(
    hub: TokenizerUtils, gguf: TokenizerUtils, text: str
) -> None:
    for special in (True, False):
        assert hub.encode(text, special=special) == gguf.encode(text, special=special)
    ids = hub.encode(text)
    assert hub.decode(ids, special=True) == gguf.decode(ids, special=True) == text
    assert hub.count_tokens(text) == len(ids)


def test_the_files_beside_the_tokenizer_say_what_ends_a_turn(hub: TokenizerUtils) -> None:
    assert [hub.ends_turn(token) for token in (2, 0, 1, 100)] == [True, True, False, False]
    assert hub.eos == 2
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(hub.control_tokens())
    assert hub.decode([1, 19556, 2]) == "Hello"


def test_without_those_files_nothing_ends_a_turn(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    bare = HuggingFaceTokenizer(tmp_path)
    assert bare.eos == -1
    assert not bare.ends_turn(2)


@pytest.mark.parametrize(
    ("says", "processor", "expected"), [(None, True, [1]), (None, False, []), (True, False, [1]), (False, True, [])]
)
def test_the_begin_token_comes_if_the_configuration_or_the_post_processor_wants_it(
    folder: Path, tmp_path: Path, says: bool | None, processor: bool, expected: list[int]
) -> None:
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if processor:
        fast.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    fast.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>"} | ({} if says is None else {"add_bos_token": says})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = HuggingFaceTokenizer(tmp_path)
    assert tokenizer.encode("Hello", bos=True) == [*expected, 19556]
    assert tokenizer.encode("Hello") == [19556]


def test_rows_of_a_conversation_are_the_same_from_folder_and_gguf(
    hub: TokenizerUtils, gguf: TokenizerUtils, all_served: Any
) -> None:
    messages = [Message(role=role, content=f"{role} says 12") for role in ("user", "assistant", "user", "assistant")]
    rows = [utils.tokenize_conversation(messages, all_served["chatml"].render, id="x") for utils in (hub, gguf)]
    assert rows[0] == rows[1]
    assert rows[0][0].turns == 2


def test_equal_vocabularies_have_equal_fingerprints(
    hub: TokenizerUtils, gguf: TokenizerUtils, vocabulary: Vocabulary, spm_vocabulary: Vocabulary
) -> None:
    assert fingerprint(gguf) == fingerprint(vocabulary) == fingerprint(TokenizerUtils(gguf.name))
    assert fingerprint(vocabulary) != fingerprint(spm_vocabulary)
    assert fingerprint(hub) == fingerprint(vocabulary)


@pytest.mark.parametrize(
    "text",
    [
        "You may return any opened product within 30 days, as long as you have kept the receipt. After that we offer "
        "store credit.",
        "Der Vertrag läuft über zwölf Monate und verlängert sich automatisch, wenn er nicht gekündigt wird.",
        "def area(width: float, height: float) -> float:\n    return width * height  # in square metres\n",
        "Привет! Как дела? Сегодня хорошая погода.",
    ],
)
def test_the_estimate_is_within_15_percent(gguf: TokenizerUtils, text: str) -> None:
    assert TokenizerUtils.estimate_tokens(text) == pytest.approx(gguf.count_tokens(text), rel=0.15)


def test_nothing_is_estimated_as_nothing() -> None:
    assert TokenizerUtils.estimate_tokens("") == 0


@given(lengths=st.lists(st.integers(1, 20), max_size=20), budget=st.integers(1, 40))
def test_batches_keep_all_rows_in_order_and_fill_the_budget(lengths: list[int], budget: int) -> None:
    rows = [TokenRow(str(i), [0] * length, [True] * length) for i, length in enumerate(lengths)]
    batches = list(TokenizerUtils.batches(rows, budget))
    assert [row for batch in batches for row in batch] == rows
    assert all(len(batch) == 1 or sum(map(len, batch)) <= budget for batch in batches)
    assert all(sum(map(len, batch)) + len(after[0]) > budget for batch, after in pairwise(batches))


def test_what_is_no_tokenizer_is_named_with_what_would_be(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    for name in (text, tmp_path, tmp_path / "nowhere", "a name with spaces"):
        with pytest.raises(ModelNotFound, match="Hugging Face"):
            TokenizerUtils(name)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="is not a tokenizer"):
        TokenizerUtils(tmp_path)


def test_an_id_that_the_unreachable_hub_never_gave_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelNotFound, match="nobody/nothing was not downloaded before, and the Hugging Face hub cannot be reached"
    ):
        TokenizerUtils("nobody/nothing")
