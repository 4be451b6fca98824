"""One training, from base and token rows to an adapter: resumable, reported step by step, with either backend."""

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PrinterCallback, TrainerCallback, set_seed

from fine_tuning import paths
from fine_tuning.config import BaseWeights, Training
from fine_tuning.engines.agreement import Logits, Probe, Reference, Trained, check_base, of_format
from fine_tuning.errors import Cancelled, NoConversations, TrainingError
from fine_tuning.training import checkpoints, methods, products
from fine_tuning.training.base_model import load_base
from fine_tuning.training.cross_validation import best_epochs
from fine_tuning.training.early_stop import EarlyStop, EndAfter
from fine_tuning.training.fused import fuse
from fine_tuning.training.hardware import choose_dtype, choose_threads, gemm_flops, has_gpu, keep_freed_memory, peak_memory
from fine_tuning.training.loss import supervised_logits
from fine_tuning.training.memory import chats_in_a_batch
from fine_tuning.training.packed_trainer import Backend, PackedTrainer
from fine_tuning.training.packing import Row, pack
from fine_tuning.training.preference_trainer import PreferenceTrainer
from fine_tuning.training.preferences import Preference, read_items, with_reference

Part = Literal["held-out parts", "chats", "preferences"]
_TEACHER_TOKENS = 64  # of the base's distribution that are kept for each replayed token; the others share one bucket


@dataclass(frozen=True)
class Progress:
    """One optimiser step. `loss` is the mean over its supervised tokens (nats); `memory` the process's peak in bytes.

    `part` is what is learned from; each part counts its own steps and tokens. Of preferences `loss` is theirs, and `accuracy` the share
    that the model prefers as people did.
    """

    part: Part
    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float  # share of the supervised tokens that were the model's likeliest
    learning_rate: float
    grad_norm: float
    tokens: int  # of conversations learned from so far, in this process
    tokens_per_second: float
    gemm_share: float  # of this machine's matrix products' speed, over all steps so far, everything between them included
    eta: float  # seconds
    memory: int
    validation_loss: float | None = None
    flops: float = 0.0  # floating-point operations of matrix products so far, in this process


@dataclass(frozen=True)
class TrainingResult:
    adapter: Path
    steps: int
    seconds: float
    tokens: int
    final_loss: float
    memory: int  # peak, bytes
    dtype: str
    threads: int  # 0 for a training on a GPU
    products: products.Library
    resumed_from: int  # the step; 0 for a run from the start
    passed_over: tuple[str, ...] = ()  # checkpoints that were not whole
    preference_steps: int = 0  # more steps, after the others
    agreement: float = 0.0  # with people's preferences, in the last of them
    network: Trained | None = field(default=None, repr=False)  # what it computes, if the training was told what is served


