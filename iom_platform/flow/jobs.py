"""The jobs that people start and the nightly schedule: named by what they do.

What a step computes belongs to its stage's file.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg

from iom_platform.flow import extract, features, learner_clusters, learners
from iom_platform.flow.resources import GROUP_OF_STAGE
from iom_platform.settings import load_settings


def _with_own_checks(assets: dg.AssetsDefinition) -> dg.AssetSelection:
    """The assets with the checks that they themselves run."""
    return dg.AssetSelection.assets(assets).without_checks() | dg.AssetSelection.checks(*assets.check_keys)


_AFTER_EXTRACT = sorted(set(GROUP_OF_STAGE.values()) - {"extract"})

OF_LEARNERS = dg.AssetSelection.assets(*learners.ASSETS, *learner_clusters.ASSETS)

land_delivery_job = dg.define_asset_job(
    "land_delivery",
    selection=_with_own_checks(extract.raw_tables),
    description="Land one delivery of an LMS extract: pseudonyms at the door, bad rows to raw/quarantine.",
)
score_day_job = dg.define_asset_job(
    "score_day",
    # dbt's tests of raw/* are run by dbt, so they belong to this job
    selection=(dg.AssetSelection.groups(*_AFTER_EXTRACT) - OF_LEARNERS)
    | dg.AssetSelection.checks(*features.SOURCE_CHECKS),
    description="One as-of day from features to student risk; fits a model only where no champion was trained on or before it.",
)
fit_models_job = dg.define_asset_job(
    "fit_models",
    selection=dg.AssetSelection.assets(["clustering", "promotions"], ["clustering", "lineage"]),
    config={"ops": {"fit_model": {"config": {"refit": True}}}},
    description="Fit and promote a model on one as-of day, although an earlier champion could score it.",
)
rescore_day_job = dg.define_asset_job(
    "rescore_day",
    selection=dg.AssetSelection.assets(["clustering", "assignments"], ["clustering", "profiles"])
    | dg.AssetSelection.groups("risk"),
    description="Assign and score one published day again with its champion, which a person has changed; fits nothing.",
)
cluster_learners_job = dg.define_asset_job(
    "cluster_learners",
    selection=OF_LEARNERS,
    description="Land one learner summary, let it pass the wall, and cluster its learners; the partition is its day of delivery.",
)

_SETTINGS = load_settings()


@dg.schedule(
    job=score_day_job,
    cron_schedule=_SETTINGS.schedule.nightly_cron,
    execution_timezone=_SETTINGS.institution.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING if _SETTINGS.is_automatic else dg.DefaultScheduleStatus.STOPPED,
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Score the scheduled day for advisors; the as-of day is the day on which the schedule fires.

    On where it is the deployment's own record; a copy of the configuration elsewhere skips, whoever turned it on.
    """
    from iom_platform.storage.deployment import NotOurs, own_record

    try:
        own_record(load_settings())
    except NotOurs as error:
        return dg.SkipReason(str(error))
    at: datetime = context.scheduled_execution_time
    day = at.astimezone(ZoneInfo(_SETTINGS.institution.timezone)).date().isoformat()
    once_more = {
        "dagster/max_retries": "1",
        "dagster/retry_strategy": "ALL_STEPS",
    }  # where its process dies: see dagster.yaml
    tags = {"iom/as_of_on": day, "iom/started_by": "nightly", **once_more}
    return dg.RunRequest(run_key=None, partition_key=day, tags=tags)


JOBS = (land_delivery_job, score_day_job, fit_models_job, rescore_day_job, cluster_learners_job)
SCHEDULES = (nightly,)
