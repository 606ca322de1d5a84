"""The Open University Learning Analytics Dataset: its seven files, their columns and domains, and its source.

The twin (`synthetic`) delivers the same files with two more columns and is read by the same class.
Parsing and validation do not belong here.
"""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from iom_platform import tables
from iom_platform.extract.delivery import open_path
from iom_platform.extract.source import Delivery, Field, FileShape
from iom_platform.tables import Table

# Kuzilek, Hlosta, Zdrahal: Scientific Data 4:170171, published on this day; the dataset's files carry no date
OULAD_PUBLISHED_ON = date(2017, 11, 28)
FIRST_DAY, LAST_DAY = -1000, 2000
_START_MONTHS = {"B": 2, "J": 10}
_DERIVABLE = re.compile(r"(19\d\d|20\d\d|21\d\d)([BJ])", re.ASCII)


def presentation_start(code_presentation: str) -> date | None:
    """The approximate first day: 1 February for a code like 2013B, 1 October for 2013J, else None.

    The Open University gives only the month; the true first day may lie some days away.
    """
    match = _DERIVABLE.fullmatch(code_presentation)
    return date(int(match[1]), _START_MONTHS[match[2]], 1) if match else None


def _fields(table: Table, *names: str, **knobs: dict[str, Any]) -> tuple[Field, ...]:
    """Fields in the delivered order; `knobs` holds the domain of a field by its name."""
    columns = {column.name: column for column in table.columns}
    renamed = {"id_student": "student_pseudonym"}
    return tuple(Field(name, columns[renamed.get(name, name)], **knobs.get(name, {})) for name in names)


_OPTIONAL: dict[str, Any] = {"is_optional": True}
_DAY: dict[str, Any] = {"minimum": FIRST_DAY, "maximum": LAST_DAY}
_COUNT: dict[str, Any] = {"minimum": 0}
_AT_LEAST_ONE: dict[str, Any] = {"minimum": 1}
_PERCENT: dict[str, Any] = {"minimum": 0, "maximum": 100}
# a course id joins the two codes with a hyphen, so one of them must be without
_PRESENTATION: dict[str, Any] = {"pattern": re.compile(r"[^-]+"), "pattern_words": "a code without a hyphen"}

SHAPES: tuple[FileShape, ...] = (
    FileShape(
        "courses.csv", tables.OULAD_COURSES, is_required=True, provides="course",
        fields=_fields(tables.OULAD_COURSES,
                       "code_module", "code_presentation", "module_presentation_length", "presentation_starts_on",
                       code_presentation=_PRESENTATION,
                       module_presentation_length={"minimum": 1, "maximum": LAST_DAY},
                       presentation_starts_on=_OPTIONAL)),
    FileShape(
        "assessments.csv", tables.OULAD_ASSESSMENTS, refers="course", provides="assessment",
        fields=_fields(tables.OULAD_ASSESSMENTS,
                       "code_module", "code_presentation", "id_assessment", "assessment_type", "date", "weight",
                       assessment_type={"allowed": ("TMA", "CMA", "Exam")}, date=_DAY, weight=_PERCENT)),
    FileShape(
        "vle.csv", tables.OULAD_VLE, refers="course",
        fields=_fields(tables.OULAD_VLE,
                       "id_site", "code_module", "code_presentation", "activity_type", "week_from", "week_to")),
    FileShape(
        "studentInfo.csv", tables.OULAD_STUDENT_INFO, is_required=True, refers="course", provides="enrollment",
        fields=_fields(tables.OULAD_STUDENT_INFO,
                       "code_module", "code_presentation", "id_student", "gender", "region", "highest_education",
                       "imd_band", "age_band", "num_of_prev_attempts", "studied_credits", "disability", "final_result",
                       gender=_OPTIONAL, region=_OPTIONAL, highest_education=_OPTIONAL, imd_band=_OPTIONAL,
                       age_band=_OPTIONAL, disability={"allowed": ("Y", "N"), **_OPTIONAL},
                       num_of_prev_attempts=_COUNT, studied_credits=_COUNT,
                       final_result={"allowed": ("Pass", "Fail", "Withdrawn", "Distinction")}),
        note="Levels never use demographics: the optional columns serve only the generalized columns of "
             "`anonymized/*`, and `disability` not even those. Leave away what you cannot justify, whole columns or "
             "single values: it is published as `unknown` or `*`, and the levels are the same."),
    FileShape(
        "studentRegistration.csv", tables.OULAD_STUDENT_REGISTRATION, is_required=True, refers="enrollment",
        fields=_fields(tables.OULAD_STUDENT_REGISTRATION,
                       "code_module", "code_presentation", "id_student", "date_registration", "date_unregistration",
                       date_registration=_DAY, date_unregistration=_DAY)),
    FileShape(
        "studentAssessment.csv", tables.OULAD_STUDENT_ASSESSMENT, refers="assessment", event_day="date_submitted",
        fields=_fields(tables.OULAD_STUDENT_ASSESSMENT,
                       "id_assessment", "id_student", "date_submitted", "is_banked", "score",
                       date_submitted=_DAY, score=_PERCENT)),
    FileShape(
        "studentVle.csv", tables.OULAD_STUDENT_VLE, refers="enrollment", event_day="date",
        fields=_fields(tables.OULAD_STUDENT_VLE,
                       "code_module", "code_presentation", "id_student", "id_site", "date", "sum_click", "clicked_at",
                       date=_DAY, sum_click=_AT_LEAST_ONE, clicked_at=_OPTIONAL)),
)  # fmt: skip


@dataclass(frozen=True)
class OuladSource:
    """A source that delivers the seven files; `default_delivered_on` serves a dataset that was published once."""

    name: str
    default_delivered_on: date | None = None
    shapes: tuple[FileShape, ...] = SHAPES

    def open_delivery(self, path: Path, *, delivered_on: date | None = None) -> Delivery:
        """The delivery in the folder or .zip `path`; see `extract/delivery.py` for how its day is found."""
        return open_path(
            path, source=self.name, shapes=self.shapes, delivered_on=delivered_on, default_on=self.default_delivered_on
        )
