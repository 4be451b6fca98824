"""The Engine protocol: all that the rest of byoai knows of what serves the models.

The same contract tests (tests/engines/test_contract.py) run against every implementation.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fine_tuning.conversation import Message
from fine_tuning.errors import EngineError

# [host/][namespace/]model:version, as Ollama reads names (types/model/name.go); no part longer than
# the name of a file may be.
_TAG = re.compile(r"(\w[\w.:-]{0,199}/){0,2}\w[\w.-]{0,79}:\w[\w.-]{0,79}", re.ASCII)

_DEFAULT_PLACE = re.compile(r"(?:registry\.ollama\.ai/(?=[^/]+/))?(?:library/(?=[^/]+\Z))?", re.IGNORECASE)


def full_tag(tag: str) -> str:
    """Return `tag` in full, as Ollama lists it: "library/llama3" is "llama3:latest".

    It has its version, but not the parts that every tag has by default. EngineError if it cannot be
    the name of a model.
    """
    full = tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
    if not _TAG.fullmatch(full) or ".." in full:
        raise EngineError(f"{tag!r} cannot name a model: use name:version with letters, digits, '.', '_' and '-'")
    return _DEFAULT_PLACE.sub("", full)


def known_tag(tag: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` tags that `tag` names, as it is spelled there; None if none is.

    Engines take a name in any case.
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
    parameter_size: str = ""  # as the engine says it, e.g. "134.52M"
    quantization: str = ""  # e.g. "Q4_1"


@dataclass(frozen=True)
class ModelSpec:
    """What a tag is made of; what a Modelfile says. Read by `show`, written by `create`."""

    from_: str | Path  # a tag of the engine, or the path of a GGUF
    adapter: Path | None = None  # the path of an adapter GGUF
    template: str | None = None  # None: the engine takes the GGUF's own
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)  # e.g. {"stop": ["<|im_end|>"], "temperature": 0.2}
    renderer: str | None = None  # Ollama's RENDERER and PARSER
    parser: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class ModelDetails:
    """What `show` tells of one tag.

    EngineError without digests: they tell later what was made of which model.
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
    """A model asks for a tool to be run."""

    name: str
    arguments: dict[str, object]


class RichMessage(Message):
    """A message with what only some engines and models take. Only a message from outside of the log is one."""

    images: tuple[bytes, ...] = ()  # files: PNG, JPEG ...
    tool_calls: tuple[ToolCall, ...] = ()  # what an earlier answer asked for
    # the tool whose result the content is; whatever `role` says, the engine is told that a tool
    # speaks
    tool_name: str = ""

    @property
    def is_plain(self) -> bool:
        return not (self.images or self.tool_calls or self.tool_name)


@dataclass(frozen=True)
class ChatChunk:
    """A piece of a streamed answer. Only the last has `done`; it may carry counts and times."""

    text: str
    done: bool = False
    done_reason: str = ""  # "stop" (ended by itself) or "length"
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ChatOptions:
    temperature: float | None = None  # None: the model's own setting; 0: greedy
    seed: int | None = None
    max_tokens: int | None = None
    default_max_tokens: int | None = None  # where neither `max_tokens` nor the model's own settings limit the answer
    context: int | None = None  # tokens; None: the engine's choice
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()  # texts that end the answer, besides the model's own
    tools: tuple[dict[str, object], ...] = ()  # {"type": "function", "function": {"name", "description", "parameters"}}


def tokens_wanted(options: ChatOptions, parameters: Mapping[str, Any]) -> int | None:
    """Return how many tokens an answer may have by these options and the model's own parameters; None: no limit."""
    own = parameters.get("num_predict", -1)
    wanted = options.max_tokens if options.max_tokens is not None else own if own >= 0 else options.default_max_tokens
    return None if wanted is None or wanted < 0 else wanted


@dataclass(frozen=True)
class Embeddings:
    vectors: list[list[float]]  # one for each text, in their order
    prompt_tokens: int


class Engine(Protocol):
    """What serves the models.

    Raises EngineUnavailable when it cannot be reached, ModelNotFound for an unknown tag,
    NotSupported for images, tools or embeddings where the engine or the model has none, EngineError
    for the rest.
    """

    name: str  # "ollama" or "embedded"
    where: str  # URL or folder, for messages

    def version(self) -> str: ...

    def list_models(self) -> list[ModelSummary]: ...

    def show(self, tag: str) -> ModelDetails: ...

    def render(self, tag: str, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
        """Return the exact text that the model would be fed for `messages`, never truncated.

        The generation prompt is included. As in `chat`, nothing in messages and tools acts as
        structure (engines/neutral.py); only the tag's own system text may.
        """
        ...

    def chat(self, tag: str, messages: Sequence[Message], options: ChatOptions | None = None) -> Iterator[ChatChunk]:
        """Stream the answer. Closing the iterator stops the generation."""
        ...

    def embed(self, tag: str, texts: Sequence[str], dimensions: int | None = None) -> Embeddings:
        """Return a vector for each text, of `dimensions` numbers where the model lets one choose."""
        ...

    def create(self, tag: str, spec: ModelSpec) -> None:
        """Make `tag`; all or nothing. An existing tag is replaced."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Make `target` name what `source` names, at once (how `latest` moves)."""
        ...

    def delete(self, tag: str) -> None: ...

    def warm(self, tag: str) -> None:
        """Load the model, so that the first answer comes at once."""
        ...

    def unload(self, tag: str | None = None) -> list[str]:
        """Free the memory of one model, or of all; return which were loaded."""
        ...

    def loaded(self) -> list[str]:
        """Return the tags that are in memory now."""
        ...


def digest_of(engine: Engine, tag: str) -> str:
    """Return the digest by which the engine lists a tag; "" if it does not list it."""
    digests = {model.tag: model.digest for model in engine.list_models()}
    return digests.get(known_tag(tag, digests) or "", "")
