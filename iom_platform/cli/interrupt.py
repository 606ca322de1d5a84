"""Ctrl-C in a running job: stop within seconds, as surely as a kill, and say what that means.

Dagster defers an interrupt until a step ends, and a step may take minutes; what is half done is rolled back anyhow.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERRUPTED = 130


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in task.read_text().split()]
    return found


def _stop() -> None:
    print("iom: stopped; rows published before stay as they were. The same command runs it again.", file=sys.stderr)
    for pid in _children():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    sys.stderr.flush()
    os._exit(INTERRUPTED)


@contextmanager
def stop_on_interrupt() -> Iterator[None]:
    """While inside, SIGINT ends the process; whoever else installs a handler for it meanwhile does not keep it from that."""
    ours, written = socket.socketpair()
    written.setblocking(False)

    def watch() -> None:
        while received := ours.recv(64):
            if signal.SIGINT in received:
                _stop()

    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True, name="interrupt").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        written.close()
