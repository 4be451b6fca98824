"""Real renderings for the rows: the template inside SmolLM2's GGUF, and templates that other
families use, in SmolLM2's vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from gguf import TokenType
from tiny_gguf import write_spm_vocabulary

from fine_tuning.data_preparation.rows import Render
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.jinja import render_chat
from fine_tuning.engines.vocabulary import Vocabulary

# White space around the answers, and the begin token at every exchange, as Llama 2 has them.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} <|im_end|>{% else %}<<SYS>>{{ m.content "
    "}}<</SYS>>{% endif %}{% endfor %}"
)
# Earlier answers lose their thinking, as with Qwen 3 and DeepSeek R1.
THINK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip() }}{% else %}{{ m.content }}{% "
    "endif %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>{% else %}SYS {{ m.content }}{% endif %}{% endfor %}"
)
# No end of turn anywhere, as old instruction templates.
BARE = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n### Response:\n"
    "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
)
# The prompt ends in a space, which belongs to the answer's first token once the answer is there.
SPACE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT: "
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


def jinja(template: str) -> Render:
    return partial(render_chat, template, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def vocabulary(base_gguf: Path) -> Vocabulary:
    return Vocabulary(base_gguf)


@dataclass(frozen=True)
class Served:
    """A model as an engine serves it: its rendering and its vocabulary."""

    name: str
    render: Render
    vocabulary: Vocabulary


@pytest.fixture(scope="session")
def all_served(vocabulary: Vocabulary, spm_vocabulary: Vocabulary) -> dict[str, Served]:
    templates = {
        "chatml": read_header(vocabulary.path).chat_template,
        "inst": INST,
        "think": THINK,
        "bare": BARE,
        "space": SPACE,
    }
    served = {name: Served(name, jinja(template), vocabulary) for name, template in templates.items()}
    return served | {"llama2": Served("llama2", jinja(LLAMA2), spm_vocabulary)}


@pytest.fixture(scope="session", params=["chatml", "inst", "think", "bare", "space", "llama2"])
def served(request: pytest.FixtureRequest, all_served: dict[str, Served]) -> Served:
    return all_served[request.param]


@pytest.fixture(scope="session")
def spm_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """A small SentencePiece vocabulary that wants a begin token and a space before the text, as Llama 2 does."""
    path = tmp_path_factory.mktemp("spm") / "spm.gguf"
    pieces = [
        "▁",
        *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]/.,!?:",
        "lo",
        "he",
        "▁he",
        "llo",
        "hello",
        "▁hello",
    ]
    special = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    return Vocabulary(write_spm_vocabulary(path, special, pieces, like_llama2=True))
