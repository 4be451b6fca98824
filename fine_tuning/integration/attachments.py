"""Put text files into a message, each in a fenced block with the file's name.

A message with files consists of the typed text, an empty line, and the blocks. `split` separates
them again.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fine_tuning.conversation import whole_characters
from fine_tuning.errors import DataError
from fine_tuning.integration import pdf_text

FILE_LIMIT = 10  # MiB of one file
FILES = 5  # in one message
TYPES = tuple(
    "txt md csv tsv pdf json jsonl yaml yml toml ini xml html css log rst tex sql "  # noqa: SIM905
    "py js ts jsx tsx c h cpp hpp cs java kt go rs rb php swift r sh lua pl".split()
)
_BYTES_A_TOKEN = 3  # a cautious estimate for UTF-8, also for Chinese
_CONTEXT = 4096  # tokens, if neither the settings nor the model state the context
_PATIENCE = 15.0  # seconds for a PDF, the start of its process included
_NAME = 80  # shown characters of a file's name
_BLOCK = re.compile(r"\n\n(?P<fence>`{3,})(?P<name>[^`\n]+)\n(?P<text>.*?)\n(?P=fence)(?=\n\n`{3}|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Composed:
    """A message with the content of files in it, and notices about the files for the user."""

    text: str
    notices: tuple[str, ...]  # messages for people, such as what was cut


def compose(text: str, files: Sequence[tuple[str, bytes]], room: int) -> Composed:
    """Return a message with the typed `text` and the files, given as (name, content).

    The files are shortened so that all of them together have at most `room` bytes.
    Raises DataError, with a message for the user, for a file that cannot be read.
    """
    if len(files) > FILES:
        raise DataError(f"{len(files)} files are too many for one message: attach at most {FILES}")
    blocks, notices = [text.strip()], []
    for number, (given, content) in enumerate(files):
        name, share = _shown(given), room // (len(files) - number)
        whole = read(name, content, share)
        kept = _cut(whole, share)
        room -= len(kept.encode())
        if len(kept) < len(whole):
            notices.append(f"{name} is too long for the model's context: only its beginning was sent")
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", kept))])
        blocks.append(f"{fence}{name}\n{kept}\n{fence}")
    return Composed("\n\n".join(blocks), tuple(notices))


def split(message: str) -> tuple[str, list[tuple[str, str]]]:
    """Return (typed text, [(name, text) of each file]) of a message that `compose` made.

    Any other message is returned as typed text, without files.
    """
    found = list(_BLOCK.finditer(message))
    while found and not _is_end(found, message):
        found.pop(0)
    if not found:
        return message, []
    return message[: found[0].start()], [(block["name"], block["text"]) for block in found]


def _is_end(blocks: Sequence[re.Match[str]], message: str) -> bool:
    """Return whether these blocks follow each other without a gap and end the message."""
    ends = [block.end() for block in blocks]
    return ends[-1] == len(message) and all(end == after.start() for end, after in zip(ends, blocks[1:], strict=False))


def room(context: int | None, length: int = 0) -> int:
    """Return how many bytes of files fit into a message: half of the context.

    Args:
        context: The context in the chat's settings, in tokens; None if it is not set.
        length: The context for which the model was trained, in tokens; 0 if unknown.
    """
    tokens = context or min(_CONTEXT, length or _CONTEXT)
    return tokens // 2 * _BYTES_A_TOKEN


def read(name: str, content: bytes, limit: int) -> str:
    """Return the text of a file. The text of a PDF is cut soon after its first `limit` characters.

    Raises DataError if the file has no text, or too many bytes.
    """
    if len(content) > FILE_LIMIT << 20:
        raise DataError(f"{name} has more than {FILE_LIMIT} MiB: attach a smaller part of it")
    is_pdf = PurePosixPath(name).suffix.lower() == ".pdf" or content.startswith(b"%PDF-")
    text = _pdf(name, content, limit) if is_pdf else _decoded(name, content)
    text = str(whole_characters(text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""))).strip("\n")
    if not text.strip():
        raise DataError(
            f"{name} holds no text" + (": scanned pages must be turned into text first (OCR)" if is_pdf else "")
        )
    return text


def _decoded(name: str, content: bytes) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if b"\0" in content[:8192]:
        raise DataError(f"{name} is not a text file: attach text, code, or a PDF")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _pdf(name: str, content: bytes, limit: int) -> str:
    command = [sys.executable, "-I", str(Path(pdf_text.__file__)), str(limit)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"reading {name} takes too long: attach a smaller part of it") from error
    if done.returncode < 0:
        raise DataError(f"reading {name} takes too long, or too much memory: attach a smaller part of it")
    if done.returncode:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(f"{name} cannot be read: {why[-1][:200] if why else 'it is damaged'}. Attach its text instead")
    return done.stdout.decode("utf-8", "replace")


def _shown(name: str) -> str:
    """Return a file's name in one line, without its folder.

    Characters that would end the first line of the block are replaced.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    clean = "".join(each if each.isprintable() and each != "`" else "_" for each in str(whole_characters(last))).strip()
    if len(clean) > _NAME:
        stem, dot, ending = clean.rpartition(".")
        clean = f"{stem[: _NAME - 12]}…{dot}{ending[:8]}" if stem else clean[:_NAME]
    return clean or "file"


def _cut(text: str, room: int) -> str:
    return text.encode()[: max(room, 0)].decode("utf-8", "ignore")
