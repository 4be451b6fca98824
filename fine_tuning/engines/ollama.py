"""The real Ollama server, through its HTTP API (docs/api.md, server/routes.go and api/types.go of Ollama).

Plain httpx, on which the `ollama` package is built as well: that package's calls know neither `_debug_render_only` and `truncate`, which
`render` needs, nor `renderer` and `parser` of a model.
"""

import ast
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ChatOptions, ModelDetails, ModelSpec, ModelSummary, full_tag, known_tag
from fine_tuning.engines.gguf_header import GgufHeader, check_adapter, check_model, read_header
from fine_tuning.engines.neutral import Neutraliser, neutraliser_for
from fine_tuning.engines.structure import structural, structural_tokens
from fine_tuning.errors import EngineError, EngineUnavailable, ModelNotFound

DEFAULT_URL = "http://127.0.0.1:11434"
MINIMUM_VERSION = "0.17.1"  # older ones misread some GGUF files

_QUICK = httpx.Timeout(30, connect=5)
_SLOW = httpx.Timeout(None, connect=5)  # loading a model, or a long answer, takes as long as it takes
_JSON = {"content-type": "application/json"}
_NO_TEMPLATE = "{{ .Prompt }}"  # what a model without a TEMPLATE of its own shows (template.DefaultTemplate)


