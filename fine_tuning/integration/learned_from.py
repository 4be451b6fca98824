"""Find the turns from which a version probably learned an answer: the most similar turns in its training data.

`learned_from` finds these turns, which is fast. `with_likelihoods` computes, in a child process,
how likely each of their answers is for the base model and for the version. The larger the
difference, the more of an answer was learned, though perhaps from another turn.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.likeness import alike_among, count_taught, most_alike, newest_of
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ConfigError, ModelNotFound, TurnNotFound
from fine_tuning.integration.taught_elsewhere import taught_elsewhere
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.token_rows import ScoredRow

if TYPE_CHECKING:
    from fine_tuning.data_preparation.rows import ConversationTokenizer

SHOWN = 5  # turns
PATIENCE = 60.0  # seconds for computing likelihoods; those not known by then are left out
CONTEXT = 2048  # tokens of question and answer

_VERSION = re.compile(r"(?P<name>.+):v(?P<number>[1-9]\d{0,17})", re.ASCII)


@dataclass(frozen=True)
class Likelihood:
    """How likely an answer is for the base model and for the version: the mean log-probability (nats) of its tokens.

    The models read the question before the answer.
    """

    base: float
    version: float

    @property
    def times(self) -> float:
        """How many times more likely a token of the answer is for the version than for the base (geometric mean)."""
        return math.exp(min(self.version - self.base, 50.0))


@dataclass(frozen=True)
class Teacher:
    """A turn that the version was trained on, and that is similar to the answer."""

    turn: Turn  # in its current state
    likeness: float  # to the answer and its question, 0 to 1
    shared: tuple[str, ...]  # words of both, the rarest first
    likelihood: Likelihood | None = None  # None: not computed
    source: str = ""  # for a turn that was never in the log: `the shipped sample`, or a file's name

    @property
    def excluded(self) -> bool:
        """Whether the turn is excluded, so that the next version will not learn it."""
        return bool(self.turn.metadata.get("excluded"))


@dataclass(frozen=True)
class LearnedFrom:
    """An answer of a version, with the turns from which it was probably learned."""

    turn: Turn  # the answer
    version: Version
    teachers: tuple[Teacher, ...]  # the most similar first
    taught: int  # number of turns that taught the version
    gone: int  # those of them that are no longer in the log, nor in their sample or file
    excluded: int  # those of them that have been excluded since
    likelihood: Likelihood | None = None  # of the answer itself


def is_by_version(turn: Turn, prefix: str) -> bool:
    """Return whether a fine-tuned version may have given an answer: its model's name begins with `prefix`."""
    return str(turn.metadata.get("model", "")).startswith(prefix)


def newest_answer(log: ConversationLogger, prefix: str) -> str:
    """Return the id of the newest answer of a model whose tag begins with `prefix`.

    Raises TurnNotFound if there is none.
    """
    if (found := newest_of(log, prefix)) is None:
        raise TurnNotFound(
            "no answer in the log was given by a fine-tuned version: make one with `byoai retrain`, then ask it "
            "something"
        )
    return found


def learned_from(log: ConversationLogger, registry: Registry, turn_id: str, limit: int = SHOWN) -> LearnedFrom:
    """Return the turns that a version was trained on and that are most similar to an answer that it gave.

    `turn_id` is the id of the turn with the answer, `limit` the maximum number of turns. Raises
    TurnNotFound if there is no such turn, and ConfigError if no version gave the answer, or the
    version's training data are unknown.
    """
    turn = next(iter(log.index.turns([turn_id])), None)
    if turn is None:
        raise TurnNotFound(f"there is no turn {turn_id[:100]!r}: `byoai find WORD` searches the log and shows the ids")
    version = version_of(turn, registry)
    taught, there, excluded = count_taught(log, (version.name, version.number))
    if not taught:
        raise ConfigError(
            f"it is not known which turns {version.tag} learned, because byoai did not make it here: choose another "
            "version"
        )
    alike = most_alike(log, turn, (version.name, version.number), limit)
    teachers = [Teacher(each.turn, each.likeness, each.shared) for each in alike]
    beside = {each.turn.id: each for each in taught_elsewhere(log, registry, version)}
    alike = alike_among(turn, [each.turn for each in beside.values()], limit)
    teachers += [Teacher(each.turn, each.likeness, each.shared, source=beside[each.turn.id].source) for each in alike]
    best = tuple(sorted(teachers, key=lambda each: -each.likeness)[:limit])
    return LearnedFrom(turn, version, best, taught, taught - there - len(beside), excluded)


