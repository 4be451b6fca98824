"""`byoai jobs`: list the jobs, watch one, cancel, resume or try it again, show its log."""

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from fine_tuning.cli.options import Commands
from fine_tuning.errors import ByoaiError, Cancelled
from fine_tuning.events import Count, Event, EventReader, Finished, Note, Stage, Step, to_record
from fine_tuning.units import clock

if TYPE_CHECKING:
    from fine_tuning.jobs.queue import Queue
    from fine_tuning.jobs.store import Job

_GLANCE = 0.3  # seconds between two looks


def add_commands(commands: Commands) -> None:
    """Add the command of this group."""
    command = commands.add("jobs", _run, "list the jobs, watch one, cancel, resume or retry it, show its log")
    command.set_defaults(do=_list, json=False, all=False)
    actions = command.add_subparsers(title="what to do", metavar="ACTION", help="default: list")

    def action(name: str, do: Any, help: str, *, one: bool = True) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=help, description=help)
        parser.set_defaults(do=do)
        parser.add_argument("--json", action="store_true", help="an object a line, for programs")
        if one:
            parser.add_argument("job", nargs="?", metavar="JOB", help="an id, or the beginning of one (default: the newest)")
        return parser

    action("list", _list, "list the jobs, newest first", one=False).add_argument(
        "--all", action="store_true", help="not only the newest 20"
    )
    action("watch", _watch, "show what a job tells until it is over; Ctrl-C ends only the watching").add_argument(
        "--after", type=int, default=0, metavar="N", help="from the event after number N on"
    )
    cancel = action("cancel", _cancel, "ask a job to stop at its next safe point, and wait until it has")
    cancel.add_argument("--discard", action="store_true", help="remove what it made so far; else the next one goes on from there")
    cancel.add_argument("--grace", type=float, default=30.0, metavar="SECONDS", help="until it is killed (default: %(default)g)")
    action("resume", _resume, "go on with a job that was cancelled, failed or interrupted")
    action("retry", _retry, "ask for the same once more, as another job")
    action("logs", _logs, "show what the processes of a job wrote")


def _run(options: argparse.Namespace) -> int:
    """Do what was asked; return the exit code."""
    from fine_tuning.jobs.queue import Queue

    code: int | None = options.do(options, Queue())
    return code or 0


def _list(options: argparse.Namespace, queue: "Queue") -> None:
    jobs = queue.jobs(limit=500 if options.all else 20)
    if not jobs and not options.json:
        print("no jobs yet: a retrain is one (byoai retrain)")
    for job in jobs:
        print(json.dumps(_record(job)) if options.json else _line(job))


def _watch(options: argparse.Namespace, queue: "Queue") -> int:
    job = _chosen(options, queue)
    reader = EventReader(job.events, options.after)
    while True:
        job = queue.get(job.id)  # before its events: what it told last is not missed
        for number, event in reader.read():
            told = json.dumps({"n": number, **to_record(event)}) if options.json else _told(event)
            if told:
                print(told, flush=True)
        if job.over:
            break
        time.sleep(_GLANCE)
    print(json.dumps(_record(job)) if options.json else _line(job))
    return _code(job)


def _cancel(options: argparse.Namespace, queue: "Queue") -> int:
    job = queue.cancel(_chosen(options, queue).id, discard=options.discard, grace=options.grace)
    if job.here and not job.over and not options.json:
        print(f"{job.origin} (process {job.process.pid if job.process else '?'}) was asked to stop, and does so at its next safe point")
    job = queue.wait(job.id, options.grace + 5)
    print(json.dumps(_record(job)) if options.json else _line(job))
    return 0 if job.over else 1


def _resume(options: argparse.Namespace, queue: "Queue") -> None:
    job = queue.resume(_chosen(options, queue).id)
    print(json.dumps(_record(job)) if options.json else _line(job))


def _retry(options: argparse.Namespace, queue: "Queue") -> None:
    job = queue.retry(_chosen(options, queue).id)
    print(json.dumps(_record(job)) if options.json else _line(job))


def _logs(options: argparse.Namespace, queue: "Queue") -> None:
    job = _chosen(options, queue)
    files = [file for file in (job.log.with_suffix(".1.txt"), job.log) if file.exists()]
    text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    if options.json:
        print("\n".join(json.dumps({"job": job.id, "line": line}) for line in text.splitlines()))
    else:
        print(text.rstrip() or f"{job.id} wrote nothing; `byoai jobs watch {job.id}` shows what it told")


def _chosen(options: argparse.Namespace, queue: "Queue") -> "Job":
    """Return the job that is meant. ByoaiError if none or several are."""
    jobs = queue.jobs(limit=500)
    wanted = options.job
    found = [job for job in jobs if wanted is None or job.id.startswith(wanted)]
    exact = [job for job in found if job.id == wanted] or (found[:1] if wanted is None else found)
    if len(exact) > 1:
        raise ByoaiError(f"{wanted} can be {', '.join(job.id for job in exact[:5])}: write more of it")
    return exact[0] if exact else queue.get(wanted or "none")


def _record(job: "Job") -> dict[str, Any]:
    from fine_tuning.jobs.progress import record

    return record(job)


def _line(job: "Job") -> str:
    from fine_tuning.jobs.progress import progress_of

    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.begun or job.created))
    spent = clock((job.ended or time.time()) - job.begun) if job.begun else ""
    told = job.reason.partition("\n")[0]
    if job.active:
        now = progress_of(event for _, event in EventReader(job.events).read())
        told = f"{now.stage} {now.done}/{now.total}" if now.total else now.stage
    return "  ".join(filter(None, [job.id, f"{job.kind:8}", f"{job.state:11}", begun, spent, told[:100]]))


def _told(event: Event) -> str:
    match event:
        case Stage(title):
            return f"== {title}"
        case Note(text) | Finished(text=text):
            return text
        case Count(done, total):
            return f"   {done} of {total}" if done in (1, total) or done % max(total // 10, 1) == 0 else ""
        case Step():
            left = f", {clock(event.eta)} left" if event.eta else ""
            return f"   step {event.step} of {event.steps}: loss {event.loss:.3f}{left}"
    return ""


def _code(job: "Job") -> int:
    if job.state == "completed":
        return 0
    return Cancelled.exit_code if job.state in ("cancelled", "interrupted") else job.exit_code or 1
