"""The loop, top to bottom: log -> dataset -> adapter -> GGUF -> Ollama tag. Read this first.

`retrain` runs the stages in order and leaves a folder, data/runs/<id>/, that holds all of it. It is the only place where stages meet;
what is decided before the training is in planning.py, whether the result is better in judging.py, what a run's folder holds in runs.py.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import yaml

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, FineTuningMethod, load_config
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.dataset_builder import hash_of
from fine_tuning.data_preparation.replay import build_replay, read_prompts
from fine_tuning.engines.agreement import check_export, make_probes
from fine_tuning.engines.base import ChatOptions, Engine
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.errors import ByoaiError, Cancelled, ConfigError, ParityError
from fine_tuning.events import Finished, Watch
from fine_tuning.judging import evaluate
from fine_tuning.model_management.model_deployer import check_parity, reconcile, register
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Registry, Version, latest_tag, version_tag
from fine_tuning.model_management.model_switcher import use
from fine_tuning.model_management.modelfile import modelfile_text
from fine_tuning.planning import Plan, check_folders, check_plan, collect, count_unlearned, make_plan
from fine_tuning.resuming import open_run, plan_of_run
from fine_tuning.run_answers import Answers, through_transformers
from fine_tuning.runs import Run, only_one
from fine_tuning.workshop import Request, Workshop

if TYPE_CHECKING:
    from fine_tuning.engines.agreement import Reference
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.training.lora_trainer import TrainingResult
    from fine_tuning.training.runner import Runner
    from fine_tuning.training.sweep import SweepResult


@dataclass(frozen=True)
class NothingToDo:
    """A retrain that did not begin, and why."""

    reason: str


@dataclass(frozen=True)
class NoVersion:
    """A retrain of which no version was made: no GGUF can carry its method. What was trained stays in the run."""

    run: Run
    training: "TrainingResult"
    answers: Answers
    reason: str


@dataclass(frozen=True)
class NewVersion:
    """A retrain that made a version."""

    run: Run
    number: int
    tag: str
    live: bool
    training: "TrainingResult"
    comparison: "Comparison"
    verdict: "Verdict"  # of the gate
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @property
    def refused(self) -> bool:
        """Whether the gate holds it back, and nobody insisted."""
        return not self.verdict.passed and not self.live

    def summary(self) -> str:
        """Return in plain words who answers now, and what can be done."""
        name = self.tag.partition(":")[0]
        if self.live:
            more = "" if self.verdict.passed else " by hand, although the gate refused it"
            return f"{self.tag} is live{more}: the chat answers with it now. In a terminal: ollama run {name}"
        if not self.verdict.passed:
            insist = f"To try it: ollama run {self.tag}. To insist: byoai use {self.tag} --promote"
            return f"{self.tag} was refused and kept as a candidate; who answered before still does. {insist}"
        return f"{self.tag} is registered, not live (deployment.auto_deploy is off). In a terminal: ollama run {self.tag}"


Outcome = NothingToDo | NoVersion | NewVersion


def retrain(
    config: FineTuningConfig, engine: Engine, watch: Watch | None = None, request: Request | None = None, runner: "Runner | None" = None
) -> Outcome:
    """Clean, format, train, export, evaluate, judge, register, and make live. The live model stays what it is until the very last step,
    and for good if the gate refuses the new one.

    `runner` (training/runner.py) trains: by default a child process.
    Raises Busy when another retrain runs, Cancelled when `watch` asks it to stop, and whatever a stage raises; what was done is kept, and
    the next retrain resumes it.
    """
    watch = watch or Watch()
    with only_one():
        try:
            outcome = _retrain(Workshop(config, engine, watch, request), runner)
        except ByoaiError as error:
            watch.tell(Finished("stopped" if isinstance(error, Cancelled) else "failed", str(error), seconds=watch.seconds))
            raise
        watch.tell(_finished(outcome, watch.seconds))
        return outcome


def _finished(outcome: Outcome, seconds: dict[str, float]) -> Finished:
    match outcome:
        case NothingToDo(reason):
            return Finished("no version", reason, seconds=seconds)
        case NoVersion():
            return Finished("no version", outcome.reason, answers=outcome.answers[:2], seconds=seconds)
    answers = tuple((before.prompt, before.answer, after.answer) for before, after in outcome.comparison.answers()[:2])
    state: Literal["live", "registered", "refused"] = "live" if outcome.live else "registered" if outcome.verdict.passed else "refused"
    return Finished(state, outcome.summary(), outcome.tag, answers, seconds)


def _retrain(shop: Workshop, runner: "Runner | None") -> Outcome:
    from fine_tuning.training.children import warm_up

    engine, watch, least = shop.engine, shop.watch, shop.request.if_new
    watch.note(f"engine: {engine.name} {engine.version()} at {engine.where}")
    check_folders(shop)
    for finding in reconcile(engine, shop.registry, shop.name):
        watch.note(finding.text)
    if least is not None and (new := count_unlearned(shop)) < least:
        return NothingToDo(f"{new} new turn(s) since the last version, fewer than {least}: nothing to do")
    said = collect(shop)
    if runner is None and said.turns:
        warm_up()
    plan = make_plan(shop, said, to_train=True)
    check_plan(shop, plan)
    shop = shop.with_config(plan.config)
    run, plan = open_run(shop, plan)
    replay = build_replay_rows(shop, plan)
    with memory_for(shop, plan):
        training = train(shop, plan, run, replay, runner)
        if plan.mode is None:
            return end_without_version(shop, run, training)
        artifact = export(shop, run, training)
        comparison, verdict = evaluate(shop, plan, run, artifact, said.turns)
    number = register_version(shop, plan, run, artifact, comparison, verdict)
    live = promote(shop, run, number, verdict)
    tag = version_tag(shop.name, number)
    paths.write_json(run.manifest, {"version": number, "tag": tag, "seconds": watch.seconds})
    return NewVersion(run, number, tag, live, training, comparison, verdict, watch.seconds)


# From rows to a model


def build_replay_rows(shop: Workshop, plan: Plan) -> Path | None:
    """Return token rows of general prompts that the base answered itself; None if there are none to learn."""
    settings = plan.config.training.replay
    if not plan.replay_prompts:
        return None
    options = ChatOptions(temperature=0, seed=0, max_tokens=settings.max_new_tokens)

    def answer(prompt: str) -> tuple[str, bool]:
        chunks = list(shop.engine.chat(plan.base.tag, [Message(role="user", content=prompt)], options))
        return "".join(chunk.text for chunk in chunks), chunks[-1].done_reason == "stop"

    prompts = read_prompts(plan.replay_prompts, plan.config.training.seed)
    key = f"{plan.base.digest} {settings.max_new_tokens}"
    file, making = build_replay(prompts, answer, shop.render, shop.vocabulary, plan.config.data_preparation.max_length, key)
    with shop.watch.stage("Asking the base what it should not forget"):
        for done in making:
            shop.watch.count(done, len(prompts))
    return file


@contextmanager
def memory_for(shop: Workshop, plan: Plan) -> Iterator[None]:
    """Have the engine put its models away while they would be in the way, and warm the live one again afterwards."""
    from fine_tuning.training.hardware import has_gpu

    short = psutil.virtual_memory().available < 2 * plan.estimate.memory
    loaded = shop.engine.unload() if has_gpu() or short else []
    if loaded:
        shop.watch.note(f"{', '.join(loaded)} put away while training needs the memory")
    try:
        yield
    finally:
        live = latest_tag(shop.name)
        if loaded and any(model.tag == live for model in shop.engine.list_models()):
            shop.engine.warm(live)


def train(shop: Workshop, plan: Plan, run: Run, replay: Path | None, runner: "Runner | None") -> "TrainingResult":
    """Teach an adapter (or the whole model) the rows."""
    from fine_tuning.training.runner import TrainingJob, run_in_child
    from fine_tuning.training.trainer_utils import TrainingRows

    with shop.watch.stage("Training"):
        served = run.folder / "served.npz"
        if reference := served_base(plan):
            reference.save(served)
        rows = TrainingRows(plan.rows, replay, plan.preferences.path if plan.preference_method else None)
        job = TrainingJob(plan.base.gguf, rows, run.folder, plan.config.training, plan.estimate.base_weights, served if reference else None)
        training = (runner or run_in_child)(job, shop.watch)
        for damage in training.passed_over:
            shop.watch.note(f"passed over: {damage}")
    return training


def served_base(plan: Plan) -> "Reference | None":
    """Return what llama.cpp computes with the base, on some of what will be learned: training must begin with the same. None if nothing
    will be learned, or if no GGUF can carry it, so that it is not served."""
    from fine_tuning.evaluation.served_model import read_logits

    rows = [json.loads(line)["input_ids"] for line in (plan.rows / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    if not rows or plan.mode is None:
        return None
    return read_logits(plan.base.gguf, make_probes(rows, read_gguf(plan.base.gguf)))


def export(shop: Workshop, run: Run, training: "TrainingResult") -> Path:
    """Return the adapter's GGUF, or the whole model's. ExportError unless llama.cpp computes with it what was trained."""
    from fine_tuning.evaluation.served_model import read_logits
    from fine_tuning.model_management.gguf_export import convert_adapter, export_full, merge_adapter

    base, beside = shop.base.gguf, shop.mode == "adapter"
    with shop.watch.stage("Exporting to GGUF"):
        if beside:
            artifact = convert_adapter(base, training.adapter, run.adapter_gguf).path
        else:
            write = export_full if shop.config.training.method == FineTuningMethod.FULL else merge_adapter
            artifact = write(base, training.adapter, run.model_gguf, shop.config.deployment.quantization).path
    if trained := training.network:
        with shop.watch.stage("Checking that what was exported is what was trained"):
            probes = trained.base.probes
            served = read_logits(base, probes, artifact) if beside else read_logits(artifact, probes, requantised=True)
            check_export(trained, served)
    return artifact


def end_without_version(shop: Workshop, run: Run, training: "TrainingResult") -> NoVersion:
    """Answer the test prompts through Transformers: what was trained stays in the run, and the live model as it is."""
    with shop.watch.stage("Answering through Transformers"):
        answers = through_transformers(shop.config, shop.engine, shop.base, run, shop.config.evaluation.test_prompts)
    method = shop.config.training.method
    reason = f"no GGUF can carry {method}: no version was made. `byoai compare --run {run.name}` asks it again"
    paths.write_json(run.manifest, {"version": None, "reason": reason, "seconds": shop.watch.seconds})
    return NoVersion(run, training, answers, reason)


# From a model to the one that answers


def register_version(shop: Workshop, plan: Plan, run: Run, artifact: Path, comparison: "Comparison", verdict: "Verdict") -> int:
    """Enter the version and make its tag; a run that was interrupted here goes on with the number it had."""
    if not run.version.exists():
        paths.write_json(run.version, shop.registry.next_number(shop.name))
    number, folder = int(paths.read_json(run.version)), run.folder
    with shop.watch.stage(f"Registering {version_tag(shop.name, number)}"):
        spec = shop.spec(artifact)
        paths.atomic_write(run.modelfile, modelfile_text(spec, folder))
        metrics = {"base": comparison.base.scores, "tuned": comparison.tuned.scores, "gate": verdict.record()}
        if any(known.number == number for known in shop.registry.list(shop.name)):
            shop.registry.update(shop.name, number, metrics=metrics, verdict=str(verdict))
        else:
            shop.registry.add(
                shop.name,
                number,
                base_tag=plan.base.tag,
                base_digest=plan.base.gguf_digest,
                run=str(folder.relative_to(paths.home()) if folder.is_relative_to(paths.home()) else folder.absolute()),
                dataset=plan.dataset.path.name,
                method=plan.config.training.method,
                mode=plan.mode or "merged",
                metrics=metrics,
                verdict=str(verdict),
                turns=plan.turn_ids,
            )
        register(shop.engine, version_tag(shop.name, number), spec)
    return number


def promote(shop: Workshop, run: Run, number: int, verdict: "Verdict") -> bool:
    """Prove that the engine feeds the new model what it was trained on; only then, and past the gate, let it answer as `latest`."""
    tag, by_hand = version_tag(shop.name, number), shop.request.promote
    with shop.watch.stage("Checking that it is served as it was trained"):
        try:
            report = check_parity(shop.engine, tag, shop.render, shop.vocabulary.encode, shop.vocabulary.control_tokens())
        except ParityError as error:
            hold_back(shop, run, number, verdict, error)
            raise
        parity = f"parity: {report.cases} conversations, {report.tokens} tokens alike"
        shop.registry.update(shop.name, number, verdict=f"{verdict}. {parity}")
    if not (verdict.passed and shop.config.deployment.auto_deploy) and not by_hand:
        return False
    with shop.watch.stage(f"Making {tag} live"):
        use(shop.engine, shop.registry, shop.name, number, by_hand=by_hand)
    return True


def hold_back(shop: Workshop, run: Run, number: int, verdict: "Verdict", error: ParityError) -> None:
    """Note why a version must not go live, for every later switch. The run, gone on with once the cause is mended, makes another."""
    from fine_tuning.evaluation.gate import Result, Verdict

    reason = str(error).partition("\n")[0]
    judged = Verdict([*verdict.results, Result("served as trained", "the same text, and an answer that ends", "", False, reason)])
    metrics = shop.registry.get(shop.name, number).metrics | {"gate": judged.record()}
    shop.registry.update(shop.name, number, metrics=metrics, verdict=str(judged))
    run.version.unlink()


# Once more


def evaluate_again(
    config: FineTuningConfig, engine: Engine, watch: Watch | None = None, number: int | None = None, name: str | None = None
) -> "tuple[Version, Comparison, Verdict]":
    """Let a version (None: the live one) sit its exam once more, on the chats that its own run held out; report and evaluation of its
    run are written anew. Nothing else changes: neither who is live, nor what the gate said of it.

    ConfigError for a version of which the run, or the data, is gone.
    """
    registry, name = Registry(), name or config.tuned_name()
    live = registry.live(name)
    version = registry.get(name, number) if number is not None else live
    folder = run_of(version) if version else None
    if version is None or folder is None or not Run(folder).inputs.exists():
        which = f"the run of {version.tag}" if version else f"a live version of {name}"
        raise ConfigError(f"there is nothing to evaluate: {which} is not there")
    run = Run(folder)
    settings = load_config(run.config)
    if live and live.number == version.number:  # it cannot be better than itself
        settings = settings.changed({"gate.better": False})
    shop = Workshop(settings, engine, watch)
    with only_one():
        said = collect(shop)
        plan = plan_of_run(make_plan(shop, said), run)
        artifact = run.adapter_gguf if version.mode == "adapter" else run.model_gguf
        comparison, verdict = evaluate(shop, plan, run, artifact, said.turns)
    return version, comparison, verdict


# The search for settings


def sweep(
    config: FineTuningConfig, engine: Engine, watch: Watch | None = None, request: Request | None = None, name: str | None = None
) -> "SweepResult":
    """Search for the settings with the least validation loss; the best ones are in `<folder>`/best.yaml, a whole configuration.

    Dataset, base and replay are prepared once, under the lock; then other processes may join. `name`: default, a study for each
    dataset, base and ranges. Raises what `retrain` and `training.sweep.search` raise.
    """
    from fine_tuning.training.sweep import SWEPT, Prepared, search

    shop = Workshop(config, engine, watch, request)
    with only_one():
        check_folders(shop)
        plan = make_plan(shop, to_train=True)
        check_plan(shop, plan)
        replay = build_replay_rows(shop.with_config(plan.config), plan)
    config = plan.config
    others = config.training.model_dump(mode="json", exclude={*SWEPT, "batch_tokens"})
    facts = [plan.rows.name, plan.base.gguf_digest, replay and replay.name, others]
    identity, ranges = hash_of(facts), hash_of(config.sweep.model_dump(mode="json", exclude={"trials", "minutes"}))
    prepared = Prepared(plan.base.gguf, plan.rows, replay, identity, plan.estimate.base_weights)
    with memory_for(shop, plan), shop.watch.stage("Sweeping"):
        found = search(
            prepared,
            config.training,
            config.sweep,
            name or f"{plan.name}-{identity[:8]}-{ranges[:4]}",
            shop.watch,
        )
    best = config.changed({f"training.{key}": value for key, value in found.settings.items()})
    paths.atomic_write(found.folder / "best.yaml", yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return found
