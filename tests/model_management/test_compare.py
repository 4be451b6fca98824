"""The same question to several models: by what people call them, streamed, in turn; blind, with a
vote. On both engines.
"""

import io
import random
import re
from pathlib import Path

import pytest
from served import BASE, make_version

from fine_tuning.cli import prompts
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine
from fine_tuning.errors import ModelNotFound
from fine_tuning.model_management.compare import chosen_tags, side_by_side
from fine_tuning.model_management.elo import ratings
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry

SHORT = ChatOptions(temperature=0, max_tokens=8)


def test_models_are_named_as_people_name_them(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    assert chosen_tags(engine, registry, name, BASE) == [BASE]
    for number in (1, 2):
        make_version(engine, registry, name, home)
        go_live(engine, registry, name, number)
    assert chosen_tags(engine, registry, name, BASE) == [BASE, f"{name}:v2"]
    assert chosen_tags(engine, registry, name, BASE, ["v1", " live", "2", "base", name]) == [
        f"{name}:v1",
        f"{name}:v2",
        BASE,
        f"{name}:latest",
    ]
    with pytest.raises(ModelNotFound, match='has no model v9, nosuch: choose "base"'):
        chosen_tags(engine, registry, name, BASE, ["base", "v9", "nosuch"])


def test_the_answers_are_streamed_model_after_model(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    tags = [BASE, make_version(engine, registry, name, home).tag]
    pieces = list(side_by_side(engine, tags, [Message(role="user", content="Name one colour.")], SHORT))
    assert [tag for tag, chunk in pieces if chunk.done] == tags
    assert [tag for tag, _ in pieces] == sorted((tag for tag, _ in pieces), key=tags.index)
    texts = ["".join(chunk.text for of, chunk in pieces if of == tag) for tag in tags]
    assert len(pieces) > 4 and texts[0].strip() and texts[0] == texts[1]  # an adapter of scale 0 changes nothing


def test_a_blind_vote_names_the_models_afterwards_and_becomes_their_rating(
    engine: Engine,
    name: str,
    registry: Registry,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tags = [BASE, make_version(engine, registry, name, home).tag]
    monkeypatch.setattr("sys.stdin", io.StringIO("what\nb\nq\n"))
    prompts.compare_blind(engine, tags, ["Name one colour.", "Hello!", "Bye!"], SHORT, random.Random(0))
    said = capsys.readouterr().out
    shown, revealed = said.split("Which is better?", 1)
    assert not any(tag in shown for tag in tags)
    found = re.search(r"A was (\S+) \(Elo 984\), B was (\S+) \(Elo 1016\)", revealed)
    assert found and set(found.groups()) == set(tags)
    assert ratings() == {found[1]: (984.0, 1), found[2]: (1016.0, 1)}
    assert "Hello!" in said and "Bye!" not in said
