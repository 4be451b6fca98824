"""Every kind of file gives the same blocks; whatever the bytes, there are blocks or a DataError, in
bounded time and memory.
"""

import io
import random
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_documents import pdf, word

from fine_tuning.data_collection.documents import reading
from fine_tuning.data_collection.documents.blocks import Heading, Items, Paragraph, Table, from_record, to_record
from fine_tuning.data_collection.documents.reading import READERS, blocks_of, kind_of, read_document
from fine_tuning.data_collection.importers.files import members_of
from fine_tuning.errors import DataError

FIRST = Paragraph("The library says what is lent. It holds for everyone.")
HOURS = Paragraph("The library opens at 09:15. If the door is locked, ring the bell at gate 4.")
ROOMS = Table(
    (("Room", "Seats", "Key"), ("Blue room", "12 seats", "at the desk"), ("Attic", "30 seats", "in the safe"))
)
LEAVING = Paragraph("Before you leave, do these things:")
ITEMS = Items(("put the book on the belt", "take the slip"))


def whole(level):
    below = [HOURS, ROOMS, Heading("Lending", level + 2), LEAVING, ITEMS]
    return [Heading("Handbook", level), FIRST, Heading("Opening hours", level + 1), *below]


@pytest.mark.parametrize("name", ["handbook.md", "handbook.html"])
def test_the_same_document_in_every_kind_gives_the_same_blocks(documents, name):
    assert blocks_of(kind_of(documents[name], name), documents[name]) == whole(1)


def test_a_word_document(documents):
    title, first, hours, *others = blocks_of("docx", documents["handbook.docx"])
    assert (title, first, hours) == (Heading("Handbook", 1), FIRST, Heading("Opening hours", 1))
    assert others == [HOURS, ROOMS, Heading("Lending", 2), LEAVING, ITEMS]


@pytest.mark.parametrize("name", ["handbook.txt", "handbook.pdf"])
def test_plain_text_and_pdf_show_headings_by_how_they_look(documents, name):
    found = blocks_of(kind_of(documents[name], name), documents[name])
    texts = [block.text for block in found if not isinstance(block, Items)]
    assert ITEMS in found and LEAVING in found
    assert [block.text.upper() for block in found if isinstance(block, Heading)][-2:] == ["OPENING HOURS", "LENDING"]
    assert any(HOURS.text in text for text in texts) and any(FIRST.text in text for text in texts)


def test_a_file_is_read_in_a_child(documents, tmp_path):
    for name, content in documents.items():
        (tmp_path / name).write_bytes(content)
        (member,) = members_of(tmp_path / name)  # a .docx is a ZIP archive, and one document
        assert read_document(member) == blocks_of(kind_of(content, name), content)


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (b"%PDF-1.7 ...", "x.md", "pdf"),
        (b"\n<!DOCTYPE html><p>x", "content", "html"),
        (b"<html><body>", "x.txt", "html"),
        (b"# x", "X.MD", "md"),
        (b"<p>x", "x.htm", "html"),
        ("Äpfel".encode("utf-16"), "x", "txt"),
    ],
)
def test_the_kind_is_told_by_the_content_then_the_name(content, name, kind):
    assert kind_of(content, name) == kind


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"\xd0\xcf\x11\xe0" + bytes(600), "x.doc", "save it as .docx"),
        (b"PK\x03\x04" + bytes(60), "x.zip", "is an archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "x.png", "is not text"),
        (b"hello", "x.pdf", "is not a PDF file"),
        (b"hello", "x.docx", "is not a DOCX file"),
    ],
)
def test_what_is_no_document_is_a_sentence(content, name, said):
    with pytest.raises(DataError, match=said):
        kind_of(content, name)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", bytes(300 << 20))
    return path


