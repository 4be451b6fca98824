"""Push the checkpoints of a training to the Hugging Face Hub while it goes on (deployment.push_checkpoints)."""

from pathlib import Path

from fine_tuning.errors import ByoaiError
from fine_tuning.events import Event, Step, Watch
from fine_tuning.model_management.hub import check_repository, push_checkpoint

_SEALED = "manifest.json"  # the training writes it last


class PushedCheckpoints:
    """Pushes each new checkpoint once it is complete. After a failure the training goes on, without further pushes.

    It is called with the events of the training (`Watch.telling`). Checkpoints that exist when it is
    made are not pushed. Raises ConfigError for an invalid name of the repository.
    """

    def __init__(self, folder: Path, repository: str, watch: Watch) -> None:
        self._folder, self._repository, self._watch = folder, check_repository(repository), watch
        self._done, self._failed = set(self._complete()), False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self.push_new()

    def push_new(self) -> None:
        """Push the complete checkpoints that were not pushed yet, the oldest first."""
        for checkpoint in [] if self._failed else sorted(self._complete() - self._done, key=_step):
            self._done.add(checkpoint)
            try:
                address = push_checkpoint(checkpoint, self._repository)
            except ByoaiError as error:
                self._failed = True
                self._watch.note(f"no further checkpoint will be pushed, but the training goes on: {error}")
                return
            self._watch.note(f"{checkpoint.name} was pushed to {address}")

    def _complete(self) -> set[Path]:
        return {sealed.parent for sealed in self._folder.glob(f"checkpoint-*/{_SEALED}")}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
