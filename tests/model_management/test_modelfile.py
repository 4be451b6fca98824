"""Modelfiles: what is written is read back the same, by our reader and by Ollama's rules, and a
fine-tune's spec is its base's.
"""

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fine_tuning.engines.base import ModelDetails, ModelSpec
from fine_tuning.engines.modelfile import parse_modelfile
from fine_tuning.errors import ConfigError, EngineError, ExportError
from fine_tuning.model_management.modelfile import modelfile_text, spec_for

BASE = ModelSpec(
    from_=Path("/models/blobs/sha256-ab"),
    template="{{ range .Messages }}{{ .Content }}{{ end }}",
    system='You are "Mario".\nSay """hi""" first.',
    parameters={"stop": ["<|im_start|>", '"'], "temperature": 0.2, "num_ctx": 4096, "use_mmap": True},
    renderer="qwen3",
    parser="qwen3",
    license="Apache-2.0",
)
DETAILS = ModelDetails(tag="base:135m", digest="d", gguf=Path("/models/blobs/sha256-ab"), gguf_digest="ab", spec=BASE)
ADAPTER = Path("/data/runs/a/adapter.gguf")
MERGED = Path("/data/runs/a/merged.gguf")

# Texts that are all about quotes, line ends and white space, or anything at all.
texts = st.lists(
    st.sampled_from(['"', '"""', "\n", "\r\n", " ", "\t", "a", "#", "{<|", "\u200d", "\u00a0", "猫"]), max_size=8
).map("".join)
texts |= st.text(max_size=40)
paths = st.lists(
    st.text(alphabet=string.ascii_letters + " .-_é", min_size=1, max_size=8).filter(
        lambda part: part.strip(". ") == part
    ),
    min_size=1,
)
numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
names = st.text(alphabet=string.ascii_lowercase + "_", min_size=1, max_size=12).filter(lambda name: name != "stop")


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    files = paths.map(lambda parts: Path("/", *parts))
    parameters: dict[str, Any] = draw(st.dictionaries(names, numbers, max_size=3))
    if stops := draw(st.lists(texts, max_size=3)):
        parameters["stop"] = stops
    optional = {name: draw(st.none() | texts) for name in ("template", "system", "renderer", "parser", "license")}
    return ModelSpec(
        from_=draw(files | st.sampled_from(["smollm2:135m", "user/llama3:latest"])),
        adapter=draw(st.none() | files),
        parameters=parameters,
        **optional,
    )


@given(specs())
@example(BASE)
@example(replace(BASE, system='"', template='"""', license='""', parser='ends with """'))
@example(replace(BASE, system='"""\u200b\n"""'))
def test_what_is_written_is_read_back(spec: ModelSpec) -> None:
    try:
        text = modelfile_text(spec)
    except ExportError:
        assume(False)
    assert parse_modelfile(text) == spec


def test_the_text_is_what_a_person_would_write() -> None:
    spec = replace(
        BASE, from_="smollm2:135m", adapter=ADAPTER, system="Be brief.\nBe kind.", renderer=None, parser=None
    )
    assert modelfile_text(spec).splitlines() == [
        "FROM smollm2:135m",
        "ADAPTER /data/runs/a/adapter.gguf",
        "TEMPLATE {{ range .Messages }}{{ .Content }}{{ end }}",
        'SYSTEM "Be brief.',
        'Be kind."',
        "LICENSE Apache-2.0",
        "PARAMETER stop <|im_start|>",
        'PARAMETER stop """""""',
        "PARAMETER temperature 0.2",
        "PARAMETER num_ctx 4096",
        "PARAMETER use_mmap true",
    ]


@pytest.mark.parametrize("text", ['a """\nb', 'a """ \t\r\nb "', '"""\n'])
def test_a_text_that_the_format_cannot_hold_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(
        ExportError, match=r'the SYSTEM of the base has a line that ends in """.*deployment\.mode: adapter'
    ):
        modelfile_text(replace(BASE, system=text))


