"""Files that go with a message, friendly and hostile."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, NumberObject
from timing import in_time, seconds

from fine_tuning.errors import DataError
from fine_tuning.integration.attachments import FILE_LIMIT, FILES, compose, read, room, split


def pdf(*pages: str, password: str = "") -> bytes:
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(200, 200)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_a_file_stands_in_the_message_in_a_block_that_is_named_after_it() -> None:
    found = compose(
        "What is in it?", [("notes.txt", b"The key is\r\nunder the mat."), ("a.pdf", pdf("Hello there"))], 1000
    )
    assert found.text == "What is in it?\n\n```notes.txt\nThe key is\nunder the mat.\n```\n\n```a.pdf\nHello there\n```"
    assert found.notices == ()
    assert split(found.text) == (
        "What is in it?",
        [("notes.txt", "The key is\nunder the mat."), ("a.pdf", "Hello there")],
    )


def test_what_does_not_fit_is_cut_with_a_notice() -> None:
    found = compose(
        "?", [("long.txt", b"word " * 1000), ("short.txt", b"short"), ("pdf.pdf", pdf(*["page of a book"] * 50))], 300
    )
    (_, files) = split(found.text)
    assert [name for name, _ in files] == ["long.txt", "short.txt", "pdf.pdf"]
    assert 100 <= len(files[0][1]) <= 300 and files[1][1] == "short"
    assert [notice.partition(" ")[0] for notice in found.notices] == ["long.txt", "pdf.pdf"]
    assert sum(len(text.encode()) for _, text in files) <= 300


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        (b"a\rb\r\nc\n", "a\nb\nc"),
    ],
)
def test_text_is_read_in_the_usual_encodings(content: bytes, text: str) -> None:
    assert read("a.txt", content, 100) == text


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("a`b`.txt", "a_b_.txt"),
        ("two\nlines.md", "two_lines.md"),
        ("", "file"),
        ("\ud800.txt", "\ufffd.txt"),
        ("x" * 300 + ".csv", "x" * 68 + "….csv"),
    ],
)
def test_no_files_name_leaves_its_line(given_: str, shown: str) -> None:
    assert split(compose("", [(given_, b"text")], 100).text) == ("", [(shown, "text")])


def _loop() -> bytes:
    """A PDF whose tree of pages goes in a circle."""
    whole = pdf("a")
    writer = PdfWriter(clone_from=io.BytesIO(whole))
    pages = writer._root_object["/Pages"].get_object()
    pages[NameObject("/Kids")].append(writer._root_object.raw_get("/Pages"))
    pages[NameObject("/Count")] = NumberObject(10**9)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def _bomb() -> bytes:
    """A PDF of some kilobytes whose only page is a gigabyte."""
    import zlib

    pack = zlib.compressobj(9)
    body = b"".join(pack.compress(b"(a) Tj " * (1 << 18)) for _ in range(600)) + pack.flush()
    head = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    head += b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<<>>>>endobj\n"
    return (
        head
        + b"4 0 obj<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%%%EOF"
        % (
            len(body),
            body,
        )
    )


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.pdf", b"", "damaged"),
        ("a.pdf", b"%PDF-1.7\n", "damaged"),
        ("a.txt", b"%PDF-1.4\n" + b"junk" * 1000, "damaged"),
        ("a.pdf", pdf("secret")[:300], "damaged"),
        ("a.pdf", b"<html>no pdf at all</html>", "damaged"),
        ("a.pdf", pdf("secret", password="x"), "encrypted"),
        ("a.pdf", pdf(""), "no text: scanned"),
        ("a.txt", b"\x7fELF\0\0\0", "not a text file"),
        ("a.txt", b" \n ", "no text"),
        ("a.txt", b"a" * ((FILE_LIMIT << 20) + 1), "more than 10 MiB"),
    ],
    ids=["empty", "a head alone", "junk", "cut", "no pdf", "encrypted", "no text", "a program", "spaces", "too large"],
)
def test_a_file_that_cannot_be_read_says_why(name: str, content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        compose("?", [(name, content)], 1000)
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("hostile", [_loop, _bomb])
def test_an_endless_pdf_ends_within_seconds(hostile: object) -> None:
    content = hostile()  # type: ignore[operator]

    def end() -> None:
        try:
            assert len(read("a.pdf", content, 1000)) < 100_000
        except DataError as error:
            assert "a.pdf" in str(error)

    in_time(lambda: seconds(end, time.monotonic), 25)


def test_too_many_files_are_refused() -> None:
    with pytest.raises(DataError, match="at most 5"):
        compose("?", [("a.txt", b"a")] * (FILES + 1), 100)


def test_the_room_for_files_is_half_of_the_context() -> None:
    assert (room(None), room(None, 2048), room(8192, 2048), room(None, 100_000)) == (6144, 3072, 12_288, 6144)


@given(st.text(), st.lists(st.tuples(st.text(max_size=20), st.text(min_size=1).filter(str.strip)), max_size=3))
def test_what_was_composed_is_taken_apart_again(text: str, files: list[tuple[str, str]]) -> None:
    given_ = [
        (name, content.encode("utf-8", "replace"))
        for name, content in files
        if not content.startswith("%PDF") and "\0" not in content
    ]
    given_ = [
        (name if not name.lower().endswith(".pdf") else "x", content)
        for name, content in given_
        if content.strip(b"\r\n ")
    ]
    try:
        found = compose(text.encode("utf-8", "replace").decode(), given_, 10_000)
    except DataError:
        return
    _, taken = split(found.text)
    assert len(taken) >= len(given_)


@given(st.text(alphabet="a`\n ~", max_size=60))
def test_any_message_can_be_shown(text: str) -> None:
    typed, _ = split(text)
    assert text.startswith(typed)
