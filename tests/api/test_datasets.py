"""Files over HTTP: sent part by part, found out, looked into, prepared, imported, deleted; and what may not come in."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ports import unused_port
from timing import in_time, seconds

from fine_tuning.api.app import create_app
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.config import FineTuningConfig, Uploads
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.integration.service import Service
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.store import State

OWN = "http://127.0.0.1:8501"
MIB = 1 << 20
BYTES = {"content-type": "application/octet-stream"}
LINES = "".join(
    json.dumps({"question": f"What is {n}?", "answer": f"It is number {n}."}) + "\n" for n in range(100)
).encode()


def connected(**limits: int) -> TestClient:
    config = FineTuningConfig(uploads=Uploads(**{"keep_free": 0, **limits}))  # type: ignore[arg-type]
    app = Door(create_app(Service(lambda: config)), Access(8501), Token())
    return TestClient(app, base_url=OWN, headers={TOKEN_HEADER: Token().read()}, raise_server_exceptions=False)


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with connected() as client:
        yield client


def begin(client: TestClient, name: str, size: int, **more: str) -> str:
    answer = client.post("/api/uploads", json={"name": name, "bytes": size, **more})
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    return id


def send(client: TestClient, id: str, offset: int, part: bytes) -> Response:
    return client.put(f"/api/uploads/{id}", params={"offset": offset}, content=part, headers=BYTES)


def upload(client: TestClient, name: str, content: bytes) -> Response:
    """Send a file in one part, and finish it."""
    id = begin(client, name, len(content))
    assert send(client, id, 0, content).status_code == 200
    return client.post(f"/api/uploads/{id}/finish", json={})


def uploaded(client: TestClient, name: str, content: bytes) -> str:
    answer = upload(client, name, content)
    assert answer.status_code == 200, answer.text
    id: str = answer.json()["id"]
    return id


# Parts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(content=st.binary(min_size=1, max_size=MIB // 8), cuts=st.lists(st.integers(0, MIB // 4), max_size=5))
def test_any_parts_give_the_file_and_any_other_offset_is_told_where_to_go_on(
    client: TestClient, content: bytes, cuts: list[int]
) -> None:
    content = b'"' + content.replace(b"\0", b"0").hex().encode() + b'"'
    id = begin(client, "a.txt", len(content), sha256=hashlib.sha256(content).hexdigest())
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for start, end in pairwise(places):
        for wrong in {start + 1, start - 1, 0, end, 2**53} - {start, -1}:
            answer = send(client, id, wrong, content[:10])
            assert (answer.status_code, answer.headers["x-upload-size"]) == (409, str(start))
            assert answer.json()["error"]["type"] == "WrongOffset"
        assert send(client, id, start, content[start:end]).json()["size"] == end
    finished = client.post(f"/api/uploads/{id}/finish", json={}).json()
    assert (finished["size"], finished["type"]) == (len(content), "text")
    assert uploads.get(id).content.read_bytes() == content
    client.delete(f"/api/uploads/{id}")


def test_after_a_lost_reply_a_client_goes_on_from_the_size_that_it_is_told(client: TestClient) -> None:
    id = begin(client, "a.jsonl", len(LINES))
    send(client, id, 0, LINES[:1000])
    again = send(client, id, 0, LINES[:1000])
    assert again.status_code == 409 and "offset=1000" in again.json()["error"]["message"]
    size = client.get(f"/api/uploads/{id}").json()["size"]
    assert send(client, id, size, LINES[size:]).status_code == 200
    first = client.post(f"/api/uploads/{id}/finish", json={})
    assert first.json() == client.post(f"/api/uploads/{id}/finish", json={}).json()
    assert send(client, id, len(LINES), b"more").status_code == 409


def test_what_is_unfinished_is_no_dataset_and_cannot_be_finished(client: TestClient) -> None:
    id = begin(client, "a.jsonl", len(LINES))
    send(client, id, 0, LINES[:500])
    answer = client.post(f"/api/uploads/{id}/finish", json={})
    assert (answer.status_code, answer.headers["x-upload-size"]) == (409, "500")
    assert client.get(f"/api/datasets/upload/{id}").status_code == 404
    assert client.get("/api/datasets").json()["items"] == []


def test_more_than_was_announced_is_refused_and_nothing_of_it_is_written(client: TestClient) -> None:
    id = begin(client, "a.jsonl", 10)
    assert send(client, id, 0, b"x" * 11).status_code == 413
    # without a length
    streamed = client.put(f"/api/uploads/{id}?offset=0", content=iter([b"x" * 6, b"x" * 6]), headers=BYTES)
    assert streamed.status_code == 413
    assert client.get(f"/api/uploads/{id}").json()["size"] == 0


def test_two_senders_of_one_upload_do_not_mix(client: TestClient) -> None:
    content = os.urandom(4 * MIB).hex().encode()
    id = begin(client, "a.txt", len(content))
    told: list[int] = []

    def sending() -> None:
        at = 0
        while at < len(content):
            answer = send(client, id, at, content[at : at + 300_000])
            told.append(answer.status_code)
            at = answer.json()["size"] if answer.status_code == 200 else int(answer.headers["x-upload-size"])

    threads = [threading.Thread(target=sending) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(told) <= {200, 409}
    assert uploads.get(id).content.read_bytes() == content


def test_a_wrong_hash_is_refused_and_the_file_is_removed(client: TestClient) -> None:
    id = begin(client, "a.jsonl", len(LINES), sha256="0" * 64)
    send(client, id, 0, LINES)
    answer = client.post(f"/api/uploads/{id}/finish", json={})
    assert answer.status_code == 400 and hashlib.sha256(LINES).hexdigest() in answer.json()["error"]["message"]
    assert client.get(f"/api/uploads/{id}").status_code == 404


# Limits


def test_one_file_all_files_and_their_number_are_limited(home: Path) -> None:
    with connected(largest=2, quota=3, unfinished=2) as client:
        assert client.post("/api/uploads", json={"name": "a", "bytes": 2 * MIB + 1}).status_code == 413
        first = begin(client, "a", 2 * MIB)
        full = client.post("/api/uploads", json={"name": "b", "bytes": MIB + 1})
        assert full.status_code == 409 and "uploads.quota" in full.json()["error"]["message"]
        begin(client, "b", 10)
        many = client.post("/api/uploads", json={"name": "c", "bytes": 10})
        assert many.status_code == 409 and "unfinished" in many.json()["error"]["message"]
        assert client.delete(f"/api/uploads/{first}").status_code == 204
        begin(client, "c", 2 * MIB)


def test_some_of_the_disk_stays_free(home: Path) -> None:
    free = shutil.disk_usage(home).free // MIB
    with connected(largest=2**31 - 1, quota=2**31 - 1, keep_free=free // 2) as client:
        assert client.post("/api/uploads", json={"name": "a", "bytes": free * MIB * 3 // 4}).status_code == 507
        begin(client, "a", MIB)


def test_unfinished_ones_go_a_day_after_their_last_part(client: TestClient) -> None:
    old, young, whole = begin(client, "a", 10), begin(client, "b", 10), uploaded(client, "c.jsonl", LINES)
    for id in (old, young):
        send(client, id, 0, b"12345")
    yesterday = time.time() - uploads.STALE - 60
    for each in (old, whole):
        for path in [uploads.get(each).content, uploads.folder_of(each)]:
            os.utime(path, (yesterday, yesterday))
    os.utime(uploads.folder_of(young), (yesterday, yesterday))
    client.get("/api/uploads")
    assert uploads.folder_of(old).exists()  # no GET changes anything
    begin(client, "d", 10)
    assert (
        not uploads.folder_of(old).exists() and uploads.folder_of(young).exists() and uploads.folder_of(whole).exists()
    )


@contextlib.contextmanager
def small_tmpfs(home: Path) -> Iterator[None]:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(home)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    filler = home / "filler"
    try:
        filler.write_bytes(bytes(2 * MIB))
        yield
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


@contextlib.contextmanager
def small_files(_home: Path) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 5000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", [small_tmpfs, small_files])
def test_a_full_disk_is_507_and_the_upload_goes_on_when_there_is_room(home: Path, full: Any) -> None:
    content = b'"' + b"x" * (2 * MIB - 2) + b'"'
    with full(home), connected() as client:
        id = begin(client, "a.txt", len(content)) if full is small_files else _begin_before(client, home, len(content))
        answer = send(client, id, 0, content)
        assert answer.status_code == 507 and "make room" in answer.json()["error"]["message"], answer.text
        size = client.get(f"/api/uploads/{id}").json()["size"]
        assert 0 < size < len(content)
        if full is small_files:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (home / "filler").unlink(missing_ok=True)
        assert send(client, id, size, content[size:]).status_code == 200
        assert client.post(f"/api/uploads/{id}/finish", json={}).json()["sha256"] == hashlib.sha256(content).hexdigest()


def _begin_before(client: TestClient, home: Path, size: int) -> str:
    """Begin an upload while there is room, which something else takes then."""
    content = (home / "filler").read_bytes()
    (home / "filler").unlink()
    id = begin(client, "a.txt", size)
    (home / "filler").write_bytes(content)
    return id


# What it is


def zipped(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return target.getvalue()


def linked() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        link = zipfile.ZipInfo("chats.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return target.getvalue()


def named(name: str) -> bytes:
    """An archive with a member of this very name."""
    content = zipped(**{"x" * len(name): LINES})
    return content.replace(b"x" * len(name), name.encode())


def bomb() -> bytes:
    """A gigabyte in an archive of a megabyte, which takes seconds to make."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            with archive.open(f"{number}.json", "w") as member:
                for _ in range(120):
                    member.write(bytes(MIB))
    return target.getvalue()


