"""No GET changes anything."""

import itertools
import re
from pathlib import Path

import pytest
from served_app import client_of

from fine_tuning import state
from fine_tuning.api.app import ROUTERS
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs import processes, store
from fine_tuning.model_management.model_registry import Registry

TUNED = "fine_tuned_smollm2-135m"
PATHS = sorted(  # type: ignore[attr-defined]
    {route.path for router in ROUTERS for route in router.routes if "GET" in (getattr(route, "methods", None) or ())}
)
INDEX = "log"  # tables whose name begins so follow the log, and are filled when it is read


def snapshot(home: Path) -> dict[str, object]:
    """Return all that lies in the data folder, but for the log's index."""
    files = {
        str(path): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.startswith("state.db")
    }
    with state.connect() as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        own = [name for name in tables if not name.startswith((INDEX, "sqlite_"))]
        return {**files, **{name: [tuple(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in own}}


def test_reading_every_route_leaves_the_data_folder_as_it_is(
    home: Path, base_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(base_gguf))
    engine.create(f"{TUNED}:v1", ModelSpec("smollm2:135m", parameters={"seed": 1}))
    Registry().add(TUNED, 1, base_tag="smollm2:135m", turns=["turn"])
    turn = ConversationLogger().log_conversation("Who waters the plants?", "Whoever comes in first.")
    job = store.add("compare", {"prompts": ["Hello"]}, id="a-job", here=processes.this_process())
    store.finish(job, store.State.COMPLETED, "done", 0)
    client = client_of()
    client.get("/api/models")  # the first look at the engine notes what it finds
    before, answered = snapshot(home), 0
    known = (turn.id, turn.session_id, job.id, TUNED, "smollm2:135m", "1", "upload", "live")
    for path in PATHS:
        places = re.findall(r"\{[^}]+\}", path)
        for values in itertools.product(known, repeat=len(places)):
            address = path
            for place, value in zip(places, values, strict=True):
                address = address.replace(place, value)
            found = client.get(
                address, params={"text": "plants"} if path == "/api/turns" else {}, follow_redirects=False
            )
            assert found.status_code < 500, (address, found.text)
            answered += found.status_code < 400
    assert answered > 20
    after = snapshot(home)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()
