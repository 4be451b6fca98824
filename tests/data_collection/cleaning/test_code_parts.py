"""Code and tables are told from prose, in any language, and nothing of a text is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import growth

from fine_tuning.data_collection.cleaning.code_parts import Part, parts


def kinds(text: str) -> list[str]:
    return [part.kind for part in parts(text)]


@pytest.mark.parametrize(
    "line",
    [
        # Python
        "items[1::2]", "token = tokens[0]", "pin = Pin(13, Pin.OUT)", "x@W.sum()", "return c**t", "x = 5",
        "import os", "def f(x):", "else:",
        "from a.b import c", 'print("hi")', "for i in range(10):", "if x > 3:", "while True:", '@app.route("/")',
        ">>> a + b",
        'df.groupby("a").sum()', "a[i] = b[j]", "x: int = 3", "raise ValueError(name)",
        "except OSError:  # no such file",
        # C, Java, JavaScript, Go, Rust
        "const a = 1;", "#include <stdio.h>", "int main(void) {", "return 0;", "fn main() {", "let x = 3", "};",
        "i++;",
        "public static void main(String[] args) {", "func add(a int, b int) int {", "users.map(u => u.name)",
        "x != y", "a && b == c",
        # markup, styles, data
        ".button { color: red; }", "  color: red;", "</div>", '<a href="x">', '"name": "Anna",',
        '{"a": 1, "b": [1, 2]}',
        # SQL, shells, diffs, formulas
        "SELECT name FROM users WHERE id = 3", "CREATE TABLE t (id INTEGER)", "git clone git@github.com:a/b.git",
        "$ ls -la", "cd /usr/lib",
        "pip install numpy", "curl https://example.com/a.sh | sh", "export PATH=/usr/bin", "API_KEY=abc123",
        "@@ -1,2 +1,3 @@", "+++ b/file.py",
        "- x = 1", "+ total += price;", r"\frac{a}{b}", "f(x) = x^2", "$$", r"\[",
    ],
)  # fmt: skip
def test_a_line_of_code_is_told_by_its_look(line: str) -> None:
    assert parts(line) == [Part("code", line)]


@pytest.mark.parametrize(
    "line",
    [
        "Class is over: we went home.", "If you want it: take it.", "For example:", "From here we import goods.",
        "Import taxes are due.",
        "Return the form to the office.", "return policy", "Version: 10.0.22.1", "Phone: 415-555-2671",
        "password: hunter2",
        "Meine Nummer ist 0171/1234567", "latencies 250 300 1000", "Select one from the list, please.",
        "Let x be a number.",
        "Use items[1::2] to get every other.", "Call me (or Anna) at 5.", "Hello, Anna;", "Dear Sir or Madam:",
        "Jag fick ett brev",
        "go get some milk", "make it so", "find me a doctor", "Echo chambers are bad", "The cost is $5 - $10.",
        "1. first", "# Title",
        "> a quote", "- item one", "* **bold** item; and more;", "- **Kept.** A well-known (old) one goes on;",
        "网址：https://example.com/a，然后点击确定",
        "카드 4111 1111 1111 1111입니다",
        "A -> B, he said.", "I <3 you", "Anna: hello; Bob: hi", "Sie rief: „Komm!“", "use the force (Luke)",
        "with love:", "try: it works",
        "Use the method str.format() for this.", "Open the settings (gear icon)", "Mail (work): anna@example.com",
        "Let me know; thanks;",
        "Привет, как дела?", "مرحبا، كيف حالك؟", "สวัสดีครับ", "नमस्ते, आप कैसे हैं?",
    ],
)  # fmt: skip
def test_a_line_of_prose_stays_prose(line: str) -> None:
    assert parts(line) == [Part("prose", line)]


def test_fences_of_both_kinds_in_lists_and_quotes_and_open_ones() -> None:
    text = (
        "Do this:\n```python\nAnna eats.\n```\nThen:\n~~~\nno ```\n~~~\n1. so\n   ````\n   ```\n   "
        "````\n> ```\n> said\n> ```\n"
    )
    text += "end\n```\nopen"
    assert [part.text for part in parts(text) if part.kind == "code"] == [
        "```python\nAnna eats.\n```\n", "~~~\nno ```\n~~~\n", "   ````\n   ```\n   ````\n> ```\n> said\n> ```\n",
        "```\nopen",
    ]  # fmt: skip
    assert kinds("The sign ``` opens a fence.") == ["prose"]


def test_code_keeps_its_comments_blank_lines_and_what_is_indented() -> None:
    code = "# Adds.\nx = 1\n\n# twice\ndef f(a):\n    some words\n\n    return a\n"
    assert kinds("Try this:\n\n" + code.removeprefix("# Adds.\n") + "\nIt adds two numbers.") == [
        "prose",
        "code",
        "prose",
    ]
    assert kinds("SELECT a\nFROM b\nWHERE c = 1\n") == ["code"]
    assert kinds(".a {\n  color: red\n}\n\n.b {\n  color: blue\n}") == ["code"]
    assert kinds("# Title\n\nwords\n\n# Next\nmore words") == ["prose"]


@pytest.mark.parametrize(
    "table",
    [
        "| a | b |\n|---|:-:|\n| 1 | 2 |\n", "a | b\n--|--\nx | y\n", "+---+---+\n| a | b |\n+---+---+\n",
        "name\tage\nAnna\t3\nBo\t4\n",
        "1 0 0\n0 1 0\n0 0 1\n", "0,0,0\n0,0,0\n0,0,0\n", "id,name,age\n1,Anna,30\n2,Bo,40\n",
        "0.5 -1e3 2\n1.5 2 nan\n",
        "Name      Age   Town\nAnna      30    Rome\nBo        40    Oslo\n",
    ],
)  # fmt: skip
def test_tables_are_told_by_lines_of_the_same_shape(table: str) -> None:
    assert parts("See here:\n\n" + table + "\nThat is all.")[1] == Part("table", table)


def test_prose_is_no_table() -> None:
    for text in (
        "Hello.  How are you?\nFine.  And you?\nFine.  Thanks.",
        "Anna, Bo, Cem\nDan, Eva, Fay\nGus, Hal, Ida",
        "He said a | b once.",
    ):
        assert kinds(text) == ["prose"]


PIECES = st.sampled_from(
    [
        "```\n",
        "~~~\n",
        "x = 1\n",
        "words here\n",
        "\n",
        "  \n",
        "a\tb\n",
        "| a |\n",
        "|--|\n",
        "1 2 3\n",
        "# c\n",
        "end",
        "\r\n",
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=30).map("".join))
def test_the_parts_joined_are_the_text_and_neighbours_differ(text: str) -> None:
    found = parts(text)
    assert "".join(part.text for part in found) == text
    assert all(part.text for part in found)
    assert all(one.kind != other.kind for one, other in pairwise(found))


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        " ",
        "\t",
        "\n",
        "\n ",
        "```",
        "`",
        "f(",
        "f().",
        "a.b",
        "a[0]",
        "x=",
        "|",
        "| ",
        "a  ",
        "{",
        "git run ",
        "a,",
        "> ",
        "a;",
    ],
)
@pytest.mark.parametrize("before", ["", "x = ", "import a\n"])
def test_no_text_takes_long(before: str, piece: str) -> None:
    def split(size: int) -> None:
        text = before + piece * (size // len(piece))
        assert "".join(part.text for part in parts(text)) == text

    assert growth(split, 10_000) <= 30
