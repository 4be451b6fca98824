"""What the light page asks before a training, in plain words. Defaults and bounds are those of the configuration."""

from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig, FineTuningMethod

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
    label: str
    help: str
    often: bool = False  # shown at once, not only under "More settings"
    methods: tuple[str, ...] = ()  # to which it belongs; none: to all

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


SETTINGS = (
    Setting(
        "training.num_epochs",
        "Epochs",
        "How many times everything is read. More is remembered better, and more literally.",
        True,
    ),
    Setting(
        "training.learning_rate",
        "Learning rate",
        "How far each step changes the model. Too far, and it forgets what it knew.",
        True,
    ),
    Setting(
        "training.batch_size",
        "Batch size",
        "How many conversations make one step. Larger is steadier, with fewer steps.",
    ),
    Setting(
        "training.lora_r",
        "Rank",
        "How much the addition can hold. 8 to 32 is usual; larger needs more memory.",
        methods=_LORA,
    ),
    Setting(
        "training.lora_alpha", "Alpha", "How strongly the addition counts. Twice the rank is usual.", methods=_LORA
    ),
    Setting(
        "training.lora_dropout",
        "Dropout",
        "Share left out at random in each step, against learning by heart. 0 is none.",
        methods=_LORA,
    ),
    Setting(
        "data_preparation.max_length",
        "Longest conversation",
        "In tokens: 100 are about 75 English words. What is longer is cut.",
    ),
)


def values_of(config: FineTuningConfig) -> dict[str, object]:
    """Return what the form shows of a configuration, by dotted keys."""
    record = config.model_dump(mode="json")
    places = [key.split(".") for key in ("training.method", *(each.key for each in SETTINGS))]
    return {f"{section}.{name}": record[section][name] for section, name in places}
