"""Describe the data in the log for users: why turns are not learned, what is scrubbed, which answers conflict.

Pages and programs use this module. The whole log is examined by a job of the kind `survey`
(survey.py), whose result is read here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, Uploads
from fine_tuning.conversation import Turn
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.cleaning.clean_turns import exchange_of
from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase
from fine_tuning.data_collection.cleaning.turn_decisions import Reason, decide
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.documents.pairs import Pair, pairs_of
from fine_tuning.data_collection.documents.reading import read_document
from fine_tuning.data_collection.importers.files import members_of
from fine_tuning.data_collection.log import outcomes
from fine_tuning.data_collection.log.outcomes import StoredSurvey
from fine_tuning.data_collection.privacy import Find
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.errors import ByoaiError, DataError
from fine_tuning.integration.service import Service
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import clean_settings, count_new, sift
from fine_tuning.units import answers

_PIECE = 8 << 20  # bytes of a file written at once
_MASK = "•"


class Words(NamedTuple):
    """The title and the meaning of a reason why turns are not learned, for people."""

    title: str
    meaning: str


REASONS: dict[str, Words] = {
    Reason.EMPTY: Words("Empty", "The question or the answer is empty."),
    Reason.INCOMPLETE: Words(
        "Stopped",
        "The answer was stopped, or cut off because it was too long: it would teach the model to stop halfway. It is "
        "learned once you give it a thumbs-up or edit it.",
    ),
    Reason.CONTEXT: Words(
        "Only context",
        "Its source marks the answer as context for those after it (weight 0): it is read with them, and not learned "
        "itself. It is learned once you give it a thumbs-up or edit it.",
    ),
    Reason.REJECTED: Words("Thumbs down", "You gave the answer a thumbs-down and wrote no better one."),
    Reason.OWN_ANSWER: Words(
        "Own answer", "A fine-tuned version gave the answer. It is learned once you give it a thumbs-up or edit it."
    ),
    Reason.REGENERATED: Words("Answered anew", "You asked for another answer, which is learned instead."),
    Reason.TOO_SHORT: Words("Too short", "The question or the answer is too short to teach anything."),
    Reason.TOO_LONG: Words("Too long", "The question or the answer is longer than the limit in the settings."),
    Reason.INAPPROPRIATE: Words("Inappropriate", "It contains words that a model should not learn."),
    Reason.REPETITIVE: Words("Goes in circles", "The question or the answer repeats itself over and over."),
    Reason.REFUSAL: Words(
        "Refusal", "The model says that it is an AI instead of answering, or only says that it cannot help."
    ),
    Reason.POLITE_ONLY: Words("Politeness alone", "The answer consists only of greetings and offers of help."),
    Reason.GIBBERISH: Words("Gibberish", "The question or the answer consists of keys typed at random."),
    Reason.LANGUAGE: Words(
        "Other language", "The question or the answer is not in one of the languages that you chose to learn."
    ),
    Reason.LOW_QUALITY: Words(
        "Says little", "It has hardly any words or has broken characters, or the answer only repeats the question."
    ),
    Reason.DUPLICATE: Words(
        "Said before", "The same question with the same answer is in the log more than once, and is learned once."
    ),
    Reason.CONFLICT: Words(
        "Answered differently",
        "The same question has a newer answer, or one that you approved, which is learned instead.",
    ),
}


@dataclass(frozen=True)
class Counts:
    """Numbers of turns that are read from the log's index, without examining the whole log."""

    turns: int  # excluded ones included
    new: int
    excluded: int


def counts(config: FineTuningConfig, log: ConversationLogger, registry: Registry) -> Counts:
    """Return the numbers of turns. Raises DataError if the log cannot be read."""
    kept, all_turns = log.index.counts()
    return Counts(all_turns, count_new(config, log, registry), all_turns - kept)


def is_stale(log: ConversationLogger, look: StoredSurvey) -> bool:
    """Return whether the log has changed since the survey `look`."""
    return log.index.mark() != look.mark


@dataclass(frozen=True)
class Dropped:
    """A reason why turns are not learned, with the number of turns."""

    reason: str
    words: Words
    count: int
    example: Turn | None  # the newest such turn, if it still exists


def dropped(log: ConversationLogger, look: StoredSurvey) -> list[Dropped]:
    """Return the reasons why turns are not learned, according to the survey `look`, the most frequent first."""
    named: Mapping[str, str] = look.facts["examples"]["dropped"]
    turns = {turn.id: turn for turn in log.index.turns(list(named.values()))}
    found = [
        Dropped(reason, REASONS[reason], count, turns.get(named.get(reason, "")))
        for reason, count in look.facts["dropped"].items()
        if count and reason in REASONS
    ]
    return sorted(found, key=lambda each: -each.count)


@dataclass(frozen=True)
class Scrubbing:
    """A turn with private details. Each of its texts with such details is given in three forms.

    `said` holds the texts as they were said, `masked` the same with the details masked, and
    `learned` the texts as they are learned, with placeholders.
    """

    turn_id: str
    said: tuple[str, ...]
    masked: tuple[str, ...]
    learned: tuple[str, ...]


