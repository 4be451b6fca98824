"""Read the marks by which a file tells which answers are trained on, and which are only context for later ones."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fine_tuning.json_values import JsonObject, parse_json

# keys by which a message tells whether it is trained on: "weight" in the files of OpenAI, Mistral and Together,
# "train" and "training" in axolotl's, "loss" in ms-swift's and XTuner's, "loss_weight" in LLaMA-Factory's,
# "trainable" in Tinker's
_TRAINED = ("weight", "train", "training", "loss", "loss_weight", "trainable")
_MARKS = frozenset((*_TRAINED, "train_detail"))
_NEVER = frozenset(("0", "0.0", "false"))  # the values, as a table may hold them


def is_learned(role: str | None, message: Mapping[Any, Any]) -> bool:
    """Return whether a message may be trained on: False for an answer that is marked as context, in whole or in part.

    Of an answer, axolotl's "train_detail" may mark parts.
    """
    if role != "assistant" or _MARKS.isdisjoint(message):
        return True
    parts = message.get("train_detail")
    spans = [each for each in parts if isinstance(each, Mapping)] if isinstance(parts, list) else []
    told = [each.get(key) for each in (message, *spans) for key in _TRAINED]
    return not any(value is not None and str(value).strip().lower() in _NEVER for value in told)


def answers_learned(record: Mapping[Any, Any]) -> list[bool]:
    """Return whether each answer of a record may be trained on, as its list `weights` says; [] if it has none.

    The last one is that of the record's own answer, those before it are of the answers in its history.
    """
    weights = record.get("weights")
    if isinstance(weights, str) and weights.startswith("["):  # a cell of a table
        weights = [text for each in weights.strip("[] ").split(",") if (text := each.strip(" '\""))]
    return [is_learned("assistant", {"weight": each}) for each in weights] if isinstance(weights, list | tuple) else []


def own_facts(record: Mapping[Any, Any]) -> JsonObject:
    """Return the metadata of a turn that byoai exported, without nulls, and with 0 or 1 as `weight`.

    It is an object, or in Parquet its JSON; a table has some of it in columns.
    """
    facts = record.get("metadata")
    if isinstance(facts, str):
        with suppress(ValueError):
            facts = parse_json(facts)
    told = {key: record.get(key) for key in ("model", "rating", "weight", "incomplete")}
    found = {**told, **(facts if isinstance(facts, dict) else {})}
    known = {key: value for key, value in found.items() if value is not None}
    return {**known, "weight": int(is_learned("assistant", known))}
