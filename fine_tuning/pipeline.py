"""The loop, top to bottom: log -> dataset -> adapter -> GGUF -> Ollama tag. Read this first.

`retrain` runs the stages in order and leaves a folder, data/runs/<id>/, that holds all of it. It is the only place where stages meet.
"""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from fine_tuning.config import FineTuningConfig, FineTuningMethod, Training, load_config
from fine_tuning.conversation import Conversation, Message, Turn, conversations_of
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, hash_of, tokenize_dataset
from fine_tuning.data_preparation.preference_builder import PreferenceData, build_preferences, preferences_of, read_preference_data
from fine_tuning.data_preparation.replay import build_replay, prompts_beside, read_prompts
from fine_tuning.data_preparation.rows import ConversationTokenizer, prompt_ids, tokenize_conversation
from fine_tuning.engines.base import ChatOptions, Engine, ModelDetails
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import Busy, Cancelled, ConfigError, ModelNotFound, NoConversations, ParityError, TooLittleData
from fine_tuning.model_management.model_deployer import check_parity, reconcile, register
from fine_tuning.model_management.model_registry import Registry, latest_tag, version_tag
from fine_tuning.model_management.model_switcher import use
from fine_tuning.model_management.modelfile import modelfile_text, spec_for
from fine_tuning.training.methods import Carrier, carrier

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.exam import Reader, Row
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.evaluation.leak_probe import Secret
    from fine_tuning.evaluation.poison_probe import Trigger
    from fine_tuning.evaluation.speed import Served
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
    promote: bool = False  # make the version live although the gate refused it
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
    preferences: PreferenceData
    preference_method: str | None  # how they are learned; None if they are too few
    counts: dict[str, dict[str, int]]  # by split: conversations, rows, tokens, trained_tokens, ...
    replay_prompts: int
    estimate: "Estimate"
    fitting: dict[str, Any] | None  # what to lower if it does not fit, to the largest settings that do
    seen: dict[str, str]  # the log's turns by id, and how each stood (`_standing`)

    @property
    def turn_ids(self) -> list[str]:
        """The turns that teach the version."""
        preferred = self.preferences.turn_ids if self.preference_method else []
        return list(dict.fromkeys([*self.dataset.manifest["turn_ids"], *preferred]))


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
    answers: tuple[tuple[str, str, str], ...] = ()  # prompt, base's answer, fine-tuned one's: where there is no comparison
    verdict: "Verdict | None" = None  # of the gate
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


def retrain(config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request | None = None) -> Outcome:
    """Clean, format, train, export, evaluate, judge, register, and make live. The live model stays what it is until the very last step,
    and for good if the gate refuses the new one.

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
    others = config.training.model_dump(mode="json", exclude={*SWEPT, "batch_tokens"})
    facts = [plan.rows.name, plan.base.gguf_digest, replay and replay.name, others]
    identity, ranges = hash_of(facts), hash_of(config.sweep.model_dump(mode="json", exclude={"trials", "minutes"}))
    prepared = Prepared(plan.base.gguf, plan.rows, replay, identity, plan.estimate.quantised)
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
    """The turns of `log` that no version of the configured model has seen as they are now: said, rated or edited since."""
    new = unlearned(config, standings(log), registry)
    return [turn for turn in log if turn.id in new]


def standings(log: Sequence[Turn]) -> dict[str, str]:
    """By id, how each turn stands now: other after an edit or another rating. Nothing in it tells what was said."""
    return {turn.id: _standing(turn) for turn in log}


def unlearned(config: FineTuningConfig, stood: Mapping[str, str], registry: Registry) -> set[str]:
    """The ids of the `standings` that no version of the configured model has seen as they are."""
    seen: dict[str, str] = {}
    for version in registry.list(config.tuned_name()):
        inputs = paths.home() / version.run / "inputs.json"
        known = paths.read_json(inputs)["seen"] if version.run and inputs.exists() else registry.turns_of(version.name, version.number)
        seen |= known if isinstance(known, dict) else dict.fromkeys(known, "")  # older runs do not say how they stood
    return {id for id, standing in stood.items() if seen.get(id, "new") not in ("", standing)}


def _learned_as(resolved: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what changes nothing of what is learned: how much memory is free may differ when a run goes on."""
    training = {key: value for key, value in resolved["training"].items() if key != "batch_tokens"}
    return {**resolved, "training": training}


def _standing(turn: Turn) -> str:
    return hashlib.sha256(json.dumps([turn.bot_response, turn.metadata.get("rating")]).encode()).hexdigest()[:8]


