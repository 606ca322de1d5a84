"""Profiles of clusters: numbers, picture, name."""

import numpy as np
import pandas as pd
import pytest

from iom_platform.clustering.plots import plot_profiles
from iom_platform.clustering.profiles import PROFILE_COLUMNS, describe_cluster, profile_clusters
from iom_platform.tables import MODEL_INPUTS

ACTIVE = {"active_days_28d_to_peers": 0.6, "clicks_28d_to_peers": 0.6, "clicks_14d_to_history": 0.5, "days_since_last_activity": 1.0,
          "weekday_entropy_share": 0.9, "submissions_missed_share": 0.0, "score_pct_mean": 80.0}  # fmt: skip


def make_frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(MODEL_INPUTS))


def name_of(**changes: float) -> str:
    return describe_cluster(profile_clusters(make_frame([{**ACTIVE, **changes}] * 5), np.zeros(5)), 0)


def test_numbers_by_hand() -> None:
    frame = make_frame([{**ACTIVE, "score_pct_mean": s} for s in (10.0, 20.0, 60.0, np.nan)])
    profiles = profile_clusters(frame, np.array([0, 0, 1, 1]), k=1)
    assert list(profiles.columns) == list(PROFILE_COLUMNS)
    assert len(profiles) == 2 * len(MODEL_INPUTS)
    row = profiles[(profiles["feature"] == "score_pct_mean") & (profiles["cluster"] == 0)].iloc[0]
    assert (row["students"], row["mean"], row["median"]) == (2, 15.0, 15.0)
    assert row["standardized_difference"] == pytest.approx((15 - 30) / np.std([10, 20, 60]))


def test_null_where_undefined_and_noise_is_a_cluster() -> None:
    frame = make_frame([{**ACTIVE, "score_pct_mean": np.nan}] * 4)
    profiles = profile_clusters(frame, np.array([-1, 0, 0, 0]), k=1).set_index(["cluster", "feature"])
    assert profiles.loc[(0, "score_pct_mean"), ["mean", "median", "standardized_difference"]].isna().all()
    assert np.isnan(profiles.loc[(0, "clicks_28d_to_peers"), "standardized_difference"])
    assert profiles.loc[(-1, "clicks_28d_to_peers"), "students"] == 1


def test_fewer_than_k_values_have_no_mean() -> None:
    frame = make_frame([ACTIVE] * 9 + [{**ACTIVE, "score_pct_mean": np.nan}])
    profiles = profile_clusters(frame, np.array([0] * 4 + [1] * 6), k=5).set_index(["cluster", "feature"])
    assert profiles.loc[0, ["mean", "median", "standardized_difference"]].isna().all(axis=None)
    assert (profiles.loc[0, "students"] == 4).all()
    assert profiles.loc[1, "mean"].notna().all()
    frame.loc[4:5, "score_pct_mean"] = np.nan  # three of six have none left
    profiles = profile_clusters(frame, np.array([0] * 4 + [1] * 6), k=5).set_index(["cluster", "feature"])
    assert np.isnan(profiles.loc[(1, "score_pct_mean"), "mean"])
    assert profiles.loc[(1, "weekday_entropy_share"), "mean"] == 0.9


def test_order_of_rows_moves_no_bit() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((500, len(MODEL_INPUTS))), columns=list(MODEL_INPUTS))
    labels, order = random.integers(0, 3, 500), random.permutation(500)
    pd.testing.assert_frame_equal(
        profile_clusters(frame, labels), profile_clusters(frame.iloc[order], labels[order]), check_exact=True
    )


def test_nobody_gives_no_profiles() -> None:
    assert list(profile_clusters(make_frame([]), np.empty(0)).columns) == list(PROFILE_COLUMNS)


def test_plot_is_a_png_even_with_nulls() -> None:
    frame = make_frame(
        [{**ACTIVE, "score_pct_mean": np.nan}] * 2 + [{**ACTIVE, "clicks_28d_to_peers": 0.1, "score_pct_mean": np.nan}]
    )
    picture = plot_profiles(profile_clusters(frame, np.array([0, 0, 1])))
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "active, up to date"),
        ({"active_days_28d_to_peers": 0.7, "clicks_28d_to_peers": 0.7}, "very active, up to date"),
        (
            {"active_days_28d_to_peers": 0.5, "clicks_28d_to_peers": 0.45, "submissions_missed_share": 0.2},
            "steady, some submissions missed",
        ),
        (
            {"active_days_28d_to_peers": 0.3, "clicks_28d_to_peers": 0.3, "clicks_14d_to_history": 0.1},
            "less active, slowing down, up to date",
        ),
        ({"days_since_last_activity": 16, "submissions_missed_share": 0.5}, "quiet lately, missing submissions"),
        (
            {"active_days_28d_to_peers": 0.01, "clicks_28d_to_peers": 0.0, "submissions_missed_share": 1},
            "inactive, missing submissions",
        ),
        ({"score_pct_mean": 30}, "active, up to date, low scores"),
        ({name: np.nan for name in MODEL_INPUTS if name != "score_pct_mean"}, "steady, up to date"),
        ({name: np.nan for name in MODEL_INPUTS}, "too few students to describe"),
    ],
)
def test_names(changes: dict[str, float], name: str) -> None:
    assert name_of(**changes) == name


def test_an_unknown_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="cluster 9"):
        describe_cluster(profile_clusters(make_frame([ACTIVE]), np.zeros(1)), 9)
