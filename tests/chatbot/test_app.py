"""The script that Streamlit runs."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from chatbot.server import APP


def test_a_child_process_begun_while_a_page_is_drawn_draws_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")  # what Streamlit makes the main module, which a child process runs again
    main.__file__ = str(APP)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as children:
        assert children.submit(abs, -1).result(timeout=60) == 1
