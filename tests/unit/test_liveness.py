"""A run of a dead process is ended; a run of a living one, or of the daemon's, is left alone."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from iom_platform.flow.liveness import PROCESS_TAG, condemn_dead_runs, mark_run, own_mark, process_mark

LAUNCHED = {".dagster/grpc_info": "{}"}


def _dead_mark() -> str:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    mark = process_mark(process.pid)
    process.kill()
    process.wait()
    assert process_mark(process.pid) is None
    assert mark
    return mark


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_only_the_unfinished_run_of_a_dead_process_is_ended(status: dg.DagsterRunStatus) -> None:
    reused = f"{own_mark().rpartition(' ')[0]} 1"  # our pid, another start
    with dg.DagsterInstance.ephemeral() as instance:
        made = {
            name: instance.create_run_for_job(_job, tags=tags, status=run_status).run_id
            for name, tags, run_status in (
                ("dead", {PROCESS_TAG: _dead_mark()}, status),
                ("reused pid", {PROCESS_TAG: reused}, status),
                ("living", {PROCESS_TAG: own_mark()}, status),
                ("daemon's", {}, status),
                ("another machine's", {PROCESS_TAG: "elsewhere/pid:[1] 1 1"}, status),
                ("finished", {PROCESS_TAG: _dead_mark()}, dg.DagsterRunStatus.SUCCESS),
            )
        }
        assert set(condemn_dead_runs(instance)) == {made["dead"], made["reused pid"]}
        after = {name: run.status for name, run_id in made.items() if (run := instance.get_run_by_id(run_id))}
    assert after["dead"] == after["reused pid"] == dg.DagsterRunStatus.FAILURE
    assert after["living"] == after["daemon's"] == after["another machine's"] == status
    assert after["finished"] == dg.DagsterRunStatus.SUCCESS


def test_a_launched_run_is_ended_where_its_code_location_was_replaced_and_not_by_the_mark_of_the_run_it_repeats() -> (
    None
):
    started, elsewhere = dg.DagsterRunStatus.STARTED, "elsewhere/pid:[1] 1 1"
    with dg.DagsterInstance.ephemeral() as instance:
        before = instance.create_run_for_job(_job, tags={PROCESS_TAG: _dead_mark()}, status=dg.DagsterRunStatus.FAILURE)

        def make(tags: dict[str, str], *, repeats: bool = False) -> dg.DagsterRun:
            more = {"parent_run_id": before.run_id, "root_run_id": before.run_id} if repeats else {}
            return instance.create_run_for_job(_job, tags=tags, status=started, **more)

        gone = make(LAUNCHED)
        instance.add_run_tags(gone.run_id, {PROCESS_TAG: f"{elsewhere} {gone.run_id}"})  # the container before
        make({PROCESS_TAG: f"{elsewhere} {before.run_id}"} | LAUNCHED, repeats=True)
        make({PROCESS_TAG: _dead_mark()} | LAUNCHED, repeats=True)
        living = make({PROCESS_TAG: _dead_mark()} | LAUNCHED, repeats=True)
        mark_run(instance, living)
        assert condemn_dead_runs(instance) == [gone.run_id]
        marked = instance.get_run_by_id(living.run_id)
        assert marked and marked.tags[PROCESS_TAG] == f"{own_mark()} {living.run_id}"
        instance.add_run_tags(living.run_id, {PROCESS_TAG: f"{_dead_mark()} {living.run_id}"})
        assert condemn_dead_runs(instance) == [living.run_id]


def test_a_mark_names_this_process() -> None:
    assert own_mark() == process_mark(os.getpid())
    assert len(own_mark().split()) == 3


@dg.op
def _nothing() -> None: ...


@dg.job
def _job() -> None:
    _nothing()
