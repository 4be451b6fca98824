"""The loop, top to bottom: log -> dataset -> adapter -> GGUF -> Ollama tag. Read this first.

`retrain` runs the stages in order and leaves a folder, data/runs/<id>/, that holds all of it. It is the only place where stages meet.
"""

import gc
import json
import os
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import filelock
import psutil
import yaml

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, FineTuningMethod, Training, load_config
from fine_tuning.conversation import Message, Turn, conversations_of
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned, CleanSettings, DataCleaner, clean_text
from fine_tuning.data_collection.log_index import Mark
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, doubts_of, hash_of, tokenize_dataset
from fine_tuning.data_preparation.preference_builder import PreferenceData, build_preferences, preferences_of, read_preference_data
from fine_tuning.data_preparation.replay import build_replay, prompts_beside, read_prompts
from fine_tuning.data_preparation.rows import ConversationTokenizer, prompt_ids, tokenize_conversation
from fine_tuning.engines.agreement import check_export, make_probes
from fine_tuning.engines.base import ChatOptions, Engine, ModelDetails, ModelSpec
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.engines.neutral import Neutraliser, neutraliser_for
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import Busy, ByoaiError, Cancelled, ConfigError, ModelNotFound, NoConversations, ParityError, TooLittleData
from fine_tuning.model_management.model_deployer import TRIAL, check_name, check_parity, reconcile, register
from fine_tuning.model_management.model_registry import Registry, latest_tag, version_tag
from fine_tuning.model_management.model_switcher import use
from fine_tuning.model_management.modelfile import modelfile_text, spec_for
from fine_tuning.training.methods import Carrier, carrier

if TYPE_CHECKING:
    from fine_tuning.engines.agreement import Reference
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
    seen: dict[str, str]  # the log's turns by id, and how each stood (`Turn.state_hash`)
    mark: Mark | None  # of the log then; None for the sample
    warnings: tuple[str, ...] = ()  # what a person should know before the training

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
    return _Retrain(config, engine, reporter, request or Request(), only_plans=True).plan()


def sweep(config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request | None = None, name: str | None = None) -> "Found":
    """Search for the settings with the least validation loss; the best ones are in `<folder>`/best.yaml, a whole configuration.

    Dataset, base and replay are prepared once, under the lock; then other processes may join. `name`: default, a study for each
    dataset, base and ranges. Raises what `retrain` and `training.sweep.search` raise.
    """
    from fine_tuning.training.sweep import SWEPT, Prepared, search

    request = request or Request()
    work = _Retrain(config, engine, reporter, request)
    with only_one():
        work.check_folders()
        plan = work.plan()
        work.check(plan)
        replay = work.replay(plan)
    config = work.config  # --auto may have lowered it
    others = config.training.model_dump(mode="json", exclude={*SWEPT, "batch_tokens"})
    facts = [plan.rows.name, plan.base.gguf_digest, replay and replay.name, others]
    identity, ranges = hash_of(facts), hash_of(config.sweep.model_dump(mode="json", exclude={"trials", "minutes"}))
    prepared = Prepared(plan.base.gguf, plan.rows, replay, identity, plan.estimate.base_weights)
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


def new_turns(config: FineTuningConfig, log: ConversationLogger, registry: Registry) -> list[str]:
    """Return the ids of the turns that no version of the configured model has seen as they are now: said, rated or edited since.

    It takes as long as what changed since the newest version, whatever was said before.
    """
    seen, mark = _seen(config, registry)
    return _unseen(log.index.changed_since(mark), seen)


def _unseen(turns: Iterable[tuple[str, str]], seen: Mapping[str, str]) -> list[str]:
    """Return the ids of those turns, given as (id, state hash), that are not in `seen` as they are now."""
    return [id for id, state_hash in turns if seen.get(id, "new") not in ("", state_hash)]


