"""Record exchanges of /v1 clients in the log, if the client asks for it and knows the token.

Only the last question and its answer are recorded. The earlier messages, which clients repeat in
each request, are looked up in the log, so that the exchange joins the session of the earlier turns
and deleted turns are not recorded again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers

from fine_tuning.api.openai_bodies import image_type
from fine_tuning.api.security import RECORD, TOKEN_HEADER, Token, bearer_of
from fine_tuning.conversation import Message, Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.chats import plain
from fine_tuning.data_collection.log.file import Stamp
from fine_tuning.engines.base import ChatChunk, Engine, RichMessage, ToolCall, digest_of
from fine_tuning.errors import ConfigError
from fine_tuning.integration.service import Service
from fine_tuning.thoughts import split_thoughts

RECORD_HEADER, SESSION_HEADER = "x-byoai-record", "x-byoai-session"

_LOOKED_UP = 8  # maximum number of earlier exchanges to look up, since the last ones may not be in the log
_WORDS, _LETTERS = 10, 40  # words of a text to search for, and characters of each word

Exchange = tuple[str, str]  # question, answer


def is_wanted(headers: Headers, wish: str) -> bool:
    """Return whether the client asks for its exchange to be recorded, and may do so.

    The client asks for it by `wish`, or by an API key that ends in `:record`.

    Args:
        headers: The headers of the request.
        wish: The header X-Byoai-Record ("on", "off" or ""), which takes precedence over the API key.

    Raises HTTPException 401 if the client asks without the data folder's token, and ConfigError if a
    header is repeated.
    """
    for name in (RECORD_HEADER, SESSION_HEADER):
        if len(headers.getlist(name)) > 1:
            raise ConfigError(f"the header {name} was sent more than once: send it once")
    bearer = bearer_of(headers.get("authorization", ""))
    if wish == "off" or not (wish == "on" or bearer.endswith(RECORD)):
        return False
    if not any(map(Token().fits, [bearer.removesuffix(RECORD), *headers.getlist(TOKEN_HEADER)])):
        message = (
            "recording needs the token of the data folder (its file api_token): as the API key, or in "
            f"the header {TOKEN_HEADER}"
        )
        raise HTTPException(401, message, {"www-authenticate": "Bearer"})
    return True


@dataclass
class Recorder:
    """Records one exchange in the log when its answer has ended (`keep`).

    The fields describe the request; they are known before the answer begins.
    """

    log: ConversationLogger  # its session is the one that the exchange joins
    question: str
    facts: dict[str, Any]  # for the turn's metadata
    parts: list[dict[str, object]]  # descriptions of the parts that are not text: images, tool calls, their results
    told: set[str] = field(default_factory=set)  # ids of the recorded turns that the client repeats as earlier messages
    as_of: Stamp | None = None  # the state of the log when these turns were found

    def keep(self, engine: Engine, text: str, last: ChatChunk | None, seconds: float) -> None:
        """Log the exchange with the answer `text`, unless the answer is empty.

        Args:
            engine: The engine that answered.
            text: The answer, with thoughts.
            last: The answer's last chunk; None if the answer was stopped.
            seconds: How long the answer took.

        Raises TurnDeleted if a turn that the client repeats has been deleted in the meantime.
        """
        if not split_thoughts(text).answer.strip():
            return
        incomplete = "stopped" if last is None else "length" if last.done_reason == "length" else None
        tokens = (last.tokens or None) if last else None
        facts = {
            **self.facts,
            "digest": digest_of(engine, self.facts["model"]),
            "engine": engine.name,
            "seconds": round(seconds, 2),
            "tokens": tokens,
        }
        known = {name: fact for name, fact in {**facts, "incomplete": incomplete}.items() if fact}
        parts = {"parts": self.parts} if self.parts else {}
        turn = self.log.log_conversation(
            self.question, text, {**known, **parts}, answered_from=self.told, as_of=self.as_of
        )
        if parts:  # training on the text without the images or results would teach the model to invent
            self.log.exclude(turn.id)


def recorder(
    service: Service, tag: str, messages: Sequence[Message], user: str | None, session: str
) -> Recorder | None:
    """Return the Recorder for the answer to `messages`; None if the settings disable recording.

    Args:
        service: The source of the settings and the log.
        tag: The model that answers.
        messages: The messages of the request.
        user: The client's name for its user, which is recorded.
        session: The id of the session that the exchange joins. If it is "", the exchange joins the
            session that `messages` continue, or a new session if they continue none.

    Raises ConfigError if the messages do not end with a question.
    """
    if not service.config.data_collection.record:
        return None
    asked = max((number for number, message in enumerate(messages) if _asks(message)), default=-1)
    if asked < 0 or any(message.role == "assistant" and not _calls(message) for message in messages[asked + 1 :]):
        raise ConfigError(
            "messages: only an answer to a question can be recorded: the last message must have the role user"
        )
    log, history = service.log(session), _exchanges(messages[:asked])
    as_of = log.stamp()
    log.session_id = session or _session_of(log, history) or log.session_id
    logged = log.session_turns(log.session_id) if history else []
    told = [turn for turn in logged if not _pairs(turn).isdisjoint(history)]
    facts = {
        "model": tag,
        "source": "v1",
        "user": user,
        "system": "\n\n".join(message.content for message in messages if message.role == "system"),
        "parent": told[-1].id if told else None,
        "regenerates": _regenerated(logged, told, messages[asked].content),
    }
    parts = [part for message in messages[asked:] for part in _parts(message)]
    return Recorder(log, messages[asked].content, facts, parts, {turn.id for turn in told}, as_of)


def _asks(message: Message) -> bool:
    return message.role == "user" and not (isinstance(message, RichMessage) and message.tool_name)


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.tool_calls if isinstance(message, RichMessage) else ()


def _exchanges(messages: Sequence[Message]) -> list[Exchange]:
    """Return each question with its answer: the last answer before the next question.

    Questions without an answer are left out.
    """
    found: list[tuple[str, str]] = []
    for message in messages:
        if _asks(message):
            found.append((message.content, ""))
        elif message.role == "assistant" and found and message.content.strip():
            found[-1] = (found[-1][0], message.content)
    return [_pair(question, answer) for question, answer in found if answer]


def _pair(question: str, answer: str) -> Exchange:
    return question.strip(), split_thoughts(answer).answer.strip()


def _pairs(turn: Turn) -> set[Exchange]:
    """Return the exchanges that match a turn: its question with the original answer, and with the edited one."""
    answers = (turn.bot_response, str(turn.metadata.get("original_response", turn.bot_response)))
    return {_pair(turn.user_message, answer) for answer in answers}


def _session_of(log: ConversationLogger, history: Sequence[Exchange]) -> str | None:
    """Return the session that a conversation continues; None if none of its last exchanges is in the log.

    The exchanges are looked up from the last one on. The session is that of the newest turn that
    matches the first exchange found.
    """
    for exchange in reversed(history[-_LOOKED_UP:]):
        words = [word[:_LETTERS] for text in exchange for word in text.split()[:_WORDS]]
        for turn in log.search(" ".join(words)):
            if exchange in _pairs(turn):
                return turn.session_id
    return None


def _regenerated(logged: Sequence[Turn], told: Sequence[Turn], question: str) -> str | None:
    """Return the id of the turn that a new answer regenerates; None if there is none.

    This is the newest turn with the same question that comes after `told`, the turns that the client
    repeats. `logged` holds all turns of the session.
    """
    if not told:
        return None
    later = logged[logged.index(told[-1]) + 1 :]
    return next((turn.id for turn in reversed(later) if turn.user_message == question), None)


def _parts(message: Message) -> list[dict[str, object]]:
    if not isinstance(message, RichMessage):
        return []
    if message.tool_name:
        return [{"role": "tool", "part": {"tool": message.tool_name, "result": plain(message.content)}}]
    images = [
        {"type": image_type(image), "bytes": len(image), "sha256": hashlib.sha256(image).hexdigest()}
        for image in message.images
    ]
    calls = [{"tool": call.name, "arguments": plain(call.arguments)} for call in message.tool_calls]
    return [{"role": message.role, "part": part} for part in (*images, *calls)]
