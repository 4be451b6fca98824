"""The configuration: config/fine_tuning_config.yaml, typed. Unknown keys and contradictions are errors, all reported at once.

A *profile* (config/<name>.yaml) holds only what differs from the main file.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from fine_tuning import config_file, config_flat, config_overlay, paths
from fine_tuning.config_notify import Notify, Tracking
from fine_tuning.config_types import BaseName, Count, Name, OwnName, OwnPrefix, Positive, Rate, Seed, Share, Text, lies_in_home, one_of
from fine_tuning.config_types import Section as _Section
from fine_tuning.errors import ByoaiError, ConfigError

_NAME_LIMIT = 80  # characters of a model's name without its version, in Ollama (types/model/name.go)
_NULLS = ("null", "Null", "NULL", "~")


class FineTuningMethod(StrEnum):
    """How the weights are adapted. LoRA: arXiv 2106.09685; QLoRA: 2305.14314; prefix tuning: 2101.00190; prompt tuning: 2104.08691."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"
    PREFIX_TUNING = "prefix_tuning"
    PROMPT_TUNING = "prompt_tuning"


class DatasetFormat(StrEnum):
    """How examples are written: the first three as text for other trainers (`format_type`), the others as files of one's own."""

    CHATML = "chatml"
    ALPACA = "alpaca"
    INSTRUCTION = "instruction"
    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"
    HUGGINGFACE = "huggingface"  # a dataset of the hub, or a folder of one
    CUSTOM = "custom"  # "module:function", which yields the records


TextFormat = Annotated[DatasetFormat, one_of("chatml", "alpaca", "instruction")]

BaseWeights = Literal["dequantised", "quantised", "nf4"]
"""How a training holds the base's matrices: as floats, as the blocks of the served GGUF, or quantised (again) to NF4 by bitsandbytes."""


def _log_path(name: str) -> Path:
    return paths.within_home(paths.conversations_dir() / name)


def _runs_dir(name: str) -> Path:
    folder = paths.within_home(paths.home() / name)
    if paths.is_taken(folder):  # pruning and forgetting remove folders in it
        raise ConfigError(f"{folder} holds other things than runs: name a folder of their own")
    return folder


class DataCollection(_Section):
    log_file: Annotated[Name, lies_in_home(_log_path)] = "conversations.jsonl"  # in data/conversations/; elsewhere only in data/
    min_conversation_length: Positive = 10  # characters of a turn's shorter side below which it is dropped
    max_conversation_length: Positive = 1000  # characters of a turn's longer side above which it is dropped
    auto_export: bool = False
    export_interval: Positive = 100  # turns
    record: bool = True  # whether a new chat is recorded before its owner says otherwise
    learn_own_answers: bool = False  # learn what a fine-tuned model answered also where nobody approved it

    @property
    def export_every(self) -> int | None:
        """Return after how many turns the log is exported; None: never by itself."""
        return self.export_interval if self.auto_export else None

    @model_validator(mode="after")
    def _ordered(self) -> "DataCollection":
        if self.min_conversation_length > self.max_conversation_length:
            raise ValueError("min_conversation_length is larger than max_conversation_length")
        return self


class DataPreparation(_Section):
    format_type: TextFormat = DatasetFormat.CHATML
    max_length: Annotated[int, Field(ge=16, le=2**31 - 1)] = 2048  # tokens of one training row
    train_ratio: Share = 0.8
    validation_ratio: Share = 0.1
    test_ratio: Share = 0.1
    seed: int = 0
    scrub_pii: bool = True
    teach_thoughts: bool = False  # of answers that were thought about first (<think>...</think>), the thoughts too

    @model_validator(mode="after")
    def _whole(self) -> "DataPreparation":
        total = self.train_ratio + self.validation_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + validation_ratio + test_ratio is {total:g}, and must be 1")
        if self.train_ratio == 0:
            raise ValueError("train_ratio is 0: nothing would be learned")
        return self


