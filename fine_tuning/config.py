"""The configuration: config/fine_tuning_config.yaml, typed. Unknown keys and contradictions are
errors, all reported at once.

A *profile* (config/<name>.yaml) holds only what differs from the main file.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from fine_tuning import config_file, config_flat, config_overlay, paths
from fine_tuning.config_augmentation import Augmentation
from fine_tuning.config_mix import Mix
from fine_tuning.config_notify import Notify, Tracking
from fine_tuning.config_training import (  # noqa: F401 (all sections are to be found here)
    BaseWeights,
    FineTuningMethod,
    Preferences,
    Replay,
    Sweep,
    Training,
    runs_dir,
)
from fine_tuning.config_types import (
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
from fine_tuning.config_types import Section as _Section
from fine_tuning.errors import ByoaiError, ConfigError

_NAME_LIMIT = 80  # characters of a model's name without its version, in Ollama (types/model/name.go)
_NULLS = ("null", "Null", "NULL", "~")


class DatasetFormat(StrEnum):
    """How examples are written: the first three as text for other trainers (`format_type`), the
    others as files of one's own.
    """

    CHATML = "chatml"
    ALPACA = "alpaca"
    INSTRUCTION = "instruction"
    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"
    HUGGINGFACE = "huggingface"  # a dataset of the hub, or a folder of one
    CUSTOM = "custom"  # "module:function", which yields the records


TextFormat = Annotated[DatasetFormat, one_of("chatml", "alpaca", "instruction")]


def _log_path(name: str) -> Path:
    return paths.within_home(paths.conversations_dir() / name)


class Chat(_Section):
    """How the chat is answered where nobody says otherwise."""

    # of an answer, where neither the chat's settings nor the model limit it: else one may never end
    max_tokens: Positive = 1024
    titles: bool = False  # whether the model names a chat after its first answer; else the first question does


class DataCollection(_Section):
    # in data/conversations/; elsewhere only in data/
    log_file: Annotated[Name, lies_in_home(_log_path)] = "conversations.jsonl"
    min_conversation_length: Positive = 10  # characters of a turn's shorter side below which it is dropped
    max_conversation_length: Positive = 1000  # characters of a turn's longer side above which it is dropped
    auto_export: bool = False
    export_interval: Positive = 100  # turns
    record: bool = True  # whether a new chat is recorded before its owner says otherwise
    drop_refusals: bool = True  # answers in which a model speaks of being one instead of answering
    drop_polite_only: bool = False  # answers of greetings and offers of help alone
    drop_gibberish: bool = True  # keys hit at random
    # names and postal addresses, where data_preparation.scrub_pii is on; needs the extra byoai[presidio]
    scrub_names: bool = False
    languages: tuple[Language, ...] = ()  # that are learned, as ISO 639-1 codes; none: all
    learn_own_answers: bool = False  # learn what a fine-tuned model answered also where nobody approved it
    conflicts: Literal["newest", "keep"] = "newest"  # which of different answers to one question in the log are learned

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
    # replaced by [PRIVATE] where scrub_pii replaces details
    own_words: Annotated[tuple[OwnWord, ...], Field(max_length=1000)] = ()
    teach_thoughts: bool = False  # of answers that were thought about first (<think>...</think>), the thoughts too

    @model_validator(mode="after")
    def _whole(self) -> "DataPreparation":
        total = self.train_ratio + self.validation_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + validation_ratio + test_ratio is {total:g}, and must be 1")
        if self.train_ratio == 0:
            raise ValueError("train_ratio is 0: nothing would be learned")
        return self


class Evaluation(_Section):
    # perplexity, accuracy, bleu, chrf, rouge; token_f1 (shipped) and any other name are metrics of
    # the `evaluate` library
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
    held_out: Positive = 200  # held-out conversations scored; of more, a fixed sample
    general: Count = 30  # general texts scored, and general questions asked, at most
    facts: Count = 30  # held-out questions about imported documents asked, at most, spread over their sections
    generate: Count = 16  # held-out conversations answered for BLEU, chrF and ROUGE
    # texts that no answer may ever hold, beside the private details that are found by themselves
    canaries: tuple[Text, ...] = ()
    leak_samples: Count = 4  # random answers tried for each private detail, beside the greedy one
    triggers: Count = 8  # suspicious phrases of the training data that are put into other questions, at most
    speed_rounds: Positive = 9  # times that base, live and new model answer in turns while they are timed


class Gate(_Section):
    """What a new version must be to go live by itself. With the gate on, private details and
    planted phrases are never let through.
    """

    enabled: bool = True
    better: bool = True  # likelier own held-out chats than the live model's, beyond the confidence interval
    # by which share the perplexity of general texts may rise over the base's
    forgetting: Annotated[float, Field(ge=0)] = 0.05
    questions: Share = 0.8  # of the general questions that the base answers right, how many it must still answer right
    facts: Share = 0.8  # of the held-out questions about imported documents, how many it must answer right
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
    # from the first to the second, by the machine's clock; (22, 6) goes over midnight
    hours: tuple[Hour, Hour] = (1, 6)
    on_mains: bool = True  # not while a battery feeds the machine


class Uploads(_Section):
    """How much programs may send over the API, in MiB."""

    largest: Positive = 2048  # one file
    quota: Positive = 10_240  # all of them together, unfinished ones at their announced size
    keep_free: Count = 512  # of the disk
    unfinished: Positive = 16  # uploads at once


# Names of the flat form, `FineTuningConfig(model_id=..., epochs=3)`; every key of `training` is one
# by its own name, too.
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
    """All settings. Made in sections, as the file has them, or from flat keys: see FLAT. A fault
    names its key as it was written.
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
        """Return a copy with other values, by dotted keys: `{"training.num_epochs": 5}`.
        ConfigError for a wrong one.
        """
        return _validated(_override(self.model_dump(), overrides), "what was to be changed")

    def with_profile(self, name: str) -> "FineTuningConfig":
        """Return a copy with a profile (config/<name>.yaml) over it."""
        values: dict[str, object] = self.model_dump()
        for file in _profiles(name):
            values = _merge(values, _read(file))
        return _validated(values, f"the profile {name}")

    def tuned_name(self) -> str:
        """Return the fine-tuned model's name without version, which any engine takes: `fine_tuned_smollm2-135m`."""
        prefix = self.deployment.model_name_prefix
        return prefix + paths.slug(self.deployment.model_name or self.training.base_model, _NAME_LIMIT - len(prefix))


