"""Make questions and answers from a document, such as a handbook. The answers are quoted from its text.

Some wordings of the questions are held out for the evaluation: the metadata of their turns has the
split "test", and the key that a correct answer must contain.
"""

from collections.abc import Iterator
from pathlib import Path

from fine_tuning.data_collection.documents.pairs import Refused, pairs_of
from fine_tuning.data_collection.documents.reading import read_document
from fine_tuning.data_collection.importers.chats import Chat, Fault, Said
from fine_tuning.data_collection.importers.shape import Importer, Source
from fine_tuning.errors import DataError


def _read(source: Source) -> Iterator[Chat | Fault]:
    member = source.member
    name = member.name if Path(member.name).suffix else source.called or member.name
    source.read(member.size)
    made = 0
    for found in pairs_of(read_document(member, name), source.judge):
        source.read(0)
        if isinstance(found, Refused):
            yield Fault(found.section, f"the question {found.question!r} was left out: {found.reason}")
            continue
        made += 1
        said = [Said("user", found.question), Said("assistant", found.answer)]
        yield Chat(said, facts={"split": found.split, "level": found.level, "key": found.key}, section=found.section)
    if not made:
        raise DataError(
            f"no questions can be made from {name}: they are made from sentences, lists and tables under headings. "
            "Choose another document"
        )


DOCUMENT = Importer("a document", lambda found: False, _read, whole=True)
