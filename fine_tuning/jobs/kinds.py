"""Define the kinds of jobs (`KINDS`): each has a typed request, and a function that does the work."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import ConfigError, EngineError
from fine_tuning.events import Finished, Watch
from fine_tuning.jobs.request import JobRequest, Kind, Result
from fine_tuning.jobs.version_kinds import VERSION_KINDS, result_of
from fine_tuning.units import counted
from fine_tuning.workshop import Request

if TYPE_CHECKING:
    from fine_tuning.data_collection.importers.importing import Report, Wanted

# Retrain, and train on the user's own dataset


class RetrainRequest(JobRequest):
    sample: bool = False
    if_new: Annotated[int, Field(ge=0)] | None = None
    force: bool = False
    auto: bool = False
    promote: bool = False

    @classmethod
    def of(cls, config: FineTuningConfig, request: Request, ollama_url: str | None = None) -> "RetrainRequest":
        return cls(config=config, ollama_url=ollama_url, **asdict(request))

    def asked(self) -> Request:
        return Request(self.sample, self.if_new, self.force, self.auto, self.promote)


class TrainRequest(RetrainRequest):
    force: bool = True  # train however small the dataset is, since the user named it

    @model_validator(mode="after")
    def _has_a_dataset(self) -> "TrainRequest":
        if self.config.dataset.path is None:
            raise ValueError(
                "config.dataset.path names no dataset to train on: prepare a dataset, or submit a `retrain`, which "
                "learns the chats"
            )
        return self


def _retrain(request: RetrainRequest, watch: Watch) -> Result:
    from fine_tuning.pipeline import retrain

    return result_of(retrain(request.config, request.engine(), watch, request.asked()))


# Plan


class PlanRequest(RetrainRequest):
    """A request to find out what a retrain or a training would learn, and the memory and time that it would take."""


def _plan(request: PlanRequest, watch: Watch) -> Result:
    from fine_tuning.planning import make_plan
    from fine_tuning.units import gigabytes
    from fine_tuning.workshop import Workshop

    plan = make_plan(Workshop(request.config, request.engine(), watch, request.asked()))
    needs = plan.estimate
    work = f"{counted(plan.kept_turns, 'turn')}, {counted(needs.steps, 'step')}"
    told = f"{work}: about {gigabytes(needs.memory)} of memory; {plan.times}"
    watch.tell(Finished("done", told, seconds=watch.seconds))
    return plan.record()


# Sweep, evaluate, compare


class SweepRequest(JobRequest):
    sample: bool = False
    force: bool = False
    auto: bool = False
    name: str | None = None  # name of the study


def _sweep(request: SweepRequest, watch: Watch) -> Result:
    from fine_tuning.sweeping import sweep

    asked = Request(sample=request.sample, force=request.force, auto=request.auto)
    found = sweep(request.config, request.engine(), watch, asked, request.name)
    best = ", ".join(f"{key} {value:g}" for key, value in found.settings.items())
    watch.tell(
        Finished(
            "done",
            f"best of {found.finished} trainings: {best} (validation loss {found.loss:.4f})",
            seconds=watch.seconds,
        )
    )
    return {"folder": str(found.folder), "settings": dict(found.settings), "loss": found.loss}


class EvaluateRequest(JobRequest):
    version: Annotated[int, Field(ge=1)] | None = None  # None: the version in use
    name: str | None = None  # name of the fine-tuned model; None: the name in the configuration


def _evaluate(request: EvaluateRequest, watch: Watch) -> Result:
    from fine_tuning.evaluating import evaluate_again

    version, comparison, verdict = evaluate_again(
        request.config, request.engine(), watch, request.version, request.name
    )
    watch.tell(Finished("done", f"{version.tag}: {verdict}", version.tag, seconds=watch.seconds))
    scores = [asdict(score) for score in comparison.scores()]
    return {
        "tag": version.tag,
        "passed": verdict.passed,
        "scores": scores,
        "evaluation": comparison.record(request.config.evaluation.canaries),
    }


class CompareRequest(JobRequest):
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    models: tuple[str, ...] = ()  # "base", "live", "v3", or tags of models; empty: "base" and "live"
    max_tokens: Annotated[int, Field(ge=1)] | None = None


def _compare(request: CompareRequest, watch: Watch) -> Result:
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.model_management.compare import chosen_tags
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.workshop import base_of

    config, engine, answers = request.config, request.engine(), []
    tags = chosen_tags(engine, Registry(), config.tuned_name(), base_of(config, engine).tag, request.models)
    total = len(tags) * len(request.prompts)
    limit = ChatOptions(max_tokens=request.max_tokens, default_max_tokens=config.chat.max_tokens)
    with watch.stage("Comparing"):
        for tag in tags:  # one model after another, so that each is loaded only once
            for prompt in request.prompts:
                pieces = []
                for chunk in engine.chat(tag, [Message(role="user", content=prompt)], limit):
                    watch.stop_if_asked()
                    pieces.append(chunk.text)
                answers.append({"tag": tag, "prompt": prompt, "answer": "".join(pieces)})
                watch.count(len(answers), total)
    return {"answers": answers}


# Import


class ImportRequest(JobRequest):
    """A request to import from `upload`, or from `places`.

    `upload` is the id of a finished upload; `places` are local files, folders, or hf:owner/name.
    """

    LOCAL: ClassVar[frozenset[str]] = JobRequest.LOCAL | {"places"}

    upload: Annotated[str, Field(max_length=100)] | None = None
    places: tuple[str, ...] = ()
    # a name in the importers' table, or module:function; empty: detect it
    format: Annotated[str, Field(max_length=300)] = ""
    me: Annotated[str, Field(max_length=300)] = ""  # in a chat among people, the person who gives the answers
    licence: Annotated[str, Field(max_length=1000)] = ""
    source: Annotated[str, Field(max_length=300)] = ""  # the source's name in the log; empty: the file's name
    # the task of all turns, a label for the mix; empty: the one that the file states
    task: Annotated[str, Field(max_length=60)] = ""
    branches: Literal["best", "all"] = "best"
    # a model that also checks each answer made from a document; empty: none
    judge: Annotated[str, Field(max_length=300)] = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> "ImportRequest":
        if bool(self.upload) == bool(self.places):
            raise ValueError("name either an upload (`upload`), or files and folders (`places`)")
        if self.upload and ":" in self.format:
            raise ValueError(
                "format: a function of your own (module:function) cannot read an upload: name a format, or leave it "
                "out to have the format detected"
            )
        return self

    def wanted(self) -> "Wanted":
        from fine_tuning.data_collection.importers.importing import Wanted

        return Wanted(self.format, self.me, self.licence, self.source, self.task, self.branches)


def import_asked(request: ImportRequest, watch: Watch) -> "Report":
    """Import the upload or the files that the request names into the log of conversations; return the report.

    Raises the errors of `importing.import_files`.
    """
    from dataclasses import replace

    from fine_tuning.data_collection import uploads
    from fine_tuning.data_collection.cleaning.planted_phrases import title_of
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import import_files, new_id
    from fine_tuning.jobs.document_judge import judge_with

    id, places, wanted = new_id(), list(request.places), request.wanted()
    if request.upload:
        upload = uploads.get(request.upload).noting_import(id)
        places, wanted = [str(upload.content)], replace(wanted, source=wanted.source or upload.name)
    if request.judge:
        wanted = replace(wanted, judge=judge_with(request.engine(), request.judge))
    report = import_files(ConversationLogger(request.config.log_path), places, wanted, watch, id)
    back = f"To remove them again: byoai import --undo {report.id}" if report.added else ""
    warned = f"; {title_of(report.planted)}" if report.planted else ""
    told = f"{report.added:,} of {counted(report.turns, 'turn')} added{warned}"
    watch.tell(Finished("done", told, seconds=watch.seconds, commands=back))
    return report


def _import(request: ImportRequest, watch: Watch) -> Result:
    report = import_asked(request, watch)
    counts = (
        *("id", "conversations", "unanswered", "open_questions"),
        *("turns", "context", "added", "known", "set_aside", "unread_count"),
    )
    faults = [asdict(fault) for fault in report.faults]
    return {
        **{name: getattr(report, name) for name in counts},
        "formats": dict(report.formats),
        "faults": faults,
        "planted": [asdict(phrase) for phrase in report.planted],
        "unread": report.unread,
    }


class UndoImportRequest(JobRequest):
    """A request to undo an import: to remove all its turns from the log."""

    import_id: Annotated[str, Field(min_length=1, max_length=100)]


def _undo_import(request: UndoImportRequest, watch: Watch) -> Result:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.data_collection.importers.importing import undo

    with watch.stage("Undoing an import"):
        taken = undo(ConversationLogger(request.config.log_path), request.import_id)
    watch.tell(Finished("done", f"{counted(taken, 'turn')} removed from the log", seconds=watch.seconds))
    return {"id": request.import_id, "taken_back": taken}


# Survey the log, and find answers to review


class SurveyRequest(JobRequest):
    """A request to find out, turn by turn, what a retrain would learn from the log."""


def _survey(request: SurveyRequest, watch: Watch) -> Result:
    from fine_tuning.survey import look_through

    try:
        engine = request.engine()
    except EngineError as error:  # the engine is needed only to count tokens
        watch.note(f"the result will contain no numbers of tokens, because no engine can count them: {error}")
        engine = None
    facts = look_through(request.config, engine, watch).facts
    told = f"{facts['kept_turns']:,} of {counted(facts['turns'], 'turn')} would be learned"
    watch.tell(Finished("done", told, seconds=watch.seconds))
    return facts


class ReviewRequest(JobRequest):
    count: Annotated[int, Field(ge=1, le=100)] = 20


def _review(request: ReviewRequest, watch: Watch) -> Result:
    from fine_tuning.data_collection.conversation_logger import ConversationLogger
    from fine_tuning.review import of_log

    with watch.stage("Reading the newest answers with both models"):
        turns = ConversationLogger(request.config.log_path).turns()
        found = of_log(request.config, request.engine(), turns, request.count, watch) if turns else []
    watch.tell(Finished("done", f"{counted(len(found), 'answer')} worth a look", seconds=watch.seconds))
    return {
        "items": [
            {"turn": each.turn.id, "surprise": each.surprise, "shift": each.shift, "alike": list(each.alike)}
            for each in found
        ]
    }


# Prepare the user's own dataset


class PrepareRequest(JobRequest):
    """A request to prepare the user's own dataset; for the fields see `preprocessing.prepare`."""

    LOCAL: ClassVar[frozenset[str]] = JobRequest.LOCAL | {"source", "format"}

    source: str
    format: str = "jsonl"
    output_format: str = "jsonl"
    steps: tuple[dict[str, str], ...] = ()


