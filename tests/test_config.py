import pytest
import yaml

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, FineTuningMethod, load_config
from fine_tuning.errors import ConfigError


def test_the_shipped_file_holds_every_key_and_says_the_defaults():
    shipped = yaml.safe_load(paths.DEFAULT_CONFIG.read_text())
    defaults = FineTuningConfig().model_dump(mode="json")
    for section, values in shipped.items():
        missing = set(defaults[section]) - set(values) - {"model_name"}  # its default is the base's name
        assert not missing, f"{section} lacks {missing}"
        for key, value in values.items():
            if key != "test_prompts":
                assert defaults[section][key] == value, f"{section}.{key}"


def test_every_profile_in_the_folder_is_valid():
    for file in paths.DEFAULT_CONFIG.parent.glob("*.yaml"):
        if file != paths.DEFAULT_CONFIG:
            load_config(profile=file.stem)


def test_a_profile_and_overrides_change_only_what_they_name():
    plain, sample = load_config(), load_config(profile="sample", overrides={"training.lora_r": 4})
    assert sample.training.lora_r == 4
    assert sample.training.num_epochs != plain.training.num_epochs
    assert sample.training.lora_alpha == plain.training.lora_alpha
    assert sample.training.method is FineTuningMethod.QLORA


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("training: {learning_rate: 0}", "training.learning_rate"),
        ("trainning: {}", "trainning: unknown key; did you mean training?"),
        ("training: {num_epoch: 3}", "training.num_epoch: unknown key; did you mean training.num_epochs?"),
        ("num_epochs: 3", "num_epochs: unknown key; did you mean training.num_epochs?"),
        ("training: {xyzzy: 3}", "training.xyzzy: unknown key; see config/fine_tuning_config.yaml"),
        ("data_preparation: {train_ratio: 0.5}", "must be 1"),
        ("data_collection: {min_conversation_length: 50, max_conversation_length: 20}", "larger than"),
        ("- a list", "must hold sections"),
        ("training: [unclosed", "is not YAML"),
    ],
)
def test_a_fault_in_a_file_is_named_with_the_file(tmp_path, text, fault):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert fault in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_fault_in_what_was_set_beside_the_file_is_not_blamed_on_the_file_alone():
    with pytest.raises(ConfigError, match=r"in .*fine_tuning_config.yaml \+ what was set beside them:"):
        load_config(overrides={"training.num_epoch": 3})


def test_a_missing_profile_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="sample") as caught:
        load_config(profile="nosuch")
    assert "fine_tuning_config" not in str(caught.value)
