"""What only the embedded engine has to keep: its store of files and the one model in memory. The
rest is in test_contract.py.
"""

import gc
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import EngineError, ModelNotFound

HELLO = [Message(role="user", content="Hello!")]
BRIEF = ChatOptions(temperature=0, max_tokens=4)


@pytest.fixture
def engine(home: Path, base_gguf: Path) -> EmbeddedEngine:
    engine = EmbeddedEngine()
    engine.create("base:v1", ModelSpec(base_gguf, template=CHATML))
    return engine


def _blobs(engine: EmbeddedEngine) -> list[Path]:
    return sorted((Path(engine.where) / "blobs").iterdir())


def test_it_lives_in_the_data_folder_and_another_process_sees_its_tags(engine: EmbeddedEngine, home: Path) -> None:
    assert Path(engine.where) == home / "engine"
    assert [model.tag for model in EmbeddedEngine().list_models()] == ["base:v1"]


def test_an_empty_store_lists_nothing_and_writes_nothing(home: Path) -> None:
    assert EmbeddedEngine().list_models() == []
    with pytest.raises(ModelNotFound, match="Its models: none"):
        EmbeddedEngine().show("x")
    assert list(home.iterdir()) == []


def test_a_tag_that_another_process_deletes_just_now_is_left_out_of_the_list(engine: EmbeddedEngine) -> None:
    """A link to nothing is seen like a file that was deleted after its folder was read."""
    tags = Path(engine.where) / "tags"
    (tags / "base" / "v2.json").symlink_to(tags / "gone")
    assert [model.tag for model in engine.list_models()] == ["base:v1"]


def test_tags_share_weights_and_the_last_one_takes_them_away(
    engine: EmbeddedEngine, base_gguf: Path, make_adapter
) -> None:
    engine.create("tuned:v1", ModelSpec("base:v1", adapter=make_adapter(0.0)))
    engine.create("again:v1", ModelSpec(base_gguf))
    assert len(_blobs(engine)) == 2
    engine.delete("base:v1")
    engine.delete("again:v1")
    assert len(_blobs(engine)) == 2
    engine.delete("tuned:v1")
    assert _blobs(engine) == []


def test_weights_on_the_same_disk_take_no_room_twice(home: Path, base_gguf: Path) -> None:
    run = home / "runs" / "1"
    run.mkdir(parents=True)
    shutil.copy(base_gguf, run / "merged.gguf")
    engine = EmbeddedEngine()
    engine.create("merged:v1", ModelSpec(run / "merged.gguf"))
    assert engine.show("merged:v1").gguf.samefile(run / "merged.gguf")
    shutil.rmtree(run)
    assert engine.show("merged:v1").gguf.stat().st_size == base_gguf.stat().st_size


def test_what_a_crash_left_half_is_swept_away(engine: EmbeddedEngine) -> None:
    left = Path(engine.where) / "blobs" / "sha256-abc.partial"
    left.write_bytes(b"half")
    engine.copy("base:v1", "base:v2")
    assert not left.exists()


def test_several_writers_do_not_lose_each_others_tags(engine: EmbeddedEngine, make_adapter) -> None:
    adapter = make_adapter(0.0)
    engines = [EmbeddedEngine() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: engines[n % 4].create(f"tuned:v{n}", ModelSpec("base:v1", adapter=adapter)), range(12)))
    assert len(engine.list_models()) == 13
    assert engine.render("tuned:v11", HELLO)


def test_names_with_a_host_keep_their_shape(engine: EmbeddedEngine) -> None:
    names = {"hub.example:8080/user/model:q4", "user/model:latest", "model:v1.5"}
    for name in names:
        engine.copy("base:v1", name)
    assert {model.tag for model in engine.list_models()} == {"base:v1", *names}
    for name in names:
        engine.delete(name)
    assert [model.tag for model in engine.list_models()] == ["base:v1"]


def test_a_tag_that_is_deleted_while_it_is_read_is_not_there(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = paths.read_json

    def read_too_late(file: Path) -> object:
        file.unlink()  # as another process does
        return read(file)

    monkeypatch.setattr(paths, "read_json", read_too_late)
    with pytest.raises(ModelNotFound, match="has no model base:v1"):
        engine.show("base:v1")


def test_a_damaged_tag_is_named_with_its_cure(engine: EmbeddedEngine, home: Path) -> None:
    (home / "engine" / "tags" / "base" / "v1.json").write_text('{"gguf": "12')
    with pytest.raises(EngineError, match=r"v1\.json is damaged .* make the model base:v1 again"):
        engine.show("base:v1")


def test_missing_weights_are_named(engine: EmbeddedEngine) -> None:
    _blobs(engine)[0].unlink()
    with pytest.raises(EngineError, match="the weights of base:v1 are missing"):
        list(engine.chat("base:v1", HELLO))


def test_a_go_template_and_a_renderer_are_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError, match="supports no Go templates"):
        engine.create("x:v1", ModelSpec("base:v1", template="{{- range .Messages }}{{ .Content }}{{ end }}"))
    with pytest.raises(EngineError, match="needs 'qwen3'"):
        engine.create("x:v1", ModelSpec("base:v1", renderer="qwen3"))
    assert [model.tag for model in engine.list_models()] == ["base:v1"]


def test_only_one_model_is_in_memory(engine: EmbeddedEngine, make_adapter) -> None:
    engine.create("tuned:v1", ModelSpec("base:v1", adapter=make_adapter(0.0)))
    engine.warm("base:v1")
    engine.warm("tuned:v1")
    assert engine.loaded() == ["tuned:v1"]
    assert engine.unload("base:v1") == []
    assert engine.unload() == ["tuned:v1"]


def test_old_turns_give_way_when_the_context_is_full_and_the_system_message_stays(engine: EmbeddedEngine) -> None:
    old = [Message(role=role, content=f"{n} " + "old words " * 30) for n in range(20) for role in ("user", "assistant")]
    talk = [Message(role="system", content="You are terse."), *old, *HELLO]
    last = list(engine.chat("base:v1", talk, ChatOptions(temperature=0, max_tokens=2, context=256)))[-1]
    assert 100 < last.prompt_tokens <= 192
    alone = list(engine.chat("base:v1", [talk[0], *HELLO], ChatOptions(temperature=0, max_tokens=2, context=256)))[-1]
    assert last.prompt_tokens > alone.prompt_tokens
    engine.unload()


def test_a_message_larger_than_the_context_is_an_error(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError, match=r"the message is too long: .* Shorten it, or raise the context"):
        list(engine.chat("base:v1", [Message(role="user", content="word " * 500)], ChatOptions(context=256)))
    engine.unload()


def test_a_full_context_ends_the_answer(engine: EmbeddedEngine) -> None:
    count = [Message(role="user", content="Count up: one two three " * 5)]
    last = list(engine.chat("base:v1", count, ChatOptions(temperature=0, context=64)))[-1]
    assert last.done_reason == "length"
    assert last.prompt_tokens + last.tokens == 64
    engine.unload()


def test_an_iterator_that_is_dropped_lets_the_next_caller_in(engine: EmbeddedEngine) -> None:
    stream = engine.chat("base:v1", HELLO, ChatOptions(temperature=0, max_tokens=200))
    next(stream)
    waiting = threading.Thread(target=lambda: list(engine.chat("base:v1", HELLO, BRIEF)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()  # one answer at a time
    del stream
    gc.collect()
    waiting.join(60)
    assert not waiting.is_alive()
    engine.unload()
