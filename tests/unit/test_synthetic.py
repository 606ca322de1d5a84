"""The twin: same seed same bytes, nothing after its day, a past that stays, and a truth that lies apart."""

import hashlib
import json
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iom_platform.extract import synthetic
from iom_platform.extract.synthetic import HEADERS, TwinError, TwinSummary, write_twin
from iom_platform.extract.twin import events
from iom_platform.extract.twin.archetypes import ARCHETYPES, OUTCOME_COUNTS, OUTCOMES
from iom_platform.extract.twin.calendar import is_vacation, lay_out_presentations, shift_months
from iom_platform.extract.twin.events import Clicks, draw_clicks
from iom_platform.extract.twin.students import TwinKnobs
from iom_platform.tables import OULAD_TABLES

THROUGH = date(2026, 11, 20)
COURSE = ["code_module", "code_presentation"]
KEY = [*COURSE, "id_student"]
QUIET = TwinKnobs(activity_level=0.02)  # few clicks, where a test counts people
_TRACE = {"source", "delivery_id", "file_name", "file_row"}


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, dtype=str, keep_default_na=False)


def days_of(frame: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(frame[column].where(frame[column] != "?"))


def dated(summary: TwinSummary, frame: pd.DataFrame, column: str) -> pd.Series:
    """The calendar day of each row's day number; missing where it is `?`."""
    starts = read(summary.path, "courses.csv").set_index(COURSE)["presentation_starts_on"]
    start = pd.to_datetime(starts.reindex(pd.MultiIndex.from_frame(frame[COURSE])).to_numpy())
    return pd.Series(start + pd.to_timedelta(days_of(frame, column).to_numpy(), unit="D"), index=frame.index)


def submissions_of(summary: TwinSummary) -> pd.DataFrame:
    return read(summary.path, "studentAssessment.csv").merge(read(summary.path, "assessments.csv"), on="id_assessment")


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> TwinSummary:
    return write_twin(tmp_path_factory.mktemp("twin") / "extract", students=600, seed=7, through=THROUGH)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> TwinSummary:
    """Many students with few clicks, for shares of people."""
    return write_twin(
        tmp_path_factory.mktemp("crowd") / "extract", students=5_000, seed=11, through=THROUGH, knobs=QUIET
    )


@pytest.fixture(scope="module")
def clicks(twin: TwinSummary) -> pd.DataFrame:
    frame = read(twin.path, "studentVle.csv").merge(read(twin.truth_path, "truth.csv"), on=KEY)
    frame["day"] = pd.to_numeric(frame["date"])
    frame["on"] = dated(twin, frame, "date")
    frame["at"] = pd.to_datetime(frame["clicked_at"])
    return frame


# -- shape ---------------------------------------------------------------------------------------------


def test_headers_hold_every_contracted_column() -> None:
    contracted = {frozenset(c.name for c in t.columns if c.name not in _TRACE) for t in OULAD_TABLES}
    delivered = {frozenset(h.replace("id_student", "student_pseudonym") for h in header) for header in HEADERS.values()}
    assert delivered == contracted


def test_every_field_is_quoted_and_every_line_ends_in_crlf(twin: TwinSummary) -> None:
    for name, header in HEADERS.items():
        lines = (twin.path / name).read_bytes().split(b"\r\n")
        assert lines[0].decode() == ",".join(f'"{h}"' for h in header)
        assert lines[-1] == b""
        field = rb'"[^"\n]+"'
        pattern = re.compile(field + (b"," + field) * (len(header) - 1))
        assert all(pattern.fullmatch(line) for line in lines[:-1]), name


def test_summary_counts_what_the_files_hold(twin: TwinSummary) -> None:
    for name in HEADERS:
        assert twin.rows[name] == len((twin.path / name).read_bytes().splitlines()) - 1
    assert sum(p.click_rows for p in twin.presentations) == twin.rows["studentVle.csv"]
    assert sum(p.enrollments for p in twin.presentations) == twin.rows["studentInfo.csv"]
    assert sum(p.submissions for p in twin.presentations) == twin.rows["studentAssessment.csv"]


def test_delivery_declares_its_day(twin: TwinSummary) -> None:
    assert json.loads((twin.path / "delivery.json").read_text()) == {"delivered_on": "2026-11-20", "scope": "full"}


def test_keys_are_unique(twin: TwinSummary) -> None:
    keys = {"courses.csv": COURSE, "assessments.csv": ["id_assessment"], "vle.csv": ["id_site"], "studentInfo.csv": KEY,
            "studentRegistration.csv": KEY, "studentAssessment.csv": ["id_assessment", "id_student"]}  # fmt: skip
    for name, key in keys.items():
        assert not read(twin.path, name).duplicated(key).any(), name


def test_cohort_of_the_summary_is_the_contracts_cohort(twin: TwinSummary) -> None:
    registrations = read(twin.path, "studentRegistration.csv")
    day = pd.Timestamp(THROUGH)
    present = (dated(twin, registrations, "date_registration") <= day) & ~(
        dated(twin, registrations, "date_unregistration") <= day
    )
    counts = registrations[present].groupby(COURSE).size()
    for p in twin.running:
        module, presentation = p.course_id.split("-")
        assert counts[module, presentation] == p.cohort


@pytest.mark.parametrize(("students", "cohort"), [(200, 20), (600, 40)])
def test_small_twins_have_running_and_ended_presentations(tmp_path: Path, students: int, cohort: int) -> None:
    for seed in range(3):
        summary = write_twin(tmp_path / "t", students=students, seed=seed, through=THROUGH, knobs=QUIET)
        assert len(summary.running) >= 2
        assert len(summary.presentations) > len(summary.running)
        assert min(p.cohort for p in summary.running) >= cohort


@pytest.mark.parametrize("count", [3, 4, 9, 22])
def test_layout_runs_mid_term_on_any_day(count: int) -> None:
    for offset in range(0, 1462):
        day = date(2023, 1, 1) + timedelta(days=offset)
        laid = lay_out_presentations(day, count, TwinKnobs().presentations_per_module)
        assert len({p.course_id for p in laid}) == count
        progress = [p.count_days(day) / p.length_days for p in laid]
        running = [x for x in progress if x <= 1]
        assert len(running) >= 2 and len(running) < count
        assert all(1 / 3 <= x <= 2 / 3 for x in running)


def test_fewer_presentations_of_a_module_mean_more_that_run() -> None:
    laid = lay_out_presentations(THROUGH, 22, 1.0)
    assert sum(p.ends_on >= THROUGH for p in laid) == 21


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        (date(2026, 8, 31), -6, date(2026, 2, 28)),
        (date(2026, 12, 31), -6, date(2026, 6, 30)),
        (date(2026, 6, 30), -6, date(2025, 12, 30)),
        (date(2024, 8, 30), -6, date(2024, 2, 29)),
    ],
)
def test_half_a_year_earlier(day: date, months: int, expected: date) -> None:
    assert shift_months(day, months) == expected


