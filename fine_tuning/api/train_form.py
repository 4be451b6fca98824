"""What the light page asks before a training. Defaults and bounds are those of the configuration, labels
and help those of all pages (setting_words.py).
"""

from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig, FineTuningMethod
from fine_tuning.integration.setting_words import words_of

_LORA = (FineTuningMethod.LORA.value, FineTuningMethod.QLORA.value)

METHODS = {  # name, and what it is
    FineTuningMethod.QLORA: (
        "QLoRA",
        "A small addition to the model is trained, and the model itself stays compressed: the least memory.",
    ),
    FineTuningMethod.LORA: (
        "LoRA",
        "A small addition to the model is trained, beside the model in full size: more memory.",
    ),
    FineTuningMethod.FULL: (
        "Full",
        "Every weight of the model is trained: the most memory and time, and a large file.",
    ),
}


@dataclass(frozen=True)
class Setting:
    """A number that a person may choose."""

    key: str  # dotted, as in the configuration
    often: bool = False  # shown at once, not only under "More settings"
    methods: tuple[str, ...] = ()  # to which it belongs; none: to all

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def label(self) -> str:
        return words_of(self.key).label

    @property
    def help(self) -> str:
        return words_of(self.key).help


SETTINGS = (
    Setting("training.num_epochs", often=True),
    Setting("training.learning_rate", often=True),
    Setting("training.batch_size"),
    Setting("training.lora_r", methods=_LORA),
    Setting("training.lora_alpha", methods=_LORA),
    Setting("training.lora_dropout", methods=_LORA),
    Setting("data_preparation.max_length"),
)


def values_of(config: FineTuningConfig) -> dict[str, object]:
    """Return what the form shows of a configuration, by dotted keys."""
    record = config.model_dump(mode="json")
    places = [key.split(".") for key in ("training.method", *(each.key for each in SETTINGS))]
    return {f"{section}.{name}": record[section][name] for section, name in places}