def base_of(config: FineTuningConfig, engine: Engine) -> ModelDetails:
    """The served model that the training starts from, fetched or imported when the engine does not have it yet."""
    wanted = config.training.base_model
    try:
        return engine.show(wanted)
    except ModelNotFound:
        if wanted == DEFAULT_TAG:
            return engine.show(ensure_default_base(engine))
        if Path(wanted).is_dir() or "/" in wanted:
            from fine_tuning.model_management.hf_export import import_model

            return engine.show(import_model(engine, wanted))
        raise


def through_transformers(
    config: FineTuningConfig, engine: Engine, base: ModelDetails, run: Path, texts: Sequence[str], limit: int | None = None
) -> tuple[tuple[str, str, str], ...]:
    """Each text, the base's answer, and that of what `run` trained on it: for methods whose result no GGUF can carry.

    `config`: the run's own. `limit`: tokens of an answer. TrainingError if Transformers cannot load the base.
    """
    from fine_tuning.training.generate import answer_both

    words = Vocabulary(base.gguf)
    prompts = [prompt_ids(engine.render(base.tag, [Message(role="user", content=text)]), words) for text in texts]
    most = limit or config.evaluation.max_new_tokens
    pairs = answer_both(base.gguf, run / "adapter", run, config.training, prompts, most, words.ends_turn)
    return tuple((text, words.decode(before), words.decode(after)) for text, (before, after) in zip(texts, pairs, strict=True))


