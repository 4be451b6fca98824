"""Define the protocol Engine: the interface through which byoai uses the program that serves models.

The same contract tests (tests/engines/test_contract.py) run against every implementation.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fine_tuning.conversation import Message
from fine_tuning.errors import EngineError

# [host/][namespace/]model:version, as Ollama parses names (types/model/name.go); parts are limited
# to the length of a file name.
_TAG = re.compile(r"(\w[\w.:-]{0,199}/){0,2}\w[\w.-]{0,79}:\w[\w.-]{0,79}", re.ASCII)

_DEFAULT_PLACE = re.compile(r"(?:registry\.ollama\.ai/(?=[^/]+/))?(?:library/(?=[^/]+\Z))?", re.IGNORECASE)


def full_tag(tag: str) -> str:
    """Return `tag` in the form in which Ollama lists it: "library/llama3" becomes "llama3:latest".

    A missing version is added, and the default host and namespace are removed. Raises EngineError
    if `tag` is not a valid name.
    """
    full = tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
    if not _TAG.fullmatch(full) or ".." in full:
        raise EngineError(f"{tag!r} cannot name a model: use name:version with letters, digits, '.', '_' and '-'")
    return _DEFAULT_PLACE.sub("", full)


def known_tag(tag: str, known: Iterable[str]) -> str | None:
    """Return the tag in `known` that `tag` refers to; None if there is none.

    Case is ignored, as in the engines. The result is spelled as in `known`, whose tags must be in
    the form that `full_tag` returns.
    """
    try:
        wanted = full_tag(tag).casefold()
    except EngineError:
        return None
    return next((each for each in known if each.casefold() == wanted), None)


@dataclass(frozen=True)
class ModelSummary:
    tag: str  # always with its version, e.g. "smollm2:135m", "llama3:latest"
    digest: str  # of the whole model (manifest), hexadecimal; equal digests are equal models
    size: int  # bytes
    family: str = ""
    parameter_size: str = ""  # as the engine writes it, e.g. "134.52M"
    quantization: str = ""  # e.g. "Q4_1"


@dataclass(frozen=True)
class ModelSpec:
    """The definition of a model tag, as in a Modelfile. `Engine.create` takes it; `Engine.show` returns it."""

    from_: str | Path  # a tag of the engine, or the path of a GGUF
    adapter: Path | None = None  # the path of an adapter GGUF
    template: str | None = None  # the chat template; None: the engine uses the GGUF's
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)  # e.g. {"stop": ["<|im_end|>"], "temperature": 0.2}
    renderer: str | None = None  # Ollama's RENDERER and PARSER
    parser: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class ModelDetails:
    """The details of one tag, as `show` returns them.

    Raises EngineError if a digest is empty, since byoai identifies models by their digests.
    """

    tag: str  # spelled as the engine lists it
    digest: str  # of the whole model, as in ModelSummary
    gguf: Path  # the base weights' file, readable
    gguf_digest: str  # sha256 of that file, hexadecimal
    spec: ModelSpec  # from_ is `gguf`; adapter is the adapter's path if the tag has one
    chat_template: str | None = None  # the Jinja template inside the GGUF
    context_length: int = 0  # tokens the model was trained for
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""

    def __post_init__(self) -> None:
        if not self.digest or not self.gguf_digest:
            raise EngineError(
                f"the engine does not say which model {self.tag} is (it has no digest): make or pull it again"
            )


@dataclass(frozen=True)
class ToolCall:
    """A model's request to run a tool."""

    name: str
    arguments: dict[str, object]


class RichMessage(Message):
    """A message with content that only some engines and models support: images and tool calls.

    Messages in the log are never of this class.
    """

    images: tuple[bytes, ...] = ()  # files: PNG, JPEG ...
    tool_calls: tuple[ToolCall, ...] = ()  # the tool calls of an earlier answer
    tool_name: str = ""  # the tool whose result this message is; it is then sent with the role "tool"

    @property
    def is_plain(self) -> bool:
        return not (self.images or self.tool_calls or self.tool_name)


