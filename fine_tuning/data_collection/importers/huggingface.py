"""Read the rows of a dataset of the Hugging Face Hub (`hf:owner/name`), or of a local copy of one.

The local copy is a folder that `Dataset.save_to_disk` of the `datasets` library wrote.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fine_tuning.data_collection.importers.chats import Fault
from fine_tuning.data_collection.importers.files import Read, unwatched
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.errors import DataError

PREFIX = "hf:"


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the `datasets` library."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def rows(name: str, read: Read = unwatched) -> Iterator[Record | Fault]:
    """Yield the rows of all splits of a dataset.

    `name` is "hf:owner/name", or the folder of a local copy. `read` is called before each row, and can
    stop the reading. Raises DataError if the Hub cannot be reached or has no such dataset, or if the
    copy is damaged.
    """
    import pyarrow

    try:
        for split, dataset in _splits(name).items():
            for number, row in enumerate(dataset, 1):
                read(0)
                yield Record(f"{split}, row {number}", row)
    except (OSError, ValueError, KeyError, pyarrow.ArrowException, RuntimeError) as error:
        where = "the Hugging Face Hub" if name.startswith(PREFIX) else "the local copy"
        cure = "Check the name and the network, or download it on another machine, and import the files"
        raise DataError(f"cannot read the dataset {name} from {where}: {str(error)[:300]}. {cure}") from error


def _splits(name: str) -> Mapping[str, Iterable[object]]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if name.startswith(PREFIX):
        return dict(load_dataset(name.removeprefix(PREFIX), streaming=True))
    found = load_from_disk(name)
    return dict(found) if isinstance(found, DatasetDict) else {"rows": found}