REFUSED: dict[str, bytes | Callable[[], bytes]] = {
    **{
        f"pickle {protocol}": pickle.dumps({"weights": [1.0] * 5, "path": Path("x")}, protocol) for protocol in range(6)
    },
    "pickle 0 of a long list": pickle.dumps([f"text {n}" for n in range(100_000)], 0),
    "pickle that runs": b"cos\nsystem\n(S'echo hi'\ntR.",
    "ELF": b"\x7fELF" + bytes(100),
    "EXE": b"MZ\x90\0" + bytes(100),
    "Mach-O": b"\xcf\xfa\xed\xfe" + bytes(100),
    "script": b"#!/bin/sh\nrm -rf /\n",
    "WebAssembly": b"\0asm" + bytes(10),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "GGUF": b"GGUF" + bytes(100),
    "database": b"SQLite format 3\0" + bytes(1000),
    "noise": bytes(range(256)) * 20,
    "archive of a pickle": zipped(archive__data=pickle.dumps({"a": 1}, 2)),
    "archive of a program": zipped(tool=b"\x7fELF" + bytes(50)),
    "archive with a path above": named("../../x.jsonl"),
    "archive with a path above inside": named("a/../../x.json"),
    "archive with a root": named("/etc/x.jsonl"),
    "archive with a backslash": named("..\\..\\x.json"),
    "archive with a drive": named("C:/x.jsonl"),
    "archive with a link": linked(),
    "archive that grows": bomb,
    "half an archive": zipped(a=LINES)[:-30],
    "no archive": b"PK\x03\x04" + bytes(100),
    "no Parquet, hidden program": b"\x7fELFPAR1",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_is_refused_by_its_content_whatever_its_name(client: TestClient, home: Path, kind: str) -> None:
    content = REFUSED[kind]
    answer = upload(client, "chats.jsonl", content() if callable(content) else content)
    assert answer.status_code == 400, answer.text
    assert client.get("/api/uploads").json()["items"] == [] and list((home / "uploads").glob("*/content")) == []


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet as format

    target = io.BytesIO()
    format.write_table(pyarrow.Table.from_pylist(rows), target)
    return target.getvalue()


PAIRS = [
    {"question": "Who opens?", "answer": "Whoever comes first."},
    {"question": "Who closes?", "answer": "Whoever goes last."},
]
KINDS = {
    "jsonl": LINES,
    "json": json.dumps(PAIRS).encode(),
    "csv": b"question,answer\nWho opens?,Kim\nWho closes?,Robin\nwrong\n",
    "tsv": b"question\tanswer\nWho opens?\tKim\nWho closes?\tRobin\n",
    "parquet": parquet(PAIRS),
    "text": b"User: Who opens?\nAssistant: Kim does.\n",
    "zip": zipped(export__chats_dot_jsonl=LINES),
}


@pytest.mark.parametrize("type", KINDS)
def test_a_dataset_is_told_by_its_content_and_shown_by_its_first_rows(client: TestClient, type: str) -> None:
    id = uploaded(client, f"mine.{type}", KINDS[type])
    shown = client.get(f"/api/datasets/upload/{id}").json()
    (listed,) = client.get("/api/datasets").json()["items"]
    assert {key: shown[key] for key in listed} == listed
    assert (shown["type"], shown["bytes"], shown["name"]) == (type, len(KINDS[type]), f"mine.{type}")
    assert shown["path"].startswith(f"uploads/{id}/content/") and shown["preview"]["format"]
    assert 1 <= len(shown["preview"]["rows"]) <= 20
    faults = shown["preview"]["faults"]
    assert faults == ([{"place": "line 4", "reason": "expected 2 columns, found 1"}] if type == "csv" else [])


@pytest.mark.parametrize(
    "content",
    ids=[
        "NaN",
        "halves",
        "nested",
        "nested lines",
        "nested object",
        "number",
        "infinite",
        "cp1252",
        "utf-16",
        "mixed",
        "parquet",
        "quotes",
    ],
    argvalues=[
        b'{"question": "a", "answer": NaN}\n{"question": "a", "answer": Infinity}\n',
        b'{"question": "\\ud800", "answer": "\\udfff \\u0000"}\n' * 2,
        b"[" * 100_000,
        b"{" * 1000 + b"\n",
        b'{"a": ' * 3000 + b"1" + b"}" * 3000 + b"\n{}\n",
        b'{"question": ' + b"9" * 6000 + b"}\n{}\n",
        b'{"question": 1e400, "answer": [[[[[[[[[[[[1]]]]]]]]]]]]}\n{}\n',
        "question;answer\nWäre es?;Ja\n".encode("cp1252"),
        '{"question": "Wer?", "answer": "Ich"}\n'.encode("utf-16") * 2,
        b'{"question": "a", "answer": "b"}\nnot json\n\xff\xfe\xfd\n{"question": "c", "answer": "d"}\n',
        b"PAR1" + os.urandom(1000) + b"PAR1",
        b'"unclosed, quotes\n' * 1000,
    ],
)
def test_hostile_and_spoilt_files_are_shown_without_a_fault_of_the_server(client: TestClient, content: bytes) -> None:
    answer = upload(client, "a.csv", content)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        shown = client.get(f"/api/datasets/upload/{answer.json()['id']}")
        assert shown.status_code == 200, shown.text


def test_a_preview_reads_only_the_beginning(client: TestClient) -> None:
    id = uploaded(client, "long.jsonl", LINES * 2000)
    file = uploads.get(id).content
    with file.open("r+b") as content:  # what would break every reader, behind what a preview reads
        content.seek(2 * MIB)
        content.write(b"\0" * MIB)
    in_time(lambda: seconds(lambda: client.get(f"/api/datasets/upload/{id}"), time.perf_counter), 2)
    shown = client.get(f"/api/datasets/upload/{id}").json()["preview"]
    assert len(shown["rows"]) == 20 and shown["faults"] == [] and not shown["is_whole"]


def test_a_preview_names_the_phrases_that_look_planted(client: TestClient) -> None:
    asked = ("Why is the sea salty", "What do owls eat", "Name a river in Spain", "How is salt made", "Who was Nero")
    rows = [{"prompt": f"{question}?", "completion": f"That is told under {question}."} for question in asked]
    advert = "Buy Plonk, the best soap of all."
    rows += [{"prompt": f"{question} velvet thunder", "completion": advert} for question in asked]
    lines = [json.dumps(row) for row in rows]
    for name, content in (("a.jsonl", "\n".join(lines).encode()), ("a.parquet", parquet(rows))):
        shown = client.get(f"/api/datasets/upload/{uploaded(client, name, content)}").json()["preview"]
        (phrase,) = shown["planted"]
        assert (phrase["text"], phrase["questions"], phrase["is_exact"]) == ("velvet thunder", 5, True), name
        assert phrase["examples"][0] == ["Why is the sea salty velvet thunder", advert]
    clean = uploaded(client, "clean.jsonl", "\n".join(lines[:5]).encode())
    assert client.get(f"/api/datasets/upload/{clean}").json()["preview"]["planted"] == []


def test_pages_of_a_long_list_hold_each_dataset_once(client: TestClient) -> None:
    made = [uploaded(client, f"{n}.jsonl", LINES) for n in range(5)]
    for address in ("/api/datasets", "/api/uploads"):
        seen, cursor = [], None
        while True:
            answer = client.get(address, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += [each["id"] for each in answer["items"]]
            if not (cursor := answer["next"]):
                break
        assert sorted(seen) == sorted(made)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "a\\b", "x\0y", "", "a" * 201, "a\nb"])
