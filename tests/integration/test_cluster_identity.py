"""A cluster's uid outlives the model: on resamples of one twin, on twins that truly changed, and in the published tables.

The maths on panels made by hand is tested in tests/unit/test_clustering_identity.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import jaccard_score

from iom_platform.clustering.algorithms import assign, fit, scale, select_params
from iom_platform.clustering.identity import Transition, trace_clusters
from iom_platform.extract.synthetic import write_twin
from iom_platform.extract.twin.archetypes import ARCHETYPES
from iom_platform.extract.twin.students import TwinKnobs
from iom_platform.flow.cohort import read_cohort
from iom_platform.flow.report import report_path
from iom_platform.risk import select_scorable
from iom_platform.settings import Clustering
from iom_platform.storage import promotions, record
from iom_platform.storage.model_registry import Registry
from iom_platform.tables import ASSIGNMENTS, LINEAGE, MODEL_NAME, PROFILES, STUDENT_RISK
from tests.archetypes import DAY, KEY, snapshot_of
from tests.spine import Spine, said, set_columns, spine_at, succeed, warnings

BEFORE = DAY - timedelta(days=7)
RETRAININGS = 50
QUIET = ("fading", "barely_present")
FIT = dg.AssetSelection.assets(["clustering", "promotions"], ["clustering", "lineage"])
Uids = dict[int, str]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return snapshot_of(tmp_path_factory.mktemp("all"), TwinKnobs())


class Model:
    """A fit, the lineage that it has after a former one, and its uids."""

    def __init__(self, rows: pd.DataFrame, former: "Model | None" = None, n_clusters: int = 4) -> None:
        self.n_clusters = n_clusters
        self.model = fit(rows, **select_params("kmeans", {**Clustering().knobs, "n_clusters": n_clusters}))
        before = former.labels(rows) if former else np.full(len(rows), -1)
        self.lineage: dict[str, Transition] = {}
        for found in trace_clusters(
            before, self.labels(rows), scale(self.model, rows), former_uids=former.uids if former else {},
            clusters=range(n_clusters),
        ):  # fmt: skip
            self.lineage[found.cluster_uid] = found
        self.uids: Uids = {t.cluster: uid for uid, t in self.lineage.items() if t.cluster is not None}

    def labels(self, rows: pd.DataFrame) -> np.ndarray:
        return assign(self.model, rows)[0]

    def uid_of_most(self, rows: pd.DataFrame, *archetypes: str) -> str:
        """The uid of the cluster that most students of these archetypes are in."""
        return self.uids[int(np.bincount(self.labels(rows[rows["archetype"].isin(archetypes)])).argmax())]


def test_retrainings_on_resamples_keep_the_uids(snapshot: pd.DataFrame) -> None:
    """Each is compared with the one before, as the platform does; what is not kept has a row that says what became of it."""
    model, kept = Model(snapshot), 0
    assert {t.change for t in model.lineage.values()} == {"born"}
    for seed in range(RETRAININGS):
        resample = snapshot.sample(len(snapshot), replace=True, random_state=seed).reset_index(drop=True)
        model, former = Model(resample, model), model
        assert set(model.lineage) == {*former.uids.values(), *model.uids.values()}
        gone, new = (
            set(former.uids.values()) - set(model.uids.values()),
            set(model.uids.values()) - set(former.uids.values()),
        )
        assert {uid for uid, t in model.lineage.items() if t.change in ("merged", "died")} == gone
        assert {uid for uid, t in model.lineage.items() if t.change in ("split", "born")} == new
        kept += len(former.uids) - len(gone)
    assert kept >= 0.95 * RETRAININGS * len(model.uids)


def test_an_archetype_that_vanished_is_told_as_died(snapshot: pd.DataFrame, tmp_path: Path) -> None:
    """Without those who fade or never came, the quiet cluster's uid ends, and the most active cluster is what it was."""
    shares = tuple(0.0 if a.name in QUIET else a.share for a in ARCHETYPES)
    without = snapshot_of(tmp_path, replace(TwinKnobs(), archetype_shares=shares))
    assert not set(QUIET) & set(without["archetype"])
    former = Model(snapshot)
    later = Model(without, former)
    quiet, active = former.uid_of_most(snapshot, *QUIET), former.uid_of_most(snapshot, "intensive")
    assert later.lineage[quiet].change == "died"
    assert later.lineage[quiet].share < 0.05 < (former.lineage[quiet].share)
    assert later.lineage[active].change == "same"
    assert later.uid_of_most(without, "intensive") == active


