"""Serve models with llama.cpp in a child process, for machines without Ollama.

EmbeddedEngine implements `base.Engine`. The same model gives the same answers as in Ollama. Its
models are in a folder (embedded_store.py); one of them is in memory at a time.
"""

import contextlib
import importlib.metadata
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import (
    ChatChunk,
    ChatOptions,
    Embeddings,
    ModelDetails,
    ModelSpec,
    ModelSummary,
    RichMessage,
    full_tag,
    tokens_wanted,
)
from fine_tuning.engines.embedded_store import Store, Tag
from fine_tuning.engines.gguf_header import GgufHeader
from fine_tuning.engines.jinja import check_template, render_chat, render_chats
from fine_tuning.engines.native import Native, threads
from fine_tuning.engines.neutral import Neutraliser, Render, neutraliser_for
from fine_tuning.engines.structure import structural_tokens
from fine_tuning.errors import EngineError, NotSupported

_PATIENCE = 600  # seconds that a caller waits for the model to become free
DEFAULT_CONTEXT = 4096  # tokens; Ollama's default on a machine with little memory
# Ollama's defaults (api.DefaultOptions), so that a tag gives the same answers in both engines.
_DEFAULTS: dict[str, float] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@dataclass
class _Loaded:
    """The model that is in memory."""

    tag: str
    key: tuple[str, str | None, int]  # weights, adapter, context
    model: Native

    @property
    def context(self) -> int:
        """The requested context length in tokens, which llama.cpp may round up."""
        return self.key[2]


