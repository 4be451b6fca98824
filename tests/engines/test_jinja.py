import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fine_tuning.conversation import Message
from fine_tuning.engines import jinja
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.jinja import check_template, render_chat, render_chats
from fine_tuning.errors import EngineError

TALK = [
    Message(role="user", content="Hi & <b>\n{{ x }} 🐈"),
    Message(role="assistant", content="Hello!"),
    Message(role="user", content="And?"),
]


def _render(template: str, messages: list[Message] = TALK) -> str:
    return render_chat(template, messages, bos_token="<s>", eos_token="</s>")


def test_a_models_own_template_renders_as_llama_cpp_python_renders_it(base_gguf: Path) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = read_header(base_gguf).chat_template
    assert template is not None
    theirs = Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>")
    for messages in (TALK[:1], TALK, [Message(role="system", content="Be kind."), *TALK]):
        assert _render(template, messages) == theirs(messages=[message.model_dump() for message in messages]).prompt  # type: ignore[arg-type]


def test_what_templates_of_the_wild_use_is_there() -> None:
    template = """{{ bos_token }}{% for m in messages %}
    {% if m.role == 'assistant' %}{% continue %}{% endif %}
[{{ m.role }}] {{ m.content | tojson }}{{ eos_token }}
{% endfor %}
{% if tools is none and not enable_thinking %}{{ strftime_now('%Y')[:1] }}{% endif %}"""
    assert _render(template) == '<s>[user] "Hi & <b>\\n{{ x }} 🐈"</s>\n[user] "And?"</s>\n2'


def test_a_template_may_refuse_messages_and_the_error_says_so() -> None:
    with pytest.raises(
        EngineError, match=r"does not accept these messages \(user, assistant, user\): roles must alternate"
    ):
        _render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_reach_beyond_its_messages(template: str) -> None:
    with pytest.raises(EngineError):
        _render(template)


def test_a_go_template_is_refused() -> None:
    with pytest.raises(EngineError, match="supports no Go templates"):
        check_template("{{- range .Messages }}<|im_start|>{{ .Role }}{{ end }}")


# What transformers' own environment has


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{%- generation -%} {{ messages[0].content }} {%- endgeneration -%}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}",
        "{{ messages | tojson(ensure_ascii=False) }}",
        "{{ messages | tojson(ensure_ascii=True) }}",
        "{{ messages[0] | tojson(indent=2, sort_keys=True) }}{{ messages | tojson(separators=(',', ':')) }}",
        "{{ dict(a=1, b=2) | tojson }}{{ dict.fromkeys(['a'], 1) }}",
        "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = m.role %}{% endfor %}{{ "
        "ns.found }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
        "{% for m in messages %}\n  {% if true %}\n  {{ m.role }}\n  {% endif %}\n{% endfor %}",
        "{{ documents is none }}{{ tools is none }}{{ nothing is defined }}{{ add_generation_prompt }}",
        "{% macro say(m) %}{{ caller() }}{{ m.role }}{% endmacro %}{% call say(messages[0]) %}x{% endcall %}",
        "{{ messages | map(attribute='role') | join(',') }}{{ messages[::-1][0].content.strip().title() }}",
    ],
)
def test_a_template_renders_as_transformers_renders_it(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    (theirs,), _ = render_jinja_template(
        [[message.model_dump() for message in TALK]], chat_template=template, add_generation_prompt=True
    )
    assert _render(template) == theirs


# What a template may do wrong

GROW = "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages | length % 0 }}", "modulo"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("{{ 'a' * 10 ** 9 }}", "MemoryError"),
        ("{{ ('a' * 10 ** 9) | length }}", "MemoryError"),
        ("{{ 'a'.center(10 ** 10) }}", "MemoryError"),
        (GROW, "MemoryError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages[0].content.encode('none') }}", "unknown encoding"),
        ("{% set ns = namespace(_x=1) %}", "cannot hold '_x'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "cannot hold '_x'"),
        ("{{ strftime_now(5) }}", "TypeError"),
        ("{% for %}", "unknown tag|expected"),
        ("{% generation %}", "endgeneration|Unexpected end"),
    ],
)
def test_what_a_template_does_wrong_is_an_engine_error(template: str, said: str) -> None:
    with pytest.raises(
        EngineError, match=rf"(?is)the chat template does not accept these messages \(user, assistant, user\).*({said})"
    ):
        _render(template)
    assert _render("{{ messages[0].role }}") == "user"


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [ENDLESS, "{{ 7 ** (7 ** 11) }}", "{% set x = 3 ** 9999999 %}{{ x ** 99 }}"])
def test_a_template_that_does_not_end_is_an_engine_error_and_the_next_is_rendered(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jinja, "TIME_LIMIT", 0.5)
    with pytest.raises(EngineError, match=r"took more than 0\.5 seconds|MemoryError"):
        _render(template)
    monkeypatch.setattr(jinja, "TIME_LIMIT", 5.0)
    assert _render("{{ messages[0].role }}") == "user"


