"""Levels against what became of the students of OULAD: a look back at dates that no weight or cut-off was chosen from.

It reads a subset: clicks of AAA-2013J and BBB-2013B alone. With the published files other figures come out, and cohorts
too; docs/validation.md says how to make the subset. `pytest -s` shows the table that stands there. Nothing here may be
tuned until it passes: a level that fails is a finding.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from iom_platform.clustering.algorithms import ALGORITHMS
from iom_platform.flow.jobs import OF_LEARNERS
from iom_platform.report.comparison import compare_flags
from iom_platform.risk import LEVELS, NOT_OBSERVED, outcome_by_level
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage import record, warehouse
from iom_platform.storage.model_registry import Registry
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, MODEL_NAME, PROMOTIONS, STUDENT_RISK
from tests.spine import Spine, spine_at, succeed

OULAD = Path(os.environ.get("IOM_TEST_DATA", PROJECT_ROOT.parent / "shared" / "data")) / "oulad"
PUBLISHED_ON = date(2017, 11, 28)
STARTS = {"AAA-2013J": date(2013, 10, 1), "BBB-2013B": date(2013, 2, 1)}
# the later date first: the earlier one must not be scored by its model
COHORTS = {date(2013, 12, 16): 5574, date(2013, 5, 15): 3736}
WEEKS = {
    start + timedelta(days=7 * week - 1): f"{course} week {week}"
    for course, start in STARTS.items()
    for week in (4, 8, 12)
}
DATES = {**{day: f"{cohort} enrollments" for day, cohort in COHORTS.items()}, **WEEKS}

pytestmark = pytest.mark.skipif(
    not (OULAD / "studentVle.csv").exists(),
    reason=f"OULAD is not at {OULAD}; put its seven files there, or name the folder above it in IOM_TEST_DATA",
)


@dataclass(frozen=True)
class Scored:
    """Risk rows and features behind the wall by date, every enrollment's final result, cohorts, promotions."""

    risk: dict[date, pd.DataFrame]
    terms: dict[date, pd.DataFrame]
    outcomes: pd.DataFrame
    cohorts: dict[date, set[tuple[str, str]]]
    observed_courses: set[str]
    submissions: dict[date, pd.Series]
    trained_as_of: dict[int, date]
    candidates: dict[date, pd.DataFrame]

    def levels(self, day: date) -> pd.DataFrame:
        return outcome_by_level(self.risk[day], self.outcomes).set_index("risk_level").loc[list(LEVELS)]


_COHORT = """
    with courses as (
        select *, cast(substr(code_presentation, 1, 4) || case when code_presentation like '%B' then '-02-01' else '-10-01' end as date) as starts_on
        from raw.oulad_courses
    )
    select student_pseudonym, code_module || '-' || code_presentation as course_id
    from raw.oulad_student_registration join courses using (code_module, code_presentation)
    where date_diff('day', starts_on, ?) between 0 and module_presentation_length
        and date_registration <= date_diff('day', starts_on, ?)
        and coalesce(date_unregistration > date_diff('day', starts_on, ?), true)
"""
_SUBMITTED = """
    select s.student_pseudonym, a.code_module || '-' || a.code_presentation as course_id, count(*) as made
    from raw.oulad_student_assessment s join raw.oulad_assessments a using (id_assessment)
    where a.assessment_type <> 'Exam' and s.date_submitted <= date_diff('day',
        cast(substr(a.code_presentation, 1, 4) || case when a.code_presentation like '%B' then '-02-01' else '-10-01' end as date), ?)
    group by all
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scored]:
    with spine_at(tmp_path_factory.mktemp("oulad") / "home") as spine:
        succeed(spine.land(OULAD, PUBLISHED_ON, "oulad"))
        for day in DATES:
            succeed(spine.score(day))
        with warehouse.open_warehouse(spine.settings, purpose="look back", write=False) as con:
            course = "code_module || '-' || code_presentation as course_id"
            outcomes = con.execute(
                f"select student_pseudonym, {course}, final_result as outcome from raw.oulad_student_info"
            ).df()
            terms = {day: warehouse.read_table(con, ANONYMIZED_STUDENT_TERM, day) for day in DATES}
            cohorts = {day: set(con.execute(_COHORT, [day] * 3).fetchall()) for day in DATES}
            observed = {
                row[0] for row in con.execute(f"select distinct {course} from raw.oulad_student_vle").fetchall()
            }
            submissions = {
                day: con.execute(_SUBMITTED, [day]).df().set_index(["student_pseudonym", "course_id"])["made"]
                for day in DATES
            }
        with record.open_record(spine.settings) as conn:
            risk = {day: record.read_table(conn, STUDENT_RISK, day) for day in DATES}
            promoted = record.read_table(conn, PROMOTIONS)
        trained = {
            v: pd.Timestamp(d).date() for v, d in zip(promoted["model_version"], promoted["trained_as_of"], strict=True)
        }
        yield Scored(risk, terms, outcomes, cohorts, observed, submissions, trained,
            {day: _choose_among_all(spine, day) for day in COHORTS})  # fmt: skip


def _choose_among_all(spine: Spine, day: date) -> pd.DataFrame:
    """What the rule compares on a day where the settings leave it the choice among every algorithm, as MLflow has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOM_CLUSTERING__ALGORITHM", "auto")
        patch.setenv("IOM_CLUSTERING__CANDIDATES", ",".join(ALGORITHMS))
        patch.setenv("IOM_VALIDATION__BOOTSTRAP_ITERATIONS", "20")
        models = dg.AssetSelection.groups("clustering", "risk") - OF_LEARNERS
        succeed(spine.run_part(models, day, {"fit_model": {"config": {"refit": True}}}))
    registry = Registry.of(spine.settings)
    runs = registry._client().search_runs([str(registry.experiment_id(MODEL_NAME))], order_by=["start_time DESC"])
    selection = next(run for run in runs if "decision" in run.data.tags)
    return pd.read_csv(io.BytesIO(registry.artifact(selection.info.run_id, "candidates.csv")))