class Replay(_Section):
    """Self-replay: general prompts, answered by the base itself, mixed in so that the model keeps what it knew.

    `kl_weight` weighs the divergence from the base on those answers (Learning without Forgetting, arXiv 1606.09282).
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.3  # of an epoch's conversations; as far as the project's prompts go
    max_new_tokens: Positive = 64
    kl_weight: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _prompts_were_a_number(cls, values: Any) -> Any:
        if isinstance(values, dict) and "prompts" in values:
            raise ValueError("prompts is now share: of an epoch's conversations, how many are general prompts (64 beside 150 chats: 0.3)")
        return values


class Preferences(_Section):
    """What people preferred (edits, thumbs) is learned after the chats: DPO (arXiv 2305.18290) from pairs, or KTO (2402.01306)."""

    method: Literal["auto", "dpo", "kto", "off"] = "auto"  # auto: dpo with enough pairs, else kto from pairs and ratings
    least: Annotated[int, Field(ge=2, le=2**31 - 1)] = 8  # pairs, or ratings, below which it is left for later
    beta: Annotated[float, Field(gt=0)] = 0.1  # how strongly it is held to what it was
    learning_rate: Rate = 5e-5
    num_epochs: Positive = 2


class Training(_Section):
    method: FineTuningMethod = FineTuningMethod.QLORA
    base_model: BaseName = "smollm2:135m"  # an Ollama tag, a folder in Hugging Face format, or a Hugging Face id
    output_dir: Annotated[Name, lies_in_home(_runs_dir)] = "runs"  # in data/
    lora_r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_dora: bool = False  # magnitude and direction apart (arXiv 2402.09353)
    use_rslora: bool = False  # scaled by alpha / sqrt(r) (arXiv 2312.03732)
    virtual_tokens: Positive = 20  # of prefix_tuning and prompt_tuning
    batch_size: Positive = 4  # conversations a step
    batch_tokens: Positive = 4096  # computed at once, at most; a step of more takes several passes, to the same result
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    num_epochs: Positive = 3
    warmup_ratio: Share = 0.05
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Seed = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count = 0  # of the training on a CPU; 0: what a probe finds faster
    products: Literal["auto", "blas", "onednn"] = "auto"  # library of a CPU's float32 products; auto: what a probe finds faster
    base_weights: Literal["auto"] | BaseWeights = "auto"  # of qlora's base: dequantised is as fast as lora; auto: if it fits
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"  # the last two are bitsandbytes' (arXiv 2110.02861)
    backend: Literal["packed", "trl"] = "packed"  # trl: TRL's own trainer, slower, as a reference
    fused: bool = True  # same loss and gradients, faster (training/fast); false: the libraries' own modules
    save_steps: Positive = 25
    keep_checkpoints: Positive = 2
    early_stop: Count = 0  # epochs without a lower validation loss after which to end; 0: never
    folds: Count = 0  # parts of the training chats, each held out once to find the number of epochs; 0: none
    min_pairs: Positive = 100  # fewer is "too small" without --force
    replay: Replay = Replay()
    preferences: Preferences = Preferences()

    @model_validator(mode="before")
    @classmethod
    def _layers_could_be_frozen(cls, values: Any) -> Any:
        """Accept what an older run's config.yaml says if it froze no layer."""
        if isinstance(values, dict) and "frozen_layers" in values:
            if values["frozen_layers"] not in (0, "0", None):
                raise ValueError("frozen_layers is gone: all layers are trained now, which learns more. Leave it out")
            values = {key: value for key, value in values.items() if key != "frozen_layers"}
        return values

    @model_validator(mode="after")
    def _options_belong_to_the_method(self) -> "Training":
        flags = [name for name in ("use_dora", "use_rslora") if getattr(self, name)]
        if flags and self.method not in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
            raise ValueError(f"{' and '.join(flags)} belong to method lora or qlora, not to {self.method}")
        if self.folds and (self.folds < 2 or not self.early_stop):
            raise ValueError("folds: 2 or more, and with an early_stop, which ends the training without each of them")
        if self.base_weights in ("quantised", "nf4") and (self.method != FineTuningMethod.QLORA or self.use_dora):
            raise ValueError(f"base_weights: {self.base_weights} belongs to method qlora without DoRA, which needs the weights themselves")
        return self


class Sweep(_Section):
    """The ranges of `byoai sweep`: the two ends of the learning rate's, and what is chosen from for all others."""

    sampler: Literal["tpe", "grid"] = "tpe"
    trials: Positive = 20
    minutes: Annotated[float, Field(gt=0)] = 60
    seed: Seed = 0
    learning_rate: tuple[Rate, Rate] = (1e-4, 3e-3)
    lora_r: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 32)
    lora_alpha: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32, 64)
    lora_dropout: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)] = (0.0, 0.1)
    num_epochs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2, 3, 5)
    batch_size: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 8)

    @model_validator(mode="after")
    def _ranges(self) -> "Sweep":
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate goes from {low:g} down to {high:g}: the lower end comes first")
        for key in ("lora_r", "lora_alpha", "lora_dropout", "num_epochs", "batch_size"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} names a value twice: {list(values)}")
        return self


