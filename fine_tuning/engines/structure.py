"""Find the structural tokens of a vocabulary: those that divide a prompt into parts, such as `<|im_end|>`.

llama.cpp first splits a prompt at its control, unknown and user-defined tokens. It also treats some
tokens as control tokens by their names, although the file does not mark them
(`llama_vocab::impl::load` and `tokenizer_st_partition` in llama-vocab.cpp).
"""

import functools
import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from fine_tuning.engines.gguf_header import GgufReader, read_header
from fine_tuning.engines.neutral import is_marker

# llama_token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

# Names of tokens that llama.cpp treats as control tokens, whatever their type.
_NAMED = re.compile(
    r"<[|｜].*\w.*>|<.*\w.*[|｜]>|</?s>|<[eb]os>|<(?:start|end)_of_turn>|<end_of_utterance>|_?<EOT>|\[(?:EOT|EOS|PAD|e~\[)\]?"
    r"|<fim[-_](?:prefix|suffix|middle|pad|repo)>|\u2581?<(?:PRE|SUF|MID|PAD|REPO|reponame)>"
)
# HTML elements, which some vocabularies (Gemma) have as tokens; people type them, and templates do not use them.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|dd|div|dl|dt|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td"
    r"|tfoot|th|thead|title|tr|u|ul)>"
)


def is_structural(text: str, kind: int) -> bool:
    """Return whether the token `text` of the type `kind` is structural.

    User-defined tokens that are just white space, characters, words or HTML elements are not
    structural.
    """
    if kind in (CONTROL, UNKNOWN):
        return True
    if kind == USER_DEFINED:
        return is_marker(text.strip("\u2581 ")) and not _HTML.fullmatch(text)
    return kind == NORMAL and bool(_NAMED.fullmatch(text))


def structural(tokens: Iterable[str], kinds: Iterable[int]) -> list[str]:
    """Return the structural tokens among `tokens`, whose types are `kinds`."""
    return [text for text, kind in zip(tokens, kinds, strict=False) if text and is_structural(text, kind)]


def structural_tokens(gguf: Path) -> list[str]:
    """Return the texts of the structural tokens of the vocabulary in `gguf`; cached for recent files.

    The first call for a file takes about 50 ms. Raises EngineError if the file is not readable.
    """
    read_header(gguf)  # raises EngineError for a bad file
    status = gguf.stat()
    return list(_structural_tokens(gguf, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=8)
# size and time are cache keys: a changed file is read again
def _structural_tokens(gguf: Path, size: int, modified: int) -> tuple[str, ...]:
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = GgufReader(content, 16)  # after magic, version and the number of tensors
        arrays = {reader.string(): reader.value() for _ in range(reader.scalar("Q"))}
        tokens, kinds = arrays.get("tokenizer.ggml.tokens"), arrays.get("tokenizer.ggml.token_type")
        if tokens is None:
            return ()
        types = struct.unpack_from(f"<{kinds.count}i", content, kinds.position) if kinds else [NORMAL] * tokens.count
        reader.position = tokens.position
        return tuple(structural(_texts(reader, tokens.count), types))


def _texts(reader: GgufReader, count: int) -> Iterator[str]:
    for _ in range(count):
        start = reader.position
        reader.skip_strings(1)
        yield reader.content[start + 8 : reader.position].decode("utf-8", errors="replace")