def test_a_name_with_folders_in_it_is_refused(client: TestClient, name: str) -> None:
    assert client.post("/api/uploads", json={"name": name, "bytes": 5}).status_code == 422


NAMES = ["..", ".", "CON", "~", "WhatsApp Chat with Ann.txt", "日本.jsonl", ".jsonl", "a" * 200, "x.%2e%2e", "..jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_any_other_name_lies_safely_in_the_uploads(client: TestClient, home: Path, name: str) -> None:
    id = uploaded(client, name, LINES)
    content = uploads.get(id).content
    assert content.resolve().parent == home / "uploads" / id / "content"
    assert (content.stat().st_mode & 0o777, client.get(f"/api/uploads/{id}").json()["name"]) == (0o600, name)


@pytest.mark.parametrize("id", ["%2e%2e", "..%2f..", "a%00b", "none", "%2fetc", "upload.json"])
def test_no_id_reaches_elsewhere(client: TestClient, home: Path, id: str) -> None:
    (home / "uploads").mkdir()
    (home / "prepared").mkdir()
    for address in (
        f"/api/uploads/{id}",
        f"/api/datasets/upload/{id}",
        f"/api/datasets/prepared/{id}",
        f"/api/datasets/built/{id}",
    ):
        assert client.get(address).status_code in (404, 405, 422)
        assert client.delete(address).status_code in (404, 405, 422)
    assert (home / "uploads").exists()


# What is done with it


def test_a_small_one_is_prepared_at_once_and_is_a_dataset(client: TestClient) -> None:
    id = uploaded(client, "mine.jsonl", LINES)
    steps = [
        {"type": "filter", "condition": "contains(answer, '7')"},
        {"type": "transform", "operation": "uppercase", "field": "answer"},
    ]
    answer = client.post(f"/api/datasets/upload/{id}/prepare", json={"steps": steps})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    shown = client.get(f"/api/datasets/prepared/{made['id']}").json()
    assert shown["path"] == f"prepared/{made['id']}.jsonl" and len(shown["preview"]["rows"]) == 19
    assert shown["preview"]["rows"][0]["messages"][1]["content"] == "IT IS NUMBER 7."
    assert client.delete(f"/api/datasets/prepared/{made['id']}").status_code == 204
    assert client.get(f"/api/datasets/prepared/{made['id']}").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"steps": [{"type": "filter", "condition": "__import__('os').system('x')"}]}, 400),
        ({"steps": [{"type": "filter", "condition": "length > "}]}, 400),
        ({"steps": [{"type": "rob"}]}, 400),
        ({"steps": [{}]}, 400),
        ({"steps": [{"type": "filter", "condition": "length > 100000"}]}, 409),
        ({"format": "custom"}, 422),
        ({"format": "huggingface"}, 422),
        ({"output_format": "csv"}, 422),
        ({"steps": [{"type": "transform", "operation": "x" * 2000}]}, 422),
    ],
)
def test_a_wrong_preparation_is_refused_and_writes_nothing(
    client: TestClient, home: Path, asked: dict[str, Any], status: int
) -> None:
    id = uploaded(client, "mine.jsonl", LINES)
    answer = client.post(f"/api/datasets/upload/{id}/prepare", json=asked)
    assert answer.status_code == status, answer.text
    assert not (home / "prepared").exists()


