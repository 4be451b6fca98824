"""Convert byoai's messages, tools and options to the types of Ollama's client, and the client's answers back."""

import base64
import json
from typing import Any

import ollama
from pydantic import ValidationError

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ChatOptions, RichMessage, ToolCall
from fine_tuning.engines.neutral import Neutraliser
from fine_tuning.errors import EngineError, NotSupported


def json_body(body: object) -> bytes | None:
    """Return the body of a request as JSON; None for no body.

    Raises EngineError for values that JSON cannot express, and for text that is not valid Unicode.
    """
    try:
        return (
            None
            if body is None
            else json.dumps(body, ensure_ascii=False, allow_nan=False, default=_plain).encode("utf-8")
        )
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise EngineError(
            f"the text cannot be sent, because it contains an incomplete character (U+{ord(found):04X}): type it again "
            "as UTF-8"
        ) from error
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"the request cannot be sent to the engine: {error}. Change the setting or the tool that has this value"
        ) from error


def _plain(value: object) -> object:
    """Return the bytes of a file, or a tool, as a JSON value. Raises TypeError for any other value."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, ollama.Tool):
        return value.model_dump(exclude_none=True)
    raise TypeError(f"a value of the type {type(value).__name__} cannot be written as JSON")


def conversation(tag: str, messages: list[dict[str, object]]) -> dict[str, Any]:
    # think=False in both `render` and `chat`, since byoai logs and trains on answers without thoughts.
    # Models that do not think ignore it.
    return {"model": tag, "messages": messages, "think": False}


def sent_message(message: Message, neutral: Neutraliser) -> dict[str, object]:
    """Return a message in the form that Ollama's client takes.

    The message's content must already be neutralised (neutral.py); `neutral` is applied to the
    names and arguments of its tool calls.
    """
    sent: dict[str, object] = {"role": message.role, "content": message.content}
    if isinstance(message, RichMessage):
        calls = [
            {"function": {"name": neutral(call.name), "arguments": neutral.data(call.arguments)}}
            for call in message.tool_calls
        ]
        tool = {"role": "tool", "tool_name": neutral(message.tool_name)} if message.tool_name else {}
        # Images are bytes, since the client would read a text as the path of a file.
        sent |= tool | {
            name: value for name, value in (("images", list(message.images)), ("tool_calls", calls)) if value
        }
    return sent


def client_tool(definition: dict[str, object]) -> ollama.Tool:
    """Return a tool in the form that Ollama's client takes. Raises NotSupported if the client rejects it."""
    try:
        return ollama.Tool.model_validate(definition)
    except ValidationError as error:
        fault = error.errors()[0]
        raise NotSupported(
            f"Ollama does not take this tool: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from error


def tool_calls_of(part: ollama.ChatResponse) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.function.name, dict(call.function.arguments)) for call in part.message.tool_calls or ())


def client_options(options: ChatOptions) -> dict[str, Any]:
    given = {
        "temperature": options.temperature,
        "seed": options.seed,
        "num_predict": options.max_tokens,
        "num_ctx": options.context,
        "top_p": options.top_p,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    return {key: value for key, value in given.items() if value is not None}


def last_chunk(text: str, part: ollama.ChatResponse) -> ChatChunk:
    return ChatChunk(
        text,
        done=True,
        done_reason=part.done_reason or "",
        prompt_tokens=(part.prompt_eval_count or 0),
        tokens=(part.eval_count or 0),
        seconds=(part.total_duration or 0) / 1e9,
        tool_calls=tool_calls_of(part),
    )
