"""Define the request bodies of /v1, and convert them to the engine's messages and options.

Some of OpenAI's parameters would change the answer, but the engines do not support them. These are
accepted only with the value that changes nothing.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fine_tuning.api.dependencies import Asked
from fine_tuning.conversation import Message, whole_characters
from fine_tuning.engines.base import ChatOptions, RichMessage, ToolCall
from fine_tuning.errors import ConfigError
from fine_tuning.json_values import parse_json

_LONGEST = 1_000_000  # characters of a text
_IMAGE = 28_000_000  # characters of an image in base64: 20 MiB
_DEEPEST = 40  # levels of JSON
_SIGNS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}

LongText = Annotated[str, Field(max_length=_LONGEST)]
Short = Annotated[str, Field(max_length=512)]
ModelName = Annotated[str, Field(min_length=1, max_length=400, description="`live`, `base`, or a tag")]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Speaker = Annotated[str | None, Field(pattern=r"^[^\s<|\\/>]{1,64}$", description="not sent to the model")]
Ignored = Field(default=None, description="accepted, and ignored")


class TextPart(Asked):
    type: Literal["text"]
    text: LongText


class ImageUrl(Asked):
    url: Annotated[
        str,
        Field(max_length=_IMAGE, pattern="^data:image/", description="`data:image/png;base64,...`; nothing is fetched"),
    ]
    detail: Literal["auto", "low", "high"] | None = Ignored


class ImagePart(Asked):
    type: Literal["image_url"]
    image_url: ImageUrl


Texts = LongText | Annotated[list[TextPart], Field(min_length=1, max_length=1000)]
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class CalledFunction(Asked):
    name: ToolName
    arguments: Annotated[str, Field(max_length=100_000)]  # JSON


class Call(Asked):
    id: Short
    type: Literal["function"] = "function"
    function: CalledFunction


class SystemMessage(Asked):
    role: Literal["system", "developer"]
    content: Texts
    name: Speaker = None


class UserMessage(Asked):
    role: Literal["user"]
    content: LongText | Annotated[list[Part], Field(min_length=1, max_length=1000)]
    name: Speaker = None


class AssistantMessage(Asked):
    """An earlier answer. A client may send it as it received it, with all fields of the response."""

    role: Literal["assistant"]
    content: Texts | None = None
    name: Speaker = None
    tool_calls: Annotated[list[Call], Field(max_length=128)] | None = None
    refusal: LongText | None = Ignored
    annotations: Annotated[list[object], Field(max_length=0)] | None = Ignored
    audio: None = None
    function_call: None = None


class ToolMessage(Asked):
    role: Literal["tool"]
    content: Texts
    tool_call_id: Short


AnyMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Asked):
    name: ToolName
    description: Annotated[str, Field(max_length=20_000)] | None = None
    parameters: dict[str, object] | None = None  # a JSON Schema
    strict: bool | None = Ignored


class Tool(Asked):
    type: Literal["function"]
    function: Function


class StreamOptions(Asked):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Ignored


class PlainText(Asked):
    type: Literal["text"]


class Sampled(Asked):
    """The parameters that chat completions and completions share."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    seed: int | None = None
    stop: Short | Annotated[list[Short], Field(max_length=16)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    user: Short | None = Field(default=None, description="stored with the exchange if it is recorded")
    n: Literal[1] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_whole_characters(cls, body: object) -> object:
        return _whole(body)

    def options(self, **more: Any) -> ChatOptions:
        return ChatOptions(
            temperature=self.temperature,
            seed=None if self.seed is None else self.seed % 2**31,  # engines treat a negative seed as none
            max_tokens=more.pop("max_tokens", self.max_tokens),
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            stop=tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop or [])),
            **more,
        )

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Sampled):
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=4000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    metadata: Annotated[dict[str, object], Field(max_length=16)] | None = Ignored
    prediction: Annotated[dict[str, object], Field(max_length=16)] | None = Ignored
    prompt_cache_key: Short | None = Ignored
    prompt_cache_retention: Short | None = Ignored
    reasoning_effort: Short | None = Ignored
    safety_identifier: Short | None = Ignored
    service_tier: Short | None = Ignored
    store: bool | None = Ignored
    verbosity: Short | None = Ignored

    def told(self) -> list[Message]:
        """Return the messages for the engine.

        Raises ConfigError, which names the message, for an invalid image, tool call or tool result.
        """
        names: dict[str, str] = {}
        return [_message(message, f"messages.{number}", names) for number, message in enumerate(self.messages)]

    def chat_options(self) -> ChatOptions:
        tools = self.tools if self.tools and self.tool_choice != "none" else []
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        definitions = tuple(tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools)
        return self.options(max_tokens=min(limits, default=None), tools=definitions)