class OllamaEngine:
    name = "ollama"

    def __init__(self, url: str = DEFAULT_URL) -> None:
        """`url` may be anything that OLLAMA_HOST may be: `host`, `host:port`, `http://host:port`. Nothing is asked of the server yet."""
        address = server_url(url)
        self.where = _without_password(address)
        # A proxy from the environment must not come between us and our own machine.
        outside = not _is_loopback(address)
        try:
            self._http = httpx.Client(base_url=address, trust_env=outside, timeout=_QUICK)
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a proxy of the environment that is none
            raise _bad_url(url) from error
        self._neutral: dict[str, Neutraliser] = {}  # by the model's digest

    def version(self, timeout: float | None = None) -> str:
        """Raises EngineUnavailable also when what answers is no Ollama. `timeout` in seconds."""
        answer = self._call("GET", "/api/version", timeout=httpx.Timeout(timeout) if timeout else _QUICK)
        if not isinstance(answer, dict) or "version" not in answer:
            raise EngineUnavailable(f"What answers at {self.where} is not Ollama. Check the URL.")
        return str(answer["version"])

    def list_models(self) -> list[ModelSummary]:
        """Models that can chat on this machine, newest first: neither cloud models nor those that only embed."""
        entries = self._entries("/api/tags")
        # Ollama sorts by whole seconds, and by chance within one.
        entries.sort(key=lambda entry: (entry.get("modified_at", ""), entry["name"]), reverse=True)
        return [_summary(entry) for entry in entries if _chats_here(entry)]

    def show(self, tag: str) -> ModelDetails:
        shown = self._call("POST", "/api/show", {"model": tag})
        full, digest = self._named(tag)
        spec = _spec(shown)
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

    def render(self, tag: str, messages: Sequence[Message]) -> str:
        """Loads the model when it is not (Ollama renders only then); after that some milliseconds each."""
        return self._render(tag, self._plain(tag, messages, {}), {})

    def _render(self, tag: str, messages: Sequence[Message], options: dict[str, Any]) -> str:
        """What Ollama feeds the model for `messages` as they are."""
        # truncate=False: else messages that exceed num_ctx are dropped in silence (chatPrompt in server/prompt.go).
        body = {**_conversation(tag, messages), "stream": False, "options": options, "truncate": False, "_debug_render_only": True}
        answer = self._call("POST", "/api/chat", body, timeout=_SLOW)
        if "_debug_info" not in answer:
            raise EngineError(f"Ollama at {self.where} does not show the text that it feeds {tag}. Update it: https://ollama.com/download")
        return answer["_debug_info"]["rendered_template"]

    def chat(self, tag: str, messages: Sequence[Message], options: ChatOptions | None = None) -> Iterator[ChatChunk]:
        given = _options(options or ChatOptions())
        body = {**_conversation(tag, self._plain(tag, messages, given)), "stream": True, "options": given}
        for part in self._stream("/api/chat", body):
            text = part.get("message", {}).get("content", "")
            if part.get("done"):
                yield _last_chunk(text, part)
                return
            if text:
                yield ChatChunk(text)
        # Ollama ends the stream without a last word when one token came 30 times over (llm/llama_server.go).
        yield ChatChunk("", done=True, done_reason="length")

    def create(self, tag: str, spec: ModelSpec) -> None:
        full_tag(tag)
        body: dict[str, Any] = {"model": tag, "parameters": spec.parameters, **self._source(spec)}
        for key in ("template", "system", "license", "renderer", "parser"):
            if value := getattr(spec, key):
                body[key] = value
        answer = self._call("POST", "/api/create", {**body, "stream": False}, timeout=_SLOW)
        if answer.get("status") != "success":
            raise EngineError(
                f"Ollama did not finish making {tag}: it stopped at {answer.get('status')!r}. Look at its log, and try again."
            )

    def copy(self, source: str, target: str) -> None:
        full_tag(target)
        self._call("POST", "/api/copy", {"source": source, "destination": target})

    def delete(self, tag: str) -> None:
        self.unload(tag)
        self._call("DELETE", "/api/delete", {"model": tag})

    def warm(self, tag: str) -> None:
        self._call("POST", "/api/chat", {"model": tag, "messages": []}, timeout=_SLOW)

    def unload(self, tag: str | None = None) -> list[str]:
        """Returns when the memory is free, or after 10 s (an answer that is being given is not cut off).

        Tags that share a base share Ollama's place for it: unloading one unloads whichever of them is in.
        """
        full, wanted = self._named(tag) if tag else (None, "")  # a copy may be loaded under the name of its original
        entries = self._entries("/api/ps")
        targets = [entry["name"] for entry in entries if full is None or entry["name"] == full or entry["digest"] == wanted]
        for name in targets:
            self._call("POST", "/api/chat", {"model": name, "messages": [], "keep_alive": 0})
        deadline = time.monotonic() + 10
        while set(targets) & set(self.loaded()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return targets

    def loaded(self) -> list[str]:
        return [entry["name"] for entry in self._entries("/api/ps")]

    def close(self) -> None:
        self._http.close()

    def _source(self, spec: ModelSpec) -> dict[str, Any]:
        """`from` or `files`, and `adapters`, with the files in Ollama's store."""
        if isinstance(spec.from_, Path):
            base: GgufHeader | None = check_model(read_header(spec.from_))
            source: dict[str, Any] = {"files": {"model.gguf": self._upload(spec.from_)}}
        else:
            # Asked first, since Ollama would try to download a base that it has not got.
            shown = _spec(self._call("POST", "/api/show", {"model": spec.from_}))
            base = read_header(Path(shown.from_)) if os.access(shown.from_, os.R_OK) else None
            if shown.adapter and spec.adapter:
                raise EngineError(f"{spec.from_} has an adapter already: put {spec.adapter.name} on its base instead")
            source = {"from": spec.from_}
        if spec.adapter:
            check_adapter(read_header(spec.adapter), base)
            source["adapters"] = {"adapter.gguf": self._upload(spec.adapter)}
        return source

    def _upload(self, file: Path) -> str:
        """The digest of `file`, which is in Ollama's store afterwards."""
        with file.open("rb") as content:
            digest = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
            with self._mapped():
                known = self._http.head(f"/api/blobs/{digest}").is_success
            if not known:
                content.seek(0)
                with self._mapped():
                    self._check(self._http.post(f"/api/blobs/{digest}", content=content, timeout=_SLOW))
        return digest

    def _named(self, tag: str) -> tuple[str, str]:
        """A tag as Ollama lists it, and its digest; ("...", "") when there is no such tag."""
        digests = {entry["name"]: entry["digest"] for entry in self._entries("/api/tags")}
        name = known_tag(tag, digests)
        return (name, digests[name]) if name else (full_tag(tag), "")

    def _plain(self, tag: str, messages: Sequence[Message], options: dict[str, Any]) -> list[Message]:
        """`messages` as they may be sent: nothing in them acts as structure (neutral.py). `options`: so that no model is loaded twice."""
        _, digest = self._named(tag)
        neutral = self._neutral.get(digest)
        if neutral is None:
            neutral = neutraliser_for(self._structural_tokens(tag), lambda probe: self._render(tag, probe, options))
            if digest:
                self._neutral[digest] = neutral
        return neutral.messages(messages)

    def _structural_tokens(self, tag: str) -> list[str]:
        """Of the weights' file, or as Ollama tells them where that cannot be read from here."""
        gguf = _spec(self._call("POST", "/api/show", {"model": tag})).from_
        if os.access(gguf, os.R_OK) and Path(gguf).is_file():
            return structural_tokens(Path(gguf))
        told = self._call("POST", "/api/show", {"model": tag, "verbose": True}, timeout=_SLOW).get("model_info") or {}
        return structural(told.get("tokenizer.ggml.tokens") or [], told.get("tokenizer.ggml.token_type") or [])

    def _check_readable(self, tag: str, gguf: Path) -> None:
        if os.access(gguf, os.R_OK):
            return
        raise EngineError(
            f"Ollama at {self.where} keeps {tag} in {gguf}, which cannot be read from here. If it runs in a container or on another "
            "machine, mount its models folder at the same path, or run Ollama here; if it runs as another user, let yours read that folder."
        )

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, timeout: httpx.Timeout = _QUICK) -> Any:
        sent = _json(body)
        with self._mapped():
            response = self._http.request(method, path, content=sent, headers=_JSON, timeout=timeout)
            self._check(response)
            return response.json() if response.content else None

    def _entries(self, path: str) -> list[dict[str, Any]]:
        """What a server that has nothing says as null."""
        answer = self._call("GET", path)
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"What answers at {self.where} does not speak as Ollama does. Check the URL.")
        return answer.get("models") or []

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON lines of an answer. Closing the iterator closes the connection, at which Ollama stops its work."""
        sent = _json(body)
        with self._mapped(), self._http.stream("POST", path, content=sent, headers=_JSON, timeout=_SLOW) as response:
            if response.is_error:
                response.read()
                self._check(response)
            for line in response.iter_lines():
                part = json.loads(line)
                if "error" in part:
                    raise EngineError(f"Ollama at {self.where}: {part['error']}")
                yield part

    def _check(self, response: httpx.Response) -> None:
        """Turn an error status into one of ours."""
        if response.is_success:
            return
        try:
            said = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            said = f"{response.status_code} {response.reason_phrase}"
            if response.request.url.path == "/api/version":
                raise EngineUnavailable(f"What answers at {self.where} is not Ollama ({said}). Check the URL.") from None
        if response.status_code == 404 and "not found" in said:
            known = ", ".join(model.tag for model in self.list_models()) or "none"
            raise ModelNotFound(f"Ollama at {self.where}: {said}. Its models: {known}.")
        raise EngineError(f"Ollama at {self.where}: {said}")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn httpx's errors into ours."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EngineUnavailable(
                f"Ollama does not answer at {self.where}. Start it with `ollama serve`, or give its URL (--ollama-url, OLLAMA_HOST)."
            ) from error
        except httpx.TimeoutException as error:
            raise EngineUnavailable(f"Ollama at {self.where} takes too long to answer. Is it busy? Try again, or restart it.") from error
        except httpx.RequestError as error:
            raise EngineUnavailable(
                f"Ollama at {self.where} broke off in the middle ({error}). Look at its log, and restart it."
            ) from error
        except ValueError as error:  # no JSON
            raise EngineUnavailable(f"What answers at {self.where} does not speak as Ollama does ({error}). Check the URL.") from error


def server_url(host: str) -> str:
    """The URL to connect to for an OLLAMA_HOST (envconfig.ConnectableHost of Ollama): `` is the default, `0.0.0.0:80` is this machine.

    A user name and a password in it are kept. EngineError for what no server can be reached at.
    """
    given, host = host, host.strip().strip("\"'").strip()
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = "http", host
    authority, _, path = rest.partition("/")
    user, at, authority = authority.rpartition("@")
    name, port = _name_and_port(authority, given)
    scheme, path = scheme.lower(), path.rstrip("/")
    if scheme not in ("http", "https") or re.search(r"[^!-~]|[\"'?#\\\[\]]", user + path):
        raise _bad_url(given)
    if found := re.search(r"(^|/)(v1|api)(/|$)", path):
        raise EngineError(
            f"{_masked(given)} is the address for other programs: byoai calls Ollama itself. Write it without /{found[2]}, as http://host:port"
        )
    default_port = {"http": 80, "https": 443}[scheme] if separator else 11434
    return f"{scheme}://{user}{at}{name}:{port or default_port}" + (f"/{path}" if path else "")


def _name_and_port(authority: str, given: str) -> tuple[str, int]:
    """The host as a URL has it, and its port or 0. What means any address is this machine."""
    bare = authority.count(":") > 1 and not authority.startswith("[")  # IPv6 without brackets
    bracketed = re.fullmatch(r"\[(.*)\](?::(.*))?", f"[{authority}]" if bare else authority, re.DOTALL)
    name, port = (bracketed[1], bracketed[2] or "") if bracketed else authority.partition(":")[::2]
    try:
        if not re.fullmatch(r"[0-9]{0,5}", port) or int(port or 0) > 65_535:
            raise ValueError(port)
        if bracketed:
            name = f"[{'::1' if ipaddress.IPv6Address(name).is_unspecified else name}]"
        elif name:
            labels = httpx.URL(scheme="http", host=name).raw_host.decode("ascii").removesuffix(".").split(".")  # as the DNS has it
            if len(name) > 253 or not all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels):
                raise ValueError(name)
    except (ValueError, httpx.InvalidURL):
        raise _bad_url(given) from None
    return "127.0.0.1" if name in ("", "0.0.0.0") else name, int(port or 0)


def _bad_url(given: str) -> EngineError:
    return EngineError(f"{_masked(given)} is no URL of an Ollama server: write http://host:port")


def _masked(given: str) -> str:
    """For a message: in quotes, short, and without what stands before an @, which may be a password."""
    return repr(re.sub(r"(?s)^(.*?://)?.*@", r"\1…@", given)[:200])


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _json(body: dict[str, Any] | None) -> bytes | None:
    """The body of a request. EngineError for text that is none: it is neither the server's fault nor the network's."""
    try:
        return None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise EngineError(f"the text cannot be sent: it holds U+{ord(found):04X}, half of a character: type it as UTF-8") from error
    except (TypeError, ValueError) as error:
        raise EngineError(f"the settings cannot be sent to the engine: {error}") from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _conversation(tag: str, messages: Sequence[Message]) -> dict[str, Any]:
    # think=False, the same in `render` and `chat`: what people log and models learn here are answers, not thoughts. Others ignore it.
    return {"model": tag, "messages": [message.model_dump() for message in messages], "think": False}


def _options(options: ChatOptions) -> dict[str, Any]:
    given = {"temperature": options.temperature, "seed": options.seed, "num_predict": options.max_tokens, "num_ctx": options.context}
    return {key: value for key, value in given.items() if value is not None}


def _last_chunk(text: str, part: dict[str, Any]) -> ChatChunk:
    return ChatChunk(
        text,
        done=True,
        done_reason=part.get("done_reason", ""),
        prompt_tokens=part.get("prompt_eval_count", 0),
        tokens=part.get("eval_count", 0),
        seconds=part.get("total_duration", 0) / 1e9,
    )


def _summary(entry: dict[str, Any]) -> ModelSummary:
    details = entry.get("details") or {}
    return ModelSummary(
        tag=entry["name"],
        digest=entry["digest"],
        size=entry["size"],
        family=details.get("family", ""),
        parameter_size=details.get("parameter_size", ""),
        quantization=details.get("quantization_level", ""),
    )


def _chats_here(entry: dict[str, Any]) -> bool:
    return not entry.get("remote_host") and "completion" in (entry.get("capabilities") or ["completion"])


def _spec(shown: dict[str, Any]) -> ModelSpec:
    """The spec that /api/show describes; `from_` is the path of the weights on the server."""
    commands = _modelfile(shown.get("modelfile", ""), {"TEMPLATE": shown.get("template"), "SYSTEM": shown.get("system")})
    adapter = commands.get("ADAPTER")
    template = commands.get("TEMPLATE")
    return ModelSpec(
        from_=Path(commands.get("FROM", "")),
        adapter=Path(adapter) if adapter else None,
        template=None if template == _NO_TEMPLATE else template,
        system=shown.get("system") or None,
        parameters=_parameters(shown.get("parameters", "")),
        renderer=commands.get("RENDERER"),
        parser=commands.get("PARSER"),
        license=shown.get("license") or None,
    )


# A command of a Modelfile as Ollama prints it: texts of several lines are quoted (parser.quote).
_COMMAND = re.compile(r'^([A-Z]+) (?:"""(.*?)"""|"([^"]*)"|([^\n]*))$', re.MULTILINE | re.DOTALL)


def _modelfile(text: str, exact: dict[str, str | None]) -> dict[str, str]:
    """The first of each command up to the parameters, whose values come from elsewhere.

    `exact` are values of commands that may be in `text`: they may hold quotes and whole commands, for which it has no escapes.
    """
    commands: dict[str, str] = {}
    for name, value in exact.items():
        if value and (command := f"{name} {_quoted(value)}\n") in text:
            text = text.replace(command, "", 1)
            commands[name] = value
    for found in _COMMAND.finditer(text):
        name = found[1]
        if name in ("PARAMETER", "LICENSE", "MESSAGE"):
            break
        commands.setdefault(name, next(value for value in found.groups()[1:] if value is not None))
    return commands


def _quoted(text: str) -> str:
    """As Ollama writes it (parser.quote)."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _parameters(text: str) -> dict[str, Any]:
    """`name   value` lines with Go literals; `stop` may come several times."""
    parameters: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, literal = line.partition(" ")
        value = _literal(literal.strip())
        if name == "stop":
            parameters.setdefault("stop", []).append(value)
        else:
            parameters[name] = value
    return parameters


def _literal(text: str) -> Any:
    """A Go literal of a string, number or bool; they read as Python's."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
