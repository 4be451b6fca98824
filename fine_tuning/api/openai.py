"""The routes under /v1, which are compatible with OpenAI's API.

Clients of OpenAI's API can chat with every model, and have their conversations recorded in the log.
"""

import base64
import struct
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel

from fine_tuning.api.answering import Streamed, answers_of, while_there
from fine_tuning.api.dependencies import Serving
from fine_tuning.api.engine_threads import waits_for_engine, with_engine
from fine_tuning.api.errors import answer, documented, status_of
from fine_tuning.api.openai_answers import (
    ChatCompletion,
    ChatForm,
    Completion,
    Embedding,
    EmbeddingList,
    EmbeddingUsage,
    Model,
    ModelList,
    Spoken,
    TextForm,
    event,
)
from fine_tuning.api.openai_bodies import ChatBody, CompletionBody, EmbeddingBody, Sampled
from fine_tuning.api.recording import SESSION_HEADER, Recorder, is_wanted, recorder
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ChatOptions, known_tag
from fine_tuning.errors import Busy, ByoaiError, EngineError, ModelNotFound
from fine_tuning.integration.ollama_integration import Models, base_of
from fine_tuning.integration.service import Service
from fine_tuning.model_management.model_switcher import Choice

router = APIRouter(prefix="/v1", tags=["openai"], responses=documented(502, 503))

LIVE, BASE = "live", "base"
_GONE = 499  # the status for a client that has disconnected
_STREAM: dict[int | str, dict[str, object]] = {200: {"content": {"text/event-stream": {}}}, **documented(410, 507)}

