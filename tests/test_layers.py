"""The layer line of design and docstring, checked on the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate"}

CHILDS = {"engines/llama.py", "engines/native_child.py", "evaluation/decoder.py"}  # what runs in llama.cpp's own process

# Left to right as in fine_tuning/__init__.py; what stands on one level does not import each other (but for itself).
LEVELS = [
    ["cli", "terminal", "dialogue", "doctor", "api", "chatbot", "__main__"],
    ["jobs"],
    ["forgetting", "review"],
    ["pipeline"],
    ["data_preparation", "training", "evaluation", "model_management"],
    ["data_collection", "engines"],
    ["state", "paths", "config", "config_file", "conversation"],
    ["errors", "thoughts"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FREE_WITHIN = {LEVEL["cli"], LEVEL["paths"]}  # the faces of the program use each other, and so do the ground's modules


def modules() -> list[Path]:
    return sorted(path for folder in ("fine_tuning", "chatbot") for path in (ROOT / folder).rglob("*.py"))


def room_of(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fine_tuning" and len(parts) > 1 else parts[0]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted module, whether it is imported when the module is), type-checking imports left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = [f"{child.module}.{alias.name}" for alias in child.names] if child.module == "fine_tuning" else [child.module]
                found.extend((name, top) for name in names)
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(tree, True)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_imports_only_what_stands_to_its_right(path):
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if path == ROOT / "fine_tuning" / "__init__.py":
        return
    for module, _ in imports(path):
        if module.split(".")[0] not in {"fine_tuning", "chatbot"} or (other := room_of(module)) == own:
            continue
        assert LEVEL[other] > LEVEL[own] or (LEVEL[other] == LEVEL[own] and LEVEL[own] in FREE_WITHIN), f"{own} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_parties_stay_in_their_rooms(path):
    own = path.relative_to(ROOT)
    for module, _ in imports(path):
        package = module.split(".")[0]
        if package in HEAVY and "evaluate_metrics" not in own.parts:  # which the evaluate library loads itself, by their paths
            assert own.parts[:2] == ("fine_tuning", "training"), f"{own} imports {module}"
        if package == "ollama":
            assert own == Path("fine_tuning/engines/ollama.py")
        if package == "llama_cpp":
            assert own.as_posix().removeprefix("fine_tuning/") in CHILDS


@pytest.mark.parametrize("module", ["chatbot.session", "fine_tuning.cli", "fine_tuning.pipeline", "fine_tuning.doctor"])
def test_no_torch_comes_with(module):
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
