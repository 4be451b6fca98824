"""Transformers' Trainer with one packed row a batch, and with checkpoints of our own; schedulers, accelerate and callbacks keep working."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from fine_tuning.config import Training
from fine_tuning.training import checkpoints, methods
from fine_tuning.training.fused import fuse, outside
from fine_tuning.training.loss import packed_loss, plain_head
from fine_tuning.training.lower_layers import decoder_layers, lower_layers
from fine_tuning.training.packing import Row, pack_within


class Backend:
    """What this trainer and the reference share: figures for the report, and checkpoints that are sealed last and hold no pickle.

    Resuming reads only folders that `checkpoints.check` passed.
    """

    model: Any
    args: Any
    state: Any
    eval_dataset: Any
    optimizer: Any
    lr_scheduler: Any

    keep_checkpoints = 2
    seen_tokens = 0  # of conversations, padding not counted
    seen_flops = 0.0  # of matrix products
    accuracy = 0.0  # of the last step
    _validated: tuple[int, float] | None = None  # the step after which that was computed

    def validation_loss(self) -> float:
        """Mean loss (nats) over the supervised tokens of the validation rows."""
        raise NotImplementedError

    def validated(self) -> float:
        """The same, computed once for a step: the report and the early stop both ask."""
        if self._validated is None or self._validated[0] != self.state.global_step:
            self._validated = self.state.global_step, self.validation_loss()
        return self._validated[1]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        root = Path(self.args.output_dir)
        checkpoints.seal(root / f"checkpoint-{self.state.global_step}")
        checkpoints.keep_newest(root, self.keep_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        methods.save(self.model, Path(output_dir or self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        checkpoints.save_state(Path(output_dir), self.optimizer, self.lr_scheduler)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to add: `checkpoints.save_state` holds the random states."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        methods.restore(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            checkpoints.load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint:
            checkpoints.load_random(Path(checkpoint))


class PackedTrainer(Backend, Trainer):
    """Trainer whose batches are packed rows: one, or as many as keep what is computed at once within `batch_tokens`."""

    def __init__(self, model: Any, folder: Path, settings: Training, rows: Sequence[Any], validation: Sequence[Row]) -> None:
        super().__init__(
            model=model,
            args=TrainingArguments(**arguments(folder, settings, len(rows))),
            train_dataset=rows,  # a list of rows is all that a sampler needs
            eval_dataset=validation,
            data_collator=partial(pack_within, tokens=settings.batch_tokens),
        )
        self.adapters = fuse(self.model)  # here, since the weights are now where they stay
        self.head = plain_head(self.model)
        of_adapters = [self.adapters.weights] if self.adapters else []
        self.trained = of_adapters + outside(self.model, self.adapters)
        self.kl_weight, self.keep_checkpoints = settings.replay.kl_weight, settings.keep_checkpoints
        again = settings.frozen_layers and settings.num_epochs > 1
        self.lower = lower_layers(self.model, settings.frozen_layers, self.tokens_of(rows)) if again else None
        self.flops = step_flops(model, settings.frozen_layers)

    def tokens_of(self, rows: Sequence[Any]) -> int:
        return sum(len(row.input_ids) for row in rows)

    def weight(self, part: dict[str, Tensor]) -> int:
        """Of what number a part's loss is the mean."""
        return len(part["shift_labels"])

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None) -> Tensor:
        loss, hits = packed_loss(model, inputs, self.kl_weight, self.head)
        self.count(inputs)
        self.accuracy = int(hits) / max(len(inputs["shift_labels"]), 1)
        return loss

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None and self.adapters is not None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind([{"params": self.trained, "weight_decay": self.args.weight_decay}], **settings)
        return super().create_optimizer(model)

    # Transformers' own forms of these ask a thousand modules in each step.

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if not model.training:
            model.train()
        whole = max(sum(map(self.weight, inputs)), 1)
        total, right = torch.zeros((), device=self.args.device), 0.0
        for part in _taken(inputs):
            share = self.weight(part) / whole
            with self.lower.remembered(part) if self.lower else nullcontext():
                loss = self.compute_loss(model, self._prepare_inputs(part)) * share
            self.accelerator.backward(loss)
            total, right = total + loss.detach(), right + share * self.accuracy
        self.accuracy = right
        return total

    def _clip_grad_norm(self, model: Any) -> Tensor:
        gradients = [each.grad for each in self.trained if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if norm > self.args.max_grad_norm:  # else there is nothing to do to each of them
            nn.utils.clip_grads_with_norm_(self.trained, self.args.max_grad_norm, norm, foreach=True)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None: `count` knows better."""
        return 0

    def count(self, inputs: dict[str, Tensor]) -> None:
        """Add a batch to what was seen."""
        self.seen_tokens += int(inputs["tokens"])
        positions = inputs["position_ids"]  # a token at position p sees p others and itself
        scores, without_lower = int(positions.sum()) + positions.numel(), self.lower is not None and self.lower.known
        self.seen_flops += self.flops.of(positions.numel(), len(inputs["shift_labels"]), scores, without_lower)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss (nats) over the supervised tokens of the validation rows."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.random.fork_rng():  # the training's own numbers go on as if nobody had looked
            for part in chain.from_iterable(map(_taken, self.get_eval_dataloader())):
                part = self._prepare_inputs(part)
                total += packed_loss(self.model, part, head=self.head)[0].item() * len(part["shift_labels"])
                count += len(part["shift_labels"])
        self.model.train()
        return total / max(count, 1)


def _taken(parts: list[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Each part, which is then let go: what its attention made for its layout would else be kept until the last part is done."""
    while parts:
        yield parts.pop(0)


def arguments(folder: Path, settings: Training, rows: int) -> dict[str, Any]:
    """TrainingArguments, by name, for `rows` rows an epoch."""
    steps = -(-rows // settings.batch_size) * settings.num_epochs
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "num_train_epochs": settings.num_epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler,
        "warmup_steps": round(settings.warmup_ratio * steps),
        "weight_decay": settings.weight_decay,
        **({"optim": settings.optimizer} if settings.optimizer != "adamw" else {}),
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,  # the model's own dtype decides; the adapter stays in fp32
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would report the loss before, and go on
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of a training step."""

    token: float  # for each that is computed
    target: float  # for each that carries loss
    score: float  # for each key that a query sees
    lower_token: float = 0  # in frozen layers, where they are not left out
    lower_score: float = 0

    def of(self, tokens: int, targets: int, scores: int, without_lower: bool = False) -> float:
        lower = 0 if without_lower else self.lower_token * tokens + self.lower_score * scores
        return self.token * tokens + self.target * targets + self.score * scores + lower


def step_flops(model: Any, frozen_layers: int = 0) -> StepFlops:
    """Two for each weight forward, two backward to the inputs, two more where the weight itself is trained (arXiv 2001.08361, section 2.1);
    of the attention two products forward and four backward (arXiv 2204.02311, appendix B), what is computed twice not counted.
    Of frozen layers the forward pass alone."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    lower = [module for layer in (decoder_layers(model)[1][:frozen_layers] if frozen_layers else ()) for module in layer.modules()]
    within = set(map(id, lower))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))
    return StepFlops(
        token=sum(_flops(module) for module in linear if id(module) not in within),
        target=_flops(head),
        score=12.0 * (config.num_hidden_layers - frozen_layers) * width,
        lower_token=sum(_flops(module) for module in linear if id(module) in within) / 2,
        lower_score=4.0 * frozen_layers * width,
    )


def _flops(layer: nn.Linear) -> float:
    # By its sides: a weight held in four bits has half as many numbers.
    return float(layer.in_features * layer.out_features * (6 if layer.weight.requires_grad else 4))
