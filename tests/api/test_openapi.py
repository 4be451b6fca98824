"""The API against its own description: whatever is sent, no answer is a fault of the server, and
each is one that the description names.

schemathesis makes the requests from the description. They go through the door to the real app; the
workers of jobs do nothing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method
from served_app import OWN, door_of, service_of

from fine_tuning.api.app import create_app
from fine_tuning.api.background import tended
from fine_tuning.api.security import TOKEN_HEADER, Access, Token
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs import store
from fine_tuning.model_management.model_registry import Registry

BY_DESIGN = [
    positive_data_acceptance,  # cursors and settings obey rules that no schema says
    # the door looks at a change's body and token before anybody knows whether there is such a route
    unsupported_method,
]
TUNED = "fine_tuned_smollm2-135m"


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Iterator[BaseSchema]:
    """The description of a server with a base, a version, some turns and a job."""
    home = tmp_path_factory.mktemp("contract")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOAI_HOME", str(home))
        patch.setenv("BYOAI_ENGINE", "embedded")
        engine, registry, log = EmbeddedEngine(home / "engine"), Registry(), ConversationLogger()
        engine.create("smollm2:135m", ModelSpec(base_gguf, template=CHATML))
        engine.create(f"{TUNED}:v1", ModelSpec("smollm2:135m", parameters={"seed": 1}))
        registry.add(TUNED, 1, base_tag="smollm2:135m", turns=["turn"])
        store.add("compare", {}, id="a-job")
        for number in range(3):
            log.rate(log.log_conversation(f"question {number}", f"answer {number}").id, "up")
        service = service_of()
        schema = schemathesis.openapi.from_asgi(
            "/api/openapi.json", door_of(service), headers={"host": OWN.removeprefix("http://")}
        )
        schema.config.update(base_url=OWN, headers={TOKEN_HEADER: Token().read()}, request_timeout=60)
        with tended(service, Access(8501)):  # else a job that is watched is never over
            yield schema


contracts = schemathesis.pytest.from_fixture("contract")


def test_no_body_takes_a_field_that_is_not_described(home: Path) -> None:
    """Such a field might set what only the server may set, as the owner or the state of what is made."""
    described = create_app(service_of()).openapi()
    bodies = [
        content["schema"]
        for path in described["paths"].values()
        for operation in path.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]
    objects = list(objects_in(bodies, described["components"]["schemas"], set()))
    assert len(objects) > 20
    assert [each.get("title") for each in objects if each.get("additionalProperties") is not False] == []


def objects_in(schema: Any, named: Mapping[str, Any], seen: set[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of objects with named fields that `schema` is, contains or refers to."""
    if isinstance(schema, dict):
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            yield from objects_in(named[name], named, seen | {name})
        if "properties" in schema:
            yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from objects_in(each, named, seen)


LET_MODELS_ANSWER = "^/api/(doctor|review|turns/.*/learned-from)$"  # which takes seconds each time


@contracts.exclude(path_regex=LET_MODELS_ANSWER).parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_names(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=BY_DESIGN)


@contracts.include(path_regex=LET_MODELS_ANSWER).parametrize()
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_so_is_every_answer_for_which_models_are_asked(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=BY_DESIGN)