def _prepare(request: PrepareRequest, watch: Watch) -> Result:
    from fine_tuning.data_preparation.preprocessing import prepare

    with watch.stage("Preparing a dataset"):
        file = prepare(request.source, request.format, request.output_format, request.steps, watch=watch)
    watch.tell(Finished("done", f"written to {file}", seconds=watch.seconds))
    return {"dataset": file.stem, "file": str(file)}


# Forget, pull, fetch the default base


class ForgetRequest(JobRequest):
    """A request to forget turns. It names them by id: requests are stored, so a text in one would not be forgotten."""

    turns: tuple[str, ...] = ()  # ids of turns or sessions; empty: resume an interrupted forgetting
    teach_again: bool = True
    now: bool = False


def _forget(request: ForgetRequest, watch: Watch) -> Result:
    from fine_tuning.forgetting import examine, forget

    config, engine = request.config, request.engine()
    case = examine(config, engine, *request.turns)
    done = forget(config, engine, watch, case, teach_again=request.teach_again, now=request.now)
    told = done.unfinished or f"{counted(len(case.turns), 'turn')} forgotten" + (
        f"; {', '.join(done.retired)} removed" if done.retired else ""
    )
    watch.tell(Finished("done", told, done.version, seconds=watch.seconds))
    return {
        "turns": len(case.turns),
        "version": done.version,
        "retired": list(done.retired),
        "strangers": list(done.strangers),
        "left": [str(path) for path in done.left],
        "unfinished": done.unfinished,
    }


