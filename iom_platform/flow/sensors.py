"""Sensors: a failed run speaks.

Who is notified, and how, belongs to the notifications capability once it is built.
"""

import dagster as dg

from iom_platform.flow.liveness import condemn_dead_runs
from iom_platform.settings import load_settings

_STATUS = dg.DefaultSensorStatus.RUNNING if load_settings().is_automatic else dg.DefaultSensorStatus.STOPPED


@dg.run_failure_sensor(default_status=_STATUS, minimum_interval_seconds=30)
def failed_run_speaks(context: dg.RunFailureSensorContext) -> None:
    """Say in the daemon's log which run failed, for which day, at which steps, and where to look."""
    run = context.dagster_run
    steps = sorted({e.step_key for e in context.get_step_failure_events() if e.step_key})
    context.log.error(
        f"Run {run.run_id} of {run.job_name} failed for {run.tags.get('dagster/partition', 'no partition')} "
        f"at {', '.join(steps) or 'no step'}; earlier rows stay published. Open the run in the UI for the red check or the error."
    )


@dg.sensor(default_status=_STATUS, minimum_interval_seconds=60)
def dead_runs_end(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fail the runs of `iom run` commands that were killed, so that the nightly run does not wait for them."""
    condemned = condemn_dead_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(condemned)}" if condemned else "no run of a dead process")


SENSORS = (failed_run_speaks, dead_runs_end)
