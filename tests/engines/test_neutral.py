"""What people type stays text. That engines do it too is in test_contract.py."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from gguf import TokenType
from hypothesis import given
from hypothesis import strategies as st
from timing import seconds
from tiny_gguf import write_spm_vocabulary

from fine_tuning.conversation import Message
from fine_tuning.engines.jinja import render_chat
from fine_tuning.engines.neutral import Neutraliser, neutralise, neutraliser_for, template_markers
from fine_tuning.engines.structure import structural_tokens
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import EngineError, EngineUnavailable

# Of many families, with overlaps, spaces, and one within another.
MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "### Instruction:",
    "USER:",
    "<think>",
    "</think>",
]
MARKERS += [
    "<tool_call>",
    "< s>",
    "<s",
    "ab",
    "bc",
    "\0",
    "<｜end▁of▁sentence｜>",
    " <x>",
    "<x>\n\n",
    "  ",
    "a b",
    "▁<PRE>",
    "[e~[",
    "<a><b>",
]
pieces = st.sampled_from(
    [
        *MARKERS,
        *(marker[:-1] for marker in MARKERS),
        *(marker[1:] for marker in MARKERS),
        " ",
        "▁",
        "\n",
        "<",
        "|",
        "a",
        "b",
    ]
)
typed = st.lists(pieces | st.text(max_size=2), max_size=10).map("".join)


def folded(text: str) -> str:
    return text.replace("▁", " ")


@given(typed)
def test_no_marker_is_left_and_a_second_time_changes_nothing(text: str) -> None:
    plain = neutralise(text, MARKERS)
    assert not [marker for marker in MARKERS if (core := folded(marker).strip()) and core in folded(plain)]
    assert neutralise(plain, MARKERS) == plain
    assert plain.replace(" ", "") == text.replace("\0", " ").replace(" ", "")  # it reads the same


@given(typed, typed)
def test_two_texts_side_by_side_make_no_tag_together(one: str, other: str) -> None:
    plain = neutralise(one, MARKERS).rstrip() + neutralise(other, MARKERS).lstrip()
    tags = [
        "<|im_start|>",
        "<|im_end|>",
        "</s>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<think>",
        "</think>",
        "<tool_call>",
        "<a><b>",
    ]
    assert not [tag for tag in tags if tag in plain]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("What does <|im_end|> do?", "What does < |im_end|> do?"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
        ("<<|im_end|>|im_end|>", "<< |im_end|>|im_end|>"),
        ("### Instruction:\nDo it", "### Instruction :\nDo it"),
        ("### Heading\nin the US", "### Heading\nin the US"),
        ("USER: hi", "USER : hi"),
        ("items[1] <b>bold</b> x < y > z", "items[1] <b>bold</b> x < y > z"),
        ("<｜end of sentence｜>", "< ｜end of sentence｜>"),
        ("<|im_", "< |im_"),
        ("", ""),
    ],
)
def test_a_text_still_reads_the_same(text: str, plain: str) -> None:
    assert neutralise(text, MARKERS) == plain


def test_a_chat_takes_far_less_than_a_millisecond_more_and_hostile_text_ends() -> None:
    neutral = Neutraliser([f"<|reserved_special_token_{n}|>" for n in range(10_000)])
    chat = [Message(role="user", content="How do I return <b>this</b> kettle [1]? " * 25)] * 4
    times = [
        (
            seconds(lambda: neutral.messages(chat)),
            seconds(lambda: [message.model_dump_json() for message in chat for _ in range(100)]),
        )
        for _ in range(30)
    ]
    assert statistics.median(ours for ours, _ in times) < statistics.median(theirs for _, theirs in times)
    assert len(neutral("<|reserved_special_token_" * 20_000)) >= 25 * 20_000


# Vocabularies

SPECIAL = [
    ("<unk>", TokenType.UNKNOWN),
    ("<s>", TokenType.CONTROL),
    ("</s>", TokenType.CONTROL),
    ("<tool_call>", TokenType.USER_DEFINED),
    ("</think>", TokenType.USER_DEFINED),
    ("[@BOS@]", TokenType.USER_DEFINED),
    ("<|end|>", TokenType.NORMAL),  # llama.cpp knows it by its name
    ("<b>", TokenType.USER_DEFINED),
    ("▁▁▁", TokenType.USER_DEFINED),
    ("\n\n", TokenType.USER_DEFINED),
    ("õ", TokenType.USER_DEFINED),
    ("kettle", TokenType.USER_DEFINED),
    ("<div", TokenType.NORMAL),
]
STRUCTURE = ["<unk>", "<s>", "</s>", "<tool_call>", "</think>", "[@BOS@]", "<|end|>"]


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary with tokens of every type."""
    path = tmp_path_factory.mktemp("spm") / "spm.gguf"
    pieces = [
        "▁",
        *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]/.,!?:<>|_@",
        "lo",
        "to",
        "ol",
        "tool",
        "tool_",
        "call",
        "<t",
        "l>",
    ]
    return write_spm_vocabulary(path, SPECIAL, pieces)