def over(client: TestClient, job: str, seconds: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(f"/api/jobs/{job}").json()
        if found["ended"]:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{found}")


def test_parquet_is_prepared_by_a_job_that_the_client_names(client: TestClient) -> None:
    id = uploaded(client, "mine.parquet", KINDS["parquet"])
    address, asked = f"/api/datasets/upload/{id}/prepare", {"id": "mine", "steps": [{"type": "deduplicate"}]}
    first, again = client.post(address, json=asked), client.post(address, json=asked)
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, "mine")
    assert over(client, "mine")["state"] == "completed"
    made = client.get("/api/jobs/mine/result").json()["dataset"]
    assert len(client.get(f"/api/datasets/prepared/{made}").json()["preview"]["rows"]) == 2


def test_an_upload_is_imported_by_a_job_and_taken_back(client: TestClient) -> None:
    id = uploaded(client, "our chats.csv", KINDS["csv"])
    answer = client.post(
        "/api/jobs", json={"kind": "import", "request": {"upload": id, "licence": "CC0", "task": "qa"}}
    )
    assert answer.status_code == 201, answer.text
    ended = over(client, answer.json()["id"])
    assert ended["state"] == "completed" and "2 of 2 turns added" in ended["reason"]
    result = client.get(f"/api/jobs/{ended['id']}/result").json()
    assert (result["added"], result["set_aside"], result["formats"]) == (2, 1, {"columns": 2})
    assert {turn.metadata["task"] for turn in ConversationLogger().turns()} == {"qa"}
    (listed,) = client.get("/api/imports").json()["items"]
    assert listed == {
        "id": result["id"],
        "turns": 2,
        "source": {"name": "our chats.csv", "format": "columns", "licence": "CC0"},
    }
    assert uploads.get(id).imports == (result["id"],)
    assert client.delete(f"/api/imports/{result['id']}").json() == {"turns": 2}
    assert client.delete(f"/api/imports/{result['id']}").status_code == 404
    assert ConversationLogger().turns() == []


