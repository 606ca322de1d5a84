"""The report's page: what it says on days of every kind, escaping, no id, no script, no network, a text for each chart."""

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest

from iom_platform.report.charts import LEVEL_COLORS
from iom_platform.report.page import ELSEWHERE, ScoredDay, render_page
from iom_platform.risk import LEVELS
from iom_platform.settings import PROJECT_ROOT
from tests.scored_day import made_day

SECTIONS = ["data", "levels", "movement", "stories", "groups", "truth", "unknown", "model", "quarantine"]
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """The elements of a page with their attributes; every one that opens must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u00ad", "").split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(made_day())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_sections_stand_in_their_order_and_every_link_leads_to_one(page: Page) -> None:
    assert [h["id"] for h in page.of("h2")] == SECTIONS
    assert [a["href"] for a in page.of("a")] == [f"#{name}" for name in SECTIONS]


def test_the_first_lines_say_what_an_advisor_needs(page: Page) -> None:
    first = page.text[: page.text.index("Data behind this report")]
    for words in (
        "As of the end of Friday, May 1, 2026",
        "24 students of 110 with a level are at HIGH",
        "AAA-2026B 12 of 60, BBB-2026B 12 of 60",
        "24 HIGH : talk to them first",
        "A level is a reason to talk, not a verdict.",
        "Invented students: this is the synthetic twin",
        "UNKNOWN is neither a flag nor an all-clear",
        "they do not say how many will fail",
        "1 course with fewer than 5 students",
    ):
        assert words in first


@pytest.mark.parametrize(
    "words",
    [
        "the newest delivery of synthetic is 9 days older than this day",
        "AAA-2026B 12 18 25 5 60 22% 13% to 34%",
        "under 5 rose to a higher risk level, 0 fell to a lower one",
        "LOW 50 under 5 0 0 0",
        "Of 24 at HIGH, 24 later fail or withdraw. So do 16 who are not at HIGH, 0 of them at LOW",
        "HIGH 24 24 100% 86% to 100% MEDIUM 36 16 44% 30% to 60% LOW 50 0 0%",
        "How chosen: Of all students at HIGH, the one with the highest score.",
        "The last week has had 4 days so far.",
        "later fail or withdraw",
        "Registered less than a week ago 10",
        "student_clusters, version 1 (kmeans), trained on the data as of May 1, 2026",
        "the silhouette is 0.31, under the 0.50",
        "notifications.enabled: nobody is notified yet",
        "studentVle.csv missing value 2 deliver the value",
    ],
)
def test_the_page_says(page: Page, words: str) -> None:
    assert words in page.text


def test_how_wrong_levels_were_elsewhere_is_what_the_docs_print() -> None:
    lines = (PROJECT_ROOT / "docs" / "validation.md").read_text().splitlines()
    for level, words in ELSEWHERE.items():
        cells = [line.split("|")[7] for line in lines if f"| {level} |" in line]
        shares = [float(cell.strip(" %")) for cell in cells]
        assert len(shares) == 8
        assert words == f"{min(shares):.0f}% to {max(shares):.0f}%"
        assert f"{words} of" in Page(render_page(made_day(truth=None))).text


def test_the_same_day_gives_the_same_bytes(html: str) -> None:
    assert render_page(made_day()) == html


# -- what must not be in it ----------------------------------------------------------------------------


def test_nothing_is_loaded_and_nothing_runs(html: str, page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "image", "use", "form"} & {tag for tag, _ in page.elements}
    assert not [n for _, attributes in page.elements for n in attributes if n.startswith("on")]
    assert set(re.findall(r"https?://[^\s\"'<>)]*", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html and "@import" not in html
    [policy] = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_names_from_the_data_are_text() -> None:
    planted = "<script>alert(1)</script>\"'&-2026B"
    day = made_day(courses=(planted, "BBB-2026B"))
    told = replace(
        day,
        quarantine=day.quarantine.assign(file_name=planted, remedy=planted),
        deliveries=day.deliveries.assign(source=planted),
        risk=day.risk.assign(reason_1=planted),
    )
    html = render_page(told)
    assert "<script" not in html
    page = Page(html)
    assert page.text.count(planted) >= 6
    assert planted in page.of("svg")[0]["aria-label"]


def test_no_pseudonym_is_in_it(html: str) -> None:
    assert not [p for p in made_day().risk["student_pseudonym"] if p in html]


def test_no_count_of_a_small_group_is_in_it() -> None:
    """Two students alone in a group: neither the group nor its number of students is told."""
    day = made_day()
    cluster = day.risk["cluster"].mask([i in (70, 71) for i in range(len(day.risk))], 9)
    profiles = pd.concat([day.profiles, day.profiles[day.profiles["cluster"] == 0].assign(cluster=9, cluster_uid=None)])
    page = Page(render_page(replace(day, risk=day.risk.assign(cluster=cluster), profiles=profiles)))
    groups = page.text[page.text.index("Groups, and the share") : page.text.index("Were the flags right?", 2000)]
    assert "2 groups are not shown" in groups
    assert [int(n) for n in re.findall(r"[A-Z] : [a-z, ]+ c-\w{8} (\d+) ", groups)] == [30, 30, 28]


# -- a text for who does not see -----------------------------------------------------------------------


def test_every_chart_is_one_image_with_a_text_that_tells_its_numbers(page: Page) -> None:
    charts = page.of("svg")
    assert len(charts) == 5
    assert {svg["role"] for svg in charts} == {"img"}
    levels, *_, groups = (svg["aria-label"] for svg in charts)
    assert "AAA-2026B: 12 HIGH, 18 MEDIUM, 25 LOW, 5 UNKNOWN" in levels
    assert groups.startswith("Mean active days per course week: A from ")
    assert len({svg["aria-label"] for svg in charts}) == 5


def test_every_table_has_caption_and_scopes(page: Page) -> None:
    assert len(page.of("caption")) == len(page.of("table")) >= 8
    assert all(th.get("scope") in {"col", "row", "rowgroup"} for th in page.of("th"))


def test_headings_skip_no_level(page: Page) -> None:
    depths = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert depths[0] == 1 and depths.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(depths))


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("level", LEVELS)
def test_the_numbers_in_the_bars_can_be_read(level: str) -> None:
    """Contrast of black on the level's color is at least WCAG AA's 4.5; axe does not look into charts."""
    assert (_luminance(LEVEL_COLORS[level]) + 0.05) / 0.05 >= 4.5


# -- days on which something is not there --------------------------------------------------------------


def _empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:0]


def _unknown(day: ScoredDay) -> pd.DataFrame:
    missing: dict[str, Any] = {
        "risk_level": "UNKNOWN",
        "risk_score": float("nan"),
        "cluster": pd.NA,
        "model_version": pd.NA,
    }
    return day.risk.assign(**missing, reason_1="No risk model has been trained yet")


MADE = made_day()
DAYS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to score": (
        {name: _empty(getattr(MADE, name)) for name in ("risk", "risk_before", "terms", "weeks", "profiles")},
        "Nothing to score on this day",
    ),
    "nothing a week before": ({"risk_before": _empty(MADE.risk)}, "no levels were published for April 24, 2026"),
    "no weeks": ({"weeks": _empty(MADE.weeks)}, "Activity per week is not available for this day"),
    "no truth": ({"truth": None}, "Not known for these students. How they will end is not known today"),
    "real students": (
        {"truth": None, "deliveries": MADE.deliveries.assign(source="oulad")},
        "nobody has checked these flags",
    ),
    "no model": (
        {"risk": _unknown(MADE), "champion": None, "metrics": {}, "profiles": _empty(MADE.profiles)},
        "No model has been trained for this day",
    ),
    "nothing rejected": ({"quarantine": _empty(MADE.quarantine)}, "every row of the deliveries above was loaded"),
    "withheld not noted": ({"withheld_courses": None}, "Courses with fewer than 5 students are not shown at all"),
    "nothing withheld": ({"withheld_courses": 0}, "No course was left out for being too small"),
    "fresh data": (
        {"deliveries": MADE.deliveries.assign(delivered_on=pd.Timestamp(MADE.as_of_on + timedelta(days=2)))},
        "Nothing that happened after May 1, 2026 is used",
    ),
    "all in force": ({"not_in_force": ()}, "Everything that the settings ask for is in force"),
}


@pytest.mark.parametrize("name", DAYS)
def test_a_day_without_it_says_so(name: str) -> None:
    changes, words = DAYS[name]
    page = Page(render_page(made_day(**changes)))
    assert words in page.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no truth", "The seven-day rule flags"),
        ("real students", "Invented students"),
        ("fresh data", "Old data"),
        ("nothing to score", "talk to them first"),
    ],
)
def test_a_day_without_it_does_not_speak_of_it(html: str, name: str, words: str) -> None:
    assert words in html
    assert words not in render_page(made_day(**DAYS[name][0]))
