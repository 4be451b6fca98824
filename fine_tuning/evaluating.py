"""Evaluate an existing version again (`byoai evaluate`)."""

from typing import TYPE_CHECKING

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ConfigError
from fine_tuning.events import Watch
from fine_tuning.judging import evaluate
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.planning import collect, make_plan
from fine_tuning.resuming import plan_of_run, run_behind
from fine_tuning.runs import only_one
from fine_tuning.workshop import Workshop

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict


def evaluate_again(
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch | None = None,
    number: int | None = None,
    name: str | None = None,
) -> "tuple[Version, Comparison, Verdict]":
    """Evaluate a version again on the chats that its run held out; return version, comparison and verdict.

    `number`: the version's number; None: the live version. `name`: the fine-tuned model's name;
    None: the configured one. The report and the evaluation in the version's run are rewritten; the
    live version and the recorded verdict of the gate do not change. Raises ConfigError if the
    version's run or data is missing.
    """
    registry, name = Registry(), name or config.tuned_name()
    live = registry.live(name)
    version = registry.get(name, number) if number is not None else live
    if version is None:
        raise ConfigError(f"nothing to evaluate: {name} has no live version. `byoai retrain` makes one")
    run = run_behind(version, "evaluated")
    if not run.inputs.exists():
        raise ConfigError(
            f"{version.tag} cannot be evaluated, because the chats to test it are not on this machine: choose another "
            "version, or retrain"
        )
    settings = load_config(run.config)
    if live and live.number == version.number:  # the live version cannot be better than itself
        settings = settings.changed({"gate.better": False})
    shop = Workshop(settings, engine, watch)
    with only_one():
        said = collect(shop)
        plan = plan_of_run(make_plan(shop, said), run)
        artifact = run.adapter_gguf if version.mode == "adapter" else run.model_gguf
        comparison, verdict = evaluate(shop, plan.material, run, artifact, said.turns)
    return version, comparison, verdict
