"""What `iom up` takes for its own services: a stranger that answers on a port is none, and a taken port is given up."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iom_platform.cli.ports import HOST, free_port, is_served_by
from iom_platform.cli.services import ServiceFailed, _comes_up

LOG = Path("dagster.log")


def _start(*arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, *arguments], start_new_session=True, stderr=subprocess.DEVNULL)


@pytest.fixture
def stranger() -> Iterator[tuple[int, int]]:
    """The port and the session of a web server that answers every path that is asked for here."""
    port = free_port(0)
    server = _start("-m", "http.server", "--bind", HOST, "--directory", "/", str(port))
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                break
        time.sleep(0.1)
    yield port, server.pid
    server.kill()
    server.wait()


def test_a_port_is_served_by_the_session_that_listens_on_it(stranger: tuple[int, int]) -> None:
    port, session = stranger
    assert is_served_by(port, session)
    assert not is_served_by(port, session + 1)
    assert not is_served_by(free_port(0), session)


def test_a_taken_port_is_replaced(stranger: tuple[int, int]) -> None:
    port, _ = stranger
    assert free_port(port) != port
    free = free_port(0)
    assert free_port(free) == free


def test_a_stranger_that_answers_is_not_taken_for_ours(stranger: tuple[int, int]) -> None:
    port, _ = stranger
    ours = _start("-c", "import time; time.sleep(2); raise SystemExit(1)")  # as a server that finds its port taken
    assert _comes_up("dagster", port, "/", ours, LOG) is False


def test_our_own_server_is_waited_for() -> None:
    port = free_port(0)
    ours = _start("-m", "http.server", "--bind", HOST, "--directory", "/", str(port))
    try:
        assert _comes_up("dagster", port, "/", ours, LOG) is True
    finally:
        ours.kill()
        ours.wait()


def test_a_service_that_ends_on_a_free_port_names_its_log() -> None:
    with pytest.raises(ServiceFailed, match=r"^dagster ended with 1; read dagster\.log$"):
        _comes_up("dagster", free_port(0), "/", _start("-c", "raise SystemExit(1)"), LOG)
