"""Ctrl-C ends a running job at once, with its children, although somebody defers the signal."""

import signal
import subprocess
import sys
import time
from pathlib import Path

_JOB = """
import signal, subprocess, sys, time
from iom_platform.cli.interrupt import stop_on_interrupt
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
with stop_on_interrupt():
    signal.signal(signal.SIGINT, lambda *_: None)  # as Dagster does
    print(child.pid, flush=True)
    for _ in range(600):
        time.sleep(0.2)
"""


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupt_ends_the_process_and_its_children() -> None:
    job = subprocess.Popen([sys.executable, "-c", _JOB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stderr is not None
    child = int(job.stdout.readline())
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=30) == 130
    assert "rows published before stay as they were" in job.stderr.read()
    for _ in range(100):
        if not _lives(child):
            break
        time.sleep(0.1)
    assert not _lives(child)