def entities() -> bytes:
    """Return a Word document whose text grows a thousand million times, and one part of which is a
    file of this machine.
    """
    names = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10)]
    doctype = f'<!DOCTYPE w [<!ENTITY e0 "lol"><!ENTITY file SYSTEM "file:///etc/passwd">{"".join(names)}]>'
    old, new = io.BytesIO(word()), io.BytesIO()
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename == "word/document.xml":
                head, _, rest = data.partition(b"?>\n")
                data = head + b"?>\n" + doctype.encode() + rest.replace(b"take the slip", b"&e9;&file;")
            target.writestr(info.filename, data)
    return new.getvalue()


def test_bombs_are_refused(tmp_path):
    (member,) = members_of(bomb(tmp_path / "bomb.docx"))
    with pytest.raises(DataError, match="would unpack to 300 MiB"):
        read_document(member)
    try:
        found = blocks_of("docx", entities())
    except DataError:
        return
    assert "root:" not in str(found) and "lollol" not in str(found)


def test_what_is_too_large_or_takes_too_long_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "slow.md"
    file.write_text("word " * 50)
    (member,) = members_of(file)
    with pytest.raises(DataError, match="could not be read within"):
        read_document(member, seconds=0.001)
    monkeypatch.setattr(reading, "LARGEST", 100)
    with pytest.raises(DataError, match="split it"):
        read_document(member)
    monkeypatch.setattr(reading, "_CHARACTERS", 100)
    with pytest.raises(DataError, match="more than 100"):
        blocks_of("md", file.read_bytes())


NESTED = {
    "quotes": "> " * 3000 + "x",
    "brackets": "[" * 20_000,
    "emphasis": "*a **b " * 5_000,
    "table": "| a | b |\n| --- | --- |\n" + "| x | y |\n" * 5_000,
    "lists": "- " * 2_000 + "x",
    "ticks": "`" * 20_001,
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_nested_markdown_ends_soon(text):
    blocks_of("md", text.encode())


def test_deep_html_ends_soon():
    assert blocks_of("html", b"<div>" * 50_000 + b"deep" + b"</div>" * 50_000) is not None
    assert blocks_of("html", b"<b>" * 50_000 + b"deep") is not None


def test_an_encrypted_pdf_or_one_without_text_says_so(documents):
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(documents["handbook.pdf"])))
    writer.encrypt("secret", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    with pytest.raises(DataError, match="cannot be read as PDF"):
        blocks_of("pdf", locked.getvalue())
    with pytest.raises(DataError, match="contains no text"):
        blocks_of("pdf", pdf(["", ""]))


@given(kind=st.sampled_from(sorted(READERS)), content=st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_blocks_or_a_data_error(kind, content):
    try:
        found = blocks_of(kind, content)
    except DataError as error:
        assert str(error)
    else:
        assert [from_record(to_record(block)) for block in found] == found


@given(st.text(alphabet=st.sampled_from("aB1 .\n-*#|:`_<>/&;[]()=\t\\\"'é\0"), max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_marks_give_blocks(text):
    for kind in ("md", "txt"):
        blocks_of(kind, text.encode())
    blocks_of("html", b"<p>" + text.encode())


@pytest.mark.parametrize("name", ["handbook.md", "handbook.html", "handbook.txt", "handbook.docx", "handbook.pdf"])
def test_200_mutations_of_each_kind_give_blocks_or_a_data_error(documents, name):
    chance, content, read = random.Random(0), documents[name], 0
    for _ in range(200):
        spoilt = bytearray(content)
        for _ in range(chance.choice((1, 3, 30))):
            at = chance.randrange(len(spoilt))
            match chance.randrange(4):
                case 0:
                    spoilt[at] = chance.randrange(256)
                case 1:
                    del spoilt[at : at + chance.randrange(1, 60)]
                case 2:
                    spoilt[at:at] = spoilt[at : at + 40]
                case 3:
                    spoilt[at:at] = bytes(chance.randrange(256) for _ in range(3))
            spoilt = spoilt or bytearray(b"x")
        try:
            blocks_of(name.rpartition(".")[2], bytes(spoilt))
            read += 1
        except DataError as error:
            assert str(error)
    assert read >= 1