class PullRequest(JobRequest):
    model: Annotated[str, Field(min_length=1, max_length=300)]


def _pull(request: PullRequest, watch: Watch) -> Result:
    from fine_tuning.engines.ollama import OllamaEngine

    engine = request.engine()
    if not isinstance(engine, OllamaEngine):
        raise ConfigError("pulling a model needs Ollama, and none is running: start Ollama, and try again")
    with watch.stage(f"Pulling {request.model}"):
        status, shown = "", -1
        for part in engine.pull(request.model):
            watch.stop_if_asked()
            if part.status != status:
                status, shown = part.status, -1
                watch.note(status)
            # Ollama reports progress many times per second
            if part.total and (percent := 100 * part.done // part.total) != shown:
                shown = percent
                watch.count(part.done, part.total, "bytes")
    watch.tell(Finished("done", f"{request.model} is there", request.model, seconds=watch.seconds))
    return {"tag": request.model}


class FetchBaseRequest(JobRequest):
    """A request to download the default base model and register it in the engine."""


def _fetch_base(request: FetchBaseRequest, watch: Watch) -> Result:
    from fine_tuning.engines.default_base import ensure_default_base

    engine = request.engine()
    with watch.stage("Fetching the base model"):
        tag = ensure_default_base(engine, watch)
    watch.tell(Finished("done", f"{tag} is there", tag, seconds=watch.seconds))
    return {"tag": tag}


KINDS: dict[str, Kind] = {
    "retrain": Kind(RetrainRequest, _retrain),
    "train": Kind(TrainRequest, _retrain),
    "plan": Kind(PlanRequest, _plan, heavy=False),
    "sweep": Kind(SweepRequest, _sweep),
    "evaluate": Kind(EvaluateRequest, _evaluate),
    **VERSION_KINDS,
    "compare": Kind(CompareRequest, _compare),
    "forget": Kind(ForgetRequest, _forget),
    "import": Kind(ImportRequest, _import, heavy=False),
    "undo_import": Kind(UndoImportRequest, _undo_import, heavy=False),
    "survey": Kind(SurveyRequest, _survey, heavy=False),
    "review": Kind(ReviewRequest, _review),
    "prepare": Kind(PrepareRequest, _prepare, heavy=False),
    "pull": Kind(PullRequest, _pull, heavy=False),
    "fetch_base": Kind(FetchBaseRequest, _fetch_base, heavy=False),
}


def read_request(kind: str, request: Mapping[str, object]) -> JobRequest:
    """Return a job's request, validated.

    Raises ConfigError for an unknown kind, and for an invalid request, with all its faults.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no job of the kind {kind[:40]!r}: choose one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].request.model_validate(request)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'request'}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(
            f"{counted(len(faults), 'fault')} in the request of a job ({kind}):\n" + "\n".join(faults)
        ) from error
