"""A format of one's own, as `byoai import --format tests/chatterbot_yaml.py:pairs` takes one: the
YAML files of chatterbot-corpus.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml


def pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what opens each conversation, with the first answer to it."""
    for said in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
        if len(said) > 1 and all(isinstance(each, str) and each.strip() for each in said[:2]):
            yield said[0], said[1]