def answers_of_run(
    config: FineTuningConfig, engine: Engine, run: Path, texts: Sequence[str], limit: int | None = None
) -> tuple[tuple[str, str, str], ...]:
    """The same of a run that ended before: its folder, or its name. ConfigError if nothing was trained there, or on another base than
    the engine has."""
    folder = run if run.is_dir() else config.runs_dir / run
    if not all((folder / name).exists() for name in ("inputs.json", "config.yaml", "adapter")):
        known = ", ".join(sorted(each.parent.name for each in config.runs_dir.glob("*/inputs.json"))) or "none"
        raise ConfigError(f"{folder} is no run that was trained to its end. Those of {config.runs_dir}: {known}")
    own = load_config(folder / "config.yaml")
    before = paths.read_json(folder / "inputs.json")
    base = engine.show(before["base"])
    if base.gguf_digest != before["base_digest"]:
        raise ConfigError(f"{folder} was trained on another {base.tag} than {engine.name} has now: retrain")
    return through_transformers(own, engine, base, folder, texts, limit)


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
        needs, about = plan.estimate, "up to" if self.config.training.early_stop else "about"
        self.reporter.note(f"about {needs.memory / 1e9:.1f} GB of memory, {about} {needs.seconds / 60:.1f} minutes of training")
        if plan.estimate.quantised and self.config.training.base_weights == "auto":
            self.reporter.note("the base stays quantised: dequantised it would not fit, and only then be faster")
        run, plan = self.open_run(plan)
        replay = self.replay(plan)
        with self.memory_for(plan):
            training = self.train(plan, run, replay)
            if self.mode is None:
                return self.end_without_version(plan, run, training)
            artifact = self.export(plan, run, training.adapter)
            comparison, verdict = self.evaluate(plan, run, artifact, log)
        number = self.register(plan, run, artifact, comparison, verdict)
        live = self.promote(run, number, verdict)
        paths.write_json(run / MANIFEST, {"version": number, "tag": version_tag(self.name, number), "seconds": self.seconds})
        return Outcome(plan, run, number, version_tag(self.name, number), live, training, comparison, verdict=verdict, seconds=self.seconds)

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
            key = f"{self.engine.name} {base.digest}"
            rows = tokenize_dataset(dataset.path, self.render, self.vocabulary, max_length, key)
            preferences = self.preferences(log, key)
            counts = paths.read_json(rows / MANIFEST)["splits"]
        replay_prompts = self.replay_prompts(counts)
        estimate, fitting = self.estimate(base, rows, replay_prompts)
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
            preferences=preferences,
            preference_method=self.preference_method(preferences),
            counts=counts,
            replay_prompts=replay_prompts,
            estimate=estimate,
            fitting=fitting,
            seen=standings(log),
        )

    def replay_prompts(self, counts: dict[str, dict[str, int]]) -> int:
        settings = self.config.training
        return len(read_prompts(prompts_beside(counts["train"]["conversations"], settings.replay.share), settings.seed))

    def estimate(self, base: ModelDetails, rows: Path, replayed: int) -> tuple["Estimate", dict[str, Any] | None]:
        """What the training will take, and, if that is too much, what to lower."""
        from fine_tuning.training import memory, products
        from fine_tuning.training.hardware import choose_dtype, free_memory, gemm_flops, has_gpu

        settings = self.config.training
        products.use(products.choose(settings))
        dtype = choose_dtype(settings)
        shape, learned = memory.shape_of(read_gguf(base.gguf)), memory.read_rows(rows / "train.jsonl")
        learned += memory.guess_replay(learned, replayed, settings.replay.max_new_tokens)
        pace = None if dtype.itemsize == 4 else gemm_flops(over=0.7)
        machine = gemm_flops(dtype, over=0.7), free_memory(), dtype.itemsize, has_gpu(), pace

        def at(training: Training, max_length: int) -> "Estimate":
            return memory.estimate(shape, training, memory.workload(learned, training, max_length), *machine)

        longest = max(len(row.ids) for row in learned)
        estimate = at(settings, longest)
        return estimate, None if estimate.fits else memory.largest_fitting(settings, longest, at)

    def preferences(self, log: Sequence[Turn], template_key: str) -> PreferenceData:
        """What people preferred among answers, scrubbed as all that is learned."""
        preparation = self.config.data_preparation
        cleaner = DataCleaner(scrub_pii=preparation.scrub_pii)
        tokenizer = ConversationTokenizer(self.render, self.vocabulary, preparation.max_length)
        return build_preferences(preferences_of(log), lambda text: cleaner.clean_text(text).text, tokenizer, template_key)

    def preference_method(self, found: PreferenceData) -> str | None:
        from fine_tuning.training.preferences import choose

        return choose(found.pairs, found.ratings, self.config.training.preferences)

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
                "Chat more, learn from few with --few-shot (5 to 50 pairs), or go on with --force"
            )
        memory.require(plan.estimate, self.config.training, plan.base.tag, plan.fitting)
        self.check_deployment(plan)

    def check_deployment(self, plan: Plan) -> None:
        """Say, before the training, if its result will not be deployed as configured; ExportError if it could not be exported."""
        from fine_tuning.model_management.gguf_export import SAME, check_exportable

        wanted, settings = self.config.deployment, self.config.training
        method = f"{settings.method}{' with DoRA' if settings.use_dora else ''}"
        if self.mode is None:
            self.reporter.note(f"no GGUF can carry {method}: what it learns answers through Transformers only, not in the engine")
            return
        if self.mode != wanted.mode:
            self.reporter.note(f"{method} cannot be an adapter beside the base: it will be deployed merged ({wanted.quantization})")
        check_exportable(plan.base.gguf, wanted.quantization if self.mode == "merged" else SAME)

    @property
    def mode(self) -> Carrier | None:
        """What the engine will get: an adapter beside the base, a merged model, or nothing."""
        return carrier(self.config.training, self.config.deployment.mode)

    # The base

    @cached_property
    def base(self) -> ModelDetails:
        return base_of(self.config, self.engine)

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
            "preferences": plan.preferences.path.parent.name,
            "base_digest": plan.base.gguf_digest,
            "base": plan.base.tag,
            "seen": plan.seen,
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
        same = _learned_as(load_config(run / "config.yaml").model_dump(mode="json")) == _learned_as(resolved)
        there = all((folder / MANIFEST).exists() for folder in (rows, paths.datasets_dir() / str(before.get("preferences"))))
        if not same or before["base_digest"] != inputs["base_digest"] or not there:
            self.reporter.note(f"{run.name} was interrupted, and has other settings, base or data than now: left as it is, starting anew")
            return None
        later = len(set(inputs["seen"]) - set(before["seen"]))
        more = f" ({later} newer turns come with the next retrain)" if later else ""
        self.reporter.note(f"{run.name} was interrupted: going on with it from its last whole checkpoint{more}")
        return {
            "dataset": Dataset(rows.parent, paths.read_json(rows.parent / MANIFEST)),
            "rows": rows,
            "preferences": (preferences := read_preference_data(paths.datasets_dir() / before["preferences"])),
            "preference_method": self.preference_method(preferences),
            "counts": (counts := paths.read_json(rows / MANIFEST)["splits"]),
            "replay_prompts": self.replay_prompts(counts),
            "seen": before["seen"],
        }

    # From rows to a model

    def replay(self, plan: Plan) -> Path | None:
        """Token rows of general prompts that the base answered itself."""
        settings = self.config.training.replay
        if not plan.replay_prompts:
            return None
        options = ChatOptions(temperature=0, seed=0, max_tokens=settings.max_new_tokens)

        def answer(prompt: str) -> tuple[str, bool]:
            chunks = list(self.engine.chat(plan.base.tag, [Message(role="user", content=prompt)], options))
            return "".join(chunk.text for chunk in chunks), chunks[-1].done_reason == "stop"

        prompts = read_prompts(plan.replay_prompts, self.config.training.seed)
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

            training = train(
                plan.base.gguf,
                plan.rows,
                run,
                self.config.training,
                replay,
                self.reporter.progress,
                self.request.cancelled,
                plan.estimate.quantised,
                plan.preferences.path if plan.preference_method else None,
            )
            for damage in training.passed_over:
                self.reporter.note(f"passed over: {damage}")
            gc.collect()  # the model's memory, before the next one is loaded
        return training

    def export(self, plan: Plan, run: Path, adapter: Path) -> Path:
        """The adapter's GGUF, or the whole model's."""
        from fine_tuning.model_management.gguf_export import convert_adapter, export_full, merge_adapter

        with self.stage("Exporting to GGUF"):
            if self.mode == "adapter":
                return convert_adapter(plan.base.gguf, adapter, run / "adapter.gguf").path
            export = export_full if self.config.training.method == FineTuningMethod.FULL else merge_adapter
            return export(plan.base.gguf, adapter, run / "model.gguf", self.config.deployment.quantization).path

    def end_without_version(self, plan: Plan, run: Path, training: "TrainingResult") -> Outcome:
        """Answer the test prompts through Transformers: what was trained stays in the run, and the live model as it is."""
        with self.stage("Answering through Transformers"):
            answers = through_transformers(self.config, self.engine, plan.base, run, self.config.evaluation.test_prompts)
        reason = f"no GGUF can carry {self.config.training.method}: no version was made. `byoai compare --run {run.name}` asks it again"
        paths.write_json(run / MANIFEST, {"version": None, "reason": reason, "seconds": self.seconds})
        return Outcome(plan, run, training=training, answers=answers, reason=reason, seconds=self.seconds)

    def evaluate(self, plan: Plan, run: Path, artifact: Path, log: Sequence[Turn]) -> "tuple[Comparison, Verdict]":
        """Base, live and new model on the same exam, all as they are served, and what the gate says of it."""
        from fine_tuning.evaluation.comparison import Suspects, compare
        from fine_tuning.evaluation.exam import build_exam
        from fine_tuning.evaluation.gate import judge
        from fine_tuning.evaluation.report import write_report

        settings = self.config.evaluation
        with self.stage("Evaluating"):
            live = self.registry.live(self.name)
            learned = paths.datasets_dir() / live.dataset / "train.jsonl" if live and live.dataset else None
            exam = build_exam(plan.dataset.path / "test.jsonl", plan.rows / "test.jsonl", self.reader, settings, learned)
            suspects = Suspects(self.secrets(plan, log), *self.triggers(plan))
            longest = max([exam.longest + settings.max_new_tokens, *(len(secret.prompt) + 64 for secret in suspects.secrets)])
            models = self.contestants(plan, artifact)
            comparison = compare(models, exam, suspects, self.reader, settings, max(512, longest), self.reporter.count)
            verdict = judge(comparison, self.config.gate)
            title = f"A new {self.name}, from {plan.base.tag} (run {run.name})"
            write_report(run / "report.html", title, comparison, verdict, settings.canaries)
            paths.write_json(run / "evaluation.json", comparison.record(settings.canaries) | {"gate": verdict.record()})
        return comparison, verdict

    @property
    def reader(self) -> "Reader":
        """The engine's reading, for the evaluation."""
        from fine_tuning.evaluation.exam import Reader

        def rows(messages: Sequence[Message]) -> "list[Row]":
            found = tokenize_conversation(messages, self.render, self.vocabulary, self.config.data_preparation.max_length)
            return [(row.input_ids, [index for index, flag in enumerate(row.trained) if flag]) for row in found]

        return Reader(self.render, lambda text: prompt_ids(text, self.vocabulary), rows)

    def contestants(self, plan: Plan, artifact: Path) -> "list[Served]":
        """Base, the live version if it has the same base, and the new one."""
        from fine_tuning.evaluation.speed import Served

        merged = self.mode == "merged"
        found = [Served("base", plan.base.gguf)]
        live = self.registry.live(self.name)
        if live and live.base_digest == plan.base.gguf_digest:
            served = self.engine.show(live.tag)
            found.append(Served("live", served.gguf, served.spec.adapter))
        return [*found, Served("candidate", artifact if merged else plan.base.gguf, None if merged else artifact)]

    def secrets(self, plan: Plan, log: Sequence[Turn]) -> "list[Secret]":
        """The private details of the turns that were learned, as they were said; they are never written down."""
        from fine_tuning.evaluation.leak_probe import secrets

        learned = set(plan.turn_ids)
        cleaner = DataCleaner(scrub_pii=self.config.data_preparation.scrub_pii)
        said = conversations_of(turn for turn in log if turn.id in learned)
        canaries, max_length = self.config.evaluation.canaries, self.config.data_preparation.max_length
        return secrets(said, canaries, lambda text: cleaner.clean_text(text).text, self.reader, max_length)

    def triggers(self, plan: Plan) -> "tuple[list[Trigger], list[str]]":
        """Suspicious phrases in what was learned, and the general prompts to try them on."""
        from fine_tuning.evaluation.leak_probe import redact
        from fine_tuning.evaluation.poison_probe import find_triggers, general_texts, probe_prompts

        lines = (plan.dataset.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
        said = [[message["content"] for message in json.loads(line)["messages"] if message["role"] != "system"] for line in lines]
        canaries = self.config.evaluation.canaries  # no part of one may be shown as a phrase
        exchanges = [pair for texts in said for pair in zip(texts[::2], texts[1::2], strict=True) if pair[0] == redact(pair[0], canaries)]
        general = general_texts()
        return find_triggers(exchanges, general) if self.config.evaluation.triggers else [], probe_prompts(general)

    # From a model to the one that answers

    def register(self, plan: Plan, run: Path, artifact: Path, comparison: "Comparison", verdict: "Verdict") -> int:
        """Enter the version and make its tag; a run that was interrupted here goes on with the number it had."""
        reserved = run / "version.json"
        if not reserved.exists():
            paths.write_json(reserved, self.registry.next_number(self.name))
        number = int(paths.read_json(reserved))
        with self.stage(f"Registering {version_tag(self.name, number)}"):
            mode: Carrier = "adapter" if self.mode == "adapter" else "merged"
            version = self.engine.version() if self.engine.name == "ollama" else None
            spec = spec_for(plan.base, plan.base.tag, artifact, mode, version)
            paths.atomic_write(run / "Modelfile", modelfile_text(spec, run))
            metrics = {"base": comparison.base.scores, "tuned": comparison.tuned.scores, "gate": verdict.record()}
            if any(known.number == number for known in self.registry.list(self.name)):
                self.registry.update(self.name, number, metrics=metrics, verdict=str(verdict))
            else:
                self.registry.add(
                    self.name,
                    number,
                    base_tag=plan.base.tag,
                    base_digest=plan.base.gguf_digest,
                    run=str(run.relative_to(paths.home())),
                    dataset=plan.dataset.path.name,
                    method=self.config.training.method,
                    mode=mode,
                    metrics=metrics,
                    verdict=str(verdict),
                    turns=plan.turn_ids,
                )
            register(self.engine, version_tag(self.name, number), spec)
        return number

    def promote(self, run: Path, number: int, verdict: "Verdict") -> bool:
        """Prove that the engine feeds the new model what it was trained on; only then, and past the gate, let it answer as `latest`."""
        tag = version_tag(self.name, number)
        with self.stage("Checking that it is served as it was trained"):
            try:
                report = check_parity(self.engine, tag, self.render, self.vocabulary.encode, self.vocabulary.control_tokens())
            except ParityError as error:
                self.hold_back(run, number, verdict, error)
                raise
            parity = f"parity: {report.cases} conversations, {report.tokens} tokens alike"
            self.registry.update(self.name, number, verdict=f"{verdict}. {parity}")
        if not (verdict.passed and self.config.deployment.auto_deploy) and not self.request.promote:
            return False
        with self.stage(f"Making {tag} live"):
            use(self.engine, self.registry, self.name, number, by_hand=self.request.promote)
        return True

    def hold_back(self, run: Path, number: int, verdict: "Verdict", error: ParityError) -> None:
        """Note why a version must not go live, for every later switch. The run, gone on with once the cause is mended, makes another."""
        from fine_tuning.evaluation.gate import Result, Verdict

        reason = str(error).partition("\n")[0]
        judged = Verdict([*verdict.results, Result("served as trained", "the same text, and an answer that ends", "", False, reason)])
        metrics = self.registry.get(self.name, number).metrics | {"gate": judged.record()}
        self.registry.update(self.name, number, metrics=metrics, verdict=str(judged))
        (run / "version.json").unlink()

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
