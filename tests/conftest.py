"""Fixtures that more than one test file needs: settings on a home of their own, and the server that lives there."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from iom_platform.settings import Settings
from iom_platform.storage import postgres_server
from iom_platform.storage.postgres_server import ensure_server, stop_server

# the files that start whole platforms, the longest first: begun last, one of them would keep the others' cores waiting
LONG_FILES = (
    "test_oulad_outcomes.py", "test_repeatability.py", "test_no_influence.py", "test_commands.py", "test_services.py", "test_stack.py",
    "test_planted_violations.py", "test_champions.py", "test_cluster_identity.py", "test_readme.py", "test_archetypes.py",
    "test_arrival_order.py", "test_bench.py", "test_feature_models.py", "test_check.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="also run the tests marked `performance`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if not config.getoption("--benchmark") and "performance" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("performance"):
                item.add_marker(pytest.mark.skip(reason="it starts every stage, which takes a minute; add --benchmark"))


def pytest_configure(config: pytest.Config) -> None:
    """Modules that read the settings when they are imported must not find the checkout's own .iom."""
    # a shell starts what it puts in the background with Ctrl-C ignored, and every child would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if (name.startswith("IOM_") and name != "IOM_TEST_DATA") or name.startswith("PG"):
            del os.environ[name]
    os.environ["IOM_HOME"] = tempfile.mkdtemp(prefix="iom-collect-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["IOM_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """No PG* variable or password file of the user's leads the tests to another server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSFILE", os.devnull)
        # a test outlives no power cut, and several servers that sync at once make the disk the bottleneck
        patch.setitem(postgres_server._OPTIONS, "fsync", "off")
        yield


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the state of the session's tests."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def settings(home: Path) -> Iterator[Settings]:
    """Settings that share one embedded server per session; it starts with the first test that needs it."""
    shared = Settings(home=home)
    yield shared
    stop_server(shared)


@pytest.fixture
def fresh_settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings on an empty home; a server that the test starts there is stopped."""
    own = Settings(home=tmp_path / "fresh home")
    yield own
    stop_server(own)


@pytest.fixture(scope="session")
def _stopped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = Settings(home=tmp_path_factory.mktemp("template") / "home")
    ensure_server(template)
    stop_server(template)
    return template.home


@pytest.fixture
def stopped_settings(_stopped_home: Path, fresh_settings: Settings) -> Settings:
    """Settings on a home whose server was set up and stopped: a copy, which takes less time than initdb."""
    shutil.copytree(_stopped_home, fresh_settings.home)
    return fresh_settings


@pytest.fixture
def fresh_home(fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that IOM_HOME names."""
    monkeypatch.setenv("IOM_HOME", str(fresh_settings.home))
    return fresh_settings.home
