"""Define the responses of /v1 (OpenAI's objects), and convert an engine's answer to them, whole or in chunks.

Format: https://platform.openai.com/docs/api-reference
"""

import json
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from fine_tuning.engines.base import ChatChunk, ToolCall


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # unknown, since the engines do not report it
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Usage(BaseModel):
    """The numbers of tokens, as the engine reports them; 0 if it does not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class FunctionCalled(BaseModel):
    name: str
    arguments: str  # JSON


class Called(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCalled


class Said(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[Called] | None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: Said
    logprobs: None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str  # the tag that answered
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str  # numbers, or base64 of 32-bit floats


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@dataclass
class Spoken:
    """The part of an answer that has been generated so far."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    last: ChatChunk | None = None

    def take(self, chunk: ChatChunk) -> None:
        self.text += chunk.text
        self.calls += chunk.tool_calls
        self.last = chunk if chunk.done else None

    @property
    def reason(self) -> Literal["stop", "length", "tool_calls"]:
        if self.calls:
            return "tool_calls"
        return "length" if self.last and self.last.done_reason == "length" else "stop"

    def usage(self) -> Usage:
        prompt, said = (self.last.prompt_tokens, self.last.tokens) if self.last else (0, 0)
        return Usage(prompt_tokens=prompt, completion_tokens=said, total_tokens=prompt + said)


def event(told: dict[str, object]) -> str:
    return f"data: {json.dumps(told)}\n\n"


class Form:
    """The base class of the two response formats: of chat completions, and of (text) completions.

    `name` is the `object` of a streamed chunk, `word` the prefix of the response's id.
    """

    name, word = "", ""

    def __init__(self) -> None:
        self.id = f"{self.word}-{uuid.uuid4().hex}"
        self.created, self.model = int(time.time()), ""

    def head(self) -> dict[str, object]:
        return {"id": self.id, "object": self.name, "created": self.created, "model": self.model}

    def _part(self, reason: str | None, **said: object) -> dict[str, object]:
        return self.head() | {"choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}]}


class ChatForm(Form):
    name, word = "chat.completion.chunk", "chatcmpl"

    def begin(self) -> dict[str, object]:
        return self._part(None, delta={"role": "assistant", "content": ""})

    def piece(self, chunk: ChatChunk, calls: int) -> list[dict[str, object]]:
        """Return the objects to stream for a chunk of the answer.

        `calls` is the number of tool calls so far, including those of this chunk.
        """
        said = [{"content": chunk.text}] if chunk.text else []
        first = calls - len(chunk.tool_calls)
        called = [
            {"tool_calls": [{"index": index, **_called(call).model_dump()}]}
            for index, call in enumerate(chunk.tool_calls, first)
        ]
        return [self._part(None, delta=delta) for delta in (*said, *called)]

    def end(self, spoken: Spoken) -> dict[str, object]:
        return self._part(spoken.reason, delta={})

    def whole(self, spoken: Spoken) -> ChatCompletion:
        calls = [_called(call) for call in spoken.calls] or None
        said = Said(content=spoken.text or (None if calls else ""), tool_calls=calls)
        choice = ChatChoice(message=said, finish_reason=spoken.reason)
        return ChatCompletion(
            id=self.id, created=self.created, model=self.model, choices=[choice], usage=spoken.usage()
        )


class TextForm(Form):
    name, word = "text_completion", "cmpl"

    def begin(self) -> dict[str, object]:
        return self._part(None, text="")

    def piece(self, chunk: ChatChunk, _calls: int) -> list[dict[str, object]]:
        return [self._part(None, text=chunk.text)] if chunk.text else []

    def end(self, spoken: Spoken) -> dict[str, object]:
        return self._part(spoken.reason, text="")

    def whole(self, spoken: Spoken) -> Completion:
        choice = TextChoice(text=spoken.text, finish_reason="length" if spoken.reason == "length" else "stop")
        return Completion(id=self.id, created=self.created, model=self.model, choices=[choice], usage=spoken.usage())


def _called(call: ToolCall) -> Called:
    return Called(
        id=f"call_{uuid.uuid4().hex[:24]}",
        function=FunctionCalled(name=call.name, arguments=json.dumps(call.arguments)),
    )
