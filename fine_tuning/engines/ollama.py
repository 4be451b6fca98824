"""Use an Ollama server through its client, the `ollama` package.

Requests that the client does not support are sent by `_raw`; a comment at each says what the client
lacks. Sources: docs/api.md, server/routes.go and api/types.go of Ollama.
"""

import contextlib
import os
import re
import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx
import ollama

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import (
    ChatChunk,
    ChatOptions,
    Embeddings,
    ModelDetails,
    ModelSpec,
    ModelSummary,
    full_tag,
    known_tag,
    tokens_wanted,
)
from fine_tuning.engines.gguf_header import GgufHeader, check_adapter, check_model, read_header
from fine_tuning.engines.neutral import Neutraliser, neutraliser_for
from fine_tuning.engines.ollama_messages import (
    client_options,
    client_tool,
    conversation,
    json_body,
    last_chunk,
    sent_message,
    tool_calls_of,
)
from fine_tuning.engines.ollama_show import Listed, chats_here, spec_of, summary_of
from fine_tuning.engines.ollama_url import DEFAULT_URL, auth_of, bad_url, is_loopback, server_url, without_password
from fine_tuning.engines.structure import structural, structural_tokens
from fine_tuning.errors import EngineError, EngineUnavailable, ModelNotFound, NotSupported

MINIMUM_VERSION = "0.17.1"  # older versions misread some GGUF files

_QUICK = httpx.Timeout(30, connect=5)
_SLOW = httpx.Timeout(None, connect=5)  # no read limit, since loading a model or a long answer may take minutes
_FACTS = ("template", "system", "license")
_JSON = {"content-type": "application/json"}
_CANNOT = (400, 501)  # status codes for tools, images or embeddings that a model does not support
_INNER = re.compile(r'"message":"([^"\\]+)"')


