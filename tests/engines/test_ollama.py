"""What only the Ollama engine has: URLs, proxies, Modelfiles. The rest is in test_contract.py."""

import contextlib
import http.server
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ports import unused_port

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, ModelSpec, full_tag
from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.engines.ollama_show import spec_of
from fine_tuning.engines.ollama_url import server_url
from fine_tuning.engines.structure import structural_tokens
from fine_tuning.errors import EngineError, EngineUnavailable

FRANCE = [Message(role="user", content="What is the capital of France?")]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080/", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("example.com:8080", "http://example.com:8080"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("https://example.com/apiary", "https://example.com:443/apiary"),
        ('"127.0.0.1:1"', "http://127.0.0.1:1"),
        ("' 1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://user:pw@host:8080", "http://user:pw@host:8080"),
        ("user@host", "http://user@host:11434"),
        ("https://u%40x:p@[::1]/o", "https://u%40x:p@[::1]:443/o"),
        ("HTTP://host.", "http://host.:80"),
        ("例え.jp:80", "http://例え.jp:80"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
        ("http://[::]", "http://[::1]:80"),
        ("host:", "http://host:11434"),
    ],
)
def test_hosts_are_read_as_ollama_reads_them(host: str, url: str) -> None:
    assert server_url(host) == url


@pytest.mark.parametrize(
    "host",
    [
        *(
            "ftp://example.com",
            "example.com:port",
            "http://a b",
            "http://[::1",
            "http://[abc]:80",
            "[::1]80",
            "a:b:c",
            "h:99999",
            "h:-1",
        ),
        *(
            "h:٣",
            "h:" + "9" * 5000,
            "a..b",
            "a" * 64,
            ".".join(["a" * 60] * 5),
            "h?x=1",
            "h/#x",
            "h\0",
            "h\nx",
            "\ud800",
            "://h",
            "[]",
            "h]",
        ),
        *("http://user:pa ss@h", "http://h/a b", "h\\x", "http://\u2063", "1.2.3.4:5:6"),
    ],
)
def test_what_is_no_url_is_refused(host: str) -> None:
    with pytest.raises(EngineError, match="is not a URL of an Ollama server") as caught:
        OllamaEngine(host)
    assert "pa ss" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat/completions", "/ollama/v1", "/api", "/api/generate"])
def test_the_address_for_other_programs_is_named_as_such(path: str) -> None:
    with pytest.raises(EngineError, match=f"without /{'api' if 'api' in path else 'v1'}, as http://host:port"):
        server_url(f"http://127.0.0.1:11434{path}")


