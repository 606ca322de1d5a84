"""The columns of features.student_term in plain pandas and numpy: the oracle of the dbt models and their benchmark's rival.

It shares nothing with the SQL but the definitions; no storage, no settings and no test lives here.
"""

import hashlib
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from iom_platform.tables import STALE_AFTER_DAYS

COURSE = ["source", "code_module", "code_presentation"]
ENROLLMENT = [*COURSE, "student_pseudonym"]
GROUPS = {
    "content": ["oucontent", "page", "htmlactivity", "dualpane", "subpage", "sharedsubpage", "folder"],
    "forum": ["forumng", "oucollaborate", "ouelluminate", "ouwiki"],
    "homepage": ["homepage"],
    "quiz": ["quiz", "externalquiz", "questionnaire", "repeatactivity"],
    "resource": ["resource", "url", "glossary", "dataplus"],
    "other": [],
}
GROUP_OF = {role: group for group, roles in GROUPS.items() for role in roles}
PERIODS = ["night", "morning", "afternoon", "evening"]
SESSION_GAP = pd.Timedelta(minutes=30)


def plain_student_term(raw: dict[str, pd.DataFrame], as_of_on: date, timezone: str = "UTC") -> pd.DataFrame:
    """One row per cohort enrollment of the day, sorted by pseudonym and course, with the columns of student_term.

    raw: the raw tables by name, with the columns of tables.py. Missing values are NaN, None or NaT.
    """
    raw = {name: _without_nullable(table) for name, table in raw.items()}
    deliveries = _deliveries_in_effect(raw, as_of_on)
    courses = _courses(raw, deliveries, as_of_on)
    cohort = _cohort(raw, deliveries, courses)
    clicks = _clicks(raw, deliveries, courses, cohort)
    sites = _newest(raw["oulad_vle"].merge(courses[COURSE], on=COURSE), deliveries, ["source", "id_site"])
    sites["group"] = sites.activity_type.map(GROUP_OF).fillna("other")
    parts = [
        _daily_columns(clicks, cohort),
        _site_columns(clicks, cohort, sites),
        _time_columns(clicks, cohort, timezone),
        _submission_columns(raw, deliveries, courses, cohort),
    ]
    term = pd.concat([cohort, *parts], axis=1)
    term["as_of_on"] = as_of_on
    term["delivery_set"] = hashlib.md5("\n".join(sorted(deliveries.delivery_id)).encode()).hexdigest()[:16]
    for column in ("active_days", "clicks"):
        last = term[f"{column}_last_28_days"]
        median = last.groupby(term.course_id + "/" + term.source).transform("median")
        term[f"peer_{column}_last_28_days_median"] = median
        term[f"{column}_28d_to_peers"] = _divide(last, last + median)
    return term.sort_values(["student_pseudonym", "course_id"], ignore_index=True)


def _without_nullable(table: pd.DataFrame) -> pd.DataFrame:
    """Nullable integers and booleans (DuckDB's frames have them) as numpy's, so that missing is NaN everywhere."""
    changed = {}
    for name, dtype in table.dtypes.items():
        if pd.api.types.is_extension_array_dtype(dtype) and hasattr(dtype, "numpy_dtype"):
            changed[name] = "float64" if table[name].hasnans else dtype.numpy_dtype
    return table.astype(changed)


def _divide(numerator: Any, denominator: Any) -> np.ndarray:
    """Quotient as floats; NaN where the denominator is 0."""
    top = np.asarray(numerator, dtype=float)
    bottom = np.asarray(denominator, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom == 0, np.nan, top / bottom)


def _deliveries_in_effect(raw: dict[str, pd.DataFrame], as_of_on: date) -> pd.DataFrame:
    deliveries, scope = raw["deliveries"], raw["delivery_scope"]
    pinned = scope.delivery_id[pd.to_datetime(scope.as_of_on) == pd.Timestamp(as_of_on)]
    used = deliveries[deliveries.delivery_id.isin(pinned) if len(pinned) else deliveries.is_accepted.astype(bool)]
    kept = []
    for _, ordered in used.sort_values(["delivered_on", "sha256"]).groupby("source"):
        full = np.flatnonzero(ordered.scope == "full")
        kept.append(ordered.iloc[full[-1] if len(full) else len(ordered) :])
    effective = pd.concat(kept)
    effective["delivery_rank"] = effective.groupby("source").cumcount()
    effective["delivered_on"] = pd.to_datetime(effective.delivered_on)
    newest = effective.groupby("source").delivered_on.transform("max")
    effective["is_fresh"] = (pd.Timestamp(as_of_on) - newest).dt.days <= STALE_AFTER_DAYS
    return effective[["delivery_id", "delivery_rank", "is_fresh"]]


