"""Runs whose process died: Dagster would count them as running, and queue all others behind them.

A run carries the mark of its process. One that died before it had a mark is ended by `run_monitoring` of dagster.yaml.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "iom/process"
_LAUNCHED_TAG = ".dagster/grpc_info"  # of runs that are children of the code location


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


def mark_run(instance: "dg.DagsterInstance", run: "dg.DagsterRun") -> None:
    """Say which process executes the run; its id too, since a run that repeats another one gets that one's tags."""
    if not run.tags.get(PROCESS_TAG, "").startswith(own_mark()):
        instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{own_mark()} {run.run_id}"})


def condemn_dead_runs(instance: "dg.DagsterInstance") -> list[str]:
    """Report the unfinished runs of dead processes as failed; their ids. Another machine's terminals are left alone."""
    import dagster as dg  # here, since `iom status` asks only for marks

    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    condemned = []
    for run in instance.get_runs(unfinished):
        if _is_dead(run):
            instance.report_run_failed(
                run, "The process that executed this run is gone; run it again: nothing half-written was kept."
            )
            condemned.append(run.run_id)
    return condemned


def _is_dead(run: "dg.DagsterRun") -> bool:
    words = run.tags.get(PROCESS_TAG, "").split()
    marked_run = words[3] if len(words) == 4 else None if run.parent_run_id else run.run_id
    if len(words) < 3 or marked_run != run.run_id:
        return False
    if words[0] != own_mark().partition(" ")[0]:
        # this looks from the code location: a run that it did not start here died with the container of the one before
        return _LAUNCHED_TAG in run.tags
    return process_mark(int(words[1])) != " ".join(words[:3])
