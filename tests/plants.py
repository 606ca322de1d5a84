"""Valid frames of the tables that have a suite, and plants: changes that must turn a suite red.

`PLANTS` holds one violation a suite that landing's row rules let pass; `break_expectation` finds, for any expectation,
every way in which it can fail. No test belongs here.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from iom_platform.tables import LEARNER_FEATURES, QUASI_IDENTIFIERS, find_table

AS_OF = date(2013, 12, 16)
ROWS = 30
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_DEFAULTS: dict[str, Any] = {"text": "text", "int": 1, "bigint": 1, "float": 0.5, "bool": False, "date": AS_OF}


def pseudonym(number: int) -> str:
    """A pseudonym's shape: 16 letters of lower-case base32."""
    return "".join(_BASE32[(number >> (5 * place)) & 31] for place in range(16))


def _column(name: str, rows: int) -> list[Any] | None:
    """Plausible values of a column by its name; None leaves it to its dtype."""
    number = np.arange(rows)
    cycles: dict[str, list[Any]] = {
        "code_presentation": ["2013B", "Fall 2026"],
        "course_id": ["AAA-2013J", "BBB-Fall 2026"],
        "assessment_type": ["TMA", "CMA", "Exam"],
        "gender": ["F", "M"],
        "region": ["Wales", "Scotland"],
        "highest_education": ["HE Qualification", "No Formal quals"],
        "imd_band": ["10-20%", "20-30%", "90-100%"],
        "age_band": ["0-35", "35-55"],
        "disability": ["N", "Y"],
        "final_result": ["Pass", "Fail", None],
        "outcome": ["Pass", "Withdrawn"],
        "date_unregistration": [None, 40],
        "risk_level": ["LOW", "HIGH", "UNKNOWN"],
        "cluster": [0, 1, -1],
        "cluster_uid": ["c-0a1b2c3d", "c-4e5f6071", None],
    }
    constants: dict[str, Any] = {
        "module_presentation_length": 268, "presentation_length_days": 268, "presentation_starts_on": date(2013, 10, 1),
        "course_day": 76, "course_week": 11, "date_registration": -20, "registration_lead_days": 20, "studied_credits": 60,
        "course_days_enrolled": 28, "week_to": 3, "outcome_known_on": AS_OF - timedelta(days=1), "model_name": "student_clusters", "score": 71.5,
    }  # fmt: skip
    if name in cycles:
        return [cycles[name][i % len(cycles[name])] for i in number]
    if name in constants:
        return [constants[name]] * rows
    if name in ("id_assessment", "id_site", "file_row"):
        return (1000 + number).tolist()
    if name == "student_pseudonym":
        return [pseudonym(7919 * (int(i) + 1) ** 3) for i in number]
    if name == "code_module":
        return [f"M{i:02}" for i in number]
    return None


def _valid_term(frame: pd.DataFrame) -> pd.DataFrame:
    """Every third row is of a course that is not observed, one of the others was never active."""
    frame["is_observed"] = np.arange(len(frame)) % 3 > 0
    frame["activity_missing_reason"] = np.where(frame["is_observed"], None, "course_not_observed")
    frame.loc[1, "activity_missing_reason"] = "never_active"
    for window in (7, 14, 28):
        frame[f"clicks_last_{window}_days"] = window
        frame[f"active_days_last_{window}_days"] = window // 7
    frame["clicks_total"], frame["active_days_total"] = 300, 40
    frame["submissions_due"], frame["submissions_made"] = 3, 2
    active = [c for c in frame.columns if c.startswith(("clicks_", "active_days_", "share_", "days_since", "weekday_"))]
    frame[active] = frame[active].astype("float64")
    frame.loc[frame["activity_missing_reason"].notna(), active] = np.nan
    if "is_suppressed" in frame:
        frame["is_suppressed"] = np.arange(len(frame)) % 10 == 4
        frame.loc[frame["is_suppressed"], [c for c in QUASI_IDENTIFIERS if c != "course_id"]] = "*"
    return frame


def _valid_risk(frame: pd.DataFrame) -> pd.DataFrame:
    unknown = frame["risk_level"] == "UNKNOWN"
    frame["is_observed"] = ~unknown
    frame.loc[unknown, ["risk_score", "cluster", "model_version"]] = np.nan
    frame.loc[unknown, ["cluster_uid", "model_name", "reason_2", "reason_3"]] = None
    frame["submissions_due"] = 3
    return frame