def _newest(table: pd.DataFrame, deliveries: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    ranked = table.merge(deliveries, on="delivery_id").sort_values(["delivery_rank", "file_name", "file_row"])
    return ranked.drop_duplicates(key, keep="last")


def _courses(raw: dict[str, pd.DataFrame], deliveries: pd.DataFrame, as_of_on: date) -> pd.DataFrame:
    courses = _newest(raw["oulad_courses"], deliveries, COURSE)
    month = courses.code_presentation.str[-1].map({"B": "-02-01", "J": "-10-01"})
    usual = pd.to_datetime(courses.code_presentation.str[:4] + month)
    starts_on = pd.to_datetime(courses.presentation_starts_on).fillna(usual)
    courses["course_day"] = (pd.Timestamp(as_of_on) - starts_on).dt.days
    courses["course_week"] = courses.course_day // 7 + 1
    courses["course_id"] = courses.code_module + "-" + courses.code_presentation
    courses = courses.rename(columns={"module_presentation_length": "presentation_length_days"})
    return courses[[*COURSE, "course_id", "course_day", "course_week", "presentation_length_days"]]


def _cohort(raw: dict[str, pd.DataFrame], deliveries: pd.DataFrame, courses: pd.DataFrame) -> pd.DataFrame:
    registrations = _newest(raw["oulad_student_registration"], deliveries, ENROLLMENT)
    students = _newest(raw["oulad_student_info"], deliveries, ENROLLMENT)
    demographics = ["gender", "region", "highest_education", "imd_band", "age_band", "disability"]
    students = students[[*ENROLLMENT, "num_of_prev_attempts", "studied_credits", *demographics]]
    rows = registrations[[*ENROLLMENT, "date_registration", "date_unregistration"]].merge(courses, on=COURSE)
    rows = rows.merge(students, on=ENROLLMENT)
    is_running = rows.course_day.between(0, rows.presentation_length_days)
    has_left = rows.date_unregistration <= rows.course_day
    cohort = rows[is_running & (rows.date_registration <= rows.course_day) & ~has_left].reset_index(drop=True)
    cohort["registration_lead_days"] = -cohort.date_registration
    cohort["course_days_enrolled"] = (cohort.course_day - cohort.date_registration.clip(lower=0)).clip(upper=28)
    return cohort


def _clicks(
    raw: dict[str, pd.DataFrame], deliveries: pd.DataFrame, courses: pd.DataFrame, cohort: pd.DataFrame
) -> pd.DataFrame:
    """The cohort's click rows with their row number in `cohort` as `row`; marks observed courses in `cohort`."""
    clicks = (
        raw["oulad_student_vle"].merge(deliveries, on="delivery_id").merge(courses[[*COURSE, "course_day"]], on=COURSE)
    )
    clicks = clicks[(clicks.date <= clicks.course_day) & clicks.is_fresh]
    if deliveries.delivery_rank.any():  # increments, which may hold rows of nobody
        enrolled = raw["oulad_student_info"].merge(deliveries, on="delivery_id")[ENROLLMENT].drop_duplicates()
        clicks = clicks.merge(enrolled, on=ENROLLMENT)
    seen = clicks.groupby(COURSE).clicked_at.count().rename("timed_rows").reset_index()
    timed = cohort[COURSE].merge(seen, on=COURSE, how="left").timed_rows
    cohort["is_observed"] = timed.notna()
    cohort["has_timestamps"] = timed.fillna(0) > 0
    numbered = cohort[ENROLLMENT].assign(row=np.arange(len(cohort)))
    clicks = clicks.merge(numbered, on=ENROLLMENT)
    if clicks.delivery_rank.nunique() > 1:
        newest = clicks.groupby(["row", "id_site", "date"]).delivery_rank.transform("max")
        clicks = clicks[clicks.delivery_rank == newest]
    return clicks[["row", "source", "id_site", "date", "sum_click", "clicked_at", "course_day"]]


def _daily_columns(clicks: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    daily = clicks.groupby(["row", "date"]).sum_click.sum().reset_index()
    daily["row"] = daily.row.astype(int)
    blocks = []
    for (course_day, is_observed), members in cohort.groupby(["course_day", "is_observed"]):
        if not is_observed:
            continue
        mine = daily[daily.row.isin(members.index)]
        first = min(0, int(mine.date.min())) if len(mine) else 0
        matrix = np.zeros((len(members), int(course_day) - first + 1))
        matrix[members.index.get_indexer(mine.row), mine.date - first] = mine.sum_click
        blocks.append(_matrix_columns(matrix, -first, members.index))
    columns = pd.concat(blocks).reindex(cohort.index) if blocks else pd.DataFrame(index=cohort.index)
    never = columns.get("active_days_total", pd.Series(index=cohort.index)) == 0
    columns["activity_missing_reason"] = np.where(
        ~cohort.is_observed, "course_not_observed", np.where(never, "never_active", None)
    )
    return columns


def _matrix_columns(clicks: np.ndarray, start: int, index: pd.Index) -> pd.DataFrame:
    """clicks: (n_students, n_days) whose last column is the as-of day and whose column `start` is day 0."""
    active = clicks > 0
    columns = pd.DataFrame(index=index)
    columns["clicks_total"] = clicks.sum(axis=1)
    columns["active_days_total"] = active.sum(axis=1)
    term, term_active = clicks[:, start:], active[:, start:].astype(float)
    days = term.shape[1]
    columns["clicks_per_week"] = term.sum(axis=1) / (days / 7)
    columns["active_days_per_week"] = term_active.sum(axis=1) / (days / 7)
    columns["clicks_slope_per_week"] = _slope_of_weeks(term)
    columns["active_days_slope_per_week"] = _slope_of_weeks(term_active)
    for length in (7, 14, 28):
        columns[f"clicks_last_{length}_days"] = clicks[:, -length:].sum(axis=1)
        columns[f"active_days_last_{length}_days"] = active[:, -length:].sum(axis=1)
    recent = clicks[:, -14:].sum(axis=1) / 14
    history = term[:, :-14].sum(axis=1) / max(days - 14, 1)
    columns["clicks_14d_to_history"] = _divide(recent, recent + history) if days > 28 else np.nan
    is_active = active.any(axis=1)
    columns["clicks_anomaly_score"] = np.where(is_active, _anomaly(clicks, term), np.nan)
    since = np.argmax(active[:, ::-1], axis=1)
    columns["days_since_last_activity"] = np.where(is_active, since, np.nan)
    weekdays = np.stack([active[:, weekday::7].sum(axis=1) for weekday in range(7)], axis=1)
    share = _divide(weekdays, weekdays.sum(axis=1, keepdims=True))
    terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0)
    columns["weekday_entropy_share"] = np.where(is_active, -terms.sum(axis=1) / np.log(7), np.nan)
    columns["weekly_autocorrelation"] = np.where(is_active, _autocorrelation(term_active), np.nan)
    return columns


def _slope_of_weeks(daily: np.ndarray) -> np.ndarray:
    weeks = daily.shape[1] // 7
    if weeks < 2:
        return np.full(len(daily), np.nan)
    weekly = daily[:, : 7 * weeks].reshape(len(daily), weeks, 7).sum(axis=2)
    x = np.arange(weeks) - (weeks - 1) / 2
    return weekly @ x / (x @ x)


def _anomaly(clicks: np.ndarray, term: np.ndarray) -> np.ndarray:
    blocks = term.shape[1] // 7 - 1
    if blocks < 3:
        return np.full(len(term), np.nan)
    earlier = term[:, -7 * (blocks + 1) : -7].reshape(len(term), blocks, 7).sum(axis=2)
    median = np.median(earlier, axis=1)
    mad = np.median(np.abs(earlier - median[:, None]), axis=1)
    return (clicks[:, -7:].sum(axis=1) - median) / (1.4826 * mad + 1)


def _autocorrelation(active: np.ndarray) -> np.ndarray:
    if active.shape[1] < 22:
        return np.full(len(active), np.nan)
    centered = active - active.mean(axis=1, keepdims=True)
    is_constant = active.min(axis=1) == active.max(axis=1)
    pairs = (centered[:, 7:] * centered[:, :-7]).sum(axis=1)
    return np.where(is_constant, np.nan, _divide(pairs, (centered**2).sum(axis=1)))


def _site_columns(clicks: pd.DataFrame, cohort: pd.DataFrame, sites: pd.DataFrame) -> pd.DataFrame:
    visits = clicks.groupby(["row", "id_site"]).sum_click.sum().reset_index()
    visits = visits.merge(cohort[COURSE], left_on="row", right_index=True)
    visits = visits.merge(sites[[*COURSE, "id_site", "group"]], on=[*COURSE, "id_site"], how="left")
    total = visits.groupby("row").sum_click.sum()
    columns = pd.DataFrame(index=cohort.index)
    by_group = visits.assign(group=visits.group.fillna("other")).groupby(["row", "group"]).sum_click.sum().unstack()
    for group in GROUPS:
        found = by_group[group] if group in by_group else total * 0
        columns[f"share_clicks_{group}"] = found.fillna(0) / total
    known = visits[visits.group.notna()].groupby("row").size().reindex(cohort.index).fillna(0)
    listed = sites.groupby(COURSE).size().rename("sites").reset_index()
    available = cohort[COURSE].merge(listed, on=COURSE, how="left").sites.fillna(0)
    columns["topic_progress_share"] = np.where(cohort.is_observed, _divide(known, available), np.nan)
    return columns


def _time_columns(clicks: pd.DataFrame, cohort: pd.DataFrame, timezone: str) -> pd.DataFrame:
    timed = clicks[clicks.clicked_at.notna()].sort_values(["row", "clicked_at"])
    columns = pd.DataFrame(index=cohort.index)
    local = pd.to_datetime(timed.clicked_at).dt.tz_localize("UTC").dt.tz_convert(timezone)
    period = (local.dt.hour // 6).map(dict(enumerate(PERIODS)))
    total = timed.groupby("row").sum_click.sum()
    by_period = timed.groupby(["row", period.rename("period")]).sum_click.sum().unstack()
    for name in PERIODS:
        columns[f"share_clicks_{name}"] = (by_period[name] if name in by_period else total * 0).fillna(0) / total
    gap = timed.groupby("row").clicked_at.diff()
    begins = gap.isna() | (gap > SESSION_GAP)
    minutes = (gap.where(~begins, pd.Timedelta(minutes=1)) / pd.Timedelta(minutes=1)).astype(float)
    idle = ~cohort.index.isin(clicks.row) & cohort.has_timestamps
    columns["logins_total"] = begins.groupby(timed.row).sum()
    columns["time_spent_minutes"] = minutes.groupby(timed.row).sum()
    columns.loc[idle, ["logins_total", "time_spent_minutes"]] = 0
    columns["session_minutes_mean"] = _divide(columns.time_spent_minutes, columns.logins_total)
    return columns


def _submission_columns(
    raw: dict[str, pd.DataFrame], deliveries: pd.DataFrame, courses: pd.DataFrame, cohort: pd.DataFrame
) -> pd.DataFrame:
    assessments = _newest(raw["oulad_assessments"].merge(courses, on=COURSE), deliveries, ["source", "id_assessment"])
    assessments = assessments[assessments.assessment_type != "Exam"]
    assessments["cut_off"] = assessments.date.fillna(assessments.presentation_length_days)
    assessments["is_due"] = assessments.cut_off <= assessments.course_day
    submissions = _newest(raw["oulad_student_assessment"], deliveries, ["source", "id_assessment", "student_pseudonym"])
    wanted = [*COURSE, "id_assessment", "assessment_type", "cut_off", "is_due", "course_day"]
    made = submissions.merge(assessments[wanted], on=["source", "id_assessment"])
    made = made.merge(cohort[ENROLLMENT].assign(row=cohort.index), on=ENROLLMENT)
    made = made[made.date_submitted <= made.course_day].sort_values(["date_submitted", "id_assessment"])
    made["is_late"] = (made.date_submitted > made.cut_off) & ~made.is_banked.astype(bool)
    one = ["source", "id_assessment"]
    known = made[~made.is_banked.astype(bool)][one].drop_duplicates()  # what nobody submitted is not due
    assessments["is_due"] &= (
        assessments[one].merge(known, on=one, how="left", indicator=True)._merge.eq("both").to_numpy()
    )
    made["is_due"] &= made[one].merge(known, on=one, how="left", indicator=True)._merge.eq("both").to_numpy()
    columns = pd.DataFrame(index=cohort.index)
    due = assessments.groupby(COURSE).is_due.sum().rename("due").reset_index()
    columns["submissions_due"] = cohort[COURSE].merge(due, on=COURSE, how="left").due.fillna(0).astype(int)
    columns["submissions_made"] = made.groupby("row").size()
    columns["submissions_late"] = made.groupby("row").is_late.sum()
    columns = columns.fillna(0)
    of_due = made[made.is_due].groupby("row").size().reindex(cohort.index).fillna(0)
    columns["submissions_missed"] = columns.submissions_due - of_due
    columns["submissions_missed_share"] = _divide(columns.submissions_missed, columns.submissions_due)
    scored = made[~made.is_banked.astype(bool) & made.score.notna()]
    columns["score_pct_mean"] = scored.groupby("row").score.mean()
    x = scored.groupby("row").cumcount() + 1.0
    dx = x - x.groupby(scored.row).transform("mean")
    slope = (dx * scored.score).groupby(scored.row).sum() / (dx**2).groupby(scored.row).sum().replace(0, np.nan)
    columns["score_pct_slope"] = slope
    columns["accuracy_share"] = scored[scored.assessment_type == "CMA"].groupby("row").score.mean() / 100
    return columns
