"""The benchmarks are run by hand; here, that they start as their own first lines say."""

import importlib.util
import sys
from pathlib import Path

import pytest

from fine_tuning.evaluation.gate import Result, Verdict

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def gate(monkeypatch):
    """The gate's benchmark with its trainings replaced: what `failing` names fails, each time."""
    spec = importlib.util.spec_from_file_location("gate_benchmark", FOLDER / "gate.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gate_benchmark", module)
    spec.loader.exec_module(module)
    module.failing = []

    def run(scenario, home):
        return Verdict(
            [Result(rule, "", "", rule not in module.failing, "") for rule in ("leak probe", "sane answers")]
        )

    monkeypatch.setattr(module, "run", run)
    return module


def test_the_gates_benchmark_runs_every_scenario_when_none_is_named(gate, capsys):
    with pytest.raises(SystemExit) as ended:
        gate.main([])
    assert ended.value.code == 1  # nothing was stopped
    printed = capsys.readouterr().out
    assert [name for name in gate.SCENARIOS if f"{name} " in printed] == list(gate.SCENARIOS)


def test_the_gates_benchmark_says_whether_the_right_rule_stopped_the_named_one(gate, capsys):
    gate.failing = ["leak probe"]
    gate.main(["canary"])
    assert "as it should be" in capsys.readouterr().out


def test_an_unknown_scenario_is_named_with_those_there_are(gate, capsys):
    with pytest.raises(SystemExit):
        gate.main(["nonsense"])
    assert "no such scenario: nonsense. There are good, shuffled" in capsys.readouterr().err
