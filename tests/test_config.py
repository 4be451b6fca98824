import contextlib
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, FineTuningMethod, _dotted, load_config, read_settings
from fine_tuning.engines.base import full_tag
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
        ("training: [unclosed", "contains YAML that byoai does not accept"),
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


# Texts stay texts


@pytest.mark.parametrize(
    "text", ["off", "on", "yes", "no", "true", "False", "2024", "0042", "1e3", "1:30", "0x10", "2024-01-01", "1_000"]
)
def test_a_text_is_what_was_written_whatever_yaml_might_take_it_for(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(f"deployment: {{model_name: {text}}}\nevaluation: {{canaries: [{text}, 'a']}}\n")
    for config in (
        load_config(file),
        load_config(overrides=read_settings([f"deployment.model_name={text}", f"evaluation.canaries=[{text}, a]"])),
    ):
        assert config.deployment.model_name == text
        assert config.evaluation.canaries == (text, "a")


def test_the_documented_off_is_a_method_of_preferences_and_still_a_bool_elsewhere(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "training: {use_dora: off, preferences: {method: off}}\ndata_collection: {record: No}\ngate: {enabled: yes}\n"
    )
    config = load_config(file)
    assert config.training.preferences.method == "off"
    assert (config.training.use_dora, config.data_collection.record, config.gate.enabled) == (False, False, True)
    assert (
        load_config(overrides=read_settings(["training.preferences.method=off"])).training.preferences.method == "off"
    )


@pytest.mark.parametrize(
    "name",
    ["@home", "`tick", "%a", "*star", "&and", "!bang", "#hash", "a: b", "- a", "?", "|", "> x", "a#b", "don't", "x=y"],
)
def test_a_text_that_yaml_could_not_read_can_be_set(name):
    assert load_config(overrides=read_settings([f"deployment.quantization={name}"])).deployment.quantization == name


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.learning_rate=2e-4", 2e-4),
        ("training.learning_rate=.5", 0.5),
        ("training.num_epochs= 7 ", 7),
        ("training.use_dora=on", True),
        ("sweep.lora_r=[4, 8]", (4, 8)),
        ('deployment.model_name="null"', "null"),
        ("deployment.model_name=null", None),
        (r'evaluation.test_prompts=["\ud83d\ude00 \u00e9", "a: b"]', ("😀 é", "a: b")),  # as JSON writes it
    ],
)
def test_what_is_set_is_read_as_its_key_needs_it(setting, value):
    section, _, key = setting.partition("=")[0].partition(".")
    assert getattr(getattr(load_config(overrides=read_settings([setting])), section), key) == value


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "training.num_epochs=[",
            "training.num_epochs=!!int 5",
            "training.num_epochs=!!python/object:os.system x",
            "training.num_epochs=",
        ),
        *("training.num_epochs={a: b", "training.num_epochs='3", "training.num_epochs=\0", "training.num_epochs=1e400"),
        *(
            "training.num_epochs=[[[[[[[[[[[[[[[[[[[[[[[[[",
            f"training.num_epochs={'9' * 5000}",
            "training.num_epochs.x=1",
            "training.seed=-1",
        ),
        *(
            "training.learning_rate=nan",
            "training.weight_decay=inf",
            "training.num_epochs=true",
            "training.num_epochs=null null",
        ),
        *(
            "deployment.model_name=\0",
            "deployment.model_name=日本",
            "deployment.model_name=..",
            'deployment.model_name="\\ud800"',
        ),
        *(
            "training.base_model= ''",
            "training.base_model=a\nb",
            "deployment.model_name_prefix=my bot ",
            "deployment.model_name_prefix=''",
        ),
        *("deployment.model_name_prefix=a/b", "deployment.model_name_prefix=a..b", "deployment.model_name_prefix=é"),
        *(
            f"deployment.model_name_prefix={'a' * 200}",
            "deployment.model_name_prefix=a\0",
            "deployment.model_name_prefix=.a",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key(setting):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=read_settings([setting]))
    assert setting.partition("=")[0].removesuffix(".x") in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("section", ["training", "deployment", "gate", "sweep", "evaluation", "data_preparation"])
