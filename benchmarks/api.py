"""Measure how much the API slows down a training while 200 clients follow its events and 50 requests a second arrive.

    python benchmarks/api.py [--rounds 3] [--products 0]

Prints the time to the first answer and the idle memory of `byoai serve` and of `byoai chat`, and with
`--rounds 0` nothing else. Needs the base model in the cache (`byoai prepare`). Trains the shipped
sample with few steps on the embedded engine, in a temporary data folder, alternately without load and
with it. Prints the median seconds of the trainings, the response times, and the processor time that server,
training and client use while the model is trained.

`--products N`: first measure N times with matrix products in place of the training, which tells in
seconds what a training tells in minutes. Prints the share of its core that the products get.

With two cores or more, this program runs on the first core, and the server with its training on the
second. Sending the load takes more processor time than answering it, so on the same core the client
would slow down the training. The server's processor seconds per second show the cost of answering
too, and hardly depend on what else runs on the machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import websockets
from pages import ask_page, page_names

WATCHERS, RATE = 200, 50.0
READS_MADE, EVENTS_TOLD = 1000, 100
PHASE = 14.0  # seconds of products, without load and with it
SETTLED = 5.0  # seconds after which a server has loaded what it loads by itself
SETTINGS = {
    "training.num_epochs": 1,
    "training.base_weights": "auto",
    "evaluation.generate": 1,
    "evaluation.general": 2,
    "evaluation.triggers": 0,
    "evaluation.speed_rounds": 1,
    "deployment.auto_deploy": False,
}
READS = ("/api/jobs", "/api/conversations", "/api/versions", "/api/turns?text=the", "/api/settings")


def keep_to_core(number: int, pid: int) -> None:
    """Restrict a process, and those that it starts later, to one core (Linux only).

    Do nothing on a machine with a single core.
    """
    if sys.platform == "linux" and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {number})


def processor_seconds(pid: int, *, children: bool = False) -> float:
    """Return the processor time in seconds that a process has taken so far; 0.0 if it has ended.

    `children`: include its living child processes.
    """
    try:
        process = psutil.Process(pid)
        found = [process, *(process.children(recursive=True) if children else [])]
        return sum(sum(each.cpu_times()[:2]) for each in found)
    except psutil.Error:
        return 0.0


class Usage:
    """The processor seconds per second of server, training and client: one value of each for each training."""

    def __init__(self) -> None:
        self.server, self.training, self.client = list[float](), list[float](), list[float]()

    def __str__(self) -> str:
        shares = (("server", self.server), ("training", self.training), ("client", self.client))
        return ", ".join(f"{name} {statistics.median(each):.3f}" for name, each in shares)


class Server:
    """A server on a free port with the data folder `home`, started by the command `serve` (no pages) or `chat`."""

    def __init__(self, home: Path, *command: str) -> None:
        from fine_tuning.api.background import free_port

        self.url = f"http://127.0.0.1:{(port := free_port(8900))}"
        environment = {**os.environ, "BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fine_tuning", *command, "--port", str(port)], env=environment
        )
        keep_to_core(1, self.process.pid)
        while True:
            try:
                httpx.get(f"{self.url}/api/jobs").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.02)
        self.start = time.perf_counter() - begun
        self.headers = {"X-Byoai-Token": (home / "api_token").read_text().strip()}

    @property
    def megabytes(self) -> float:
        """The resident memory of the server and its child processes."""
        process = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


async def train(server: Server, client: httpx.AsyncClient) -> str:
    asked = {"kind": "retrain", "profile": "sample", "request": {"sample": True, "force": True}, "settings": SETTINGS}
    answer = await client.post("/api/jobs", json=asked, headers=server.headers)
    answer.raise_for_status()
    return str(answer.json()["id"])


async def finished(client: httpx.AsyncClient, server: Server, id: str, usage: Usage) -> dict[str, float]:
    """Wait for a job to end, and return the seconds of its stages.

    The processor times of the stage Training are added to `usage`.
    """
    first: tuple[float, ...] = ()  # (time, processor seconds of server, client and training)
    while True:
        job = (await client.get(f"/api/jobs/{id}")).json()
        if job["state"] in ("completed", "failed", "cancelled", "interrupted"):
            break
        if job["stage"] == "Training":
            used = (processor_seconds(each) for each in (server.process.pid, os.getpid()))
            last = (time.perf_counter(), *used, processor_seconds(job["pid"], children=True))
            first = first or last
        await asyncio.sleep(0.5)
    assert job["state"] == "completed", job
    seconds, *shares = (after - before for after, before in zip(last, first, strict=True))
    for values, share in zip((usage.server, usage.client, usage.training), shares, strict=True):
        values.append(share / seconds)
    text = (await client.get(f"/api/jobs/{id}/events")).text
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and '"Finished"' in line]
    return dict(told[-1]["seconds"])


async def watch(url: str, id: str) -> int:
    """Follow the events of a job to its end; return how many events were received."""
    count = 0
    async with websockets.connect(f"{url.replace('http', 'ws')}/api/jobs/{id}/events", max_queue=None) as socket:
        async for _ in socket:
            count += 1
    return count


async def read(client: httpx.AsyncClient, ended: asyncio.Event, taken: list[float], faults: list[str]) -> None:
    """Send RATE requests per second until `ended` is set, without waiting for the answers to earlier ones.

    The seconds of each request are added to `taken`, the failed ones to `faults`.
    """
    pending: set[asyncio.Task[None]] = set()

    async def one(path: str) -> None:
        begun = time.perf_counter()
        try:
            (await client.get(path)).raise_for_status()
        except httpx.HTTPError as error:
            faults.append(f"{path}: {error!r}")
        taken.append(time.perf_counter() - begun)

    number = 0
    while not ended.is_set():
        task = asyncio.create_task(one(READS[number % len(READS)]))
        pending.add(task)
        task.add_done_callback(pending.discard)
        number += 1
        await asyncio.sleep(1 / RATE)
    await asyncio.gather(*pending)


async def measure(server: Server, rounds: int) -> None:
    alone, watched, taken, faults = [], [], list[float](), list[str]()
    usage_alone, usage_watched = Usage(), Usage()
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        await finished(client, server, await train(server, client), Usage())  # the first fills the caches
        for _ in range(rounds):
            alone.append((await finished(client, server, await train(server, client), usage_alone))["Training"])
            id, ended = await train(server, client), asyncio.Event()
            watchers = [asyncio.create_task(watch(server.url, id)) for _ in range(WATCHERS)]
            reader = asyncio.create_task(read(client, ended, taken, faults))
            watched.append((await finished(client, server, id, usage_watched))["Training"])
            counts = await asyncio.gather(*watchers)
            assert len(set(counts)) == 1, "the watchers saw different events"
            ended.set()
            await reader
    print(f"training alone   {statistics.median(alone):6.1f} s  {[round(each, 1) for each in alone]}")
    print(f"training watched {statistics.median(watched):6.1f} s  {[round(each, 1) for each in watched]}")
    print(f"ratio            {statistics.median(watched) / statistics.median(alone):6.3f}")
    print(f"processor seconds per second, alone:   {usage_alone}")
    print(f"processor seconds per second, watched: {usage_watched}")
    print(told(taken, faults))


def multiply(count: Any) -> None:
    """Multiply matrices of a training step's size on the second core, and count the products in `count`."""
    import torch

    keep_to_core(1, 0)
    torch.set_num_threads(1)
    weights, rows = [torch.rand(576, 1536) for _ in range(30)], torch.rand(256, 576)
    while True:
        for weight in weights:
            rows @ weight
            count.value += 1


