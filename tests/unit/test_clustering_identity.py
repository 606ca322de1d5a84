"""Clusters are known again after a retraining: by number never, by members and place; what became of each is told once."""

from collections.abc import Iterable

import numpy as np
import pytest

from iom_platform.clustering.identity import CHANGES, MIN_OVERLAP, Transition, _centers, name_clusters, trace_clusters
from iom_platform.clustering.profiles import TOO_FEW, describe_cluster, profile_clusters
from tests.unit.test_clustering_profiles import ACTIVE, make_frame

CORNERS = np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9], [0.1, 0.9]])
UIDS = {0: "c-00000000", 1: "c-11111111", 2: "c-22222222", 3: "c-33333333"}
ROWS = 100


def make_panel(clusters: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """100 rows about each corner, and which."""
    truth = np.repeat(np.arange(clusters), ROWS)
    return CORNERS[truth] + np.random.default_rng(5).normal(0, 0.02, (len(truth), 2)), truth


SCALED, TRUTH = make_panel()


def trace(
    former: np.ndarray, labels: np.ndarray, scaled: np.ndarray = SCALED, uids: dict[int, str] | None = None,
    clusters: Iterable[int] | None = None,
) -> dict[str, Transition]:  # fmt: skip
    """The lineage by uid; every old and new cluster must be there exactly once, with what its change demands."""
    uids = {n: UIDS[n] for n in np.unique(former).tolist() if n >= 0} if uids is None else uids
    numbers = sorted(set(labels.tolist()) - {-1}) if clusters is None else list(clusters)
    found = trace_clusters(former, labels, scaled, former_uids=uids, clusters=numbers)
    by_uid = {t.cluster_uid: t for t in found}
    assert len(by_uid) == len(found)
    assert set(uids.values()) <= set(by_uid)
    assert [t.cluster for t in found if t.cluster is not None] == numbers
    for t in found:
        assert t.change in CHANGES
        assert (t.cluster is None) == (t.change in ("merged", "died"))
        assert (t.cluster_uid in uids.values()) == (t.change in ("same", "merged", "died"))
        assert (t.from_uid is not None) == (t.change in ("same", "split"))
        assert (t.into_uid is not None) == (t.change == "merged")
    return by_uid


def changes(found: dict[str, Transition]) -> dict[str, int]:
    told = [t.change for t in found.values()]
    return {change: told.count(change) for change in CHANGES if change in told}


def newborn(found: dict[str, Transition], number: int) -> Transition:
    (only,) = [t for t in found.values() if t.cluster == number]
    return only


def test_numbers_that_were_permuted_keep_their_uids() -> None:
    order = np.array([2, 0, 3, 1])
    found = trace(TRUTH, order[TRUTH])
    assert changes(found) == {"same": 4}
    assert {t.cluster: uid for uid, t in found.items()} == {order[n]: uid for n, uid in UIDS.items()}
    assert {(t.overlap, t.center_distance, t.share) for t in found.values()} == {(1.0, 0.0, 0.25)}


def test_a_split_leaves_the_uid_with_the_larger_part_and_names_the_parent() -> None:
    labels = np.where((TRUTH == 1) & (np.arange(len(TRUTH)) % 10 < 4), 4, TRUTH)
    found = trace(TRUTH, labels)
    assert changes(found) == {"same": 4, "split": 1}
    child = newborn(found, 4)
    assert (child.change, child.from_uid, child.overlap, child.share) == ("split", UIDS[1], 0.4, 0.1)
    assert (found[UIDS[1]].cluster, found[UIDS[1]].overlap) == (1, 0.6)


def test_a_merge_leaves_the_uid_of_the_heavier_and_names_the_heir() -> None:
    rows = np.flatnonzero((TRUTH != 0) | (np.arange(len(TRUTH)) < 60))  # 60 of cluster 0, 100 of each other
    found = trace(TRUTH[rows], np.where(TRUTH[rows] == 0, 1, TRUTH[rows]), SCALED[rows])
    assert changes(found) == {"same": 3, "merged": 1}
    assert (found[UIDS[0]].change, found[UIDS[0]].into_uid) == ("merged", UIDS[1])
    assert found[UIDS[0]].overlap == pytest.approx(60 / 160)
    assert found[UIDS[1]].overlap == pytest.approx(100 / 160)
    # the corners lie 0.8 apart of 1.4, and the merged center between them, nearer to the heavier
    assert found[UIDS[0]].center_distance == pytest.approx(0.8 / np.sqrt(2) * 100 / 160, abs=0.01)
    assert found[UIDS[1]].center_distance == pytest.approx(0.8 / np.sqrt(2) * 60 / 160, abs=0.01)


def test_a_birth_has_no_parent_and_a_death_no_heir() -> None:
    """What was noise is a cluster now, and what was a cluster is noise."""
    found = trace(np.where(TRUTH == 3, -1, TRUTH), np.where(TRUTH == 0, -1, TRUTH))
    assert changes(found) == {"same": 2, "born": 1, "died": 1}
    born = newborn(found, 3)
    assert (born.change, born.overlap, born.center_distance, born.share) == ("born", 0.0, None, 0.25)
    assert (found[UIDS[0]].change, found[UIDS[0]].overlap, found[UIDS[0]].share) == ("died", 0.0, 0.25)


def test_a_cluster_without_a_row_dies_and_one_of_the_new_model_is_born() -> None:
    labels = np.where(TRUTH == 2, 1, TRUTH)
    former = np.where(TRUTH == 2, 1, TRUTH)
    found = trace(former, labels, uids=UIDS, clusters=range(5))
    assert found[UIDS[2]].change == "died" and found[UIDS[2]].share == 0
    assert {t.overlap for t in found.values() if not t.share} == {0.0}
    assert {newborn(found, n).change for n in (2, 4)} == {"born"}
    assert changes(found) == {"same": 3, "born": 2, "died": 1}


def test_a_handful_of_rows_is_no_visible_part() -> None:
    """What is left of a vanished cluster goes somewhere, and is no merge; a new cluster's few rows are no split."""
    gone = np.flatnonzero((TRUTH != 0) | (np.arange(len(TRUTH)) < 9))
    found = trace(TRUTH[gone], np.where(TRUTH[gone] == 0, 1, TRUTH[gone]), SCALED[gone])
    assert found[UIDS[0]].change == "died" and found[UIDS[0]].overlap == pytest.approx(9 / 109, abs=1e-6)
    few = np.where((TRUTH == 1) & (np.arange(len(TRUTH)) % 100 < 9), 4, TRUTH)
    assert newborn(trace(TRUTH, few), 4).change == "born"
    enough = np.where((TRUTH == 1) & (np.arange(len(TRUTH)) % 100 < 10), 4, TRUTH)
    assert newborn(trace(TRUTH, enough), 4).change == "split"


def test_what_is_left_of_one_cluster_is_not_merged_with_nothing() -> None:
    """All that is left of cluster 0 is a quarter of a newborn cluster, which no old one went on as."""
    place = np.arange(len(TRUTH)) % 100
    rows = np.flatnonzero((TRUTH != 0) | (place < 30))
    labels = np.where((TRUTH == 0) | (place < 30), 9, TRUTH)[rows]
    found = trace(TRUTH[rows], labels, SCALED[rows])
    assert found[UIDS[0]].change == "died" and found[UIDS[0]].overlap == 0.25
    assert newborn(found, 9).change == "born"
    assert changes(found) == {"same": 3, "born": 1, "died": 1}


def test_a_part_that_is_too_small_keeps_no_uid() -> None:
    """In four equal parts none is the old cluster; in three each could be, and one is."""
    four = np.arange(len(TRUTH)) % 4 + 10
    found = trace(TRUTH, np.where(TRUTH == 0, four, TRUTH))
    assert found[UIDS[0]].change == "died" and MIN_OVERLAP > 1 / 4
    assert {newborn(found, n).from_uid for n in range(10, 14)} == {UIDS[0]}
    three = np.arange(len(TRUTH)) % 3 + 10
    found = trace(TRUTH[:99], np.where(TRUTH[:99] == 0, three[:99], 1), SCALED[:99])
    assert changes(found) == {"same": 1, "split": 2}


def test_overlap_decides_and_distance_only_between_equals() -> None:
    """Each new cluster has half of the old one and ten rows that were noise: near it, or far away."""
    former, labels = np.repeat([0, 0, -1, -1], 10), np.repeat([0, 1, 0, 1], 10)
    for far, kept in ((0, 1), (1, 0)):
        scaled = np.full((40, 2), 0.5)
        scaled[(former == -1) & (labels == far)] = 1.0
        assert trace(former, labels, scaled)[UIDS[0]].cluster == kept
        labels_with_one_more = np.where(np.arange(40) == (10 if far == 0 else 9), far, labels)
        assert trace(former, labels_with_one_more, scaled)[UIDS[0]].cluster == far


def test_noise_is_neither_parent_nor_heir() -> None:
    all_noise = np.full(len(TRUTH), -1)
    assert changes(trace(all_noise, TRUTH, uids=UIDS)) == {"born": 4, "died": 4}
    assert changes(trace(TRUTH, all_noise)) == {"died": 4}
    assert {t.overlap for t in trace(TRUTH, all_noise).values()} <= {0.0, None}


def test_a_first_model_bears_every_cluster() -> None:
    found = trace(np.full(len(TRUTH), -1), TRUTH, uids={})
    assert changes(found) == {"born": 4}
    assert {(t.overlap, t.center_distance, t.share) for t in found.values()} == {(None, None, 0.25)}


def test_one_cluster_is_the_same_or_in_parts() -> None:
    one = np.zeros(len(TRUTH), dtype=int)
    assert changes(trace(one, one)) == {"same": 1}
    assert changes(trace(one, TRUTH)) == {"split": 4, "died": 1}
    assert changes(trace(TRUTH, one)) == {"merged": 4, "born": 1}


def test_clusters_that_share_nothing_are_all_new() -> None:
    """Each new cluster has a quarter of every old one: no parent, no heir, nothing kept."""
    found = trace(TRUTH, np.arange(len(TRUTH)) % 4)
    assert changes(found) == {"born": 4, "died": 4}
    assert {t.overlap for t in found.values()} == {round(1 / 7, 6)}


def test_an_empty_panel_knows_nobody_again() -> None:
    nothing = np.empty(0, dtype=int)
    found = trace(nothing, nothing, np.empty((0, 2)), uids=UIDS, clusters=range(4))
    assert changes(found) == {"born": 4, "died": 4}


def test_uids_are_never_drawn_and_do_not_depend_on_the_order_of_rows() -> None:
    order = np.random.default_rng(0).permutation(len(TRUTH))
    none = np.full(len(TRUTH), -1)
    first = trace(none, TRUTH, uids={})
    assert trace(none, TRUTH[order], SCALED[order], uids={}) == first
    labels = np.where((TRUTH == 1) & (np.arange(len(TRUTH)) % 10 < 4), 4, TRUTH)
    assert trace(TRUTH, labels) == trace(TRUTH[order], labels[order], SCALED[order])
    members = [TRUTH == 0], [TRUTH[order] == 0]
    assert (_centers(members[0], SCALED) == _centers(members[1], SCALED[order])).all()  # to the last bit
    moved = trace(none, TRUTH, SCALED * 0.9, uids={})
    assert not set(first) & set(moved)


def test_a_uid_that_is_in_use_is_not_given_again() -> None:
    """A fit of before, promoted again: its newborn clusters would get the uids that other clusters carry now."""
    none = np.full(len(TRUTH), -1)
    first = {t.cluster: uid for uid, t in trace(none, TRUTH, uids={}).items()}
    swapped = {0: first[3], 1: first[1], 2: first[2]}  # the uid of cluster 3 went to cluster 0, and 3 is newborn again
    found = trace(np.where(TRUTH == 3, -1, TRUTH), TRUTH, uids=swapped)
    assert found[first[3]].cluster == 0
    assert newborn(found, 3).change == "born" and newborn(found, 3).cluster_uid not in first.values()
    ended = trace(np.where(TRUTH == 0, -1, TRUTH), TRUTH, uids={4: first[0], 1: UIDS[1], 2: UIDS[2], 3: UIDS[3]})
    assert ended[first[0]].change == "died"
    assert newborn(ended, 0).change == "born" and newborn(ended, 0).cluster_uid != first[0]


def test_a_name_is_kept_as_long_as_the_uid() -> None:
    rows = [ACTIVE] * ROWS + [{**ACTIVE, "submissions_missed_share": 0.9}] * ROWS + [ACTIVE] * 2
    labels = np.repeat([0, 1, 2], [ROWS, ROWS, 2])
    profiles = profile_clusters(make_frame(rows), labels)
    lineage = trace_clusters(
        np.repeat([0, 5, 6], [ROWS, ROWS, 2]), labels, np.zeros((len(rows), 1)), clusters=[0, 1, 2, 3],
        former_uids={0: UIDS[0], 6: UIDS[1], 9: UIDS[2]},
    )  # fmt: skip
    former_names = {UIDS[0]: "steady once", UIDS[1]: TOO_FEW, UIDS[2]: "gone by now"}
    assert name_clusters(lineage, profiles, former_names=former_names) == [
        "steady once", describe_cluster(profiles, 1), TOO_FEW, TOO_FEW, "gone by now",
    ]  # fmt: skip
    many = profile_clusters(make_frame(rows), labels, k=1)
    assert name_clusters(lineage, many, former_names=former_names)[2] == describe_cluster(many, 2) != TOO_FEW
