"""Chat templates as Hugging Face and llama.cpp render them: Jinja, sandboxed, for the embedded engine.

A template is a program that came with a model: it gets no access beyond the messages (ImmutableSandboxedEnvironment).
"""

import datetime
import functools
import json
from collections.abc import Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fine_tuning.conversation import Message
from fine_tuning.errors import EngineError


def render_chat(template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
    """The prompt for the next answer to `messages`. EngineError says what the template does not like."""
    try:
        return _compile(template).render(
            messages=[message.model_dump() for message in messages],
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            enable_thinking=False,  # answers, not thoughts: as engines/ollama.py asks for
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise EngineError(
            f"the chat template refuses these messages ({', '.join(message.role for message in messages)}): {error}"
        ) from error


def check_template(template: str) -> None:
    """EngineError unless `template` is Jinja."""
    try:
        _compile(template)
    except jinja2.TemplateError as error:
        raise EngineError(f"not a Jinja template ({error}): the embedded engine takes no Go templates") from error


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    # The same settings as transformers.utils.chat_template_utils and llama.cpp's own.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes HTML


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)