async def beside_products(server: Server, rounds: int) -> None:
    """Print how many products are made, and how much time they get, without load and with it, in turns."""
    from fine_tuning.events import Count
    from fine_tuning.jobs.doing import listed
    from fine_tuning.jobs.kinds import SweepRequest

    context = multiprocessing.get_context("spawn")
    count, faults = context.Value("q", 0), list[str]()
    products = context.Process(target=multiply, args=(count,), daemon=True)
    products.start()

    async def tell(ended: asyncio.Event) -> None:
        while not ended.is_set():
            job.tell(Count(count.value % 100, 100))
            await asyncio.sleep(2)  # about as often as a training of the sample ends a step

    def so_far() -> tuple[float, ...]:
        used = (processor_seconds(pid) for pid in (server.process.pid, os.getpid(), products.pid or 0))
        return (time.perf_counter(), count.value, *used)

    with listed("sweep", SweepRequest()) as job:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            id = (await client.get("/api/jobs")).json()["items"][0]["id"]
            while not count.value:  # torch is being imported
                await asyncio.sleep(0.1)
            for name in ("alone", "watched") * rounds:
                ended, taken = asyncio.Event(), list[float]()
                tasks: list[asyncio.Task[Any]] = [asyncio.create_task(tell(ended))]
                watchers = []
                if name == "watched":
                    watchers = [asyncio.create_task(watch(server.url, id)) for _ in range(WATCHERS)]
                    tasks.append(asyncio.create_task(read(client, ended, taken, faults)))
                await asyncio.sleep(4)  # until all watch
                taken.clear()  # these requests waited for 200 connections to be made
                before = so_far()
                await asyncio.sleep(PHASE)
                seconds, made, *used = (now - then for now, then in zip(so_far(), before, strict=True))
                ended.set()
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.gather(*tasks, *watchers, return_exceptions=True)
                server_used, client_used, share = (each / seconds for each in used)
                print(
                    f"products {name:8} {made / seconds:5.0f} a second, {share:.3f} of their core; "
                    f"server {server_used:.4f}, client {client_used:.3f}  {told(taken, faults)}",
                    flush=True,
                )
    products.kill()