def version_of(turn: Turn, registry: Registry) -> Version:
    """Return the version that gave an answer; if the log only names the tag `latest`, the version in use now.

    Raises ConfigError if the answer is not by a version, or that version is no longer known.
    """
    model = str(turn.metadata.get("model", ""))
    name, _, last = model.rpartition(":")
    live = registry.live(name) if last == "latest" else None
    if live:
        return live
    try:
        found = _VERSION.fullmatch(model)
        if found:
            return registry.get(found["name"], int(found["number"]))
    except ModelNotFound as error:
        raise ConfigError(
            f"the answer is by {model}, and it is no longer known which turns that version learned: choose another "
            "answer"
        ) from error
    who = f"by {model}, which was not fine-tuned here" if model else "by a model that the log does not name"
    raise ConfigError(
        f"the answer of the turn {turn.id} is {who}: choose an answer of a fine-tuned version, since only versions "
        "learn from your turns"
    )


# How likely


def with_likelihoods(found: LearnedFrom, engine: Engine, patience: float = PATIENCE) -> LearnedFrom:
    """Return `found` with the likelihood of each answer for the base model and for the version.

    Likelihoods that are not computed within `patience` seconds are None. Raises EngineError if a
    model cannot be loaded, and ConfigError if one of the two no longer exists.
    """
    base, version = found.version.base_tag, found.version.tag
    try:
        rows = _rows(engine, base, [found.turn, *(teacher.turn for teacher in found.teachers)])
        until = time.monotonic() + patience
        by_base, by_version = (_logprobs(engine, tag, rows, until) for tag in (base, version))
    except ModelNotFound as error:
        raise ConfigError(f"{version} can no longer be compared with its base {base}: {error}") from error
    known = {id: Likelihood(by_base[id], by_version[id]) for id in by_base.keys() & by_version.keys()}
    teachers = tuple(replace(teacher, likelihood=known.get(teacher.turn.id)) for teacher in found.teachers)
    return replace(found, teachers=teachers, likelihood=known.get(found.turn.id))


def _rows(engine: Engine, base: str, turns: Sequence[Turn]) -> dict[str, ScoredRow]:
    """Return the tokens of each turn's question and answer, by the turn's id. Turns that are too long are left out."""
    from fine_tuning.data_preparation.rows import ConversationTokenizer
    from fine_tuning.engines.vocabulary import Vocabulary

    tokenizer = ConversationTokenizer(partial(engine.render, base), Vocabulary(engine.show(base).gguf), CONTEXT)
    made = ((turn.id, _row(tokenizer, turn)) for turn in turns)
    return {id: row for id, row in made if row}


def _row(tokenizer: "ConversationTokenizer", turn: Turn) -> ScoredRow | None:
    """Return the tokens of a turn's question and answer; None if there are too many, or the answer is empty."""
    found = tokenizer.last_answer(turn.messages()) if turn.bot_response.strip() else None
    if found is None:
        return None
    prompt, answer = found
    return prompt + answer, list(range(len(prompt), len(prompt) + len(answer)))


def _logprobs(engine: Engine, tag: str, rows: dict[str, ScoredRow], until: float) -> dict[str, float]:
    """Return the mean log-probability (nats) of each answer's tokens, by turn id.

    Those that are not computed by the time `until` are missing.
    """
    from fine_tuning.evaluation.served_model import ServedModel

    if not rows:
        return {}
    details, found = engine.show(tag), dict[str, float]()
    context = max(512, *(len(tokens) + 1 for tokens, _ in rows.values()))
    with ServedModel(details.gguf, details.spec.adapter, context) as model:
        for id, score in zip(rows, model.scores(list(rows.values())), strict=False):
            found[id] = score.logprob / score.tokens
            if time.monotonic() > until:
                break
    return found


# For people


def told(likelihood: Likelihood) -> str:
    """Return how a version's likelihood compares with the base's, such as "12 times likelier than the base does".

    The text completes a sentence that begins with "the version finds this answer".
    """
    times = likelihood.times
    if times >= 1.15:
        return f"{_count(times)} times likelier than the base does"
    return (
        "about as likely as the base does"
        if times > 0.87
        else f"{_count(1 / times)} times less likely than the base does"
    )


def _count(times: float) -> str:
    return f"{times:.1f}" if times < 10 else f"{times:,.0f}" if times < 1e6 else "over a million"