@dataclass(frozen=True)
class ChatChunk:
    """A piece of a streamed answer. Only the last piece has `done`, the token counts and the seconds set."""

    text: str
    done: bool = False
    done_reason: str = ""  # "stop" (the model ended the answer) or "length" (the limit was reached)
    prompt_tokens: int = 0  # tokens of the prompt
    tokens: int = 0  # tokens of the answer
    seconds: float = 0.0  # for the whole request
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ChatOptions:
    temperature: float | None = None  # None: the model's own setting; 0: greedy
    seed: int | None = None
    max_tokens: int | None = None
    default_max_tokens: int | None = None  # used if neither `max_tokens` nor the model's settings limit the answer
    context: int | None = None  # tokens; None: the engine's choice
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()  # stop texts in addition to the model's
    tools: tuple[dict[str, object], ...] = ()  # {"type": "function", "function": {"name", "description", "parameters"}}


def tokens_wanted(options: ChatOptions, parameters: Mapping[str, Any]) -> int | None:
    """Return the maximum number of tokens of an answer; None for no limit.

    It is `options.max_tokens`, else the limit in the model's `parameters`, else
    `options.default_max_tokens`.
    """
    own = parameters.get("num_predict", -1)
    wanted = options.max_tokens if options.max_tokens is not None else own if own >= 0 else options.default_max_tokens
    return None if wanted is None or wanted < 0 else wanted


@dataclass(frozen=True)
class Embeddings:
    vectors: list[list[float]]  # one for each text, in their order
    prompt_tokens: int


class Engine(Protocol):
    """The interface of a program that serves models.

    All methods raise EngineUnavailable if the engine cannot be reached, ModelNotFound for an
    unknown tag, NotSupported for images, tools or embeddings that the engine or the model does not
    support, and EngineError for other failures.
    """

    name: str  # "ollama" or "embedded"
    where: str  # URL or folder, for messages

    def version(self) -> str: ...

    def list_models(self) -> list[ModelSummary]: ...

    def show(self, tag: str) -> ModelDetails: ...

    def render(self, tag: str, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
        """Return the exact prompt text that the model would get for `messages`, never truncated.

        The text ends with the beginning of an answer (the generation prompt). As in `chat`, markers
        in messages and tools are broken so that they cannot act as structure (engines/neutral.py);
        markers in the tag's own system prompt are kept.
        """
        ...

    def render_many(self, tag: str, chats: Sequence[Sequence[Message]]) -> list[str]:
        """Return the result of `render` for each of `chats`, which must be texts only; faster than one by one."""
        ...

    def chat(self, tag: str, messages: Sequence[Message], options: ChatOptions | None = None) -> Iterator[ChatChunk]:
        """Stream the model's answer to `messages` in pieces. Closing the iterator stops the generation."""
        ...

    def embed(self, tag: str, texts: Sequence[str], dimensions: int | None = None) -> Embeddings:
        """Return a vector for each text. `dimensions`: length of a vector, if the model offers a choice."""
        ...

    def create(self, tag: str, spec: ModelSpec) -> None:
        """Create `tag` from `spec`; an existing tag is replaced. On failure nothing changes."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Make `target` refer to the model of `source`, atomically.

        byoai puts a version into use by copying its tag to `latest`.
        """
        ...

    def delete(self, tag: str) -> None: ...

    def warm(self, tag: str) -> None:
        """Load the model of `tag` into memory, so that its first answer starts without delay."""
        ...

    def unload(self, tag: str | None = None) -> list[str]:
        """Unload the model of `tag`, or all models; return the tags of those that were loaded."""
        ...

    def loaded(self) -> list[str]:
        """Return the tags of the models in memory."""
        ...


@dataclass(frozen=True)
class Rendering:
    """Renders messages with an engine's chat template for the model `tag`. It implements `rows.RendersMany`."""

    engine: Engine
    tag: str

    def __call__(self, messages: Sequence[Message]) -> str:
        return self.engine.render(self.tag, messages)

    def many(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        return self.engine.render_many(self.tag, chats)


def digest_of(engine: Engine, tag: str) -> str:
    """Return the digest of the model of `tag`, as the engine lists it; "" for an unknown tag."""
    digests = {model.tag: model.digest for model in engine.list_models()}
    return digests.get(known_tag(tag, digests) or "", "")
