"""What a check says of an extract: each finding with an extract that shows it, read by the real landing."""

import csv
import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iom_platform.extract import SOURCES
from iom_platform.extract.oulad import SHAPES
from iom_platform.extract.survey import survey_delivery
from iom_platform.readiness import Calendar, Course, FileCount, Finding, Limits, Survey, find, plan_days, refuse
from iom_platform.tables import Table

START, DELIVERED = date(2025, 10, 6), date(2026, 1, 15)
LIMITS = Limits(today=date(2026, 1, 20), first_as_of=date(2013, 1, 1), k=3, rows_to_fit=4, warm_up_days=7)
STUDENTS = tuple(f"zq-{number}" for number in range(6))
DEMOGRAPHICS = ("gender", "region", "highest_education", "imd_band", "age_band", "disability")

Rows = dict[str, list[dict[str, Any]]]


class _Open:
    """A gate that lets everything pass and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: dict[str, pa.Table] = {}

    def columns(self, table: Table) -> tuple[str, ...]:
        return ("code_module", "date", "sum_click") if table.name == "oulad_student_vle" else table.column_names

    def judge(self, table: Table, rows: pa.Table) -> tuple[str, ...]:
        self.seen[table.name] = rows
        return ()


def _ready() -> Rows:
    """Two courses of six students with everything that the platform can use; AAA has ended, BBB runs."""
    rows: Rows = {shape.name: [] for shape in SHAPES}
    for number, (module, start, length) in enumerate([("AAA", START, 100), ("BBB", date(2025, 11, 3), 240)]):
        course = {"code_module": module, "code_presentation": "2025J"}
        rows["courses.csv"].append({**course, "module_presentation_length": length, "presentation_starts_on": start})
        rows["assessments.csv"].append(
            {**course, "id_assessment": number, "assessment_type": "TMA", "date": 19, "weight": 10})  # fmt: skip
        rows["assessments.csv"].append(
            {**course, "id_assessment": 10 + number, "assessment_type": "Exam", "date": "", "weight": 90})  # fmt: skip
        rows["vle.csv"].append({**course, "id_site": number, "activity_type": "quiz"})
        for student in STUDENTS:
            person = {**course, "id_student": student}
            rows["studentInfo.csv"].append({
                **person, "gender": "F", "region": "Wales", "highest_education": "HE Qualification", "imd_band": "20-30%",
                "age_band": "0-35", "num_of_prev_attempts": 0, "studied_credits": 60, "disability": "N",
                "final_result": "Pass" if module == "AAA" else "",
            })  # fmt: skip
            rows["studentRegistration.csv"].append({**person, "date_registration": -10})
            rows["studentAssessment.csv"].append(
                {"id_assessment": number, "id_student": student, "date_submitted": 18, "is_banked": 0, "score": 70})  # fmt: skip
            rows["studentVle.csv"].append({
                **person, "id_site": number, "date": 2, "sum_click": 3,
                "clicked_at": f"{start + timedelta(days=2)}T10:00:00Z",
            })  # fmt: skip
    return rows


def _write(folder: Path, rows: Rows, scope: str = "full") -> Path:
    folder.mkdir(parents=True)
    for shape in SHAPES:
        if shape.name in rows:
            with (folder / shape.name).open("w", newline="") as stream:
                given = {name for row in rows[shape.name] for name in row}
                names = [field.name for field in shape.fields if not field.is_optional or field.name in given]
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(rows[shape.name])
    (folder / "delivery.json").write_text(json.dumps({"delivered_on": str(DELIVERED), "scope": scope}))
    return folder


def _survey(tmp_path: Path, rows: Rows, gate: _Open | None = None, **knobs: str) -> Survey:
    delivery = SOURCES["oulad"].open_delivery(_write(tmp_path / "extract", rows, **knobs))
    return survey_delivery(delivery, gate or _Open(), lambda file, count: None)


def _find(survey: Survey, limits: Limits = LIMITS) -> list[Finding]:
    return find(survey, plan_days(survey, limits), limits)


def _set(file: str, **values: Any) -> Callable[[Rows], None]:
    return lambda rows: [row.update(values) for row in rows[file]]  # type: ignore[return-value]


def _set_first(file: str, **values: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[file][0].update(values)


def _drop(*files: str) -> Callable[[Rows], None]:
    return lambda rows: [rows.pop(file) for file in files]  # type: ignore[return-value]


def _keep_course(file: str, module: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[file] = [row for row in rows[file] if row["code_module"] == module]

    return change


def _both(*changes: Callable[[Rows], None]) -> Callable[[Rows], None]:
    return lambda rows: [change(rows) for change in changes]  # type: ignore[return-value]


def test_an_extract_with_everything_is_ready(tmp_path: Path) -> None:
    survey = _survey(tmp_path, _ready())
    assert refuse(survey) == []
    findings = _find(survey)
    assert {f.can for f in findings} == {"yes"}
    assert plan_days(survey, LIMITS) == Calendar(DELIVERED, None, 6, 6)
    said = {f.subject: f.sentence for f in findings}
    assert said["records"] == "all 56 records can be loaded"
    assert said["outcomes"] == "all 6 enrollments in courses that had ended have a final_result"
    assert said["risk levels"] == "on 2026-01-15, for at most 6 of 6 enrollments"


# what is changed, whether it can be computed, the subject, what is said; all other findings stay "yes"
_LIMITED: dict[str, tuple[Callable[[Rows], None], str, str, str]] = {
    "a bad value": (
        _set_first("studentAssessment.csv", score="many"), "partly", "records", "1 of 56 records would go to raw/quarantine"),
    "no registration date": (
        _set_first("studentRegistration.csv", date_registration="?"), "partly", "cohorts", "1 of 12 enrollments have no date_registration"),
    "no registration record": (
        lambda rows: rows["studentRegistration.csv"].pop(), "partly", "cohorts", "1 of 12 enrollments have no date_registration"),
    "a derived start": (
        _both(_set_first("courses.csv", presentation_starts_on=""),
              lambda rows: [row.update(clicked_at="2025-10-03T10:00:00Z") for row in rows["studentVle.csv"][:6]]), "partly", "first days", "1 of 2 courses come without presentation_starts_on"),
    "a course without clicks": (
        _keep_course("studentVle.csv", "BBB"), "partly", "activity", "1 of 2 courses have no click row: their students are not taken"),
    "no time at all": (
        _set("studentVle.csv", clicked_at=""), "no", "time of day", "no click row has a clicked_at: sessions, logins"),
    "some times": (
        _set_first("studentVle.csv", clicked_at=""), "partly", "time of day", "1 of 12 click rows have no clicked_at"),
    "no sites": (
        _drop("vle.csv"), "no", "kinds of material", "vle.csv was not delivered: every click counts as `other`"),
    "a site that is not listed": (
        _set_first("studentVle.csv", id_site=77), "partly", "kinds of material",
        "1 of 12 click rows are on sites that vle.csv does not list for their course"),
    "a site of another course": (
        _set_first("studentVle.csv", id_site=1), "partly", "kinds of material", "1 of 12 click rows are on sites"),
    "a list of no site": (
        lambda rows: rows["vle.csv"].clear(), "partly", "kinds of material", "12 of 12 click rows are on sites"),
    "no assessments": (
        lambda rows: (rows["assessments.csv"].clear(), rows["studentAssessment.csv"].clear()), "no", "deadlines",
        "assessments.csv has no assessment beside exams: nothing is ever due"),
    "a course without assessments": (
        _both(_keep_course("assessments.csv", "BBB"), lambda rows: rows.update({"studentAssessment.csv": rows["studentAssessment.csv"][6:]})),
        "partly", "deadlines", "1 of 2 courses have no assessment (AAA-2025J)"),
    "an undated assessment": (
        _set_first("assessments.csv", date=""), "partly", "deadlines",
        "1 of 2 assessments, exams aside, have no date and are due on the last day"),
    "no submissions": (
        _drop("studentAssessment.csv"), "no", "submissions and scores",
        "studentAssessment.csv was not delivered: no assessment is ever due"),
    "an unmarked submission": (
        _set_first("studentAssessment.csv", score=""), "partly", "submissions and scores", "1 of 12 submissions have no score"),
    "an outcome missing after the end": (
        _set_first("studentInfo.csv", final_result=""), "partly", "outcomes", "1 of 6 enrollments in courses that had ended"),
    "no outcome after the end": (
        _set("studentInfo.csv", final_result=""), "no", "outcomes", "6 of 6 enrollments in courses that had ended"),
    "a region that no hierarchy lists": (
        _set_first("studentInfo.csv", region="Atlantis"), "partly", "demographics", "published as * (rows): region (1)"),
    "demographics left empty": (
        _set("studentInfo.csv", **dict.fromkeys(DEMOGRAPHICS, "?")), "no", "demographics", "none are delivered, and all are published as unknown"),
    "no column of demographics": (
        lambda rows: [row.pop(name) for row in rows["studentInfo.csv"] for name in DEMOGRAPHICS], "no", "demographics",
        "none are delivered, and all are published as unknown; levels need none"),
    "ages in years beside an empty column": (
        _set("studentInfo.csv", age_band="25", imd_band=""), "partly", "demographics",
        "published as * (rows): age_band (12); empty ones are published as unknown: imd_band (12)"),
    "a small course": (
        lambda rows: [row.update(date_registration="400") for row in rows["studentRegistration.csv"][:4]], "partly", "publication",
        "1 of 2 courses never have 3 students at once (privacy.k) and are withheld from everything past the wall (AAA-2025J)"),
}  # fmt: skip


@pytest.mark.parametrize("name", _LIMITED)
def test_a_finding_is_shown_by_its_extract_and_by_no_other(tmp_path: Path, name: str) -> None:
    change, can, subject, sentence = _LIMITED[name]
    rows = _ready()
    change(rows)
    findings = _find(_survey(tmp_path, rows))
    consequences = {"submissions and scores"} if name == "no assessments" else set()
    limited = [f for f in findings if f.can != "yes" and f.subject not in consequences]
    assert [(f.can, f.subject) for f in limited] == [(can, subject)]
    assert sentence in limited[0].sentence


def test_without_clicks_every_level_is_unknown(tmp_path: Path) -> None:
    rows = _ready()
    del rows["studentVle.csv"]
    survey = _survey(tmp_path, rows)
    said = {f.subject: (f.can, f.sentence) for f in _find(survey)}
    assert said["activity"][0] == "no" and "every risk level will be UNKNOWN" in said["activity"][1]
    assert said["risk levels"] == (
        "no", "on 2026-01-15 at most 0 enrollments would have the activity data that a level needs, and a first model needs 4: "
        "every level will be UNKNOWN, unless a model was promoted before")  # fmt: skip
    assert "time of day" not in said


def test_a_code_without_a_start_costs_its_course_and_says_so(tmp_path: Path) -> None:
    rows = _ready()
    for file in rows:
        for row in rows[file]:
            if row.get("code_module") == "AAA":
                row["code_presentation"] = "autumn"
    rows["courses.csv"][0]["presentation_starts_on"] = ""
    survey = _survey(tmp_path, rows)
    first = survey.broken[0]
    assert (first.file, first.column, first.rule, first.rows, first.first_rows, first.masked_value) == (
        "courses.csv", "code_presentation", "no start of the presentation", 1, [1], "aaaaaa")  # fmt: skip
    [said] = [f for f in _find(survey) if f.subject == "first days"]
    assert said.can == "partly" and said.sentence.startswith("1 course left out, with all records that refer to them")


def test_broken_rules_are_counted_by_column_with_their_first_records(tmp_path: Path) -> None:
    rows = _ready()
    for number in (1, 3, 5, 7):
        rows["studentVle.csv"][number]["sum_click"] = f"secret{number}"
    rows["studentVle.csv"][2]["id_student"] = "zq-stranger"
    survey = _survey(tmp_path, rows)
    many, one = survey.broken
    assert (many.column, many.rule, many.rows, many.first_rows) == ("sum_click", "text in a number", 4, [2, 4, 6])
    assert (one.column, one.rule, one.rows, one.first_rows) == ("id_student", "unknown student of that course", 1, [3])
    assert survey.files[-1] == FileCount("studentVle.csv", False, 12, 7, 5)
    said = f"{survey.broken}{survey.suites}{_find(survey)}{refuse(survey)}"
    assert "secret" not in said and "zq-" not in said


def test_of_a_table_without_key_the_gate_sees_distinct_tuples(tmp_path: Path) -> None:
    gate = _Open()
    survey = _survey(tmp_path, _ready(), gate)
    assert survey.courses[0].click_rows == 6
    assert sorted(gate.seen["oulad_student_vle"].to_pylist(), key=str) == [
        {"code_module": "AAA", "date": 2, "sum_click": 3}, {"code_module": "BBB", "date": 2, "sum_click": 3}]  # fmt: skip
    assert len(gate.seen["oulad_student_info"]) == 12


def test_an_absent_optional_file_is_judged_as_an_empty_table(tmp_path: Path) -> None:
    gate, rows = _Open(), _ready()
    del rows["vle.csv"]
    _survey(tmp_path, rows, gate)
    assert len(gate.seen["oulad_vle"]) == 0 and len(gate.seen) == len(SHAPES)


def test_an_increment_is_not_judged_by_what_it_leaves_out(tmp_path: Path) -> None:
    gate, rows = _Open(), _ready()
    del rows["vle.csv"], rows["assessments.csv"], rows["studentAssessment.csv"]
    rows["studentVle.csv"].clear()
    survey = _survey(tmp_path, rows, gate, scope="increment")
    assert set(gate.seen) == {"oulad_courses", "oulad_student_info", "oulad_student_registration"}
    assert [(f.can, f.subject) for f in _find(survey)] == [("yes", "records"), ("partly", "increment")]
    assert refuse(survey) == []


# -- refused -------------------------------------------------------------------------------------------


def test_header_lines_alone_are_no_rows_yet(tmp_path: Path) -> None:
    survey = _survey(tmp_path, {shape.name: [] for shape in SHAPES})
    survey.suites["courses.csv"] = ("expect rows: found 0 rows",)
    assert refuse(survey) == [
        "there are no rows yet: courses.csv, studentInfo.csv, studentRegistration.csv hold a header line and no record; "
        "fill in a record per line"
    ]


def test_a_file_that_goes_to_quarantine_whole_is_named_so(tmp_path: Path) -> None:
    rows = _ready()
    _set("courses.csv", module_presentation_length="long")(rows)
    survey = _survey(tmp_path, rows)
    survey.suites["courses.csv"] = ("expect rows: found 0 rows",)
    assert refuse(survey) == ["courses.csv: all 2 records would go to quarantine, so nothing is left to load"]


def test_a_broken_suite_refuses_with_its_sentence() -> None:
    survey = Survey(DELIVERED, True, files=[FileCount("vle.csv", False, 2, 2, 0)], suites={"vle.csv": ("one", "two")})
    assert refuse(survey) == [
        "vle.csv as a whole breaks a rule of expectations/raw: one",
        "vle.csv as a whole breaks a rule of expectations/raw: two",
    ]


# -- days ----------------------------------------------------------------------------------------------


def _register(*days: tuple[object, object]) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row, (begin, end) in zip(rows["studentRegistration.csv"], days, strict=False):
            row.update(date_registration=begin, date_unregistration=end)

    return change


def test_a_cohort_is_who_registered_and_did_not_leave_by_the_end_of_the_day(tmp_path: Path) -> None:
    rows, moves = _ready(), [(-10, ""), (-10, 0), (0, 5), (5, 5), (7, 3), ("", 3)]
    _register(*moves)(rows)
    course = next(c for c in _survey(tmp_path, rows).courses if c.course_id == "AAA-2025J")
    expected = {
        START + timedelta(days=day): sum(
            begin != "" and begin <= day and (end == "" or end > day)
            for begin, end in moves  # type: ignore[operator]
        )
        for day in range(101)
    }
    assert course.sizes() == expected
    assert (expected[START], expected[START + timedelta(days=7)], course.ends_on) == (2, 1, date(2026, 1, 14))


def _course(starts_on: date, length: int = 100, *, first_click: int | None = 0, size: int = 6) -> Course:
    course = Course("AAA-2025J", starts_on, True, length, first_click_day=first_click)
    course.moves[-5] = size
    return course


def _plan(*courses: Course, delivered_on: date = DELIVERED, limits: Limits = LIMITS) -> Calendar:
    return plan_days(Survey(delivered_on, True, courses=list(courses)), limits)


def test_the_day_of_delivery_is_tried_first_while_courses_run() -> None:
    assert _plan(_course(START, 200)) == Calendar(DELIVERED, None, 6, 6)
    assert _plan(_course(START, 200), delivered_on=date(2025, 12, 24)).as_of_on == date(2025, 12, 24)


def test_of_a_course_that_began_after_the_delivery_a_day_that_has_come_is_tried() -> None:
    assert _plan(_course(date(2026, 1, 17), first_click=None)).as_of_on == LIMITS.today


def test_of_ended_courses_the_middle_with_most_enrollments_is_tried() -> None:
    early, late = _course(date(2024, 2, 1)), _course(date(2025, 2, 1), size=9)
    assert _plan(early, late).as_of_on == date(2025, 5, 12) == late.ends_on
    assert _plan(early, late).scorable == 9


def test_an_early_day_is_not_tried_although_more_were_there_then() -> None:
    course = _course(date(2025, 2, 1))
    course.moves[20] = -2
    assert _plan(course).as_of_on == course.ends_on and _plan(course).scorable == 4


def test_a_course_without_clicks_is_tried_only_where_none_has_any() -> None:
    dark = _course(date(2025, 2, 1), first_click=None, size=90)
    assert _plan(_course(date(2024, 2, 1)), dark).as_of_on == date(2024, 5, 11)
    assert _plan(dark).as_of_on == date(2025, 5, 12) and _plan(dark).scorable == 0


def test_the_first_week_can_not_be_scored() -> None:
    assert _plan(_course(DELIVERED - timedelta(days=6))).scorable == 0
    assert _plan(_course(DELIVERED - timedelta(days=7))).scorable == 6


def test_a_day_before_the_first_partition_is_not_tried() -> None:
    assert _plan(_course(date(2012, 1, 1))).as_of_on is None


def test_courses_to_come_are_named_with_their_first_day() -> None:
    survey = Survey(DELIVERED, True, courses=[_course(date(2026, 2, 2))])
    calendar = plan_days(survey, LIMITS)
    assert calendar == Calendar(None, date(2026, 2, 2), 0, 0)
    [said] = [f for f in find(survey, calendar, LIMITS) if f.subject == "risk levels"]
    assert said.sentence == (
        "no day from 2013-01-01 (institution.first_as_of) through today, 2026-01-20, finds a course with 3 students; "
        "the first day that does is 2026-02-02"
    )


def test_a_course_under_k_gives_no_day() -> None:
    assert _plan(_course(START, size=2)).as_of_on is None
    assert _plan(_course(START, size=3)).as_of_on is not None