class EmbeddedEngine:
    name = "embedded"

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or paths.engine_dir()
        self.where = str(folder)
        self._store = Store(folder)
        self._model_lock = threading.Lock()  # guards the one model in memory between threads
        self._loaded: _Loaded | None = None

    def version(self) -> str:
        return importlib.metadata.version("llama-cpp-python")

    def list_models(self) -> list[ModelSummary]:
        return self._store.summaries()

    def show(self, tag: str) -> ModelDetails:
        full, entry = self._store.read(tag)
        header = self._store.header(full, entry)
        spec = ModelSpec(
            from_=header.path,
            adapter=self._store.blob(entry.adapter) if entry.adapter else None,
            template=entry.template,
            system=entry.system,
            parameters=entry.parameters,
            license=entry.license,
        )
        return ModelDetails(
            tag=full,
            digest=entry.digest(),
            gguf=header.path,
            gguf_digest=entry.gguf,
            spec=spec,
            chat_template=header.chat_template,
            context_length=header.context_length,
            family=header.architecture,
            parameter_size=header.parameter_size,
            quantization=header.quantization,
        )

    def render(self, tag: str, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
        """Render the prompt as `Engine.render` describes, without loading the model."""
        _check_plain(messages, tools)
        return self.render_many(tag, [messages])[0]

    def render_many(self, tag: str, chats: Sequence[Sequence[Message]]) -> list[str]:
        full, entry = self._store.read(tag)
        return _render(self._store.header(full, entry), entry, chats)

    def chat(self, tag: str, messages: Sequence[Message], options: ChatOptions | None = None) -> Iterator[ChatChunk]:
        """Stream the answer; leave out the oldest turns if the conversation exceeds the context, as Ollama does.

        Only one answer is generated at a time: other callers wait until it ends or is closed.
        """
        options = options or ChatOptions()
        _check_plain(messages, options.tools)
        started = time.monotonic()
        with self._alone():
            full, entry = self._store.read(tag)
            held = self._load(full, entry, options.context)
            tokens = _fit(held, self._store.header(full, entry), entry, messages)
            limit = held.context - len(tokens)
            wanted = tokens_wanted(options, entry.parameters)
            stops = [text for text in (*entry.parameters.get("stop", []), *options.stop) if text]
            asked = (
                tokens,
                *_sampling(entry.parameters, options),
                limit if wanted is None else min(wanted, limit),
                stops,
            )
            with contextlib.closing(held.model.stream("answer", *asked)) as pieces:
                for text, done, reason, count in pieces:
                    yield (
                        ChatChunk(text, True, reason, len(tokens), count, time.monotonic() - started)
                        if done
                        else ChatChunk(text)
                    )

    def embed(self, tag: str, texts: Sequence[str], dimensions: int | None = None) -> Embeddings:
        raise NotSupported(f"the embedded engine cannot compute embeddings: start Ollama, {_IN_ITS_PLACE}")

    def create(self, tag: str, spec: ModelSpec) -> None:
        full = full_tag(tag)
        if spec.renderer or spec.parser:
            raise EngineError(
                f"{tag} needs {spec.renderer or spec.parser!r}, which renders chats within Ollama and is not in the "
                "embedded engine: give the model a chat template (in Jinja), or use Ollama"
            )
        with self._store.writing():
            entry = self._store.add(spec)
            if entry.template:
                check_template(entry.template)
            self._store.write(full, entry)

    def copy(self, source: str, target: str) -> None:
        full = full_tag(target)
        with self._store.writing():
            _, entry = self._store.read(source)
            self._store.write(full, entry)

    def delete(self, tag: str) -> None:
        full, _ = self._store.read(tag)
        self.unload(full)
        with self._store.writing():
            self._store.remove(full)

    def warm(self, tag: str) -> None:
        with self._alone():
            self._load(*self._store.read(tag))

    def unload(self, tag: str | None = None) -> list[str]:
        """Unload the model once no answer is being streamed; return its tag in a list, [] if it was not loaded."""
        with self._alone():
            held = self._loaded
            if held is None or (tag is not None and not self._is(held, full_tag(tag))):
                return []
            there = held.model.alive
            held.model.close()
            self._loaded = None
            return [held.tag] if there else []

    def loaded(self) -> list[str]:
        """Return the tag of the model that this process has loaded, in a list; [] if there is none."""
        held = self._loaded
        return [held.tag] if held and held.model.alive else []

    @property
    def busy(self) -> bool:
        """Whether an answer is being generated, or a model loaded."""
        return self._model_lock.locked()

    # The model in memory

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the model's lock within the `with` block. Raises EngineError after ten minutes of waiting for it."""
        if not self._model_lock.acquire(timeout=_PATIENCE):
            raise EngineError("another answer has been running for ten minutes: wait for it, or stop it and ask again")
        try:
            yield
        finally:
            self._model_lock.release()

    def _load(self, full: str, entry: Tag, context: int | None = None) -> _Loaded:
        """Load the model of the tag `full` in place of any other; return it. The caller must hold `_model_lock`."""
        trained = self._store.header(full, entry).context_length or DEFAULT_CONTEXT
        key = (entry.gguf, entry.adapter, min(context or entry.parameters.get("num_ctx") or DEFAULT_CONTEXT, trained))
        if self._loaded is None or self._loaded.key != key:
            if self._loaded:
                self._loaded.model.close()
                self._loaded = None
            adapter = str(self._store.blob(entry.adapter)) if entry.adapter else None
            model = Native(
                "fine_tuning.engines.llama:Chat", str(self._store.blob(entry.gguf)), adapter, key[2], threads()
            )
            self._loaded = _Loaded(full, key, model)
        self._loaded.model.start()  # a new child if the old one has died
        self._loaded.tag = full
        return self._loaded

    def _is(self, held: _Loaded, full: str) -> bool:
        """Return whether `held` is the model of the tag `full`, perhaps loaded under another tag."""
        entry = self._store.find(full)
        return held.tag == full or (entry is not None and held.key[:2] == (entry.gguf, entry.adapter))


_IN_ITS_PLACE = "which byoai then uses instead, and name a model that supports this"


def _check_plain(messages: Sequence[Message], tools: Sequence[object]) -> None:
    """Raise NotSupported if there are tools, or messages with anything but text."""
    if tools or not all(message.is_plain for message in messages if isinstance(message, RichMessage)):
        raise NotSupported(f"the embedded engine supports neither images nor tools: start Ollama, {_IN_ITS_PLACE}")


def _render(header: GgufHeader, entry: Tag, chats: Sequence[Sequence[Message]]) -> list[str]:
    template = entry.template or header.chat_template
    if not template:
        raise EngineError(f"{header.path} has no chat template: make the model again with one, written in Jinja")
    bos, eos = header.bos_token, header.eos_token
    render = partial(render_chat, template, bos_token=bos, eos_token=eos)
    chats = _neutraliser(entry.gguf, template, header.path, render).chats(chats)
    if entry.system:
        own = Message(role="system", content=entry.system)
        chats = [each if each and each[0].role == "system" else [own, *each] for each in chats]
    return render_chats(template, chats, bos_token=bos, eos_token=eos)


_neutralisers: dict[tuple[str, str], Neutraliser] = {}


def _neutraliser(gguf_digest: str, template: str, gguf: Path, render: Render) -> Neutraliser:
    """Return the neutraliser (neutral.py) for a vocabulary and for the template that `render` uses; cached."""
    key = gguf_digest, template
    if key not in _neutralisers:
        _neutralisers[key] = neutraliser_for(structural_tokens(gguf), render)
    return _neutralisers[key]


def _fit(held: _Loaded, header: GgufHeader, entry: Tag, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of the conversation, without its oldest turns if they exceed three quarters of the context.

    The last quarter is for the answer. Raises EngineError if the last turn alone is too long.
    """
    room = held.context * 3 // 4
    kept = list(messages)
    while len(tokens := _encode(held.model, header, *_render(header, entry, [kept]))) > room:
        users = [index for index, message in enumerate(kept) if message.role == "user"]
        if len(users) < 2:
            raise EngineError(
                f"the message is too long: it has {len(tokens)} tokens, but only {room} fit. Shorten it, or raise the "
                "context (num_ctx)."
            )
        kept = [message for message in kept[: users[1]] if message.role == "system"] + kept[users[1] :]
    return tokens


def _encode(model: Native, header: GgufHeader, prompt: str) -> list[int]:
    # do not add the begin token if the template has written it
    written = bool(header.bos_token) and prompt.startswith(header.bos_token)
    tokens: list[int] = model.call("encode", prompt, True, not written)
    return tokens


def _sampling(parameters: dict[str, Any], options: ChatOptions) -> tuple[dict[str, object], int, int]:
    """Return the sampling arguments of `llama.Chat.answer`, from the options, the tag's parameters and the defaults.

    They are the keyword arguments of `Llama.generate`, the seed, and the number of last tokens that
    penalties consider.
    """
    settings = {name: parameters.get(name, default) for name, default in _DEFAULTS.items()}
    asked = {name: getattr(options, name) for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty")}
    settings |= {name: value for name, value in asked.items() if value is not None}
    seed = options.seed if options.seed is not None else parameters.get("seed", -1)
    return (
        {"temp": settings.pop("temperature"), **settings},
        seed if seed >= 0 else secrets.randbits(31),
        parameters.get("repeat_last_n", 64),
    )
