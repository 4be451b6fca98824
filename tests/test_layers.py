"""The layer line of design and docstring, checked on the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate"}

# reads the data sets of the Hub, and of folders, by their own library
OF_DATASETS = {"data_collection/importers/huggingface.py"}
# asks Ollama, by its own client
OF_OLLAMA = {"engines/ollama.py", "engines/ollama_messages.py"}
# what runs in llama.cpp's own process
CHILDS = {"engines/llama.py", "engines/native_child.py", "evaluation/decoder.py"}

_MORE = ["measurements", "row_index", "token_rows", "units"]

# Left to right as in fine_tuning/__init__.py; what stands on one level does not import each other (but for itself).
LEVELS = [
    ["cli", "api", "chatbot", "__main__"],
    ["integration"],
    ["jobs"],
    ["evaluating", "forgetting", "merging", "quantising", "review", "sweeping"],
    ["pipeline"],
    ["outcome"],
    ["judging", "resuming", "run_answers", "survey"],
    ["planning"],
    ["rewording"],
    ["plan", "profiles", "workshop"],
    ["data_preparation", "training", "evaluation", "model_management"],
    ["data_collection", "engines"],
    ["state", "paths", "runs", "config", "conversation", "branches", "durations", "events", *_MORE],
    ["errors", "json_values", "thoughts"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FREE_WITHIN = {LEVEL["cli"], LEVEL["paths"]}  # the faces of the program use each other, and so do the ground's modules


def modules(root: Path) -> list[Path]:
    return sorted(path for folder in ("fine_tuning", "chatbot") for path in (root / folder).rglob("*.py"))


def room_of(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fine_tuning" and len(parts) > 1 else parts[0]


def imports(path: Path, root: Path) -> list[str]:
    """Every module that `path` imports, at its top or in a function, as a dotted name; those for
    type checking are left out.
    """
    package = path.relative_to(root).parent.parts
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                of = [*package[: len(package) - child.level + 1], child.module] if child.level else [child.module]
                module = ".".join(filter(None, of))
                found.extend(
                    [f"{module}.{alias.name}" for alias in child.names] if module == "fine_tuning" else [module]
                )
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def leftward(path: Path, root: Path) -> list[str]:
    """What `path` imports from its own level or from one to its left."""
    own = room_of(".".join(path.relative_to(root).with_suffix("").parts))
    if path == root / "fine_tuning" / "__init__.py":
        return []
    ours = [
        module
        for module in imports(path, root)
        if module.split(".")[0] in {"fine_tuning", "chatbot"} and room_of(module) != own
    ]
    return [module for module in ours if not may_import(own, room_of(module))]


def may_import(own: str, other: str) -> bool:
    return LEVEL[other] > LEVEL[own] or (LEVEL[other] == LEVEL[own] and LEVEL[own] in FREE_WITHIN)


def misplaced(path: Path, root: Path) -> list[str]:
    """The third-party packages that `path` imports, and that another room keeps to itself."""
    own = path.relative_to(root)
    allowed = {
        "ollama": own.as_posix().removeprefix("fine_tuning/") in OF_OLLAMA,
        "mlflow": own == Path("fine_tuning/jobs/tracking.py"),
        "llama_cpp": own.as_posix().removeprefix("fine_tuning/") in CHILDS,
        # the evaluate library loads its metrics itself, by their paths
        **dict.fromkeys(HEAVY, own.parts[:2] == ("fine_tuning", "training") or "evaluate_metrics" in own.parts),
    }
    if own.as_posix().removeprefix("fine_tuning/") in OF_DATASETS:
        allowed["datasets"] = True
    return [module for module in imports(path, root) if not allowed.get(module.split(".")[0], True)]


@pytest.mark.parametrize("path", modules(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_imports_only_what_stands_to_its_right(path):
    assert leftward(path, ROOT) == []


@pytest.mark.parametrize("path", modules(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_parties_stay_in_their_rooms(path):
    assert misplaced(path, ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("engines/base.py", "from fine_tuning import pipeline", "fine_tuning.pipeline"),
        ("engines/base.py", "from fine_tuning.training.loss import loss", "fine_tuning.training.loss"),
        ("training/loss.py", "def late():\n    import fine_tuning.evaluation.gate", "fine_tuning.evaluation.gate"),
        ("evaluation/gate.py", "from ..model_management import elo", "fine_tuning.model_management"),
        ("data_collection/x.py", "from ..cli.show import size", "fine_tuning.cli.show"),
        ("errors.py", "from fine_tuning.paths import home", "fine_tuning.paths"),
        ("pipeline.py", "if True:\n    from chatbot import session", "chatbot"),
        ("data_preparation/deep/x.py", "from ...training import loss", "fine_tuning.training"),
    ],
)
def test_an_import_to_the_left_is_found(tmp_path, file, line, found):
    assert leftward(planted(tmp_path, file, line), tmp_path) == [found]


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("engines/embedded.py", "import ollama", "ollama"),
        ("engines/ollama_url.py", "from ollama import Client", "ollama"),
        ("cli/tracking.py", "def late():\n    import mlflow", "mlflow"),
        ("training/trainer.py", "from mlflow.entities import Metric", "mlflow.entities"),
        ("cli/machine.py", "def run():\n    import ollama._types as types", "ollama._types"),
        ("evaluation/served_model.py", "import llama_cpp", "llama_cpp"),
        ("pipeline.py", "def late():\n    from torch.nn import Module", "torch.nn"),
        ("model_management/peft_adapter.py", "import peft", "peft"),
        ("jobs/training.py", "import os, transformers", "transformers"),
    ],
)
def test_a_third_party_in_another_room_is_found(tmp_path, file, line, found):
    assert misplaced(planted(tmp_path, file, line), tmp_path) == [found]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engines/ollama.py", "import ollama"),
        ("engines/llama.py", "import llama_cpp"),
        ("jobs/tracking.py", "def late():\n    from mlflow import MlflowClient"),
        ("training/deep/x.py", "from torch import nn"),
        ("pipeline.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("pipeline.py", "from fine_tuning.engines import ollama"),  # our own module of that name
        ("cli/show.py", "from fine_tuning.errors import ByoaiError"),
    ],
)
def test_an_import_in_its_place_is_let_pass(tmp_path, file, line):
    path = planted(tmp_path, file, line)
    assert leftward(path, tmp_path) == misplaced(path, tmp_path) == []


def planted(root: Path, file: str, line: str) -> Path:
    path = root / "fine_tuning" / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    return path


@pytest.mark.parametrize(
    "module",
    [
        "chatbot.session",
        "fine_tuning.cli.main",
        "fine_tuning.integration.doctor",
        "fine_tuning.pipeline",
        "fine_tuning.api.app",
    ],
)
def test_no_torch_comes_with(module):
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_library_tells_its_makers_what_is_trained():
    code = "import fine_tuning; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "True"
    )


def test_no_file_and_no_function_is_too_long_to_be_read_at_once() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    too_long = []
    for file in (file for room in ("fine_tuning", "chatbot") for file in (ROOT / room).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        lines = text.count("\n")
        too_long += [f"{file.relative_to(ROOT)}: {lines} lines"] if lines > 450 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, functions) and node.end_lineno and (length := node.end_lineno - node.lineno + 1) > 60:
                too_long.append(f"{file.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not too_long
