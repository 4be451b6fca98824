"""A text is found however a file writes it, and nothing else is touched."""

import csv
import errno
import gzip
import html
import io
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning import paths
from fine_tuning.data_collection.redaction import pattern, redact, redact_text, search
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Note, events_to, read_events

SAID = 'Grüße an "Zorbex" & Co,\n5 Ärzte'


def _csv(text: str) -> str:
    table = io.StringIO()
    csv.writer(table).writerow([text])
    return table.getvalue()


@pytest.mark.parametrize(
    "written",
    [
        SAID,
        SAID.upper(),
        SAID.lower(),
        SAID.replace("\n", "  "),
        json.dumps(SAID),
        json.dumps(SAID, ensure_ascii=False),
        html.escape(SAID),
        _csv(SAID),
        unicodedata.normalize("NFD", SAID),
    ],
)
def test_a_text_is_found_however_it_is_written(tmp_path: Path, written: str) -> None:
    wanted = pattern([SAID, "something else"])
    assert wanted
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_text(f"before {written} after", encoding="utf-8")
    length = file.stat().st_size
    assert list(search(tmp_path, wanted)) == [file]
    assert list(search(tmp_path, wanted, skip=[file.parent])) == []
    redact(file, wanted)
    left = file.read_text(encoding="utf-8")
    assert "orbex" not in left.lower() and left.startswith("before ") and left.endswith(" after")
    assert file.stat().st_size == length
    assert list(search(tmp_path, wanted)) == []


def test_json_stays_json_with_its_other_values(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"a": SAID, "b": [f"x {SAID} y", 1.5], "c": "stays"}))
    wanted = pattern([SAID])
    assert wanted
    redact(file, wanted)
    left = json.loads(file.read_text())
    assert (left["b"][1], left["c"]) == (1.5, "stays")


def test_packed_files_are_searched_and_packed_again(tmp_path: Path) -> None:
    file = tmp_path / "old.jsonl.gz"
    file.write_bytes(gzip.compress(b"keep " + SAID.encode()))
    wanted = pattern([SAID])
    assert wanted
    assert list(search(tmp_path, wanted)) == [file]
    redact(file, wanted)
    assert gzip.decompress(file.read_bytes()).startswith(b"keep ****")


def test_a_packed_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    wanted = pattern(["text"])
    assert wanted
    with pytest.raises(ByoaiError, match=r"broken\.gz"):
        list(search(tmp_path, wanted))


@settings(deadline=None)
@given(st.text(min_size=1).filter(str.strip), st.text(), st.text())
def test_any_text_is_found_in_json_and_blacked_out_there(text: str, before: str, after: str) -> None:
    wanted = pattern([text])
    assert wanted
    for ascii_only in (True, False):
        written = json.dumps({"key": f"{before} {text} {after}"}, ensure_ascii=ascii_only)
        assert not wanted.search(redact_text(written, wanted).encode("utf-8", "replace"))


def test_nothing_to_search_for_is_no_pattern() -> None:
    assert pattern([]) is None and pattern([" \n"]) is None


def test_a_models_vocabulary_is_nothing_that_was_said(tmp_path: Path) -> None:
    """An engine names its blobs by their digest: what is in them only their first bytes tell."""
    for name, content in {
        "model.gguf": b"GGUF badge",
        "adapter.safetensors": b"badge",
        "texts.sketches": b"badge",
        "sha256-1": b"GGUF\x03 badge",
        "sha256-2": b"{{ badge }}",
    }.items():
        (tmp_path / name).write_bytes(content)
    wanted = pattern(["badge"])
    assert wanted
    assert [path.name for path in search(tmp_path, wanted)] == ["sha256-2"]


