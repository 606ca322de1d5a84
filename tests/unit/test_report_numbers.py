"""The report's numbers: intervals, movement, stories, groups under the minimum cell, flags against a truth made by hand."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from iom_platform.clustering.profiles import describe_cluster
from iom_platform.clustering.quality import measure_outcomes, measure_quality
from iom_platform.clustering.stability import Stability
from iom_platform.report.clusters import choose_shown, describe_clusters, say_shares
from iom_platform.report.comparison import compare_flags, flag_inactive, say_verdict
from iom_platform.report.deliveries import find_stale, list_deliveries, list_rejections
from iom_platform.report.levels import GONE, NEW, count_levels, count_unknown, measure_movement, sum_levels
from iom_platform.report.measures import MEASURES, explain_measures
from iom_platform.report.shares import Share
from iom_platform.report.stories import DECLINING, choose_stories
from tests.scored_day import DAY, UIDS, made_day

MADE = made_day()


# -- shares and levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (1, 10), (5, 10), (10, 10), (27, 119), (1, 1), (1, 5000)])
def test_the_interval_is_wilsons(hits: int, total: int) -> None:
    known = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert (Share(hits, total).low, Share(hits, total).high) == pytest.approx((known.low, known.high))


def test_a_share_in_words_is_never_rounded_to_none_or_all() -> None:
    assert [Share(*s).percent for s in ((0, 9), (1, 900), (1, 3), (899, 900), (9, 9), (0, 0))] == [
        "0%", "under 1%", "33%", "over 99%", "100%", "-",
    ]  # fmt: skip
    assert Share(0, 0).interval == "-"
    assert Share(27, 119).interval == "16% to 31%"


def test_levels_add_up_and_the_share_of_high_leaves_unknown_out() -> None:
    courses = count_levels(MADE.risk)
    assert [(c.course_id, c.students, c.counts["HIGH"]) for c in courses] == [
        ("AAA-2026B", 60, 12),
        ("BBB-2026B", 60, 12),
    ]
    total = sum_levels(courses)
    assert total.counts == {"LOW": 50, "MEDIUM": 36, "HIGH": 24, "UNKNOWN": 10}
    assert (total.high.hits, total.high.total) == (24, 110)
    assert count_unknown(MADE.risk) == (("Registered less than a week ago", 10),)


# -- movement ------------------------------------------------------------------------------------------


def _levels(**of: str) -> pd.DataFrame:
    return pd.DataFrame({"student_pseudonym": list(of), "course_id": "AAA-2026B", "risk_level": list(of.values()),
                         "model_version": pd.array([None if v == "UNKNOWN" else 1 for v in of.values()], dtype="Int64")})  # fmt: skip


def test_movement_counts_who_rose_fell_came_and_went() -> None:
    before = _levels(a="LOW", b="LOW", c="HIGH", d="MEDIUM", e="UNKNOWN", f="HIGH", g="LOW")
    now = _levels(a="LOW", b="HIGH", c="MEDIUM", d="MEDIUM", e="HIGH", g="UNKNOWN", h="LOW")
    movement = measure_movement(now, before)
    assert movement is not None
    assert (movement.rose, movement.fell, movement.stayed) == (1, 1, 2)
    counted = {(a, b): n for a, row in movement.cells.items() for b, n in row.items() if n}
    assert counted == {("LOW", "LOW"): 1, ("LOW", "HIGH"): 1, ("HIGH", "MEDIUM"): 1, ("MEDIUM", "MEDIUM"): 1,
                       ("UNKNOWN", "HIGH"): 1, ("HIGH", GONE): 1, ("LOW", "UNKNOWN"): 1, (NEW, "LOW"): 1}  # fmt: skip
    assert movement.is_one_model


def test_another_model_a_week_before_is_told() -> None:
    movement = measure_movement(MADE.risk.assign(model_version=2), MADE.risk_before)
    assert movement is not None and not movement.is_one_model


def test_no_rows_a_week_before_is_no_movement() -> None:
    assert measure_movement(MADE.risk, MADE.risk_before.iloc[:0]) is None


# -- stories -------------------------------------------------------------------------------------------


def _told(before: pd.DataFrame) -> list[tuple[str, str]]:
    return [(s.title, s.level) for s in choose_stories(MADE.risk, before, MADE.terms, MADE.weeks)]


def test_stories_follow_their_rules() -> None:
    high, rose, low = choose_stories(MADE.risk, MADE.risk_before, MADE.terms, MADE.weeks)
    assert (high.level, high.reasons) == ("HIGH", ("No activity for 30 days", "2 of 3 submissions missed"))
    assert (rose.level, rose.level_before) == ("MEDIUM", "LOW")
    assert low.level == "LOW"
    assert (high.submissions_missed, high.submissions_due, low.submissions_missed) == (2, 3, 0)
    assert list(high.weeks["course_week"]) == list(range(1, 13))
    assert list(high.weeks["active_days"]) == [0] * 12
    course = MADE.weeks[(MADE.weeks["course_id"] == "AAA-2026B") & (MADE.weeks["course_week"] == 12)]
    assert high.weeks["course_median"].iloc[-1] == course["active_days"].median()


def test_where_nobody_rose_the_medium_in_decline_is_told() -> None:
    unchanged = choose_stories(MADE.risk, MADE.risk, MADE.terms, MADE.weeks)
    assert [(s.rule, s.level) for s in unchanged][1] == (DECLINING, "MEDIUM")
    assert unchanged[1].reasons[0] == "No activity for 24 days"  # the first MEDIUM: the lowest ratio of clicks
    assert _told(MADE.risk.iloc[:0]) == [(s.title, s.level) for s in unchanged]


def test_no_student_is_told_of_twice() -> None:
    """The highest score also rose most: the second story is of another one who rose."""
    top = MADE.risk["risk_score"] == MADE.risk["risk_score"].max()
    before = MADE.risk_before.assign(risk_level=MADE.risk_before["risk_level"].mask(top, "LOW"),
                                     risk_score=MADE.risk_before["risk_score"].mask(top, 0.01))  # fmt: skip
    high, rose, _ = choose_stories(MADE.risk, before, MADE.terms, MADE.weeks)
    assert (high.level, high.level_before) == ("HIGH", "LOW")
    assert (rose.level, rose.level_before) == ("MEDIUM", "LOW")


def test_stories_do_not_depend_on_the_order_of_rows() -> None:
    shuffled = MADE.risk.sample(frac=1, random_state=1)
    one, two = (choose_stories(r, MADE.risk_before, MADE.terms, MADE.weeks) for r in (MADE.risk, shuffled))
    assert [replace(s, weeks=None) for s in one] == [replace(s, weeks=None) for s in two]  # type: ignore[arg-type]


def test_a_story_names_nobody() -> None:
    for story in choose_stories(MADE.risk, MADE.risk_before, MADE.terms, MADE.weeks):
        assert "student_pseudonym" not in story.weeks
        assert not [p for p in MADE.risk["student_pseudonym"] if p in repr(story)]


# -- groups --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), max_size=8), st.integers(2, 10))
def test_no_group_under_k_is_shown_or_left_over(sizes: list[int], k: int) -> None:
    shown = choose_shown(dict(enumerate(sizes)), k=k)
    assert all(sizes[cluster] >= k for cluster in shown)
    assert [sizes[c] for c in shown] == sorted((sizes[c] for c in shown), reverse=True)
    left_over = sum(sizes) - sum(sizes[cluster] for cluster in shown)
    assert left_over == 0 or left_over >= k or not shown


@given(st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80)), st.integers(2, 10))
def test_a_range_of_shares_fits_at_least_k_numbers_of_students(counts: tuple[int, int, int], k: int) -> None:
    students = sum(counts)
    shares = say_shares(dict(zip("abc", counts, strict=True)), k=k)
    assert (shares is None) == (students < 2 * k)
    for count, text in zip(counts, (shares or {}).values(), strict=False):
        low, high = (int(part.rstrip("%")) for part in text.split(" to "))
        assert low * students <= 100 * count <= high * students
        fitting = [
            n
            for n in range(students + 1)
            if low * students <= 100 * n < high * students or 100 * n == 100 * students == high * students
        ]
        assert len(fitting) >= k


@pytest.mark.parametrize("total", [10, 13, 20, 27, 40])
def test_no_count_under_k_follows_from_the_ranges_and_the_size(total: int) -> None:
    """Whoever lists every way in which the ranges can add up still has two numbers for each cell of 1 to k - 1."""
    k = 5
    tables: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
    for a, b in product(range(total + 1), repeat=2):
        if a + b <= total:
            cells = (a, b, total - a - b)
            told = say_shares(dict(zip("abc", cells, strict=True)), k=k)
            assert told is not None
            tables.setdefault(tuple(told.values()), []).append(cells)
    for ways in tables.values():
        for cell in range(3):
            possible = {way[cell] for way in ways}
            assert len(possible) > 1 or min(possible) == 0 or min(possible) >= k, ways


def test_groups_hold_nobody_under_k_in_a_mean_of_weeks() -> None:
    few = pd.concat([MADE.weeks[MADE.weeks["course_week"] < 6], MADE.weeks[MADE.weeks["course_week"] == 6].iloc[:4]])
    groups = describe_clusters(MADE.profiles, MADE.risk, few, MADE.lineage, k=5)
    assert sorted(g.students for g in groups.groups) == [20, 30, 30, 30]
    assert set(groups.weeks["course_week"]) == set(range(1, 6))
    assert groups.weeks["students"].min() >= 5
    assert (
        describe_clusters(MADE.profiles, MADE.risk, MADE.weeks, MADE.lineage, k=5).weeks["course_week"].max() == 11
    )  # 12 is running


def test_a_small_group_is_withheld_with_the_next_larger() -> None:
    moved = MADE.risk.assign(cluster=MADE.risk["cluster"].mask(np.arange(len(MADE.risk)) == 29, 3))
    small = moved.assign(cluster=moved["cluster"].mask(np.arange(len(moved)) < 27, 1))  # leaves two in cluster 0
    groups = describe_clusters(MADE.profiles, small, MADE.weeks, MADE.lineage, k=5)
    assert groups.withheld == 2
    assert [(g.letter, g.uid) for g in groups.groups] == [("B", UIDS[1]), ("C", UIDS[2])]


def test_a_group_keeps_letter_and_name_when_the_model_numbers_it_anew() -> None:
    """A second model: two uids go on under other numbers, one split off, one was born; the members moved with them."""
    uids = {0: UIDS[2], 1: "c-55555555", 2: UIDS[0], 3: "c-44444444"}
    later = pd.DataFrame(
        [{"model_version": 2, "cluster_uid": uid, "cluster": number, "name": "new", "change": change}
         for (number, uid), change in zip(uids.items(), ("same", "born", "same", "split"), strict=True)]
    )  # fmt: skip
    former = MADE.lineage.set_index("cluster_uid")["name"]
    later["name"] = later["cluster_uid"].map(former).fillna(later["name"])
    lineage = pd.concat([later, MADE.lineage], ignore_index=True)
    profiles = MADE.profiles.assign(cluster_uid=MADE.profiles["cluster"].map(uids))
    found = {g.uid: g for g in describe_clusters(profiles, MADE.risk, MADE.weeks, lineage, k=5).groups}
    assert {uid: g.letter for uid, g in found.items()} == {
        UIDS[0]: "A", UIDS[2]: "C", "c-55555555": "E", "c-44444444": "F",
    }  # fmt: skip
    assert found[UIDS[0]].name == former[UIDS[0]]
    assert found[UIDS[0]].now == describe_cluster(profiles, 2) != former[UIDS[0]]
    same = describe_clusters(MADE.profiles, MADE.risk, MADE.weeks, MADE.lineage, k=5).groups
    assert [(g.letter, g.name, g.now) for g in same] == [
        (letter, former[uid], None) for letter, uid in zip("ABCD", UIDS, strict=True)
    ]


def test_noise_and_rows_of_before_uids_are_shown_without_one() -> None:
    noise = MADE.profiles.assign(cluster_uid=MADE.profiles["cluster_uid"].mask(MADE.profiles["cluster"] == 1))
    moved = {"cluster": {1: -1}}
    groups = describe_clusters(noise.replace(moved), MADE.risk.replace(moved), MADE.weeks, MADE.lineage, k=5).groups
    assert {g.letter: g.uid for g in groups} == {"*": None, "A": UIDS[0], "C": UIDS[2], "D": UIDS[3]}
    none = describe_clusters(
        MADE.profiles.assign(cluster_uid=None), MADE.risk, MADE.weeks, MADE.lineage.iloc[:0], k=5
    ).groups
    assert [(g.letter, g.uid) for g in none] == [(letter, None) for letter in "ABCD"]
    assert [g.students for g in none] == [30, 30, 30, 20]


def test_a_mean_of_a_week_is_the_groups_own() -> None:
    groups = describe_clusters(MADE.profiles, MADE.risk, MADE.weeks, MADE.lineage, k=5)
    first = groups.weeks[groups.weeks["course_week"] == 1]
    members = MADE.risk["cluster"] == 2
    expected = MADE.weeks[MADE.weeks["course_week"] == 1]["active_days"].to_numpy()[members.fillna(False)].mean()
    assert expected in [pytest.approx(value) for value in first["active_days_mean"]]


# -- flags against truth -------------------------------------------------------------------------------


def _truth(outcomes: str, onset: list[float]) -> pd.DataFrame:
    names = {"P": "Pass", "F": "Fail", "W": "Withdrawn", "D": "Distinction"}
    return pd.DataFrame({"student_pseudonym": [f"s{i}" for i in range(len(outcomes))], "course_id": "AAA-2026B",
                         "outcome": [names[o] for o in outcomes], "onset_of_disengagement_day": onset})  # fmt: skip


def _flagged(levels: str, quiet: list[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = {"H": "HIGH", "M": "MEDIUM", "L": "LOW", "U": "UNKNOWN"}
    keys = pd.DataFrame({"student_pseudonym": [f"s{i}" for i in range(len(levels))], "course_id": "AAA-2026B"})
    scores = [None if one == "U" else 1 - place / 10 for place, one in enumerate(levels)]
    risk = keys.assign(risk_level=[names[one] for one in levels], risk_score=scores)
    terms = keys.assign(
        course_day=50, days_since_last_activity=quiet, is_observed=True,
        activity_missing_reason=["never_active" if np.isnan(days) else None for days in quiet],
    )  # fmt: skip
    return risk, terms


def test_precision_and_recall_of_a_truth_made_by_hand() -> None:
    never = float("nan")
    risk, terms = _flagged("HHMMLLU", [7, 0, never, 6, 30, 1, 50])
    truth = _truth("FPWPPFF", [10, never, 50, never, 51, never, 10])
    found = compare_flags(risk, terms, truth)
    assert (found.without_level, found.without_truth) == (1, 0)
    assert (found.everyone.ended_badly.hits, found.everyone.ended_badly.total) == (3, 6)
    assert {level: (s.hits, s.total) for level, s in found.by_level.items()} == {
        "HIGH": (1, 2), "MEDIUM": (1, 2), "LOW": (1, 2),
    }  # fmt: skip
    high, seven, same = found.everyone.flags
    assert (high.flagged, high.precision.hits, high.recall.total) == (2, 1, 3)
    assert (seven.flagged, seven.precision.hits) == (3, 2)  # seven days, never active, thirty days
    assert (same.flagged, same.precision.hits) == (3, 2)  # the three highest scores
    assert [(g.ended_badly.hits, g.ended_badly.total) for g in found.by_onset] == [(2, 2), (0, 1), (1, 3)]
    assert sum(g.flags[1].flagged for g in found.by_onset) == seven.flagged
    assert "no difference" in say_verdict(found)


def test_an_enrollment_without_a_truth_is_left_out_and_counted() -> None:
    risk, terms = _flagged("HL", [9, 1])
    found = compare_flags(risk, terms, _truth("F", [1.0]))
    assert (found.everyone.ended_badly.total, found.without_truth) == (1, 1)


def test_never_active_counts_only_where_the_course_is_observed() -> None:
    _, terms = _flagged("HL", [float("nan"), float("nan")])
    assert list(flag_inactive(terms.assign(is_observed=[True, False]))) == [True, False]


@pytest.mark.parametrize(
    ("outcomes", "verdict"), [("FFPPPP", "the score does better"), ("PPPPFF", "the score does worse")]
)
def test_the_verdict_says_so_also_where_the_score_is_worse(outcomes: str, verdict: str) -> None:
    risk, terms = _flagged("HHMMLL", [0, 0, 0, 0, 8, 8])
    found = compare_flags(risk, terms, _truth(outcomes, [float("nan")] * 6))
    assert verdict in say_verdict(found)


def test_nobody_flagged_is_no_comparison() -> None:
    risk, terms = _flagged("HL", [1, 1])
    assert "nothing to compare" in say_verdict(compare_flags(risk, terms, _truth("FP", [1.0, 1.0])))


# -- data and model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "stale"), [(2, ()), (3, (("synthetic", 3),)), (-3, ())])
def test_data_older_than_two_days_are_stale(age: int, stale: tuple[tuple[str, int], ...]) -> None:
    newest = pd.Timestamp(DAY - timedelta(days=age))
    old = pd.DataFrame({"delivery_id": ["d0"], "source": ["synthetic"], "scope": ["full"],
                        "delivered_on": [newest - pd.Timedelta(days=90)]})  # fmt: skip
    both = pd.concat([old, MADE.deliveries.assign(delivered_on=newest)], ignore_index=True)
    found = list_deliveries(both, MADE.files)
    assert [(d.landed, d.loaded, d.quarantined) for d in found] == [(100, 98, 2), (0, 0, 0)]
    assert find_stale(found, DAY) == stale


def test_rejections_are_counted_by_file_and_rule() -> None:
    more = pd.concat([MADE.quarantine, MADE.quarantine.iloc[:1].assign(rule="not a date")])
    assert [(r.rule, r.records) for r in list_rejections(more)] == [("missing value", 2), ("not a date", 1)]
    assert list_rejections(MADE.quarantine.iloc[:0]) == ()


def test_every_logged_measure_has_its_words() -> None:
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(60, 7)))
    frame.columns = pd.Index([f"x{i}" for i in range(7)])
    measured = measure_quality(frame.to_numpy(), np.arange(60) % 3, seed=1)
    stability = Stability(np.ones(2), {0: 1.0}, refused=0, rows=9).measures()
    assert {*measured, *stability, *measure_outcomes(np.arange(60) % 3, np.arange(60) % 2)} == set(MEASURES)
    assert [row[:2] for row in explain_measures({"silhouette": 0.314, "rows": 1200.0, "odd": 2.5})] == [
        ("Students it was trained on", "1,200"), ("Silhouette", "0.31"), ("odd", "2.50"),
    ]  # fmt: skip