def scrubbings(config: FineTuningConfig, log: ConversationLogger, look: StoredSurvey) -> list[Scrubbing]:
    """Return examples of turns with private details, which the survey `look` chose, in their current state."""
    turns = log.index.turns(look.facts["examples"]["scrubbed"])
    sessions = {turn.session_id for turn in turns}
    # the number in a placeholder depends on the whole conversation
    around = [turn for session in sorted(sessions) for turn in log.index.turns_of(session)]
    around = [turn for turn in around if not turn.metadata.get("excluded")]
    fit = sift(config, around, log.path).fit
    settings = clean_settings(config)
    found = []
    for turn in turns:
        changes = decide(exchange_of(turn), settings).changes
        sides = {name: changes[name] for name in ("user_message", "bot_response") if name in changes}
        sides = {name: change for name, change in sides.items() if change.finds}
        if sides and turn.id in fit:
            said = {name: change.searched(getattr(turn, name)) for name, change in sides.items()}
            masked = (_masked(said[name], change.finds) for name, change in sides.items())
            learned = (str(getattr(fit[turn.id].turn, name)) for name in sides)
            found.append(Scrubbing(turn.id, tuple(said.values()), tuple(masked), tuple(learned)))
    return found


def _masked(text: str, finds: Collection[Find]) -> str:
    for find in finds:
        text = text[: find.start] + _MASK * (find.end - find.start) + text[find.end :]
    return text


# Conflicts


@dataclass(frozen=True)
class Choice:
    """A question that was answered differently in several turns."""

    turns: tuple[Turn, ...]  # in the order in which they were said
    stands: str  # id of the turn that is learned


def choices(log: ConversationLogger, limit: int, offset: int = 0) -> list[Choice]:
    """Return the questions with different answers that the last survey found and nobody has resolved since.

    At most `limit` are returned, without the first `offset`.
    """
    found = outcomes.conflicts(limit, offset)
    ids = [id for each in found for id in each.turns]
    turns = {turn.id: turn for turn in log.index.turns(ids) if not turn.metadata.get("excluded")}
    there = [Choice(tuple(turns[id] for id in each.turns if id in turns), each.stands) for each in found]
    return [
        each for each in there if len(each.turns) > 1 and not all(turn.metadata.get("included") for turn in each.turns)
    ]


def alike(log: ConversationLogger, limit: int, offset: int = 0) -> list[tuple[Turn, ...]]:
    """Return groups of turns that the last survey found nearly the same, without turns that were excluded since.

    At most `limit` are returned, without the first `offset`. In a group the turns are in the order in
    which they were said.
    """
    found = outcomes.alike(limit, offset)
    there = log.index.turns([id for group in found for id in group])
    turns = {turn.id: turn for turn in there if not turn.metadata.get("excluded")}
    groups = (tuple(turns[id] for id in group if id in turns) for group in found)
    return [group for group in groups if len(group) > 1]


def keep_one(log: ConversationLogger, turns: Collection[Turn], turn_id: str) -> None:
    """Exclude all of the turns of a group except `turn_id`."""
    log.exclude_all([turn.id for turn in turns if turn.id != turn_id])


def keep_all(log: ConversationLogger, choice: Choice) -> None:
    """Resolve a conflict: include all of its turns, so that every answer is learned."""
    log.exclude_all([turn.id for turn in choice.turns], False)


# Jobs


def ask_for(service: Service, kind: str, **request: object) -> Job:
    """Submit a job of this kind with the server's settings, and return it.

    Raises ConfigError for an invalid request.
    """
    settings = {"config": service.config.model_dump(mode="json"), "ollama_url": service.ollama_url}
    return service.queue.submit(kind, {**settings, **request}, origin="the data page")


def newest(service: Service, kind: str) -> Job | None:
    """Return the last submitted job of a kind; None if there is none."""
    return next(iter(service.queue.jobs(kinds=[kind], limit=1)), None)


def added_by(job: Job) -> str:
    """Return how many turns a completed import has added, such as "12 answers (3 known already; 4 only context)".

    Return "" for any other job.
    """
    if not (result := _result_of(job)):
        return ""
    counts = {"known already": result["known"], "only context, not learned": result.get("context", 0)}
    told = "; ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{answers(result['added'])}{f' ({told})' if told else ''}"


def planted_of(job: Job) -> list[PlantedPhrase]:
    """Return the phrases that an import reported as possible data poisoning; [] if the job is not completed."""
    return [PlantedPhrase.of(each) for each in _result_of(job).get("planted", ())]


def _result_of(job: Job) -> dict[str, Any]:
    """Return the result of a completed job; {} for any other job."""
    if job.state != State.COMPLETED or not job.result.exists():
        return {}
    found: dict[str, Any] = paths.read_json(job.result)
    return found


# Files


def take_in(name: str, content: BinaryIO, size: int, limits: Uploads) -> Upload:
    """Store a file from the browser as an upload, and return the upload.

    Its type is recognised by its content. Raises TooLarge, QuotaReached or NoRoom as `uploads.create`
    does, and DataError for a file that may not be uploaded; nothing of the file is kept then.
    """
    if not size:
        raise DataError(f"{name} is empty: choose another file")
    upload = uploads.create(name, size, "", limits)
    try:
        offset = 0
        while piece := content.read(_PIECE):
            offset = uploads.append(upload.id, offset, piece, limits)
        return uploads.finish(upload.id)
    except ByoaiError:
        if uploads.folder_of(upload.id).exists():
            uploads.remove(upload.id)
        raise


def questions_of(upload: Upload) -> list[Pair]:
    """Return the questions and answers that would be made from an upload if it were imported as a document.

    Return [] if the file is not a document.
    """
    try:
        members = members_of(upload.content)
        blocks = read_document(members[0], upload.name) if len(members) == 1 else []
    except DataError:
        return []
    return [each for each in pairs_of(blocks) if isinstance(each, Pair)]
