"""Run the whole loop: log -> dataset -> adapter -> GGUF -> Ollama tag. Read this module first.

`retrain` runs the stages in order and stores their results in a run folder, data/runs/<id>/. Only
this module connects the stages. planning.py decides what to train on, judging.py whether the result
is better; outcome.py defines the possible outcomes of a retrain, runs.py the files in a run folder.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.config.training import FineTuningMethod
from fine_tuning.durations import TRAINING
from fine_tuning.engines.agreement import check_export, make_probes
from fine_tuning.engines.base import Engine
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.errors import ByoaiError, Cancelled, ParityError
from fine_tuning.events import Finished, Watch
from fine_tuning.judging import evaluate
from fine_tuning.model_management.model_deployer import check_parity, reconcile, register
from fine_tuning.model_management.model_registry import Lineage, latest_tag, version_tag
from fine_tuning.model_management.model_switcher import use
from fine_tuning.model_management.modelfile import modelfile_text
from fine_tuning.outcome import NewVersion, NothingToDo, NoVersion, Outcome, finished
from fine_tuning.plan import Material, Plan
from fine_tuning.planning import check_folders, check_plan, collect, count_unlearned, make_plan, replay_file
from fine_tuning.resuming import open_run
from fine_tuning.run_answers import through_transformers
from fine_tuning.runs import Run, only_one
from fine_tuning.units import counted
from fine_tuning.workshop import Request, Workshop

if TYPE_CHECKING:
    from fine_tuning.engines.agreement import Reference
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.model_management.pushed_checkpoints import PushedCheckpoints
    from fine_tuning.training.lora_trainer import TrainingResult
    from fine_tuning.training.runner import Runner


def retrain(
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch | None = None,
    request: Request | None = None,
    runner: "Runner | None" = None,
) -> Outcome:
    """Train a new version of the model on the log, evaluate and register it, and make it live.

    The live model changes only in the last step, and only if the gate accepts the new version.
    `runner` (training/runner.py) does the training; None: in a child process. Raises Busy if
    another training runs, Cancelled if `watch` asks to stop, and whatever a stage raises. Finished
    work is kept, and the next training resumes it.
    """
    watch = watch or Watch()
    with only_one():
        try:
            outcome = _retrain(Workshop(config, engine, watch, request), runner)
        except ByoaiError as error:
            watch.tell(
                Finished("stopped" if isinstance(error, Cancelled) else "failed", str(error), seconds=watch.seconds)
            )
            raise
        watch.tell(finished(outcome, watch.seconds))
        return outcome


def _retrain(shop: Workshop, runner: "Runner | None") -> Outcome:
    from fine_tuning.training.children import warm_up

    engine, watch, least = shop.engine, shop.watch, shop.request.if_new
    watch.note(f"engine: {engine.name} {engine.version()} at {engine.where}")
    check_folders(shop)
    for finding in reconcile(engine, shop.registry, shop.name):
        watch.note(finding.text)
    if least is not None and (new := count_unlearned(shop)) < least:
        return NothingToDo(f"{counted(new, 'new turn')} since the last version, fewer than {least}: nothing to do")
    said = collect(shop)
    if runner is None and said.turns:
        warm_up()
    plan = make_plan(shop, said, to_train=True)
    check_plan(shop, plan)
    shop = shop.with_config(plan.config)
    run, plan = open_run(shop, plan)
    replay = replay_file(shop, plan.replay_prompts)
    with memory_for(shop, plan):
        training = train(shop, plan, run, replay, runner)
        if plan.mode is None:
            return end_without_version(shop, run, training)
        artifact = export(shop, run, training)
        judged = evaluate(shop, plan.material, run, artifact, said.turns)
    return make_version(shop, plan.material, run, artifact, *judged, training)


# From rows to a model


@contextmanager
def memory_for(shop: Workshop, plan: Plan) -> Iterator[None]:
    """Unload the engine's models within the `with` block, if the training needs their memory.

    Afterwards, load the live model again.
    """
    from fine_tuning.training.hardware import has_gpu

    short = psutil.virtual_memory().available < 2 * plan.estimate.memory
    loaded = shop.engine.unload() if has_gpu() or short else []
    if loaded:
        shop.watch.note(f"unloaded {', '.join(loaded)}, since the training needs the memory")
    try:
        yield
    finally:
        live = latest_tag(shop.name)
        if loaded and any(model.tag == live for model in shop.engine.list_models()):
            shop.engine.warm(live)


def train(shop: Workshop, plan: Plan, run: Run, replay: Path | None, runner: "Runner | None") -> "TrainingResult":
    """Train an adapter, or the whole model, on the token rows of `plan`; return the result.

    `replay`: the file of replay rows. Before the training, the network is compared with the served
    base (`served_base`).
    """
    from fine_tuning.training.runner import TrainingJob, run_in_child
    from fine_tuning.training.trainer_utils import TrainingRows

    with shop.watch.stage(TRAINING):
        served = run.folder / "served.npz"
        if reference := served_base(plan):
            reference.save(served)
        rows = TrainingRows(plan.rows, replay, plan.preferences.path if plan.preference_method else None)
        job = TrainingJob(
            plan.base.gguf,
            rows,
            run.folder,
            plan.config.training,
            plan.estimate.base_weights,
            served if reference else None,
        )
        pushing = pushed_checkpoints(shop, run)
        training = (runner or run_in_child)(job, shop.watch.telling(pushing) if pushing else shop.watch)
        if pushing:
            pushing.push_new()
        for damage in training.passed_over:
            shop.watch.note(
                f"the training continues from an earlier checkpoint, because a newer one is damaged: {damage}"
            )
    return training


def pushed_checkpoints(shop: Workshop, run: Run) -> "PushedCheckpoints | None":
    """Return an object that pushes a run's checkpoints to the Hugging Face Hub; None if that is not configured."""
    from fine_tuning.model_management.pushed_checkpoints import PushedCheckpoints

    repository = shop.config.deployment.push_checkpoints
    return PushedCheckpoints(run.checkpoints, repository, shop.watch) if repository else None