# -- determinism and time ------------------------------------------------------------------------------


def test_same_arguments_same_bytes(twin: TwinSummary, tmp_path: Path) -> None:
    again = write_twin(tmp_path / "again", students=600, seed=7, through=THROUGH)
    other = write_twin(tmp_path / "other", students=600, seed=8, through=THROUGH)
    assert digests(again.path) == digests(twin.path)
    assert digests(again.truth_path) == digests(twin.truth_path)
    for name in ("studentInfo.csv", "studentRegistration.csv", "studentAssessment.csv", "studentVle.csv"):
        assert digests(other.path)[name] != digests(twin.path)[name]


def test_nothing_happens_after_the_day_of_delivery(twin: TwinSummary, clicks: pd.DataFrame) -> None:
    day = pd.Timestamp(THROUGH)
    assert clicks["on"].max() == day
    assert dated(twin, submissions_of(twin), "date_submitted").max() <= day
    registrations = read(twin.path, "studentRegistration.csv")
    assert dated(twin, registrations, "date_registration").max() <= day
    assert dated(twin, registrations, "date_unregistration").max() <= day


def test_who_registers_later_is_not_delivered_yet(tmp_path: Path) -> None:
    through = lay_out_presentations(THROUGH, 3, TwinKnobs().presentations_per_module)[0].starts_on - timedelta(days=30)
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=through, layout_day=THROUGH, knobs=QUIET)
    registrations = read(summary.path, "studentRegistration.csv")
    registered = dated(summary, registrations, "date_registration")
    assert registered.max() <= pd.Timestamp(through)
    assert len(read(summary.truth_path, "truth.csv")) == len(registrations) < 226
    assert {p.course_id for p in summary.running}.isdisjoint({summary.presentations[0].course_id})


