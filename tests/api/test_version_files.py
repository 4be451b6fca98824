"""A version's files over HTTP: its GGUF, and its adapter in a zip archive."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from served_app import client_of

from fine_tuning.model_management.model_registry import Registry

NAME = "fine_tuned_chat"
FILE = f"/api/versions/{NAME}/1/file"


@pytest.fixture
def run(home: Path) -> Path:
    """The run of a version: an adapter of two files and a link that leads out, and its GGUF."""
    run = home / "runs" / "1"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (run / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 20_000)  # five pieces
    (run / "adapter" / "link.txt").symlink_to("/etc/hostname")
    (run / "adapter.gguf").write_bytes(b"GGUF" * 1000)
    Registry().add(NAME, 1, run="runs/1")
    return run


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def test_the_adapter_comes_whole_in_a_zip_archive_and_nothing_else_with_it(client: TestClient, run: Path) -> None:
    answer = client.get(FILE, params={"part": "adapter"})
    assert answer.headers["content-disposition"] == f'attachment; filename="{NAME}-v1.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
        for name in archive.namelist():
            assert archive.read(name) == (run / "adapter" / name).read_bytes()


def test_the_gguf_comes_as_it_is_and_a_merged_one_first(client: TestClient, run: Path) -> None:
    assert client.get(FILE, params={"part": "gguf"}).content == (run / "adapter.gguf").read_bytes()
    (run / "model.gguf").write_bytes(b"GGUF merged")
    assert client.get(FILE, params={"part": "gguf"}).content == b"GGUF merged"


def test_what_is_not_there_is_not_found(client: TestClient, run: Path) -> None:
    assert client.get(FILE, params={"part": "report"}).status_code == 422
    assert client.get(f"/api/versions/{NAME}/2/file", params={"part": "gguf"}).status_code == 404
    (run / "adapter.gguf").unlink()
    assert client.get(FILE, params={"part": "gguf"}).status_code == 404
    Registry().add(NAME, 2, run="../../etc")
    assert client.get(f"/api/versions/{NAME}/2/file", params={"part": "adapter"}).status_code == 404
