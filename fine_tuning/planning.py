"""Plan a retrain: its training data, base, and estimated cost. Nothing is trained here.

`make_plan` reads, cleans and splits the log, writes the dataset and its token rows, and estimates
memory and time.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.config import DatasetFormat, FineTuningConfig
from fine_tuning.conversation import Turn, conversations_of, only_context
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned, DataCleaner
from fine_tuning.data_collection.log.index import Mark
from fine_tuning.data_collection.log.turn_list import Learned
from fine_tuning.data_collection.preferences import preferences_of
from fine_tuning.data_collection.private_details.names import recogniser
from fine_tuning.data_collection.without_collections import without_collections
from fine_tuning.data_preparation.dataset_builder import MANIFEST, build_dataset, doubts_of, tokenize_dataset
from fine_tuning.data_preparation.mixing import largest_import
from fine_tuning.data_preparation.preference_builder import PreferenceData, build_preferences
from fine_tuning.data_preparation.raw_data import read_turns
from fine_tuning.data_preparation.replay import build_replay, exchanges_beside, read_exchanges
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.durations import Around, paces
from fine_tuning.engines.base import ModelSpec
from fine_tuning.errors import NoConversations, TooLittleData
from fine_tuning.events import Planned
from fine_tuning.model_management.model_deployer import TRIAL, check_name
from fine_tuning.model_management.model_registry import Registry, version_tag
from fine_tuning.model_management.modelfile import modelfile_text
from fine_tuning.plan import Plan
from fine_tuning.rewording import rewording
from fine_tuning.runs import Run
from fine_tuning.training.methods import choose_preference_method
from fine_tuning.units import gigabytes
from fine_tuning.workshop import Workshop

if TYPE_CHECKING:
    from fine_tuning.training.estimate import Basis

SAMPLE_LOG = paths.SAMPLES / "conversations.jsonl"


# Training data


@without_collections()
def make_plan(shop: Workshop, said: "Said | None" = None, *, to_train: bool = False) -> Plan:
    """Clean, split and tokenize the log, estimate the training, and return the plan.

    No model is loaded or trained. With `--auto`, settings that do not fit into memory are lowered.
    `said`: the result of `collect`, if it was called already. `to_train`: also test the engine, by
    creating and deleting a model, and record in the plan what the version will have seen. Raises
    NoConversations if there is nothing to train on.
    """
    with shop.watch.stage("Reading what was said"):
        said = said or collect(shop)
        if not said.turns:
            raise NoConversations(
                f"No conversations to train on: {shop.config.log_path} holds none. Chat first (./scripts/start.sh), "
                "with recording on; "
                "or try it on the shipped sample: ./scripts/retrain.sh --sample"
            )
        log = ConversationLogger(shop.config.log_path).path if said.mark else None
        cleaned = clean(shop.config, said.turns, log)
    with shop.watch.stage("Preparing the dataset"):
        check_deployment(shop)
        if to_train and shop.mode is not None:
            check_engine(shop)
        plan = _plan(shop, said, cleaned, to_train)
    if shop.request.auto and plan.fitting:
        lowered = " ".join(f"{key}={value}" for key, value in plan.fitting.items())
        needed, free = gigabytes(plan.estimate.memory), gigabytes(plan.estimate.available)
        shop.watch.note(
            f"the training would need about {needed} of memory, and {free} are free: --auto changes the settings to "
            f"{lowered}"
        )
        plan = _plan(shop.with_config(shop.config.changed(plan.fitting)), said, cleaned, to_train)
    shop.watch.tell(Planned(plan.facts(), dict(plan.times.parts)))
    return plan


@dataclass(frozen=True)
class Said:
    """The turns to train on, as read from the log or another source, without those that the user excluded."""

    turns: list[Turn]
    mark: Mark | None = None  # state of the log's index before reading; later turns count as new. None: another source
    damage: str = ""  # a description of damage to the log; "" if there is none
    beside: int = 0  # how many turns at the end of `turns` are from the sources in mix.also


def collect(shop: Workshop) -> Said:
    """Return the turns of the log, or of the sample or dataset to use instead.

    Tell the user if the log is damaged.
    """
    said = read_said(shop.config, sample=shop.request.sample)
    if said.damage:
        shop.watch.note(said.damage)
    return said


def read_said(config: FineTuningConfig, *, sample: bool = False) -> Said:
    """Return the turns of the sample if `sample`, else of the configured dataset, else of the log."""
    if sample:
        return Said([Turn.model_validate_json(line) for line in SAMPLE_LOG.read_text(encoding="utf-8").splitlines()])
    if config.dataset.path is not None:
        return Said(read_turns(config.dataset.path, config.dataset.format))
    logger = ConversationLogger(config.log_path)
    mark = logger.index.mark()
    turns, health = logger.turns_and_health()
    beside = [turn for name in config.mix.also for turn in read_beside(name)]
    return Said([*turns, *beside], mark, "" if health.ok else f"the log: {health}", len(beside))


def read_beside(name: str) -> list[Turn]:
    """Return the turns of a source in `mix.also`: the shipped sample (`name` is "sample"), or the file `name`.

    The source is recorded in the turns' metadata.
    """
    if name == "sample":
        turns = [Turn.model_validate_json(line) for line in SAMPLE_LOG.read_text(encoding="utf-8").splitlines()]
    else:
        formats = {".csv": DatasetFormat.CSV, ".txt": DatasetFormat.TEXT}
        turns = read_turns(file := Path(name).expanduser(), formats.get(file.suffix.lower(), DatasetFormat.JSONL))
    source = {"name": Path(name).name}
    return [turn.model_copy(update={"metadata": {**turn.metadata, "source": source}}) for turn in turns]


def clean(config: FineTuningConfig, turns: Sequence[Turn], log: Path | None = None) -> Cleaned:
    """Return the result of `sift`. Raises NoConversations if no turn may be trained on."""
    cleaned = sift(config, turns, log)
    if not cleaned.conversations:
        reasons = ", ".join(f"{count} {reason}" for reason, count in cleaned.dropped.items())
        raise NoConversations(
            f"No conversations to train on: cleaning left out every turn ({reasons}). Chat more, or change "
            "data_collection in the configuration"
        )
    return cleaned


def sift(config: FineTuningConfig, turns: Sequence[Turn], log: Path | None = None) -> Cleaned:
    """Return the cleaned turns that may be trained on, and the reasons why others are dropped.

    `log`: the file of the log from which the turns were read, so that earlier decisions about them
    are reused; None if they are from elsewhere.
    """
    limits = config.data_collection
    cleaner = DataCleaner(
        clean_settings(config),
        own_prefix="" if limits.learn_own_answers else config.deployment.model_name_prefix,
        kept=KeptDecisions(log) if log else None,
        # the author of a dataset chose its content
        newest_wins=limits.conflicts == "newest" and config.dataset.path is None,
    )
    return cleaner.filter_conversations(conversations_of(turns))


def clean_settings(config: FineTuningConfig) -> CleanSettings:
    """Return the cleaning rules of a configuration.

    Raises ConfigError if names are to be scrubbed and no recogniser of names is installed.
    """
    limits, preparation = config.data_collection, config.data_preparation
    return CleanSettings(
        limits.min_conversation_length,
        limits.max_conversation_length,
        preparation.scrub_pii,
        preparation.own_words,
        recogniser() if limits.scrub_names and preparation.scrub_pii else "",
        drop_refusals=limits.drop_refusals,
        drop_polite_only=limits.drop_polite_only,
        drop_gibberish=limits.drop_gibberish,
        languages=limits.languages,
    )


def _plan(shop: Workshop, said: Said, cleaned: Cleaned, to_train: bool) -> Plan:
    from fine_tuning.training.estimate import estimate_training

    config = shop.config
    with rewording(shop) as reword:
        dataset = build_dataset(
            cleaned.conversations, config.data_preparation, cleaned.dropped, config.mix, config.augmentation, reword
        )
    if reword and (thrown := ", ".join(f"{count} {reason}" for reason, count in reword.rejected.most_common())):
        shop.watch.note(f"paraphrased questions that were left out, by reason: {thrown}")
    max_length = config.data_preparation.max_length
    key = rows_key(shop)
    rows = tokenize_dataset(dataset.path, shop.render, shop.vocabulary, max_length, key)
    tokenizer = ConversationTokenizer(shop.render, shop.vocabulary, max_length)
    preferences = build_preferences(preferences_of(said.turns, cleaned.fit), tokenizer, key)
    counts = paths.read_json(rows / MANIFEST)["splits"]
    replayed = replay_prompts(config, counts)
    forecast = estimate_training(config.training, shop.base.gguf, rows, replay_file(shop, replayed))
    kept_turns = sum(len(conversation.learned) for conversation in cleaned.conversations)
    doubts = [
        too_little(kept_turns, config),
        largest_import(dataset.manifest.get("sources", {}), config.mix),
        *doubts_of(cleaned.conversations, dataset, rows),
    ]
    return Plan(
        config=config,
        name=shop.name,
        base=shop.base,
        turns=len(said.turns) - said.beside,
        new_turns=count_unlearned(shop, said),
        kept_turns=kept_turns,
        dropped=cleaned.dropped,
        scrubbed=cleaned.scrubbed,
        dataset=dataset,
        rows=rows,
        preferences=preferences,
        preference_method=preference_method(config, preferences),
        counts=counts,
        replay_prompts=replayed,
        estimate=forecast.estimate,
        fitting=forecast.fitting,
        basis=forecast.basis,
        around=_around(shop, said, forecast.basis, counts),
        seen={turn.id: turn.state_hash for turn in said.turns} if to_train else {},
        context=[turn.id for turn in said.turns if only_context(turn)],
        mark=said.mark,
        warnings=tuple(filter(None, doubts)),
    )


def _around(shop: Workshop, said: Said, basis: "Basis", counts: Mapping[str, Mapping[str, int]]) -> Around:
    """Return the inputs of the forecast of all parts of a retrain except the training.

    `counts`: the numbers of conversations and tokens in each split, from the token rows' manifest.
    """
    from fine_tuning.evaluation.speed import decoding_speed

    live, test = shop.registry.live(shop.name), counts["test"]
    base = shop.base
    compared = 3 if live and live.base_digest == base.gguf_digest else 2
    documents = (turn.metadata for turn in said.turns)
    return Around(
        parameters=basis.shape.parameters,
        speed=decoding_speed(base.gguf, base.gguf_digest, basis.shape.parameters),
        held_out=test["conversations"],
        tokens=test["tokens"] / max(test["conversations"], 1),
        facts=sum(each.get("split") == "test" and bool(each.get("key")) for each in documents),
        models=compared if shop.mode else 0,
        pace=paces(shop.config.runs_dir, base.gguf_digest),
    )


def replay_prompts(config: FineTuningConfig, counts: Mapping[str, Mapping[str, int]]) -> int:
    """Return the number of general questions in the replay. `counts`: numbers of conversations in each split."""
    settings = config.training
    wanted = exchanges_beside(counts["train"]["conversations"], settings.replay.share)
    return len(read_exchanges(wanted, settings.seed))


def replay_file(shop: Workshop, prompts: int) -> Path | None:
    """Return the file of replay rows (training/teacher.py) for this number of prompts; None for no prompts."""
    if not prompts:
        return None
    exchanges, config = read_exchanges(prompts, shop.config.training.seed), shop.config
    return build_replay(exchanges, shop.render, shop.vocabulary, config.data_preparation.max_length, rows_key(shop))


def rows_key(shop: Workshop) -> str:
    """Return the key of cached token rows: engine and base, on which rendering and tokenization depend."""
    return f"{shop.engine.name} {shop.base.digest}"


def preference_method(config: FineTuningConfig, found: PreferenceData) -> str | None:
    """Return the method for training on preferences: dpo or kto; None if they are too few, or it is switched off."""
    return choose_preference_method(found.pairs, found.ratings, config.training.preferences)


# New turns


def new_turns(config: FineTuningConfig, log: ConversationLogger, registry: Registry) -> list[str]:
    """Return the ids of the turns that no version of the configured model has seen in their current state.

    These turns were recorded, rated or edited after the model's newest version was planned. An answer
    that was stopped or cut counts once it is rated up or edited. Only the changes since then are read,
    so the time hardly depends on the size of the log.
    """
    seen, mark = _seen(config, registry)
    return _unseen(log.index.changed_since(mark), seen)


def count_new(config: FineTuningConfig, log: ConversationLogger, registry: Registry) -> int:
    """Return the number of `new_turns`. Before the first version all turns are new, and only counted, not read."""
    seen, _ = _seen(config, registry)
    return len(new_turns(config, log, registry)) if seen else log.index.count_whole()


def learned(config: FineTuningConfig, log: ConversationLogger, registry: Registry) -> Learned:
    """Return the rule that tells which turns of the log are new to the versions of the configured model."""
    seen, mark = _seen(config, registry)
    since = mark.changes if mark and mark.epoch == log.index.mark().epoch else -1
    return Learned(
        config.tuned_name(), since, (lambda id, state_hash: bool(_unseen([(id, state_hash)], seen))) if seen else None
    )


def count_unlearned(shop: Workshop, said: Said | None = None) -> int:
    """Return how many turns of the log (or of the data used instead) no version has seen in their current state."""
    if not shop.request.sample and shop.config.dataset.path is None:
        return count_new(shop.config, ConversationLogger(shop.config.log_path), shop.registry)
    return count_new_of((said or collect(shop)).turns, shop.config, shop.registry)


def count_new_of(turns: Iterable[Turn], config: FineTuningConfig, registry: Registry) -> int:
    """Return how many of these turns no version has seen in their current state."""
    seen, _ = _seen(config, registry)
    return len(_unseen(((turn.id, turn.state_hash) for turn in turns), seen))


def _unseen(turns: Iterable[tuple[str, str]], seen: Mapping[str, str]) -> list[str]:
    """Return the ids of the turns that no version has seen in their current state.

    `turns` are pairs of an id and the current state hash. `seen` maps ids to the state hash that a
    version has seen; there "" matches every state hash, since none was recorded.
    """
    return [id for id, state_hash in turns if seen.get(id, "new") not in ("", state_hash)]


def _seen(config: FineTuningConfig, registry: Registry) -> tuple[Mapping[str, str], Mark | None]:
    """Return which turns the model's versions have seen, and how far the log's index had got by then.

    The first result maps the id of each seen turn to the state hash (`Turn.state_hash`) that the
    turn had; "" if no hash was recorded. The second is the mark of the index from before the newest
    version was planned, for `LogIndex.changed_since`; None if no mark was recorded.
    """
    seen: ChainMap[str, str] = ChainMap()
    mark = None
    for version in registry.list(config.tuned_name()):
        inputs = Run(paths.home() / version.run).inputs
        if version.run and inputs.exists():
            known, mark = _read_seen(inputs, inputs.stat().st_mtime_ns)
        else:
            known = dict.fromkeys(registry.turns_of(version.name, version.number), "")
        seen = seen.new_child(known)
    return seen, mark


@lru_cache(maxsize=64)
def _read_seen(inputs: Path, changed: int) -> tuple[dict[str, str], Mark | None]:
    """Return what the file `inputs` of a run recorded: the seen turns, and the mark of the log's index.

    The results are as in `_seen`, for one version. `changed`: the file's time of change; the result
    is cached until it changes.
    """
    record = paths.read_json(inputs)
    known, mark = record["seen"], record.get("mark")
    # older runs recorded less
    return known if isinstance(known, dict) else dict.fromkeys(known, ""), Mark(**mark) if mark else None


# Checks before anything is computed


def check_folders(shop: Workshop) -> None:
    """Raise ByoaiError if a folder or the registry is not writable."""
    for folder in (paths.home(), paths.datasets_dir(), shop.config.runs_dir):
        paths.check_writable(folder)
    shop.registry.check_writable()


def check_deployment(shop: Workshop) -> None:
    """Check before the training that its result can be deployed.

    If the configured way (deployment.mode) is not possible with the training method, tell the user
    how it will be deployed instead. Raises ByoaiError if the result cannot be exported, described
    in a Modelfile, or named.
    """
    from fine_tuning.model_management.gguf_export import SAME, check_exportable

    wanted, settings = shop.config.deployment, shop.config.training
    method = f"{settings.method}{' with DoRA' if settings.use_dora else ''}"
    if shop.mode is None:
        shop.watch.note(
            f"a GGUF cannot store what {method} changes: the new version will answer through Transformers only, not in "
            "Ollama"
        )
        return
    if shop.mode != wanted.mode:
        shop.watch.note(
            f"{method} cannot be stored as an adapter beside the base: the version will be a whole model "
            f"({wanted.quantization})"
        )
    check_exportable(shop.base.gguf, wanted.quantization if shop.mode == "merged" else SAME)
    check_name(shop.engine, shop.registry, shop.name, shop.base.tag)
    modelfile_text(shop.spec(shop.config.runs_dir / "artifact.gguf"))


def check_engine(shop: Workshop) -> None:
    """Create and delete a test model in the engine. Raises the engine's error if that fails."""
    trial = version_tag(shop.name, shop.registry.likely_number(shop.name)) + TRIAL
    # One parameter differs from the base. Otherwise the engine would unload the base, which may be in
    # use, when the test model is deleted.
    shop.engine.create(trial, ModelSpec(from_=shop.base.tag, parameters={"seed": 0, "temperature": 0.0}))
    shop.engine.delete(trial)


