"""Reads a whole delivery as a landing would and keeps only counts: nothing is written, and its pseudonyms are thrown away.

What the counts mean belongs to `iom_platform.readiness`. Import this module where it is used, for it imports pyarrow.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from iom_platform.extract.landing import NO_START, Landing, arrow_schema
from iom_platform.extract.oulad import presentation_start
from iom_platform.extract.source import DeliveredFile, Delivery
from iom_platform.privacy.kanonymity import GENERALIZED, HIERARCHIES
from iom_platform.privacy.pseudonyms import KEY_BYTES
from iom_platform.readiness import BrokenRule, Course, FileCount, Survey
from iom_platform.tables import (
    OULAD_ASSESSMENTS,
    OULAD_COURSES,
    OULAD_STUDENT_ASSESSMENT,
    OULAD_STUDENT_INFO,
    OULAD_STUDENT_REGISTRATION,
    OULAD_STUDENT_VLE,
    OULAD_TABLES,
    OULAD_VLE,
    Table,
)

_ROWS_SHOWN = 3
_COURSE = ["code_module", "code_presentation"]


@dataclass
class _Known:
    """What the files read so far describe: courses by their two codes, and the sites of each."""

    courses: dict[tuple[str, str], Course] = field(default_factory=dict)
    sites: pa.Table = field(default_factory=arrow_schema(OULAD_VLE).empty_table)


class Gate(Protocol):
    """What decides whether a delivery's rows are accepted."""

    def columns(self, table: Table) -> tuple[str, ...]:
        """The columns of a raw table that it looks at."""
        ...

    def judge(self, table: Table, rows: pa.Table) -> tuple[str, ...]:
        """A sentence for each rule that the rows break; of a table without key these are distinct tuples."""
        ...


def survey_delivery(delivery: Delivery, gate: Gate, on_rows: Callable[[str, int], object]) -> Survey:
    """The counts of a delivery; memory is bounded but for the rows of one keyed file, which the gate sees whole.

    `on_rows` gets a file's name and the number of its records read so far, every now and then. Raises DeliveryRefused.
    """
    landing = Landing(delivery, secrets.token_bytes(KEY_BYTES))
    survey = Survey(delivery.delivered_on, delivery.scope == "full", delivery.missing)
    known = _Known()
    landed = set()
    for file in delivery.files:
        rows = _read(landing, file, survey, known, gate.columns(file.table), on_rows)
        tally = landing.tallies[file.name]
        survey.files.append(FileCount(file.name, file.shape.is_required, tally.landed, tally.loaded, tally.quarantined))
        if tally.landed:
            landed.add(file.table)
        if tally.landed or survey.is_full:
            _judge(survey, gate, file.name, file.table, rows)
    for table in OULAD_TABLES:
        if survey.is_full and table not in {file.table for file in delivery.files}:
            _judge(survey, gate, table.path, table, arrow_schema(table).empty_table().select(gate.columns(table)))
    survey.courses = sorted(known.courses.values(), key=lambda c: (c.starts_on, c.course_id))
    return survey


def _judge(survey: Survey, gate: Gate, name: str, table: Table, rows: pa.Table) -> None:
    broken = gate.judge(table, rows)
    if broken:
        survey.suites[name] = broken


def _read(
    landing: Landing, file: DeliveredFile, survey: Survey, known: _Known, columns: tuple[str, ...],
    on_rows: Callable[[str, int], object],
) -> pa.Table:  # fmt: skip
    """The file's rows in the columns that the gate looks at; a table without key may be huge, and is kept distinct."""
    kept = arrow_schema(file.table).empty_table().select(columns)
    rules: dict[tuple[str | None, str], BrokenRule] = {}
    note, rows = _NOTES.get(file.table), 0
    for batch in landing.read(file):
        loaded = pa.Table.from_batches([batch.rows])
        if note is not None:
            note(loaded, survey, known)
        kept = pa.concat_tables([kept, loaded.select(columns)])
        if not file.table.key:
            kept = kept.group_by(list(columns)).aggregate([])
        _note_broken(batch.quarantine, rules)
        rows += len(batch.rows) + len(batch.quarantine)
        on_rows(file.name, rows)
    survey.broken += sorted(rules.values(), key=lambda rule: -rule.rows)
    survey.startless_courses += sum(r.rows for r in rules.values() if r.rule == NO_START.rule)
    return kept