def _seen(config: FineTuningConfig, registry: Registry) -> tuple[Mapping[str, str], Mark | None]:
    """Return how each turn stood that a version has seen ("": nobody knows), and the log's mark when the newest version was planned."""
    seen: ChainMap[str, str] = ChainMap()
    mark = None
    for version in registry.list(config.tuned_name()):
        inputs = paths.home() / version.run / "inputs.json"
        if version.run and inputs.exists():
            known, mark = _read_seen(inputs, inputs.stat().st_mtime_ns)
        else:
            known = dict.fromkeys(registry.turns_of(version.name, version.number), "")
        seen = seen.new_child(known)
    return seen, mark


@lru_cache(maxsize=64)
def _read_seen(inputs: Path, changed: int) -> tuple[dict[str, str], Mark | None]:
    """Return what a run's inputs say of the log; kept until the file is changed."""
    record = paths.read_json(inputs)
    known, mark = record["seen"], record.get("mark")
    return known if isinstance(known, dict) else dict.fromkeys(known, ""), Mark(**mark) if mark else None  # older runs say less


def too_little(pairs: int, config: FineTuningConfig) -> str:
    """Return what to say of too few question-answer pairs; "" if they are enough."""
    least = config.training.min_pairs
    if pairs >= least:
        return ""
    return (
        f"Training data too small: {pairs} question-answer pair{'s' * (pairs != 1)}, and {least}+ are recommended (training.min_pairs). "
        "Chat more, learn from few with --few-shot (5 to 50 pairs), or go on with --force"
    )