def test_structure_is_what_the_tokenizer_takes_for_it_and_not_words_and_white_space(spm: Path) -> None:
    assert structural_tokens(spm) == STRUCTURE
    assert set(Vocabulary(spm).control_tokens()) <= {*STRUCTURE}


def test_llama_cpps_own_control_tokens_are_all_structure(base_gguf: Path) -> None:
    assert set(Vocabulary(base_gguf).control_tokens()) <= set(structural_tokens(base_gguf))


def test_typed_text_never_becomes_a_structural_token_of_the_vocabulary(spm: Path) -> None:
    vocabulary, neutral = Vocabulary(spm), Neutraliser(structural_tokens(spm))
    ids = {vocabulary.encode(token)[-1] for token in STRUCTURE}
    fragments = [
        *STRUCTURE,
        *(token[1:] for token in STRUCTURE),
        *(token[:-1] for token in STRUCTURE),
        "▁",
        " ",
        "<",
        "tool",
        "|",
        "a",
    ]

    @given(st.lists(st.sampled_from(fragments), max_size=8).map("".join))
    def holds(text: str) -> None:
        assert not ids & set(vocabulary.encode(f"a{neutral(text)}a"))

    holds()
    assert ids & set(vocabulary.encode("a<tool_call>a", special=False))  # why: no option of the tokenizer does it


# Templates

INST = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} </s>"
    "{% else %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n### Response:\n"
    "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "tokens", "markers"),
    [
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
            ["<|im_start|>", "<|im_end|>"],
            [],
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
            [],
            ["<|im_end|>", "<|im_start|>"],
        ),
        (
            "{% for m in messages %}{{ '<|' + m.role + '|>' }}\n{{ m.content }}\n{% endfor %}",
            [],
            ["<|assistant|>", "<|system|>", "<|user|>"],
        ),
        (INST, ["<s>", "</s>"], ["<</SYS>>", "<<SYS>>", "[/INST]", "[INST]"]),
        (ALPACA, [], ["### Instruction:", "### Response:"]),
        (
            "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}",
            [],
            ["ASSISTANT:", "SYSTEM:", "USER:"],
        ),
        (
            "A chat. Be polite: yes.\n{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
            [],
            ["[assistant]", "[system]", "[user]"],
        ),
        (
            "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' }}Human: {{ m.content "
            "}}\n{% endfor %}",
            [],
            ["Human:"],
        ),
        (
            "{% for m in messages %}({{ m.role }}) {{ m.content }} {% endfor %}",
            [],
            ["(assistant)", "(system)", "(user)"],
        ),
        (
            "{% for m in messages %}**{{ m.role }}** {{ m.content }}\n{% endfor %}",
            [],
            ["**assistant**", "**system**", "**user**"],
        ),
        ("{{ messages[-1].content }}", [], []),
        ("{{ raise_exception('never') }}", [], []),
    ],
)
def test_what_a_template_writes_around_contents_is_found(template: str, tokens: list[str], markers: list[str]) -> None:
    render = partial(render_chat, template, bos_token="<s>", eos_token="</s>")
    assert template_markers(render, tokens) == markers
    neutral = neutraliser_for(tokens, render)
    assert all(marker not in neutral(f"x{marker}y") for marker in [*tokens, *markers])


def test_an_engine_that_is_down_is_not_taken_for_a_template_that_refuses() -> None:
    def down(messages: Sequence[Message]) -> str:
        raise EngineUnavailable("down")

    with pytest.raises(EngineUnavailable):
        template_markers(down, [])


def test_halves_of_characters_are_joined_or_replaced_in_one_place() -> None:
    message = Message(role="user", content="a\ud83d\ude00b\ud800c\udc00")
    assert message.content == "a😀b\ufffdc\ufffd"
    assert message.content.encode()
    assert Message(role="user", content="\ufeff\0").content == "\ufeff\0"


def test_a_file_that_is_none_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no")
    with pytest.raises(EngineError):
        structural_tokens(tmp_path / "x.gguf")
