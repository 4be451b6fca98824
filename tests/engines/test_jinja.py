from pathlib import Path

import pytest

from fine_tuning.conversation import Message
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.jinja import check_template, render_chat
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
    with pytest.raises(EngineError, match=r"refuses these messages \(user, assistant, user\): roles must alternate"):
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
    with pytest.raises(EngineError, match="takes no Go templates"):
        check_template("{{- range .Messages }}<|im_start|>{{ .Role }}{{ end }}")
