"""Read token rows, and report the steps of a training, for all trainers."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fine_tuning import paths
from fine_tuning.errors import TrainingError
from fine_tuning.events import Part, Step, Watch
from fine_tuning.token_rows import origin
from fine_tuning.training.hardware import peak_memory
from fine_tuning.training.packing import TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments


# Rows


@dataclass(frozen=True)
class TrainingRows:
    """The files that a training learns from."""

    folder: Path  # holds train.jsonl and validation.jsonl of token rows (`read_rows`)
    replay: Path | None = None  # replay rows, on which the model is kept close to the base (teacher.py)
    preferences: Path | None = None  # people's preferences (preferences.py), learned after the chats


def read_rows(path: Path) -> list[TokenRow]:
    """Return the token rows of a JSONL file of {"input_ids": [...], "trained": [0|1, ...], "id": ...}.

    `trained` says for each token whether it counts in the loss. The id is optional. Raises
    TrainingError for a bad line.
    """

    def row(record: Mapping[str, Any]) -> TokenRow:
        flags = [bool(flag) for flag in record["trained"]]
        return TokenRow(list(record["input_ids"]), flags, origin=origin(str(record.get("id", ""))))

    return paths.read_jsonl(path, row, "a token row", TrainingError)


# Reports


class TrainerLike(Protocol):
    """The part of a trainer (trainer.ResumableTrainer) that step reports and early stops use."""

    model: "PreTrainedModel"
    args: "TrainingArguments"
    state: "TrainerState"
    seen_tokens: int
    seen_flops: float
    accuracy: float
    validation_accuracy: float | None

    @property
    def rows(self) -> Sized: ...

    @property
    def validation_rows(self) -> Sized: ...

    def validated(self) -> float: ...

    def add_callback(self, callback: "TrainerCallback") -> None: ...


class StepReporter:
    """Reports each step of a training phase: to the watch, and as a line of JSON in `file`."""

    def __init__(self, part: Part, trainer: TrainerLike, epochs: int, file: Path, peak: float, watch: Watch) -> None:
        """Prepare to report the steps of `trainer`, which trains for `epochs` epochs.

        `peak`: this machine's speed in floating-point operations per second.
        """
        self.part, self.trainer, self.epochs, self.file, self.peak, self.watch = (
            part,
            trainer,
            epochs,
            file,
            peak,
            watch,
        )
        self.last: Step | None = None
        self._started, self._first_step = 0.0, 0

    def begin(self) -> None:
        """Start the clock at the current step, which is not 0 in a resumed training."""
        self._started, self._first_step = time.perf_counter(), self.trainer.state.global_step

    def report(self, figures: Mapping[str, float]) -> None:
        """Report the step that just ended; `figures` are the values that Transformers' Trainer logged."""
        trainer, state = self.trainer, self.trainer.state
        seconds = time.perf_counter() - self._started
        done = state.global_step - self._first_step
        steps_an_epoch = max(1, round(state.max_steps / trainer.args.num_train_epochs))
        steps = min(state.max_steps, self.epochs * steps_an_epoch)
        validates = state.global_step % steps_an_epoch == 0 and len(trainer.validation_rows)
        self.last = Step(
            part=self.part,
            step=state.global_step,
            steps=steps,
            epoch=round(state.epoch or 0, 3),
            loss=figures["loss"],
            accuracy=trainer.accuracy,
            learning_rate=figures["learning_rate"],
            grad_norm=figures.get("grad_norm", 0.0),
            tokens=trainer.seen_tokens,
            tokens_per_second=trainer.seen_tokens / seconds,
            flops=trainer.seen_flops,
            gemm_share=trainer.seen_flops / seconds / self.peak,
            eta=seconds / max(done, 1) * (steps - state.global_step),
            memory=peak_memory(),
            validation_loss=trainer.validated() if validates else None,
            validation_accuracy=trainer.validation_accuracy if validates else None,
        )
        with paths.appending(self.file) as file, os.fdopen(file, "ab", closefd=False) as target:
            target.write(f"{json.dumps(asdict(self.last))}\n".encode())
        self.watch.tell(self.last)


def last_steps(file: Path) -> dict[Part, Step]:
    """Return the last step of each phase in `file`, a run's progress.jsonl; {} if there is no such file.

    Incomplete lines are ignored. A resumed run takes the results of finished phases from these
    steps.
    """
    last: dict[Part, Step] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError, TypeError):
            step = Step(**json.loads(line))
            last[step.part] = step
    return last


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and warnings while a model loads; byoai shows its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
