"""Ports of loopback: which one is free, and whose processes listen on one.

What is served there belongs to services.py.
"""

import contextlib
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LISTENING = "0A"  # as the kernel writes it in /proc/net/tcp


class NoFreePort(RuntimeError):
    """Not one port is left."""

    exit_code = 1


def free_port(preferred: int) -> int:
    """`preferred` where nobody holds it, else another that is free now; 0 prefers none."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NoFreePort("no port of loopback is free; end a program that holds one")


def is_served_by(port: int, session: int) -> bool:
    """Whether a process of this session listens on the port; who else may answer there is a stranger."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == _LISTENING}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that ended meanwhile, or another user's
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and any(str(fd.readlink()) in sockets for fd in (folder / "fd").iterdir()):
                return True
    return False
