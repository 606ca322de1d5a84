"""One HTML page from the frames of a scored day: no script, no network, everything escaped.

What a section counts belongs to the section's file; how it is worded to `templates/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from iom_platform.report import charts, clusters, comparison, deliveries, levels, measures, shares, stories
from iom_platform.risk import LEVELS
from iom_platform.tables import STALE_AFTER_DAYS

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

WEEK = timedelta(days=7)
INVENTED_SOURCE = "synthetic"
# the range over the dates of docs/validation.md of those who failed or withdrew
ELSEWHERE = {"HIGH": "41% to 99%", "LOW": "10% to 31%"}


@dataclass(frozen=True)
class ScoredDay:
    """What the report of a day is made of; frames hold the columns of their tables in tables.py, of that day alone.

    risk_before: of a week earlier; lineage: of every version; deliveries, files, quarantine: of the day's scope; champion: its row of
    clustering/promotions, None without a model; withheld_courses: None where it was not recorded; truth: of the twin,
    with pseudonyms, None where it is not known.
    """

    as_of_on: date
    k: int
    minimum_silhouette: float
    not_in_force: tuple[str, ...]
    risk: pd.DataFrame
    risk_before: pd.DataFrame
    terms: pd.DataFrame
    weeks: pd.DataFrame
    profiles: pd.DataFrame
    lineage: pd.DataFrame
    deliveries: pd.DataFrame
    files: pd.DataFrame
    quarantine: pd.DataFrame
    withheld_courses: int | None
    champion: Mapping[str, Any] | None
    metrics: Mapping[str, float]
    truth: pd.DataFrame | None


def render_page(day: ScoredDay) -> str:
    """The whole page; the same day gives the same bytes."""
    return _environment().get_template("page.html").render(_collect(day))


def _collect(day: ScoredDay) -> dict[str, Any]:
    courses = levels.count_levels(day.risk)
    delivered = deliveries.list_deliveries(day.deliveries, day.files)
    groups = clusters.describe_clusters(day.profiles, day.risk, day.weeks, day.lineage, k=day.k)
    told = stories.choose_stories(day.risk, day.risk_before, day.terms, day.weeks)
    return {
        "day": day,
        "invented": day.truth is not None or set(day.deliveries["source"]) == {INVENTED_SOURCE},
        "weekday": f"{day.as_of_on:%A}",
        "before_on": day.as_of_on - WEEK,
        "levels": LEVELS,
        "courses": courses,
        "total": levels.sum_levels(courses),
        "levels_chart": charts.draw_levels(courses) if courses else None,
        "movement": levels.measure_movement(day.risk, day.risk_before),
        "stories": [(story, charts.draw_story(story)) for story in told],
        "clusters": groups,
        "clusters_chart": charts.draw_clusters(groups.weeks),
        "unknown": levels.count_unknown(day.risk),
        "deliveries": delivered,
        "stale": deliveries.find_stale(delivered, day.as_of_on),
        "stale_after_days": STALE_AFTER_DAYS,
        "rejections": deliveries.list_rejections(day.quarantine),
        "measures": measures.explain_measures(day.metrics),
        **_compare(day),
    }


def _compare(day: ScoredDay) -> dict[str, Any]:
    if day.truth is None or day.risk.empty:
        return {"comparison": None, "elsewhere": ELSEWHERE}
    found = comparison.compare_flags(day.risk, day.terms, day.truth)
    return {"comparison": found, "summary": comparison.say_summary(found), "verdict": comparison.say_verdict(found)}


@cache
def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iom_platform.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "day": _say_day,
        "count": shares.count,
        "few": shares.few,
        "picture": lambda chart: Markup(chart.element),
    }
    return environment


def _say_day(day: date) -> str:
    return f"{day:%B} {day.day}, {day.year}"
