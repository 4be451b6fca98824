"""Find the uploads that contain a text. `byoai forget` deletes these uploads.

Uploads are read as streams, in their own encoding, and decompressed in memory.
"""

import json
from collections.abc import Collection, Iterator

from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.importers.files import Member, members_of
from fine_tuning.data_collection.importers.records import Record, parquet
from fine_tuning.data_collection.redaction import Pattern, holds, pattern
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.errors import DataError

_PIECE = 1 << 20  # characters searched at once
_WIDEST = 6  # the most characters that JSON or HTML write for one
_PACKED = (b"PK\x03\x04", b"PAR1", b"%PDF-", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"Rar!")


def uploads_holding(texts: Collection[str], imports: Collection[str] = ()) -> list[Upload]:
    """Return the uploads that may contain one of `texts`.

    These are the uploads that contain one, those that were read by an import whose id is in `imports`,
    and those that cannot be searched.
    """
    wanted, longest = pattern(texts), max(map(len, texts), default=0)
    return [
        upload
        for upload in uploads.find()
        if not set(imports).isdisjoint(upload.imports)
        or (wanted is not None and _may_hold(upload, wanted, _WIDEST * longest))
    ]


def _may_hold(upload: Upload, wanted: Pattern, overlap: int) -> bool:
    if holds(upload.name, wanted):
        return True
    try:
        return any(holds(piece, wanted) for member in _members(upload) for piece in _pieces(member, overlap))
    except DataError:  # damaged, or not received completely yet
        return True


def _members(upload: Upload) -> list[Member]:
    return members_of(upload.content) if upload.size else []


def _pieces(member: Member, overlap: int) -> Iterator[str]:
    """Yield the text of a file in overlapping pieces. Raises DataError for a kind of compressed file not known here."""
    head = member.head()
    if head.startswith(b"PAR1") and member.path:
        for row in parquet(member):
            if not isinstance(row, Record):
                raise DataError(row.reason)
            yield json.dumps(row.value, ensure_ascii=False, default=str)
    elif head.lstrip().startswith(_PACKED):
        raise DataError(f"{member.name} is compressed in a form that cannot be searched")
    else:
        with member.text() as text:
            kept = ""
            while read := text.read(_PIECE):
                yield kept + read
                kept = (kept + read)[-overlap - _PIECE // 16 :]