@given(st.text(st.characters(), max_size=40) | st.text("htps:/[]@.%?#0123456789abv1 \"'-", max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_host_is_a_url_or_a_clear_error_and_nothing_else(host: str) -> None:
    try:
        url = server_url(host)
    except EngineError as error:
        assert "http://host:port" in str(error)
        return
    assert server_url(url) == url
    assert "@" not in OllamaEngine(host).where


PARTS = st.lists(
    st.text("ab_:.-é", min_size=1, max_size=3).map(lambda text: text * 90) | st.text("ab_.-", min_size=1),
    min_size=1,
    max_size=4,
)


@given(st.text(st.characters(), max_size=100) | PARTS.map("/".join))
@example("a" * 240 + "/b")
@example("a" * 240 + "/b/c:d")
def test_a_tag_is_a_name_or_a_clear_error_and_nothing_else(tag: str) -> None:
    try:
        full = full_tag(tag)
    except EngineError as error:
        assert "cannot name a model" in str(error)
        return
    assert full_tag(full) == full
    assert all(len(part.encode()) < 250 for part in full.split("/"))  # each is a file's name in the embedded engine


def test_a_password_is_sent_and_never_shown() -> None:
    engine = OllamaEngine("http://user:geheim@127.0.0.1:9")
    assert engine._http.build_request("GET", "/").url.userinfo == b"user:geheim"
    with pytest.raises(EngineUnavailable) as caught:
        engine.version()
    assert "geheim" not in str(caught.value) and "geheim" not in engine.where


@pytest.mark.parametrize("text", ["Caf\udce9", "\ud800", "a\udfff b"])
def test_text_that_cannot_be_sent_is_not_blamed_on_the_server(text: str) -> None:
    engine = OllamaEngine("127.0.0.1:9")  # halves of characters in a message become U+FFFD before (conversation.py)
    for act in (
        lambda: engine.show(text),
        lambda: engine.copy(text, "x"),
        lambda: engine.warm(text),
        lambda: engine.copy("x", text),
    ):
        with pytest.raises(EngineError, match=r"U\+D[8-F]|cannot name a model") as caught:
            act()
        assert not isinstance(caught.value, EngineUnavailable) and "127.0.0.1" not in str(caught.value)


def test_certificates_are_read_once_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    OllamaEngine("127.0.0.1:9")
    monkeypatch.delattr(ssl, "create_default_context")
    OllamaEngine("127.0.0.1:10")


def test_a_server_that_is_down_is_named_with_its_cure() -> None:
    port = unused_port()
    engine = OllamaEngine(f"127.0.0.1:{port}")
    for act in (engine.list_models, lambda: list(engine.chat("x", FRANCE)), lambda: engine.create("x", ModelSpec("y"))):
        with pytest.raises(
            EngineUnavailable, match=f"does not answer at http://127.0.0.1:{port}. Start it with `ollama serve`"
        ):
            act()


MODELFILE = '''# Modelfile generated by "ollama show"
# To build a new Modelfile based on this, replace FROM with:
# FROM x:latest

FROM /models/my blobs/sha256-aa
ADAPTER /models/my blobs/sha256-bb
TEMPLATE """{{ if .System }}"{{ .System }}"
ADAPTER /not/this
{{ end }}{{ .Prompt }}
"""
SYSTEM "You answer.
RENDERER not-this"
RENDERER qwen3-coder
PARSER qwen3
PARAMETER stop <|im_end|>
PARSER not-this-either
LICENSE """Some
FROM /nowhere
"text\"
"""
'''


def test_a_modelfile_with_quoted_texts_is_read() -> None:
    parameters = (
        'stop                           "<|im_end|>"\nstop   "\\"\\n\\u00e9"\nnum_ctx '
        "4096\ntemperature 0.2\nnum_keep -1\nuse_mmap true"
    )
    spec = spec_of({"modelfile": MODELFILE, "parameters": parameters, "system": "You answer.\nRENDERER not-this"})
    assert spec == ModelSpec(
        from_=Path("/models/my blobs/sha256-aa"),
        adapter=Path("/models/my blobs/sha256-bb"),
        template='{{ if .System }}"{{ .System }}"\nADAPTER /not/this\n{{ end }}{{ .Prompt }}\n',
        system="You answer.\nRENDERER not-this",
        parameters={
            "stop": ["<|im_end|>", '"\né'],
            "num_ctx": 4096,
            "temperature": 0.2,
            "num_keep": -1,
            "use_mmap": True,
        },
        renderer="qwen3-coder",
        parser="qwen3",
    )


def test_a_model_without_a_template_of_its_own_shows_none() -> None:
    assert spec_of({"modelfile": "FROM /models/sha256-aa\nTEMPLATE {{ .Prompt }}\n"}).template is None


@pytest.mark.parametrize(
    ("modelfile", "renderer"),
    [
        ("FROM /m/sha256-aa\nREQUIRES 0.14.0\nRENDERER qwen3\n", "qwen3"),  # a command that byoai does not know
        ("FROM /m/sha256-aa\nRENDERER one\nRENDERER two\n", "one"),
        ("FROM /m/sha256-aa\r\nRENDERER qwen3\r\nPARAMETER stop x\r\n", "qwen3"),
        ('FROM "/m/sha256-aa"\nrenderer """qwen3"""\n', "qwen3"),
        ('FROM /m/sha256-aa\nPARAMETER stop "never closed\nRENDERER late\n', None),  # parameters are read elsewhere
        ('FROM /m/sha256-aa\nLICENSE """RENDERER not this\n', None),
        ("# RENDERER a comment\n\n\tFROM /m/sha256-aa\n", None),
    ],
)
def test_what_ollama_shows_is_read_as_any_modelfile_is(modelfile: str, renderer: str | None) -> None:
    spec = spec_of({"modelfile": modelfile})
    assert (spec.from_, spec.renderer) == (Path("/m/sha256-aa"), renderer)


@pytest.mark.parametrize("rest", ['SYSTEM "never closed\n', "no command\n\n!\n", 'TEMPLATE """never closed"\n'])
def test_a_modelfile_that_cannot_be_read_is_an_error_with_its_line(rest: str) -> None:
    with pytest.raises(EngineError, match=r"cannot read what Ollama shows.*line [24]"):
        spec_of({"modelfile": f"FROM /m/sha256-aa\n{rest}"})


QUOTED = [
    '{{ .Prompt }}\n"""\nPARAMETER stop x\n"""',
    '"""{{ .Prompt }}"""',
    '{{ if .System }}"""{{ .System }}"""\nRENDERER other\n{{ end }}{{ .Prompt }}',
    'say "{{ .Prompt }}"',
    ' {{ .Prompt }} """ ',
    '{{ .Prompt }}\n"""\nSYSTEM """not this"""\nLICENSE none\n',
]


@pytest.mark.parametrize("template", QUOTED)
@pytest.mark.parametrize("system", ["", 'Say """ twice.\nPARSER other', "plain"])
def test_texts_that_hold_quotes_and_commands_are_taken_as_they_are(template: str, system: str) -> None:
    quoted = f'"""{template}"""' if "\n" in template or template != template.strip() else template
    modelfile = f"FROM /models/sha256-aa\nTEMPLATE {quoted}\n"
    if system:
        modelfile += f"SYSTEM {system if chr(10) not in system else chr(34) * 3 + system + chr(34) * 3}\n"
    modelfile += "RENDERER qwen3-coder\nPARAMETER stop y\n"
    spec = spec_of({"modelfile": modelfile, "template": template, "system": system})
    assert (spec.template, spec.system, spec.renderer, spec.parser) == (template, system or None, "qwen3-coder", None)


def test_weights_that_cannot_be_read_from_here_are_an_error_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be read from here\. If it runs in a container"):
        OllamaEngine()._check_readable("x:latest", tmp_path / "sha256-aa")


@pytest.mark.engine
class TestOnTheRealServer:
    TAG = "ollama-test:v1"

    @pytest.fixture
    def engine(self, ollama_url: str, base_gguf: Path):
        engine = OllamaEngine(ollama_url)
        engine.create(self.TAG, ModelSpec(base_gguf))
        yield engine
        engine.delete(self.TAG)

    def test_a_proxy_does_not_come_between(self, engine: OllamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert OllamaEngine(engine.where).version()

    def test_everything_that_a_spec_says_comes_back_from_show(self, engine: OllamaEngine) -> None:
        spec = ModelSpec(
            from_=self.TAG,
            template='{{ range .Messages }}"{{ .Role }}": {{ .Content }}\n{{ end }}assistant: ',
            system='A "quoted" system\nof two lines ',
            parameters={"stop": ['"', "a\nb", "ü\t\\"], "temperature": 0.25, "num_ctx": 2048, "use_mmap": False},
            renderer="qwen3-coder",
            parser="qwen3-coder",
            license="Some license\nFROM nobody",
        )
        try:
            engine.create("ollama-test:full", spec)
            shown = engine.show("ollama-test:full").spec
        finally:
            engine.delete("ollama-test:full")
        assert shown == ModelSpec(**{**vars(spec), "from_": shown.from_})

    @pytest.mark.parametrize(
        "template", [text.replace("{{ .Prompt }}", "{{ range .Messages }}{{ .Content }}{{ end }}") for text in QUOTED]
    )
    def test_quotes_in_a_template_come_back_from_show(self, engine: OllamaEngine, template: str) -> None:
        try:
            engine.create(
                "ollama-test:quotes", ModelSpec(self.TAG, template=template, system='A """ quote\nRENDERER other')
            )
            shown = engine.show("ollama-test:quotes").spec
        finally:
            engine.delete("ollama-test:quotes")
        assert (shown.template, shown.system, shown.renderer) == (template, 'A """ quote\nRENDERER other', None)

    def test_what_is_structure_is_asked_of_the_server_where_its_files_cannot_be_read(
        self, engine: OllamaEngine, base_gguf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert engine._structural_tokens(self.TAG) == structural_tokens(base_gguf)
        assert "< |im_end|>" in engine.render(self.TAG, [Message(role="user", content="<|im_end|>")])
        assert list(engine.chat(self.TAG, FRANCE, ChatOptions(temperature=0, max_tokens=3)))[-1].tokens == 3

    def test_names_are_read_as_ollama_reads_them(self, engine: OllamaEngine) -> None:
        known = engine.show(self.TAG)
        for name in (
            "Ollama-Test:V1",
            "library/ollama-test:v1",
            "registry.ollama.ai/library/ollama-test:v1",
            "OLLAMA-TEST:v1",
        ):
            assert engine._raw("POST", "/api/show", {"model": name})["modelfile"]  # the server's own reading
            assert (engine.show(name).tag, engine.show(name).digest) == (self.TAG, known.digest)
        with pytest.raises(EngineError, match="not found"):
            engine.show("other/ollama-test:v1")

    def test_the_template_that_ollama_picks_puts_no_system_message_of_its_own(self, engine: OllamaEngine) -> None:
        assert (
            engine.render(self.TAG, FRANCE)
            == f"<|im_start|>user\n{FRANCE[0].content}<|im_end|>\n<|im_start|>assistant\n"
        )
        assert engine.show(self.TAG).spec.parameters["stop"] == ["<|im_start|>", "<|im_end|>"]

    def test_the_same_file_is_not_sent_twice(self, engine: OllamaEngine, make_adapter) -> None:
        digest = engine._upload(make_adapter(0.0))
        assert engine._http.head(f"/api/blobs/{digest}").is_success
        assert engine._upload(make_adapter(0.0)) == digest

    def test_an_error_of_the_server_keeps_its_words(self, engine: OllamaEngine) -> None:
        with pytest.raises(EngineError, match="template"):
            engine.create("ollama-test:bad", ModelSpec(self.TAG, template="{{ range .Messages }}"))
        assert "ollama-test:bad" not in [model.tag for model in engine.list_models()]
        with pytest.raises(EngineError, match="temperature"):
            list(engine.chat(self.TAG, FRANCE, ChatOptions(temperature="hot")))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_cannot_send_the_client_to_another_address(status: int, tmp_path: Path) -> None:
    """Else it could have this machine ask what only this machine reaches (SSRF), and hand chats on."""
    reached: list[str] = []

    class Inside(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "0.32.15", "models": [], "status": "success"}')

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Redirecting(Inside):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{inside.server_port}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    file = tmp_path / "adapter.gguf"
    file.write_bytes(b"GGUF")
    with serving(Inside) as inside, serving(Redirecting) as outside:
        engine = OllamaEngine(f"http://127.0.0.1:{outside.server_port}")
        acts: dict[str, Callable[[], object]] = {
            "version": engine.version,
            "list": engine.list_models,
            "show": lambda: engine.show("a:b"),
            "render": lambda: engine.render("a:b", FRANCE),
            "chat": lambda: list(engine.chat("a:b", FRANCE)),
            "embed": lambda: engine.embed("a:b", ["text"]),
            "pull": lambda: list(engine.pull("a:b")),
            "upload": lambda: engine._upload(file),
            "create": lambda: engine.create("a:b", ModelSpec("c:d")),
            "copy": lambda: engine.copy("a:b", "c:d"),
            "delete": lambda: engine.delete("a:b"),
            "warm": lambda: engine.warm("a:b"),
            "loaded": engine.loaded,
        }
        for name, act in acts.items():
            with pytest.raises(EngineError):
                act()
            assert not reached, name


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
