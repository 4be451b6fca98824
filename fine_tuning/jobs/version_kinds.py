"""The kinds of jobs that make versions from other versions: merge and quantise."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fine_tuning.errors import ConfigError
from fine_tuning.events import Watch
from fine_tuning.jobs.request import JobRequest, Kind, Result

if TYPE_CHECKING:
    from fine_tuning.outcome import Outcome


def result_of(outcome: "Outcome") -> dict[str, object]:
    """Return the outcome of a retrain as a dictionary of JSON values, for the job's result.json."""
    from fine_tuning.outcome import NewVersion, NoVersion

    match outcome:
        case NewVersion():
            return {
                "run": str(outcome.run.folder),
                "version": outcome.number,
                "tag": outcome.tag,
                "live": outcome.live,
                "passed": outcome.verdict.passed,
            }
        case NoVersion():
            return {"run": str(outcome.run.folder), "reason": outcome.reason}
    return {"reason": outcome.reason}


# Merge


class MergePart(BaseModel):
    """A version to merge, with its weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    name: str | None = None  # name of the fine-tuned model; None: that of the request, or else of the configuration


class MergeRequest(JobRequest):
    """A request to merge versions; for the fields see `merging.merge_versions` and `adapter_merge.Recipe`."""

    parts: Annotated[tuple[MergePart, ...], Field(min_length=2, max_length=100)]
    method: Literal["linear", "ties", "dare", "dare_ties"] = "linear"
    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rank: Annotated[int, Field(ge=1)] | None = None
    name: str | None = None  # name of the model under which the result is registered; None: that of the parts
    promote: bool = False  # use the new version even if the gate refuses it


def _merge(request: MergeRequest, watch: Watch) -> Result:
    from fine_tuning.merging import Part, merge_versions
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.training.adapter_merge import Recipe

    registry, default = Registry(), request.name or request.config.tuned_name()
    parts = [Part(registry.get(part.name or default, part.version), part.weight) for part in request.parts]
    recipe = Recipe(request.method, request.density, request.seed, request.rank)
    made = merge_versions(request.config, request.engine(), watch, parts, recipe, request.name, promote=request.promote)
    lineage = registry.get(made.tag.partition(":")[0], made.number).lineage
    scores = [asdict(score) for score in made.comparison.scores()]
    return {**result_of(made), "lineage": lineage.record() if lineage else None, "scores": scores}


# Quantise


class QuantiseRequest(JobRequest):
    """A request to measure quantisations of a version or, if `use` is set, to make a version with this quantisation."""

    version: Annotated[int, Field(ge=1)] | None = None  # None: the version in use
    name: str | None = None  # name of the fine-tuned model; None: the name in the configuration
    quantisations: Annotated[tuple[str, ...], Field(min_length=1, max_length=30)] | None = None  # None: the usual ones
    use: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    promote: bool = False  # with `use`: use the new version even if the gate refuses it


def _quantise(request: QuantiseRequest, watch: Watch) -> Result:
    from fine_tuning.model_management.model_registry import Registry
    from fine_tuning.quantising import USUAL, compare_quantisations, quantise_version

    config, registry = request.config, Registry()
    name = request.name or config.tuned_name()
    version = registry.get(name, request.version) if request.version else registry.live(name)
    if version is None:
        raise ConfigError(f"no version of {name} is live: name one (`byoai models` lists them)")
    if request.use:
        made = quantise_version(config, request.engine(), watch, version, request.use, promote=request.promote)
        return {**result_of(made), "scores": [asdict(score) for score in made.comparison.scores()]}
    found = compare_quantisations(config, request.engine(), watch, version, request.quantisations or USUAL)
    return asdict(found)


VERSION_KINDS = {"merge": Kind(MergeRequest, _merge), "quantise": Kind(QuantiseRequest, _quantise)}
