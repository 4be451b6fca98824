"""Jobs that pull a model: over Ollama's API, from a stand-in that answers as Ollama does (docs/api.md of Ollama)."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from waiting import PATIENCE

from fine_tuning.events import Count, Finished, Note, read_events
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State

MODEL, SIZE = "qwen3:0.6b", 1000
LAYER = {"digest": "sha256:1f0c", "total": SIZE}
PULLED = [
    {"status": "pulling manifest"},
    *({"status": "pulling 1f0c", **LAYER, "completed": done} for done in range(0, SIZE + 1, 5)),
    {"status": "verifying sha256 digest"},
    {"status": "success"},
]


@pytest.fixture
def pull(queue: Queue) -> Iterator[Callable[[list[dict[str, object]]], tuple[Job, Any]]]:
    """Return what pulls MODEL by a job while Ollama tells `lines`: the job's end, and what was asked for."""
    told: list[dict[str, object]] = []
    asked: list[Any] = []

    class Ollama(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer([{"version": "0.32.15"}])

        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self._answer(told)

        def _answer(self, lines: list[dict[str, object]]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write("".join(json.dumps(line) + "\n" for line in lines).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ollama) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"

        def act(lines: list[dict[str, object]]) -> tuple[Job, Any]:
            told[:] = lines
            job = queue.submit("pull", {"model": MODEL, "ollama_url": url})
            return queue.wait(job.id, PATIENCE), asked

        yield act
        server.shutdown()


def test_a_model_is_pulled_and_its_progress_told_once_a_percent(pull: Callable[..., tuple[Job, Any]]) -> None:
    job, asked = pull(PULLED)
    assert (job.state, job.reason) == (State.COMPLETED, f"{MODEL} is there")
    assert json.loads(job.result.read_text()) == {"tag": MODEL}
    ((path, body),) = asked
    assert (path, body["model"], body["stream"]) == ("/api/pull", MODEL, True)
    events = [event for _, event in read_events(job.events)]
    assert [event.text for event in events if isinstance(event, Note)] == [
        *("pulling manifest", "pulling 1f0c", "verifying sha256 digest", "success")
    ]
    counts = [event for event in events if isinstance(event, Count)]
    assert [count.done for count in counts] == list(range(0, SIZE + 1, 10)) and counts[0].unit == "bytes"
    assert isinstance(events[-1], Finished) and events[-1].tag == MODEL


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}], "does not exist"),
        (PULLED[:50], "try again, and it goes on from where it stopped"),
    ],
)
def test_a_pull_that_does_not_succeed_fails_with_the_reason(
    pull: Callable[..., tuple[Job, Any]], lines: list[dict[str, object]], said: str
) -> None:
    job, _ = pull(lines)
    assert job.state == State.FAILED and said in job.reason and not job.result.exists()
