"""Run the phases of a training, in this order:

1. trainings that each hold out a part of the chats, to find the number of epochs (cross_validation.py)
2. chats, together with replay rows
3. preferences

The first and the last are optional. Each phase reports its steps, can be stopped, and resumes from
its newest checkpoint.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PrinterCallback, TrainerCallback

from fine_tuning import paths
from fine_tuning.config.training import Training
from fine_tuning.errors import Cancelled, TrainingError
from fine_tuning.events import Part, Step, Watch
from fine_tuning.training import checkpoints, methods
from fine_tuning.training.batch_sizes import chats_in_a_batch
from fine_tuning.training.cross_validation import best_epochs
from fine_tuning.training.early_stop import EarlyStop, EndAfter
from fine_tuning.training.packed_trainer import PackedTrainer
from fine_tuning.training.packing import TokenRow
from fine_tuning.training.preference_trainer import PreferenceTrainer
from fine_tuning.training.preferences import ReferencedAnswers, with_reference
from fine_tuning.training.trainer import ResumableTrainer, TrainerClass
from fine_tuning.training.trainer_utils import StepReporter, last_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


class Phases:
    """Runs the phases of one training (see the module's docstring) of `model`, with all files in the folder `run`."""

    def __init__(self, model: "PreTrainedModel", run: Path, settings: Training, peak: float, watch: Watch) -> None:
        """Prepare the phases. `peak`: this machine's speed in floating-point operations per second, for reports."""
        self.model, self.run, self.settings, self.peak, self.watch = model, run, settings, peak, watch
        self.passed_over: list[str] = []  # messages about damaged checkpoints
        self.last: dict[Part, Step] = last_steps(self._progress)
        self.tokens, self.resumed_from = 0, 0

    @property
    def _progress(self) -> Path:
        return self.run / "progress.jsonl"

    def learn_chats(
        self, chats: list[TokenRow], replayed: list[TokenRow], validation: list[TokenRow], last: bool
    ) -> None:
        """Train on the chats and the replay rows.

        `last`: no other phase follows. Otherwise the trained parameters are saved in `run`/taught,
        so that a resumed run does not repeat this phase.
        """
        kept = self.run / "taught"
        if not last and checkpoints.is_complete(kept):
            methods.restore(self.model, kept)
            return
        ends: list[EarlyStop | EndAfter] = []
        if self.settings.folds and len(chats) > 1:
            ends = [EndAfter(self._find_epochs(chats, len(replayed)))]
        trainer = _trainer_class(self.settings)(
            self.model, self.run / "checkpoints", self.settings, chats + replayed, validation
        )
        if self.settings.early_stop and not ends:
            ends = [EarlyStop(trainer, self.run, self.settings.early_stop)]
        self.run_phase("chats", trainer, ends)
        self.model = trainer.model
        if not last:
            self.save(kept)

    def _find_epochs(self, chats: list[TokenRow], replayed: int) -> int:
        """Return the number of epochs that cross-validation finds for `chats`.

        `replayed` is the number of replay rows. Replay rows are left out here, since they take most
        of the time and do not show after how many epochs the chats are learned. A batch has as many
        chats as it will have on average beside replay rows. With more chats per batch there would
        be fewer steps in an epoch, and a step changes the weights about as much for one chat as for
        eight.
        """
        size = chats_in_a_batch(self.settings, len(chats), len(chats) + replayed)
        settings = self.settings.model_copy(update={"batch_size": size})
        return best_epochs(self.model, self.run / "folds", settings, chats, _trainer_class(settings), self._run_fold)

    def _run_fold(self, trainer: ResumableTrainer, stop: EarlyStop) -> None:
        self.run_phase("held-out parts", trainer, [stop])

    def learn_preferences(self, items: Sequence[ReferencedAnswers]) -> None:
        """Train on people's preferences. The reference model is the model at the start of this phase."""
        kept = self.run / "reference.json"
        if not kept.exists():
            paths.write_json(
                kept, [item.reference for item in with_reference(self.model, items, self.settings.batch_tokens)]
            )
        known = [replace(item, reference=tuple(each)) for item, each in zip(items, paths.read_json(kept), strict=True)]
        trainer = PreferenceTrainer(self.model, self.run / "preference-checkpoints", self.settings, known)
        self.run_phase("preferences", trainer, [])

    def run_phase(self, part: Part, trainer: ResumableTrainer, ends: "Sequence[EarlyStop | EndAfter]") -> None:
        """Run one phase from its newest complete checkpoint, or from the start, to its end.

        `ends`: callbacks that may end the phase early. Raises Cancelled, after saving a checkpoint,
        if the watch asks to stop.
        """
        checkpoint, passed_over = checkpoints.newest_complete(Path(str(trainer.args.output_dir)))
        self.passed_over += passed_over
        self.resumed_from = checkpoints.step_of(checkpoint) if checkpoint else 0
        epochs = min(
            (end.epochs for end in ends if isinstance(end, EndAfter)), default=int(trainer.args.num_train_epochs)
        )
        reporter = StepReporter(part, trainer, epochs, self._progress, self.peak, self.watch)
        trainer.remove_callback(PrinterCallback)
        for callback in (_Report(reporter, self.watch), *ends):
            trainer.add_callback(callback)
        if checkpoint and _is_over(trainer, checkpoint, ends):
            return
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.watch.stopping():
            raise Cancelled(
                f"training stopped at step {trainer.state.global_step}; the next training goes on from there"
            )
        self.tokens += trainer.seen_tokens
        if reporter.last:
            self.last[part] = reporter.last

    def save(self, folder: Path) -> Path:
        """Write the trained parameters to `folder` as a sealed checkpoint (checkpoints.py); return `folder`."""
        methods.save(self.model, folder)
        checkpoints.seal(folder)
        return folder


def _trainer_class(settings: Training) -> TrainerClass:
    if settings.backend == "packed":
        return PackedTrainer
    from fine_tuning.training.trl_trainer import TrlTrainer  # TRL takes seconds to import

    return TrlTrainer


def _is_over(trainer: ResumableTrainer, checkpoint: Path, ends: Sequence[EarlyStop | EndAfter]) -> bool:
    """Return whether `ends` end the phase after the step of this checkpoint.

    This is the case if the process was killed after it had saved the phase's last checkpoint.
    Transformers would then resume with another epoch. If the phase is over, load its final weights.
    """
    step, epoch = checkpoints.step_of(checkpoint), -(-len(trainer.rows) // trainer.args.train_batch_size)
    if not ends or step % epoch:
        return False
    methods.restore(trainer.model, checkpoint)
    over = any(end.is_over(step, step // epoch) for end in ends)
    if over:
        for end in ends:
            end.on_train_end(trainer.args, trainer.state, trainer.control)
    return over


class _Report(TrainerCallback):
    """Reports each step, and ends the training, after saving a checkpoint, when the watch asks to stop."""

    def __init__(self, reporter: StepReporter, watch: Watch) -> None:
        self.reporter, self.watch = reporter, watch

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        self.reporter.begin()

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        if self.watch.stopping():
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Report the step. Raises TrainingError for a loss that is not a number."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the training failed, because the loss became {logs['loss']} at step {state.global_step}: lower "
                "training.learning_rate, or use dtype float32"
            )
        self.reporter.report(logs)
