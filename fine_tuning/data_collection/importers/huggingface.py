"""Read the rows of a dataset of the Hugging Face Hub (`hf:owner/name`), or of a local copy of one.

The local copy is a folder that `Dataset.save_to_disk` of the `datasets` library wrote.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from fine_tuning.data_collection.importers.chats import Fault
from fine_tuning.data_collection.importers.files import Read, unwatched
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.errors import DataError

PREFIX = "hf:"
# The files in which a dataset names its data files, with the part of each that is YAML.
_SETTINGS = {
    "README.md": re.compile(r"---[ \t]*\r?\n(.*?)\n---", re.DOTALL),
    ".huggingface.yaml": re.compile(r"(.*)", re.DOTALL),
}


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
    except (OSError, ValueError, KeyError, pyarrow.ArrowException, RuntimeError, yaml.YAMLError) as error:
        where = "the Hugging Face Hub" if name.startswith(PREFIX) else "the local copy"
        cure = "Check the name and the network, or download it on another machine, and import the files"
        raise DataError(f"cannot read the dataset {name} from {where}: {str(error)[:300]}. {cure}") from error


def _checked(name: str) -> str:
    """Return the newest revision of a dataset, after checking that it names no files outside of itself.

    The library `datasets` opens all paths and addresses that a dataset's settings name, even paths
    of this machine. Raises DataError if the settings name a file that is not within the dataset.
    """
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().dataset_info(name)
    for file in _SETTINGS.keys() & {each.rfilename for each in info.siblings or ()}:
        path = hf_hub_download(name, file, repo_type="dataset", revision=info.sha)
        found = _SETTINGS[file].match(Path(path).read_text(encoding="utf-8"))
        for place in _places(yaml.safe_load(found[1]) if found else None):
            if ":" in place or place.startswith(("/", "\\", "~")) or ".." in place:
                raise DataError(f"the dataset {name} reads files outside of itself ({place[:100]}): do not import it")
    return str(info.sha)


def _places(settings: object, inside: bool = False) -> Iterator[str]:
    """Yield the files and folders that a dataset's settings name: all texts under `data_files` and `data_dir`."""
    if isinstance(settings, str) and inside:
        yield settings
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _places(value, inside or key in ("data_files", "data_dir"))
    elif isinstance(settings, list):
        for value in settings:
            yield from _places(value, inside)


def _splits(name: str) -> Mapping[str, Iterable[object]]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if name.startswith(PREFIX):
        hub_name = name.removeprefix(PREFIX)
        found = load_dataset(hub_name, revision=_checked(hub_name), streaming=True)
        # Decoding would open the files and addresses that a column of images or sounds names.
        return {split: dataset.decode(False) for split, dataset in found.items()}
    found = load_from_disk(name)
    return dict(found) if isinstance(found, DatasetDict) else {"rows": found}
