"""Ask several models the same question, for a side-by-side comparison."""

import re
from collections.abc import Iterator, Sequence

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ChatOptions, Engine
from fine_tuning.errors import ModelNotFound
from fine_tuning.model_management.model_registry import Registry, version_tag


def side_by_side(
    engine: Engine, tags: Sequence[str], messages: Sequence[Message], options: ChatOptions | None = None
) -> Iterator[tuple[str, ChatChunk]]:
    """Ask each of the models in `tags` for an answer; yield (tag, piece of the answer) as the pieces arrive.

    The models answer one after another, since they would slow each other down if they ran together.
    Closing the iterator stops the generation. Raises EngineError if the engine fails.
    """
    for tag in tags:
        for chunk in engine.chat(tag, messages, options):
            yield tag, chunk


def chosen_tags(engine: Engine, registry: Registry, name: str, base: str, wanted: Sequence[str] = ()) -> list[str]:
    """Return the tags of the models that `wanted` names, without repetitions.

    A model is named by "base", "live", a version number ("v3" or "3"), or its tag. If `wanted` is
    empty, the base and the live version are chosen. `name` is the fine-tuned model, `base` the tag
    of its base. Raises ModelNotFound if the engine lacks one of the models.
    """
    live = registry.live(name)
    if not wanted:
        wanted = ["base", "live"] if live else ["base"]
    there = [model.tag for model in engine.list_models()]
    tags = [_tag(each.strip(), name, base, live.tag if live else "", there) for each in wanted]
    if missing := [given for given, tag in zip(wanted, tags, strict=True) if tag not in there]:
        known = ", ".join(there) or "none"
        raise ModelNotFound(
            f'{engine.name} has no model {", ".join(missing)}: choose "base", "live", a version such as "v3", or '
            f"one of its models ({known})"
        )
    return list(dict.fromkeys(tags))


def _tag(given: str, name: str, base: str, live: str, there: Sequence[str]) -> str:
    if given in ("base", "live"):
        return base if given == "base" else live
    if number := re.fullmatch(r"v?([0-9]{1,18})", given):
        return version_tag(name, int(number[1]))
    return given if given in there else f"{given}:latest"