class Evaluation(_Section):
    # perplexity, accuracy, bleu, chrf, rouge; token_f1 (shipped) and any other name are metrics of the `evaluate` library
    metrics: tuple[Annotated[Name, Field(min_length=1)], ...] = ("perplexity", "accuracy", "bleu", "chrf", "rouge", "token_f1")
    test_prompts: tuple[Text, ...] = ()
    max_new_tokens: Positive = 64
    held_out: Positive = 200  # held-out conversations scored; of more, a fixed sample
    general: Count = 30  # general texts scored, and general questions asked, at most
    generate: Count = 16  # held-out conversations answered for BLEU, chrF and ROUGE
    canaries: tuple[Text, ...] = ()  # texts that no answer may ever hold, beside the private details that are found by themselves
    leak_samples: Count = 4  # random answers tried for each private detail, beside the greedy one
    triggers: Count = 8  # suspicious phrases of the training data that are put into other questions, at most
    speed_rounds: Positive = 9  # times that base, live and new model answer in turns while they are timed


class Gate(_Section):
    """What a new version must be to go live by itself. With the gate on, private details and planted phrases are never let through."""

    enabled: bool = True
    better: bool = True  # likelier own held-out chats than the live model's, beyond the confidence interval
    forgetting: Annotated[float, Field(ge=0)] = 0.05  # by which share the perplexity of general texts may rise over the base's
    questions: Share = 0.8  # of the general questions that the base answers right, how many it must still answer right
    slower: Share = 0.2  # tokens a second that it may lose against the live model
    slower_than_base: Share = 0.5  # and against the base, where none is live: an adapter costs a small model a third
    broken: Share = 0.1  # more empty, endless or repeated answers than the base gives, as a share of all


class Deployment(_Section):
    ollama_base_url: Name = "http://127.0.0.1:11434"
    auto_deploy: bool = True
    model_name_prefix: OwnPrefix = "fine_tuned_"
    model_name: OwnName | None = None  # made safe; default: the base's name
    mode: Literal["adapter", "merged"] = "adapter"
    quantization: Name = "q8_0"  # of a merged model: same, f16, f32, q8_0, q4_k_m, ...


