"""One small document in every kind of file. Binary ones are made here."""

import io

MARKDOWN = """# Handbook

The library says what is lent. It holds for everyone.

## Opening hours

The library opens at 09:15. If the door is locked, ring the bell at gate 4.

| Room | Seats | Key |
| --- | --- | --- |
| Blue room | 12 seats | at the desk |
| Attic | 30 seats | in the safe |

### Lending

Before you leave, do these things:

- put the book on the belt
- take the slip
"""

HTML = """<!doctype html><html><head><title>t</title><script>steal()</script><style>p {}</style></head><body>
<nav>Home | Away</nav><h1>Handbook</h1><p>The library says what is lent.
It holds for <b>everyone</b>.</p><div><h2>Opening&nbsp;hours</h2><div>The library opens at 09:15.
If the door is locked, ring the bell at <a href="http://example.com/x">gate 4</a>.</div></div>
<table><tr><th>Room</th><th>Seats</th><th>Key</th></tr><tr><td>Blue room</td><td>12 seats</td><td>at the desk</td></tr>
<tr><td>Attic</td><td>30 seats</td><td>in the safe</td></tr></table><h3>Lending</h3><p>Before you leave, do these things:</p>
<ul><li>put the book on the belt</li><li>take <i>the</i> slip</li></ul><img src="file:///etc/passwd"></body></html>"""  # noqa: E501

TEXT = """HANDBOOK

The library says what is lent. It holds for
everyone.

1. Opening hours

The library opens at 09:15. If the door is locked, ring the bell at gate 4.

1.1 Lending

Before you leave, do these things:
- put the book on the belt
- take the slip
"""


def word() -> bytes:
    """Return the document as Word writes it."""
    from docx import Document

    document = Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("The library says what is lent. It holds for everyone.")
    document.add_heading("Opening hours", 1)
    document.add_paragraph("The library opens at 09:15. If the door is locked, ring the bell at gate 4.")
    table = document.add_table(rows=0, cols=3)
    for row in (
        ("Room", "Seats", "Key"),
        ("Blue room", "12 seats", "at the desk"),
        ("Attic", "30 seats", "in the safe"),
    ):
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    document.add_heading("Lending", 2)
    document.add_paragraph("Before you leave, do these things:")
    document.add_paragraph("put the book on the belt", style="List Bullet")
    document.add_paragraph("take the slip", style="List Number")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def pdf(pages: list[str]) -> bytes:
    """Return a PDF with these lines of text on its pages."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, page in enumerate(pages):
        lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in page.split("\n")]
        stream = "BT /F1 11 Tf 14 TL 50 780 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {resources} /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    tail = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return made + f"{tail}startxref\n{len(made)}\n%%EOF\n".encode("latin-1")


def documents() -> dict[str, bytes]:
    """The same document, by the name of its file."""
    lines = TEXT.split("\n")
    pages = [lines[:4], lines[4:8], lines[8:]]
    return {
        "handbook.md": MARKDOWN.encode(),
        "handbook.html": HTML.encode(),
        "handbook.txt": TEXT.encode(),
        "handbook.docx": word(),
        "handbook.pdf": pdf(
            ["\n".join(["The Library", *page, f"page {number}"]) for number, page in enumerate(pages, 1)]
        ),
    }
