"""The training form of the light page. Defaults and bounds come from the configuration."""

from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig, FineTuningMethod

_LORA = (FineTuningMethod.LORA.value, FineTuningMethod.QLORA.value)

METHODS = {  # name and description to display
    FineTuningMethod.QLORA: (
        "QLoRA",
        "Trains a small adapter while the model itself stays compressed. Needs the least memory.",
    ),
    FineTuningMethod.LORA: (
        "LoRA",
        "Trains a small adapter with the model in full size. Needs more memory.",
    ),
    FineTuningMethod.FULL: (
        "Full",
        "Trains every weight of the model. Needs the most memory and time, and makes a large file.",
    ),
}


@dataclass(frozen=True)
class Setting:
    """A number in the form."""

    key: str  # dotted name in the configuration
    label: str
    help: str
    often: bool = False  # shown directly rather than under "More settings"
    methods: tuple[str, ...] = ()  # the methods that use it; empty: all

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


SETTINGS = (
    Setting(
        "training.num_epochs",
        "Epochs",
        "How often the training data are repeated. More epochs are remembered better, but more literally.",
        True,
    ),
    Setting(
        "training.learning_rate",
        "Learning rate",
        "How much each step changes the model. If it is too high, the model forgets what it knew.",
        True,
    ),
    Setting(
        "training.batch_size",
        "Batch size",
        "Number of conversations per step. Larger batches give steadier but fewer steps.",
    ),
    Setting(
        "training.lora_r",
        "Rank",
        "Capacity of the adapter. 8 to 32 is usual; a higher rank needs more memory.",
        methods=_LORA,
    ),
    Setting("training.lora_alpha", "Alpha", "Strength of the adapter. Twice the rank is usual.", methods=_LORA),
    Setting(
        "training.lora_dropout",
        "Dropout",
        "Share of the inputs ignored at random in each step, against overfitting. 0 switches it off.",
        methods=_LORA,
    ),
    Setting(
        "data_preparation.max_length",
        "Longest conversation",
        "In tokens; 100 tokens are about 75 English words. Longer conversations are cut.",
    ),
)


def values_of(config: FineTuningConfig) -> dict[str, object]:
    """Return the form's values from a configuration, by dotted keys."""
    record = config.model_dump(mode="json")
    places = [key.split(".") for key in ("training.method", *(each.key for each in SETTINGS))]
    return {f"{section}.{name}": record[section][name] for section, name in places}
