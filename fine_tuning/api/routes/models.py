"""Routes for the engine's models. To pull a model, submit a job of the kind `pull`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import Serving
from fine_tuning.api.engine_threads import waits_for_engine
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.engines.base import ModelSummary, known_tag
from fine_tuning.errors import ModelNotFound
from fine_tuning.integration.ollama_integration import Models, remove_base
from fine_tuning.model_management.model_switcher import Choice

router = APIRouter(prefix="/api/models", tags=["models"], responses=OF_ENGINE)

Tag = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./:-]{0,399}$", description="a model's name, as the list has it")
]


class ModelFacts(BaseModel):
    """A model of the engine that can answer."""

    tag: str
    title: str  # name to display
    kind: Literal["base", "fine_tuned"]
    live: bool  # whether it is the version of its fine-tuned model that is in use
    default: bool  # whether it answers if no model is named
    name: str  # a fine-tuned model's name without version
    number: int  # number of the version; 0 for a base model, and for a tag `latest` that is not one of the versions
    refused: str  # the reason why the gate refused it; "" if it did not
    digest: str
    size: int  # bytes
    family: str
    parameter_size: str  # as reported by the engine
    quantization: str


class ModelList(BaseModel):
    engine: str  # name and address of the engine
    default: str | None  # the tag of the model that answers if no model is named
    items: list[ModelFacts]
    lost: str = ""  # a message if the version in use is missing from the engine


class Made(BaseModel):
    """The definition of a model, as in a Modelfile."""

    template: str | None
    system: str | None
    parameters: dict[str, object]
    license: str | None
    adapter: bool  # whether it is an adapter on another model's weights


class ModelShown(ModelFacts):
    gguf_digest: str  # sha256 of the base weights' file
    context_length: int  # context length in tokens
    chat_template: str | None  # the template in the GGUF
    made: Made = Field(description="the model's definition, as in a Modelfile")


@router.get("")
@waits_for_engine
def list_models(service: Serving) -> ModelList:
    """List the models that can answer: base models first, then fine-tuned models, the newest version first."""
    found, known = service.models(), _summaries(service)
    items = [_facts(found, choice, known[choice.tag]) for choice in found.found if choice.tag in known]
    return ModelList(
        engine=found.engine, default=found.default.tag if found.default else None, lost=found.lost, items=items
    )


@router.get("/{tag:path}")
@waits_for_engine
def show_model(tag: Tag, service: Serving) -> ModelShown:
    """Show a model with its definition."""
    found, known = service.models(), _summaries(service)
    choice = found.get(known_tag(tag, known))
    if choice is None:
        raise ModelNotFound(f"the engine has no model {tag!r}: GET /api/models lists them")
    details = service.engine().show(choice.tag)
    spec = details.spec
    return ModelShown(
        **_facts(found, choice, known[choice.tag]).model_dump(),
        gguf_digest=details.gguf_digest,
        context_length=details.context_length,
        chat_template=details.chat_template,
        made=Made(
            template=spec.template,
            system=spec.system,
            parameters=spec.parameters,
            license=spec.license,
            adapter=spec.adapter is not None,
        ),
    )


@router.delete("/{tag:path}", status_code=204)
@waits_for_engine
def delete_model(
    tag: Tag, service: Serving, force: Annotated[bool, Query(description="even from Ollama's own store")] = False
) -> None:
    """Remove a base model from the engine; from Ollama's own store only with `force`.

    To remove a version of a fine-tuned model, use /api/versions.
    """
    remove_base(service.engine(), service.config, tag, force=force)


def _summaries(service: Serving) -> dict[str, ModelSummary]:
    return {model.tag: model for model in service.engine().list_models()}


def _facts(found: Models, choice: Choice, summary: ModelSummary) -> ModelFacts:
    return ModelFacts(
        tag=choice.tag,
        title=found.title(choice.tag),
        kind=choice.kind,
        live=choice.live,
        default=choice == found.default,
        name=choice.name,
        number=choice.number,
        refused=choice.refused,
        digest=summary.digest,
        size=summary.size,
        family=summary.family,
        parameter_size=summary.parameter_size,
        quantization=summary.quantization,
    )
