"""What byoai did not write it leaves alone: no byte, mode or time of a foreign file changes,
whatever the configuration names.

Every file here lies in a folder of the test's own: where the code under test is wrong, it destroys what it is given.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError, ConfigError, DataError

FOREIGN = {
    "a system file": b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
    "a password file": b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
    "a binary": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 64,
    "a table": b"id,session_id,timestamp,user_message,bot_response\r\n1,s,t,hello,hi\r\n",
    "a JSON array": json.dumps(
        [{"id": "1", "session_id": "s", "user_message": "q", "bot_response": "a"}], indent=2
    ).encode(),
    "a JSON object": b'{\n  "id": "1",\n  "session_id": "s"\n}\n',
    "somebody else's lines": b'{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": []}\n',
    "lines with ids": b'{"id": "0a1b", "text": "mine"}\n{"id": "0a1c", "text": "mine, too"}\n',
    "events of another program": b'{"event": "click", "turn_id": "x", "time": 1}\n',
    "prose without an end": "Dear diary, für dich".encode(),
    "UTF-16": '{"id": "1"}\n'.encode("utf-16"),
    "a database": b"SQLite format 3\x00" + bytes(4096),
    "weights": b"GGUF\x03\x00\x00\x00" + bytes(range(256)) * 16,
    "configuration": b"training:\n  lora_r: 4\n",
}


pytestmark = pytest.mark.usefixtures("embedded")


def foreign(folder: Path, content: bytes, name: str = "theirs") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(content)
    file.chmod(0o644)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    return file


def looks(file: Path) -> tuple[object, ...]:
    """All that may not change, and what lies beside it."""
    now = file.lstat()
    content = file.read_bytes() if file.is_file() else None
    return (
        content,
        now.st_mode,
        now.st_mtime_ns,
        now.st_ino,
        now.st_size,
        sorted(path.name for path in file.parent.iterdir()),
    )


ACTS = [
    lambda log: log.turns(),
    lambda log: log.conversations(),
    lambda log: log.health(),
    lambda log: log.get_conversation_stats(),
    lambda log: log.find("localhost"),
    lambda log: log.said(["1"]),
    lambda log: log.deleted_ids(),
    lambda log: log.check(),
    lambda log: log.export("json", log.path.with_name("copy.json")),
    lambda log: log.log_conversation("a", "b"),
    lambda log: log.rate("1", "up"),
    lambda log: log.delete("1"),
    lambda log: log.forget(["1"]),
]


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_whoever_opens_a_foreign_file_as_the_log_is_refused_and_it_stays_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    file = foreign(tmp_path / "elsewhere", content)
    before = looks(file)
    for act in ACTS:
        with pytest.raises(DataError, match="is not a log of byoai") as caught:
            act(ConversationLogger(file))
        assert str(file) in str(caught.value)
        assert looks(file) == before


@pytest.mark.parametrize(
    "command", [["stats"], ["export"], ["lineage", "x"], ["forget", "--matching", "localhost", "--yes"], ["doctor"]]
)
@pytest.mark.parametrize("content", list(FOREIGN.values())[:4], ids=list(FOREIGN)[:4])
def test_every_command_refuses_it(
    home: Path, content: bytes, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = foreign(home / "conversations", content, "notes.jsonl")
    before = looks(file)
    assert main([*command, "--set", "data_collection.log_file=notes.jsonl"]) == (1 if command == ["doctor"] else 3)
    said = capsys.readouterr()
    assert "is not a log of byoai" in said.out + said.err
    assert looks(file) == before


@pytest.mark.parametrize("make", ["folder", "pipe", "device", "socketless link"])
def test_what_is_no_file_is_an_error_and_no_hang(tmp_path: Path, make: str) -> None:
    place = tmp_path / "place"
    if make == "folder":
        place.mkdir()
    elif make == "pipe":
        os.mkfifo(place)
    elif make == "device":
        place.symlink_to("/dev/zero")
    else:
        place.symlink_to(place)
    errors: list[Exception] = []

    def open_it() -> None:
        for act in (lambda log: log.turns(), lambda log: log.log_conversation("a", "b")):
            try:
                act(ConversationLogger(place))
            except ByoaiError as error:
                errors.append(error)

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(20)
    assert [type(error) for error in errors] == [DataError, DataError]


def test_what_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.owner() != "root" or folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    file = foreign(tmp_path / "elsewhere", b"secret\n")
    file.chmod(0o000)
    code = (
        "import os, sys\n"
        "from fine_tuning.data_collection.conversation_logger import ConversationLogger\n"
        "from fine_tuning.errors import DataError\n"
        "log = ConversationLogger(sys.argv[1])\n"
        "if os.getuid() == 0:\n    os.setuid(65534)\n"
        "for act in (log.turns, lambda: log.log_conversation('a', 'b')):\n"
        "    try:\n        act()\n"
        "    except DataError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, cwd=paths.REPOSITORY)
    assert done.stdout.count("Permission denied") == 2, done.stderr
    file.chmod(0o644)
    assert file.read_bytes() == b"secret\n"


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n\t\n"])
def test_a_file_without_a_line_is_an_empty_log_that_reading_leaves_alone(tmp_path: Path, content: bytes) -> None:
    file = foreign(tmp_path / "elsewhere", content)
    before = looks(file)
    log = ConversationLogger(file)
    assert log.turns() == [] and log.health().ok
    assert looks(file) == before
    assert log.log_conversation("a", "b") in log.turns()


def test_reading_a_damaged_log_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ConversationLogger()
    turn = log.log_conversation("Where is the key?", "Under the mat.")
    log.path.write_bytes(b"damage\n" + log.path.read_bytes() + b"\x00\x00\n" + b'{"id": "torn')
    log.path.chmod(0o640)
    os.utime(log.path, (1_000_000_000, 1_000_000_000))
    before = looks(log.path)
    for act in ACTS[:8]:
        act(ConversationLogger())
        assert looks(log.path) == before
    for command in (
        ["stats"],
        ["export"],
        ["lineage", turn.id],
        ["doctor"],
        ["forget", "--matching", "mat", "--dry-run"],
    ):
        main(command)
        assert looks(log.path) == before
    assert "2 damaged lines" in capsys.readouterr().out


OUTSIDE = [
    "{outside}/theirs.jsonl",
    "../../theirs.jsonl",
    "sub/../../../theirs.jsonl",
    "link.jsonl",
    "linked/theirs.jsonl",
    "../../home-too/theirs.jsonl",  # of a folder whose name only begins as the data folder's
    "..",
]


@pytest.mark.parametrize("name", [".", "./", "x/.."])
def test_a_log_that_is_a_folder_is_refused_and_nothing_is_made_in_its_place(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", "--set", f"data_collection.log_file={name}"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not (home / "conversations").is_file()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_log_that_the_configuration_names_outside_of_the_data_folder_is_refused(
    home: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, name = foreign(tmp_path, b"theirs\n", "theirs.jsonl"), name.format(outside=tmp_path)
    foreign(tmp_path / "home-too", b"theirs\n", "theirs.jsonl")
    (home / "conversations").mkdir()
    (home / "conversations" / "link.jsonl").symlink_to(theirs)
    (home / "conversations" / "linked").symlink_to(tmp_path)
    before = looks(theirs)
    assert main(["stats", "--set", f"data_collection.log_file={name}"]) == 2
    said = capsys.readouterr().err
    assert "data_collection.log_file" in said and "is not in the data folder" in said and "BYOAI_HOME" in said
    if not name.startswith("/"):  # in Python, an absolute path is named on purpose
        with pytest.raises(ConfigError, match="is not in the data folder"):
            ConversationLogger(name)
    assert looks(theirs) == before


@pytest.mark.parametrize(
    "name", ["/nowhere", "..", ".", "../theirs", "", "runs/../../x", "link", "conversations", "engine", "./samples/x"]
)
def test_runs_lie_in_a_folder_of_their_own_in_the_data_folder(home: Path, tmp_path: Path, name: str) -> None:
    (home / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"training\.output_dir"):
        load_config(overrides={"training.output_dir": name})


@pytest.mark.parametrize("key", ["data_collection.log_file", "training.output_dir"])
@pytest.mark.parametrize("name", ["a\0b", "~nobody/../../..", "\0"], ids=["NUL", "user", "only NUL"])
def test_what_cannot_be_a_path_is_a_fault_of_the_configuration(home: Path, key: str, name: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(overrides={key: name})


def test_places_in_the_data_folder_are_taken_by_whatever_name(home: Path) -> None:
    log, folder = home / "conversations" / "mine.jsonl", home / "mine"
    for name in ("mine.jsonl", str(log), "../conversations/mine.jsonl", "sub/../mine.jsonl"):
        assert load_config(overrides={"data_collection.log_file": name}).log_path == log
    for name in ("mine", str(folder), "./mine", "runs/../mine"):
        assert load_config(overrides={"training.output_dir": name}).runs_dir == folder
    assert (
        load_config(overrides={"data_collection.log_file": "../other/log.jsonl"}).log_path
        == home / "other" / "log.jsonl"
    )


def test_a_data_folder_may_itself_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link = tmp_path / "disk", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.setenv("BYOAI_HOME", str(link))
    config = load_config(overrides={"training.output_dir": str(real / "mine")})
    assert config.runs_dir == link / "mine"  # registered relative to the data folder
    assert config.log_path == link / "conversations" / "conversations.jsonl"
    turn = ConversationLogger(config.log_path).log_conversation("a", "b")
    assert ConversationLogger(real / "conversations" / "conversations.jsonl").turns() == [turn]


def test_the_check_holds_for_a_configuration_made_before_the_data_folder_moved(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(overrides={"data_collection.log_file": str(home / "conversations" / "log.jsonl")})
    monkeypatch.setenv("BYOAI_HOME", str(tmp_path / "new"))
    with pytest.raises(ConfigError, match="is not in the data folder"):
        _ = config.log_path


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_data_folder_that_is_a_file_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    file = foreign(home, b"theirs\n")
    before = looks(file)
    monkeypatch.setenv("BYOAI_HOME", str(file if place == "a file" else file / "x" / "y"))
    for command in (["stats"], ["export"], ["forget", "--matching", "theirs", "--yes"]):
        assert main(command) == 2
        assert "BYOAI_HOME" in capsys.readouterr().err
    assert looks(file) == before


@pytest.mark.parametrize("place", ["/", "//", "/nowhere/../", "~nobody-of-that-name/x", "link"])
def test_the_root_of_all_files_and_nobodys_home_are_no_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "link").symlink_to("/")
    monkeypatch.setenv("BYOAI_HOME", str(tmp_path / "link") if place == "link" else place)
    with pytest.raises(ConfigError, match="BYOAI_HOME"):
        paths.home()


def test_a_data_folder_with_a_missing_parent_is_made_when_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_HOME", str(tmp_path / "a" / "b" / "c"))
    log = ConversationLogger(FineTuningConfig().log_path)
    assert log.turns() == [] and not (tmp_path / "a").exists()
    assert log.log_conversation("a", "b") in log.turns()


def test_an_export_never_replaces_a_log(home: Path) -> None:
    log = ConversationLogger()
    turn = log.log_conversation("a", "b")
    log.rate(turn.id, "up")
    before = looks(log.path)
    assert main(["export", str(home / "conversations")]) == 3
    for path in (log.path, home / "exports" / ".." / "conversations" / "new.json"):
        with pytest.raises(DataError, match="choose another folder"):
            log.export("jsonl", path)
    assert looks(log.path) == before


def test_forgetting_takes_other_lines_in_the_folder_of_the_log_for_no_log(home: Path) -> None:
    log = ConversationLogger()
    turn = log.log_conversation("My word is zorbexine.", "Noted, and kept.")
    mine = foreign(home / "conversations", b'{"text": "mine"}\n', "mine.jsonl")
    before = looks(mine)[:5]
    assert main(["forget", turn.id, "--yes", "--no-retrain"]) == 0
    assert log.turns() == []
    assert looks(mine)[:5] == before


def test_forgetting_and_pruning_leave_folders_that_no_run_made(home: Path, tmp_path: Path) -> None:
    turn = ConversationLogger().log_conversation("My word is zorbexine.", "Noted, and kept.")
    for folder in (home / "runs" / "1-mine", tmp_path / "photos"):
        foreign(folder, b"mine\n")
    (home / "runs" / "1-link").symlink_to(tmp_path / "photos")
    paths.write_json(home / "runs" / "2-done" / "manifest.json", {})
    assert main(["prune"]) == 0
    assert main(["forget", turn.id, "--yes", "--no-retrain"]) == 0
    assert (home / "runs" / "1-mine" / "theirs").exists() and (tmp_path / "photos" / "theirs").exists()
