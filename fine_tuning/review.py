"""Choose the answers most worth reviewing: those whose rating or edit helps the next training most.

These are the answers about which the model is most uncertain (uncertainty sampling: Lewis and Gale
1994). The measure is how unlikely the answer is under the live model, plus the difference from how
unlikely it is under the base. Of several similar answers only one is chosen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from fine_tuning.branches import on_chosen_paths, system_of
from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Message, Turn, approved, conversations_of, only_context
from fine_tuning.data_collection.cleaning.dedupe import group_near_duplicates
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.engines.base import Engine
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.evaluation.served_model import ServedModel
from fine_tuning.events import Watch
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.token_rows import ScoredRow
from fine_tuning.workshop import base_of

CONTEXT = 2048  # maximum tokens of a conversation; if it is longer, only the turn itself is used
NEWEST = 200  # number of newest turns considered, since each costs a forward pass through both models


@dataclass(frozen=True)
class Candidate:
    """A turn that the user could review, and how uncertain the model is about its answer."""

    turn: Turn
    surprise: float  # mean negative log-likelihood of the answer under the live model, in nats per token
    shift: float  # absolute difference of `surprise` from its value under the base; 0 if no version is live
    alike: tuple[str, ...]  # ids of near-duplicate turns

    @property
    def worth(self) -> float:
        return self.surprise + self.shift


def worth_reviewing(
    engine: Engine,
    turns: Sequence[Turn],
    live: str,
    base: str,
    count: int = 10,
    watch: Watch | None = None,
) -> list[Candidate]:
    """Return the `count` turns that are most worth reviewing, the best one first.

    `turns` are those of the log. Rated, edited and incomplete turns are left out, and those that are only
    context. `live` and `base` are tags of the engine; they are equal if no version is live. Raises
    EngineError if a model cannot be loaded.
    """
    open_turns = unjudged(turns)[-NEWEST:]
    rows = _rows(engine, base, turns, open_turns)
    tags = list(dict.fromkeys((live, base)))
    scores = [
        _surprises(
            engine,
            tag,
            list(rows.values()),
            partial(_count, watch or Watch(), index * len(rows), len(tags) * len(rows)),
        )
        for index, tag in enumerate(tags)
    ]
    by_live, by_base = (dict(zip(rows, each, strict=True)) for each in (scores[0], scores[-1]))
    scored = [turn for turn in open_turns if turn.id in rows]
    groups: dict[int, list[Turn]] = {}
    for group, turn in zip(
        group_near_duplicates([f"{turn.user_message}\n{turn.bot_response}" for turn in scored]), scored, strict=True
    ):
        groups.setdefault(group, []).append(turn)
    found = []
    for alike in groups.values():
        best = max(alike, key=lambda turn: by_live[turn.id])
        others = tuple(turn.id for turn in alike if turn is not best)
        found.append(Candidate(best, by_live[best.id], abs(by_live[best.id] - by_base[best.id]), others))
    return sorted(found, key=lambda candidate: -candidate.worth)[:count]


def of_log(
    config: FineTuningConfig, engine: Engine, turns: Sequence[Turn], count: int = 10, watch: Watch | None = None
) -> list[Candidate]:
    """Return the result of `worth_reviewing` for the configured model.

    Its live version is used; if there is none, the base.
    """
    live, base = Registry().live(config.tuned_name()), base_of(config, engine).tag
    return worth_reviewing(engine, turns, live.tag if live else base, base, count, watch)


def unjudged(turns: Iterable[Turn]) -> list[Turn]:
    """Return the complete turns on the chosen paths that are neither rated nor edited, nor only context."""
    return [
        turn
        for turn in on_chosen_paths(turns)
        if not approved(turn)
        and "rating" not in turn.metadata
        and "incomplete" not in turn.metadata
        and not only_context(turn)
        and turn.bot_response.strip()
    ]


def _rows(engine: Engine, base: str, turns: Sequence[Turn], wanted: Sequence[Turn]) -> dict[str, ScoredRow]:
    """Return for each turn in `wanted`, by id, the tokens of its conversation up to the end of the turn's answer."""
    tokenizer = ConversationTokenizer(partial(engine.render, base), Vocabulary(engine.show(base).gguf), CONTEXT)
    ids, found = {turn.id for turn in wanted}, {}
    for conversation in conversations_of(turn for turn in on_chosen_paths(turns) if turn.bot_response.strip()):
        for index, turn in enumerate(conversation.turns):
            if turn.id in ids and (row := _row(tokenizer, conversation.turns[: index + 1]) or _row(tokenizer, [turn])):
                found[turn.id] = row
    return found


def _row(tokenizer: ConversationTokenizer, turns: Sequence[Turn]) -> ScoredRow | None:
    """Return the token ids of the turns, and the indices of the last answer's tokens; None if they exceed CONTEXT."""
    system = system_of(turns[-1])
    head = [Message(role="system", content=system)] if system else []
    found = tokenizer.last_answer([*head, *(message for turn in turns for message in turn.messages())])
    if found is None:
        return None
    prompt, answer = found
    return prompt + answer, list(range(len(prompt), len(prompt) + len(answer)))


def _surprises(engine: Engine, tag: str, rows: Sequence[ScoredRow], report: Callable[[int], None]) -> list[float]:
    """Return for each row the mean negative log-likelihood of its answer under the model `tag`, in nats per token.

    `report` is called with the number of rows done.
    """
    if not rows:
        return []
    details = engine.show(tag)
    found = []
    with ServedModel(details.gguf, details.spec.adapter, max(512, *(len(tokens) + 1 for tokens, _ in rows))) as model:
        for score in model.scores(rows):
            found.append(-score.logprob / score.tokens)
            report(len(found))
    return found


def _count(watch: Watch, before: int, total: int, done: int) -> None:
    watch.count(before + done, total)
