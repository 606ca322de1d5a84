"""What a cluster looks like: a row per cluster and model input, a short name.

Personal attributes do not belong here, for a profile is of behavior alone, nor do pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.tables import MODEL_INPUTS, PROFILES

if TYPE_CHECKING:
    import pandas as pd

TOO_FEW = "too few students to describe"
_OF_THE_RECORD = ("as_of_on", "model_name", "model_version", "cluster_uid")
PROFILE_COLUMNS = tuple(n for n in PROFILES.column_names if n not in _OF_THE_RECORD)


def _spread(values: np.ndarray, at_least: int = 1) -> tuple[float | None, float | None, float | None]:
    """Mean, median and population standard deviation of the values that exist, summed in sorted order: in another order
    of rows the last bits, and with them the table hash, would differ."""
    present = np.sort(values[~np.isnan(values)])
    if len(present) < at_least:
        return None, None, None
    return float(present.mean()), float(np.median(present)), float(present.std())


def profile_clusters(frame: pd.DataFrame, labels: np.ndarray, *, k: int = 5) -> pd.DataFrame:
    """Profiles of the clusters of one cohort, as clustering/profiles without day, model and uid.

    frame: (n_students, >= MODEL_INPUTS), as delivered, nulls left out; labels: (n_students,) int, -1 = noise, which is
    profiled as a cluster of its own. standardized_difference: cluster mean minus cohort mean over the cohort's
    standard deviation, null without spread. Fewer than k values have no mean: it would describe persons. Sorted by
    cluster and MODEL_INPUTS.
    """
    import pandas as pd

    labels = np.asarray(labels).astype(np.int64)
    rows: list[dict[str, Any]] = []
    columns = {name: frame[name].astype("float64").to_numpy() for name in MODEL_INPUTS}
    cohort = {name: _spread(values) for name, values in columns.items()}
    for cluster in np.unique(labels):
        members = labels == cluster
        for name, values in columns.items():
            mean, median, _ = _spread(values[members], at_least=k)
            cohort_mean, _, deviation = cohort[name]
            has_difference = (
                mean is not None and cohort_mean is not None and deviation is not None and deviation > 1e-12
            )
            difference = (mean - cohort_mean) / deviation if has_difference else None  # type: ignore[operator]
            rows.append({"cluster": int(cluster), "feature": name, "students": int(members.sum()), "mean": mean,
                         "median": median, "standardized_difference": difference})  # fmt: skip
    profiles = pd.DataFrame(rows, columns=list(PROFILE_COLUMNS))
    floats = {name: "float64" for name in ("mean", "median", "standardized_difference")}
    return profiles.astype({"cluster": "int64", "students": "int64", "feature": "str", **floats})


def describe_cluster(profiles: pd.DataFrame, cluster: int) -> str:
    """A short name from the cluster's means, such as "quiet lately, missing submissions"; never a judgment of a person.

    The inputs have fixed meanings (0.5 is the peers' median, or unchanged), so the words do not depend on which other
    clusters there are. Two clusters may share a name. Raises ValueError for an unknown cluster.
    """
    own = profiles[profiles["cluster"] == cluster]
    if own.empty:
        raise ValueError(f"cluster {cluster} is not in the profiles")
    mean = dict(zip(own["feature"], own["mean"].astype(float), strict=True))

    if np.isnan(list(mean.values())).all():
        return TOO_FEW

    def value(name: str, otherwise: float) -> float:
        found = mean.get(name, np.nan)
        return otherwise if np.isnan(found) else found

    activity = (value("active_days_28d_to_peers", 0.5) + value("clicks_28d_to_peers", 0.5)) / 2
    recency = value("days_since_last_activity", 0.0)
    words = []
    if cluster == -1:
        words.append("like no other group")
    is_quiet = recency >= 14 or activity < 0.2
    if is_quiet:
        words.append(
            "inactive" if activity < 0.015 else "quiet for long" if recency >= 28 or activity < 0.1 else "quiet lately"
        )
    elif activity >= 0.55:
        words.append("very active" if activity >= 0.65 else "active")
    else:
        words.append("steady" if activity >= 0.4 else "less active")
    if value("clicks_14d_to_history", 0.5) < 0.3 and not is_quiet:
        words.append("slowing down")
    missed, score = value("submissions_missed_share", 0.0), value("score_pct_mean", 100.0)
    words.append(
        "missing submissions" if missed >= 0.4 else "some submissions missed" if missed >= 0.1 else "up to date"
    )
    if score < 50 and missed < 0.4:
        words.append("low scores")
    return ", ".join(words)