def _note_broken(quarantine: pa.RecordBatch, rules: dict[tuple[str | None, str], BrokenRule]) -> None:
    for row in quarantine.to_pylist():
        rule = rules.setdefault((row["column_name"], row["rule"]), BrokenRule(
            row["file_name"], row["column_name"], row["rule"], row["remedy"], row["masked_value"]))  # fmt: skip
        rule.rows += 1
        if len(rule.first_rows) < _ROWS_SHOWN:
            rule.first_rows.append(row["file_row"])


def _by_course(rows: pa.Table, known: _Known, *figures: tuple[str, str]) -> list[tuple[Course, dict[str, Any]]]:
    """Figures per course that the delivery itself describes; an increment may refer to others."""
    groups = rows.group_by(_COURSE).aggregate([([], "count_all"), *figures]).to_pylist()
    found = [(known.courses.get((group["code_module"], group["code_presentation"])), group) for group in groups]
    return [(course, group) for course, group in found if course is not None]


def _note_courses(rows: pa.Table, survey: Survey, known: _Known) -> None:
    for row in rows.to_pylist():
        module, presentation = row["code_module"], row["code_presentation"]
        start = row["presentation_starts_on"] or presentation_start(presentation)
        assert start is not None  # a row without either is in quarantine
        known.courses[module, presentation] = Course(
            f"{module}-{presentation}", start, row["presentation_starts_on"] is not None, row["module_presentation_length"]
        )  # fmt: skip


def _note_assessments(rows: pa.Table, survey: Survey, known: _Known) -> None:
    term = rows.filter(pc.not_equal(rows["assessment_type"], "Exam"))
    for course, group in _by_course(term, known, ("date", "count")):
        course.assessments += group["count_all"]
        course.dated_assessments += group["date_count"]


def _note_sites(rows: pa.Table, survey: Survey, known: _Known) -> None:
    known.sites = pa.concat_tables([known.sites, rows])


def _note_enrollments(rows: pa.Table, survey: Survey, known: _Known) -> None:
    survey.enrollments += len(rows)
    for course, group in _by_course(rows, known, ("final_result", "count")):
        course.enrollments += group["count_all"]
        course.unknown_outcomes += group["count_all"] - group["final_result_count"]
    for name in GENERALIZED:
        values = rows[name].drop_null()
        listed = pc.sum(pc.is_in(values, pa.array(list(HIERARCHIES[name]), pa.string()))).as_py() or 0
        survey.unlisted[name] = survey.unlisted.get(name, 0) + len(values) - listed
        survey.empty[name] = survey.empty.get(name, 0) + rows[name].null_count


def _note_registrations(rows: pa.Table, survey: Survey, known: _Known) -> None:
    days = ["date_registration", "date_unregistration"]
    for group in rows.group_by([*_COURSE, *days]).aggregate([([], "count_all")]).to_pylist():
        course = known.courses.get((group["code_module"], group["code_presentation"]))
        begin, end, count = group[days[0]], group[days[1]], group["count_all"]
        if course is None or begin is None:
            continue
        course.dated_registrations += count
        if end is None or end > begin:
            course.moves[begin] += count
            if end is not None:
                course.moves[end] -= count


def _note_submissions(rows: pa.Table, survey: Survey, known: _Known) -> None:
    survey.submissions += len(rows)
    survey.unmarked_submissions += rows["score"].null_count


def _note_clicks(rows: pa.Table, survey: Survey, known: _Known) -> None:
    for course, group in _by_course(rows, known, ("date", "min"), ("clicked_at", "count")):
        course.click_rows += group["count_all"]
        course.timed_click_rows += group["clicked_at_count"]
        first = course.first_click_day
        course.first_click_day = group["date_min"] if first is None else min(first, group["date_min"])
    place = pc.index_in(rows["id_site"], known.sites["id_site"].combine_chunks())
    listed = [pc.equal(rows[name], known.sites[name].take(place)) for name in _COURSE]
    survey.unlisted_click_rows += len(rows) - (pc.sum(pc.and_(*listed)).as_py() or 0)


_NOTES: dict[Table, Callable[[pa.Table, Survey, _Known], None]] = {
    OULAD_COURSES: _note_courses,
    OULAD_ASSESSMENTS: _note_assessments,
    OULAD_VLE: _note_sites,
    OULAD_STUDENT_INFO: _note_enrollments,
    OULAD_STUDENT_REGISTRATION: _note_registrations,
    OULAD_STUDENT_ASSESSMENT: _note_submissions,
    OULAD_STUDENT_VLE: _note_clicks,
}