def _learned_as(resolved: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what changes nothing of what is learned: how much memory is free may differ when a run goes on."""
    training = {key: value for key, value in resolved["training"].items() if key != "batch_tokens"}
    return {**resolved, "training": training}


def base_of(config: FineTuningConfig, engine: Engine) -> ModelDetails:
    """The served model that the training starts from, fetched or imported when the engine does not have it yet."""
    wanted = config.training.base_model
    try:
        return engine.show(wanted)
    except ModelNotFound:
        if wanted == DEFAULT_TAG:
            return engine.show(ensure_default_base(engine))
        if os.path.isdir(wanted) or "/" in wanted:  # noqa: PTH112 (Path.is_dir fails for a name that is too long)
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

    def __init__(self, config: FineTuningConfig, engine: Engine, reporter: Reporter, request: Request, *, only_plans: bool = False) -> None:
        self.config, self.engine, self.reporter, self.request, self.only_plans = config, engine, reporter, request, only_plans
        self.registry, self.name = Registry(), config.tuned_name()
        self.seconds: dict[str, float] = {}
        self.mark: Mark | None = None  # of the log that was read

    def run(self) -> Outcome:
        self.reporter.note(f"engine: {self.engine.name} {self.engine.version()} at {self.engine.where}")
        self.check_folders()
        for finding in reconcile(self.engine, self.registry, self.name):
            self.reporter.note(finding.text)
        if (least := self.request.if_new) is not None and (new := self.new()) < least:
            return Outcome(reason=f"{new} new turn(s) since the last version, fewer than {least}: nothing to do")
        log = self.collect()
        plan = self.plan(log)
        self.check(plan)
        needs, about = plan.estimate, "up to" if self.config.training.early_stop else "about"
        self.reporter.note(f"about {needs.memory / 1e9:.1f} GB of memory, {about} {needs.seconds / 60:.1f} minutes of training")
        if plan.estimate.base_weights == "quantised" and self.config.training.base_weights == "auto":
            self.reporter.note("the base stays quantised: dequantised it would not fit, and only then be faster")
        run, plan = self.open_run(plan)
        replay = self.replay(plan)
        with self.memory_for(plan):
            training = self.train(plan, run, replay)
            if self.mode is None:
                return self.end_without_version(plan, run, training)
            artifact = self.export(plan, run, training)
            comparison, verdict = self.evaluate(plan, run, artifact, log)
        number = self.register(plan, run, artifact, comparison, verdict)
        live = self.promote(run, number, verdict)
        paths.write_json(run / MANIFEST, {"version": number, "tag": version_tag(self.name, number), "seconds": self.seconds})
        return Outcome(plan, run, number, version_tag(self.name, number), live, training, comparison, verdict=verdict, seconds=self.seconds)

    # What to learn

    def new(self) -> int:
        """Return how many turns no version has seen as they are now."""
        if not self.request.sample:
            return len(new_turns(self.config, ConversationLogger(self.config.log_path), self.registry))
        seen, _ = _seen(self.config, self.registry)
        return len(_unseen(((turn.id, turn.state_hash) for turn in self.collect()), seen))

    def collect(self) -> list[Turn]:
        """The log's turns (or the sample's), without what its owner excluded."""
        if self.request.sample:
            return [Turn.model_validate_json(line) for line in SAMPLE_LOG.read_text(encoding="utf-8").splitlines()]
        logger = ConversationLogger(self.config.log_path)
        if not (health := logger.health()).ok:
            self.reporter.note(f"the log: {health}")
        self.mark = logger.index.mark()  # before reading: what comes meanwhile is new the next time
        return logger.turns()

    def plan(self, log: list[Turn] | None = None) -> Plan:
        """Clean, split and tokenise; nothing is loaded or trained. With `--auto`, for settings that fit into the memory."""
        with self.stage("Reading what was said"):
            log = self.collect() if log is None else log
            if not log:
                raise NoConversations(
                    f"No conversations to train on: {self.config.log_path} holds none. Chat first (./scripts/start.sh), with recording on; "
                    "or try it on the shipped sample: ./scripts/retrain.sh --sample"
                )
            cleaned = self.clean(log)
        plan = self._plan(log, cleaned)
        if not (self.request.auto and plan.fitting):
            return plan
        lowered = " ".join(f"{key}={value}" for key, value in plan.fitting.items())
        needed, free = plan.estimate.memory / 1e9, plan.estimate.available / 1e9
        self.reporter.note(f"this would need about {needed:.1f} GB of memory, and {free:.1f} GB are free: --auto takes {lowered}")
        self.config = self.config.changed(plan.fitting)
        return self._plan(log, cleaned)

    def _plan(self, log: Sequence[Turn], cleaned: Cleaned) -> Plan:
        with self.stage("Preparing the dataset"):
            base = self.base
            dataset = build_dataset(cleaned.conversations, self.config.data_preparation, cleaned.dropped)
            max_length = self.config.data_preparation.max_length
            key = f"{self.engine.name} {base.digest}"
            rows = tokenize_dataset(dataset.path, self.render, self.vocabulary, max_length, key)
            preferences = self.preferences(log, cleaned, key)
            counts = paths.read_json(rows / MANIFEST)["splits"]
        replay_prompts = self.replay_prompts(counts)
        estimate, fitting = self.estimate(base, rows, replay_prompts)
        kept_turns = sum(len(conversation.turns) for conversation in cleaned.conversations)
        doubts = [too_little(kept_turns, self.config), *doubts_of(cleaned.conversations, dataset, rows)]
        return Plan(
            name=self.name,
            base=base,
            turns=len(log),
            new_turns=self.new(),
            kept_turns=kept_turns,
            dropped=cleaned.dropped,
            scrubbed=cleaned.scrubbed,
            dataset=dataset,
            rows=rows,
            preferences=preferences,
            preference_method=self.preference_method(preferences),
            counts=counts,
            replay_prompts=replay_prompts,
            estimate=estimate,
            fitting=fitting,
            seen={turn.id: turn.state_hash for turn in log},
            mark=self.mark,
            warnings=tuple(filter(None, doubts)),
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

    def preferences(self, log: Sequence[Turn], cleaned: Cleaned, template_key: str) -> PreferenceData:
        """Return what people preferred among answers."""
        tokenizer = ConversationTokenizer(self.render, self.vocabulary, self.config.data_preparation.max_length)
        return build_preferences(preferences_of(log, cleaned.fit), tokenizer, template_key)

    def preference_method(self, found: PreferenceData) -> str | None:
        from fine_tuning.training.preferences import choose

        return choose(found.pairs, found.ratings, self.config.training.preferences)

    def clean(self, log: Sequence[Turn]) -> Cleaned:
        """Return all that may be learned of the log, each turn cleaned once. NoConversations if that is nothing."""
        limits = self.config.data_collection
        cleaner = DataCleaner(
            limits.min_conversation_length,
            limits.max_conversation_length,
            scrub_pii=self.config.data_preparation.scrub_pii,
            own_prefix="" if limits.learn_own_answers else self.config.deployment.model_name_prefix,
        )
        cleaned = cleaner.filter_conversations(conversations_of(log))
        if not cleaned.conversations:
            reasons = ", ".join(f"{count} {reason}" for reason, count in cleaned.dropped.items())
            raise NoConversations(
                f"No conversations to train on: cleaning dropped every turn ({reasons}). See data_collection in the config"
            )
        return cleaned

    def check(self, plan: Plan) -> None:
        """Refuse, before anything is loaded, what would waste the person's time."""
        from fine_tuning.training import memory

        if (fault := too_little(plan.kept_turns, self.config)) and not self.request.force:
            raise TooLittleData(fault)
        for warning in plan.warnings:
            self.reporter.note(warning)
        memory.require(plan.estimate, self.config.training, plan.base.tag, plan.fitting)

    # What all will be needed, looked at before anything is computed

    def check_folders(self) -> None:
        """ByoaiError if what is made could not be kept."""
        for folder in (paths.home(), paths.datasets_dir(), self.config.runs_dir):
            paths.check_writable(folder)
        self.registry.check_writable()

    def check_deployment(self, base: ModelDetails) -> None:
        """Say if the result will not be deployed as configured; an error if it could not be exported, described, or named."""
        from fine_tuning.model_management.gguf_export import SAME, check_exportable

        wanted, settings = self.config.deployment, self.config.training
        method = f"{settings.method}{' with DoRA' if settings.use_dora else ''}"
        if self.mode is None:
            self.reporter.note(f"no GGUF can carry {method}: what it learns answers through Transformers only, not in the engine")
            return
        if self.mode != wanted.mode:
            self.reporter.note(f"{method} cannot be an adapter beside the base: it will be deployed merged ({wanted.quantization})")
        check_exportable(base.gguf, wanted.quantization if self.mode == "merged" else SAME)
        check_name(self.engine, self.registry, self.name, base.tag)
        modelfile_text(self.spec(base, self.config.runs_dir / "artifact.gguf"))

    def check_engine(self, base: ModelDetails) -> None:
        """Raise what the engine raises if it cannot make a model of the version's name from the base."""
        trial = version_tag(self.name, self.registry.likely_number(self.name)) + TRIAL
        # Other than the base in a parameter: else the engine would put the base away, which somebody may be talking to, with the trial.
        self.engine.create(trial, ModelSpec(from_=base.tag, parameters={"seed": 0, "temperature": 0.0}))
        self.engine.delete(trial)

    def spec(self, base: ModelDetails, artifact: Path) -> ModelSpec:
        """Return what the version is made of."""
        version = self.engine.version() if self.engine.name == "ollama" else None
        return spec_for(base, base.tag, artifact, "adapter" if self.mode == "adapter" else "merged", version)

    @property
    def mode(self) -> Carrier | None:
        """What the engine will get: an adapter beside the base, a merged model, or nothing."""
        return carrier(self.config.training, self.config.deployment.mode)

    # The base

    @cached_property
    def base(self) -> ModelDetails:
        """Return the base; the first time, before anything is computed, check that a version can be made from it."""
        found = base_of(self.config, self.engine)
        self.check_deployment(found)
        if self.mode is not None and not self.only_plans:
            self.check_engine(found)
        return found

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
            "mark": plan.mark and asdict(plan.mark),
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
            "mark": Mark(**before["mark"]) if before.get("mark") else None,
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
                self.count(done, len(prompts))
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
                plan.estimate.base_weights,
                plan.preferences.path if plan.preference_method else None,
                self.served_base(plan),
            )
            for damage in training.passed_over:
                self.reporter.note(f"passed over: {damage}")
            gc.collect()  # the model's memory, before the next one is loaded
        return training

    def served_base(self, plan: Plan) -> "Reference | None":
        """Return what llama.cpp computes with the base, on some of what will be learned: training must begin with the same. None if nothing
        will be learned, or if no GGUF can carry it, so that it is not served."""
        from fine_tuning.evaluation.served_model import read_logits

        rows = [json.loads(line)["input_ids"] for line in (plan.rows / "train.jsonl").read_text(encoding="utf-8").splitlines()]
        if not rows or self.mode is None:
            return None
        return read_logits(plan.base.gguf, make_probes(rows, read_gguf(plan.base.gguf)))

    def export(self, plan: Plan, run: Path, training: "TrainingResult") -> Path:
        """Return the adapter's GGUF, or the whole model's. ExportError unless llama.cpp computes with it what was trained."""
        from fine_tuning.evaluation.served_model import read_logits
        from fine_tuning.model_management.gguf_export import convert_adapter, export_full, merge_adapter

        base, beside = plan.base.gguf, self.mode == "adapter"
        with self.stage("Exporting to GGUF"):
            if beside:
                artifact = convert_adapter(base, training.adapter, run / "adapter.gguf").path
            else:
                export = export_full if self.config.training.method == FineTuningMethod.FULL else merge_adapter
                artifact = export(base, training.adapter, run / "model.gguf", self.config.deployment.quantization).path
        if trained := training.network:
            with self.stage("Checking that what was exported is what was trained"):
                probes = trained.base.probes
                served = read_logits(base, probes, artifact) if beside else read_logits(artifact, probes, requantised=True)
                check_export(trained, served)
        return artifact

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
            comparison = compare(models, exam, suspects, self.reader, settings, max(512, longest), self.count)
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

        return Reader(self.render, lambda text: prompt_ids(text, self.vocabulary), rows, self.neutral)

    @cached_property
    def neutral(self) -> Neutraliser:
        return neutraliser_for(self.vocabulary.structural_tokens(), self.render)

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
        settings = CleanSettings(scrub_pii=self.config.data_preparation.scrub_pii)
        clean = cache(lambda text: clean_text(text, settings).text)  # what stands before one detail stands before the next, too
        said = conversations_of(turn for turn in log if turn.id in learned)
        canaries, max_length = self.config.evaluation.canaries, self.config.data_preparation.max_length
        return secrets(said, canaries, clean, self.reader, max_length)

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
            spec = self.spec(plan.base, artifact)
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
                    run=str(run.relative_to(paths.home()) if run.is_relative_to(paths.home()) else run.absolute()),
                    dataset=plan.dataset.path.name,
                    method=self.config.training.method,
                    mode=self.mode or "merged",
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

    def count(self, done: int, total: int) -> None:
        """Tell how far a stage is, which may end here: what it was doing is begun anew by the next retrain."""
        self.stop_if_cancelled()
        self.reporter.count(done, total)

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
    lock = filelock.FileLock(paths.home() / "retrain.lock")
    try:
        paths.home().mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise Busy(f"another retrain is running (it holds {lock.lock_file}): wait for it, or end it; it can be resumed") from None
    except OSError as error:
        raise ByoaiError(
            f"cannot write to {paths.home()}: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error
    try:
        yield
    finally:
        lock.release()
