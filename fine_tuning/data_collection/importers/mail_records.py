"""Read mails as records: an mbox (Thunderbird, Apple Mail, Gmail's Takeout), or a single message (.eml).

A record has the text of a mail as its sender wrote it: without what it quotes of earlier mails, and
without the signature.
"""

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parseaddr, parsedate_to_datetime
from itertools import chain
from typing import IO

from fine_tuning.data_collection.importers.chats import Fault, iso
from fine_tuning.data_collection.importers.files import Member, Read, unwatched
from fine_tuning.data_collection.importers.html_text import text_of_html

# what the standard library raises for headers and bodies that break the rules
_DAMAGED = (MessageError, LookupError, TypeError, ValueError, AttributeError, RecursionError, AssertionError)
_LARGEST = 32 << 20  # bytes of one mail that are read: its text comes before what is attached
_BEGINNING = re.compile(rb"From \S+ .*\d\d:\d\d.*\d{4}")  # the line before each message in an mbox
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*:(?:\s|$)|\s+\S")
_WANTED = re.compile(r"^(from|date|message-id|received|mime-version|subject):", re.MULTILINE | re.IGNORECASE)
_ANSWERS = re.compile(r"\s*(?:re|aw|sv|vs|antw|rif|res|tr|fwd?|wg)\s*(?:\[\d+\])?\s*:", re.IGNORECASE)
_SIGNATURE = re.compile(r"^-- ?\n.*", re.MULTILINE | re.DOTALL)
# what programs put before a mail that is quoted as a whole: "-----Original Message-----", or its headers
_FORWARDED = re.compile(
    r"^(?:-{2,} ?[^\n-]{4,40} ?-{2,}|_{10,}|\*?(?:From|Von|De|Da|Van):\*? [^\n]+\n\*?(?:Sent|Date|Gesendet|Envoyé|"
    r"Enviado|Inviato|Verzonden|To|An|À)\s?:).*",
    re.MULTILINE | re.DOTALL,
)
# a line such as "On Monday Ann wrote:", which may be broken, and the lines that it introduces
_QUOTED = re.compile(
    r"(?:(?:^(?:On|Am|Le|El|Il|Op|Den|Em|Dne) [^\n]{0,200}\n)?^(?!>)[^\n]{1,200}:[ \t]*\n\s*)?^>[^\n]*(?:\n+>[^\n]*)*",
    re.MULTILINE,
)


def is_mail(start: str) -> bool:
    """Return whether a text begins with the headers of a mail, or with the line that precedes them in an mbox."""
    lines = start.splitlines()
    if lines and _BEGINNING.fullmatch(lines[0].encode("utf-8", "surrogateescape")):
        lines = lines[1:]
    end = next((at for at, line in enumerate(lines) if not line.strip()), len(lines))
    head = lines[:end]
    names = {found.lower() for found in _WANTED.findall("\n".join(head))}
    return "from" in names and len(names) >= 3 and all(map(_HEADER.match, head))


def messages(member: Member, read: Read = unwatched) -> Iterator[tuple[str, object] | Fault]:
    """Yield (place, record) for each mail in a file."""
    with member.opened(read) as content:
        for number, data in enumerate(_divided(content), 1):
            place = f"mail {number}"
            try:
                yield place, _record(message_from_bytes(data))
            except _DAMAGED as error:
                yield Fault(place, f"expected a mail: {error}")


def _divided(content: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of each message of an mbox; those of the whole file if it is a single message."""
    now: list[bytes] = []
    size, is_blank = 0, True
    for line in chain(content, [None]):
        if line is None or (is_blank and line.startswith(b"From ") and _BEGINNING.match(line)):
            if now:
                yield b"".join(now)
            now, size = [], 0
            continue
        is_blank = not line.strip()
        size += len(line)
        if size <= _LARGEST:
            now.append(line)


def _record(message: Message) -> dict[str, object]:
    name, address = parseaddr(_header(message, "From"))
    subject = _header(message, "Subject")
    parents = _ids(message, "In-Reply-To") or _ids(message, "References")[-1:]
    begins = not parents and not _ANSWERS.match(subject)
    return {
        "message_id": "".join(_ids(message, "Message-ID")[:1]),
        "in_reply_to": "".join(parents[:1]),
        "from": {"name": name, "email": address.lower()},
        "date": _time(message),
        "title": subject if begins else "",
        "text": written(_text(message)),
    }


def _header(message: Message, name: str) -> str:
    return " ".join(str(make_header(decode_header(str(message.get(name, ""))))).split())


def _ids(message: Message, name: str) -> list[str]:
    return re.findall(r"<([^<>\s]+)>", str(message.get(name, "")))


def _time(message: Message) -> str:
    try:
        return iso(parsedate_to_datetime(str(message.get("Date", ""))))
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""


def _text(message: Message) -> str:
    """Return the plain text of a mail; the text of its HTML if it has no other."""
    texts: dict[str, str] = {}
    for part in message.walk():
        kind = part.get_content_type()
        if kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment" and kind not in texts:
            data = part.get_payload(decode=True)
            charset = str(part.get_content_charset() or "utf-8")
            texts[kind] = _decoded(data if isinstance(data, bytes) else b"", charset).replace("\r\n", "\n")
            if part.get_param("format") == "flowed":
                texts[kind] = re.sub(r"(?<!^--) \n(?!>)", " ", texts[kind], flags=re.MULTILINE)
    plain = texts.get("text/plain", "")
    return plain if plain.strip() else text_of_html(texts.get("text/html", ""))


def _decoded(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def written(text: str) -> str:
    """Return what the sender of a mail wrote: its text without quoted mails and without the signature."""
    text = re.sub(r"^>(From )", r"\1", text, flags=re.MULTILINE)  # as an mbox keeps a line that begins with "From "
    text = _FORWARDED.sub("", _SIGNATURE.sub("", text))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", _QUOTED.sub("", text), flags=re.MULTILINE)).strip()
