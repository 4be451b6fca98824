"""Routes for conversations: list, read, label, export and forget them."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import TEXT_ID, Asked, Cursor, Limit, Page, Serving, SessionId, from_cursor, page_of
from fine_tuning.api.routes.jobs import ORIGIN, JobFacts, job_facts
from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection import data_export
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.errors import NoConversations, TurnNotFound
from fine_tuning.integration import chats
from fine_tuning.integration.chats import Chat
from fine_tuning.integration.service import Service

router = APIRouter(prefix="/api", tags=["conversations"])

LogFormat = Literal["jsonl", "json", "csv", "parquet", "markdown"]
TrainingFormat = Literal["chatml", "sharegpt", "alpaca", "instruction", "dpo", "dpo-text"]
Format = Literal[LogFormat, TrainingFormat]
_MEDIA = {
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".md": "text/markdown",
}
_TITLE = 200  # maximum characters of a title taken from the first question
_PIECE = 1 << 16  # bytes sent at once


class ConversationFacts(BaseModel):
    """A conversation as it is listed, without its turns."""

    id: str
    title: str  # given by a person, or else the beginning of the first question
    turns: int  # number of turns, including excluded ones
    begun: str  # time of the first turn, ISO 8601; "" if an import did not state it
    last: str  # time of the last turn
    pinned: bool
    folder: str  # "" for none


class Labelled(Asked):
    """Changes of a conversation's labels. Omitted fields stay unchanged; "" removes the title or the folder."""

    title: Annotated[str | None, Field(max_length=chat_labels.LONGEST_TITLE)] = None
    pinned: bool | None = None
    folder: Annotated[str | None, Field(max_length=chat_labels.LONGEST_FOLDER)] = None


@router.get("/conversations")
def list_conversations(service: Serving, limit: Limit = 50, cursor: Cursor = None) -> Page[ConversationFacts]:
    """List conversations, the most recently used first."""
    before = from_cursor(cursor, str)[0] if cursor else None
    found = service.log().index.sessions(limit + 1, before)
    labels = chat_labels.labels_of([session.id for session in found])
    listed = [chats.chat_of(session, labels.get(session.id, chat_labels.Label()), _TITLE) for session in found]
    return page_of(listed, limit, _facts, lambda each: (each.last_turn,))


@router.get("/conversations/{id}")
def show_conversation(id: SessionId, service: Serving, limit: Limit = 100, cursor: Cursor = None) -> Page[Turn]:
    """Show a conversation's turns, the oldest first, including excluded ones. 404 if there is no such conversation."""
    after = from_cursor(cursor, str)[0] if cursor else None
    found = service.log().index.turns_of(id, limit + 1, after)
    if not found and after is None:
        raise TurnNotFound(f"there is no conversation {id!r}: GET /api/conversations lists them")
    return page_of(found, limit, lambda turn: turn, lambda turn: (turn.id,))


@router.patch("/conversations/{id}")
def label_conversation(id: SessionId, asked: Labelled, service: Serving) -> ConversationFacts:
    """Rename a conversation, pin it, or move it to a folder. Forgetting the conversation deletes these labels too."""
    return _facts(chats.change(service.log().index, id, title=asked.title, pinned=asked.pinned, folder=asked.folder))


@router.delete("/conversations/{id}", status_code=202)
def delete_conversation(
    id: SessionId,
    service: Serving,
    teach_again: Annotated[bool, Query(description="if a version has learned it, train a new one without it")] = True,
    now: Annotated[
        bool, Query(description="remove the versions that learned it before the new one is trained")
    ] = False,
) -> JobFacts:
    """Forget a conversation permanently, by a job of the kind `forget`.

    The job removes the conversation from all files, and the versions that were trained on it.
    """
    if not service.log().index.ids_of(id):
        raise TurnNotFound(f"there is no conversation {id!r}: GET /api/conversations lists them")
    return forget(service, [id], teach_again=teach_again, now=now)


_EXPORTED: dict[int | str, dict[str, object]] = {
    200: {
        "content": {
            media: {"schema": {"type": "array" if end == ".json" else "string"}} for end, media in _MEDIA.items()
        }
    }
}


@router.get("/export", response_class=Response, responses=_EXPORTED)
def export_conversations(
    service: Serving,
    format: Format = "jsonl",
    kind: Annotated[
        Literal["jsonl", "csv", "parquet"] | None, Query(alias="as", description="file type, for training data")
    ] = None,
    conversation: Annotated[str | None, Query(pattern=TEXT_ID, description="export only this one")] = None,
) -> StreamingResponse:
    """Export all conversations or one, without excluded turns.

    chatml, sharegpt, alpaca and instruction are formats for training, without answers that are rated
    down or incomplete; dpo and dpo-text hold pairs of a chosen and a rejected answer.
    """
    log = service.log()
    turns = (
        log.turns()
        if conversation is None
        else [turn for turn in log.index.turns_of(conversation) if not _is_excluded(turn)]
    )
    if not turns:
        raise NoConversations("there is nothing to export: there is no turn, or all turns are excluded")
    conversations, wanted = conversations_of(turns), data_export.in_file(format, kind or "")
    data_export.check_records(conversations, wanted)
    name = data_export.file_of(wanted)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    pieces = _together(data_export.render(conversations, wanted))
    return StreamingResponse(
        pieces, media_type=next(_MEDIA[end] for end in _MEDIA if name.endswith(end)), headers=headers
    )


def forget(service: Service, ids: list[str], *, teach_again: bool, now: bool, id: str | None = None) -> JobFacts:
    """Submit a job that forgets the turns and conversations `ids`; return the job.

    `teach_again`: train a new version without these turns, if a version was trained on them. `now`:
    remove the versions that were trained on them before that training. `id`: the id of the job.
    """
    return job_facts(chats.forget(service, ids, teach_again=teach_again, now=now, id=id, origin=ORIGIN))


def _facts(chat: Chat) -> ConversationFacts:
    return ConversationFacts(
        id=chat.id,
        title=chat.title,
        turns=chat.turns,
        begun=chat.begun,
        last=chat.last,
        pinned=chat.label.pinned,
        folder=chat.label.folder,
    )


def _is_excluded(turn: Turn) -> bool:
    return bool(turn.metadata.get("excluded"))


def _together(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces into larger ones, since each piece that is sent costs a change of threads."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= _PIECE:
            yield b"".join(held)
            held, length = [], 0
    yield b"".join(held)
