"""The API under load: 200 watchers of a training and 50 requests a second, against the same training alone.

    python benchmarks/api.py [--rounds 3]

Needs the base model in the cache (`byoai prepare`). Trains the shipped sample with few steps on the embedded engine, in a data folder
of its own, in turns: alone, watched, alone, ... Prints the medians of the training's seconds and of the reads' times.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import websockets

WATCHERS, RATE = 200, 50.0
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


class Server:
    """A server without pages on a free port, in a data folder of its own."""

    def __init__(self, home: Path) -> None:
        from fine_tuning.api.background import free_port

        self.url = f"http://127.0.0.1:{(port := free_port(8900))}"
        environment = {**os.environ, "BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}
        begun = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, "-m", "fine_tuning", "serve", "--port", str(port)], env=environment)
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
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


async def train(server: Server, client: httpx.AsyncClient) -> str:
    asked = {"kind": "retrain", "profile": "sample", "request": {"sample": True, "force": True}, "settings": SETTINGS}
    answer = await client.post("/api/jobs", json=asked, headers=server.headers)
    answer.raise_for_status()
    return str(answer.json()["id"])


async def finished(client: httpx.AsyncClient, id: str) -> dict[str, float]:
    """Return the seconds of each stage when the job is over."""
    while True:
        job = (await client.get(f"/api/jobs/{id}")).json()
        if job["state"] in ("completed", "failed", "cancelled", "interrupted"):
            break
        await asyncio.sleep(0.5)
    assert job["state"] == "completed", job
    text = (await client.get(f"/api/jobs/{id}/events")).text
    last = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and '"Finished"' in line][-1]
    return dict(last["seconds"])


async def watch(url: str, id: str) -> int:
    """Follow a job to its end; return how many events came."""
    count = 0
    async with websockets.connect(f"{url.replace('http', 'ws')}/api/jobs/{id}/events", max_queue=None) as socket:
        async for _ in socket:
            count += 1
    return count


async def read(client: httpx.AsyncClient, ended: asyncio.Event, taken: list[float], faults: list[str]) -> None:
    """Read RATE times a second, whether the reads before have come back or not."""
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
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        await finished(client, await train(server, client))  # the first fills the caches
        for _ in range(rounds):
            alone.append((await finished(client, await train(server, client)))["Training"])
            id, ended = await train(server, client), asyncio.Event()
            watchers = [asyncio.create_task(watch(server.url, id)) for _ in range(WATCHERS)]
            reader = asyncio.create_task(read(client, ended, taken, faults))
            watched.append((await finished(client, id))["Training"])
            counts = await asyncio.gather(*watchers)
            assert len(set(counts)) == 1, "the watchers saw different events"
            ended.set()
            await reader
    print(f"training alone   {statistics.median(alone):6.1f} s  {[round(each, 1) for each in alone]}")
    print(f"training watched {statistics.median(watched):6.1f} s  {[round(each, 1) for each in watched]}")
    print(f"ratio            {statistics.median(watched) / statistics.median(alone):6.3f}")
    taken.sort()
    median, late = (1000 * taken[int(len(taken) * share)] for share in (0.5, 0.95))
    print(f"{len(taken)} reads: median {median:.1f} ms, 95 % within {late:.1f} ms, errors {len(faults)} {faults[:3]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            print(f"first answer after {server.start:.2f} s, idle memory {server.megabytes:.0f} MB")
            asyncio.run(measure(server, rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