def test_outcome_is_unknown_until_a_withdrawal_or_the_end(twin: TwinSummary) -> None:
    info = read(twin.path, "studentInfo.csv").merge(read(twin.path, "studentRegistration.csv"), on=KEY)
    running = (info["code_module"] + "-" + info["code_presentation"]).isin({p.course_id for p in twin.running})
    has_left = info["date_unregistration"] != "?"
    assert set(info[~running]["final_result"]) == set(OUTCOMES)
    assert set(info[running & ~has_left]["final_result"]) == {"?"}
    assert set(info[has_left]["final_result"]) == {"Withdrawn"}
    assert (running & has_left).any()


@pytest.mark.parametrize("before_end", [0, 1])
def test_the_last_day_is_in_the_cohort_and_its_outcomes_are_known(tmp_path: Path, before_end: int) -> None:
    ends_on = lay_out_presentations(THROUGH, 3, TwinKnobs().presentations_per_module)[0].ends_on
    through = ends_on - timedelta(days=before_end)
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=through, layout_day=THROUGH, knobs=QUIET)
    assert summary.presentations[0].is_running and summary.presentations[0].cohort > 0
    info = read(summary.path, "studentInfo.csv")
    results = info[info["code_module"] + "-" + info["code_presentation"] == summary.presentations[0].course_id][
        "final_result"
    ]
    assert ("?" in set(results)) is (before_end > 0)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> TwinSummary:
    """The world of `twin`, delivered three weeks later."""
    out = tmp_path_factory.mktemp("later") / "extract"
    return write_twin(out, students=600, seed=7, through=THROUGH + timedelta(days=21), layout_day=THROUGH)


@pytest.mark.parametrize("name", ["courses.csv", "assessments.csv", "vle.csv"])
def test_a_later_delivery_keeps_the_courses(twin: TwinSummary, later: TwinSummary, name: str) -> None:
    assert (later.path / name).read_bytes() == (twin.path / name).read_bytes()


def test_a_later_delivery_extends_clicks_without_changing_the_past(twin: TwinSummary, later: TwinSummary) -> None:
    frame = read(later.path, "studentVle.csv")
    past = frame[dated(later, frame, "date") <= pd.Timestamp(THROUGH)]
    assert len(past) < len(frame)
    pd.testing.assert_frame_equal(past.reset_index(drop=True), read(twin.path, "studentVle.csv"))


def test_a_later_delivery_extends_submissions_without_changing_the_past(twin: TwinSummary, later: TwinSummary) -> None:
    frame = submissions_of(later)
    past = frame[dated(later, frame, "date_submitted") <= pd.Timestamp(THROUGH)]
    assert len(past) < len(frame)
    pd.testing.assert_frame_equal(past.reset_index(drop=True), submissions_of(twin))


def test_a_later_delivery_changes_people_only_by_what_happened_since(twin: TwinSummary, later: TwinSummary) -> None:
    def people(summary: TwinSummary) -> pd.DataFrame:
        return read(summary.path, "studentInfo.csv").merge(read(summary.path, "studentRegistration.csv"), on=KEY)

    new = people(twin)[KEY].merge(people(later), on=KEY)
    left_since = dated(later, new, "date_unregistration") > pd.Timestamp(THROUGH)
    assert left_since.any()
    new.loc[left_since, "date_unregistration"] = "?"
    new.loc[left_since, "final_result"] = "?"
    pd.testing.assert_frame_equal(new, people(twin))
    truth = read(twin.truth_path, "truth.csv")
    pd.testing.assert_frame_equal(
        truth[KEY].merge(read(later.truth_path, "truth.csv"), on=KEY), truth[[*KEY, *truth.columns[3:]]]
    )


