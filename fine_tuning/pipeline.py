"""The loop, top to bottom: log -> dataset -> adapter -> GGUF -> Ollama tag. Read this first.

`retrain` runs the stages in order and leaves a folder, data/runs/<id>/, that holds all of it. It is the only place where stages meet.
"""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import filelock
import psutil
import yaml

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, Training
from fine_tuning.conversation import Conversation, Message, Turn, conversations_of
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, tokenize_dataset
from fine_tuning.data_preparation.replay import build_replay, read_prompts
from fine_tuning.data_preparation.rows import prompt_ids
from fine_tuning.engines.base import ChatOptions, Engine, ModelDetails
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import Busy, Cancelled, ModelNotFound, NoConversations, TooLittleData
from fine_tuning.model_management.model_deployer import check_parity, go_live, reconcile, register
from fine_tuning.model_management.model_registry import Registry, latest_tag, version_tag
from fine_tuning.model_management.modelfile import modelfile_text, spec_for

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.evaluator import Evaluation
    from fine_tuning.training.memory import Estimate
    from fine_tuning.training.sweep import Found
    from fine_tuning.training.trainer import Progress, TrainingResult

SAMPLE_LOG = paths.SAMPLES / "conversations.jsonl"
MANIFEST = "manifest.json"


class Reporter(Protocol):
    """What a retrain tells while it works; the command line draws it."""

    def stage(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def count(self, done: int, total: int) -> None: ...

    def progress(self, progress: "Progress") -> None: ...


@dataclass(frozen=True)
class Request:
    """What a retrain is asked for, beside the configuration."""

    sample: bool = False  # learn the shipped sample instead of the log
    if_new: int | None = None  # do nothing with fewer new turns than this
    force: bool = False  # go on with little data
    auto: bool = False  # lower what does not fit into the memory
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Plan:
    """What is to be learned, from what, and what it will take."""

    name: str  # of the fine-tuned model, without version
    base: ModelDetails
    turns: int  # in the log
    new_turns: int  # that no version has seen
    kept_turns: int
    dropped: dict[str, int]  # turns by reason
    scrubbed: dict[str, int]  # private details by kind
    dataset: Dataset
    rows: Path
    counts: dict[str, dict[str, int]]  # by split: conversations, rows, tokens, trained_tokens, ...
    replay_prompts: int
    estimate: "Estimate"
    fitting: dict[str, Any] | None  # what to lower if it does not fit, to the largest settings that do
    seen: tuple[str, ...]  # the ids of the log's turns


@dataclass(frozen=True)
class Outcome:
    """How a retrain ended. Without a `version` nothing was made, and `reason` says why."""

    plan: Plan | None = None
    run: Path | None = None
    version: int | None = None
    tag: str = ""
    live: bool = False
    training: "TrainingResult | None" = None
    comparison: "Comparison | None" = None
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


def retrain(config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request | None = None) -> Outcome:
    """Clean, format, train, evaluate, export, register, and make live. The live model stays what it is until the very last step.

    Raises Busy when another retrain runs, and whatever a stage raises; what was done is kept, and the next retrain resumes it.
    """
    with only_one():
        return _Retrain(config, engine, reporter, request or Request()).run()


def make_plan(config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request | None = None) -> Plan:
    """What `retrain` would learn, without training."""
    return _Retrain(config, engine, reporter, request or Request()).plan()


def sweep(config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request | None = None, name: str | None = None) -> "Found":
    """Search for the settings with the least validation loss; the best ones are in `<folder>`/best.yaml, a whole configuration.

    Dataset, base and replay are prepared once, under the lock; then other processes may join. `name`: default, a study for each
    dataset, base and ranges. Raises what `retrain` and `training.sweep.search` raise.
    """
    from fine_tuning.training.sweep import SWEPT, Prepared, search

    request = request or Request()
    work = _Retrain(config, engine, reporter, request)
    with only_one():
        plan = work.plan()
        work.check(plan)
        replay = work.replay(plan)
    config = work.config  # --auto may have lowered it
    others = config.training.model_dump(mode="json", exclude=set(SWEPT))
    facts = [plan.rows.name, plan.base.gguf_digest, replay and replay.name, others]
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    ranges = hashlib.sha256(json.dumps(config.sweep.model_dump(mode="json", exclude={"trials", "minutes"})).encode()).hexdigest()
    prepared = Prepared(plan.base.gguf, plan.rows, replay, identity)
    with work.memory_for(plan), work.stage("Sweeping"):
        found = search(
            prepared,
            config.training,
            config.sweep,
            name or f"{plan.name}-{identity[:8]}-{ranges[:4]}",
            reporter.note,
            reporter.progress,
            request.cancelled,
        )
    best = config.changed({f"training.{key}": value for key, value in found.settings.items()})
    paths.atomic_write(found.folder / "best.yaml", yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return found


def new_turns(config: FineTuningConfig, log: Sequence[Turn], registry: Registry) -> list[Turn]:
    """The turns of `log` that no version of the configured model has seen."""
    seen: set[str] = set()
    for version in registry.list(config.tuned_name()):
        inputs = paths.home() / version.run / "inputs.json"
        seen |= set(paths.read_json(inputs)["seen"]) if version.run and inputs.exists() else registry.turns_of(version.name, version.number)
    return [turn for turn in log if turn.id not in seen]


class _Retrain:
    """One retrain: the stages as methods, in the order in which they run."""

    def __init__(self, config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request) -> None:
        self.config, self.engine, self.reporter, self.request = config, engine, reporter, request
        self.registry, self.name = Registry(), config.tuned_name()
        self.seconds: dict[str, float] = {}

    def run(self) -> Outcome:
        self.reporter.note(f"engine: {self.engine.name} {self.engine.version()} at {self.engine.where}")
        for finding in reconcile(self.engine, self.registry, self.name):
            self.reporter.note(finding.text)
        log = self.collect()
        if (least := self.request.if_new) is not None and len(new := new_turns(self.config, log, self.registry)) < least:
            return Outcome(reason=f"{len(new)} new turn(s) since the last version, fewer than {least}: nothing to do")
        plan = self.plan(log)
        self.check(plan)
        self.reporter.note(f"about {plan.estimate.memory / 1e9:.1f} GB of memory and {plan.estimate.seconds / 60:.1f} minutes of training")
        run, plan = self.open_run(plan)
        replay = self.replay(plan)
        with self.memory_for(plan):
            training = self.train(plan, run, replay)
            artifact = self.export(plan, run, training.adapter)
            comparison = self.evaluate(plan, run, artifact)
        number = self.register(plan, run, artifact, comparison)
        live = self.promote(plan, number)
        paths.write_json(run / MANIFEST, {"version": number, "tag": version_tag(self.name, number), "seconds": self.seconds})
        return Outcome(plan, run, number, version_tag(self.name, number), live, training, comparison, seconds=self.seconds)

    # What to learn

    def collect(self) -> list[Turn]:
        """The log's turns (or the sample's), without what its owner excluded."""
        if self.request.sample:
            return [Turn.model_validate_json(line) for line in SAMPLE_LOG.read_text(encoding="utf-8").splitlines()]
        logger = ConversationLogger(self.config.log_path)
        if not (health := logger.health()).ok:
            self.reporter.note(f"the log: {health}")
        return logger.turns()

    def plan(self, log: list[Turn] | None = None) -> Plan:
        """Clean, split and tokenise; nothing is loaded or trained. With `--auto`, for settings that fit into the memory."""
        plan = self._plan(log)
        if not (self.request.auto and plan.fitting):
            return plan
        lowered = " ".join(f"{key}={value}" for key, value in plan.fitting.items())
        needed, free = plan.estimate.memory / 1e9, plan.estimate.available / 1e9
        self.reporter.note(f"this would need about {needed:.1f} GB of memory, and {free:.1f} GB are free: --auto takes {lowered}")
        self.config = self.config.changed(plan.fitting)
        return self._plan(log)

    def _plan(self, log: list[Turn] | None) -> Plan:
        with self.stage("Reading what was said"):
            log = self.collect() if log is None else log
            if not log:
                raise NoConversations(
                    f"No conversations to train on: {self.config.log_path} holds none. Chat first (./scripts/start.sh), with recording on; "
                    "or try it on the shipped sample: ./scripts/retrain.sh --sample"
                )
            conversations, dropped, scrubbed = self.clean(conversations_of(log))
        with self.stage("Preparing the dataset"):
            base = self.base
            dataset = build_dataset(conversations, self.config.data_preparation, dropped)
            max_length = self.config.data_preparation.max_length
            rows = tokenize_dataset(dataset.path, self.render, self.vocabulary, max_length, f"{self.engine.name} {base.digest}")
            counts = paths.read_json(rows / MANIFEST)["splits"]
        estimate, fitting = self.estimate(base, rows)
        return Plan(
            name=self.name,
            base=base,
            turns=len(log),
            new_turns=len(new_turns(self.config, log, self.registry)),
            kept_turns=sum(len(conversation.turns) for conversation in conversations),
            dropped=dropped,
            scrubbed=scrubbed,
            dataset=dataset,
            rows=rows,
            counts=counts,
            replay_prompts=self.config.training.replay.prompts,
            estimate=estimate,
            fitting=fitting,
            seen=tuple(turn.id for turn in log),
        )

    def estimate(self, base: ModelDetails, rows: Path) -> tuple["Estimate", dict[str, Any] | None]:
        """What the training will take, and, if that is too much, what to lower."""
        from fine_tuning.training import memory
        from fine_tuning.training.hardware import choose_dtype, free_memory, gemm_flops, has_gpu

        settings, dtype = self.config.training, choose_dtype(self.config.training.dtype)
        shape, learned = memory.shape_of(read_header(base.gguf)), memory.read_rows(rows / "train.jsonl")
        learned += memory.guess_replay(learned, settings.replay.prompts, settings.replay.max_new_tokens)
        machine = gemm_flops(dtype), free_memory(), dtype.itemsize, has_gpu()

        def at(training: Training, max_length: int) -> "Estimate":
            return memory.estimate(shape, training, memory.workload(learned, training, max_length), *machine)

        longest = max(len(row.ids) for row in learned)
        estimate = at(settings, longest)
        return estimate, None if estimate.fits else memory.largest_fitting(settings, longest, at)

    def clean(self, conversations: list[Conversation]) -> tuple[list[Conversation], dict[str, int], dict[str, int]]:
        limits = self.config.data_collection
        cleaner = DataCleaner(
            limits.min_conversation_length,
            limits.max_conversation_length,
            scrub_pii=self.config.data_preparation.scrub_pii,
            own_prefix="" if limits.learn_own_answers else self.config.deployment.model_name_prefix,
        )
        cleaned = cleaner.filter_conversations(conversations)
        if not cleaned.conversations:
            reasons = ", ".join(f"{count} {reason}" for reason, count in cleaned.dropped.items())
            raise NoConversations(
                f"No conversations to train on: cleaning dropped every turn ({reasons}). See data_collection in the config"
            )
        return cleaned.conversations, dict(cleaned.dropped), dict(cleaned.scrubbed)

    def check(self, plan: Plan) -> None:
        """Refuse, before anything is loaded, what would waste the person's time."""
        from fine_tuning.training import memory

        least = self.config.training.min_pairs
        if plan.kept_turns < least and not self.request.force:
            raise TooLittleData(
                f"Training data too small: {plan.kept_turns} question-answer pairs, and {least}+ are recommended (training.min_pairs). "
                "Chat more, or go on with --force"
            )
        memory.require(plan.estimate, self.config.training, plan.base.tag, plan.fitting)

    # The base

    @cached_property
    def base(self) -> ModelDetails:
        """The served model that the training starts from, fetched or imported when the engine does not have it yet."""
        wanted = self.config.training.base_model
        try:
            return self.engine.show(wanted)
        except ModelNotFound:
            if wanted == DEFAULT_TAG:
                return self.engine.show(ensure_default_base(self.engine))
            if Path(wanted).is_dir() or "/" in wanted:
                from fine_tuning.model_management.hf_export import import_model

                return self.engine.show(import_model(self.engine, wanted))
            raise

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.base.gguf)

    @property
    def render(self) -> Callable[[Sequence[Message]], str]:
        """The engine's own rendering: what is trained is what will be served."""
        return partial(self.engine.render, self.base.tag)

    # The run

    def open_run(self, plan: Plan) -> tuple[Path, Plan]:
        """A fresh folder; or the newest unfinished one with the same settings and base, whose own data are then learned to the end."""
        resolved = self.config.model_dump(mode="json")
        inputs = {
            "dataset": plan.dataset.path.name,
            "rows": plan.rows.name,
            "base_digest": plan.base.gguf_digest,
            "base": plan.base.tag,
            "seen": list(plan.seen),
        }
        for run in sorted(self.config.runs_dir.glob("*/inputs.json"), reverse=True):
            if (run.parent / MANIFEST).exists():
                break
            if found := self._resumable(run.parent, resolved, inputs):
                return run.parent, replace(plan, **found)
        run = self.config.runs_dir / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{plan.dataset.path.name[:8]}"
        run.mkdir(parents=True)
        paths.atomic_write(run / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        paths.write_json(run / "inputs.json", inputs)
        return run, plan

    def _resumable(self, run: Path, resolved: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any] | None:
        """What of the plan changes to go on with `run`; None if it cannot be gone on with, and that is said."""
        before = paths.read_json(run / "inputs.json")
        rows = paths.datasets_dir() / before["dataset"] / before["rows"]
        same = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) == resolved
        if not same or before["base_digest"] != inputs["base_digest"] or not (rows / MANIFEST).exists():
            self.reporter.note(f"{run.name} was interrupted, and has other settings, base or data than now: left as it is, starting anew")
            return None
        later = len(set(inputs["seen"]) - set(before["seen"]))
        more = f" ({later} newer turns come with the next retrain)" if later else ""
        self.reporter.note(f"{run.name} was interrupted: going on with it from its last whole checkpoint{more}")
        dataset = Dataset(rows.parent, paths.read_json(rows.parent / MANIFEST))
        return {"dataset": dataset, "rows": rows, "counts": paths.read_json(rows / MANIFEST)["splits"], "seen": tuple(before["seen"])}

    # From rows to a model

    def replay(self, plan: Plan) -> Path | None:
        """Token rows of general prompts that the base answered itself."""
        settings = self.config.training.replay
        if not settings.prompts:
            return None
        options = ChatOptions(temperature=0, seed=0, max_tokens=settings.max_new_tokens)

        def answer(prompt: str) -> tuple[str, bool]:
            chunks = list(self.engine.chat(plan.base.tag, [Message(role="user", content=prompt)], options))
            return "".join(chunk.text for chunk in chunks), chunks[-1].done_reason == "stop"

        prompts = read_prompts(settings.prompts, self.config.training.seed)
        key = f"{plan.base.digest} {settings.max_new_tokens}"
        file, making = build_replay(prompts, answer, self.render, self.vocabulary, self.config.data_preparation.max_length, key)
        with self.stage("Asking the base what it should not forget"):
            for done in making:
                self.reporter.count(done, len(prompts))
                self.stop_if_cancelled()
        return file

    @contextmanager
    def memory_for(self, plan: Plan) -> Iterator[None]:
        """Have the engine put its models away while they would be in the way, and warm the live one again afterwards."""
        from fine_tuning.training.hardware import has_gpu

        short = psutil.virtual_memory().available < 2 * plan.estimate.memory
        loaded = self.engine.unload() if has_gpu() or short else []
        if loaded:
            self.reporter.note(f"{', '.join(loaded)} put away while training needs the memory")
        try:
            yield
        finally:
            live = latest_tag(self.name)
            if loaded and any(model.tag == live for model in self.engine.list_models()):
                self.engine.warm(live)

    def train(self, plan: Plan, run: Path, replay: Path | None) -> "TrainingResult":
        with self.stage("Training"):
            from fine_tuning.training.trainer import train

            training = train(plan.base.gguf, plan.rows, run, self.config.training, replay, self.reporter.progress, self.request.cancelled)
            for damage in training.passed_over:
                self.reporter.note(f"passed over: {damage}")
            gc.collect()  # the model's memory, before the next one is loaded
        return training

    def export(self, plan: Plan, run: Path, adapter: Path) -> Path:
        """The adapter's GGUF, or the merged model's."""
        from fine_tuning.model_management.gguf_export import convert_adapter, merge_adapter

        with self.stage("Exporting to GGUF"):
            if self.config.deployment.mode == "adapter":
                return convert_adapter(plan.base.gguf, adapter, run / "adapter.gguf").path
            return merge_adapter(plan.base.gguf, adapter, run / "model.gguf", self.config.deployment.quantization).path

    def evaluate(self, plan: Plan, run: Path, artifact: Path) -> "Comparison":
        """Base and fine-tuned on the held-out conversations, both as they are served."""
        from fine_tuning.evaluation.comparison import Comparison

        with self.stage("Evaluating"):
            base = self._evaluate(plan, plan.base.gguf, None)
            merged = self.config.deployment.mode == "merged"
            tuned = self._evaluate(plan, artifact if merged else plan.base.gguf, None if merged else artifact)
            comparison = Comparison(base, tuned)
            paths.write_json(run / "evaluation.json", comparison.record())
        return comparison

    def _evaluate(self, plan: Plan, gguf: Path, adapter: Path | None) -> "Evaluation":
        from fine_tuning.evaluation.evaluator import Prompt, evaluate

        texts = self.config.evaluation.test_prompts
        prompts = [Prompt(text, prompt_ids(self.render([Message(role="user", content=text)]), self.vocabulary)) for text in texts]
        test = plan.rows / "test.jsonl"
        context = max(512, _longest(test) + 1, max((len(prompt.tokens) for prompt in prompts), default=0) + 256)
        return evaluate(gguf, adapter, test, prompts, self.config.evaluation, context, self.reporter.count)

    # From a model to the one that answers

    def register(self, plan: Plan, run: Path, artifact: Path, comparison: "Comparison") -> int:
        """Enter the version and make its tag; a run that was interrupted here goes on with the number it had."""
        reserved = run / "version.json"
        if not reserved.exists():
            paths.write_json(reserved, self.registry.next_number(self.name))
        number = int(paths.read_json(reserved))
        with self.stage(f"Registering {version_tag(self.name, number)}"):
            version = self.engine.version() if self.engine.name == "ollama" else None
            spec = spec_for(plan.base, plan.base.tag, artifact, self.config.deployment.mode, version)
            paths.atomic_write(run / "Modelfile", modelfile_text(spec, run))
            if all(known.number != number for known in self.registry.list(self.name)):
                self.registry.add(
                    self.name,
                    number,
                    base_tag=plan.base.tag,
                    base_digest=plan.base.gguf_digest,
                    run=str(run.relative_to(paths.home())),
                    dataset=plan.dataset.path.name,
                    method=self.config.training.method,
                    mode=self.config.deployment.mode,
                    metrics={"base": comparison.base.scores, "tuned": comparison.tuned.scores},
                    turns=plan.dataset.manifest["turn_ids"],
                )
            register(self.engine, version_tag(self.name, number), spec)
        return number

    def promote(self, plan: Plan, number: int) -> bool:
        """Prove that the engine feeds the new model what it was trained on; only then let it answer as `latest`."""
        tag = version_tag(self.name, number)
        with self.stage("Checking that it is served as it was trained"):
            report = check_parity(self.engine, tag, self.render, self.vocabulary.encode, self.vocabulary.control_tokens())
            self.registry.update(self.name, number, verdict=f"parity: {report.cases} conversations, {report.tokens} tokens alike")
        if not self.config.deployment.auto_deploy:
            return False
        with self.stage(f"Making {tag} live"):
            go_live(self.engine, self.registry, self.name, number)
        return True

    def stop_if_cancelled(self) -> None:
        if self.request.cancelled():
            raise Cancelled("stopped; what was done is kept, and the next retrain goes on from there")

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        self.stop_if_cancelled()
        self.reporter.stage(title)
        started = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - started, 2)


@contextmanager
def only_one() -> Iterator[None]:
    """Keep every other retrain (and what must not happen during one) out; Busy if one is running."""
    paths.home().mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(paths.home() / "retrain.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise Busy(f"another retrain is running (it holds {lock.lock_file}): wait for it, or end it; it can be resumed") from None


def _longest(rows: Path) -> int:
    """Tokens of the longest row; 0 for none."""
    with rows.open(encoding="utf-8") as lines:
        return max((len(json.loads(line)["input_ids"]) for line in lines), default=0)
