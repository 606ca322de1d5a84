"""A scored day made by hand for tests of the report: two courses, four clusters, weeks, a truth. No test belongs here."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from iom_platform.clustering.profiles import describe_cluster
from iom_platform.report.page import ScoredDay
from iom_platform.tables import MODEL_INPUTS
from tests.plants import pseudonym

DAY = date(2026, 5, 1)
K = 5
STUDENTS = 120
KEY = ["student_pseudonym", "course_id"]
UIDS = ("c-00000000", "c-11111111", "c-22222222", "c-33333333")  # of the clusters 0 to 3


def made_day(*, courses: tuple[str, ...] = ("AAA-2026B", "BBB-2026B"), **changes: Any) -> ScoredDay:
    """120 enrollments; the first have the highest scores, are the quietest, and end worst. `changes` replace fields."""
    number = np.arange(STUDENTS)
    keys = pd.DataFrame({"student_pseudonym": [pseudonym(7919 * (int(i) + 1) ** 3) for i in number],
                         "course_id": [courses[i % len(courses)] for i in number]})  # fmt: skip
    risk = _risk(keys, number)
    before = risk.assign(
        risk_level=risk["risk_level"].mask(number == 30, "LOW"),
        risk_score=risk["risk_score"].mask(number == 30, 0.1),
    )
    day = ScoredDay(
        as_of_on=DAY,
        k=K,
        minimum_silhouette=0.5,
        not_in_force=("notifications.enabled: nobody is notified yet",),
        risk=risk,
        risk_before=before,
        terms=_terms(keys, number),
        weeks=_weeks(keys, number),
        profiles=_profiles(risk),
        lineage=_lineage(_profiles(risk)),
        deliveries=pd.DataFrame({"delivery_id": ["d1"], "source": ["synthetic"], "scope": ["full"],
                                 "delivered_on": [pd.Timestamp(DAY - timedelta(days=9))]}),
        files=pd.DataFrame({"delivery_id": ["d1", "d1"], "landed_rows": [90, 10], "loaded_rows": [88, 10],
                            "quarantined_rows": [2, 0]}),
        quarantine=pd.DataFrame({"file_name": ["studentVle.csv"] * 2, "rule": ["missing value"] * 2,
                                 "remedy": ["deliver the value"] * 2}),
        withheld_courses=1,
        champion={"model_name": "student_clusters", "model_version": 1, "algorithm": "kmeans", "trained_as_of": DAY},
        metrics={"silhouette": 0.31, "rows": 120.0, "clusters": 4.0},
        truth=keys.assign(outcome=np.where(number < 40, "Fail", "Pass"),
                          onset_of_disengagement_day=np.where(number < 20, 50.0, np.nan)),
    )  # fmt: skip
    return replace(day, **changes)


def _risk(keys: pd.DataFrame, number: np.ndarray) -> pd.DataFrame:
    level = np.select([number < 24, number < 60, number < 110], ["HIGH", "MEDIUM", "LOW"], "UNKNOWN")
    unknown = level == "UNKNOWN"
    return keys.assign(
        course_week=12,
        risk_level=level,
        risk_score=np.where(unknown, np.nan, 1 - number / 200),
        reason_1=np.where(unknown, "Registered less than a week ago", [f"No activity for {30 - i // 4} days" for i in number]),
        reason_2=np.where(unknown, None, "2 of 3 submissions missed"),
        reason_3=None,
        cluster=pd.array(np.where(unknown, np.nan, number // 30), dtype="Int64"),
        submissions_due=3,
        submissions_missed=np.where(number < 24, 2, 0),
        model_version=pd.array(np.where(unknown, np.nan, 1), dtype="Int64"),
    )  # fmt: skip


def _terms(keys: pd.DataFrame, number: np.ndarray) -> pd.DataFrame:
    return keys.assign(
        course_day=80,
        is_observed=True,
        activity_missing_reason=None,
        days_since_last_activity=np.where(number < 30, 14, 2),
        active_days_last_28_days=number // 10,
        peer_active_days_last_28_days_median=6.0,
        clicks_14d_to_history=0.2 + number / 400,
    )


def _weeks(keys: pd.DataFrame, number: np.ndarray) -> pd.DataFrame:
    parts = [
        keys.assign(as_of_on=pd.Timestamp(DAY), course_week=week, days_elapsed=7 if week < 12 else 4,
                    active_days=np.clip(number // 20 - week // 6, 0, 4), clicks=10)
        for week in range(1, 13)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _profiles(risk: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"cluster": cluster, "cluster_uid": UIDS[cluster], "feature": feature, "students": 30, "mean": 0.15 + 0.15 * cluster, "median": 0.5,
             "standardized_difference": 0.0}
            for cluster in sorted(risk["cluster"].dropna().unique()) for feature in MODEL_INPUTS
        ]
    )  # fmt: skip


def _lineage(profiles: pd.DataFrame) -> pd.DataFrame:
    """One model; its clusters were born in the order of their numbers, and are still what they were."""
    return pd.DataFrame(
        [
            {"model_version": 1, "cluster_uid": uid, "change": "born", "cluster": cluster, "name": describe_cluster(profiles, cluster)}
            for cluster, uid in enumerate(UIDS)
        ]
    )  # fmt: skip