# -- truth ---------------------------------------------------------------------------------------------


def test_truth_lies_apart(twin: TwinSummary) -> None:
    assert {p.name for p in twin.path.iterdir()} == {*HEADERS, "delivery.json"}
    assert twin.truth_path.parent == twin.path.parent and twin.truth_path != twin.path
    delivered = b"".join(p.read_bytes() for p in twin.path.iterdir())
    for word in (*(a.name for a in ARCHETYPES), "archetype", "onset"):
        assert word.encode() not in delivered


def test_truth_agrees_with_the_delivery(twin: TwinSummary) -> None:
    info = read(twin.path, "studentInfo.csv")
    truth = read(twin.truth_path, "truth.csv")
    pd.testing.assert_frame_equal(
        truth[KEY].sort_values(KEY, ignore_index=True), info[KEY].sort_values(KEY, ignore_index=True)
    )
    both = info.merge(truth, on=KEY)
    known = both[both["final_result"] != "?"]
    assert (known["final_result"] == known["outcome"]).all()
    assert set(truth["outcome"]) == set(OUTCOMES)
    fading = truth[truth["onset_of_disengagement_day"] != ""].merge(read(twin.path, "studentRegistration.csv"), on=KEY)
    assert set(fading["archetype"]) == {"fading"}
    assert not (days_of(fading, "onset_of_disengagement_day") >= days_of(fading, "date_unregistration")).any()


def test_outcomes_follow_the_archetype_and_the_stated_probability(crowd: TwinSummary) -> None:
    truth = read(crowd.truth_path, "truth.csv")
    truth["risk"] = truth["outcome_probability_of_failing_or_withdrawing"].astype(float)
    truth["is_bad"] = truth["outcome"].isin(["Fail", "Withdrawn"])
    rates = truth.groupby("archetype")["is_bad"].mean()
    assert max(rates["steady"], rates["intensive"]) < rates["irregular"] < rates["late_crammer"]
    assert rates["late_crammer"] < rates["fading"] < rates["barely_present"]
    for archetype in ARCHETYPES:
        assert abs(rates[archetype.name] - archetype.outcomes[2] - archetype.outcomes[3]) < 0.06
        mean_risk = truth.loc[truth["archetype"] == archetype.name, "risk"].mean()
        assert mean_risk == pytest.approx(archetype.outcomes[2] + archetype.outcomes[3], abs=0.007)
    by_risk = truth.groupby(pd.qcut(truth["risk"], 10))[["risk", "is_bad"]].mean()
    assert (by_risk["risk"] - by_risk["is_bad"]).abs().max() < 0.06


def test_archetypes_add_up_to_the_published_outcomes() -> None:
    shares = np.array([a.share for a in ARCHETYPES])
    outcomes = np.array([a.outcomes for a in ARCHETYPES])
    assert shares.sum() == pytest.approx(1)
    assert outcomes.sum(axis=1) == pytest.approx(1)
    assert shares @ outcomes == pytest.approx(np.array(OUTCOME_COUNTS) / sum(OUTCOME_COUNTS), abs=0.002)
    assert [sum(a.weekdays) / 7 for a in ARCHETYPES] == pytest.approx([1] * 6, abs=0.02)
    assert [sum(share for _, _, share in a.hours) for a in ARCHETYPES] == pytest.approx([1] * 6)