def train(
    base: Path,
    rows: Path,
    run: Path,
    settings: Training,
    replay: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    weights: BaseWeights = "dequantised",
    preferences: Path | None = None,
    served: Reference | None = None,
) -> TrainingResult:
    """Fine-tune `base` (a GGUF, or a folder in Hugging Face format) on the token rows in `rows`; write `run`/adapter.

    `rows` holds train.jsonl and validation.jsonl of {"input_ids": [...], "trained": [0|1, ...]}; `replay` is one such file, of prompts
    that the base itself answered; `weights` says how the base is held (base_model.py); `preferences` (preferences.py) are learned
    after the chats. `served` is what llama.cpp computes with the base, with which the network about to be trained must agree.
    A run that was interrupted continues from its newest whole checkpoint, to the same result. Raises NoConversations, TrainingError,
    NotEnoughMemory; Cancelled after `cancelled()` turned true (a checkpoint is kept).
    """
    started = time.perf_counter()
    learned = read_rows(rows / "train.jsonl")
    if not learned:
        raise NoConversations(f"{rows / 'train.jsonl'} holds no row to learn from")
    wanted = read_items(preferences, settings) if preferences else []
    keep_freed_memory()
    dtype, threads = _chosen(run, settings)
    torch.set_num_threads(threads)
    set_seed(settings.seed)
    with quiet():
        model = load_base(base, dtype, run / "base", weights)
        if settings.backend == "packed":
            products.relay(model)
        replayed = replay_rows(model, replay, base) if replay else []
        model = _in_place(methods.METHODS[settings.method].attach(model, settings), settings)
    more = of_format(dtype == torch.bfloat16, weights)
    before = _agreeing(model, served, more, f"{base}'s {model.config.model_type}") if served else []
    lessons = _Lessons(run, gemm_flops(dtype), report, cancelled)
    taught = run / "taught"  # what the chats have made of it, where preferences come after them
    if wanted and checkpoints.is_complete(taught):
        methods.restore(model, taught)
    else:
        end: list[EarlyStop | EndAfter] = []
        if settings.folds and len(learned) > 1:
            # Without the replay, which takes most of the time and says nothing of when these are learned; but with as many steps that
            # learn from chats as an epoch with it has, since a step goes as far for one chat as for eight.
            size = chats_in_a_batch(settings, len(learned), len(learned) + len(replayed))
            parts = settings.model_copy(update={"batch_size": size})
            end = [EndAfter(best_epochs(model, run / "folds", parts, learned, _backend(settings), lessons.try_out))]
        chats = _backend(settings)(model, run / "checkpoints", settings, learned + replayed, read_rows(rows / "validation.jsonl"))
        if settings.early_stop and not end:
            end = [EarlyStop(chats, run, settings.early_stop)]
        lessons.give("chats", chats, end)
        model = chats.model
        if wanted:
            _save(model, taught)
    if wanted:
        items = _with_reference(model, wanted, settings.batch_tokens, run / "reference.json")
        lessons.give("preferences", PreferenceTrainer(model, run / "preference-checkpoints", settings, items), [])
    adapter = _save(model, run / "adapter")
    result = lessons.result(adapter, time.perf_counter() - started, str(dtype).removeprefix("torch."), threads)
    if not served:
        return result
    return replace(result, network=Trained(before, _logits(model, served.probes), more, served))


def _in_place(model: Any, settings: Training) -> Any:
    """Return the model where its weights will stay, fused if they are to be: from now on it is the network that is trained."""
    model = model.to("cuda" if has_gpu() else "cpu")
    if settings.backend == "packed":
        fuse(model)
    return model


def _agreeing(model: Any, served: Reference, more: float, name: str) -> list[Logits]:
    """Return the model's logits for the probes. TrainingError if they are not those that llama.cpp computes."""
    found = _logits(model, served.probes)
    check_base(found, served, more, name)
    return found


@torch.no_grad()
def _logits(model: Any, probes: Sequence[Probe]) -> list[Logits]:
    """Return the logits at the places of each probe, in one packed row, as the model is trained."""
    training = model.training
    model.eval()
    rows = [_asked(probe) for probe in probes]
    batch = {key: part.to(model.device) if isinstance(part, torch.Tensor) else part for key, part in pack(rows).items()}
    found = supervised_logits(model, batch).cpu().numpy()
    model.train(training)
    return np.split(found, np.cumsum([len(probe.places) for probe in probes])[:-1])


def _asked(probe: Probe) -> Row:
    """Return a row that carries loss after each of the places."""
    asked = [False, *(index in set(probe.places) for index in range(len(probe.tokens)))]
    return Row([*probe.tokens, 0], asked)  # what comes after the last is not looked at