def test_print_the_table(scored: Scored) -> None:
    """Not a judgment: what docs/validation.md shows."""
    lines = ["", "| as of | looked at | trained | level | students | share of observed | Fail or Withdrawn | 95 % interval |",
             "|---|---|---|---|---:|---:|---:|---|"]  # fmt: skip
    for day, label in DATES.items():
        versions = scored.risk[day]["model_version"].dropna().unique()
        trained = ", ".join(str(scored.trained_as_of[int(v)]) for v in versions)
        counts = scored.risk[day]["risk_level"].value_counts()
        known = counts.drop("UNKNOWN", errors="ignore").sum()
        for level, row in scored.levels(day).iterrows():
            share = "-" if level == "UNKNOWN" else f"{counts.get(level, 0) / known:.1%}"
            interval = f"{row['share_low']:.1%} to {row['share_high']:.1%}"
            lines.append(
                f"| {day} | {label} | {trained} | {level} | {counts.get(level, 0):,} | {share} | {row['share']:.1%} | {interval} |"
            )
    print("\n".join(lines))


def test_print_the_seven_day_rule_beside_it(scored: Scored) -> None:
    """Not a judgment either: the second table of docs/validation.md."""
    lines = [
        "",
        "| as of | looked at | flagged by each | the rule's that fail or withdraw | the score's |",
        "|---|---|---:|---:|---:|",
    ]
    for day, label in DATES.items():
        known = scored.risk[day].loc[lambda rows: rows["risk_level"] != "UNKNOWN"]
        truth = scored.outcomes.assign(onset_of_disengagement_day=float("nan"))
        _, rule, score = compare_flags(known, scored.terms[day], truth).everyone.flags
        assert rule.flagged == score.flagged > 0
        ours, theirs = (f"{one.precision.hits} ({one.precision.percent})" for one in (score, rule))
        lines.append(f"| {day} | {label} | {rule.flagged} | {theirs} | {ours} |")
    print("\n".join(lines))


@pytest.mark.parametrize("day", DATES, ids=str)
def test_one_row_per_cohort_enrollment(scored: Scored, day: date) -> None:
    rows = list(scored.risk[day][["student_pseudonym", "course_id"]].itertuples(index=False, name=None))
    assert len(rows) == len(set(rows)) == COHORTS.get(day, len(scored.cohorts[day]))
    assert set(rows) == scored.cohorts[day]


@pytest.mark.parametrize("day", DATES, ids=str)
def test_presentations_without_clicks_are_unknown_and_show_submissions(scored: Scored, day: date) -> None:
    frame = scored.risk[day]
    unseen = frame[~frame["course_id"].isin(scored.observed_courses)]
    assert len(unseen) > 1000
    assert set(unseen["risk_level"]) == {"UNKNOWN"}
    assert set(unseen["reason_1"]) == {NOT_OBSERVED}
    assert unseen[["risk_score", "cluster", "reason_2", "reason_3", "model_version"]].isna().all(axis=None)
    made = unseen.set_index(["student_pseudonym", "course_id"])["submissions_made"]
    assert made.sum() > 0
    assert (made == scored.submissions[day].reindex(made.index).fillna(0)).all()
    assert (unseen["submissions_missed"] > 0).any()


@pytest.mark.parametrize("day", DATES, ids=str)
def test_no_level_is_nearly_empty(scored: Scored, day: date) -> None:
    observed = scored.risk[day][scored.risk[day]["is_observed"]]
    shares = observed["risk_level"].value_counts(normalize=True)
    assert all(shares.get(level, 0) >= 0.05 for level in ("LOW", "MEDIUM", "HIGH")), shares.to_dict()


@pytest.mark.parametrize("day", DATES, ids=str)
def test_failing_or_withdrawing_rises_with_the_level(scored: Scored, day: date) -> None:
    low, medium, high = scored.levels(day)["share"].loc[["LOW", "MEDIUM", "HIGH"]]
    assert low < medium < high
    assert high >= 2 * low


@pytest.mark.parametrize("day", DATES, ids=str)
def test_the_model_was_trained_on_or_before_the_day(scored: Scored, day: date) -> None:
    used = scored.risk[day]["model_version"].dropna().astype(int).unique()
    assert len(used) == 1
    assert scored.trained_as_of[used[0]] <= day


@pytest.mark.parametrize("day", COHORTS, ids=str)
def test_five_algorithms_are_candidates_of_one_selection(scored: Scored, day: date) -> None:
    """Of the few students who are observed in December DBSCAN makes one dense place, which is no model."""
    found = scored.candidates[day]
    shown = found.drop(columns=["algorithm", "n_clusters", "course_nmi", "week_nmi"])  # one course is observed
    print(f"\n\n{day}\n\n{shown.to_markdown(index=False, floatfmt='.2f')}")
    wanted = {*ALGORITHMS} - ({"dbscan"} if day == max(COHORTS) else set())
    assert set(found["algorithm"]) == wanted and found["is_chosen"].sum() == 1
    assert found.groupby("algorithm").size().loc[["kmeans", "gmm", "hierarchical"]].eq(4).all()
    assert found["stability_ari_mean"].between(-1, 1).all() and found["silhouette"].between(-1, 1).all()
    # in May no course has ended; of who was scored then it has by December
    assert found["outcome_association"].between(0.2, 1).all() if day == max(COHORTS) else "outcome_association" in found