def test_a_section_in_which_all_is_commented_out_means_the_defaults(tmp_path, section):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{section}:\n  # all of it\n")
    assert load_config(file) == FineTuningConfig()


def test_an_older_file_that_limits_the_bases_own_answers_still_holds(tmp_path):
    file = tmp_path / "older.yaml"
    file.write_text("training:\n  replay:\n    share: 0.1\n    max_new_tokens: 32\n")
    assert load_config(file).training.replay.share == 0.1


def test_an_empty_key_means_its_default_and_an_empty_section_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "main.yaml").write_text(
        "training:\n  lora_r: 4\n  replay:\n    share: 0.1\nevaluation:\n  canaries:\n    # - mine\n"
    )
    (tmp_path / "over.yaml").write_text("training:\n  replay:\n  seed:\n")
    monkeypatch.setattr(paths, "DEFAULT_CONFIG", tmp_path / "main.yaml")
    config = load_config(profile="over")
    assert (config.training.lora_r, config.training.replay.share, config.training.seed, config.evaluation.canaries) == (
        4,
        0.1,
        0,
        (),
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 10)}]\n" for level in range(8)
)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"training: {lora_r: 1, lora_r: 2}", "line 1, column 23: lora_r is given twice"),
        (b"training: {}\ngate: {}\ntraining: {}", "line 3, column 1: training is given twice"),
        (BOMB.encode(), "more than 10000 values"),
        (b"training: &t [*t]", "contains the alias"),
        (b"training: &t {replay: *t}", "contains the alias"),
        (b"training: *nowhere", "undefined alias"),
        (b"training: " + b"[" * 5000, "nested too deeply"),
        (b"training: " + b"{a: " * 5000, "nested too deeply"),
        (b"- a\n" * 20_000, "more than 10000 values"),
        (b"training: !!python/object:os.system {}", "line 1, column 11"),
        (b"training: !!timestamp x", "line 1, column 11"),
        (b"training: {lora_r: !!int x}", "tag:yaml.org,2002:int"),
        (b"training: !!binary x", "line 1"),
        (b"training:\n\tlora_r: 4", "line 2, column 1.*not with tabs"),
        (b"training: {lora_r: 4}\n---\ngate: {}", "line 2"),
        (b"training: {model: Caf\xe9}", "not UTF-8 text .*byte 21"),
        ("training: {}".encode("utf-16"), "not UTF-8 text"),
        (b"training: {a: \x00}", "special characters are not allowed"),
        (b"? [a]\n: b", "a key must be text"),
        (b"~: b", "a key must be text"),
        (b"- training", "not a list"),
        (b"just text", "not text"),
        (b"# " + b"x" * (1 << 20), "more than 1 MB"),
    ],
)
def test_what_is_no_configuration_is_named_with_file_and_place(tmp_path, content, fault):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=fault) as caught:
        load_config(file)
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing\n",
        b"\xef\xbb\xbftraining: {lora_r: 4}",
        b"---\ntraining: &t {lora_r: &r 4, lora_alpha: *r}\n...\n",
        b"null",
    ],
)
def test_what_is_right_although_unusual_is_read(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert load_config(file).training.lora_r == (4 if b"4" in content else 16)


def test_folds_need_the_early_stop_that_the_message_names():
    with pytest.raises(ConfigError, match="set early_stop, for example to 2"):
        load_config(overrides={"training.folds": 5})
    assert load_config(overrides={"training.folds": 5, "training.early_stop": 2}).training.folds == 5


@pytest.mark.parametrize("path", ["a\0b", "/", "/proc/nowhere/x", "x" * 5000])
def test_a_file_that_cannot_be_read_is_named(path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(path)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_no_file_gives_anything_but_a_configuration_or_a_clear_error(content):
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_bytes(content)
        with contextlib.suppress(ConfigError):
            load_config(file.name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


@given(st.sampled_from(list(_dotted(FineTuningConfig().model_dump()))), VALUES)
@settings(max_examples=500)
def test_no_value_gives_anything_but_a_configuration_or_an_error_that_names_the_key(key, value):
    try:
        config = load_config(overrides={key: value})
    except ConfigError as error:
        assert key.partition(".")[0] in str(error)
    else:
        full_tag(config.tuned_name())


@given(st.sampled_from(list(_dotted(FineTuningConfig().model_dump()))), st.text(st.characters()))
@settings(max_examples=500)
def test_any_setting_gives_a_configuration_or_an_error_that_names_the_key(key, value):
    try:
        load_config(overrides=read_settings([f"{key}={value}"]))
    except ConfigError as error:
        assert key.partition(".")[0] in str(error)


@given(st.text(st.characters()))
def test_no_profile_gives_anything_but_a_configuration_error(name):
    with contextlib.suppress(ConfigError):
        load_config(profile=name)


def test_what_a_run_wrote_down_is_read_again_as_it_was(tmp_path):
    config = load_config(
        overrides={
            "deployment.model_name": "2024",
            "deployment.quantization": "off",
            "evaluation.canaries": ["null", "0042", " a", "~", "yes", "1e5", "#", "é😀"],
            "training.learning_rate": 1e-5,
            "training.preferences.method": "off",
        }
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    assert load_config(file) == config


# The names of what is made


@pytest.mark.parametrize(
    "base",
    [
        "hf.co/bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF-with-a-very-long-name:Q4_K_M",
        "hf.co/" + "a" * 80 + "/" + "b" * 80 + ":" + "c" * 80,
        "/home/someone/models/" + "very/" * 40 + "deep",
        "日本語の模型",
        "Modell Größe 7",
        "x" * 5000,
        "..",
        "smollm2:135m",
    ],
)
@pytest.mark.parametrize("prefix", ["fine_tuned_", "a", "A" * 40, "my.bot-"])
def test_any_base_gives_a_name_that_every_engine_takes(base, prefix):
    name = load_config(overrides={"training.base_model": base, "deployment.model_name_prefix": prefix}).tuned_name()
    assert name.startswith(prefix) and len(name) <= 80
    assert full_tag(f"{name}:v12345") == f"{name}:v12345"


def test_long_and_foreign_names_stay_different_and_short_ones_as_they_were():
    def name(base):
        return load_config(overrides={"training.base_model": base}).tuned_name()

    bases = ["hf.co/a/" + "b" * 70 + ":q4", "hf.co/a/" + "b" * 70 + ":q8", "日本語", "한국어"]
    assert len({name(base) for base in bases}) == len(bases)
    assert (
        name("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M")
        == "fine_tuned_hf-co-bartowski-Llama-3-2-1B-Instruct-GGUF-Q4_K_M"
    )
    assert name("smollm2:135m") == "fine_tuned_smollm2-135m"


def test_what_an_older_run_wrote_down_of_frozen_layers_is_read_if_it_froze_none(tmp_path):
    file = tmp_path / "config.yaml"
    for nothing in ("0", '"0"', "null", ""):
        file.write_text(f"training: {{frozen_layers: {nothing}, lora_r: 4}}")
        assert load_config(file).training.lora_r == 4
    file.write_text("training: {frozen_layers: 15}")
    with pytest.raises(ConfigError, match="training: frozen_layers is no longer a setting: all layers are trained"):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "meant"), [("true", True), ("false", False), ("no", False), ("off", False), ("1", True)]
)
def test_the_fast_ways_are_switched_by_a_bool(tmp_path, text, meant):
    assert load_config().training.fused is True
    file = tmp_path / "own.yaml"
    file.write_text(f"training: {{fused: {text}}}")
    assert load_config(file).training.fused is meant


@pytest.mark.parametrize("text", ["maybe", "2", "[true]", "0.5"])
def test_a_switch_that_is_no_bool_is_named(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(f"training: {{fused: {text}}}")
    with pytest.raises(ConfigError, match=r"training\.fused"):
        load_config(file)
