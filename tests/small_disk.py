"""A small disk that a test can fill. Where mounting is not allowed, no process below the test may
let a file grow instead.
"""

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest


class Disk(NamedTuple):
    folder: Path
    fill: Callable[[], None]
    make_room: Callable[[], None]
    mounted: bool  # else only files are limited, which SQLite tells otherwise


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
    )
    ballast, me = folder / "ballast", psutil.Process()

    def fill() -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def limit(most: int) -> None:
        for process in (me, *me.children(recursive=True)):  # the server that forks children among them
            with suppress(psutil.Error):
                process.rlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def free() -> None:
        limit(resource.RLIM_INFINITY)

    yield (
        Disk(folder, fill, lambda: ballast.unlink(missing_ok=True), True)
        if mounted
        else Disk(folder, lambda: limit(0), free, False)
    )
    free()
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