def test_characters_that_ollamas_reader_leaves_out_are_told() -> None:
    text = modelfile_text(replace(BASE, system="👩\u200d🚀"))
    assert text.startswith("# `ollama create` leaves out U+200D ")
    assert parse_modelfile(text).system == "👩\u200d🚀"
    assert not modelfile_text(BASE).startswith("#")


def test_files_beside_the_modelfile_are_named_relative_so_that_the_run_can_be_moved(tmp_path: Path) -> None:
    spec = ModelSpec(from_=tmp_path / "a b" / "merged.gguf", adapter=tmp_path / "adapter.gguf")
    text = modelfile_text(spec, tmp_path)
    assert text == "FROM ./a b/merged.gguf\nADAPTER ./adapter.gguf\n"
    assert parse_modelfile(text, tmp_path) == spec
    assert parse_modelfile(text, tmp_path / "moved").adapter == tmp_path / "moved" / "adapter.gguf"


def test_a_modelfile_written_by_hand_is_read() -> None:
    text = """# comment with "quotes
        from  llama3.2\x20
        \tPARAMETER   temperature\t 1
Parameter stop "<|eot_id|>"
PARAMETER stop AI assistant:
SYSTEM \"""You are "Mario"
  from super mario bros.\""" \t

LICENSE MIT
LICENSE "BSD"
"""
    assert parse_modelfile(text) == ModelSpec(
        from_="llama3.2",
        system='You are "Mario"\n  from super mario bros.',
        parameters={"temperature": 1, "stop": ["<|eot_id|>", "AI assistant:"]},
        license="MIT\nBSD",
    )


def test_a_parameter_of_a_thousand_brackets_is_a_text() -> None:
    assert parse_modelfile("FROM a\nPARAMETER stop x\nPARAMETER y " + "[" * 100_000).parameters["y"] == "[" * 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SYSTEM hi\n", "no FROM"),
        ("FROM a\nTEMPERATURE\n", "line 2: expected a command"),
        ("FROM a\n\nMESSAGE user hi\n", "line 3: MESSAGE is given a second time, or is unknown to byoai"),
        ("FROM a\nFROM b\n", "line 2: FROM is given a second time"),
        ('FROM a\r\nSYSTEM   "never closed\r\nPARAMETER stop x', "line 2: the quotes"),
        ('FROM a\nSYSTEM """never closed"\n', "line 2: the quotes"),
    ],
)
def test_a_fault_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_modelfile(text)


def test_an_adapter_inherits_everything_from_the_bases_tag() -> None:
    assert spec_for(DETAILS, "base:135m", ADAPTER, "adapter") == ModelSpec(from_="base:135m", adapter=ADAPTER)


def test_a_merged_model_gets_all_that_shapes_the_bases_text() -> None:
    assert spec_for(DETAILS, "base:135m", MERGED, "merged") == replace(BASE, from_=MERGED)


@pytest.mark.parametrize(
    ("version", "template"),
    [
        (None, None),
        ("0.32.15", None),
        ("0.30.0-rc1", None),
        ("0.0.0", None),
        ("0.29.9", "{{ .Prompt }}"),
        ("0.17.1", "{{ .Prompt }}"),
    ],
)
def test_a_base_without_a_template_passes_on_none_except_to_an_old_ollama(
    version: str | None, template: str | None
) -> None:
    bare = replace(DETAILS, spec=replace(BASE, template=None))
    assert spec_for(bare, "base:135m", MERGED, "merged", version).template == template
    assert spec_for(DETAILS, "base:135m", MERGED, "merged", version).template == BASE.template


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_a_base_that_is_itself_an_adapter_is_refused(mode: Any) -> None:
    tuned = replace(DETAILS, spec=replace(BASE, adapter=ADAPTER))
    with pytest.raises(EngineError, match="mine:v1 is itself an adapter on another model"):
        spec_for(tuned, "mine:v1", ADAPTER, mode)
