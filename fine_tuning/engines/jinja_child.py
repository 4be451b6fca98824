"""Renders chat templates, in a process of its own.

A template is a program that came with a model, and may loop, grow or crash.

Run by jinja.py. A line in is a request, a line out its answer, both JSON:

    {"template": "...", "variables": {...}}   ->   {"text": "..."}, {"syntax": "why it is no template"} or {"refused": "why not this"}
    {"template": "..."}                       ->   {"text": ""}: it can be compiled

The environment is that of transformers.utils.chat_template_utils, on which templates in the wild
rely. Nothing of byoai is imported, so that it starts in a tenth of a second.
"""  # noqa: E501

import datetime
import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_MEMORY = 1 << 29  # bytes of address space
_SECONDS = 60  # until this process ends itself, if nobody is left to end it


class _Generation(jinja2.ext.Extension):
    """Jinja's `{% generation %}…{% endgeneration %}`.

    It marks for trainers what the assistant says; the text is the same without.
    """

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], object]) -> str:
        return str(caller())


class _Dict:
    """A `dict` without the attributes of the type."""

    def __call__(self, *items: object, **more: object) -> object:
        return dict(*items, **more)

    def fromkeys(self, keys: Iterable[object], value: object = None) -> dict[object, object]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """No names with an underscore first: they would reach into Python."""

    def __init__(self, *items: object, **more: object) -> None:
        values = dict(*items, **more)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, and takes none of these.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": _Dict(), "namespace": _Namespace}
    return environment.from_string(template)


def answer(request: dict[str, object]) -> dict[str, str]:
    """Return the answer to one request."""
    try:
        template = _compile(request["template"])
        return {"text": template.render(request["variables"]) if "variables" in request else ""}
    except jinja2.TemplateSyntaxError as error:
        return {"syntax": str(error)}
    except jinja2.TemplateError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001
        # A template is foreign code: it may divide by zero, recurse, or fill the memory.
        return {"refused": f"{type(error).__name__}: {error}".removesuffix(": ")}


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # Windows, macOS: the time limit of the one who asks must do
        pass


def _end_after(seconds: int) -> None:
    """End this process after `seconds` from now; 0: never."""
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def main() -> None:
    _limit_memory()
    _say("")  # ready
    for line in sys.stdin:
        _end_after(_SECONDS)
        _say(json.dumps(answer(json.loads(line))))
        _end_after(0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