Wish = Annotated[
    Literal["", "on", "off"], Header(alias="X-Byoai-Record", description="whether the exchange is recorded in the log")
]
Session = Annotated[str, Header(alias="X-Byoai-Session", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")]
Id = Annotated[str, Path(min_length=1, max_length=400)]


@router.get("/models")
@waits_for_engine
def list_openai_models(service: Serving) -> ModelList:
    """List the models that can answer: `live` (the default), `base` (the configured base model), then every tag."""
    models = service.models()
    names = [name for name in (LIVE, BASE) if _named(models, name, service)]
    return ModelList(
        data=[Model(id=name, owned_by=_owner(_named(models, name, service))) for name in [*names, *_tags(models)]]
    )


@router.get("/models/{id:path}")
@waits_for_engine
def show_openai_model(id: Id, service: Serving) -> Model:
    """Show one model: `live`, `base`, or a tag."""
    return Model(id=id, owned_by=_owner(_chosen(service, id)))


@router.post("/chat/completions", response_model=ChatCompletion, responses=_STREAM)
async def create_chat_completion(
    body: ChatBody, request: Request, service: Serving, wish: Wish = "", session: Session = ""
) -> Response:
    """Answer a conversation, as one response or, with `stream`, as server-sent events."""
    wanted = is_wanted(request.headers, wish)
    asked = await with_engine(
        lambda: _Asked(service, body, body.told(), body.chat_options(), wanted, session, ChatForm())
    )
    return await asked.answer(request)


@router.post("/completions", response_model=Completion, responses=_STREAM)
async def create_completion(
    body: CompletionBody, request: Request, service: Serving, wish: Wish = "", session: Session = ""
) -> Response:
    """Answer a prompt: it is given to the model as the only message of a chat."""
    wanted = is_wanted(request.headers, wish)
    asked = await with_engine(lambda: _Asked(service, body, body.told(), body.options(), wanted, session, TextForm()))
    return await asked.answer(request)


_EMBEDDINGS = 4  # maximum number of simultaneous requests, since each holds one of the threads that wait for the engine
_embedding = threading.BoundedSemaphore(_EMBEDDINGS)


@router.post("/embeddings")
@waits_for_engine
def create_embeddings(body: EmbeddingBody, service: Serving) -> EmbeddingList:
    """Return the embeddings (vectors) of texts. 400 if the engine or the model does not support embeddings."""
    found = _named(service.models(), body.model, service)
    tag = found.tag if found else body.model  # embedding models cannot chat, so the list lacks them
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not _embedding.acquire(blocking=False):
        raise Busy(f"{_EMBEDDINGS} requests for embeddings are already being answered: try again later")
    try:
        made = service.engine().embed(tag, texts, body.dimensions)
    finally:
        _embedding.release()
    shown = [_base64(vector) if body.encoding_format == "base64" else vector for vector in made.vectors]
    usage = EmbeddingUsage(prompt_tokens=made.prompt_tokens, total_tokens=made.prompt_tokens)
    return EmbeddingList(
        data=[Embedding(index=index, embedding=each) for index, each in enumerate(shown)], model=tag, usage=usage
    )


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _tags(models: Models) -> list[str]:
    return [choice.tag for choice in models.found]


def _owner(choice: Choice | None) -> str:
    return "byoai" if choice and choice.kind == "fine_tuned" else "library"


def _named(models: Models, name: str, service: Service) -> Choice | None:
    if name == LIVE:
        return models.default
    return base_of(models.found, service.config) if name == BASE else models.get(known_tag(name, _tags(models)))


def _chosen(service: Service, name: str) -> Choice:
    """Return the model that a client named. Raises ModelNotFound if there is no such model."""
    models = service.models()
    if found := _named(models, name, service):
        return found
    raise ModelNotFound(
        f"no model {name[:100]!r} can answer here: GET /v1/models lists those that can "
        f"({', '.join(_tags(models)) or 'none'})"
    )


class _Asked:
    """A client's request for an answer.

    Create it in a thread: the constructor blocks, since it uses the engine and the log.
    """

    def __init__(
        self,
        service: Service,
        body: Sampled,
        messages: list[Message],
        options: ChatOptions,
        recorded: bool,
        session: str,
        form: "ChatForm | TextForm",
    ) -> None:
        self._tag = form.model = _chosen(service, body.model).tag
        self._engine, self._form = service.engine(), form
        self._messages, self._options = messages, options
        self._streams, self._tells_usage = bool(body.stream), body.tells_usage
        self._recorder: Recorder | None = (
            recorder(service, self._tag, messages, body.user, session) if recorded else None
        )
        self._stopping = threading.Event()

    async def answer(self, request: Request) -> Response:
        pieces = answers_of(request.app).pieces(self._engine, self._speak, self._stopping)
        headers = {SESSION_HEADER: self._recorder.log.session_id} if self._recorder else {}
        if not self._streams:
            spoken = await while_there(request, _all(pieces))
            return _json(self._form.whole(spoken), headers) if spoken else Response(status_code=_GONE)
        first = await while_there(request, anext(pieces))  # errors up to here still get their own HTTP status
        return Streamed(self._events(first, pieces), self._stopping, headers) if first else Response(status_code=_GONE)

    def _speak(self, stopping: threading.Event) -> Generator[ChatChunk]:
        """Yield the engine's answer until it ends or `stopping` is set.

        If recording is wanted, the answer is recorded before its last chunk is yielded; a stopped
        answer is recorded only if it was streamed to the client. Raises EngineError if the engine
        fails, or does not finish the answer.
        """
        started, spoken = time.monotonic(), Spoken()
        stream = cast("Generator[ChatChunk]", self._engine.chat(self._tag, self._messages, self._options))
        with closing(stream):
            for chunk in stream:
                spoken.take(chunk)
                if chunk.done or stopping.is_set():
                    break
                yield chunk
        if spoken.last is None and not stopping.is_set():
            raise EngineError(
                f"{self._tag} stopped in the middle of its answer: ask again. If it happens again, read the engine's "
                "log"
            )
        if self._recorder and not spoken.calls and (spoken.last or self._streams):
            self._recorder.keep(self._engine, spoken.text, spoken.last, time.monotonic() - started)
        if spoken.last:
            yield spoken.last

    async def _events(self, first: ChatChunk, pieces: AsyncGenerator[ChatChunk]) -> AsyncGenerator[str]:
        spoken, more = Spoken(), {"usage": None} if self._tells_usage else {}
        async with aclosing(_chained(first, pieces)) as chunks:
            yield event(self._form.begin() | more)
            try:
                async for chunk in chunks:
                    spoken.take(chunk)
                    for piece in self._form.piece(chunk, len(spoken.calls)):
                        yield event(piece | more)
            except ByoaiError as error:
                yield f"data: {bytes(answer(status_of(error), str(error), type(error).__name__).body).decode()}\n\n"
                return
        yield event(self._form.end(spoken) | more)
        if self._tells_usage:
            yield event(self._form.head() | {"choices": [], "usage": spoken.usage().model_dump()})
        yield "data: [DONE]\n\n"


async def _all(pieces: AsyncGenerator[ChatChunk]) -> Spoken:
    spoken = Spoken()
    async with aclosing(pieces):
        async for chunk in pieces:
            spoken.take(chunk)
    return spoken


async def _chained(first: ChatChunk, pieces: AsyncGenerator[ChatChunk]) -> AsyncGenerator[ChatChunk]:
    async with aclosing(pieces):
        yield first
        async for chunk in pieces:
            yield chunk


def _json(told: BaseModel, headers: dict[str, str]) -> Response:
    return Response(told.model_dump_json(), media_type="application/json", headers=headers)