def check_plan(shop: Workshop, plan: Plan) -> None:
    """Raise an error if the plan cannot succeed; tell the user its warnings, and the memory and time that it needs.

    Raises TooLittleData if there are too few pairs, unless `--force` is given, and NotEnoughMemory
    if the training does not fit.
    """
    from fine_tuning.training.estimate import require

    if (fault := too_little(plan.kept_turns, plan.config)) and not shop.request.force:
        raise TooLittleData(
            f"{fault}. Chat more, learn from few with --few-shot (5 to 50 pairs), or go on with --force"
        )
    for warning in plan.warnings:
        shop.watch.note(warning)
    require(plan.estimate, plan.config.training, plan.base.tag, plan.fitting)
    needs = plan.estimate
    shop.watch.note(f"the training needs about {gigabytes(needs.memory)} of memory; the retrain takes {plan.times}")
    if needs.base_weights == "quantised" and plan.config.training.base_weights == "auto":
        shop.watch.note(
            "the base stays quantised during the training, because it would not fit into memory otherwise; this is "
            "slower"
        )


def too_little(pairs: int, config: FineTuningConfig) -> str:
    """Return a warning if there are fewer question-answer pairs than training.min_pairs, else ""."""
    least = config.training.min_pairs
    if pairs >= least:
        return ""
    return f"Training data too small: {pairs} question-answer pair{'s' * (pairs != 1)}, and {least}+ are recommended"
