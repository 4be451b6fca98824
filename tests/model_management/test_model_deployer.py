"""A version is registered once, proven, made live without a gap, and mended when something was
interrupted. On both engines.
"""

import contextlib
import itertools
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from served import BASE, digests, make_version, sha256, write_adapter

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.engines.neutral import Neutraliser
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import EngineError, EngineUnavailable, ExportError, ModelNotFound, ParityError
from fine_tuning.model_management import model_deployer, model_switcher
from fine_tuning.model_management.model_deployer import check_parity, go_live, reconcile, register, restore
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.modelfile import spec_for

FORK = multiprocessing.get_context("fork")
HELLO = [Message(role="user", content="Hello!")]


def _say(engine: Engine, tag: str) -> str:
    messages = [Message(role="user", content="Name one colour.")]
    return "".join(chunk.text for chunk in engine.chat(tag, messages, ChatOptions(temperature=0, max_tokens=20)))


# Registering


def test_a_version_is_never_made_anew_unless_it_is_the_same(engine: Engine, name: str, tmp_path: Path) -> None:
    tag = f"{name}:v1"
    spec = ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / "one.gguf", 1))
    register(engine, tag, spec)
    before = digests(engine)
    register(engine, tag, spec)
    assert digests(engine) == before
    with pytest.raises(EngineError, match=rf"{tag} already exists and is another model.*next number"):
        register(engine, tag, ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / "two.gguf", 2)))
    assert digests(engine) == before


def test_a_merged_version_can_be_registered_again_as_well(engine: Engine, name: str, base_gguf: Path) -> None:
    spec = spec_for(engine.show(BASE), BASE, base_gguf, "merged")
    register(engine, f"{name}:v1", spec)
    before = digests(engine)
    register(engine, f"{name}:v1", spec)
    assert digests(engine) == before


# Parity


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_a_fine_tune_in_either_mode_is_fed_what_its_base_is(
    engine: Engine, name: str, tmp_path: Path, base_gguf: Path, mode: Any
) -> None:
    artifact = write_adapter(tmp_path / "adapter.gguf", 1) if mode == "adapter" else base_gguf
    register(engine, f"{name}:v1", spec_for(engine.show(BASE), BASE, artifact, mode))
    report = check_parity(engine, f"{name}:v1", partial(engine.render, BASE))
    assert (report.tag, report.cases) == (f"{name}:v1", 4)
    assert report.tokens > 100
    assert report.answer and "<|" not in report.answer
    assert 0 < report.answer_tokens < 256


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_a_base_with_a_template_and_a_system_text_of_its_own_passes_them_on(
    engine: Engine, name: str, tmp_path: Path, base_gguf: Path, mode: Any
) -> None:
    go = "{{ range .Messages }}<|im_start|>{{ .Role }}:\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant:\n"
    jinja = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:\n{{ m.content }}<|im_end|>\n{% endfor "
        "%}<|im_start|>assistant:\n"
    )
    base = f"deploy-{name}:own"
    own = ModelSpec(from_=BASE, template=go if engine.name == "ollama" else jinja, system='Say "hi".\nBe kind.')
    engine.create(base, own)
    assert engine.render(base, HELLO).startswith('<|im_start|>system:\nSay "hi".')
    artifact = write_adapter(tmp_path / "adapter.gguf", 1) if mode == "adapter" else base_gguf
    register(engine, f"{name}:v1", spec_for(engine.show(base), base, artifact, mode))
    assert check_parity(engine, f"{name}:v1", partial(engine.render, base)).tokens > 100
    assert engine.show(f"{name}:v1").spec.parameters == engine.show(base).spec.parameters


