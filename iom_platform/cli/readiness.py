"""`iom template` and `iom check`: files to fill in, and what an extract is good for before any of it is landed.

Nothing here starts a server, opens the warehouse or makes the home; what can be computed is said in `readiness.py`.
"""

import shlex
import sys
import time
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from iom_platform.cli.runs import UsageError, check_day, show_command
from iom_platform.flow.clock import today
from iom_platform.settings import Settings, load_settings
from iom_platform.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from iom_platform.extract.source import Source
    from iom_platform.readiness import Calendar, Finding, Limits, Survey

REFUSED = 4
_COURSES_SHOWN = 25
_RULES_SHOWN = 20
_SECONDS_BETWEEN = 5.0
_ROWS_BEFORE = 200_000
_MARKS = {"yes": "yes   ", "partly": "partly", "no": "no    "}
_NOT_LOOKED_AT = """\
Not looked at, for nothing is opened: what has landed before. A run also refuses a course that another source
has delivered, and bytes that have landed before with another day or scope; and it tests each later table."""


class _Suites:
    """The suites under expectations/raw, as a run holds them against a delivery."""

    @cache  # noqa: B019 - one object per command
    def _suite(self, path: str) -> dict[str, Any]:
        from iom_platform.storage.expectations import load_suite

        return load_suite(path)

    def columns(self, table: Table) -> tuple[str, ...]:
        from iom_platform.storage.expectations import suite_columns

        return suite_columns(self._suite(table.path)) or table.column_names

    def judge(self, table: Table, rows: "pa.Table") -> tuple[str, ...]:
        from iom_platform.storage.expectations import validate_frame
        from iom_platform.storage.session import frame_of

        return validate_frame(self._suite(table.path), frame_of(rows)).failed


