"""Define the objects that the stages of one retrain share: the request, the engine, and the served base."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.rows import prompt_ids, tokenize_conversation
from fine_tuning.engines.base import Engine, ModelDetails, ModelSpec, Rendering
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base, is_damaged
from fine_tuning.engines.neutral import Neutraliser, neutraliser_for
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import ConfigError, ModelNotFound
from fine_tuning.events import Watch
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.model_management.modelfile import spec_for
from fine_tuning.token_rows import ScoredRow
from fine_tuning.training.methods import Carrier, carrier

if TYPE_CHECKING:
    from fine_tuning.evaluation.test_set import Reader


@dataclass(frozen=True)
class Request:
    """The options of a retrain that are not in the configuration."""

    sample: bool = False  # train on the shipped sample instead of the log
    if_new: int | None = None  # do nothing if there are fewer new turns than this
    force: bool = False  # train even if there is too little data
    auto: bool = False  # lower settings that do not fit into memory
    promote: bool = False  # make the version live even if the gate refuses it


class Workshop:
    """The objects that the stages of one retrain share.

    They are configuration, request, engine, watch, registry, the name of the fine-tuned model, and
    the base as the engine serves it.
    """

    def __init__(
        self, config: FineTuningConfig, engine: Engine, watch: Watch | None = None, request: Request | None = None
    ) -> None:
        self.config, self.engine = config, engine
        self.watch, self.request = watch or Watch(), request or Request()
        self.registry, self.name = Registry(), config.tuned_name()

    @cached_property
    def base(self) -> ModelDetails:
        """The base as the engine serves it (`base_of`), downloaded or imported first if needed."""
        return base_of(self.config, self.engine, self.watch)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.base.gguf)

    @property
    def render(self) -> Rendering:
        """Return the function by which the engine renders messages for the base.

        With it, training text has exactly the form of served text.
        """
        return Rendering(self.engine, self.base.tag)

    @cached_property
    def neutral(self) -> Neutraliser:
        return neutraliser_for(self.vocabulary.structural_tokens(), self.render)

    @property
    def reader(self) -> "Reader":
        """Return the functions by which the evaluation renders and tokenizes text."""
        from fine_tuning.evaluation.test_set import Reader

        def rows(messages: Sequence[Message]) -> list[ScoredRow]:
            found = tokenize_conversation(
                messages, self.render, self.vocabulary, self.config.data_preparation.max_length
            )
            return [(row.input_ids, [index for index, flag in enumerate(row.trained) if flag]) for row in found]

        return Reader(self.render, lambda text: prompt_ids(text, self.vocabulary), rows, self.neutral)

    @property
    def mode(self) -> Carrier | None:
        """Return the form of the result that the engine gets; see `Plan.mode`."""
        return carrier(self.config.training, self.config.deployment.mode)

    def with_config(self, config: FineTuningConfig) -> "Workshop":
        """Return a copy with another configuration, which must have the same base and model name."""
        other = copy.copy(self)
        other.config = config
        return other

    def spec(self, artifact: Path) -> ModelSpec:
        """Return the definition of a version whose adapter or merged model is the GGUF `artifact`."""
        version = self.engine.version() if self.engine.name == "ollama" else None
        return spec_for(self.base, self.base.tag, artifact, "adapter" if self.mode == "adapter" else "merged", version)


def shop_of(
    version: Version,
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch,
    request: Request | None = None,
    name: str | None = None,
) -> Workshop:
    """Return the workshop for making a new version from `version`, with the same base.

    `name`: the name of the new version's model; None: that of `version`. Raises ConfigError if the
    engine has another base under the same tag.
    """
    name = name or version.name
    config = config.changed(
        {
            "training.base_model": version.base_tag,
            "training.method": "lora",
            "training.use_dora": False,
            "training.base_weights": "auto",
            "deployment.model_name": name.removeprefix(config.deployment.model_name_prefix),
        }
    )
    shop = Workshop(config, engine, watch, request)
    shop.name = name
    if shop.base.gguf_digest != version.base_digest:
        raise ConfigError(
            f"{version.tag} was trained on other weights of {version.base_tag} (sha256 {version.base_digest[:12]}...) "
            f"than those in {engine.name} ({shop.base.gguf_digest[:12]}...): choose another version, or retrain"
        )
    return shop


def base_of(config: FineTuningConfig, engine: Engine, watch: Watch | None = None) -> ModelDetails:
    """Return the details of the configured base, the served model from which a training starts.

    If the engine does not have it, the default base is downloaded, and a folder or a model of the
    Hugging Face hub is imported. A damaged default base is replaced. Raises ModelNotFound for
    another base that the engine does not have.
    """
    wanted = config.training.base_model
    try:
        if wanted == DEFAULT_TAG and is_damaged(engine, wanted):
            ensure_default_base(engine, watch)
        return engine.show(wanted)
    except ModelNotFound:
        if wanted == DEFAULT_TAG:
            return engine.show(ensure_default_base(engine, watch))
        if os.path.isdir(wanted) or "/" in wanted:  # noqa: PTH112 (Path.is_dir fails for a name that is too long)
            from fine_tuning.model_management.hf_export import import_model

            return engine.show(import_model(engine, wanted))
        raise
