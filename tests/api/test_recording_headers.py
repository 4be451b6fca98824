"""What a client of /v1 says of recording: only what the description names, and only once."""

from pathlib import Path

import pytest

from fine_tuning.data_collection.conversation_logger import ConversationLogger
from tests.api.served_app import client_of

RECORD, SESSION = "X-Byoai-Record", "X-Byoai-Session"
PATHS = {
    "/v1/chat/completions": {"model": "live", "messages": [{"role": "user", "content": "Hello?"}]},
    "/v1/completions": {"model": "live", "prompt": "Hello?"},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        [(RECORD, "maybe")],
        [(RECORD, "ON")],
        [(RECORD, "on,off")],
        [(RECORD, "true")],
        [(RECORD, "on"), (RECORD, "maybe")],  # from here on the first one alone was heard
        [(RECORD, "off"), (RECORD, "on")],
        [(RECORD, "on"), (RECORD, "off")],
        [(RECORD, "on"), (RECORD, "on")],
        [(RECORD, ""), (RECORD, "null")],
        [(RECORD, "off"), (RECORD.lower(), "x" * 1000)],
        [(SESSION, "mine"), (SESSION, "../../etc")],
        [(RECORD, "on"), (SESSION, "mine"), (SESSION, "yours")],
    ],
)
def test_other_values_and_more_than_one_are_refused(home: Path, path: str, headers: list[tuple[str, str]]) -> None:
    client = client_of()
    answer = client.post(path, json=PATHS[path], headers=[*client.headers.items(), *headers])
    assert (answer.status_code, answer.json()["error"]["type"]) in ((400, "InvalidRequest"), (400, "ConfigError"))
    assert not ConversationLogger().path.exists()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [[], [(RECORD, "")], [(RECORD, "off")], [(RECORD, "on")], [(SESSION, "")]])
def test_each_value_of_the_description_is_heard(home: Path, path: str, headers: list[tuple[str, str]]) -> None:
    client = client_of()
    answer = client.post(path, json=PATHS[path], headers=[*client.headers.items(), *headers])
    assert answer.json()["error"]["type"] == "ModelNotFound"  # the next thing that is looked at
