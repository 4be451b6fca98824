"""The command jobs: list jobs; watch, cancel, resume or retry a job; show its log.

Other commands submit and follow their jobs with `do_job`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fine_tuning.cli.options import Commands, add_json, print_json
from fine_tuning.errors import ByoaiError, Cancelled
from fine_tuning.events import Event, EventReader, to_record
from fine_tuning.units import clock

if TYPE_CHECKING:
    from fine_tuning.jobs.queue import Queue
    from fine_tuning.jobs.store import Job

_GLANCE = 0.3  # seconds between checks of a followed job


def add_commands(commands: Commands) -> None:
    """Add the command of this module to the program."""
    command = commands.add("jobs", _run, "list the jobs, watch one, cancel, resume or retry it, show its log")
    command.set_defaults(do=_list, all=False)
    actions = command.add_subparsers(
        title="what to do", metavar="ACTION", help="what to do with the jobs (default: list)"
    )

    def action(name: str, do: object, help: str, *, one: bool = True) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=help, description=help)
        parser.set_defaults(do=do)
        add_json(parser)
        if one:
            parser.add_argument(
                "job", nargs="?", metavar="JOB", help="the id of a job, or its beginning (default: the newest job)"
            )
        return parser

    action("list", _list, "list the jobs, newest first", one=False).add_argument(
        "--all", action="store_true", help="list all jobs, not only the newest 20"
    )
    action(
        "watch", _watch, "show the progress of a job until it ends; Ctrl-C stops watching, not the job"
    ).add_argument("--after", type=int, default=0, metavar="N", help="show only the events after event number N")
    cancel = action("cancel", _cancel, "ask a job to stop at its next safe point, and wait until it has stopped")
    cancel.add_argument(
        "--discard",
        action="store_true",
        help="delete what the job has done so far (default: keep it, so that the next job continues from there)",
    )
    cancel.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="kill the job if it has not stopped after SECONDS (default: %(default)g)",
    )
    action("resume", _resume, "continue a job that was cancelled, failed or interrupted")
    action("retry", _retry, "run the same request again as a new job")
    action("logs", _logs, "show the output of a job's processes")


def _run(options: argparse.Namespace) -> int:
    """Run the chosen action, such as `list`; return the exit code."""
    from fine_tuning.jobs.queue import Queue

    code: int | None = options.do(options, Queue())
    return code or 0


def _list(options: argparse.Namespace, queue: "Queue") -> None:
    jobs = queue.jobs(limit=500 if options.all else 20)
    if options.json:
        print_json(options, *map(record, jobs))
    elif not jobs:
        print("no jobs yet: `byoai retrain` starts one")
    else:
        for job in jobs:
            print(_line(job))


def _watch(options: argparse.Namespace, queue: "Queue") -> int:
    from fine_tuning.cli.show import Terminal

    job = _chosen(options, queue)
    with Terminal() as terminal:

        def tell(number: int, event: Event) -> None:
            if options.json:
                print_json(options, {"n": number, **to_record(event)})
            else:
                terminal(event)

        job = follow(queue, job, tell, after=options.after)
    _show(options, job)
    return exit_code(job)


def _cancel(options: argparse.Namespace, queue: "Queue") -> int:
    job = queue.cancel(_chosen(options, queue).id, discard=options.discard, grace=options.grace)
    if job.here and not job.over and not options.json:
        print(
            f"{job.origin} (process {job.process.pid if job.process else '?'}) was asked to stop; it will stop at "
            "its next safe point"
        )
    job = queue.wait(job.id, options.grace + 5)
    _show(options, job)
    return 0 if job.over else 1


def _resume(options: argparse.Namespace, queue: "Queue") -> None:
    _show(options, queue.resume(_chosen(options, queue).id))


def _retry(options: argparse.Namespace, queue: "Queue") -> None:
    _show(options, queue.retry(_chosen(options, queue).id))


def _logs(options: argparse.Namespace, queue: "Queue") -> None:
    job = _chosen(options, queue)
    files = [file for file in (job.log.with_suffix(".1.txt"), job.log) if file.exists()]
    text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    if options.json:
        print_json(options, *({"job": job.id, "line": line} for line in text.splitlines()))
    else:
        print(text.rstrip() or f"{job.id} wrote no output; `byoai jobs watch {job.id}` shows its progress")


def _chosen(options: argparse.Namespace, queue: "Queue") -> "Job":
    """Return the job whose id begins with `options.job`; the newest job if this option is None.

    Raises JobNotFound if there is no such job, and ByoaiError if there are several.
    """
    jobs = queue.jobs(limit=500)
    wanted = options.job
    found = [job for job in jobs if wanted is None or job.id.startswith(wanted)]
    exact = [job for job in found if job.id == wanted] or (found[:1] if wanted is None else found)
    if len(exact) > 1:
        raise ByoaiError(
            f"the ids of several jobs begin with {wanted} ({', '.join(job.id for job in exact[:5])}): type more of the "
            "id"
        )
    return exact[0] if exact else queue.get(wanted or "none")


# Functions for commands that run as jobs


def add_detach(command: argparse.ArgumentParser) -> None:
    """Add the option `--detach`."""
    command.add_argument(
        "--detach",
        action="store_true",
        help="start the job and return at once: `byoai jobs watch` follows it, `byoai jobs cancel` stops it",
    )


def do_job(options: argparse.Namespace, kind: str, request: dict[str, object]) -> "Job | None":
    """Submit a job, show its progress until it is over, and return it.

    Ctrl-C stops the job. With `--detach` the job is only submitted, and None is returned. Raises
    ConfigError for an invalid request.
    """
    from fine_tuning.cli.options import stop_on_signal
    from fine_tuning.cli.show import Terminal
    from fine_tuning.jobs.queue import Queue

    queue = Queue()
    job = queue.submit(kind, request)
    if options.detach:
        if options.json:
            print_json(options, record(job))
        else:
            print(
                f"{job.id} is {job.state}: `byoai jobs watch {job.id}` follows it, `byoai jobs cancel {job.id}` "
                "stops it"
            )
        return None
    with Terminal() as terminal:
        terminal.note(
            f"job {job.id}{'' if job.active else ' waits until the job before it has ended'}; Ctrl-C stops it"
        )
        return follow(queue, job, lambda _, event: terminal(event), stopping=stop_on_signal())


def follow(
    queue: "Queue",
    job: "Job",
    tell: Callable[[int, Event], None],
    *,
    after: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> "Job":
    """Call `tell` with the number and content of each event of a job, until the job is over; return the job.

    Only events with numbers above `after` are passed on. The job is cancelled when `stopping`
    returns True.
    """
    reader, asked = EventReader(job.events, after), False
    while True:
        job = queue.get(job.id)  # before the events are read: if the job is over, all its events are there
        for number, event in reader.read():
            tell(number, event)
        if job.over:
            return job
        if stopping() and not asked:
            asked = True
            queue.cancel(job.id)
        time.sleep(_GLANCE)


def show_end(options: argparse.Namespace, job: "Job") -> dict[str, Any]:
    """Show how a job ended; return its result, or {} if it has none."""
    from fine_tuning import paths
    from fine_tuning.cli.show import show_finished
    from fine_tuning.jobs.progress import progress_of_job

    result: dict[str, Any] = paths.read_json(job.result) if job.result.exists() else {}
    finished = progress_of_job(job).finished
    if options.json:
        print_json(options, {**record(job), "result": result})
    elif job.state == "completed" and finished:
        show_finished(finished)
    else:
        cure = "" if job.state == "failed" else f"; `byoai jobs resume {job.id}` continues it"
        print(f"byoai: {job.reason}{cure}", file=sys.stderr)
    return result


def record(job: "Job") -> dict[str, object]:
    """Return a job as a dictionary of JSON values, with its progress."""
    from fine_tuning.jobs import progress

    return progress.record(job)


def exit_code(job: "Job") -> int:
    """Return the exit code of a command whose job is over: 0 if it was completed, else the code of the job's error."""
    if job.state == "completed":
        return 0
    return Cancelled.exit_code if job.state in ("cancelled", "interrupted") else job.exit_code or 1


def _show(options: argparse.Namespace, job: "Job") -> None:
    if options.json:
        print_json(options, record(job))
    else:
        print(_line(job))


def _line(job: "Job") -> str:
    """Return a job as a line that fits into 80 columns and, below it, how far it is or how it ended."""
    from fine_tuning.jobs.progress import progress_of_job

    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.begun or job.created))
    spent = clock((job.ended or time.time()) - job.begun) if job.begun else ""
    told = job.reason.partition("\n")[0]
    if job.active:
        now = progress_of_job(job)
        told = f"{now.stage} {now.done}/{now.total}" if now.total else now.stage
    facts = "  ".join(filter(None, [job.id, f"{job.kind:11}", f"{job.state:11}", begun, spent]))
    return f"{facts}\n    {told[:100]}" if told else facts
