"""The report's charts: inline SVG without script or network, each with a sentence that says what it says.

What is counted belongs to the report's sections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from iom_platform.report.levels import CourseLevels
from iom_platform.report.stories import Story

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

# Okabe and Ito's palette, told apart by people with any color vision
LEVEL_COLORS = {"LOW": "#009E73", "MEDIUM": "#E69F00", "HIGH": "#D55E00", "UNKNOWN": "#BBBBBB"}
CLUSTER_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A6C00", "#000000")
INK, QUIET = "#1b1f24", "#4d5560"
WIDTH = 400  # narrow enough that the letters are still read where a phone shrinks the chart


@dataclass(frozen=True)
class Chart:
    """An SVG as Vega draws it, and the sentence that stands for it where it is not seen."""

    svg: str
    alternative: str

    @property
    def element(self) -> str:
        """The SVG as one image of the page, as wide as its place and at most a little over its own size.

        The parts that Vega names for screen readers lose their roles: an image has one name, and no parts.
        """
        _, _, drawing = self.svg.partition(">")
        drawing = re.sub("<[^>]*>", lambda tag: re.sub(r' (role|aria-[a-z]+)="[^"]*"', "", tag[0]), drawing)
        width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', self.svg)[0]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(self.alternative)}" style="max-width:{int(width) * 1.2:.0f}px">{drawing}'
        )


def _draw(chart: alt.TopLevelMixin, alternative: str) -> Chart:
    import altair as alt
    import vl_convert

    spec: dict[str, Any] = chart.to_dict()
    spec["config"] = {
        "font": "sans-serif", "background": "#ffffff", "view": {"stroke": None, "continuousWidth": WIDTH},
        "axis": {"labelFontSize": 13, "titleFontSize": 13, "labelColor": INK, "titleColor": INK, "titleFontWeight": "normal",
                 "gridColor": "#e3e6ea", "domainColor": QUIET, "tickColor": QUIET, "labelLimit": 150},
        "legend": {"orient": "top", "title": None, "labelFontSize": 13, "labelColor": INK, "symbolStrokeWidth": 2,
                   "symbolSize": 120, "columnPadding": 14},
    }  # fmt: skip
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return Chart(vl_convert.vegalite_to_svg(spec, vl_version=version), alternative)


def draw_levels(courses: tuple[CourseLevels, ...]) -> Chart:
    """Stacked bars of students per course and level, the numbers written into them."""
    import altair as alt
    import pandas as pd

    levels = ["HIGH", "MEDIUM", "LOW", "UNKNOWN"]  # HIGH stands on the common base, where lengths compare
    colors = [LEVEL_COLORS[level] for level in levels]
    rows = pd.DataFrame(
        [
            {"course": c.course_id, "level": level, "place": place, "students": c.counts[level],
             "middle": sum(c.counts[one] for one in levels[:place]) + c.counts[level] / 2}
            for c in courses for place, level in enumerate(levels)
        ]
    )  # fmt: skip
    widest = max(c.students for c in courses)
    y = alt.Y("course:N", title=None, sort=[c.course_id for c in courses])
    bars = alt.Chart(rows).mark_bar(stroke="#ffffff", strokeWidth=1.5, height=26).encode(
        y=y, x=alt.X("students:Q", title="students", stack="zero", axis=alt.Axis(tickMinStep=1, tickCount=5)),
        color=alt.Color("level:N", sort=levels, scale=alt.Scale(domain=levels, range=colors)),
        order="place:Q",
    )  # fmt: skip
    # a number stands only where it has room
    numbers = alt.Chart(rows[rows["students"] >= 0.06 * widest]).mark_text(fontSize=13, color="#000000").encode(
        y=y, x="middle:Q", text="students:Q"
    )  # fmt: skip
    said = "; ".join(f"{c.course_id}: " + ", ".join(f"{c.counts[n]} {n}" for n in levels) for c in courses)
    return _draw(
        (bars + numbers).properties(width=WIDTH, height=alt.Step(38)), f"Students per course and level. {said}."
    )


def draw_story(story: Story) -> Chart | None:
    """Active days per course week of one student, beside the middle student of the course; None without weeks."""
    import altair as alt

    weeks = story.weeks
    if weeks.empty:
        return None
    who, course = "this student", "middle of the course"
    rows = weeks.melt("course_week", ["active_days", "course_median"], "line", "days")
    rows["line"] = rows["line"].map({"active_days": who, "course_median": course})
    drawn = alt.Legend(symbolType="stroke", symbolSize=500)
    lines = alt.Chart(rows).mark_line(point={"size": 45, "filled": True}, strokeWidth=2.5).encode(
        x=_weeks_axis(),
        y=alt.Y("days:Q", title="active days in the week", scale=alt.Scale(domain=[0, 7]), axis=alt.Axis(tickCount=8)),
        color=alt.Color("line:N", scale=alt.Scale(domain=[who, course], range=["#0072B2", QUIET]), legend=drawn),
        strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(domain=[who, course], range=[[1, 0], [5, 4]]), legend=drawn),
    )  # fmt: skip
    return _draw(lines.properties(width=WIDTH, height=190), _say_weeks(weeks))


def _weeks_axis() -> alt.X:
    import altair as alt

    return alt.X(
        "course_week:Q",
        title="course week",
        axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
        scale=alt.Scale(zero=False, nice=False, padding=8),
    )


def _say_weeks(weeks: pd.DataFrame) -> str:
    last = weeks.tail(4)
    own = ", ".join(f"{days:g}" for days in last["active_days"])
    median = ", ".join(f"{days:g}" for days in last["course_median"])
    return (
        f"Active days per course week from week {weeks['course_week'].min()} to {weeks['course_week'].max()}: "
        f"{weeks['active_days'].mean():.1f} on average, against {weeks['course_median'].mean():.1f} in the middle of the course. "
        f"In the last {len(last)} weeks {own}, against {median}."
    )


def draw_clusters(weeks: pd.DataFrame) -> Chart | None:
    """Mean active days per course week, a line per group named by its letter; None without weeks. At most 8 groups."""
    import altair as alt

    letters = sorted(weeks["letter"].unique(), key=lambda letter: (len(letter), letter))[: len(CLUSTER_COLORS)]
    rows = weeks[weeks["letter"].isin(letters)]
    if rows.empty:
        return None
    named = alt.Scale(domain=letters)  # the same for color and shape, else there are two legends
    color = alt.Color("letter:N", scale=alt.Scale(domain=letters, range=list(CLUSTER_COLORS[: len(letters)])))
    x = _weeks_axis()
    y = alt.Y("active_days_mean:Q", title="active days per week, mean", scale=alt.Scale(domainMin=0))
    lines = alt.Chart(rows).mark_line(strokeWidth=2.5).encode(x=x, y=y, color=color)
    shapes = alt.Chart(rows).mark_point(size=45, filled=True, opacity=1).encode(
        x=x, y=y, color=color, shape=alt.Shape("letter:N", scale=named)
    )  # fmt: skip
    ends = rows.loc[rows.groupby("letter")["course_week"].idxmax()]
    names = alt.Chart(ends).mark_text(align="left", dx=9, fontSize=14, fontWeight="bold", color=INK).encode(
        x=x, y=y, text="letter:N"
    )  # fmt: skip
    said = "; ".join(
        f"{letter} from {part['active_days_mean'].iloc[0]:.1f} in week {part['course_week'].iloc[0]} "
        f"to {part['active_days_mean'].iloc[-1]:.1f} in week {part['course_week'].iloc[-1]}"
        for letter, part in ((one, rows[rows["letter"] == one].sort_values("course_week")) for one in letters)
    )
    return _draw(
        (lines + shapes + names).properties(width=WIDTH, height=230), f"Mean active days per course week: {said}."
    )
