"""What `import fine_tuning` offers: the public names, each loaded when it is asked for."""

import importlib
import inspect
import subprocess
import sys

import pytest

import fine_tuning
from fine_tuning import FineTuningConfig, FineTuningMethod

HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "pydantic", "fine_tuning.config"}


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh Python has loaded after `code`."""
    code = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import fine_tuning") & HEAVY <= modules_after("") & HEAVY


@pytest.mark.parametrize("name", fine_tuning.__all__)
def test_a_public_name_resolves_and_is_documented(name):
    found = getattr(fine_tuning, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", fine_tuning.__all__)
def test_a_public_name_needs_no_torch(name):
    assert "torch" not in modules_after(f"from fine_tuning import {name}") - modules_after("")


def test_a_public_name_is_the_one_of_its_module():
    for name in fine_tuning.__all__:
        module = importlib.import_module(getattr(fine_tuning, name).__module__)
        assert getattr(module, name) is getattr(fine_tuning, name)


@pytest.mark.parametrize("name", ["nothing", "finetuningconfig", "_FineTuningConfig", "Config", "torch", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        getattr(fine_tuning, name)
    with pytest.raises(ImportError):
        exec(f"from fine_tuning import {name}")


def test_a_star_import_brings_the_public_names_alone():
    space: dict[str, object] = {}
    exec("from fine_tuning import *", space)
    assert set(space) - {"__builtins__"} == set(fine_tuning.__all__)


def test_a_configuration_is_made_by_keyword():
    config = FineTuningConfig(method="qlora", epochs=3)
    assert config.training.method is FineTuningMethod.QLORA
    assert config.training.num_epochs == 3


def test_its_documentation_says_what_to_read_first():
    assert "pipeline.py" in " ".join(str(fine_tuning.__doc__).split())
