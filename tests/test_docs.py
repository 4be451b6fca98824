"""README, guides and messages: links lead somewhere, commands can be typed, settings exist."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import fine_tuning
from fine_tuning.cli.main import parser
from fine_tuning.config import load_config, read_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"./scripts/start.sh": "chat", "./scripts/retrain.sh": "retrain"}
GONE = {"training.frozen_layers"}  # settings that the changelog names as removed

a_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def typed(text: str) -> list[list[str]]:
    """Return the arguments of every `byoai` command in a page's blocks and tables."""
    found = []
    for program, line in re.findall(
        r"(?m)(?:^|`)(byoai|\.venv/bin/byoai|\./scripts/(?:start|retrain)\.sh) ([^`\n]*)", text
    ):
        words = [SCRIPTS[program], line] if program in SCRIPTS else line.split(maxsplit=1)
        if words[0] in known():  # else it is a sentence that begins with the program's name
            arguments = shlex.split(re.sub(r"(^|\s)#.*", "", " ".join(words)))
            arguments = arguments[: arguments.index("|")] if "|" in arguments else arguments
            found.append(["1" if argument == "N" else argument for argument in arguments])
    return found


def known() -> set[str]:
    return {name for action in parser()._actions if isinstance(action.choices, dict) for name in action.choices}


@a_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@a_page
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@a_page
def test_commands_can_be_typed_as_they_stand(page: Path) -> None:
    for arguments in typed(page.read_text(encoding="utf-8")):
        options = parser().parse_args(arguments)
        load_config(overrides=read_settings(options.set))


def test_commands_are_found_in_the_pages() -> None:
    assert sum(len(typed(page.read_text(encoding="utf-8"))) for page in PAGES) > 40
    assert typed("`byoai use N` and\nbyoai retrain --set 'a.b=[\"x\"]'  # why\n") == [
        ["use", "1"],
        ["retrain", "--set", 'a.b=["x"]'],
    ]


def messages() -> Iterator[str]:
    """Yield every text in the program, with 1 in place of each value that is filled in."""
    for file in [*(ROOT / "fine_tuning").rglob("*.py"), *(ROOT / "chatbot").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
            yield "".join(str(piece.value) if isinstance(piece, ast.Constant) else "1" for piece in pieces)


def test_commands_that_messages_advise_can_be_typed_as_they_stand() -> None:
    advised = {command for text in messages() for command in re.findall(r"`byoai ([a-z-]+ [^`]+)`", text)}
    assert len(advised) > 10
    for command in sorted(advised):
        if command.split()[0] in known() and "--help" not in command:
            parser().parse_args(shlex.split(command))


@a_page
def test_settings_exist(page: Path) -> None:
    sections = load_config().model_dump()
    for name in re.findall(rf"`((?:{'|'.join(sections)})(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8")):
        place = sections
        for part in () if name in GONE else name.split("."):
            assert part in place, f"{page.name} names {name}"
            place = place[part]


def test_the_layers_are_told_alike_in_both_places() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")
    assert " ".join(str(fine_tuning.__doc__).split("\n\n")[2].split()) in [" ".join(block.split()) for block in told]


def test_each_command_has_its_line_in_the_list_as_its_help_says() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    told = {choice.dest: choice.help for choice in commands._choices_actions}
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"(?m)^\| `([a-z-]+)` \| (.*) \|$", page)) == told