@pytest.fixture(scope="module")
def unusual(engine: Engine, tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> tuple[str, Path]:
    """A base with a template that only its GGUF holds: its tag and its weights."""
    weights, tag = (
        _with_unusual_template(base_gguf, tmp_path_factory.mktemp("unusual") / "unusual.gguf"),
        "deploy-unusual:135m",
    )
    engine.create(tag, ModelSpec(from_=weights))
    return tag, weights


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_a_base_that_lives_on_the_template_in_its_gguf_passes_it_on(
    engine: Engine, name: str, tmp_path: Path, unusual: tuple[str, Path], mode: Any
) -> None:
    base, weights = unusual
    details = engine.show(base)
    assert details.spec.template is None
    artifact = write_adapter(tmp_path / "adapter.gguf", 1) if mode == "adapter" else weights
    register(engine, f"{name}:v1", spec_for(details, base, artifact, mode))
    assert "<|im_start|>user\n>> Hello!" in engine.render(f"{name}:v1", HELLO)
    assert check_parity(engine, f"{name}:v1", partial(engine.render, base)).tokens > 100


def _with_unusual_template(gguf: Path, target: Path) -> Path:
    """A copy of `gguf` with another chat template of the same length, far from all that Ollama
    knows (which then takes the GGUF's).
    """
    content = gguf.read_bytes()
    start = content.index(b"{%", content.index(b"tokenizer.chat_template"))
    length = int.from_bytes(content[start - 8 : start], "little")
    template = (
        "{#%s#}{%% for m in messages %%}<|im_start|>{{ m.role }}\n>> {{ m.content }}<|im_end|>\n{%% endfor %%}"
        "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
    )
    padded = template % ("z" * (length - len(template % "")))
    target.write_bytes(content[:start] + padded.encode() + content[start + length :])
    return target


def test_other_text_than_in_training_is_refused_and_both_are_shown(engine: Engine, name: str, base_gguf: Path) -> None:
    register(engine, f"{name}:v1", ModelSpec(from_=base_gguf, system="You are a pirate."))
    with pytest.raises(ParityError) as refused:
        check_parity(engine, f"{name}:v1", partial(engine.render, BASE))
    said = str(refused.value)
    assert f"{name}:v1 would be fed other text than it was trained on (one turn): they differ from token" in said
    assert f"in training: {engine.render(BASE, HELLO)[:20]!r}"[:-1] in said
    assert "the engine:  '<|im_start|>system\\nYou are a pirate.<|im_end|>" in said


def test_the_first_difference_is_counted_in_tokens(engine: Engine, base_gguf: Path) -> None:
    encode = Vocabulary(base_gguf).encode

    def other(messages: Sequence[Message]) -> str:
        return engine.render(BASE, messages).replace("Hello!", "Hello?")

    at = encode(engine.render(BASE, HELLO)).index(encode("!")[0])
    with pytest.raises(ParityError, match=re.escape(f"from token {at} (character")):
        check_parity(engine, BASE, other, encode)


def test_parity_holds_with_what_people_type_and_finds_an_engine_that_feeds_it_raw(
    engine: Engine, base_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(mark in model_deployer.TYPED for mark in ("<|im_start|>", "</s>", "<think>", "\ufeff", "\0", "\ud83d"))
    assert check_parity(engine, BASE, partial(engine.render, BASE)).tokens > 700
    monkeypatch.setattr(Neutraliser, "messages", lambda self, messages: list(messages))
    with pytest.raises(
        ParityError,
        match=rf"{BASE}: control tokens that somebody types act as structure in messages of user, assistant, user",
    ):
        check_parity(engine, BASE, partial(engine.render, BASE))


def test_an_answer_that_does_not_end_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_deployer, "GENERATION_LIMIT", 3)
    with pytest.raises(ParityError, match="does not end by itself within 3 tokens"):
        check_parity(engine, BASE, partial(engine.render, BASE), questions=("Tell me a long story about the sea.",))


def test_a_control_token_in_the_answer_is_refused(engine: Engine) -> None:
    with pytest.raises(ParityError, match="shows the control token colour"):
        check_parity(engine, BASE, partial(engine.render, BASE), control_tokens=["colour"])


def test_a_template_may_refuse_system_messages_if_it_did_so_in_training(tmp_path: Path, base_gguf: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "engine")
    ask = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor "
        "%}<|im_start|>assistant\n"
    )
    engine.create(
        "deploy-strict:v1",
        ModelSpec(from_=base_gguf, template="{{ raise_exception('no') if messages[0].role == 'system' }}" + ask),
    )
    engine.create("deploy-free:v1", ModelSpec(from_=base_gguf, template=ask))
    engine.create("deploy-mute:v1", ModelSpec(from_=base_gguf, template="{{ raise_exception('not at all') }}"))
    strict = partial(engine.render, "deploy-strict:v1")
    assert check_parity(engine, "deploy-strict:v1", strict).tokens > 50
    with pytest.raises(ParityError, match="one turn with a system message: the template of training refuses"):
        check_parity(engine, "deploy-free:v1", strict)
    with pytest.raises(EngineError, match="not at all"):
        check_parity(engine, "deploy-mute:v1", partial(engine.render, "deploy-mute:v1"))