def test_check_template_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "TIME_LIMIT", 0.5)  # constants are computed when a template is compiled
    with pytest.raises(EngineError):
        check_template("{{ 7 ** (7 ** 11) }}")


def test_threads_get_the_answers_to_their_own_questions() -> None:
    with ThreadPoolExecutor(8) as pool:
        said = list(
            pool.map(lambda n: _render("{{ messages[0].content }}", [Message(role="user", content=str(n))]), range(200))
        )
    assert said == list(map(str, range(200)))


def test_a_child_that_was_killed_is_started_again() -> None:
    _render("x")
    child = jinja._renderer(os.getpid())._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert _render("x") == "x"


def _render_many(name: str) -> bool:
    return all(
        _render("{{ messages[0].content }}", [Message(role="user", content=f"{name} {n}")]) == f"{name} {n}"
        for n in range(50)
    )


def test_a_fork_has_a_child_of_its_own() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_jinja import "
        "fork_and_render; fork_and_render()"
    )
    # In a process of its own: a fork of one with other threads may come to a stand.
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def fork_and_render() -> None:
    _render("x")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        there = pool.map_async(_render_many, ["a", "b", "c"])
        assert _render_many("here")
        assert there.get(60) == [True] * 3


def test_half_a_character_in_a_template_is_replaced() -> None:
    assert _render("{{ '\\ud83d' }}|{{ '\\ud83d\\ude00' }}") == "\ufffd|😀"


def test_many_chats_are_rendered_as_one_by_one() -> None:
    template = "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
    chats = [
        [Message(role="user", content=f"Hi {number} 🐈"), *TALK][:length] for number in range(9) for length in (1, 2, 3)
    ]
    assert render_chats(template, chats, bos_token="<s>", eos_token="") == [
        render_chat(template, messages, bos_token="<s>", eos_token="") for messages in chats
    ]


def test_the_first_of_many_chats_that_a_template_refuses_is_the_error() -> None:
    template = "{% if messages[0].content != 'ok' %}{{ raise_exception(messages[0].content) }}{% endif %}"
    chats = [[Message(role="user", content=content)] for content in ("ok", "first", "second")]
    with pytest.raises(EngineError, match="first"):
        render_chats(template, chats, bos_token="", eos_token="")


def test_many_chats_of_which_one_never_ends_are_rendered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "TIME_LIMIT", 1.0)
    template = "{% if messages[0].content == 'loop' %}" + ENDLESS + "{% endif %}x"
    chats = [[Message(role="user", content=content)] for content in ("a", "b", "loop")]
    with pytest.raises(EngineError, match="took more than"):
        render_chats(template, chats, bos_token="", eos_token="")
    assert render_chats(template, chats[:2], bos_token="", eos_token="") == ["x", "x"]
