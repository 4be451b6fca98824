import os

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
