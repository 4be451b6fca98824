"""Define the training form of the light page: its methods and settings.

Defaults and bounds come from the configuration; labels and help texts come from
integration/setting_words.py, which all pages share.
"""

from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.config.training import FineTuningMethod

_LORA = (FineTuningMethod.LORA.value, FineTuningMethod.QLORA.value)

METHODS = {  # name and description to display
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
    """A setting that the form shows as a field for a number."""

    key: str  # dotted name in the configuration, such as training.num_epochs
    often: bool = False  # shown directly rather than under "More settings"
    methods: tuple[str, ...] = ()  # the training methods that use it; empty: all

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


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
    """Return the values of the method and of all SETTINGS in a configuration, by dotted name."""
    record = config.model_dump(mode="json")
    places = [key.split(".") for key in ("training.method", *(each.key for each in SETTINGS))]
    return {f"{section}.{name}": record[section][name] for section, name in places}