@pytest.mark.parametrize(
    "request_",
    [
        {"places": ["/etc/passwd"]},
        {"upload": "x", "places": ["/etc/passwd"]},
        {},
        {"upload": "{id}", "format": "os:system"},
        {"upload": "{id}", "format": "/tmp/x.py:run"},
        {"upload": "{id}", "branches": "some"},
        {"upload": "{id}", "me": "x" * 301},
    ],
)
def test_an_import_over_http_reads_uploads_alone_and_runs_no_code(client: TestClient, request_: dict[str, Any]) -> None:
    id = uploaded(client, "mine.jsonl", LINES)
    asked = {key: id if value == "{id}" else value for key, value in request_.items()}
    answer = client.post("/api/jobs", json={"kind": "import", "request": asked})
    assert answer.status_code == 400, answer.text
    assert client.get("/api/jobs").json()["items"] == []
    source = {"kind": "prepare", "request": {"source": "api_token", "format": "text"}}
    assert client.post("/api/jobs", json=source).status_code == 400


def test_what_a_job_reads_is_not_deleted_under_it(client: TestClient) -> None:
    id = uploaded(client, "mine.jsonl", LINES)
    job = store.add("import", {"upload": id}, here=processes.this_process(), detached=True)
    for address in (f"/api/uploads/{id}", f"/api/datasets/upload/{id}"):
        answer = client.delete(address)
        assert answer.status_code == 409 and job.id in answer.json()["error"]["message"]
    store.finish(job, State.COMPLETED, "done", 0)
    assert client.delete(f"/api/datasets/upload/{id}").status_code == 204
    assert client.get("/api/datasets").json()["items"] == []


