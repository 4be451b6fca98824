"""Render the API's own HTML pages: the log-in, and the light page, a small page to start and watch trainings.

The pages have no build step, and load nothing from other servers.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

UI = Path(__file__).with_name("ui")


def login_page(told: str = "") -> str:
    return render("login.html.jinja", told=told)


def render(template: str, **values: object) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(UI), autoescape=True)