def told(taken: list[float], faults: list[str]) -> str:
    """Return what to print of the seconds of some reads; "" if there were none."""
    if not taken:
        return ""
    median, late = (1000 * sorted(taken)[int(len(taken) * share)] for share in (0.5, 0.95))
    return f"{len(taken)} reads: median {median:.1f} ms, 95 % within {late:.1f} ms, errors {len(faults)} {faults[:3]}"


async def costs(server: Server) -> None:
    """Print the server's processor time for each read and for each message to a watcher, without a training.

    A job of this process tells the events. What the server uses without events and reads is subtracted.
    """
    from fine_tuning.events import Count
    from fine_tuning.jobs.doing import listed
    from fine_tuning.jobs.kinds import SweepRequest

    async def used(act: Callable[[], Awaitable[object]]) -> tuple[float, float]:
        before, begun = processor_seconds(server.process.pid), time.perf_counter()
        await act()
        return processor_seconds(server.process.pid) - before, time.perf_counter() - begun

    async def reads() -> None:
        for number in range(READS_MADE):
            (await client.get(READS[number % len(READS)])).raise_for_status()
            await asyncio.sleep(1 / RATE / 4)

    async def events() -> None:
        for number in range(EVENTS_TOLD):
            job.tell(Count(number, EVENTS_TOLD))
            await asyncio.sleep(0.05)

    with listed("sweep", SweepRequest()) as job:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            id = (await client.get("/api/jobs")).json()["items"][0]["id"]
            await reads()  # the first fill the caches
            watchers = [asyncio.create_task(watch(server.url, id)) for _ in range(WATCHERS)]
            await asyncio.sleep(2)
            idle, took = await used(partial(asyncio.sleep, 8))
            read, reading = await used(reads)
            told, telling = await used(events)
    messages = (await asyncio.gather(*watchers))[0]
    share = idle / took
    print(f"idle with {WATCHERS} watchers: {1000 * share:.1f} ms of processor time a second")
    print(f"a read: {1e6 * (read - share * reading) / READS_MADE:.0f} microseconds of processor time")
    print(f"a message: {1e6 * (told - share * telling) / WATCHERS / EVENTS_TOLD:.1f} microseconds ({messages} each)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", type=int, default=0)
    options = parser.parse_args()
    keep_to_core(0, os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        for command in (("chat", "--no-browser"), ("serve",)):
            server = Server(Path(folder), *command)
            try:
                time.sleep(SETTLED)
                print(f"{command[0]}: first answer after {server.start:.2f} s, idle memory {server.megabytes:.0f} MB")
                if command[0] == "chat":
                    for page in page_names():
                        ask_page(server.url, page, 1)
                    print(f"chat: {server.megabytes:.0f} MB after each page was opened")
                else:
                    os.environ["BYOAI_HOME"] = folder
                    asyncio.run(costs(server))
                    if options.products:
                        asyncio.run(beside_products(server, options.products))
                    if options.rounds:
                        asyncio.run(measure(server, options.rounds))
            finally:
                server.stop()


if __name__ == "__main__":
    main()