class Dataset(_Section):
    """A file to learn from instead of the chats."""

    format: DatasetFormat = DatasetFormat.JSONL
    path: Path | None = None  # for huggingface also a name of the hub; for custom module:function

    @field_validator("path")
    @classmethod
    def _found_from_anywhere(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        """Return a file's whole path: it is read by other processes, in other folders."""
        named = info.data.get("format") in (DatasetFormat.CUSTOM, DatasetFormat.HUGGINGFACE)
        return path if path is None or (named and not path.exists()) else Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


Hour = Annotated[int, Field(ge=0, le=23)]


class Schedule(_Section):
    """When a server starts a retrain by itself."""

    enabled: bool = False
    new_turns: Positive = 100  # since the last version
    hours: tuple[Hour, Hour] = (1, 6)  # from the first to the second, by the machine's clock; (22, 6) goes over midnight
    on_mains: bool = True  # not while a battery feeds the machine


class Uploads(_Section):
    """How much programs may send over the API, in MiB."""

    largest: Positive = 2048  # one file
    quota: Positive = 10_240  # all of them together, unfinished ones at their announced size
    keep_free: Count = 512  # of the disk
    unfinished: Positive = 16  # uploads at once


# Names of the flat form, `FineTuningConfig(model_id=..., epochs=3)`; every key of `training` is one by its own name, too.
FLAT = {
    **{key: ("training", key) for key in Training.model_fields},
    "model_id": ("training", "base_model"),
    "epochs": ("training", "num_epochs"),
    "lora_rank": ("training", "lora_r"),
    "dataset_path": ("dataset", "path"),
    "dataset_format": ("dataset", "format"),
    "max_length": ("data_preparation", "max_length"),
    "model_name": ("deployment", "model_name"),
}
_SECTIONS = {"flat": False}  # the validation's context: a file says everything in its sections


class FineTuningConfig(_Section):
    """All settings. Made in sections, as the file has them, or from flat keys: see FLAT. A fault names its key as it was written."""

    dataset: Dataset = Dataset()
    data_collection: DataCollection = DataCollection()
    data_preparation: DataPreparation = DataPreparation()
    training: Training = Training()
    sweep: Sweep = Sweep()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    deployment: Deployment = Deployment()
    uploads: Uploads = Uploads()
    schedule: Schedule = Schedule()
    notify: Notify = Notify()
    tracking: Tracking = Tracking()

    @model_validator(mode="wrap")
    @classmethod
    def _both_forms(cls, values: Any, handler: Callable[[Any], "FineTuningConfig"], info: ValidationInfo) -> "FineTuningConfig":
        if not isinstance(values, dict) or info.context == _SECTIONS:
            return handler(values)
        sections, written = config_flat.into_sections(values, FLAT)
        try:
            return handler(sections)
        except ValidationError as error:
            raise config_flat.as_written(error, written) from None

    @property
    def log_path(self) -> Path:
        return _log_path(self.data_collection.log_file)

    @property
    def runs_dir(self) -> Path:
        return _runs_dir(self.training.output_dir)

    def changed(self, overrides: dict[str, Any]) -> "FineTuningConfig":
        """Return a copy with other values, by dotted keys: `{"training.num_epochs": 5}`. ConfigError for a wrong one."""
        return _validated(_override(self.model_dump(), overrides), "what was to be changed")

    def with_profile(self, name: str) -> "FineTuningConfig":
        """Return a copy with a profile (config/<name>.yaml) over it."""
        values: dict[str, Any] = self.model_dump()
        for file in _profiles(name):
            values = _merge(values, _read(file))
        return _validated(values, f"the profile {name}")

    def tuned_name(self) -> str:
        """Return the fine-tuned model's name without version, which any engine takes: `fine_tuned_smollm2-135m`."""
        prefix = self.deployment.model_name_prefix
        return prefix + paths.slug(self.deployment.model_name or self.training.base_model, _NAME_LIMIT - len(prefix))


def load_config(path: str | Path | None = None, profile: str | None = None, overrides: dict[str, Any] | None = None) -> FineTuningConfig:
    """The file, then the profile over it (or several, `a,b`, the last on top), then dotted overrides (`{"training.num_epochs": 5}`).

    Over the default file lies first what was changed through the API (config_overlay.py).
    Raises ConfigError with every fault: unreadable file, unknown key, wrong value, contradiction.
    """
    profiles, own = _profiles(profile), config_overlay.read() if path is None else {}
    merged = _override(_read(Path(path or paths.DEFAULT_CONFIG)), own)
    for file in profiles:
        merged = _merge(merged, _read(file))
    merged = _override(merged, overrides or {})
    sources = [str(path or paths.DEFAULT_CONFIG), *([str(config_overlay.place())] if own else []), *map(str, profiles)]
    return _validated(merged, " + ".join([*sources, *(["what was set beside them"] if overrides else [])]))


def read_settings(items: Sequence[str]) -> dict[str, Any]:
    """Return the overrides that `load_config` takes, from `KEY=VALUE` texts as `--set` has them. ConfigError names the key.

    A value is text, of which its key makes a number or a bool. It is YAML only where it opens a list, a mapping or a quote:
    `[1, 2]`, `{share: 0.1}`, `"null"`.
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {item}: write it as KEY=VALUE, e.g. --set training.num_epochs=5")
        if not value:
            raise ConfigError(f"--set {item}: {key} gets no value; null stands for its default")
        overrides[key] = config_file.parse(value, f"--set {key}") if value[0] in "[{\"'" else None if value in _NULLS else value
    return overrides


def _profiles(names: str | None) -> list[Path]:
    try:
        return [paths.DEFAULT_CONFIG.parent / f"{paths.safe_name(name.strip())}.yaml" for name in (names.split(",") if names else [])]
    except ByoaiError as error:
        raise ConfigError(f"--profile {names}: {error}") from error


def _validated(values: dict[str, Any], origin: str) -> FineTuningConfig:
    try:
        return FineTuningConfig.model_validate(values, context=_SECTIONS)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {_say(fault)}" for fault in error.errors()]
        raise ConfigError(f"{len(faults)} fault(s) in {origin}:\n" + "\n".join(faults)) from error


def _say(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        near = _nearest(".".join(map(str, fault["loc"])))
        return f"unknown key; {f'did you mean {near}?' if near else 'see config/fine_tuning_config.yaml for the known ones'}"
    said = str(fault["msg"]).removeprefix("Value error, ")
    return said if isinstance(fault["input"], dict) else f"{said} (got {_shown(fault['input'])})"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number far too large"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _nearest(unknown: str) -> str | None:
    """The known key, dotted, that was perhaps meant: of the same name in another section, or spelt alike."""
    known = list(_dotted(FineTuningConfig().model_dump()))
    section, dot, name = unknown.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    alike = [section + dot + near for near in difflib.get_close_matches(name, beside, 1, 0.7)]
    return next(iter(elsewhere + alike), None)


def _dotted(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{key}.")


def _read(file: Path) -> dict[str, Any]:
    try:
        value = config_file.read(file)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in paths.DEFAULT_CONFIG.parent.glob("*.yaml") if p.name != paths.DEFAULT_CONFIG.name))
        raise ConfigError(f"cannot read {file}: {error.strerror}. Known in config/: {known}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else "text"
        raise ConfigError(f"{file} must hold sections (data_collection, training, ...), not {what}")
    return value


def _override(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    for dotted, value in overrides.items():
        nested: Any = value
        for key in reversed(dotted.split(".")):
            nested = {key: nested}
        values = _merge(values, nested)
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on `base`; a section in which nothing is said changes nothing."""
    merged = dict(base)
    for key, value in over.items():
        section = isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value or {}) if section and (value is None or isinstance(value, dict)) else value
    return merged
