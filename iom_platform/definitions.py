"""START HERE: the stages in order; the file that Dagster loads.

Nothing is computed here: each stage's file in `flow/` says when its tables are made.
"""

import dagster as dg

from iom_platform.flow import (
    clustering,
    extract,
    features,
    jobs,
    learner_clusters,
    learners,
    privacy,
    report,
    risk,
    sensors,
)
from iom_platform.flow.progress import progress
from iom_platform.flow.resources import Platform
from iom_platform.storage.dbt_project import DBT_EXECUTABLE, DBT_PROJECT_DIR

STAGES = (extract, features, privacy, clustering, risk, report, learners, learner_clusters)

defs = dg.Definitions(
    assets=[asset for stage in STAGES for asset in stage.ASSETS],
    asset_checks=list(features.CHECKS),
    jobs=list(jobs.JOBS),
    schedules=list(jobs.SCHEDULES),
    sensors=list(sensors.SENSORS),
    resources={
        "platform": Platform(),
        "dbt": features.DbtCli(
            project_dir=str(DBT_PROJECT_DIR), profiles_dir=str(DBT_PROJECT_DIR), dbt_executable=str(DBT_EXECUTABLE)
        ),
    },
    loggers={"progress": progress},
    # one process: the heavy imports are paid once, and DuckDB has one writer anyhow
    executor=dg.in_process_executor,
)
