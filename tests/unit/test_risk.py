"""The risk score: levels, cut-offs, reasons, and what must never raise a level."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom_platform import risk
from iom_platform.tables import QUASI_IDENTIFIERS

RANK = {"UNKNOWN": -1, "LOW": 0, "MEDIUM": 1, "HIGH": 2}
MODEL = risk.RiskModel({0: 0.1, 1: 0.4, 2: 0.8}, high_cut=0.5, medium_cut=0.3, cluster_weight=0.3, trained_rows=100)
GOOD: dict[str, Any] = {
    "course_id": "AAA-2013J", "is_observed": True, "activity_missing_reason": None, "course_day": 60, "course_days_enrolled": 28,
    "active_days_28d_to_peers": 12 / 21, "clicks_28d_to_peers": 0.6, "clicks_14d_to_history": 0.5, "days_since_last_activity": 1.0,
    "submissions_due": 4, "submissions_made": 4, "submissions_late": 0, "submissions_missed": 0, "submissions_missed_share": 0.0,
    "score_pct_mean": 82.0, "active_days_last_28_days": 12, "clicks_last_28_days": 300, "peer_active_days_last_28_days_median": 9.0,
    "peer_clicks_last_28_days_median": 200.0,
}  # fmt: skip
BAD = {
    **GOOD, "active_days_28d_to_peers": 0.25, "clicks_28d_to_peers": 0.05, "clicks_14d_to_history": 0.25, "days_since_last_activity": 12.0,
    "submissions_made": 2, "submissions_missed": 2, "submissions_missed_share": 0.5, "score_pct_mean": 38.0, "active_days_last_28_days": 3,
    "clicks_last_28_days": 10,
}  # fmt: skip
NEVER = {
    **GOOD, "activity_missing_reason": "never_active", "active_days_28d_to_peers": 0.0, "clicks_28d_to_peers": 0.0,
    "clicks_14d_to_history": None, "days_since_last_activity": None, "submissions_made": 0, "submissions_missed": 4,
    "submissions_missed_share": 1.0, "score_pct_mean": None, "active_days_last_28_days": 0, "clicks_last_28_days": 0,
}  # fmt: skip
REMOVABLE = ("active_days_28d_to_peers", "clicks_28d_to_peers", "clicks_14d_to_history", "days_since_last_activity",
             "submissions_missed_share", "submissions_late", "score_pct_mean", "activity_missing_reason", "cluster")  # fmt: skip


def score(*rows: dict[str, Any], labels: Any = None, model: risk.RiskModel | None = MODEL) -> pd.DataFrame:
    return risk.score_risk(pd.DataFrame(list(rows)), labels, model)


def make_cohort(rows: int = 400, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    weak = random.beta(1.5, 3, rows)
    due = 5
    missed = random.binomial(due, weak * 0.7)
    made = due - missed
    frame = pd.DataFrame([GOOD] * rows).assign(
        active_days_28d_to_peers=1 - weak, clicks_28d_to_peers=np.clip(1 - weak + random.normal(0, 0.1, rows), 0, 1),
        clicks_14d_to_history=random.beta(3, 3, rows), days_since_last_activity=np.round(40 * weak**2), submissions_due=due,
        submissions_made=made, submissions_missed=missed, submissions_missed_share=missed / due,
        submissions_late=random.binomial(made, 0.1), score_pct_mean=np.where(made > 0, 100 * (1 - weak * 0.8), np.nan),
        student_pseudonym=[f"s{i}" for i in range(rows)], gender=random.choice(["F", "M"], rows), region=random.choice(["Wales", "*"], rows),
        highest_education="HE Qualification", imd_band=random.choice(["0-20%", "20-40%"], rows), age_band="0-35", disability="N",
    )  # fmt: skip
    return frame, np.digitize(weak, [0.25, 0.5, 0.75])


def fit(frame: pd.DataFrame, labels: Any, **changes: float) -> risk.RiskModel:
    return risk.fit_risk(frame, labels, **{"high_share": 0.2, "medium_share": 0.3, "cluster_weight": 0.3, **changes})


@st.composite
def enrollments(draw: st.DrawFn) -> dict[str, Any]:
    share = st.floats(0, 1)
    due = draw(st.integers(0, 6))
    made = draw(st.integers(0, due))
    never = draw(st.booleans()) and draw(st.booleans())
    active = draw(st.integers(1, 28))
    day = draw(st.integers(0, 200))
    return {
        **GOOD, "course_day": day, "course_days_enrolled": draw(st.integers(0, min(day, 28))),
        "activity_missing_reason": "never_active" if never else None,
        "active_days_28d_to_peers": 0.0 if never else draw(share), "clicks_28d_to_peers": 0.0 if never else draw(share),
        "clicks_14d_to_history": None if never else draw(share), "days_since_last_activity": None if never else draw(st.integers(0, 90)),
        "active_days_last_28_days": 0 if never else active, "submissions_due": due, "submissions_made": made, "submissions_missed": due - made,
        "submissions_late": draw(st.integers(0, made)), "submissions_missed_share": (due - made) / due if due else None,
        "score_pct_mean": draw(st.floats(0, 100)) if made else None, "cluster": draw(st.sampled_from([0, 1, 2, 5, None])),
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(enrollments(), min_size=1, max_size=8), gone=st.sets(st.sampled_from(REMOVABLE), min_size=1))
def test_removing_data_never_raises_a_level_or_a_score(rows: list[dict[str, Any]], gone: set[str]) -> None:
    full = pd.DataFrame(rows).astype(
        {
            "cluster": "Int64",
            **{name: "float64" for name in REMOVABLE if name not in ("cluster", "activity_missing_reason")},
        }
    )
    less = full.copy()
    for name in gone:
        less[name] = pd.Series([None] * len(full), dtype=full[name].dtype, index=full.index)
    before, after = (risk.score_risk(f, f["cluster"], MODEL) for f in (full, less))
    assert (after["risk_level"].map(RANK) <= before["risk_level"].map(RANK)).all()
    assert not (after["risk_score"] > before["risk_score"]).any()


def test_a_plain_mean_of_what_is_left_would_have_raised_the_level() -> None:
    """The trap that the design avoids: here the good component is the one that goes missing."""
    row = {
        **BAD,
        "active_days_28d_to_peers": 1.0,
        "clicks_28d_to_peers": 1.0,
        "submissions_due": 0,
        "submissions_made": 0,
    }
    values, is_applicable = risk.measure_components(pd.DataFrame([row, {**row, "active_days_28d_to_peers": None}]))
    weights = np.array([w for _, w in risk.COMPONENTS.values()])
    means = [np.average(v[~np.isnan(v)], weights=weights[~np.isnan(v)]) for v in values]
    assert means[1] > means[0]
    own = risk._own_scores(values, is_applicable)
    assert own[1] <= own[0]


def test_weights_sum_to_one_and_cover_two_families_or_more() -> None:
    assert sum(weight for _, weight in risk.COMPONENTS.values()) == pytest.approx(1)
    assert set(risk._CONCERNS) == set(risk.COMPONENTS)


def test_levels_and_reasons_of_typical_students() -> None:
    found = score(GOOD, BAD, NEVER, labels=[0, 2, 2])
    assert found["risk_level"].tolist() == ["LOW", "HIGH", "HIGH"]
    reasons = found[["reason_1", "reason_2", "reason_3"]].to_numpy().tolist()
    assert reasons[0] == [
        "Good: no submission missed",
        "Good: active on 12 of the last 28 days; peers' median is 9",
        "Good: average score 82 of 100",
    ]
    assert reasons[1] == [
        "Active on 3 of the last 28 days; peers' median is 9",
        "No activity for 12 days",
        "2 of 4 submissions missed",
    ]
    assert reasons[2] == [
        "4 of 4 submissions missed",
        "Active on 0 of the last 28 days; peers' median is 9",
        "No activity in this course so far",
    ]
    assert found["cluster"].tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.25, "a third"),
        (1 / 3, "half"),
        (0.4, "two thirds"),
        (0.2, "a quarter"),
        (1 / 6, "a fifth"),
        (0.09, "a tenth"),
        (0.0, "almost nothing"),
    ],
)
def test_a_fall_is_told_as_a_fraction(share: float, words: str) -> None:
    row = {**GOOD, "clicks_14d_to_history": share, "score_pct_mean": 55, "active_days_28d_to_peers": 0.5}
    assert any(words in str(reason) for reason in score(row).iloc[0][["reason_1", "reason_2", "reason_3"]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_observed": False, "active_days_28d_to_peers": None, "course_day": 3}, risk.NOT_OBSERVED),
        ({"course_day": 6, "course_days_enrolled": 6}, risk.COURSE_WARM_UP),
        ({"course_day": 90, "course_days_enrolled": 5}, risk.NEWLY_REGISTERED),
    ],
)
def test_want_of_data_is_unknown_with_one_reason(changes: dict[str, Any], reason: str) -> None:
    row = score({**NEVER, **changes}, labels=[2]).iloc[0]
    assert (row["risk_level"], row["reason_1"]) == ("UNKNOWN", reason)
    assert row[["risk_score", "reason_2", "reason_3", "cluster"]].isna().all()


def test_a_week_of_course_and_of_registration_is_enough() -> None:
    assert score({**BAD, "course_day": 7, "course_days_enrolled": 7}).iloc[0]["risk_level"] != "UNKNOWN"
    assert score({**BAD, "course_day": 60, "course_days_enrolled": 7}).iloc[0]["risk_level"] != "UNKNOWN"


def test_a_row_without_any_evidence_is_unknown() -> None:
    row = {**GOOD, **{name: None for name in REMOVABLE if name in GOOD}}
    assert score(row).iloc[0][["risk_level", "reason_1"]].tolist() == ["UNKNOWN", risk.NO_EVIDENCE]


def test_no_model_is_unknown_with_its_reason() -> None:
    found = score(GOOD, {**GOOD, "is_observed": False}, model=None)
    assert found["risk_level"].tolist() == ["UNKNOWN", "UNKNOWN"]
    assert found["reason_1"].tolist() == [risk.NO_MODEL, risk.NOT_OBSERVED]


def test_high_needs_two_families() -> None:
    eager = risk.RiskModel({}, high_cut=0.1, medium_cut=0.05, cluster_weight=0.0, trained_rows=1)
    one = {
        **GOOD,
        **{name: None for name in REMOVABLE if name in GOOD},
        "active_days_28d_to_peers": 0.0,
        "clicks_28d_to_peers": 0.0,
    }
    assert score(one, model=eager).iloc[0]["risk_level"] == "MEDIUM"
    assert score({**one, "days_since_last_activity": 30}, model=eager).iloc[0]["risk_level"] == "HIGH"


def test_late_registration_leaves_the_peers_window_out() -> None:
    late = {**BAD, "course_day": 60, "course_days_enrolled": 10}
    values, is_applicable = risk.measure_components(pd.DataFrame([BAD, late]))
    position = list(risk.COMPONENTS).index("active_days")
    assert is_applicable[:, position].tolist() == [True, False]
    assert np.isnan(values[1, position])


@settings(max_examples=500, deadline=None)
@given(day=st.integers(0, 10**9) | st.integers(0, 70), since=st.integers(0, 2 * 10**9) | st.integers(0, 140))
def test_days_enrolled_say_what_the_day_of_registration_said(day: int, since: int) -> None:
    """Whoever knows the exact day, since = course_day + registration_lead_days, finds the same windows and reasons."""
    enrolled = min(day, since, 28)
    row = pd.DataFrame([{**GOOD, "course_day": day, "course_days_enrolled": enrolled}])
    _, is_applicable = risk.measure_components(row)
    registered_before_the_start = since >= day
    assert is_applicable[0, list(risk.COMPONENTS).index("clicks")] == (registered_before_the_start or since >= 28)
    wanted = risk.COURSE_WARM_UP if day < 7 else risk.NEWLY_REGISTERED if since < 7 else None
    assert risk.find_unknown(row).tolist() == [wanted]


def test_of_no_row_a_snapshot_is_none_with_the_same_columns() -> None:
    nobody = pd.DataFrame([GOOD]).iloc[:0]
    assert risk.select_scorable(nobody).columns.tolist() == list(GOOD)
    assert len(risk.select_scorable(pd.DataFrame([GOOD, {**GOOD, "course_day": 3}]))) == 1


def test_personal_attributes_are_not_read() -> None:
    frame, labels = make_cohort()
    personal = [c for c in (*QUASI_IDENTIFIERS, "disability") if c != "course_id"]
    shuffled = frame.copy()
    shuffled[personal] = frame[personal].sample(frac=1, random_state=1).to_numpy()
    first, second, third = (
        risk.score_risk(f, labels, fit(f, labels)) for f in (frame, shuffled, frame.drop(columns=personal))
    )
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, third)
    assert not set(personal) & set(risk.SOURCE_COLUMNS)


def test_outcomes_are_not_read() -> None:
    assert not {"outcome", "final_result", "outcome_known_on"} & set(risk.SOURCE_COLUMNS)


def test_cut_offs_are_quantiles_of_the_training_scores() -> None:
    frame, labels = make_cohort()
    levels = risk.score_risk(frame, labels, fit(frame, labels))["risk_level"].value_counts(normalize=True)
    assert levels["HIGH"] == pytest.approx(0.2, abs=0.01)
    assert levels["MEDIUM"] == pytest.approx(0.3, abs=0.01)


def test_scoring_is_frozen_and_by_row() -> None:
    frame, labels = make_cohort()
    model = fit(frame, labels)
    whole = risk.score_risk(frame, labels, model)
    pd.testing.assert_frame_equal(whole.iloc[40:60], risk.score_risk(frame.iloc[40:60], labels[40:60], model))


def test_fit_does_not_depend_on_row_order() -> None:
    frame, labels = make_cohort(3000)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(frame))
        assert fit(frame, labels) == fit(frame.iloc[order], labels[order])


def test_a_cohort_of_equals_has_no_high() -> None:
    frame = pd.DataFrame([BAD] * 30)
    found = risk.score_risk(frame, [1] * 30, fit(frame, [1] * 30))
    assert set(found["risk_level"]) == {"LOW"}


def test_rows_without_a_level_do_not_train() -> None:
    frame, labels = make_cohort()
    unseen = frame.assign(is_observed=False, days_since_last_activity=90.0)
    both = pd.concat([frame, unseen], ignore_index=True)
    assert fit(both, np.append(labels, labels)) == fit(frame, labels)


def test_noise_has_a_mean_of_its_own_and_one_that_no_model_knows_raises_nothing() -> None:
    frame, labels = make_cohort()
    noisy = np.where(np.arange(len(labels)) % 5 == 0, -1, labels)
    model = fit(frame, noisy)
    assert set(model.cluster_means) == {-1, *labels}
    assert risk.RiskModel.from_json(model.to_json()) == model
    known = risk.score_risk(frame, noisy, fit(frame, labels))
    null = risk.score_risk(frame, [None if label == -1 else label for label in noisy], fit(frame, labels))
    pd.testing.assert_frame_equal(known.drop(columns="cluster"), null.drop(columns="cluster"))
    assert known["cluster"].tolist() == noisy.tolist()


def test_the_cluster_weighs_as_stated() -> None:
    plain = score(BAD, labels=[0], model=risk.RiskModel({0: 0.9}, 0.5, 0.3, 0.0, 1)).iloc[0]["risk_score"]
    mixed = score(BAD, labels=[0], model=risk.RiskModel({0: 0.9}, 0.5, 0.3, 0.4, 1)).iloc[0]["risk_score"]
    assert mixed == pytest.approx(0.6 * plain + 0.4 * 0.9, abs=1e-5)


def test_few_clicks_are_told_only_where_few_active_days_are_not() -> None:
    calm = risk.RiskModel({}, 0.99, 0.01, 0.0, 1)
    few = {**GOOD, "clicks_28d_to_peers": 0.1, "clicks_last_28_days": 22, "days_since_last_activity": 0}
    clicks = "22 clicks in the last 28 days; peers' median is 200"
    reasons = score(few, {**few, "active_days_28d_to_peers": 0.25}, model=calm)[["reason_1", "reason_2", "reason_3"]]
    assert clicks in reasons.iloc[0].tolist()
    assert clicks not in reasons.iloc[1].tolist()


def test_a_level_without_a_single_strong_sign_says_so() -> None:
    middling = {
        **GOOD,
        "active_days_28d_to_peers": 0.46,
        "clicks_28d_to_peers": 0.46,
        "days_since_last_activity": 6,
        "score_pct_mean": 55,
    }
    eager = risk.RiskModel({0: 0.01, 1: 0.9, -1: 0.9}, 0.9, 0.01, 0.3, 1)
    assert score(middling, middling, middling, labels=[0, 1, -1], model=eager)["reason_1"].tolist() == [
        risk.SEVERAL_SMALL_SIGNS,
        risk.LIKE_A_WEAK_GROUP,
        risk.SEVERAL_SMALL_SIGNS,  # noise is no group
    ]
    calm = risk.RiskModel({}, 0.9, 0.8, 0.0, 1)
    plain = {
        **middling,
        "submissions_due": 0,
        "submissions_made": 0,
        "submissions_missed_share": None,
        "score_pct_mean": None,
    }
    assert score(plain, model=calm).iloc[0]["reason_1"] == risk.NOTHING_STANDS_OUT


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(enrollments(), min_size=1, max_size=6))
def test_every_row_has_a_reason_and_bounds_hold(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    found = risk.score_risk(frame, frame["cluster"], MODEL)
    assert found["reason_1"].notna().all()
    assert not found["reason_1"].str.contains("nan").any()
    assert found["risk_score"].dropna().between(0, 1).all()
    assert (found["risk_score"].isna() == (found["risk_level"] == "UNKNOWN")).all()


def test_an_empty_cohort_is_an_empty_answer() -> None:
    found = risk.score_risk(pd.DataFrame([GOOD]).iloc[:0], [], MODEL)
    assert found.empty
    assert list(found.columns) == ["risk_level", "risk_score", "reason_1", "reason_2", "reason_3", "cluster"]


def test_model_round_trip_and_stale_version() -> None:
    assert risk.RiskModel.from_json(MODEL.to_json()) == MODEL
    stale = json.dumps({**json.loads(MODEL.to_json()), "risk_version": "0"})
    with pytest.raises(ValueError, match="version 0"):
        risk.RiskModel.from_json(stale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f.drop(columns="course_day"), {}), "lacks column course_day"),
        (lambda f: (f.assign(is_observed=False), {}), "no enrollment has enough observed data"),
        (lambda f: (f, {"high_share": 0.7, "medium_share": 0.3}), "leave nobody LOW"),
    ],
)
def test_fit_errors_are_one_clear_sentence(change, message: str) -> None:
    frame, shares = change(pd.DataFrame([GOOD, BAD]))
    with pytest.raises(ValueError, match=message):
        fit(frame, None, **shares)


def test_labels_must_match_the_rows() -> None:
    with pytest.raises(ValueError, match="1 cluster labels for 2 rows"):
        score(GOOD, BAD, labels=[0])


def test_summary_counts_every_level_per_course() -> None:
    frame = pd.DataFrame({"course_id": ["A", "A", "B"], "risk_level": ["HIGH", "LOW", "UNKNOWN"]})
    assert risk.summarize_risk(frame).to_dict("list") == {
        "course_id": ["A", "B"], "students": [2, 1], "LOW": [1, 0], "MEDIUM": [0, 0], "HIGH": [1, 0], "UNKNOWN": [0, 1],
    }  # fmt: skip
    assert risk.summarize_risk(frame.iloc[:0]).empty


def test_outcomes_per_level_with_wilson_interval() -> None:
    students = [f"s{i}" for i in range(12)]
    levels = pd.DataFrame({"student_pseudonym": students, "course_id": "A", "risk_level": ["HIGH"] * 10 + ["LOW"] * 2})
    outcomes = pd.DataFrame(
        {"student_pseudonym": students[:11], "course_id": "A", "outcome": ["Fail", "Withdrawn", *["Pass"] * 9]}
    )
    found = risk.outcome_by_level(levels, outcomes).set_index("risk_level")
    assert found.loc["HIGH", ["students", "fail_or_withdrawn", "share"]].tolist() == [10, 2, 0.2]
    assert found.loc["HIGH", ["share_low", "share_high"]].tolist() == pytest.approx([0.05668, 0.50984], abs=1e-4)
    assert found.loc["LOW", "students"] == 1
    assert found.loc["LOW", "share_low"] == 0.0
    assert found.loc["MEDIUM", ["share", "share_low", "share_high"]].isna().all()
    with pytest.raises(pd.errors.MergeError):
        risk.outcome_by_level(levels, pd.concat([outcomes, outcomes]))
