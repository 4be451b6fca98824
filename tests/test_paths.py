import fcntl
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning import paths
from fine_tuning.errors import ByoaiError


@given(st.text(max_size=120))
def test_a_safe_name_is_one_visible_path_component(name):
    try:
        safe = paths.safe_name(name)
    except ByoaiError:
        return
    assert not {"/", "\\", "\0"} & set(safe)
    assert safe not in {"", ".", ".."}
    assert not safe.startswith((".", "-"))
    assert safe.isascii()


@given(st.text(max_size=120))
def test_any_text_has_a_slug_that_is_a_safe_name(text):
    paths.safe_name(paths.slug(text))


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "a\0", "", ".", "-rf", "a..b", "con:1", "x" * 101, "a\n"])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(ByoaiError):
        paths.safe_name(name)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    paths.atomic_write(file, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        paths.atomic_write(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_home_is_where_the_environment_says(home):
    assert paths.home() == home


def test_files_and_folders_that_are_removed_meanwhile_are_left_out(tmp_path):
    for name in ("first", "second", "folder/third"):
        paths.atomic_write(tmp_path / name, name)
    (tmp_path / "link").symlink_to("first")
    assert sorted(file.name for file, _ in paths.files_in(tmp_path)) == ["first", "second", "third"]
    found = paths.files_in(tmp_path)
    seen, facts = next(found)
    assert facts.st_size == len(seen.name)
    shutil.rmtree(tmp_path / "folder")
    (tmp_path / ("second" if seen.name == "first" else "first")).unlink()
    assert list(found) == []
    assert list(paths.files_in(tmp_path / "folder")) == []


def test_of_two_that_find_a_file_of_messages_full_one_renames_it(tmp_path):
    file, older = tmp_path / "log.txt", tmp_path / "log.1.txt"
    paths.append_limited(file, b"x" * 90, 100, older)
    with ThreadPoolExecutor() as pool:
        with paths.replacing(file):
            other = pool.submit(paths.append_limited, file, b"other's " * 2, 100, older)
            time.sleep(0.2)  # it has found the file full, and waits
            file.rename(older)
            file.write_bytes(b"ours ")
        other.result()
    assert older.read_bytes() == b"x" * 90
    assert file.read_bytes() == b"ours other's other's "


def test_a_message_is_written_although_another_has_just_renamed_the_full_file(tmp_path, monkeypatch):
    file, older = tmp_path / "log.txt", tmp_path / "log.1.txt"
    paths.append_limited(file, b"x" * 90, 100, older)
    replacing = paths.replacing

    def late(path):
        file.rename(older)
        return replacing(path)

    monkeypatch.setattr(paths, "replacing", late)
    paths.append_limited(file, b"mine " * 4, 100, older)
    assert (older.read_bytes(), file.read_bytes()) == (b"x" * 90, b"mine " * 4)


def test_who_waited_for_a_file_replaces_the_one_that_is_there_now(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"old\n")
    with ThreadPoolExecutor() as pool:
        with paths.appending(file) as first:
            replacer = pool.submit(_append_while_replacing, file)
            time.sleep(0.2)  # it waits for the file that is replaced here
            os.write(first, b"first\n")
            paths.atomic_write(file, file.read_bytes())
        assert replacer.result() is False


def _append_while_replacing(file):
    """Return whether another could lock the file while it is being replaced."""
    with paths.replacing(file):
        handle = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True