def test_of_json_values_are_searched_and_blacked_out_and_field_names_are_not(tmp_path: Path) -> None:
    wanted = pattern(["ada", "passed", "123"])
    assert wanted
    value = {"metadata": {"passed": True, "score": 0.123}, "said": ["Ask Ada."]}
    (tmp_path / "names.json").write_text(json.dumps(value | {"said": []}))
    (tmp_path / "one.json").write_text(json.dumps(value))
    (tmp_path / "lines.jsonl").write_text(json.dumps(value) + "\n" + json.dumps(value) + "\n")
    assert [path.name for path in search(tmp_path, wanted)] == ["lines.jsonl", "one.json"]
    for name in ("one.json", "lines.jsonl"):
        redact(tmp_path / name, wanted)
    assert list(search(tmp_path, wanted)) == []
    changed = value | {"said": ["Ask ***."]}
    assert json.loads((tmp_path / "one.json").read_text()) == changed
    assert [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()] == [changed, changed]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"badge" * 1000))
    packed[20] ^= 0xFF
    (tmp_path / "damaged.gz").write_bytes(packed)
    wanted = pattern(["badge"])
    assert wanted
    with pytest.raises(ByoaiError, match=r"damaged\.gz"):
        list(search(tmp_path, wanted))


def test_what_a_job_appends_meanwhile_is_kept_and_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running job appends to its events and its log while `forget` redacts them."""
    wanted, write = pattern(["Zorbex"]), paths.atomic_write
    assert wanted
    for name, line in (("events.jsonl", '{"n": %d, "text": "Zorbex"}\n'), ("log.txt", "line %d: Zorbex\n")):
        file = tmp_path / name
        file.write_text(line % 1)

        def write_later(path: Path, content: bytes, line: str = line) -> None:
            with path.open("a") as job:
                job.write(line % 2)
            opened = path.open("a")  # before the file is replaced, and written to only after it
            write(path, content)
            monkeypatch.setattr(time, "sleep", lambda _: (opened.write(line % 3), opened.close()))

        with monkeypatch.context() as patch:
            patch.setattr(paths, "atomic_write", write_later)
            redact(file, wanted)
        assert file.read_text() == "".join(line % number for number in (1, 2, 3)).replace("Zorbex", "******")
        assert list(search(tmp_path, wanted)) == []


def test_a_job_that_opened_its_events_long_before_they_are_replaced_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may rest for any time between opening the file and writing to it."""
    wanted, file, opened = pattern(["Zorbex"]), tmp_path / "events.jsonl", os.open
    assert wanted
    pool = ThreadPoolExecutor()
    with events_to(file) as tell:
        tell(Note("Zorbex 1"))
        job = list[Future[None]]()

        def open_and_rest(path: Path, *rest: int) -> int:
            handle = opened(path, *rest)
            if path == file:
                monkeypatch.undo()
                job.append(pool.submit(redact, file, wanted))
                time.sleep(0.2)
            return handle

        monkeypatch.setattr(os, "open", open_and_rest)
        tell(Note("Zorbex 2"))
        job[0].result()
        tell(Note("3"))
    pool.shutdown()
    found = [event.text for _, event in read_events(file) if isinstance(event, Note)]
    assert found in (["****** 1", "****** 2", "3"], ["****** 1", "Zorbex 2", "3"])


def test_a_file_that_was_removed_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    wanted = pattern(["Zorbex"])
    assert wanted
    redact(tmp_path / "jobs" / "log.txt", wanted)
    assert list(tmp_path.iterdir()) == []


def test_what_a_link_leads_to_is_searched_and_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pattern(["Zorbex"])
    assert wanted
    (tmp_path / "there.txt").write_text("Zorbex")
    inside = tmp_path / "home"
    inside.mkdir()
    (inside / "link.txt").symlink_to(tmp_path / "there.txt")
    assert [path.name for path in search(inside, wanted)] == ["link.txt"]

    def refused(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder)))  # root may read every folder
        yield from ()

    monkeypatch.setattr(os, "walk", refused)
    with pytest.raises(ByoaiError, match=r"cannot search .*home: Permission denied\. Make it readable"):
        list(search(inside, wanted))
