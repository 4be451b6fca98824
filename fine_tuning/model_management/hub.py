"""Push bundles (bundle.py) to the Hugging Face Hub, and fetch them from there.

The log-in is the Hub's own: `hf auth login`, or a token in the environment variable HF_TOKEN.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fine_tuning.errors import ConfigError, ExportError
from fine_tuning.model_management.bundle import ADAPTER_FILES, FACTS, read_bundle

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "space"]
_FETCHED = [FACTS, "README.md", "Modelfile", *ADAPTER_FILES, "*.gguf"]
_LARGEST = 200 << 30  # maximum number of bytes to fetch


@dataclass(frozen=True)
class Pushing:
    """The plan of a push to the Hub or, if `done` is true, its result."""

    repository: str  # owner/name
    url: str
    private: bool
    files: tuple[tuple[str, int], ...]  # name, bytes
    done: bool = False

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)


def check_repository(name: str) -> str:
    """Return `name` if it is a valid repository, `name` or `owner/name`. Raises ConfigError otherwise."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"{name[:100]!r} cannot name a repository: {str(error).partition(': ')[0]}. Write `name` or `owner/name`"
        ) from error
    return name


def push(
    folder: Path, repository: str, *, kind: Kind = "model", public: bool = False, dry_run: bool = False
) -> Pushing:
    """Push a bundle or a Space to a repository of the Hub, which is created if needed; return the result.

    Args:
        folder: The bundle, or the Space.
        repository: `name` or `owner/name`.
        kind: "model" for a bundle, "space" for a Space.
        public: Whether a new repository is public; by default it is private.
        dry_run: Return the plan, without a connection to the Hub.

    Raises ConfigError for an invalid name or if nobody is logged in, DataError if `folder` is not a
    bundle, and ExportError with the Hub's message if it refuses or cannot be reached.
    """
    check_repository(repository)
    if kind == "model":
        read_bundle(folder)
    files = tuple(
        (str(file.relative_to(folder)), file.stat().st_size) for file in sorted(folder.rglob("*")) if file.is_file()
    )
    if dry_run:
        return Pushing(repository, _address(kind, repository), not public, files)
    with _hub(repository) as api:
        made = api.create_repo(
            repository,
            repo_type=kind,
            private=not public,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
        )
        api.upload_folder(
            repo_id=made.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message="Add a version made with byoai",
            ignore_patterns=[".*"],
        )
        return Pushing(made.repo_id, str(made), not public, files, done=True)


def push_checkpoint(checkpoint: Path, repository: str) -> str:
    """Push the adapter of a checkpoint to a folder of its name in a repository; return the repository's address.

    The repository is created if needed, and is then private. The state of the optimiser is not pushed.
    Raises ExportError if the checkpoint has no adapter, and the errors of `push`.
    """
    if missing := [name for name in ADAPTER_FILES if not (checkpoint / name).is_file()]:
        raise ExportError(f"{checkpoint} has no {', '.join(missing)}: only checkpoints of adapters can be pushed")
    with _hub(repository) as api:
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=checkpoint,
            path_in_repo=checkpoint.name,
            allow_patterns=list(ADAPTER_FILES),
            commit_message=f"Add {checkpoint.name}",
        )
        return str(made)


def fetch(repository: str, folder: Path, revision: str | None = None) -> Path:
    """Fetch a bundle from a repository of the Hub into `folder`, and return `folder`.

    Only the files of a bundle are fetched. `revision` is a branch, a tag or a commit; by default
    the main branch. Raises ConfigError for an invalid name, and ExportError if the repository is
    too large, or with the Hub's message if it refuses or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    check_repository(repository)
    with _hub(repository) as api:
        size = sum(
            file.size or 0 for file in api.model_info(repository, revision=revision, files_metadata=True).siblings or ()
        )
        if size > _LARGEST:
            raise ExportError(
                f"{repository} has {size / 1e9:.0f} GB, but at most {_LARGEST / 1e9:.0f} GB are downloaded: choose "
                "another one"
            )
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=_FETCHED)
    return folder


def _address(kind: Kind, repository: str) -> str:
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{'spaces/' if kind == 'space' else ''}{repository}"


@contextmanager
def _hub(repository: str) -> "Iterator[HfApi]":
    """Yield the Hub's client; turn the errors of the `with` block into ConfigError and ExportError."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        yield HfApi()
    except LocalTokenNotFoundError as error:
        raise ConfigError("nobody is logged in to Hugging Face: run `hf auth login`, or set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"Hugging Face has no {repository}, or your account has no access to it: check the name, and "
            "`hf auth whoami`"
        ) from error
    except HfHubHTTPError as error:
        hint = " Log in with `hf auth login`, with a token that may write" if _is_denied(error) else ""
        raise ExportError(f"Hugging Face refused {repository}: {str(error).strip().splitlines()[0]}.{hint}") from error
    except httpx2.HTTPError as error:
        raise ExportError(
            f"Hugging Face cannot be reached: {error}. Check the network (HF_ENDPOINT names another address)"
        ) from error
    except OSError as error:
        raise ExportError(
            f"the transfer of {repository} to or from Hugging Face failed ({error}): try again later"
        ) from error


def _is_denied(error: Exception) -> bool:
    return getattr(getattr(error, "response", None), "status_code", 0) in (401, 403)