def served_base(plan: Plan) -> "Reference | None":
    """Return the logits that llama.cpp computes with the base for some texts from the training rows.

    The training compares them with the logits of its own network (training/served_check.py). Return
    None if there are no rows, or if the result cannot be exported to GGUF and so is never served.
    """
    from fine_tuning.evaluation.served_model import read_logits

    rows = [
        json.loads(line)["input_ids"] for line in (plan.rows / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if not rows or plan.mode is None:
        return None
    return read_logits(plan.base.gguf, make_probes(rows, read_gguf(plan.base.gguf)))


def export(shop: Workshop, run: Run, training: "TrainingResult") -> Path:
    """Export the trained adapter or model to GGUF; return the file.

    Raises ExportError if the logits that llama.cpp computes with the file differ from those that
    Transformers computed after the training.
    """
    from fine_tuning.evaluation.served_model import read_logits

    base, beside = shop.base.gguf, shop.mode == "adapter"
    artifact = write_artifact(shop, run, training.adapter)
    if trained := training.network:
        with shop.watch.stage("Checking that what was exported is what was trained"):
            probes = trained.base.probes
            served = read_logits(base, probes, artifact) if beside else read_logits(artifact, probes, requantised=True)
            check_export(trained, served)
    return artifact


def write_artifact(shop: Workshop, run: Run, learned: Path) -> Path:
    """Export the trained parameters in `learned` to GGUF, as an adapter or as a whole model; return the file."""
    from fine_tuning.model_management.gguf_export import convert_adapter, export_full, merge_adapter

    with shop.watch.stage("Exporting to GGUF"):
        if shop.mode == "adapter":
            return convert_adapter(shop.base.gguf, learned, run.adapter_gguf).path
        write = export_full if shop.config.training.method == FineTuningMethod.FULL else merge_adapter
        return write(shop.base.gguf, learned, run.model_gguf, shop.config.deployment.quantization).path


def end_without_version(shop: Workshop, run: Run, training: "TrainingResult") -> NoVersion:
    """Finish a run whose result cannot be exported to GGUF, by answering the test prompts through Transformers.

    The trained parameters stay in the run's folder, and the live model does not change.
    """
    with shop.watch.stage("Answering through Transformers"):
        answers = through_transformers(shop.config, shop.engine, shop.base, run, shop.config.evaluation.test_prompts)
    method = shop.config.training.method
    reason = (
        f"a GGUF cannot store what {method} trains, so no version was made. To see how it answers: "
        f'`byoai compare --run {run.name} "a question"`'
    )
    paths.write_json(run.manifest, {"version": None, "reason": reason, "seconds": shop.watch.seconds})
    return NoVersion(run, training, answers, reason)


# From a trained model to the live one


def make_version(
    shop: Workshop,
    material: Material,
    run: Run,
    artifact: Path,
    comparison: "Comparison",
    verdict: "Verdict",
    training: "TrainingResult | None",
    lineage: Lineage | None = None,
) -> NewVersion:
    """Register an evaluated version, make it live if it is accepted, and finish its run.

    `training` is given for a trained version, `lineage` for a version that was made from others.
    """
    number = register_version(shop, material, run, artifact, comparison, verdict, lineage)
    live = promote(shop, run, number, verdict)
    tag, seconds = version_tag(shop.name, number), shop.watch.seconds
    paths.write_json(run.manifest, {"version": number, "tag": tag, "seconds": seconds})
    return NewVersion(
        run, number, tag, live, training, comparison, verdict, seconds, by_ollama=shop.engine.name == "ollama"
    )


def register_version(
    shop: Workshop,
    material: Material,
    run: Run,
    artifact: Path,
    comparison: "Comparison",
    verdict: "Verdict",
    lineage: Lineage | None = None,
) -> int:
    """Register the version and create its tag in the engine; return its number.

    If the run was interrupted here before, it keeps its number. `lineage` is given for a version
    made from others.
    """
    if not run.version.exists():
        paths.write_json(run.version, shop.registry.next_number(shop.name))
    number, folder = int(paths.read_json(run.version)), run.folder
    with shop.watch.stage(f"Registering {version_tag(shop.name, number)}"):
        spec = shop.spec(artifact)
        paths.atomic_write(run.modelfile, modelfile_text(spec, folder))
        metrics = {"base": comparison.base.scores, "tuned": comparison.tuned.scores, "gate": verdict.record()}
        if lineage:
            metrics["lineage"] = lineage.record()
        if any(known.number == number for known in shop.registry.list(shop.name)):
            shop.registry.update(shop.name, number, metrics=metrics, verdict=str(verdict))
        else:
            shop.registry.add(
                shop.name,
                number,
                base_tag=shop.base.tag,
                base_digest=shop.base.gguf_digest,
                run=str(folder.relative_to(paths.home()) if folder.is_relative_to(paths.home()) else folder.absolute()),
                dataset=material.dataset.path.name,
                method=lineage.method if lineage else shop.config.training.method,
                mode=shop.mode or "merged",
                metrics=metrics,
                verdict=str(verdict),
                notes=str(lineage or ""),
                turns=material.turn_ids,
                context=material.context,
            )
        register(shop.engine, version_tag(shop.name, number), spec)
    return number


def promote(shop: Workshop, run: Run, number: int, verdict: "Verdict") -> bool:
    """Check the version as it is served, and make it live if it is accepted; return whether it is live.

    The check is that the engine gives the model exactly the tokens that it was trained on, and that
    its answers end (`check_parity`); if not, ParityError is raised. The version is accepted if the
    gate passed it and deployment.auto_deploy is on, or if the user asked to promote it.
    """
    tag, by_hand = version_tag(shop.name, number), shop.request.promote
    with shop.watch.stage("Checking that it is served as it was trained"):
        try:
            report = check_parity(
                shop.engine, tag, shop.render, shop.vocabulary.encode, shop.vocabulary.control_tokens()
            )
        except ParityError as error:
            hold_back(shop, run, number, verdict, error)
            raise
        compared = f"{counted(report.cases, 'conversation')}, {report.tokens} tokens"
        parity = f"the engine is fed the same text as in training: {compared}"
        shop.registry.update(shop.name, number, verdict=f"{verdict}. {parity}")
    if not (verdict.passed and shop.config.deployment.auto_deploy) and not by_hand:
        return False
    with shop.watch.stage(f"Making {tag} live"):
        use(shop.engine, shop.registry, shop.name, number, by_hand=by_hand)
    return True


def hold_back(shop: Workshop, run: Run, number: int, verdict: "Verdict", error: ParityError) -> None:
    """Record in the registry that a version failed the parity check, so that it is not made live later.

    The run stays unfinished. Once the cause is fixed, the next training resumes it and makes another
    version.
    """
    from fine_tuning.evaluation.gate import Result, Verdict

    reason = str(error).partition("\n")[0]
    judged = Verdict(
        [*verdict.results, Result("served as trained", "the same text, and an answer that ends", "", False, reason)]
    )
    metrics = shop.registry.get(shop.name, number).metrics | {"gate": judged.record()}
    shop.registry.update(shop.name, number, metrics=metrics, verdict=str(judged))
    run.version.unlink()
