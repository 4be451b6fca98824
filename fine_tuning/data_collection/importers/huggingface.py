"""Read the rows of a dataset of the Hugging Face Hub, or of a local copy of one, and its licence.

A dataset of the Hub is named `hf:owner/name`, or `hf:owner/name:CONFIG:SPLIT` if one of its
configurations or splits is wanted; either may be left empty. The local copy is a folder that
`Dataset.save_to_disk` of the `datasets` library wrote.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from fine_tuning.config.file import parse
from fine_tuning.data_collection.importers.chats import Fault
from fine_tuning.data_collection.importers.files import Read, unwatched
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.errors import ConfigError, DataError
from fine_tuning.json_values import parse_json

PREFIX = "hf:"
_CARD = "README.md"
_SETTINGS = {_CARD, ".huggingface.yaml"}  # the files in which a dataset names its data files
_MOST = 1_000_000  # values in such a file


def is_dataset(place: str | Path) -> bool:
    """Return whether `place` is a dataset of the Hub ("hf:owner/name"), or the folder of a local copy of one."""
    return str(place).startswith(PREFIX) or _is_saved(Path(place))


def _is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the `datasets` library."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


class Dataset:
    """A dataset, "hf:owner/name:CONFIG:SPLIT" (see above), or the folder of a local copy of one.

    The Hub is asked once for its newest revision and its settings, so that all is read of one revision.
    All methods raise DataError if the Hub cannot be reached or has no such dataset, or if the copy is
    damaged.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def rows(self, read: Read = unwatched) -> Iterator[Record | Fault]:
        """Yield the rows of all splits. `read` is called before each row, and can stop the reading."""
        with _clear_errors(self.name), _without_torch():
            for split, dataset in self._splits().items():
                for number, row in enumerate(dataset, 1):
                    read(0)
                    yield Record(f"{split}, row {number}", row)

    def licence(self) -> str:
        """Return the licence that the dataset's card states, such as "cc-by-4.0"; "" if it states none."""
        with _clear_errors(self.name):
            if self.name.startswith(PREFIX):
                stated = self._stated[1].get("license")
                named = stated if isinstance(stated, list) else [stated]
                return ", ".join(each for each in named if isinstance(each, str))
            info = next(Path(self.name).rglob("dataset_info.json"), None)
            return str(parse_json(info.read_text(encoding="utf-8")).get("license") or "") if info else ""

    @cached_property
    def _stated(self) -> tuple[str, dict[str, Any]]:
        """The newest revision of the dataset and its settings (see `_read_settings`)."""
        return _read_settings(_parts(self.name)[0])

    def _splits(self) -> Mapping[str, Iterable[object]]:
        from datasets import DatasetDict, load_dataset, load_from_disk

        if self.name.startswith(PREFIX):
            hub_name, configuration, split = _parts(self.name)
            revision, _ = self._stated
            found = load_dataset(hub_name, configuration or None, revision=revision, streaming=True)
            if split and split not in found:
                raise ValueError(f"there is no split {split!r}: its splits are {', '.join(map(str, found))}")
            # Decoding would open the files and addresses that a column of images or sounds names.
            return {each: dataset.decode(False) for each, dataset in found.items() if split in ("", each)}
        found = load_from_disk(self.name)
        return dict(found) if isinstance(found, DatasetDict) else {"rows": found}


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep `datasets` from importing PyTorch within the block, which takes longer than reading a dataset."""
    from datasets import config

    before, config.TORCH_AVAILABLE = config.TORCH_AVAILABLE, False
    try:
        yield
    finally:
        config.TORCH_AVAILABLE = before


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Raise DataError, with what to do, for an error of the libraries within the block."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, pyarrow.ArrowException, RuntimeError, ConfigError) as error:
        where = "the Hugging Face Hub" if name.startswith(PREFIX) else "the local copy"
        cure = (
            "Check the name and the network, name a configuration (hf:owner/name:CONFIG), or download it on another "
            "machine, and import the files"
        )
        raise DataError(f"cannot read the dataset {name} from {where}: {str(error)[:300]}. {cure}") from error


def _parts(name: str) -> tuple[str, str, str]:
    """Return (owner/name, configuration, split) of "hf:owner/name:CONFIG:SPLIT"; "" for each that is not named."""
    hub_name, config, split, *more = (*name.removeprefix(PREFIX).split(":"), "", "")
    if any(more):
        raise ValueError("there are too many colons: it is named hf:owner/name:CONFIG:SPLIT")
    return hub_name, config, split


def _read_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Return the newest revision of a dataset and its settings, after checking that they name no files outside of it.

    The library `datasets` opens all paths and addresses that a dataset's settings name, even paths
    of this machine. Raises DataError if the settings name a file that is not within the dataset.
    """
    from huggingface_hub import HfApi, hf_hub_download

    info, settings = HfApi().dataset_info(name), dict[str, Any]()
    for file in _SETTINGS & {each.rfilename for each in info.siblings or ()}:
        path = hf_hub_download(name, file, repo_type="dataset", revision=info.sha)
        with Path(path).open(encoding="utf-8", newline="") as content:
            stated = parse(_yaml_in(file, content.read()), f"{file} of {name}", _MOST)
        settings |= stated if isinstance(stated, dict) else {}
        for place in _places(stated):
            if ":" in place or place.startswith(("/", "\\", "~")) or ".." in place:
                raise DataError(f"the dataset {name} reads files outside of itself ({place[:100]}): do not import it")
    return str(info.sha), settings


def _yaml_in(file: str, content: str) -> str:
    """Return the YAML in a file of settings: the header of a card, or the whole of any other file.

    The header is found by the rule of the Hub's client. Otherwise a card could be written so that the
    settings that are checked here differ from those that the library uses.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if file != _CARD:
        return content
    found = REGEX_YAML_BLOCK.search(content)
    return found[2] if found else ""


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
