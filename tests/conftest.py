"""Fixtures that several packages' tests share."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from native_children import Children, native_children
from own_ollama import OwnOllama
from small_base import write_small_base
from small_disk import disk  # noqa: F401 (a fixture of all)
from small_training import SMALL

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from fine_tuning.engines.embedded import EmbeddedEngine


# Examples: the same ones each time, or with --hypothesis-profile search others than ever before.
for _name, _is_same in (("same", True), ("search", False)):
    hypothesis.settings.register_profile(
        _name, deadline=None, derandomize=_is_same, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """Programs that tests start hear Ctrl-C and a closed terminal, also where the tests run in a shell's background."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the data folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOAI_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder of the test's own."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("BYOAI_HOME", str(folder))
    return folder


@pytest.fixture
def embedded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty data folder, and the embedded engine whatever else there is."""
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")


@pytest.fixture(scope="session")
def base_gguf() -> Path:
    """The real SmolLM2-135M-Instruct GGUF, fetched into the user's cache when it is not there."""
    if given := os.environ.get("BYOAI_TEST_BASE_GGUF"):
        return Path(given)
    from fine_tuning.engines.default_base import fetch_default_base

    return fetch_default_base()


@pytest.fixture(scope="session")
def small_base(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with the real one's vocabulary that is trained in seconds, and knows nothing."""
    return write_small_base(base_gguf, tmp_path_factory.mktemp("small_base") / "small.gguf")


@pytest.fixture(scope="session")
def machine_measured(base_gguf: Path, small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which byoai keeps the machine's speed for a day.

    It is measured for usual trainings and SMALL ones, with the default base and with the small one.
    """
    from fine_tuning import paths
    from fine_tuning.config import load_config
    from fine_tuning.engines.gguf_file import read_gguf
    from fine_tuning.evaluation.speed import decoding_speed
    from fine_tuning.training.machine import this_machine
    from fine_tuning.training.model_shape import shape_of

    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOAI_HOME", str(folder))
        for settings in ({}, SMALL):
            this_machine(load_config(overrides=settings).training)
        for base in (base_gguf, small_base):
            decoding_speed(base, paths.sha256_of(base), shape_of(read_gguf(base)).parameters)
    return folder / "machine.json"


@pytest.fixture
def known_machine(home: Path, machine_measured: Path) -> None:
    """A data folder as after a first forecast: the next one need not import torch and measure, which takes seconds."""
    shutil.copy(machine_measured, home)


@pytest.fixture(autouse=True)
def _machine_known_to_slow_tests(request: pytest.FixtureRequest) -> None:
    """To measure it again for each of their data folders would take ten seconds of processor time."""
    if _is_slow(request.node) and "home" in request.fixturenames:
        request.getfixturevalue("known_machine")


@pytest.fixture
def small_engine(small_base: Path, known_machine: None, embedded: None, home: Path) -> "EmbeddedEngine":
    """The embedded engine, with the small base by the default base's name, in a data folder without anything else."""
    from fine_tuning.engines.base import ModelSpec
    from fine_tuning.engines.default_base import CHATML, DEFAULT_TAG
    from fine_tuning.engines.embedded import EmbeddedEngine

    engine = EmbeddedEngine(home / "engine")
    engine.create(DEFAULT_TAG, ModelSpec(small_base, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    return engine


@pytest.fixture
def children() -> Children:
    """children() lists the processes of llama.cpp that were started since the test began: others'
    fixtures may hold some.
    """
    before = native_children()
    return lambda pid=None: [child for child in native_children(pid) if child not in before]


@pytest.fixture(scope="session")
def ollama_url() -> Iterator[str]:
    """The real server that scripts/test.sh started. Its absence is a failure: the engine tests
    never run against a mock.
    """
    url = os.environ.get("BYOAI_TEST_OLLAMA")
    if not url:
        pytest.fail("BYOAI_TEST_OLLAMA is not set: run ./scripts/test.sh, or start a server and set it to its URL")
    yield url


@pytest.fixture
def own_ollama(tmp_path: Path) -> Iterator[OwnOllama]:
    """A server that no other test asks: such tests need not wait for each other. It is not started yet."""
    server = OwnOllama(tmp_path / "ollama")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A real browser without a window."""
    from playwright.sync_api import sync_playwright

    path = (
        os.environ.get("BYOAI_TEST_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or "/usr/bin/chromium"
    )
    flags = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-component-update", "disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=[f"--{flag}" for flag in (*flags, "disable-background-networking")]
        )
        yield browser
        browser.close()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first: what a unit test can tell should not wait for an engine, a browser, or minutes of training.

    In several processes the longest groups start first, so that all end at about the same time:
    what needs the one server, then slow tests, each by itself or with those of its file that share
    what was made for them, then each file's quick ones.
    """
    items.sort(key=lambda item: sum(weight for mark, weight in _WEIGHTS.items() if item.get_closest_marker(mark)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if _in_parallel(config):
        items.sort(key=lambda item: (_group(item) != _SERVER, not _is_slow(item), not _shares(item)))


def _group(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    if "own_ollama" in fixtures:
        return item.nodeid
    if item.get_closest_marker("engine") or "ollama_url" in fixtures:
        return _SERVER
    if not _is_slow(item):
        return item.path.stem
    return f"{item.path.stem}-slow" if _shares(item) else item.nodeid


def _is_slow(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("slow") or item.get_closest_marker("browser"))


def _shares(item: pytest.Item) -> bool:
    """Whether something is made once for several tests of its file."""
    definitions = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    return any(definition[-1].scope == "module" for definition in definitions)


def pytest_configure(config: pytest.Config) -> None:
    """Let nothing fail because the machine is busy, or by chance, and let processes share its cores."""
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("same")
    _share_cores(config)


def _share_cores(config: pytest.Config) -> None:
    """Give each process one thread: they keep all cores busy, and llama.cpp's threads spin while they wait."""
    if _in_parallel(config):
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    _forget_what_stays()


@pytest.hookimpl(trylast=True)  # what was made for the file is gone
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem and nextitem.path != item.path:
        _forget_what_stays()


def _forget_what_stays() -> None:
    """Let no collection of garbage, which each training and each run of a page asks, go through all imports again."""
    gc.collect()
    gc.freeze()


def _in_parallel(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


_SERVER = "server"
_WEIGHTS = {"engine": 1, "browser": 2, "slow": 4}
