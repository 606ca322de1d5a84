"""Runs that a terminal started and that died with it: Dagster would count them as running, and queue all others behind them.

Runs that the daemon launched carry no mark; `run_monitoring` in dagster.yaml ends those whose process died.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "iom/process"


def process_mark(pid: int) -> str | None:
    """Machine, pid and start time of a process, which no later process shares; None where it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # a container numbers its processes anew
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{machine} {pid} {fields[19]}"


def own_mark() -> str:
    return process_mark(os.getpid()) or "unknown"


def condemn_dead_runs(instance: "dg.DagsterInstance") -> list[str]:
    """Report the unfinished runs of dead processes as failed; their ids. Another machine's processes are left alone."""
    import dagster as dg  # here, since `iom status` asks only for marks

    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    condemned = []
    for run in instance.get_runs(unfinished):
        machine, _, rest = run.tags.get(PROCESS_TAG, "").partition(" ")
        pid = rest.partition(" ")[0]
        if pid and machine == own_mark().partition(" ")[0] and process_mark(int(pid)) != f"{machine} {rest}":
            instance.report_run_failed(
                run, "The process that executed this run is gone; run it again: nothing half-written was kept."
            )
            condemned.append(run.run_id)
    return condemned
