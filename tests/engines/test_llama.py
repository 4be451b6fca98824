"""What runs in llama.cpp's child process, called here directly."""

import re
from pathlib import Path

import pytest
from gguf import TokenType
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import write_spm_vocabulary

from fine_tuning.engines.llama import Chat, Words

# Control and user-defined tokens that contain one another, overlap, or consist of white space.
SPECIAL = [
    ("<unk>", TokenType.UNKNOWN),
    ("<s>", TokenType.CONTROL),
    ("</s>", TokenType.CONTROL),
    ("<|end|>", TokenType.CONTROL),
    ("<|end|>\n", TokenType.CONTROL),
    ("[INST]", TokenType.CONTROL),
    ("[/INST]", TokenType.CONTROL),
    ("]x", TokenType.USER_DEFINED),
    ("ab|", TokenType.CONTROL),
    ("|ba", TokenType.CONTROL),
    ("  ", TokenType.USER_DEFINED),
    ("<tool>", TokenType.USER_DEFINED),
]
PIECES = ["▁", *"abx[]<>/|", "ab", "▁a", "▁ab", "end"]
TYPED = ["a", "b", "ab", " ", "  ", "\n", "x", "|", "<", ">", "]", "[", "<|", "end", "ß", "漢"]


@pytest.fixture(scope="module", params=["bpe", "spm", "llama2"])
def words(request: pytest.FixtureRequest, base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Words:
    if request.param == "bpe":
        return Words(str(base_gguf))
    file = tmp_path_factory.mktemp("vocabulary") / "spm.gguf"
    return Words(str(write_spm_vocabulary(file, SPECIAL, PIECES, like_llama2=request.param == "llama2")))


def test_texts_that_begin_alike_are_tokenized_as_if_each_were_alone(words: Words) -> None:
    marks = [mark for mark, _ in SPECIAL] + [mark for _, mark in words.control_tokens()]

    @given(st.lists(st.sampled_from(marks + TYPED * 2), max_size=14), st.integers(0, 14))
    def holds(parts: list[str], shared: int) -> None:
        for text in ("".join(parts[:shared]), "".join(parts), "".join(parts[shared:]), "".join(parts)):
            assert words.encode(text, True, False) == words._tokens(text, True, False)

    holds()


def test_only_tokens_that_no_other_can_overlap_cut_a_text(tmp_path: Path) -> None:
    words = Words(str(write_spm_vocabulary(tmp_path / "spm.gguf", SPECIAL, PIECES)))
    cuts = words._cuts
    assert all(cuts.fullmatch(mark) for mark in ("<s>", "</s>", "<|end|>\n"))
    assert not any(cuts.fullmatch(mark) for mark in ("<|end|>", "[INST]", "[/INST]", "ab|", "|ba", "  ", "<tool>"))


def test_a_text_shares_with_the_one_before_what_it_begins_with(base_gguf: Path) -> None:
    words, prompt = Words(str(base_gguf)), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    tokenized: list[str] = []
    whole = words._tokens
    words._tokens = lambda text, *rest: tokenized.append(text) or whole(text, *rest)  # type: ignore[method-assign]
    words.encode(prompt, True, False)
    words.encode(f"{prompt}Hi!", True, False)
    assert tokenized[len(re.findall("<", prompt)) :] == ["<|im_start|>assistant\nHi!"]
    words.encode("", True, False)
    assert not words._last


def test_a_model_that_answers_keeps_nothing_of_what_was_said(base_gguf: Path) -> None:
    chat = Chat(str(base_gguf), None, 64, 1)
    assert chat.encode("<|im_start|>secret<|im_end|>", True, False) == Words(str(base_gguf)).encode(
        "<|im_start|>secret<|im_end|>", True, False
    )
    assert not chat._last