def test_marginals_are_the_published_ones(crowd: TwinSummary) -> None:
    info = read(crowd.path, "studentInfo.csv")
    published = {
        "gender": {"M": 0.548, "F": 0.452},
        "age_band": {"0-35": 0.704, "35-55": 0.289, "55<=": 0.0066},
        "disability": {"Y": 0.097, "N": 0.903},
        "highest_education": {"A Level or Equivalent": 0.431, "Lower Than A Level": 0.404, "HE Qualification": 0.145,
                              "No Formal quals": 0.0106, "Post Graduate Qualification": 0.0096},
    }  # fmt: skip
    for column, shares in published.items():
        found = info[column].value_counts(normalize=True)
        assert set(found.index) == set(shares)
        for value, share in shares.items():
            assert abs(found[value] - share) < 0.015, (column, value)
    assert info["imd_band"].value_counts(normalize=True).between(0.02, 0.13).all() and info["imd_band"].nunique() == 11
    assert info["region"].value_counts(normalize=True).between(0.02, 0.13).all() and info["region"].nunique() == 13
    outcomes = read(crowd.truth_path, "truth.csv")["outcome"].value_counts(normalize=True)
    for outcome, count in zip(OUTCOMES, OUTCOME_COUNTS, strict=True):
        assert abs(outcomes[outcome] - count / sum(OUTCOME_COUNTS)) < 0.02
    per_student = len(info) / info["id_student"].nunique()
    assert abs(per_student - 1.132) < 0.02


def test_a_student_is_the_same_person_in_every_presentation(crowd: TwinSummary) -> None:
    info = read(crowd.path, "studentInfo.csv")
    people = info[["id_student", "gender", "region", "highest_education", "imd_band", "age_band", "disability"]]
    assert len(people.drop_duplicates()) == info["id_student"].nunique()


def test_a_lost_registration_is_a_withdrawal_that_never_did_anything(tmp_path: Path, crowd: TwinSummary) -> None:
    registrations = read(crowd.path, "studentRegistration.csv")
    assert 0 < (registrations["date_registration"] == "?").sum() < 0.01 * len(registrations)
    careless = TwinKnobs(lost_registration_share=1.0)
    summary = write_twin(tmp_path / "t", students=600, seed=1, through=THROUGH, knobs=careless)
    registrations = read(summary.path, "studentRegistration.csv")
    lost = registrations[registrations["date_registration"] == "?"]
    assert len(lost) > 20
    assert (days_of(lost, "date_unregistration") <= 0).all()
    assert lost[KEY].merge(read(summary.path, "studentVle.csv"), on=KEY).empty
    assert lost[KEY].merge(submissions_of(summary), on=KEY).empty


def test_nobody_leaves_before_they_came(crowd: TwinSummary) -> None:
    registrations = read(crowd.path, "studentRegistration.csv")
    both = registrations[(registrations["date_registration"] != "?") & (registrations["date_unregistration"] != "?")]
    assert len(both) > 1_000
    assert (days_of(both, "date_unregistration") > days_of(both, "date_registration")).all()


# -- behavior ------------------------------------------------------------------------------------------


def test_about_as_many_click_rows_as_documented(tmp_path: Path) -> None:
    summary = write_twin(tmp_path / "t", students=3_000, seed=1, through=THROUGH)
    assert len(summary.presentations) == 22
    assert summary.rows["studentVle.csv"] == pytest.approx(3_000 * synthetic.CLICK_ROWS_PER_STUDENT, rel=0.05)
    assert synthetic.count_students_for(10_655_280) == pytest.approx(28_785, rel=0.01)


def assert_enrolled(summary: TwinSummary, events: pd.DataFrame, column: str) -> None:
    registrations = read(summary.path, "studentRegistration.csv")
    joined = events[[*KEY, column]].merge(registrations, on=KEY, how="left")
    day = days_of(joined, column)
    assert (day >= days_of(joined, "date_registration")).all()
    assert ((day < days_of(joined, "date_unregistration")) | (joined["date_unregistration"] == "?")).all()


def test_clicks_are_of_enrolled_people_on_sites_of_their_course(twin: TwinSummary, clicks: pd.DataFrame) -> None:
    assert len(clicks) == twin.rows["studentVle.csv"]
    assert_enrolled(twin, clicks, "date")
    at_site = clicks.merge(read(twin.path, "vle.csv"), on=[*COURSE, "id_site"])
    assert len(at_site) == len(clicks)
    assert at_site["activity_type"].nunique() >= 10
    assert days_of(clicks, "sum_click").min() == 1