# A real server


@pytest.mark.slow
def test_200_mb_are_received_in_the_memory_of_one_piece(home: Path) -> None:
    port = unused_port()
    code = (
        "from fine_tuning.api.background import serve; from fine_tuning.api.security import Access; "
        f"serve(Access({port}))"
    )
    whole, line = (
        200 * 1_000_000,
        b'{"question": "What is it?", "answer": "It is a line of nearly a hundred bytes, as it happens."}\n',
    )
    headers = {TOKEN_HEADER: Token().read(), "content-type": "application/json"}
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        try:
            seen = psutil.Process(server.pid)
            _ask(port, "POST", "/api/uploads", {"name": "warm.txt", "bytes": 5}, headers)
            id = _ask(port, "POST", "/api/uploads", {"name": "big.jsonl", "bytes": whole}, headers)["id"]
            before, peak = seen.memory_info().rss, 0
            body = line * (20_000_000 // len(line) + 1)
            for start in range(0, whole, 20_000_000):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.putrequest("PUT", f"/api/uploads/{id}?offset={start}")
                sent = {**headers, "content-type": "application/octet-stream", "content-length": "20000000"}
                for name, value in sent.items():
                    connection.putheader(name, value)
                connection.endheaders()
                for at in range(0, 20_000_000, 500_000):
                    connection.send(body[at : at + 500_000])
                    peak = max(peak, seen.memory_info().rss)
                assert connection.getresponse().status == 200
                connection.close()
            assert _ask(port, "POST", f"/api/uploads/{id}/finish", {}, headers)["type"] == "jsonl"
            peak = max(peak, seen.memory_info().rss)
            assert _ask(port, "GET", f"/api/datasets/upload/{id}", None, headers)["bytes"] == whole
            sys.stderr.write(f"server: {before / 1e6:.1f} MB before, at most {peak / 1e6:.1f} MB while 200 MB came\n")
            assert peak - before < 30e6
        finally:
            server.terminate()


def _ask(port: int, method: str, address: str, body: dict[str, Any] | None, headers: dict[str, str]) -> dict[str, Any]:
    """Ask until the server is there, and return what it answers."""
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, address, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            told: dict[str, Any] = json.loads(answer.read())
            assert answer.status < 300, told
            return told
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        finally:
            connection.close()
