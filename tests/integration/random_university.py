"""A small random university as raw tables, and loaded: two sources, corrected deliveries, edges that definitions turn on.

What follows from these rows is not said here: expected values come from the pandas oracle.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from iom_platform import tables

LATE = date(2013, 12, 16)  # registrations and presentations have edges on this day
RAW = tuple(
    t for t in tables.TABLES if t.stage == "raw" and t is not tables.LEARNER_SUMMARY
)  # what dbt reads, and books
ROLES = ["oucontent", "subpage", "forumng", "homepage", "quiz", "externalquiz", "resource", "url", "hologram"]
TYPES = {"text": "varchar", "int": "integer", "bigint": "bigint", "float": "double precision", "bool": "boolean",
         "date": "date", "timestamp": "timestamp"}  # fmt: skip
UNKNOWN_MODULE, NOBODY, UNKNOWN_ASSESSMENT = "ZZZ", "nobody", 99_000
Frames = dict[str, pd.DataFrame]


def _courses(source: str) -> pd.DataFrame:
    """A usual and a delivered start, one ending on LATE, one over before it, two never observed, one so from day 20 on."""
    rows = [("AAA", "2013J", 120, None), ("BBB", "2013J", 90, date(2013, 9, 23)), ("CCC", "2013J", 76, None),
            ("DDD", "2013B", 240, None), ("EEE", "2013J", 100, None), ("EEE", "2014B", 100, None),
            ("FFF", "2013J", 100, None)]  # fmt: skip
    columns = ["code_module", "code_presentation", "module_presentation_length", "presentation_starts_on"]
    return pd.DataFrame(rows, columns=columns).assign(source=source)


def _starts_on(row: Any) -> date:
    if row.presentation_starts_on is not None and not pd.isna(row.presentation_starts_on):
        return pd.Timestamp(row.presentation_starts_on).date()
    return date(int(row.code_presentation[:4]), 2 if row.code_presentation.endswith("B") else 10, 1)


def _enrollments(rng: np.random.Generator, course: Any, students: int) -> pd.DataFrame:
    first_edge = (LATE - _starts_on(course)).days
    registered = rng.integers(-60, 10, students).astype(float)
    registered[:4] = [np.nan, first_edge, first_edge + 1, -5]
    unregistered = np.where(rng.random(students) < 0.25, registered + rng.integers(0, 150, students), np.nan)
    unregistered[1:4] = [np.nan, np.nan, first_edge]
    unregistered[4:6] = [first_edge + 1, registered[5]]
    result = rng.choice(["Pass", "Fail", "Distinction", None], students)
    return pd.DataFrame({
        "source": course.source, "code_module": course.code_module, "code_presentation": course.code_presentation,
        "student_pseudonym": [f"{course.source}{n:010d}" for n in range(students)],
        "date_registration": registered, "date_unregistration": unregistered,
        "gender": rng.choice(["F", "M", None], students), "region": rng.choice(["North", "South"], students),
        "highest_education": "HE Qualification", "imd_band": rng.choice(["0-10%", None], students), "age_band": "0-35",
        "num_of_prev_attempts": rng.integers(0, 3, students), "studied_credits": 60,
        "disability": rng.choice(["Y", "N"], students),
        "final_result": np.where(np.isnan(unregistered) & (rng.random(students) < 0.95), result, "Withdrawn"),
    })  # fmt: skip


def _clicks(
    rng: np.random.Generator, course: Any, pseudonyms: list[str], sites: np.ndarray, timed: bool
) -> pd.DataFrame:
    """Student 6 never clicks, 7 clicks once, 8 every day, 9 only before the start; sites 1 of 20 unknown."""
    rows = []
    for n, pseudonym in enumerate(pseudonyms):
        days = np.flatnonzero(rng.random(150) < rng.random()) - 20
        days = {6: days[:0], 7: np.array([3]), 8: np.arange(0, 130), 9: np.array([-9, -2])}.get(n, days)
        for day in np.repeat(days, rng.integers(1, 5, len(days))):
            site = 999_000 if rng.random() < 0.05 else int(rng.choice(sites))
            rows.append((pseudonym, site, int(day), int(rng.integers(1, 20))))
    frame = pd.DataFrame(rows, columns=["student_pseudonym", "id_site", "date", "sum_click"])
    frame = frame.assign(
        source=course.source, code_module=course.code_module, code_presentation=course.code_presentation
    )
    minutes = rng.choice([0, 1, 29, 30, 31, 60, 700, 1410, 1439], len(frame))
    at = pd.to_datetime(_starts_on(course)) + pd.to_timedelta(frame.date, "D") + pd.to_timedelta(minutes, "min")
    frame["clicked_at"] = (at if timed else pd.Series(pd.NaT, frame.index)).astype("datetime64[us]")
    frame.loc[rng.random(len(frame)) < 0.1, "clicked_at"] = pd.NaT
    return frame


def _assessments(course: Any, base: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    where = {"source": course.source, "code_module": course.code_module, "code_presentation": course.code_presentation}
    days = [5.0, 19.0, 40.0, 76.0, 77.0, np.nan, np.nan]
    kinds = ["TMA", "CMA", "CMA", "TMA", "CMA", "TMA", "Exam"]
    ids = base + np.arange(len(days))
    assessments = pd.DataFrame({"id_assessment": ids, "assessment_type": kinds, "date": days, "weight": 10.0})
    sites = pd.DataFrame({"id_site": base + np.arange(len(ROLES)), "activity_type": ROLES})
    return assessments.assign(**where), sites.assign(**where, week_from=np.nan, week_to=np.nan)


def _submissions(rng: np.random.Generator, assessments: pd.DataFrame, pseudonyms: list[str]) -> pd.DataFrame:
    frame = assessments[["source", "id_assessment", "date"]].merge(
        pd.DataFrame({"student_pseudonym": pseudonyms}), how="cross"
    )
    frame = frame[rng.random(len(frame)) < 0.7].reset_index(drop=True)
    frame["is_banked"] = rng.random(len(frame)) < 0.1
    handed_in = frame.date.fillna(80) + rng.integers(-10, 8, len(frame))
    frame["date_submitted"] = np.where(frame.is_banked, -1, handed_in).astype(int)
    frame["score"] = np.where(rng.random(len(frame)) < 0.1, np.nan, rng.integers(0, 401, len(frame)) / 4)
    return frame.drop(columns="date")


def _source(rng: np.random.Generator, source: str, timed: bool) -> Frames:
    courses = _courses(source)
    parts: dict[str, list[pd.DataFrame]] = {t.name: [] for t in tables.OULAD_TABLES}
    parts["oulad_courses"].append(courses)
    for number, course in enumerate(courses.itertuples()):
        enrollments = _enrollments(rng, course, 30)
        assessments, sites = _assessments(course, 1000 * (number + 1))
        pseudonyms = enrollments.student_pseudonym.tolist()
        parts["oulad_student_registration"].append(enrollments)
        parts["oulad_student_info"].append(enrollments)
        parts["oulad_assessments"].append(assessments)
        parts["oulad_vle"].append(sites)
        parts["oulad_student_assessment"].append(_submissions(rng, assessments, pseudonyms))
        if course.code_module != "EEE":
            clicks = _clicks(rng, course, pseudonyms, sites.id_site.to_numpy(), timed)
            parts["oulad_student_vle"].append(clicks[(course.code_module != "FFF") | (clicks.date >= 20)])
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _corrected(rng: np.random.Generator, frames: Frames) -> Frames:
    """A tenth of the rows of what can change, changed; for clicks the keys of a tenth, some split in two."""
    picked = {name: frame.sample(frac=0.1, random_state=rng) for name, frame in frames.items()}
    registrations = picked["oulad_student_registration"]
    registrations["date_registration"] = registrations.date_registration - 1
    picked["oulad_student_assessment"]["score"] = 50.0
    clicks = picked["oulad_student_vle"]
    clicks["sum_click"] = clicks.sum_click + 100
    picked["oulad_student_vle"] = pd.concat([clicks, clicks.iloc[::2]])
    return _add_strays(picked, frames)


def _add_strays(picked: Frames, frames: Frames) -> Frames:
    """Rows that refer to nothing: what is known moved to a presentation that is not, and a nobody who does everything.

    Each would tell if it counted: as an assessment or a site less, an enrollment more, an observed presentation.
    """
    moved, nobody = {"code_module": UNKNOWN_MODULE}, {"student_pseudonym": NOBODY}
    spare = {
        name: frames[name][~frames[name][key].isin(picked[name][key])].head(1)
        for name, key in (("oulad_assessments", "id_assessment"), ("oulad_vle", "id_site"))
    }
    strays = {
        "oulad_assessments": [spare["oulad_assessments"].assign(**moved)],
        "oulad_vle": [spare["oulad_vle"].assign(**moved)],
        "oulad_student_info": [frames["oulad_student_info"].head(1).assign(**moved)],
        "oulad_student_registration": [
            frames["oulad_student_registration"]
            .head(1)
            .assign(date_registration=-5, date_unregistration=np.nan, **nobody)
        ],
        "oulad_student_assessment": [
            frames["oulad_student_assessment"].head(1).assign(**nobody),
            frames["oulad_student_assessment"].head(1).assign(id_assessment=UNKNOWN_ASSESSMENT),
        ],
        "oulad_student_vle": [
            frames["oulad_student_vle"].head(1).assign(code_module="EEE", code_presentation="2013J", date=3, **nobody)
        ],
    }
    return {name: pd.concat([frame, *strays.get(name, [])]) for name, frame in picked.items()}


def is_stray(frame: pd.DataFrame) -> pd.Series:
    """(n,) whether a raw row is one of `_add_strays`."""
    found: pd.Series = frame.isin([UNKNOWN_MODULE, NOBODY, UNKNOWN_ASSESSMENT]).any(axis=1)
    return found


def random_university(seed: int) -> Frames:
    """Per source: an old full delivery, the full one that counts, a correction with strays, and a newer one that was rejected."""
    rng = np.random.default_rng(seed)
    landed: dict[str, list[pd.DataFrame]] = {t.name: [] for t in RAW}
    for source, timed in (("alpha", True), ("beta", False)):
        current = _source(rng, source, timed)
        plan = [("old", "full", 1, True, _source(rng, source, timed)), ("full", "full", 2, True, current),
                ("more", "increment", 3, True, _corrected(rng, current)), ("bad", "full", 4, False, _source(rng, source, timed))]  # fmt: skip
        for name, scope, day, is_accepted, frames in plan:
            delivery = {"delivery_id": f"{name}-{source}", "source": source, "delivered_on": date(2014, 1, day),
                        "scope": scope, "sha256": name, "is_accepted": is_accepted, "landed_at": pd.Timestamp(2014, 1, day)}  # fmt: skip
            landed["deliveries"].append(pd.DataFrame([delivery]))
            for table, frame in frames.items():
                traced = frame.assign(
                    delivery_id=delivery["delivery_id"], file_name=f"{table}.csv", file_row=range(1, len(frame) + 1)
                )
                landed[table].append(traced)
    empty = {t.name: pd.DataFrame({c.name: pd.Series(dtype="object") for c in t.columns}) for t in RAW}
    return {
        t.name: pd.concat(landed[t.name], ignore_index=True)[list(t.column_names)] if landed[t.name] else empty[t.name]
        for t in RAW
    }


def create_raw(execute: Callable[[str], Any]) -> None:
    """The schema raw with its tables, through any engine's `execute`."""
    execute("create schema raw")
    for table in RAW:
        columns = ", ".join(f'"{c.name}" {TYPES[c.dtype]}' for c in table.columns)
        execute(f"create table {table.sql_name} ({columns})")


def load_warehouse(path: Path, raw: Frames) -> Path:
    """A new DuckDB file with the raw tables."""
    with duckdb.connect(str(path)) as warehouse:
        create_raw(warehouse.execute)
        for table in RAW:
            frame = raw[table.name]
            if len(frame):
                warehouse.register("frame", frame)
                casts = ", ".join(f'cast("{c.name}" as {TYPES[c.dtype]})' for c in table.columns)
                warehouse.execute(f"insert into {table.sql_name} select {casts} from frame")
                warehouse.unregister("frame")
    return path


def copy_to_postgres(cursor: Any, table: tables.Table, frame: pd.DataFrame, path: Path) -> None:
    """COPY by way of DuckDB's CSV, which writes each type as PostgreSQL reads it."""
    if len(frame):
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            casts = ", ".join(f'cast("{c.name}" as {TYPES[c.dtype]})' for c in table.columns)
            connection.execute(f"copy (select {casts} from frame) to '{path}' (header false)")
        with path.open() as rows:
            cursor.copy_expert(f"copy {table.sql_name} from stdin csv", rows)