def test_submissions_are_of_enrolled_people(crowd: TwinSummary) -> None:
    submitted = submissions_of(crowd)
    assert len(submitted) == crowd.rows["studentAssessment.csv"]
    assert_enrolled(crowd, submitted, "date_submitted")
    assert days_of(submitted, "score").dropna().between(0, 100).all()
    assert 0 < (submitted["score"] == "?").sum() < 0.003 * len(submitted)
    banked = submitted[submitted["is_banked"] == "1"]
    assert 0 < len(banked) < 0.03 * len(submitted)
    assert set(banked["date_submitted"]) == {"-1"}


def test_who_hands_in_work_was_there_that_day(twin: TwinSummary, clicks: pd.DataFrame) -> None:
    handed_in = submissions_of(twin)
    handed_in = handed_in[(handed_in["is_banked"] == "0") & (handed_in["assessment_type"] != "Exam")]
    days = handed_in[[*KEY, "date_submitted"]].drop_duplicates()
    assert len(
        days.merge(clicks[[*KEY, "date"]].drop_duplicates(), left_on=[*KEY, "date_submitted"], right_on=[*KEY, "date"])
    ) == len(days)


def test_late_missed_and_score_follow_the_archetype(crowd: TwinSummary) -> None:
    truth = read(crowd.truth_path, "truth.csv")
    submitted = submissions_of(crowd).merge(truth, on=KEY)
    submitted = submitted[(submitted["assessment_type"] != "Exam") & (submitted["is_banked"] == "0")]
    submitted["is_late"] = days_of(submitted, "date_submitted") > days_of(submitted, "date")
    submitted["score"] = days_of(submitted, "score")
    by = submitted.groupby("archetype").agg(late=("is_late", "mean"), score=("score", "mean"), made=("score", "size"))
    made = by["made"] / truth["archetype"].value_counts()
    assert by["late"]["intensive"] < by["late"]["steady"] < by["late"]["irregular"] < by["late"]["late_crammer"]
    assert (
        by["score"]["barely_present"] < by["score"]["late_crammer"] < by["score"]["steady"] < by["score"]["intensive"]
    )
    assert made["barely_present"] < made["fading"] < made["late_crammer"] < made["steady"]


def test_weekly_rhythm(clicks: pd.DataFrame) -> None:
    weekend = clicks["on"].dt.day_of_week >= 5
    share = weekend.groupby(clicks["archetype"]).mean()
    assert share["irregular"] > 0.45
    assert share["steady"] < 0.28


def test_an_archetype_without_a_share_is_not_there(tmp_path: Path) -> None:
    knobs = TwinKnobs(archetype_shares=(3, 0, 0, 0, 1, 0))
    counts = read(
        write_twin(tmp_path / "t", students=600, seed=7, through=THROUGH, knobs=knobs).truth_path, "truth.csv"
    )["archetype"].value_counts()
    assert set(counts.index) == {"steady", "fading"}
    assert counts["steady"] > 2 * counts["fading"]


def test_vacations_are_quiet(twin: TwinSummary, tmp_path: Path) -> None:
    busy = write_twin(tmp_path / "t", students=600, seed=7, through=THROUGH, knobs=TwinKnobs(vacation_activity=1.0))

    def count_rows(summary: TwinSummary) -> tuple[int, int]:
        frame = read(summary.path, "studentVle.csv")
        vacation = frame["clicked_at"].str[:10].map(lambda day: is_vacation(date.fromisoformat(day)))
        return int(vacation.sum()), int((~vacation).sum())

    quiet_rows, busy_rows = count_rows(twin), count_rows(busy)
    assert 0 < quiet_rows[0] < 0.5 * busy_rows[0]
    assert quiet_rows[1] == pytest.approx(busy_rows[1], rel=0.03)


@pytest.mark.parametrize(
    ("day", "expected"),
    [(date(2026, 12, 20), False), (date(2026, 12, 21), True), (date(2027, 1, 3), True), (date(2027, 1, 4), False),
     (date(2026, 3, 30), True), (date(2026, 4, 5), True), (date(2026, 4, 6), False)],
)  # fmt: skip
def test_vacation_days(day: date, expected: bool) -> None:
    assert is_vacation(day) is expected