def test_an_engine_that_is_gone_is_not_taken_for_a_template_that_refuses(engine: Engine) -> None:
    def gone(messages: Sequence[Message]) -> str:
        if messages[0].role == "system":
            raise EngineUnavailable("gone")
        return engine.render(BASE, messages)

    with pytest.raises(EngineUnavailable):
        check_parity(engine, BASE, gone)


# Going live


def test_going_live_moves_latest_and_the_registry_and_can_be_repeated(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for number in (1, 2):
        make_version(engine, registry, name, home)
        made = digests(engine)
        for _ in range(2):
            assert go_live(engine, registry, name, number).state == "live"
            assert digests(engine) == {**made, f"{name}:latest": made[f"{name}:v{number}"]}
    assert [version.state for version in registry.list(name)] == ["previous", "live"]
    assert reconcile(engine, registry, name) == []


def test_what_is_not_there_does_not_go_live(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    registry.add(name, 2)
    with pytest.raises(ModelNotFound, match=rf"{name}:v2 is gone from {engine.name}"):
        go_live(engine, registry, name, 2)
    with pytest.raises(ModelNotFound, match="has no version 3"):
        go_live(engine, registry, name, 3)
    assert model_switcher.live(engine, name) == 1
    assert registry.live(name) == registry.get(name, 1)


Line = tuple[str, int]


def _tracer(each_line: Callable[[Line], None]) -> Callable[[FrameType, str, Any], Any]:
    """Calls `each_line` before each line of the deployer and of the registry runs."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = Path(frame.f_code.co_filename).name
        if file not in ("model_deployer.py", "model_registry.py"):
            return None
        if event == "line":
            each_line((file, frame.f_lineno))
        return trace

    return trace


def _killed_at(line: Line, engine: Engine, name: str) -> None:
    """`go_live` of version 2, ended without any clean-up before `line` runs."""
    # An engine and a registry of its own: no connection is shared with the parent.
    mine = EmbeddedEngine(Path(engine.where)) if engine.name == "embedded" else type(engine)(engine.where)
    sys.settrace(_tracer(lambda reached: os._exit(9) if reached == line else None))
    go_live(mine, Registry(), name, 2)
    os._exit(0)


def _standing(engine: Engine, home: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The engine's tags, and what stands in the files of the data folder."""
    files = [file for file in home.iterdir() if file.is_file() and not file.name.endswith("-shm")]
    return digests(engine), {file.name: sha256(file) for file in files}


def test_killed_at_any_line_of_a_promotion_the_live_model_still_answers(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for _ in range(2):
        make_version(engine, registry, name, home)
    numbers = {digests(engine)[f"{name}:v{number}"]: number for number in (1, 2)}
    go_live(engine, registry, name, 1)
    lines: dict[Line, object] = {}  # what stands when a line is come to
    sys.settrace(_tracer(lambda reached: lines.setdefault(reached, _standing(engine, home))))
    go_live(engine, registry, name, 2)
    sys.settrace(None)
    # two lines between which nothing was written are the same to whoever is killed there
    moments = [next(same)[0] for _, same in itertools.groupby(lines.items(), key=lambda each: each[1])]
    states = []
    for line in moments:
        go_live(engine, registry, name, 1)
        process = FORK.Process(target=_killed_at, args=(line, engine, name))
        process.start()
        process.join()
        assert process.exitcode == 9
        answering, registered = numbers[digests(engine)[f"{name}:latest"]], registry.live(name)
        assert registered is not None
        if (answering, registered.number) not in states:
            states.append((answering, registered.number))
            assert "colour" in _say(engine, f"{name}:latest")
        assert engine.show(f"{name}:latest").gguf.exists()
        findings = reconcile(engine, registry, name)
        assert [finding.mended for finding in findings] == [True] * (answering != registered.number)
        assert registry.live(name) == registry.get(name, answering)
    assert len(lines) > 20 and len(moments) > 2
    assert states[:2] == [(1, 1), (2, 1)]  # `latest` first, the registry after it


# Mending


def test_a_lost_registry_is_filled_again_from_the_engine(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for _ in range(3):
        make_version(engine, registry, name, home)
    go_live(engine, registry, name, 2)
    paths.state_db().unlink()
    findings = reconcile(engine, registry, name)
    assert [(finding.mended, finding.text) for finding in findings] == [
        *((True, f"{name}:v{number} was not in the registry: it was added as a candidate") for number in (1, 2, 3)),
        (True, f"{name}:latest is {name}:v2, which the registry did not list as live: corrected"),
    ]
    assert [version.state for version in registry.list(name)] == ["candidate", "live", "candidate"]
    assert registry.next_number(name) == 4
    assert reconcile(engine, registry, name) == []


def test_a_latest_that_somebody_removed_is_put_back(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.delete(f"{name}:latest")
    (finding,) = reconcile(engine, registry, name)
    assert (finding.mended, finding.text) == (True, f"{name}:latest was gone: it is {name}:v1 again")
    assert model_switcher.live(engine, name) == 1
    assert reconcile(engine, registry, name) == []


def test_a_latest_that_somebody_moved_is_believed(engine: Engine, name: str, registry: Registry, home: Path) -> None:
    for _ in range(2):
        make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.copy(f"{name}:v2", f"{name}:latest")
    (finding,) = reconcile(engine, registry, name)
    assert finding.mended and finding.text.startswith(f"{name}:latest is {name}:v2")
    assert registry.live(name) == registry.get(name, 2)
    assert reconcile(engine, registry, name) == []


def test_a_latest_that_is_none_of_the_versions_is_told_and_left(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.copy(BASE, f"{name}:latest")
    (finding,) = reconcile(engine, registry, name)
    assert (finding.mended, finding.text) == (
        False,
        f"{name}:latest is none of the versions of {name}: `byoai use {name}:v1` puts it back",
    )
    assert digests(engine)[f"{name}:latest"] == digests(engine)[BASE]


def test_a_version_that_somebody_removed_is_made_again_from_its_run(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    for _ in range(4):
        make_version(engine, registry, name, home)
    for number in (1, 2):
        go_live(engine, registry, name, number)
    registry.update(name, 3, pinned=True)
    before = digests(engine)
    for number in (1, 2, 3, 4):  # previous, live, pinned, and a candidate: its removal is respected
        engine.delete(f"{name}:v{number}")
    engine.delete(f"{name}:latest")
    findings = reconcile(engine, registry, name)
    assert [finding.mended for finding in findings] == [True] * 4
    assert [finding.text.split(":v")[1].split(" is gone")[0] for finding in findings[:3]] == [
        "1, which is previous,",
        "2, which is live,",
        "3, which is pinned,",
    ]
    assert digests(engine) == {tag: digest for tag, digest in before.items() if tag != f"{name}:v4"}
    assert reconcile(engine, registry, name) == []


def test_a_version_whose_weights_are_gone_is_made_again_from_its_run(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    version = make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    before = digests(engine)
    engine.unload()
    lost = engine.show(version.tag).spec.adapter
    assert isinstance(lost, Path)
    lost.unlink()
    (finding,) = reconcile(engine, registry, name)
    assert finding.mended and f"{version.tag}, which is live" in finding.text
    assert lost.exists() and digests(engine) == before
    assert reconcile(engine, registry, name) == []


def test_a_version_that_cannot_be_made_again_is_told_with_the_reason(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    version = make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    engine.delete(version.tag)
    adapter = home / version.run / "adapter.gguf"
    adapter.unlink()
    findings = reconcile(engine, registry, name)
    lost, why = (
        f"{name}:v1, which is live, is gone from {engine.name}",
        f"cannot be made again, because {adapter} was deleted",
    )
    assert findings[0].text == f"{lost}. {name}:v1 {why}: choose another version"
    assert not any(finding.mended for finding in findings)
    assert "colour" in _say(engine, f"{name}:latest")
    engine.delete(f"{name}:latest")
    assert reconcile(engine, registry, name)[1].text.startswith(f"{name}:latest is gone, and so is its version")
    (home / version.run / "Modelfile").unlink()
    with pytest.raises(ExportError, match=r"cannot read .*Modelfile"):
        restore(engine, version)
    with pytest.raises(ExportError, match=f"{name}:v2 cannot be made again, because its run is unknown"):
        restore(engine, registry.add(name, 2))


def test_an_interrupted_create_leaves_a_candidate_that_disturbs_nothing(
    engine: Engine, name: str, registry: Registry, home: Path
) -> None:
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    registry.add(name, registry.next_number(name))  # and its tag was never made
    assert reconcile(engine, registry, name) == []
    assert make_version(engine, registry, name, home).number == 3


def test_a_fresh_start_has_nothing_to_mend(engine: Engine, name: str, registry: Registry) -> None:
    with contextlib.suppress(ModelNotFound):
        engine.delete(f"{name}:latest")
    assert reconcile(engine, registry, name) == []