class CompletionBody(Sampled):
    prompt: LongText | Annotated[list[LongText], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: Literal[""] | None = None

    def told(self) -> list[Message]:
        """Return the prompt as the only message of a chat.

        Ollama does the same, since the models are made for chats.
        """
        return [Message(role="user", content=self.prompt if isinstance(self.prompt, str) else self.prompt[0])]


class EmbeddingBody(Asked):
    model: ModelName
    input: LongText | Annotated[list[LongText], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    user: Short | None = Ignored

    @model_validator(mode="before")
    @classmethod
    def _with_whole_characters(cls, body: object) -> object:
        return _whole(body)


def _message(message: AnyMessage, place: str, names: dict[str, str]) -> Message:
    """Return a message for the engine.

    Args:
        message: The client's message.
        place: The message's position in the request, for errors: messages.0, ...
        names: The names of the tools that were called so far, by the id of the call. The calls of
            this message are added.

    Raises ConfigError for an invalid image or tool call, and for the result of an unknown call.
    """
    match message:
        case SystemMessage():
            return Message(role="system", content=_text(message.content))
        case ToolMessage():
            if message.tool_call_id not in names:
                raise ConfigError(
                    f"{place}.tool_call_id: no earlier message has a tool call with this id: send the message with the "
                    "call first"
                )
            return RichMessage(role="user", content=_text(message.content), tool_name=names[message.tool_call_id])
        case AssistantMessage():
            calls = [(call.id, _call(call, place)) for call in message.tool_calls or ()]
            names.update((id, call.name) for id, call in calls)
            said = _text(message.content or "")
            return (
                RichMessage(role="assistant", content=said, tool_calls=tuple(call for _, call in calls))
                if calls
                else _answer(said)
            )
    parts = [] if isinstance(message.content, str) else message.content
    images = tuple(_image(part.image_url.url, place) for part in parts if isinstance(part, ImagePart))
    said = _text(message.content)
    return RichMessage(role="user", content=said, images=images) if images else Message(role="user", content=said)


def _answer(said: str) -> Message:
    return Message(role="assistant", content=said)


def _text(content: str | Sequence[TextPart | ImagePart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _call(call: Call, place: str) -> ToolCall:
    try:
        arguments = _whole(parse_json(call.function.arguments or "{}"))
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ConfigError(f"{place}.tool_calls: the arguments of {call.function.name} must be a JSON object")
    return ToolCall(call.function.name, arguments)


def _image(url: str, place: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        image = base64.b64decode(data, validate=True) if head.endswith(";base64") else b""
    except binascii.Error:
        image = b""
    if not image_type(image):
        raise ConfigError(f"{place}: this is not an image: send PNG, JPEG, GIF or WebP as data:image/png;base64,...")
    return image


_MOST_FIELDS = 60  # maximum number of a body's fields; reporting a million unknown ones would take seconds


def image_type(image: bytes) -> str:
    """Return the media type of an image by its first bytes; "" if it is not PNG, JPEG, GIF or WebP."""
    return next((kind for sign, kind in _SIGNS.items() if image.startswith(sign)), "")


def _whole(value: object, depth: int = 0) -> object:
    """Return JSON data in which characters that UTF-8 cannot encode are replaced.

    Raises ValueError if the data are nested too deeply or have too many fields.
    """
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep: simplify it")
    if isinstance(value, dict) and not depth and len(value) > _MOST_FIELDS:
        raise ValueError(f"it has more than {_MOST_FIELDS} fields: leave some out")
    if isinstance(value, dict):
        return {whole_characters(name): _whole(each, depth + 1) for name, each in value.items()}
    return [_whole(each, depth + 1) for each in value] if isinstance(value, list) else whole_characters(value)
