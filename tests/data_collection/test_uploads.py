"""What an upload is told to be, and that what is forgotten goes from the uploads, however they hold it."""

import gzip
import html
import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from at_once import at_once
from hypothesis import example, given
from hypothesis import strategies as st

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, Uploads
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import import_files
from fine_tuning.data_collection.peek import peek
from fine_tuning.data_collection.upload_types import is_pickle, type_of
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import DataError
from fine_tuning.events import Watch
from fine_tuning.forgetting import examine, forget, held_elsewhere

LIMITS = Uploads(keep_free=0)
SECRET = 'Zorbexine 4711 lives\tin "Köln"'


def uploaded(name: str, content: bytes, *, finish: bool = True) -> Upload:
    upload = uploads.create(name, len(content) + (not finish), "", LIMITS)
    uploads.append(upload.id, 0, content, LIMITS)
    return uploads.finish(upload.id) if finish else upload


@given(st.text(max_size=300))
@example("tables.\n")
@example("I am.")
@example("Vera: hi\nPaul: ho\n" * 20)
@example("content\nhello\n")
@example("User: c\nAssistant: N.")
def test_a_text_is_no_pickle(text: str) -> None:
    assert not is_pickle(f"{text} and so on".encode("utf-8", "replace"), True)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_pickle_is_one_by_every_protocol(value: object) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps([value], protocol)
        assert is_pickle(content, True)


@given(st.binary(min_size=1, max_size=4000))
@example(b"PK\x03\x04" + bytes(30))
@example(b"PAR1PAR1")
@example(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
@example(b"\xff\xfea\0")
@example(b"{" * 500)
def test_any_bytes_are_refused_or_can_be_looked_into(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(content)
    try:
        if type_of(file) != "parquet":  # in a process of its own: tests/api
            json.dumps([peek(file).rows], allow_nan=False).encode()
    except DataError as error:
        assert str(error)


def zipped(content: bytes, name: str = "export/chats.json") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.txt", "nothing here")
        archive.writestr(name, content)
    return target.getvalue()


def parquet(text: str) -> bytes:
    import pyarrow
    from pyarrow import parquet as format

    target = io.BytesIO()
    format.write_table(pyarrow.table({"question": ["a", text], "answer": ["b", "c"]}), target, compression="zstd")
    return target.getvalue()


HOLDING: dict[str, Callable[[str], bytes]] = {
    "plain.txt": lambda text: f"User: {text}\nAssistant: yes\n".encode(),
    "behind a megabyte.txt": lambda text: b"x" * ((1 << 20) - 10) + text.encode(),
    "other case and spaces.txt": lambda text: text.upper().replace(" ", "  \n").encode(),
    "escaped.jsonl": lambda text: json.dumps({"text": text}).encode(),
    "html.json": lambda text: json.dumps({"text": html.escape(text)}).encode(),
    "quoted.csv": lambda text: ('question,answer\n"' + text.replace('"', '""') + '",yes\n').encode(),
    "wide.csv": lambda text: f"question,answer\n{text.replace(chr(34), '')},yes\n{text},b\n".encode("utf-16"),
    "packed.parquet": parquet,
    "archive.zip": lambda text: zipped(json.dumps([{"text": text}]).encode()),
    "archive of packed.zip": lambda text: zipped(gzip.compress(text.encode()), "a.json.gz"),
    "text in it.pdf": lambda text: b"%PDF-1.4\n%\xe2\xe3\n" + zlib.compress(text.encode()),
    "archive in it.zip": lambda text: zipped(zipped(text.encode()), "inner.zip"),
}


def test_a_pdf_is_told_by_its_beginning_and_a_text_about_one_is_none(tmp_path: Path) -> None:
    for content, kind in (
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\0\0", "pdf"),
        (2 * b'{"question": "How does a PDF begin?", "answer": "%PDF-"}\n', "jsonl"),
    ):
        (tmp_path / "file").write_bytes(content)
        assert type_of(tmp_path / "file") == kind


def test_an_archive_with_a_file_without_a_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("a.txt", "User: Hello\nAssistant: Hi!")
        archive.filelist[0].filename = ""  # in the list of files that is written last
    with pytest.raises(DataError, match="a file in it has no name"):
        type_of(tmp_path / "file")


@pytest.mark.parametrize("name", HOLDING)
@pytest.mark.parametrize("finish", [True, False], ids=["finished", "unfinished"])
def test_forgetting_deletes_the_uploads_that_hold_it_and_no_others(
    home: Path, tmp_path: Path, name: str, finish: bool
) -> None:
    ConversationLogger().log_conversation(f"Who said {SECRET}?", "Nobody did, as far as I know.")
    held = uploaded(name, HOLDING[name](SECRET), finish=finish)
    kept = [
        uploaded(f"kept {each}", make("nothing of the kind")) for each, make in HOLDING.items() if "in it" not in each
    ]
    engine, config = EmbeddedEngine(tmp_path / "engine"), FineTuningConfig()
    case = examine(config, engine, matching=SECRET)
    assert held_elsewhere(config, case) == [held.content]
    outcome = forget(config, engine, Watch(), case, teach_again=False)
    assert outcome.left == ()
    assert {upload.id for upload in uploads.find()} == {upload.id for upload in kept} and not held.folder.exists()


def test_forgetting_a_turn_deletes_the_upload_that_it_was_imported_from(home: Path, tmp_path: Path) -> None:
    """Its text need not be found there: the importer merged two messages into one."""
    said = [("user", "Hi."), ("user", "Tea?"), ("assistant", "Yes, there is.")]
    content = json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}) + "\n"
    upload, other = uploaded("a.jsonl", content.encode()), uploaded("b.jsonl", b'{"question": "a", "answer": "b"}\n')
    log = ConversationLogger()
    import_files(log, [upload.noting_import("the-import").content], id="the-import")
    import_files(log, [other.noting_import("another").content], id="another")
    (turn, _) = log.turns()
    engine, config = EmbeddedEngine(tmp_path / "engine"), FineTuningConfig()
    forget(config, engine, Watch(), examine(config, engine, turn.id), teach_again=False)
    assert [each.id for each in uploads.find()] == [other.id]


def test_several_uploads_begin_at_once_while_old_ones_are_cleared_away(home: Path) -> None:
    for number in range(60):
        old = uploads.folder_of(f"20200101-000000-{number:08x}") / "content"
        old.mkdir(parents=True)
        for folder in (old, old.parent):
            os.utime(folder, (1, 1))
    begun = at_once([lambda: uploads.create("chat.txt", 3, "", LIMITS)] * 5)
    assert {upload.id for upload in uploads.find()} == {upload.id for upload in begun}
    assert len(list(paths.uploads_dir().glob("2*"))) == len(begun)