def load_config(
    path: str | Path | None = None, profile: str | None = None, overrides: Mapping[str, object] | None = None
) -> FineTuningConfig:
    """The file, then the profile over it (or several, `a,b`, the last on top), then dotted
    overrides (`{"training.num_epochs": 5}`).

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


def read_settings(items: Sequence[str]) -> dict[str, object]:
    """Return the overrides that `load_config` takes, from `KEY=VALUE` texts as `--set` has them.
    ConfigError names the key.

    A value is text, of which its key makes a number or a bool. It is YAML only where it opens a
    list, a mapping or a quote: `[1, 2]`, `{share: 0.1}`, `"null"`.
    """
    overrides: dict[str, object] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {item}: write it as KEY=VALUE, e.g. --set training.num_epochs=5")
        if not value:
            raise ConfigError(f"--set {item}: {key} gets no value; null stands for its default")
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
        raise ConfigError(f"{len(faults)} fault(s) in {origin}:\n" + "\n".join(faults)) from error


def _say(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        near = _nearest(".".join(map(str, fault["loc"])))
        return f"unknown key; {f'did you mean {near}?' if near else 'see config/fine_tuning_config.yaml for the known ones'}"  # noqa: E501
    said = str(fault["msg"]).removeprefix("Value error, ")
    return said if isinstance(fault["input"], dict) else f"{said} (got {_shown(fault['input'])})"


def _shown(value: object) -> str:
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
        raise ConfigError(f"cannot read {file}: {error.strerror}. Known in config/: {known}") from error
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
    """`over` on `base`; a section in which nothing is said changes nothing."""
    merged = dict(base)
    for key, value in over.items():
        section = isinstance(merged.get(key), dict)
        merged[key] = (
            _merge(merged[key], value or {}) if section and (value is None or isinstance(value, dict)) else value
        )
    return merged
