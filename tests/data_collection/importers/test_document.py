"""A document through `byoai import`: turns with their section and split, twice is once, taken back,
and what is no document.
"""

import json
import shutil

import pytest

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.config import DataPreparation
from fine_tuning.conversation import conversations_of
from fine_tuning.data_collection.importers.importing import Wanted, import_files, imports, preview, undo
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_preparation.dataset_builder import build_dataset
from fine_tuning.errors import DataError

HANDBOOK = paths.SAMPLES / "handbook.md"
DOCUMENT = Wanted("document", licence="CC0")


def test_a_document_becomes_turns_twice_is_once_and_it_is_taken_back(log):
    log.log_conversation("What was said before?", "This was said before.")
    before = log.path.read_bytes()
    foretold = preview(log, [HANDBOOK], DOCUMENT)
    report = import_files(log, [HANDBOOK], DOCUMENT)
    assert report.added == foretold.added >= 60 and report.set_aside * 20 <= report.added
    turn = next(turn for turn in log.turns() if turn.user_message == "How often are laptops replaced?")
    assert turn.bot_response == "Laptops are replaced every 41 months."
    assert turn.metadata["source"] == {
        "name": "handbook.md",
        "format": "document",
        "licence": "CC0",
        "section": "Plimsorrow Spokeworks staff handbook > Computers and data > Devices",
    }
    assert turn.metadata["key"] == "41 months" and turn.metadata["split"] in ("train", "validation", "test")
    assert import_files(log, [HANDBOOK], DOCUMENT).added == 0
    (listed,) = imports(log)
    assert listed.turns == report.added
    kept = chat_labels.labels()  # in the list of chats they are in a folder, out of the way
    assert {label.folder for label in kept.values()} == {"handbook.md"}
    assert kept.keys() == {each.session_id for each in log.turns() if "source" in each.metadata}
    assert undo(log, report.id) == report.added and log.path.read_bytes() == before
    assert chat_labels.labels() == {}


def test_held_out_wordings_are_the_test_set_and_are_not_trained_on(log):
    import_files(log, [HANDBOOK], DOCUMENT)
    log.log_conversation("What is a spoke?", "A thin rod of steel that holds a wheel's rim to its hub.")
    turns = log.turns()
    dataset = build_dataset(conversations_of(turns), DataPreparation())
    for split in ("train", "validation", "test"):
        lines = (dataset.path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        asked = {json.loads(line)["messages"][0]["content"] for line in lines}
        named = {turn.user_message for turn in turns if turn.metadata.get("split") == split}
        assert named and asked - named <= {"What is a spoke?"} and named <= asked


def test_without_a_named_split_a_dataset_is_what_it_was(home):
    said = [
        {"session_id": f"s{n}", "user_message": f"Question number {n}?", "bot_response": f"Answer number {n * 7}."}
        for n in range(20)
    ]
    dataset = build_dataset(said, DataPreparation())
    assert dataset.path.name == "8834937b20e1bb22"  # another name would make every dataset anew


def test_documents_of_a_folder_and_what_is_none(log, tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nThe saw hangs in the shed.\n")
    (tmp_path / "b.txt").write_text("Rules\n\nThe drill is lent for 2 days.\n")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    report = import_files(log, [tmp_path], Wanted("document"))  # byoai's data folder is in it, and left out
    assert {turn.bot_response for turn in log.turns()} == {
        "The saw hangs in the shed.",
        "The drill is lent for 2 days.",
    }
    assert report.readings == 3 and [fault.place for fault in report.faults] == ["c.png"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.md", b"", "is empty|no questions can be made from"),
        ("x.md", b"# Only a heading\n", "no questions can be made from"),
        ("x.pdf", b"%PDF-1.4 nothing", "x.pdf: the document cannot be read as PDF"),
        ("x.docx", b"PK\x03\x04nothing", "damaged ZIP archive|Word document is damaged"),
        ("x.doc", b"\xd0\xcf\x11\xe0" + bytes(600), "save it as .docx"),
        ("x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(200)), "is not text"),
    ],
)
def test_what_is_no_document_is_a_sentence(log, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        import_files(log, [tmp_path / name], Wanted("document"))


def test_the_command_takes_a_document_and_says_how_to_learn_it(home, tmp_path, capsys):
    shutil.copy(HANDBOOK, tmp_path / "rules.md")
    assert main(["import", str(tmp_path / "rules.md"), "--as", "document", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "of document" in said and "byoai import --undo" in said and "--profile handbook" in said


def test_a_document_is_never_taken_for_one_by_itself(log):
    with pytest.raises(DataError, match="--as document"):
        import_files(log, [HANDBOOK], Wanted())