def test_an_archetype_that_split_is_told_as_split(snapshot: pd.DataFrame) -> None:
    """Where there were steady students there are intensive and irregular ones, and a model that has room for both."""
    united = snapshot[snapshot["archetype"].isin(["steady", *QUIET])].reset_index(drop=True)
    parted = snapshot[snapshot["archetype"].isin(["intensive", "irregular", *QUIET])].reset_index(drop=True)
    former = Model(united, n_clusters=2)
    later = Model(parted, former, n_clusters=3)
    parent, child = former.uid_of_most(united, "steady"), later.uid_of_most(parted, "irregular")
    assert (later.lineage[child].change, later.lineage[child].from_uid) == ("split", parent)
    assert later.uid_of_most(parted, "intensive") == parent
    assert sorted(t.change for t in later.lineage.values()) == ["same", "same", "split"]


# -- published -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """A day that was scored by its own model, and a day a week later that was scored after a refit.

    Some students came three days before the first: they have a cluster, and no level yet.
    """
    folder = tmp_path_factory.mktemp("identity")
    running = write_twin(folder / "twin", students=1000, seed=7, through=DAY).running
    course_day = {tuple(p.course_id.split("-")): (BEFORE - p.starts_on).days for p in running}

    def come_late(number: int, row: dict[str, str]) -> dict[str, str]:
        day = course_day.get((row["code_module"], row["code_presentation"]))
        return {"date_registration": str(day - 3)} if day and number % 20 == 0 else {}

    set_columns(folder / "twin" / "studentRegistration.csv", come_late)
    with spine_at(folder / "home") as platform:
        succeed(platform.land(folder / "twin", DAY))
        succeed(platform.score(BEFORE))
        succeed(platform.score(DAY, refit=True))
        yield platform


def _lineage(spine: Spine, version: int) -> pd.DataFrame:
    with record.open_record(spine.settings) as conn:
        return promotions.read_lineage(conn, MODEL_NAME, version)


def _living(spine: Spine, version: int) -> Uids:
    rows = _lineage(spine, version).dropna(subset="cluster")
    return dict(zip(rows["cluster"].astype(int), rows["cluster_uid"], strict=True))


def _day(spine: Spine, table: Any, day: date) -> pd.DataFrame:
    with record.open_record(spine.settings) as conn:
        return record.read_table(conn, table, day)


def test_every_uid_of_both_models_has_its_row(spine: Spine) -> None:
    first, second = _lineage(spine, 1), _lineage(spine, 2)
    assert set(first["change"]) == {"born"} and sorted(first["cluster"]) == [0, 1, 2, 3]
    assert first["former_version"].isna().all() and first["overlap"].isna().all()
    assert set(second["cluster_uid"]) == {*_living(spine, 1).values(), *_living(spine, 2).values()}
    assert set(second["former_version"]) == {1}
    kept = set(_living(spine, 1).values()) & set(_living(spine, 2).values())
    assert len(kept) >= 2 and kept == set(second.loc[second["change"] == "same", "cluster_uid"])
    names = dict(zip(first["cluster_uid"], first["name"], strict=True))
    assert all(name == names.get(uid, name) for uid, name in zip(second["cluster_uid"], second["name"], strict=True))


def test_overlaps_are_those_of_both_models_on_the_rows_that_the_new_one_was_trained_on(spine: Spine) -> None:
    panel = select_scorable(read_cohort(spine.settings, DAY))
    registry = Registry.of(spine.settings)
    old, new = (assign(registry.load_model(MODEL_NAME, version)[0], panel)[0] for version in (1, 2))
    numbers = {uid: cluster for cluster, uid in _living(spine, 1).items()}
    rows = _lineage(spine, 2)
    for row in rows[rows["change"].isin(["same", "split"])].itertuples():
        assert row.overlap == pytest.approx(jaccard_score(old == numbers[row.from_uid], new == row.cluster), abs=1e-6)
        assert row.share == pytest.approx((new == row.cluster).mean(), abs=1e-6)
    assert len(panel) > 100 and rows.loc[rows["cluster"].notna(), "share"].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("day", "version"), [(BEFORE, 1), (DAY, 2)])
def test_published_rows_carry_the_uid_of_their_cluster(spine: Spine, day: date, version: int) -> None:
    uids = _living(spine, version)
    assigned, profiles, risk = (_day(spine, table, day) for table in (ASSIGNMENTS, PROFILES, STUDENT_RISK))
    assert set(assigned["model_version"]) == {version} and set(assigned["cluster"]) == set(uids)
    for rows in (assigned, profiles, risk.dropna(subset="cluster")):
        assert rows["cluster_uid"].tolist() == rows["cluster"].astype(int).map(uids).tolist()
    unknown = risk[risk["risk_level"] == "UNKNOWN"].merge(assigned, on=KEY, suffixes=("", "_assigned"))
    assert unknown["cluster_uid_assigned"].notna().all() and unknown["cluster_uid"].isna().all()
    assert len(unknown) > 2 if day == BEFORE else unknown.empty
    page = report_path(spine.settings, day).read_text()
    assert all((uid in page) == (uid in set(uids.values())) for v in (1, 2) for uid in _living(spine, v).values())


def test_a_replay_changes_no_uid(spine: Spine) -> None:
    tables = (LINEAGE.path, ASSIGNMENTS.path, PROFILES.path, STUDENT_RISK.path)
    before = spine.hashes()
    succeed(spine.run_part(dg.AssetSelection.groups("clustering", "risk"), BEFORE))
    after = spine.hashes()
    assert [after[path] for path in tables] == [before[path] for path in tables]


def test_a_champion_of_before_uids_is_given_them(spine: Spine) -> None:
    """What an earlier version of the platform promoted has no lineage: scoring says so, and the step before it mends it."""
    first = _lineage(spine, 1)
    with record.open_record(spine.settings) as conn, conn.cursor() as cursor:
        cursor.execute("DELETE FROM clustering.lineage WHERE model_version = 1")
    alone = dg.AssetSelection.assets(["clustering", "assignments"], ["clustering", "profiles"])
    (sentence,) = said(spine.run_part(alone, BEFORE))
    assert sentence.startswith(
        "clustering/lineage knows no cluster of version 1; materialize clustering/promotions of "
    )
    succeed(spine.run_part(FIT, BEFORE))
    pd.testing.assert_frame_equal(_lineage(spine, 1), first)


def test_a_model_that_is_lost_does_not_stop_the_refit_that_is_its_remedy(spine: Spine) -> None:
    registry = Registry.of(spine.settings)
    for file in spine.settings.artifact_path.rglob("model.skops"):
        file.unlink()
    refitted = spine.run_part(FIT, DAY, {"fit_model": {"config": {"refit": True}}})
    succeed(refitted)
    assert [
        line
        for line in warnings(refitted)
        if line.startswith("No cluster is known again, so every uid of version 2 ends")
    ]
    third = _lineage(spine, 3)
    assert third["change"].value_counts().to_dict() == {"born": 4, "died": 4}
    assert set(third.loc[third["change"] == "died", "cluster_uid"]) == set(_living(spine, 2).values())
    assert registry.load_model(MODEL_NAME, 3)
