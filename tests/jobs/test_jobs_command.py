"""`byoai jobs`: what a person, or a program, sees of the jobs, and does with them."""

import argparse
import json
from typing import Any

import pytest
from waiting import PATIENCE, counted, wait_for

from fine_tuning.cli import jobs
from fine_tuning.cli.options import Commands
from fine_tuning.errors import ByoaiError, JobNotFound
from fine_tuning.jobs import store
from fine_tuning.jobs.queue import Queue

LONG: dict[str, Any] = {"counts": 10_000, "pause": 0.01}


def byoai(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    jobs.add_commands(Commands(parser))
    options = parser.parse_args(["jobs", *arguments])
    code: int = options.command(options)
    return code


def said(capsys: Any) -> Any:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_jobs_it_says_so(queue: Queue, capsys: Any) -> None:
    assert byoai() == byoai("list") == 0
    assert "no jobs yet" in capsys.readouterr().out
    assert byoai("list", "--json") == 0 and said(capsys) == []
    with pytest.raises(JobNotFound):
        byoai("watch")


def test_jobs_are_listed_for_people_and_for_programs(queue: Queue, capsys: Any) -> None:
    job = queue.wait(queue.submit("small", {"counts": 2}).id, PATIENCE)
    byoai()
    line = capsys.readouterr().out
    assert job.id in line and "completed" in line and "counted to 2" in line
    byoai("list", "--json")
    (record,) = said(capsys)
    assert (record["id"], record["state"], record["progress"], record["exit_code"], record["events"]) == (
        job.id,
        "completed",
        1.0,
        0,
        3,
    )
    assert "request" not in record


@pytest.mark.parametrize(
    ("request_", "code"), [({"counts": 2}, 0), ({"fails": "no room"}, 1), ({"ends": "SIGKILL"}, 130)]
)
def test_watching_shows_all_and_ends_as_the_job_does(
    queue: Queue, capsys: Any, request_: dict[str, Any], code: int
) -> None:
    job = queue.submit("small", request_)
    assert byoai("watch", job.id) == code
    told = capsys.readouterr().out
    assert "1/" in told and job.id in told.splitlines()[-2]
    assert byoai("watch", job.id, "--json", "--after", "1") == code
    records = said(capsys)
    assert [record["n"] for record in records[:-1]] == list(range(2, len(records) + 1)) and records[-1]["id"] == job.id


def test_cancel_waits_and_resume_retry_and_logs_do_what_they_say(queue: Queue, capsys: Any) -> None:
    job = queue.submit("small", {**LONG, "says": "hello from the worker"})
    wait_for(lambda: counted(job) > 2)
    assert byoai("cancel") == 0  # the newest
    assert store.get(job.id).state == "cancelled" and "cancelled" in capsys.readouterr().out
    assert byoai("resume", job.id[:-2], "--json") == 0  # an id's beginning is enough
    assert said(capsys)[0]["attempt"] == 2
    wait_for(lambda: store.get(job.id).process)
    assert byoai("cancel", job.id, "--grace", "5", "--json") == 0 and said(capsys)[0]["state"] == "cancelled"
    assert byoai("logs", job.id) == 0 and "hello from the worker" in capsys.readouterr().out
    assert byoai("logs", job.id, "--json") == 0 and said(capsys)[0] == {"job": job.id, "line": "hello from the worker"}
    assert byoai("retry", job.id, "--json") == 0 and said(capsys)[0]["id"] != job.id


def test_an_id_that_is_none_or_several_is_refused(queue: Queue) -> None:
    for id in ("one-1", "one-2"):
        store.add("small", {"counts": 1, "says": id}, id=id)
    with pytest.raises(ByoaiError, match=r"begin with one- \((one-2, one-1|one-1, one-2)\)"):
        byoai("watch", "one-")
    for unknown in ("two", "../../etc", "one-11"):
        with pytest.raises(JobNotFound):
            byoai("logs", unknown)
