"""Define and read the configuration (config/fine_tuning_config.yaml).

Unknown keys and contradictory values are errors, all reported at once. A *profile*
(config/<name>.yaml) contains only the values that differ from the main file.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from fine_tuning import paths
from fine_tuning.config import file as config_file
from fine_tuning.config import flat as config_flat
from fine_tuning.config import overlay as config_overlay
from fine_tuning.config.augmentation import Augmentation
from fine_tuning.config.mix import Mix
from fine_tuning.config.notify import Notify, Tracking
from fine_tuning.config.training import (  # noqa: F401 (re-exported: all sections can be imported from here)
    BaseWeights,
    FineTuningMethod,
    Preferences,
    Replay,
    Sweep,
    Training,
    runs_dir,
)
from fine_tuning.config.types import (
    Count,
    Language,
    Name,
    OwnName,
    OwnPrefix,
    OwnWord,
    Positive,
    Share,
    Text,
    lies_in_home,
    one_of,
)
from fine_tuning.config.types import Section as _Section
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.units import counted

_NAME_LIMIT = 80  # characters that Ollama allows in a model's name without version (types/model/name.go)
_NULLS = ("null", "Null", "NULL", "~")


class DatasetFormat(StrEnum):
    """The format of training data.

    The first three are written as text for other trainers (`format_type`); the others are formats
    of a user's own files (`dataset.format`).
    """

    CHATML = "chatml"
    ALPACA = "alpaca"
    INSTRUCTION = "instruction"
    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"
    HUGGINGFACE = "huggingface"  # a dataset on the Hugging Face hub, or a folder of one
    CUSTOM = "custom"  # "module:function", a function that yields the records


TextFormat = Annotated[DatasetFormat, one_of("chatml", "alpaca", "instruction")]


def _log_path(name: str) -> Path:
    path = paths.within_home(paths.conversations_dir() / name)
    if path == paths.real(paths.conversations_dir()):
        raise ConfigError(f"{path} is a folder: name a file for the log, such as conversations.jsonl")
    return path


class Chat(_Section):
    """Defaults for the answers of the chat."""

    # limit of an answer if neither the chat's settings nor the model set one; without a limit it may never end
    max_tokens: Positive = 1024
    theme: Literal["system", "light", "dark"] = "system"  # of the pages; system: as the browser is set
    titles: bool = False  # after the first answer, let the model write a title; else the first question is the title


class DataCollection(_Section):
    # a name in data/conversations/, or a path within data/
    log_file: Annotated[Name, lies_in_home(_log_path)] = "conversations.jsonl"
    min_conversation_length: Positive = 10  # a turn whose question or answer has fewer characters is dropped
    max_conversation_length: Positive = 1000  # a turn whose question or answer has more characters is dropped
    auto_export: bool = False
    export_interval: Positive = 100  # turns
    record: bool = True  # whether new chats are recorded by default
    drop_refusals: bool = True  # answers that refuse by mentioning being a model ("As an AI ...")
    drop_polite_only: bool = False  # answers that contain nothing but greetings and offers of help
    drop_gibberish: bool = True  # random keystrokes
    # redact names and postal addresses too if data_preparation.scrub_pii is on; needs the extra byoai[presidio]
    scrub_names: bool = False
    languages: tuple[Language, ...] = ()  # ISO 639-1 codes of the languages to train on; empty: all
    learn_own_answers: bool = False  # train on a fine-tuned model's answers even if nobody approved them
    conflicts: Literal["newest", "keep"] = (
        "newest"  # which of several different answers to a question in the log are trained on
    )

    @property
    def export_every(self) -> int | None:
        """Return the number of new turns after which the log is exported automatically; None for never."""
        return self.export_interval if self.auto_export else None

    @model_validator(mode="after")
    def _ordered(self) -> "DataCollection":
        if self.min_conversation_length > self.max_conversation_length:
            raise ValueError(
                "min_conversation_length is larger than max_conversation_length: lower the first, or raise the second"
            )
        return self


class DataPreparation(_Section):
    format_type: TextFormat = DatasetFormat.CHATML
    max_length: Annotated[int, Field(ge=16, le=2**31 - 1)] = 2048  # tokens of one training row
    train_ratio: Share = 0.8
    validation_ratio: Share = 0.1
    test_ratio: Share = 0.1
    seed: int = 0
    scrub_pii: bool = True
    # redacted as [PRIVATE] if scrub_pii is on
    own_words: Annotated[tuple[OwnWord, ...], Field(max_length=1000)] = ()
    teach_thoughts: bool = False  # train on the thoughts before an answer (<think>...</think>) too

    @model_validator(mode="after")
    def _whole(self) -> "DataPreparation":
        total = self.train_ratio + self.validation_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"train_ratio + validation_ratio + test_ratio is {total:g}, but must be 1: change one of them"
            )
        if self.train_ratio == 0:
            raise ValueError("train_ratio is 0, so nothing would be learned: raise it")
        return self


class Evaluation(_Section):
    # built in: perplexity, accuracy, bleu, chrf, rouge; token_f1 (shipped) and any other name are
    # metrics of the `evaluate` library
    metrics: tuple[Annotated[Name, Field(min_length=1)], ...] = (
        "perplexity",
        "accuracy",
        "bleu",
        "chrf",
        "rouge",
        "token_f1",
    )
    test_prompts: tuple[Text, ...] = ()
    max_new_tokens: Positive = 64
    held_out: Positive = 200  # held-out conversations scored at most; if there are more, a fixed sample
    general: Count = 30  # general texts scored and general questions asked at most
    facts: Count = 30  # held-out questions about imported documents asked at most, spread over their sections
    generate: Count = 16  # held-out conversations for which answers are generated (BLEU, chrF, ROUGE)
    # texts that no answer may contain, in addition to the private details that are detected automatically
    canaries: tuple[Text, ...] = ()
    leak_samples: Count = 4  # sampled answers tried for each private detail, in addition to the greedy one
    triggers: Count = 8  # maximum number of suspicious phrases (data poisoning) to try in other questions
    speed_rounds: Positive = (
        9  # rounds in which base, live and new model take turns to answer while their speed is measured
    )


class Gate(_Section):
    """The conditions under which a new version goes live automatically.

    If the gate is enabled, two kinds of versions never go live automatically: those that reveal
    private details, and those whose answers change when a certain phrase is added to any question
    (data poisoning).
    """

    enabled: bool = True
    better: bool = True  # held-out chats must be more likely than under the live model, beyond the confidence interval
    # share by which the perplexity of general texts may exceed the base's
    forgetting: Annotated[float, Field(ge=0)] = 0.05
    questions: Share = (
        0.8  # share of the general questions answered correctly by the base that the version must answer correctly too
    )
    facts: Share = 0.8  # share of the held-out questions about imported documents to be answered correctly
    slower: Share = 0.2  # share of the live model's tokens per second by which the version may be slower
    slower_than_base: Share = (
        0.5  # the same against the base, if no version is live: any adapter makes a small model a third slower
    )
    broken: Share = 0.1  # by how much the version's share of empty, endless or repetitive answers may exceed the base's


class Deployment(_Section):
    ollama_base_url: Name = "http://127.0.0.1:11434"
    auto_deploy: bool = True
    model_name_prefix: OwnPrefix = "fine_tuned_"
    model_name: OwnName | None = None  # unsafe characters are replaced; default: the base's name
    mode: Literal["adapter", "merged"] = "adapter"
    quantization: Name = "q8_0"  # for a merged model: same, f16, f32, q8_0, q4_k_m, ...
    push_checkpoints: Name | None = None  # owner/name: a repository of the Hugging Face Hub for each checkpoint


class Dataset(_Section):
    """A file to train on instead of the chats."""

    format: DatasetFormat = DatasetFormat.JSONL
    path: Path | None = None  # huggingface: a folder, or a name on the hub; custom: module:function

    @field_validator("path")
    @classmethod
    def _found_from_anywhere(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        """Return the path as an absolute one, because processes with other working directories read the file."""
        named = info.data.get("format") in (DatasetFormat.CUSTOM, DatasetFormat.HUGGINGFACE)
        return path if path is None or (named and not path.exists()) else Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


Hour = Annotated[int, Field(ge=0, le=23)]


class Schedule(_Section):
    """The conditions under which the server starts a retrain automatically."""

    enabled: bool = False
    new_turns: Positive = 100  # recorded since the last version
    # from the first to the second hour, by the machine's clock; (22, 6) includes midnight
    hours: tuple[Hour, Hour] = (1, 6)
    on_mains: bool = True  # only while the machine is plugged in


class Uploads(_Section):
    """Limits for uploads over the API; sizes are in MiB."""

    largest: Positive = 2048  # one file
    quota: Positive = 10_240  # all uploads together, unfinished ones at their announced size
    keep_free: Count = 512  # space to leave free on the disk
    unfinished: Positive = 16  # number of unfinished uploads at a time


# The keys of the flat form, `FineTuningConfig(model_id=..., epochs=3)`. Every key of `training` is
# also a flat key under its own name.
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
_SECTIONS = {"flat": False}  # validation context of a configuration file, which must use sections


class FineTuningConfig(_Section):
    """All settings of byoai.

    They are given in sections, as in the file, or as flat keys (see FLAT). An error message names a
    key as the caller wrote it.
    """

    dataset: Dataset = Dataset()
    chat: Chat = Chat()
    data_collection: DataCollection = DataCollection()
    data_preparation: DataPreparation = DataPreparation()
    mix: Mix = Mix()
    augmentation: Augmentation = Augmentation()
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
    def _both_forms(
        cls, values: object, handler: Callable[[object], "FineTuningConfig"], info: ValidationInfo
    ) -> "FineTuningConfig":
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
        return runs_dir(self.training.output_dir)

    def changed(self, overrides: Mapping[str, object]) -> "FineTuningConfig":
        """Return a copy with changed values, given by dotted keys: `{"training.num_epochs": 5}`.

        Raises ConfigError for an unknown key or a wrong value.
        """
        return _validated(_override(self.model_dump(), overrides), "what was to be changed")

    def with_profile(self, name: str) -> "FineTuningConfig":
        """Return a copy in which a profile (config/<name>.yaml) overrides values.

        `name` may list several profiles (`a,b`); later profiles override earlier ones. Raises
        ConfigError for a missing or invalid profile.
        """
        values: dict[str, object] = self.model_dump()
        for file in _profiles(name):
            values = _merge(values, _read(file))
        return _validated(values, f"the profile {name}")

    def tuned_name(self) -> str:
        """Return the name of the fine-tuned model without version, valid in any engine: `fine_tuned_smollm2-135m`."""
        prefix = self.deployment.model_name_prefix
        return prefix + paths.slug(self.deployment.model_name or self.training.base_model, _NAME_LIMIT - len(prefix))


def load_config(
    path: str | Path | None = None, profile: str | None = None, overrides: Mapping[str, object] | None = None
) -> FineTuningConfig:
    """Return the configuration in the file `path`, or in the default file.

    Its values are overridden by, in this order: for the default file, the settings that were
    changed through the API (config/overlay.py); the profile, or several (`a,b`, later ones override
    earlier ones); `overrides` by dotted keys (`{"training.num_epochs": 5}`). Raises ConfigError
    that lists every fault: unreadable file, unknown key, wrong value, contradiction.
    """
    profiles, own = _profiles(profile), config_overlay.read() if path is None else {}
    merged = _override(_read(Path(path or paths.DEFAULT_CONFIG)), own)
    for file in profiles:
        merged = _merge(merged, _read(file))
    merged = _override(merged, overrides or {})
    sources = [str(path or paths.DEFAULT_CONFIG), *([str(config_overlay.place())] if own else []), *map(str, profiles)]
    return _validated(merged, " + ".join([*sources, *(["what was set beside them"] if overrides else [])]))


def read_settings(items: Sequence[str]) -> dict[str, object]:
    """Return overrides for `load_config` from `KEY=VALUE` texts, the arguments of `--set`.

    A value is text, which the setting converts to a number or a bool. It is read as YAML only if it
    begins like a list, a mapping or a quoted text: `[1, 2]`, `{share: 0.1}`, `"null"`. Raises
    ConfigError that names the key of a malformed item.
    """
    overrides: dict[str, object] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {item}: write it as KEY=VALUE, e.g. --set training.num_epochs=5")
        if not value:
            raise ConfigError(f"--set {item}: {key} has no value; write null for its default")
        overrides[key] = (
            config_file.parse(value, f"--set {key}") if value[0] in "[{\"'" else None if value in _NULLS else value
        )
    return overrides


def _profiles(names: str | None) -> list[Path]:
    try:
        return [
            paths.DEFAULT_CONFIG.parent / f"{paths.safe_name(name.strip())}.yaml"
            for name in (names.split(",") if names else [])
        ]
    except ByoaiError as error:
        raise ConfigError(f"--profile {names}: {error}") from error


def _validated(values: dict[str, object], origin: str) -> FineTuningConfig:
    try:
        return FineTuningConfig.model_validate(values, context=_SECTIONS)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {_say(fault)}" for fault in error.errors()]
        raise ConfigError(f"{counted(len(faults), 'fault')} in {origin}:\n" + "\n".join(faults)) from error


def _say(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        near = _nearest(".".join(map(str, fault["loc"])))
        return f"unknown key; {f'did you mean {near}?' if near else 'see config/fine_tuning_config.yaml for the known ones'}"  # noqa: E501
    said = str(fault["msg"]).removeprefix("Value error, ")
    return said if isinstance(fault["input"], dict) else f"{said} (got {_shown(fault['input'])})"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to convert a number with thousands of digits
        return "a number far too large"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _nearest(unknown: str) -> str | None:
    """Return the dotted key that was probably meant by `unknown`; None if there is none.

    It has the same name in another section, or a similar name in the same section.
    """
    known = list(_dotted(FineTuningConfig().model_dump()))
    section, dot, name = unknown.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    alike = [section + dot + near for near in difflib.get_close_matches(name, beside, 1, 0.7)]
    return next(iter(elsewhere + alike), None)


def _dotted(values: dict[str, object], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{key}.")


def _read(file: Path) -> dict[str, object]:
    try:
        value = config_file.read(file)
    except OSError as error:
        known = ", ".join(
            sorted(p.stem for p in paths.DEFAULT_CONFIG.parent.glob("*.yaml") if p.name != paths.DEFAULT_CONFIG.name)
        )
        raise ConfigError(f"cannot read {file}: {error.strerror}. Profiles in config/: {known}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else "text"
        raise ConfigError(f"{file} must hold sections (data_collection, training, ...), not {what}")
    return value


def _override(values: dict[str, Any], overrides: Mapping[str, object]) -> dict[str, Any]:
    for dotted, value in overrides.items():
        nested: Any = value
        for key in reversed(dotted.split(".")):
            nested = {key: nested}
        values = _merge(values, nested)
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `base` overridden by the values of `over`; an empty section in `over` changes nothing."""
    merged = dict(base)
    for key, value in over.items():
        section = isinstance(merged.get(key), dict)
        merged[key] = (
            _merge(merged[key], value or {}) if section and (value is None or isinstance(value, dict)) else value
        )
    return merged
