"""A day depends on the set of landed deliveries alone: not on the order in which they came, nor on rows that refer to nothing.

What landing says of an increment's rows belongs to test_oulad_landing.py, what dbt makes of them to test_feature_models.py.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pandas as pd
import pytest

from iom_platform.extract.synthetic import write_twin
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.storage import warehouse
from iom_platform.tables import QUARANTINE, STUDENT_TERM
from tests.spine import Frames, Spine, materialized, read_extract, said, spine_at, succeed, warnings, write_extract

KEY = "7d" * 32
DAY = date(2025, 3, 1)
DELIVERED = DAY + timedelta(days=7)
FULL = "full"
# days after DELIVERED; of the second's own day is the correction, which changes rows of the first and the second too
INCREMENTS = {"early": -1, "first": 1, "second": 2, "correction": 2, "strays": 3}
ORDERS = (
    (FULL, "first", "second", "correction"),
    ("second", FULL, "correction", "first"),
    # and what must not count: an increment of before the full delivery, and rows that refer to nothing
    ("correction", "strays", "second", "early", "first", FULL),
)


class Late(NamedTuple):
    """What the full delivery does not know of: students that click and submit, and an assessment."""

    students: list[str]
    assessment: str

    def has(self, frame: pd.DataFrame) -> "pd.Series[bool]":
        is_late = pd.Series(False, frame.index)
        if "id_student" in frame:
            is_late |= frame["id_student"].isin(self.students)
        if "id_assessment" in frame:
            is_late |= frame["id_assessment"] == self.assessment
        return is_late


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    folder = tmp_path_factory.mktemp("twin") / "whole"
    write_twin(folder, students=150, seed=9, through=DELIVERED, layout_day=DAY)
    return read_extract(folder)


@pytest.fixture(scope="module")
def late(frames: Frames) -> Late:
    clicks, made = frames["studentVle"], frames["studentAssessment"]
    students = sorted(set(clicks["id_student"]) & set(made["id_student"]))
    return Late(students[:12], made["id_assessment"].mode()[0])


def _strays(frames: Frames) -> Frames:
    """A record a file of what no delivery holds, two of submissions: seven in all."""
    one = {name: frame.iloc[[0]] for name, frame in frames.items()}
    made = one["studentAssessment"]
    return {
        **{name: one[name].assign(code_module="ZZZ") for name in ("assessments", "vle", "studentInfo")},
        **{name: one[name].assign(id_student="nobody") for name in ("studentRegistration", "studentVle")},
        "studentAssessment": pd.concat([made.assign(id_student="nobody"), made.assign(id_assessment="99999999")]),
    }


@pytest.fixture(scope="module")
def deliveries(frames: Frames, late: Late, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The extract in parts: the second increment refers to what only the first brings."""
    rows = {name: frame[late.has(frame)] for name, frame in frames.items()}
    made, clicks = frames["studentAssessment"], frames["studentVle"]
    parts = {
        FULL: {name: frame[~late.has(frame)] for name, frame in frames.items()},
        "early": {"studentVle": clicks.iloc[1::3].assign(sum_click="99")},
        "first": {name: rows[name] for name in ("assessments", "studentInfo", "studentRegistration")},
        "second": {name: rows[name] for name in ("studentAssessment", "studentVle")},
        "correction": {
            "studentAssessment": made[::3].assign(score="1"),
            "studentVle": clicks[::3].assign(sum_click="77"),
        },
        "strays": _strays(frames),
    }
    assert all(len(frame) for part in parts.values() for frame in part.values())
    folder = tmp_path_factory.mktemp("delivered")
    return {
        name: write_extract(part, folder / name, _day_of(name), "increment" if name in INCREMENTS else "full")
        for name, part in parts.items()
    }


def _day_of(name: str) -> date:
    return DELIVERED + timedelta(days=INCREMENTS.get(name, 0))


class Story(NamedTuple):
    """Hashes of every table of each home; of the last one what the landings warned of, and the day before and after the
    full delivery.
    """

    hashes: list[dict[str, str]]
    warned: dict[str, list[str]]
    too_early: dg.ExecuteInProcessResult
    scored: dg.ExecuteInProcessResult
    spine: Spine


@pytest.fixture(scope="module")
def story(deliveries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    hashes = []
    for order in ORDERS:
        with spine_at(tmp_path_factory.mktemp("order") / "home", IOM_PSEUDONYM_KEY=KEY) as spine:
            warned, too_early = {}, None
            for name in order:
                if name == FULL == order[-1]:
                    too_early = spine.score(DAY)
                landed = spine.land(deliveries[name], _day_of(name))
                succeed(landed)
                warned[name] = warnings(landed)
            scored = spine.score(DAY)
            succeed(scored)
            hashes.append(spine.hashes())
            if too_early:
                yield Story(hashes, warned, too_early, scored, spine)


def test_every_order_of_arrival_makes_the_same_day(story: Story) -> None:
    first, second, with_what_must_not_count = story.hashes
    assert second == first
    published = {path for path in first if not path.startswith("raw/")}
    assert len(published) > 8
    assert {path: with_what_must_not_count[path] for path in published} == {path: first[path] for path in published}


def test_what_came_early_counts_in_the_day(story: Story, late: Late) -> None:
    """Else the same hashes could be those of a day that knows nothing of it."""
    with warehouse.open_warehouse(story.spine.settings, purpose="look", write=False) as con:
        term = warehouse.read_table(con, STUDENT_TERM, DAY)
        assert warehouse.read_table(con, QUARANTINE).empty
    rows = term[term["student_pseudonym"].isin(pseudonymize(bytes.fromhex(KEY), "synthetic", late.students))]
    assert len(rows) >= 3
    assert (rows["clicks_total"] > 0).any() and (rows["submissions_made"] > 0).any()


def test_a_day_of_increments_alone_is_refused(story: Story) -> None:
    assert not story.too_early.success
    assert materialized(story.too_early) == set()
    [sentence] = said(story.too_early)
    assert sentence.startswith("Increments alone have landed of synthetic, and they add to nothing yet; land a full")


def test_an_increment_without_a_full_delivery_before_it_says_so(story: Story) -> None:
    sentence = (
        "the increment of {} has no accepted full delivery of source synthetic before it; "
        "it takes effect once a full delivery of an earlier day has landed"
    )
    assert story.warned == {name: [sentence.format(_day_of(name))] for name in INCREMENTS} | {FULL: []}


def test_rows_that_refer_to_nothing_are_warned_of(story: Story) -> None:
    """The day is scored all the same."""
    name = "increment_rows_find_what_they_refer_to"
    [check] = [c for c in story.scored.get_asset_check_evaluations() if c.check_name == name]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["dagster_dbt/failed_row_count"].value == 7