@dataclass(frozen=True)
class Pulled:
    """The progress of a pull."""

    status: str  # what Ollama is doing, in its own words
    done: int  # bytes of the current file received so far
    total: int  # bytes of the current file


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Return the certificates for all clients: reading them takes longer than most requests."""
    return httpx.create_ssl_context(trust_env=trust_env)


class OllamaEngine:
    name = "ollama"

    def __init__(self, url: str = DEFAULT_URL) -> None:
        """Prepare the connection, without sending a request yet.

        `url` may have any form of OLLAMA_HOST: `host`, `host:port`, `http://host:port`.
        """
        address = server_url(url)
        self.where = without_password(address)
        settings: dict[str, Any] = {
            "trust_env": not is_loopback(address),  # the environment's proxy must not be used for a local server
            "auth": auth_of(address),
            "follow_redirects": False,  # a server must not redirect requests to another host
            "verify": _certificates(not is_loopback(address)),
        }
        try:
            self._quick = ollama.Client(address, timeout=_QUICK, **settings)
            self._patient = ollama.Client(address, timeout=_SLOW, **settings)
            self._http = httpx.Client(base_url=address, timeout=_QUICK, **settings)
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: the environment names an invalid proxy
            raise bad_url(url) from error
        self._neutral: dict[str, Neutraliser] = {}  # cached by the model's digest

    def version(self, timeout: float | None = None) -> str:
        """Return Ollama's version. `timeout`: in seconds.

        Raises EngineUnavailable if nothing answers, or if what answers is not Ollama.
        """
        # The client has no method for this.
        answer = self._raw("GET", "/api/version", timeout=httpx.Timeout(timeout) if timeout else _QUICK)
        if not isinstance(answer, dict) or "version" not in answer:
            raise EngineUnavailable(f"The server at {self.where} is not Ollama. Check the URL.")
        return str(answer["version"])

    def list_models(self) -> list[ModelSummary]:
        """Return the models that can chat on this machine, newest first; cloud and embedding models are left out."""
        entries = self._entries()
        # Ollama sorts by whole seconds, and randomly within a second.
        entries.sort(key=lambda entry: (entry.get("modified_at", ""), entry["name"]), reverse=True)
        return [summary_of(entry) for entry in entries if chats_here(entry)]

    def _entries(self) -> list[Listed]:
        answer = self._raw("GET", "/api/tags")  # the client omits `capabilities` and `remote_host`
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"The server at {self.where} does not respond like Ollama. Check the URL.")
        return answer.get("models") or []

    def show(self, tag: str) -> ModelDetails:
        shown = self._raw("POST", "/api/show", {"model": tag})  # the client omits `system`
        full, digest = self._named(tag)
        spec = spec_of(shown)
        gguf = Path(spec.from_)
        self._check_readable(full, gguf)
        details = shown.get("details", {})
        header = read_header(gguf)
        return ModelDetails(
            tag=full,
            digest=digest,
            gguf=gguf,
            gguf_digest=gguf.name.removeprefix("sha256-"),  # Ollama names its files by their hash
            spec=spec,
            chat_template=header.chat_template,
            context_length=header.context_length,
            family=details.get("family", ""),
            parameter_size=details.get("parameter_size", ""),
            quantization=details.get("quantization_level", ""),
        )

    def render(self, tag: str, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
        """Render the prompt as `Engine.render` describes.

        This loads the model, since Ollama renders only for loaded models. Further calls take
        milliseconds.
        """
        return self._render(self._conversation(tag, messages, tools, {}), {})

    def render_many(self, tag: str, chats: Sequence[Sequence[Message]]) -> list[str]:
        return [self.render(tag, messages) for messages in chats]

    def _render(self, body: dict[str, object], options: dict[str, object]) -> str:
        """Return the prompt that Ollama would give the model for the chat request `body`.

        The texts in `body` must already be neutralised (neutral.py).
        """
        # The client does not support `_debug_render_only` and `truncate`. Without truncate=False,
        # messages that exceed num_ctx are dropped silently (chatPrompt in server/prompt.go).
        asked = {**body, "stream": False, "options": options, "truncate": False, "_debug_render_only": True}
        answer = self._raw("POST", "/api/chat", asked, timeout=_SLOW)
        if "_debug_info" not in answer:
            raise EngineError(
                f"Ollama at {self.where} is too old: it cannot return the prompt that it renders for {body['model']}. "
                "Update Ollama: https://ollama.com/download"
            )
        prompt: str = answer["_debug_info"]["rendered_template"]
        return prompt

    def chat(self, tag: str, messages: Sequence[Message], options: ChatOptions | None = None) -> Iterator[ChatChunk]:
        options = options or ChatOptions()
        given = client_options(options)
        if options.stop:  # the request's stop texts replace the model's, so send both
            given["stop"] = [*self._shown(tag).parameters.get("stop", []), *filter(None, options.stop)]
        if options.max_tokens is None and options.default_max_tokens is not None:
            given["num_predict"] = tokens_wanted(options, self._shown(tag).parameters)
        body = self._conversation(tag, messages, options.tools, given)
        json_body([body, given])
        answer = cast("Generator[ollama.ChatResponse]", self._patient.chat(**body, options=given, stream=True))
        with self._mapped(), contextlib.closing(answer) as parts:
            for part in parts:  # closing the connection makes Ollama stop
                text = part.message.content or ""
                if part.done:
                    yield last_chunk(text, part)
                    return
                if text or part.message.tool_calls:
                    yield ChatChunk(text, tool_calls=tool_calls_of(part))
        # After 30 repetitions of a token Ollama ends the stream without a final message (llm/llama_server.go).
        yield ChatChunk("", done=True, done_reason="length")

    def embed(self, tag: str, texts: Sequence[str], dimensions: int | None = None) -> Embeddings:
        json_body([tag, list(texts)])
        here = [str(entry["name"]) for entry in self._entries() if not entry.get("remote_host")]
        if (known := known_tag(tag, here)) is None:  # Ollama might send the texts to a cloud model
            raise ModelNotFound(
                f"Ollama at {self.where} has no model {tag[:100]!r} on this machine. Its models: "
                f"{', '.join(here) or 'none'}."
            )
        try:
            with self._mapped():
                answer = self._patient.embed(known, list(texts), dimensions=dimensions)
        except NotSupported as error:
            raise NotSupported(
                f"{tag} cannot compute embeddings: name a model that is made for them (`ollama pull nomic-embed-text` "
                "gets one)"
            ) from error
        return Embeddings([list(vector) for vector in answer.embeddings], answer.prompt_eval_count or 0)

    def create(self, tag: str, spec: ModelSpec) -> None:
        full_tag(tag)
        source, facts = self._source(spec), {key: value for key in _FACTS if (value := getattr(spec, key))}
        json_body([spec.parameters, facts])
        if spec.renderer or spec.parser:  # fields that the client does not support
            more = {key: value for key in ("renderer", "parser") if (value := getattr(spec, key))}
            body = {
                "model": tag,
                "from": source["from_"],
                "files": source["files"],
                "adapters": source["adapters"],
                **facts,
                **more,
            }
            answer = self._raw(
                "POST", "/api/create", {**body, "parameters": spec.parameters, "stream": False}, timeout=_SLOW
            )
            status = answer.get("status")
        else:
            with self._mapped():
                status = self._patient.create(tag, parameters=spec.parameters, **source, **facts).status
        if status != "success":
            raise EngineError(
                f"Ollama did not finish making {tag}: it stopped at {status!r}. Look at its log, and try again."
            )

    def pull(self, tag: str) -> Iterator[Pulled]:
        """Pull the model `tag` from Ollama's library, and yield the progress.

        Closing the iterator stops the pull; the next pull of the model resumes it. Raises
        EngineError if the pull does not succeed.
        """
        json_body([full_tag(tag)])
        with self._mapped():
            answer = cast("Generator[ollama.ProgressResponse]", self._patient.pull(tag, stream=True))
            with contextlib.closing(answer) as parts:
                for part in parts:
                    yield Pulled(part.status or "", part.completed or 0, part.total or 0)
                    if part.status == "success":
                        return
        raise EngineError(f"Ollama did not finish pulling {tag}: try again, and it goes on from where it stopped")

    def copy(self, source: str, target: str) -> None:
        full_tag(target)
        json_body([source])
        with self._mapped():
            self._quick.copy(source, target)

    def delete(self, tag: str) -> None:
        self.unload(tag)
        with self._mapped():
            self._quick.delete(tag)

    def warm(self, tag: str) -> None:
        json_body([tag])
        with self._mapped():
            self._patient.chat(tag, messages=[])

    def unload(self, tag: str | None = None) -> list[str]:
        """Unload the model of `tag`, or all models; return the tags of those that were loaded.

        Waits until the memory is free, at most 10 s; an answer in progress is not interrupted. Tags
        that share a base also share the loaded model, so unloading one unloads them all.
        """
        full, wanted = self._named(tag) if tag else (None, "")  # a copy may be loaded under its original's name
        with self._mapped():
            entries = self._quick.ps().models or []
            targets = [
                str(entry.name) for entry in entries if full is None or entry.name == full or entry.digest == wanted
            ]
            for name in targets:
                self._quick.chat(name, messages=[], keep_alive=0)
        deadline = time.monotonic() + 10
        while set(targets) & set(self.loaded()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return targets

    def loaded(self) -> list[str]:
        with self._mapped():
            return [str(entry.name) for entry in self._quick.ps().models or []]

    def close(self) -> None:
        for client in (self._quick, self._patient, self._http):
            client.close()

    def _source(self, spec: ModelSpec) -> dict[str, Any]:
        """Upload the files of `spec` to Ollama's store; return the arguments of `create` that refer to them."""
        source: dict[str, Any] = {"from_": None, "files": None, "adapters": None}
        if isinstance(spec.from_, Path):
            base: GgufHeader | None = check_model(read_header(spec.from_))
            source["files"] = {"model.gguf": self._upload(spec.from_)}
        else:
            # Check first, since Ollama would try to download a missing base.
            shown = self._shown(spec.from_)
            base = read_header(Path(shown.from_)) if os.access(shown.from_, os.R_OK) else None
            if shown.adapter and spec.adapter:
                raise EngineError(
                    f"{spec.from_} has an adapter already, and a model can have only one: use {spec.adapter.name} "
                    f"with the base model of {spec.from_}"
                )
            source["from_"] = spec.from_
        if spec.adapter:
            check_adapter(read_header(spec.adapter), base)
            source["adapters"] = {"adapter.gguf": self._upload(spec.adapter)}
        return source

    def _upload(self, file: Path) -> str:
        """Upload `file` to Ollama's store unless it is already there; return its digest."""
        digest = "sha256:" + paths.sha256_of(file)
        with self._mapped():
            if not self._http.head(f"/api/blobs/{digest}").is_success:  # the client would upload it again
                self._patient.create_blob(file)
        return digest

    def _shown(self, tag: str) -> ModelSpec:
        """Return the definition of a tag, without its system prompt."""
        json_body([tag])
        with self._mapped():
            return spec_of(self._quick.show(tag).model_dump(exclude_none=True))

    def _named(self, tag: str) -> tuple[str, str]:
        """Return `tag` as Ollama lists it, and its digest ("" for an unknown tag)."""
        with self._mapped():
            digests = {str(entry.model): str(entry.digest) for entry in self._quick.list().models or []}
        name = known_tag(tag, digests)
        return (name, digests[name]) if name else (full_tag(tag), "")

    def _conversation(
        self, tag: str, messages: Sequence[Message], tools: Sequence[dict[str, object]], options: dict[str, object]
    ) -> dict[str, Any]:
        """Return the body of a chat request for these messages and tools.

        A space is inserted into every text in them that would act as structure, such as
        `<|im_end|>` (neutral.py).
        """
        neutral = self._neutraliser(tag, options)
        said = [sent_message(message, neutral) for message in neutral.messages(messages)]
        return {
            **conversation(tag, said),
            **({"tools": [client_tool(neutral.data(tool)) for tool in tools]} if tools else {}),
        }

    def _neutraliser(self, tag: str, options: dict[str, object]) -> Neutraliser:
        """Return the model's neutraliser (neutral.py), cached.

        `options` must equal the options of the chat that follows; with others, Ollama would load
        the model again.
        """
        _, digest = self._named(tag)
        neutral = self._neutral.get(digest)
        if neutral is None:
            neutral = neutraliser_for(
                self._structural_tokens(tag),
                lambda probe: self._render(conversation(tag, [each.model_dump() for each in probe]), options),
            )
            if digest:
                self._neutral[digest] = neutral
        return neutral

    def _structural_tokens(self, tag: str) -> list[str]:
        """Return the model's structural tokens, from its GGUF or, if that is not readable here, from Ollama."""
        gguf = self._shown(tag).from_
        if os.access(gguf, os.R_OK) and Path(gguf).is_file():
            return structural_tokens(Path(gguf))
        # The client does not support `verbose`.
        told = self._raw("POST", "/api/show", {"model": tag, "verbose": True}, timeout=_SLOW).get("model_info") or {}
        return structural(told.get("tokenizer.ggml.tokens") or [], told.get("tokenizer.ggml.token_type") or [])

    def _check_readable(self, tag: str, gguf: Path) -> None:
        if os.access(gguf, os.R_OK):
            return
        raise EngineError(
            f"Ollama at {self.where} keeps {tag} in {gguf}, which cannot be read from here. If it runs in a "
            "container or on another machine, mount its models folder at the same path, or run Ollama here; if it runs "
            "as another user, allow your user to read that folder."
        )

    def _raw(
        self, method: str, path: str, body: dict[str, object] | None = None, timeout: httpx.Timeout = _QUICK
    ) -> Any:
        sent = json_body(body)
        with self._mapped():
            response = self._http.request(method, path, content=sent, headers=_JSON, timeout=timeout)
            self._check(response)
            return response.json() if response.content else None

    def _check(self, response: httpx.Response) -> None:
        """Raise one of byoai's errors if the response has an error status."""
        if response.is_success:
            return
        try:
            said = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            said = f"{response.status_code} {response.reason_phrase}"
            if response.request.url.path == "/api/version":
                raise EngineUnavailable(f"The server at {self.where} is not Ollama ({said}). Check the URL.") from None
        self._refuse(said, response.status_code)

    def _refuse(self, said: str, status: int) -> NoReturn:
        if status == 404 and "not found" in said:
            known = ", ".join(model.tag for model in self.list_models()) or "none"
            raise ModelNotFound(f"Ollama at {self.where}: {said}. Its models: {known}.")
        if status in _CANNOT and "does not support" in said:
            inner = _INNER.search(said)  # llama.cpp's own message
            raise NotSupported(f"Ollama at {self.where}: {inner[1] if inner else said}")
        raise EngineError(f"Ollama at {self.where}: {said}")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Within the `with` block, replace errors of the client and of httpx by byoai's errors."""
        try:
            yield
        except ollama.ResponseError as error:
            said = str(error.error)
            self._refuse(
                f"{error.status_code} {said[:80]}" if said.lstrip().startswith("<") or not said else said,
                error.status_code,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            raise EngineUnavailable(
                f"Ollama does not answer at {self.where}. Start it with `ollama serve`, or give its URL "
                "(--ollama-url, OLLAMA_HOST)."
            ) from error
        except httpx.TimeoutException as error:
            raise EngineUnavailable(
                f"Ollama at {self.where} takes too long to answer. Is it busy? Try again, or restart it."
            ) from error
        except httpx.RequestError as error:
            raise EngineUnavailable(
                f"Ollama at {self.where} ended the connection too early ({error}). Look at its log, and restart it."
            ) from error
        except (ValueError, AttributeError, TypeError) as error:  # not JSON, or not of the expected form
            raise EngineUnavailable(
                f"The server at {self.where} does not respond like Ollama ({error}). Check the URL."
            ) from error