def test_timestamps_lie_on_their_day_in_sessions(clicks: pd.DataFrame) -> None:
    assert clicks["clicked_at"].str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").all()
    assert (clicks["at"].dt.tz_localize(None).dt.normalize() == clicks["on"]).all()
    assert clicks["clicked_at"].str.endswith("23:59:59Z").mean() < 1e-4
    gap_seconds = clicks.groupby([*KEY, "date"])["at"].diff().dropna().dt.total_seconds()
    assert (gap_seconds >= 0).all()
    in_session = gap_seconds <= 1_800
    assert in_session.mean() > 0.8
    assert 60 < gap_seconds[in_session].median() < 300


def test_the_longest_session_still_fits_into_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MEAN_GAP_SECONDS", 1_000_000)
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    frame = read(summary.path, "studentVle.csv")
    at = pd.to_datetime(frame["clicked_at"]).dt.tz_localize(None)
    assert (at.dt.normalize() == dated(summary, frame, "date")).all()


def test_hours_follow_the_archetype(clicks: pd.DataFrame) -> None:
    evening = (clicks["at"].dt.hour >= 19).groupby(clicks["archetype"]).mean()
    assert evening["late_crammer"] > evening["steady"] > evening["irregular"]


def test_crammers_come_alive_before_a_deadline(twin: TwinSummary, clicks: pd.DataFrame) -> None:
    cutoffs = read(twin.path, "assessments.csv")
    cutoffs = cutoffs[(cutoffs["code_module"] == "TWA") & (cutoffs["assessment_type"] == "TMA")]
    eve = {int(d) - i for d in cutoffs["date"] for i in range(3)}
    in_module = clicks[(clicks["code_module"] == "TWA") & (clicks["day"] >= 0)]
    share = in_module["day"].isin(eve).groupby(in_module["archetype"]).mean()
    assert share["late_crammer"] > 1.4 * share["steady"]


def test_fading_students_are_told_from_steady_ones_after_the_onset(twin: TwinSummary, clicks: pd.DataFrame) -> None:
    truth = read(twin.truth_path, "truth.csv").merge(read(twin.path, "studentRegistration.csv"), on=KEY)
    ended = ~(truth["code_module"] + "-" + truth["code_presentation"]).isin({p.course_id for p in twin.running})
    onset = pd.to_numeric(truth["onset_of_disengagement_day"].where(truth["onset_of_disengagement_day"] != ""))
    truth["from"] = onset.fillna(80).astype(int) + 7
    stayed = ~(days_of(truth, "date_unregistration") < truth["from"] + 28)
    kept = truth[ended & stayed & truth["archetype"].isin(["steady", "fading"])]
    active = kept.merge(clicks[[*KEY, "day"]].drop_duplicates(), on=KEY)
    counts = Counter(
        active[(active["day"] >= active["from"]) & (active["day"] < active["from"] + 28)][KEY].apply(tuple, axis=1)
    )
    share = kept[KEY].apply(tuple, axis=1).map(lambda k: counts[k] / 28)
    steady, fading = (share[kept["archetype"] == name].to_numpy() for name in ("steady", "fading"))
    assert min(len(steady), len(fading)) >= 20
    assert (fading[:, None] < steady[None, :]).mean() > 0.9


# -- errors and folders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"students": 99}, "ask for 100 or more"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"through": "2026-11-20"}, "through '2026-11-20' is no calendar day"),
        ({"through": datetime(2026, 11, 20, tzinfo=UTC)}, "is no calendar day"),
        ({"layout_day": date(9999, 1, 1)}, "outside the years 1900 to 9000"),
        ({"through": date(2020, 1, 1), "layout_day": THROUGH}, "before the first presentation starts"),
        ({"knobs": TwinKnobs(enrollments_per_student=2.5)}, "not between 1 and 2"),
        ({"knobs": TwinKnobs(presentations_per_module=0.5)}, "is under 1"),
        ({"knobs": TwinKnobs(archetype_shares=(1.0,))}, "archetype_shares are not 6 numbers"),
        ({"knobs": TwinKnobs(archetype_shares=(2, 0, 0, 0, 0, -1))}, "archetype_shares are not 6 numbers"),
        ({"knobs": TwinKnobs(archetype_shares=(0,) * 6)}, "archetype_shares are not 6 numbers"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"students": 200, "seed": 1, "through": THROUGH, **changed}
    with pytest.raises(TwinError, match=message):
        write_twin(tmp_path / "t", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["t", "t-truth"])
