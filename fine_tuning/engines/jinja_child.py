"""Render chat templates in a separate process, since a template is a program that may loop, grow or crash.

jinja.py runs this script. Each line of input is a request in JSON, each line of output the answer to it:

    {"template": "...", "variables": {...}}   ->   {"text": "..."}, {"syntax": "syntax error"} or {"refused": "template's error"}
    {"template": "..."}                       ->   {"text": ""} if it can be compiled
    {"template": "...", "many": [{...}, ...]} ->   {"many": [...]}: the answer for each of these variables

The Jinja environment is the same as in transformers.utils.chat_template_utils, on which published
templates rely. This script imports nothing of byoai, so that the process starts in a tenth of a second.
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
_SECONDS = 60  # seconds of one request after which this process ends itself, in case its parent has died


class _Generation(jinja2.ext.Extension):
    """Support for the Jinja tag `{% generation %}…{% endgeneration %}`.

    Templates mark the assistant's text with it for trainers. The rendered text does not change.
    """

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], object]) -> str:
        return str(caller())


class _Dict:
    """The `dict` that templates get, without access to the attributes of Python's type."""

    def __call__(self, *items: object, **more: object) -> object:
        return dict(*items, **more)

    def fromkeys(self, keys: Iterable[object], value: object = None) -> dict[object, object]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which would give access to Python."""

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
        raise jinja2.exceptions.SecurityError(
            f"the template's namespace cannot hold {name!r}: names must not begin with an underscore"
        )


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML and lacks these arguments.
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


def answer(request: dict[str, object]) -> dict[str, object]:
    """Return the answer to one request (see the module's docstring).

    The template is rendered, or only compiled if the request has no variables.
    """
    many = request.get("many")
    if isinstance(many, list):
        return {"many": [answer({"template": request["template"], "variables": each}) for each in many]}
    try:
        template = _compile(request["template"])
        return {"text": template.render(request["variables"]) if "variables" in request else ""}
    except jinja2.TemplateSyntaxError as error:
        return {"syntax": str(error)}
    except jinja2.TemplateError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001
        # A template is foreign code that may raise any error.
        return {"refused": f"{type(error).__name__}: {error}".removesuffix(": ")}


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # on Windows and macOS only the parent's time limit applies
        pass


def _end_after(seconds: int) -> None:
    """Make the system end this process in `seconds` seconds; 0 cancels it. Has no effect on Windows."""
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