class _Lessons:
    """The parts of a training, one after the other: each from its own newest whole checkpoint, each reported."""

    def __init__(self, run: Path, peak: float, report: Callable[[Progress], None], cancelled: Callable[[], bool]) -> None:
        self.run, self.peak, self.report, self.cancelled = run, peak, report, cancelled
        self.passed_over: list[str] = []
        self.progress = run / "progress.jsonl"
        self.last: dict[Part, Progress] = _last_steps(self.progress)
        self.tokens, self.resumed_from = 0, 0

    def give(self, part: Part, trainer: Any, ends: Sequence[EarlyStop | EndAfter]) -> None:
        checkpoint, passed_over = checkpoints.newest_complete(Path(trainer.args.output_dir))
        self.passed_over += passed_over
        self.resumed_from = checkpoints.step_of(checkpoint) if checkpoint else 0
        epochs = min((end.epochs for end in ends if isinstance(end, EndAfter)), default=trainer.args.num_train_epochs)
        callback = _Report(part, trainer, int(epochs), self.progress, self.peak, self.report, self.cancelled)
        trainer.remove_callback(PrinterCallback)
        for each in (callback, *ends):
            trainer.add_callback(each)
        if checkpoint and self._is_over(trainer, checkpoint, ends):
            return
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.cancelled():
            raise Cancelled(f"training stopped at step {trainer.state.global_step}; the next retrain goes on from there")
        self.tokens += trainer.seen_tokens
        if callback.last:
            self.last[part] = callback.last

    def _is_over(self, trainer: Any, checkpoint: Path, ends: Sequence[EarlyStop | EndAfter]) -> bool:
        """Whether the part had ended with this checkpoint, and was killed before anybody took note: Transformers would begin another
        epoch. The model is then as the part left it."""
        step, epoch = checkpoints.step_of(checkpoint), -(-len(trainer.train_dataset) // trainer.args.train_batch_size)
        if not ends or step % epoch:
            return False
        methods.restore(trainer.model, checkpoint)
        over = any(each.is_over(step, step // epoch) for each in ends)
        if over:
            for each in ends:
                each.on_train_end(trainer.args, trainer.state, trainer.control)
        return over

    def try_out(self, trainer: Any, stop: EarlyStop) -> None:
        self.give("held-out parts", trainer, [stop])

    def result(self, adapter: Path, seconds: float, dtype: str, threads: int) -> TrainingResult:
        chats, preferences = self.last.get("chats"), self.last.get("preferences")
        return TrainingResult(
            adapter=adapter,
            steps=chats.step if chats else 0,
            seconds=seconds,
            tokens=self.tokens,
            final_loss=chats.loss if chats else float("nan"),
            memory=peak_memory(),
            dtype=dtype,
            threads=0 if has_gpu() else threads,
            products=products.used(),
            resumed_from=self.resumed_from,
            passed_over=tuple(self.passed_over),
            preference_steps=preferences.step if preferences else 0,
            agreement=preferences.accuracy if preferences else 0.0,
        )


def _with_reference(model: Any, items: Sequence[Preference], tokens: int, kept: Path) -> list[Preference]:
    """The items with what `model` thought of them when their part of the run began."""
    if not kept.exists():
        paths.write_json(kept, [item.reference for item in with_reference(model, items, tokens)])
    return [replace(item, reference=tuple(known)) for item, known in zip(items, paths.read_json(kept), strict=True)]


def _chosen(run: Path, settings: Training) -> tuple[torch.dtype, int]:
    """Number format and threads; the run's, if it has begun: a probe may end otherwise the second time, and so would the sums. Products
    are from now on by the run's library."""
    file = run / "chosen.json"
    if not file.exists():
        library = products.choose(settings)
        products.use(library)  # first: the others' probes multiply
        dtype = str(choose_dtype(settings)).removeprefix("torch.")
        paths.write_json(file, {"dtype": dtype, "threads": choose_threads(settings), "products": library})
    chosen = paths.read_json(file)
    products.use(chosen.get("products", "blas"))  # a run of before there was a choice
    return torch.float32 if chosen["dtype"] == "float32" else torch.bfloat16, int(chosen["threads"])


def _backend(settings: Training) -> Any:
    if settings.backend == "packed":
        return PackedTrainer
    from fine_tuning.training.trl_trainer import TrlTrainer  # TRL takes seconds to import

    return TrlTrainer


def read_rows(path: Path) -> list[Row]:
    """Token rows from JSONL; TrainingError names a bad line."""

    def row(record: Any) -> Row:
        return Row(list(record["input_ids"]), [bool(flag) for flag in record["trained"]])

    return paths.read_jsonl(path, row, "a token row", TrainingError)


def replay_rows(model: Any, replay: Path, base: Path) -> list[Row]:
    """The replay's rows with what the base, which `model` is, thinks of them; kept beside the file, for the next training."""
    rows, kept = read_rows(replay), replay.with_suffix(f".{str(model.dtype).removeprefix('torch.')}.safetensors")
    about = {"base": f"{base.name} {base.stat().st_size}", "rows": hashlib.sha256(replay.read_bytes()).hexdigest()}
    with contextlib.suppress(OSError, SafetensorError), safe_open(kept, "pt") as file:
        if file.metadata() == about:
            sizes = [len(row.targets()) for row in rows]
            ids, logprobs = (file.get_tensor(name).split(sizes) for name in ("ids", "logprobs"))
            return [replace(row, teacher=(likeliest, said)) for row, likeliest, said in zip(rows, ids, logprobs, strict=True)]
    if not (rows := teach(model, rows)):
        return rows
    ids, logprobs = (torch.cat([row.teacher[part] for row in rows if row.teacher]) for part in (0, 1))
    paths.atomic_write(kept, save({"ids": ids, "logprobs": logprobs}, about))
    return rows


@torch.no_grad()
def teach(model: Any, rows: list[Row], batch_size: int = 8) -> list[Row]:
    """The rows with what the base itself thinks of each supervised token: its likeliest tokens and their log-probabilities."""
    model.eval()
    taught: list[Row] = []
    for start in range(0, len(rows), batch_size):
        group = rows[start : start + batch_size]
        logprobs = torch.log_softmax(supervised_logits(model, pack(group)), dim=-1)
        best = logprobs.topk(min(_TEACHER_TOKENS, logprobs.shape[1]), dim=-1)
        sizes = [len(row.targets()) for row in group]
        pairs = zip(group, best.indices.split(sizes), best.values.split(sizes), strict=True)
        taught += [replace(row, teacher=(ids, values)) for row, ids, values in pairs]
    return taught


class _Report(TrainerCallback):
    """Each step as a line of progress.jsonl and a call; stops the training when it was cancelled."""

    def __init__(
        self,
        part: Part,
        trainer: Backend,
        epochs: int,
        file: Path,
        peak: float,
        report: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """`epochs`: that will be learned. `peak`: floating-point operations a second that this machine's matrix products reach."""
        self.part, self.trainer, self.epochs, self.file, self.peak = part, trainer, epochs, file, peak
        self.report, self.cancelled = report, cancelled
        self.last: Progress | None = None
        self.started, self.first_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started, self.first_step = time.perf_counter(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.cancelled():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step}: lower training.learning_rate, or use dtype float32"
            )
        seconds = time.perf_counter() - self.started
        done = state.global_step - self.first_step
        epoch = max(1, round(state.max_steps / args.num_train_epochs))  # steps
        at_epoch_end, steps = state.global_step % epoch == 0, min(state.max_steps, self.epochs * epoch)
        self.last = Progress(
            part=self.part,
            step=state.global_step,
            steps=steps,
            epoch=round(state.epoch or 0, 3),
            loss=logs["loss"],
            accuracy=self.trainer.accuracy,
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm", 0.0),
            tokens=self.trainer.seen_tokens,
            tokens_per_second=self.trainer.seen_tokens / seconds,
            flops=self.trainer.seen_flops,
            gemm_share=self.trainer.seen_flops / seconds / self.peak,
            eta=seconds / max(done, 1) * (steps - state.global_step),
            memory=peak_memory(),
            validation_loss=self.trainer.validated() if at_epoch_end and len(self.trainer.eval_dataset) else None,
        )
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self.last)) + "\n")
        self.report(self.last)


def _last_steps(file: Path) -> dict[Part, Progress]:
    """What a run that is gone on with told last of each part. A line that was torn says nothing."""
    last: dict[Part, Progress] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError, TypeError):
            told = Progress(**json.loads(line))
            last[told.part] = told
    return last


def _save(model: Any, folder: Path) -> Path:
    methods.save(model, folder)
    checkpoints.seal(folder)
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own progress bars and warnings off the terminal while a model loads: byoai shows its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