def test_a_foreign_folder_is_never_overwritten(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "courses.csv").write_text("mine")
    with pytest.raises(TwinError, match="is not empty"):
        write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == [folder]
    assert (tmp_path / folder / "courses.csv").read_text() == "mine"


def test_an_earlier_twin_is_replaced_unless_something_was_added(tmp_path: Path) -> None:
    first = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    before = digests(first.path)
    write_twin(tmp_path / "t", students=200, seed=2, through=THROUGH, knobs=QUIET)
    assert digests(first.path) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "t-truth"]
    (tmp_path / "t" / "notes.txt").write_text("mine")
    with pytest.raises(TwinError, match="is not empty"):
        write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    assert (tmp_path / "t" / "notes.txt").read_text() == "mine"


def test_an_extract_whose_courses_were_changed_is_no_twin(tmp_path: Path) -> None:
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    (summary.path / "courses.csv").write_text("mine")
    with pytest.raises(TwinError, match="is not empty"):
        write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_or_link_in_the_way_is_refused(tmp_path: Path, is_link: bool) -> None:
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "t").write_text("mine")
    with pytest.raises(TwinError, match="is a file or a link"):
        write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH)


@pytest.mark.parametrize("truth", ["t", "t/truth", "."])
def test_truth_inside_the_extract_is_refused(tmp_path: Path, truth: str) -> None:
    with pytest.raises(TwinError, match="lie in one another"):
        write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, truth=tmp_path / truth)


def test_truth_goes_where_it_is_told(tmp_path: Path) -> None:
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, truth=tmp_path / "x" / "y", knobs=QUIET)
    assert sorted(p.name for p in summary.truth_path.iterdir()) == ["truth.csv", "twin.json"]
    assert summary.truth_path == tmp_path / "x" / "y"


def test_a_failure_in_the_middle_leaves_the_earlier_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    before = digests(summary.path) | digests(summary.truth_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "draw_submissions", fail)
    with pytest.raises(OSError, match="disk full"):
        write_twin(tmp_path / "t", students=200, seed=2, through=THROUGH, knobs=QUIET)
    assert digests(summary.path) | digests(summary.truth_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "t-truth"]


def test_a_failed_exchange_puts_the_earlier_twin_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = write_twin(tmp_path / "t", students=200, seed=1, through=THROUGH, knobs=QUIET)
    before = digests(summary.path)
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if "-writing-" in source.name:
            raise OSError("refused")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="refused"):
        write_twin(tmp_path / "t", students=200, seed=2, through=THROUGH, knobs=QUIET)
    assert digests(summary.path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "t-truth"]


def test_chunks_bound_memory_and_lose_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_twin(tmp_path / "whole", students=200, seed=1, through=THROUGH, knobs=QUIET)
    monkeypatch.setattr(synthetic, "CHUNK_ENROLLMENTS", 16)
    sizes: list[int] = []

    def spy(*arguments: Any) -> Clicks:
        sizes.append(len(arguments[2]))
        return draw_clicks(*arguments)

    monkeypatch.setattr(synthetic, "draw_clicks", spy)
    monkeypatch.setattr(synthetic, "_BLOCK_ROWS", 7)
    parts = write_twin(tmp_path / "parts", students=200, seed=1, through=THROUGH, knobs=QUIET)
    assert max(sizes) == 16
    assert (parts.path / "studentInfo.csv").read_bytes() == (whole.path / "studentInfo.csv").read_bytes()
    assert parts.rows["studentVle.csv"] == len(read(parts.path, "studentVle.csv"))