def valid_frame(path: str, rows: int = ROWS) -> pd.DataFrame:
    """A frame of the table `stage/name` that its suite accepts, all columns of tables.py in their order."""
    table = find_table(path)
    columns = {}
    for column in table.columns:
        values = _column(column.name, rows)
        columns[column.name] = values if values is not None else [_DEFAULTS.get(column.dtype)] * rows
    frame = pd.DataFrame(columns)
    if path == "clustering/learner_profiles":
        number = np.arange(rows)
        return frame.assign(
            cluster=number // 8,
            algorithm=[("kmeans", "gmm")[i // 4 % 2] for i in number],
            feature=[LEARNER_FEATURES[i % 4] for i in number],
        )
    if table.name == "student_term":
        return _valid_term(frame)
    return _valid_risk(frame) if path == "risk/student_risk" else frame


def promotion_row(**changes: Any) -> dict[str, Any]:
    """A promotion that stands, of the model version that a valid frame names."""
    (row,) = valid_frame("clustering/promotions", 1).to_dict("records")
    stands = {"promoted_at": datetime(2014, 1, 1, tzinfo=UTC), "withdrawn_because": None, "withdrawn_at": None}
    return {str(name): value for name, value in row.items()} | stands | changes


def _set(**values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**values)


# One a suite. Those of raw/* hold only rows that are right one by one: nothing but the suite can refuse the delivery.
PLANTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "raw/oulad_courses": _set(module_presentation_length=7),
    "raw/oulad_assessments": _set(date=np.nan),
    "raw/oulad_vle": _set(week_from=20, week_to=2),
    "raw/oulad_student_info": _set(studied_credits=0),
    "raw/oulad_student_registration": _set(date_registration=np.nan),
    "raw/oulad_student_assessment": _set(score=np.nan),
    "raw/oulad_student_vle": _set(sum_click=1_000_000),
    "features/student_term": _set(clicks_last_7_days=100.0, clicks_last_14_days=50.0),
    "anonymized/student_term": _set(disability="Y"),
    "anonymized/student_outcome": _set(outcome_known_on=AS_OF + timedelta(days=1)),
    "anonymized/student_week": _set(days_elapsed=2, active_days=3.0, clicks=9.0),
    "clustering/assignments": _set(confidence=1.5),
    "risk/student_risk": _set(risk_score=0.9),
    "raw/learner_summary": _set(time_spent=1.7e12),
    "anonymized/learner_summary": _set(file_row=1),
    "clustering/learner_clusters": _set(gmm_confidence=1.5),
    "clustering/learner_profiles": _set(feature="student_pseudonym"),
}


def _condition_rows(expectation: Mapping[str, Any], frame: pd.DataFrame) -> pd.Index:
    condition = expectation["kwargs"].get("row_condition")
    if not condition:
        return frame.index
    meets = getattr(operator, {"==": "eq", "!=": "ne"}[condition["operator"]])
    rows = frame.index[meets(frame[condition["column"]["name"]], condition["parameter"])]
    assert len(rows), f"no row of the valid frame meets {condition}"
    return rows


def _put(frame: pd.DataFrame, rows: pd.Index, column: str, value: Any) -> pd.DataFrame:
    planted = frame.copy()
    planted[column] = planted[column].astype(object)
    planted.loc[rows, column] = value
    return planted.assign(**{column: planted[column].infer_objects()})


def _one_less(frame: pd.DataFrame, rows: pd.Index, kwargs: Mapping[str, Any]) -> pd.DataFrame:
    """`column_A` one below `column_B`: one day, or one."""
    other = frame.loc[rows, kwargs["column_B"]]
    step: Any = timedelta(days=1) if isinstance(other.dropna().iloc[0], date) else 1
    return _put(frame, rows, kwargs["column_A"], other.map(lambda value: value - step, na_action="ignore"))


_Plants = Iterator[tuple[str, pd.DataFrame]]


def _beyond(kwargs: Mapping[str, Any], frame: pd.DataFrame, rows: pd.Index) -> _Plants:
    assert {"min_value", "max_value"} & set(kwargs), "a range without a bound cannot fail"
    for bound, step in (("min_value", -1), ("max_value", 1)):
        if bound in kwargs:
            yield f"beyond {bound}", _put(frame, rows, kwargs["column"], kwargs[bound] + step)


def _two_values(kwargs: Mapping[str, Any], frame: pd.DataFrame, rows: pd.Index) -> _Plants:
    column = kwargs["column"]
    known = frame[column].dropna()
    step: Any = timedelta(days=1) if isinstance(known.iloc[0], date) else 1
    yield "two values", _put(frame, known.index[:1], column, known.iloc[0] + step)


def _other_columns(kwargs: Mapping[str, Any], frame: pd.DataFrame, rows: pd.Index) -> _Plants:
    yield "a column more", frame.assign(id_student=11391)
    yield "a column less", frame.drop(columns=frame.columns[-1])


def _putting(done: str, value: Any) -> Callable[[Mapping[str, Any], pd.DataFrame, pd.Index], _Plants]:
    return lambda kwargs, frame, rows: iter([(done, _put(frame, rows, kwargs["column"], value))])


_BREAKERS: dict[str, Callable[[Mapping[str, Any], pd.DataFrame, pd.Index], _Plants]] = {
    "expect_column_values_to_not_be_null": _putting("null", None),
    "expect_column_values_to_be_null": _putting("a value", 1),
    "expect_column_values_to_be_in_set": _putting("another word", "elsewhere"),
    "expect_column_values_to_match_regex": _putting("blank", " "),
    "expect_column_sum_to_be_between": _putting("zeros", 0),
    "expect_column_values_to_be_between": _beyond,
    "expect_column_unique_value_count_to_be_between": _two_values,
    "expect_column_values_to_be_unique": lambda k, f, r: iter([("a row twice", pd.concat([f, f.tail(1)]))]),
    "expect_compound_columns_to_be_unique": lambda k, f, r: iter([("a row twice", pd.concat([f, f.tail(1)]))]),
    "expect_table_row_count_to_be_between": lambda k, f, r: iter([("no row", f.iloc[:0])]),
    "expect_table_columns_to_match_set": _other_columns,
    "expect_column_pair_values_a_to_be_greater_than_b": lambda k, f, r: iter([("a below b", _one_less(f, r, k))]),
}


def break_expectation(expectation: Mapping[str, Any], frame: pd.DataFrame) -> _Plants:
    """(what was done, planted frame) for every way in which the expectation can fail.

    KeyError for a type without a breaker: write one, or nobody has seen the expectation fail.
    """
    return _BREAKERS[expectation["type"]](expectation["kwargs"], frame, _condition_rows(expectation, frame))