class _Progress:
    """Tells on stderr how far a long reading is."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, file: str, rows: int) -> None:
        if rows >= _ROWS_BEFORE and time.monotonic() - self._told_at >= _SECONDS_BETWEEN:
            self._told_at = time.monotonic()
            print(f"  {file}: {rows:,} records read ...", file=sys.stderr)


def _find_source(name: str) -> "Source":
    from iom_platform.extract import SOURCES

    if name not in SOURCES:
        raise UsageError(f"unknown source {name!r}; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def _limits(settings: Settings) -> "Limits":
    from iom_platform.clustering.selection import list_candidates
    from iom_platform.clustering.training import ROWS_PER_CLUSTER, least_clusters
    from iom_platform.readiness import Limits
    from iom_platform.risk import WARM_UP_DAYS

    asked = settings.clustering
    fits = list_candidates(asked.algorithm, asked.candidates, asked.n_clusters_range, asked.knobs)
    return Limits(
        today=today(settings),
        first_as_of=settings.institution.first_as_of,
        k=settings.privacy.k,
        rows_to_fit=ROWS_PER_CLUSTER * min(least_clusters(params) for params in fits),
        warm_up_days=WARM_UP_DAYS,
    )


def _command(verb: str, source: str, path: Path, delivered_on: date | None, as_of_on: date | None = None) -> str:
    day = f" --delivered-on {delivered_on}" if delivered_on else ""
    as_of = f" --as-of {as_of_on}" if as_of_on else ""
    return f"{show_command()} {verb} --source {source} --path {shlex.quote(str(path))}{day}{as_of}"


def check_delivery(source: str, path: Path, *, delivered_on: date | None) -> None:
    """Print what a run would make of the delivery at `path`; exit code 4 where it would be refused."""
    from iom_platform.extract.source import DeliveryRefused
    from iom_platform.extract.survey import survey_delivery
    from iom_platform.readiness import find, plan_days, refuse

    opener, settings = _find_source(source), load_settings()
    again = _command("check", source, path, delivered_on)
    try:
        print(f"Reading {path} ...", file=sys.stderr)
        delivery = opener.open_delivery(path, delivered_on=delivered_on)
        check_day(settings, "day of delivery", delivery.delivered_on)
        print(f"Source {source}, delivered on {delivery.delivered_on}, scope {delivery.scope}.")
        for notice in delivery.notices:
            print(f"  note: {notice}")
        survey = survey_delivery(delivery, _Suites(), _Progress())
    except DeliveryRefused as error:
        if not path.exists():  # the path is the mistake, so the same command again is no advice
            raise
        _refuse(source, [str(error)], again)
    _print_files(survey)
    _print_broken(survey)
    reasons = refuse(survey)
    if reasons:
        _refuse(source, reasons, again)
    limits = _limits(settings)
    calendar = plan_days(survey, limits)
    findings = find(survey, calendar, limits)
    _print_courses(survey, limits)
    print("\nWhat can be computed:")
    for finding in findings:
        print(f"  {_MARKS[finding.can]}  {finding.subject}: {finding.sentence}.")
    _print_verdict(findings, calendar, _command("run", source, path, delivered_on, calendar.as_of_on))


def _refuse(source: str, reasons: list[str], again: str) -> NoReturn:
    print("\nNot ready: this delivery would be refused.")
    for reason in reasons:
        print(f"  {reason.rstrip('.')}.")
    print(
        f"\nNext: mend that, and check again:\n  {again}\n"
        f"`{show_command()} template --source {source} --out DIR` writes each file's header and says what belongs in it."
    )
    raise typer.Exit(REFUSED)


def _print_files(survey: "Survey") -> None:
    print(f"\n{'file':<26}{'landed':>12}{'would load':>12}{'quarantine':>12}")
    for file in survey.files:
        print(f"{file.name:<26}{file.landed:>12,}{file.loaded:>12,}{file.quarantined:>12,}")
    for name in survey.missing:
        print(f"{name:<26}{'not delivered':>24}")


def _print_broken(survey: "Survey") -> None:
    if not survey.broken:
        return
    print(
        "\nRecords that would go to quarantine, by the rule that they break. Record 1 follows the header; a value is shown as its"
    )
    print(
        "shape, letters as a and digits as 9. Mend from the top: what refers to a record in quarantine goes there too."
    )
    for rule in survey.broken[:_RULES_SHOWN]:
        numbers = ", ".join(map(str, rule.first_rows)) + (", ..." if rule.rows > len(rule.first_rows) else "")
        shape = f", the first like {rule.masked_value}" if rule.masked_value and rule.column else ""
        where = f"{rule.file}, {rule.column}" if rule.column else rule.file
        records = "record" if rule.rows == 1 else "records"
        print(f"  {where}: {rule.rule}\n    {rule.rows:,} {records}: {numbers}{shape}; {rule.remedy}.")
    if len(survey.broken) > _RULES_SHOWN:
        print(f"  ... and {len(survey.broken) - _RULES_SHOWN} more rules.")


def _print_courses(survey: "Survey", limits: "Limits") -> None:
    if not survey.courses:
        return
    print(
        f"\n{'course':<16}{'starts on':<13}{'enrolled':>9}  {'as-of days with a cohort':<26}{'cohort mid-term':>22}{'today':>8}"
    )
    for course in survey.courses[-_COURSES_SHOWN:]:
        sizes = course.sizes()
        days = [day for day, size in sizes.items() if size]
        running = f"{days[0]} to {days[-1]}" if days else "none"
        middle = f"{course.middle_on}: {sizes[course.middle_on]:,}"
        now = f"{sizes[limits.today]:,}" if limits.today in sizes else "-"
        start = f"{'' if course.is_start_delivered else '~'}{course.starts_on}"
        print(f"{course.course_id:<16}{start:<13}{course.enrollments:>9,}  {running:<26}{middle:>22}{now:>8}")
    if len(survey.courses) > _COURSES_SHOWN:
        print(f"... and {len(survey.courses) - _COURSES_SHOWN} that start earlier.")
    notes = ["~ first day taken from the code"] * any(not c.is_start_delivered for c in survey.courses)
    notes += ["- does not run today"] * any(not c.starts_on <= limits.today <= c.ends_on for c in survey.courses)
    if notes:
        print("; ".join(notes))


def _print_verdict(findings: "list[Finding]", calendar: "Calendar", command: str) -> None:
    limited = [f.subject for f in findings if f.can != "yes"]
    print(f"\n{_NOT_LOOKED_AT}\n")
    if limited:
        print(f"Ready with limits: {', '.join(dict.fromkeys(limited))}.")
    else:
        print("Ready.")
    if calendar.as_of_on is None:
        print("It would land, and today there is nobody to score.")
    print(f"Next:\n  {command}")


def write_template(source: str, out: Path) -> None:
    """Write the files of a source with their header lines, and what belongs in them."""
    from iom_platform.extract.template import write_files

    opener, settings = _find_source(source), load_settings()
    written = write_files(out, opener, delivered_on=today(settings))
    print(f"{', '.join(written)} written to {out}; README.md says what belongs in each column.")
    print(f"Next: fill them in, then\n  {_command('check', source, out, None)}")
