"""A day sees nothing that happened after it, nothing that was delivered after it was published, and its levels no demographics.

The comparison itself is put to the test too: with one comparison of one model moved by a day it must fail.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from iom_platform.extract.synthetic import write_twin
from iom_platform.privacy.kanonymity import GENERALIZED
from iom_platform.settings import PROJECT_ROOT
from iom_platform.storage import record, warehouse
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, STUDENT_RISK, TABLES
from tests.spine import Frames, Spine, read_extract, spine_at, succeed, write_extract

KEY = "6c" * 32
AS_OF = date(2025, 3, 1)
DELIVERED = AS_OF + timedelta(days=30)
COURSE = ["code_module", "code_presentation"]
FEATURES = tuple(t for t in TABLES if t.stage == "features")

Hashes = dict[str, str]


# -- extracts that agree up to a day -------------------------------------------------------------------


def _days(frame: pd.DataFrame, courses: pd.DataFrame) -> pd.Series:
    """The course day of AS_OF for each row; rows of submissions carry their course through the assessment."""
    start = frame[COURSE].merge(
        courses[[*COURSE, "presentation_starts_on"]], on=COURSE, how="left", validate="many_to_one"
    )
    days = (pd.Timestamp(AS_OF) - pd.to_datetime(start["presentation_starts_on"])).dt.days
    return days.set_axis(frame.index)


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column.replace("?", None))


def running_courses(frames: Frames) -> pd.DataFrame:
    courses = frames["courses"]
    day = _days(courses, courses)
    return courses[(day >= 0) & (day <= courses["module_presentation_length"].astype(int))].assign(day=day)


def hide_clicks(frames: Frames, course: pd.Series) -> Frames:
    """The same extract without any click of one course, which is then not observed."""
    clicks = frames["studentVle"]
    is_hidden = (clicks[COURSE] == course[COURSE].tolist()).all(axis=1)
    return {**frames, "studentVle": clicks[~is_hidden]}


def _replace_people(frames: Frames, rng: np.random.Generator) -> Frames:
    """Other outcomes, unregistrations and registrations wherever they were not known by the end of AS_OF."""
    courses = frames["courses"]
    key = [*COURSE, "id_student"]
    people = frames["studentInfo"].merge(frames["studentRegistration"], on=key, validate="one_to_one")
    day = _days(people, courses)
    length = people.merge(courses, on=COURSE)["module_presentation_length"].astype(int)
    registered, left = _numbers(people["date_registration"]), _numbers(people["date_unregistration"])
    is_later = registered > day
    newcomers = people[~is_later & (day <= length)].sample(12, random_state=1).copy()
    people, day, length, left = (v[~is_later].reset_index(drop=True) for v in (people, day, length, left))
    is_open = ~(left <= day) & (day < length)
    # leaving on the very next day is what a one-day peek would see
    until = rng.integers(1, 30, len(people)).astype(object)
    until[rng.random(len(people)) < 0.15] = 1
    leaves = rng.random(len(people)) < 0.5
    results = rng.choice(["Pass", "Fail", "Distinction", "Withdrawn", "?"], len(people))
    people.loc[is_open, "date_unregistration"] = [
        str(d + u) if gone else "?" for d, u, gone in zip(day[is_open], until[is_open], leaves[is_open], strict=True)
    ]
    people.loc[is_open, "final_result"] = np.where(leaves, "Withdrawn", results)[is_open]
    newcomers["id_student"] = [str(9_000_000 + i) for i in range(len(newcomers))]
    newcomers["date_registration"] = [str(d + 1 + i % 5) for i, d in enumerate(_days(newcomers, courses))]
    newcomers["date_unregistration"], newcomers["final_result"] = "?", "?"
    people = pd.concat([people, newcomers], ignore_index=True)
    return {name: people[list(frames[name].columns)] for name in ("studentInfo", "studentRegistration")}


def _replace_submissions(frames: Frames, people: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    made = frames["studentAssessment"]
    dated = made.merge(frames["assessments"][[*COURSE, "id_assessment"]], on="id_assessment", validate="many_to_one")
    past = made[(dated["date_submitted"].astype(int) <= _days(dated, frames["courses"])).to_numpy()]
    running = running_courses(frames)
    possible = people.merge(frames["assessments"], on=COURSE).merge(running[[*COURSE, "day"]], on=COURSE)
    key = ["id_assessment", "id_student"]
    fresh = possible.merge(past[key], on=key, how="left", indicator=True).query("_merge == 'left_only'")
    fresh = fresh.sample(frac=0.4, random_state=2)
    noise = fresh[key].assign(
        date_submitted=(fresh["day"] + rng.integers(1, 30, len(fresh))).astype(str),
        is_banked="0",
        score=rng.integers(0, 101, len(fresh)).astype(str),
    )
    return pd.concat([past, noise[list(past.columns)]], ignore_index=True)


def _replace_clicks(frames: Frames, people: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    clicks = frames["studentVle"]
    past = clicks[clicks["date"].astype(int) <= _days(clicks, frames["courses"])]
    running = running_courses(frames)
    later = people.merge(running[[*COURSE, "day", "presentation_starts_on"]], on=COURSE)
    drawn = later.loc[rng.integers(0, len(later), 8_000)].reset_index(drop=True)
    sites = frames["vle"].groupby(COURSE)["id_site"].apply(list)
    day = drawn["day"] + rng.integers(1, 30, len(drawn))
    begin = pd.to_datetime(drawn["presentation_starts_on"]) + pd.to_timedelta(day, unit="D")
    at = begin + pd.to_timedelta(rng.integers(0, 86_400, len(drawn)), unit="s")
    noise = drawn[[*COURSE, "id_student"]].assign(
        id_site=[
            rng.choice(sites[m, p]) for m, p in zip(drawn["code_module"], drawn["code_presentation"], strict=True)
        ],
        date=day.astype(str),
        sum_click=rng.integers(1, 500, len(drawn)).astype(str),
        clicked_at=at.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return pd.concat([past, noise[list(past.columns)]], ignore_index=True)


def replace_the_future(frames: Frames, seed: int) -> Frames:
    """The same extract with noise, new rows included, in place of everything after AS_OF."""
    rng = np.random.default_rng(seed)
    noisy = {**frames, **_replace_people(frames, rng)}
    people = noisy["studentInfo"][[*COURSE, "id_student"]]
    return {
        **noisy,
        "studentAssessment": _replace_submissions(frames, people, rng),
        "studentVle": _replace_clicks(frames, people, rng),
    }


def correct_the_past(frames: Frames, rows: slice, *, is_increment: bool) -> Frames:
    """Other clicks and scores of days before AS_OF, in every `rows`-th row; an increment holds those rows alone."""
    clicks, made = frames["studentVle"].copy(), frames["studentAssessment"].copy()
    clicks.iloc[rows, clicks.columns.get_loc("sum_click")] = "77"
    made.iloc[rows, made.columns.get_loc("score")] = "1"
    if is_increment:
        return {"studentVle": clicks.iloc[rows], "studentAssessment": made.iloc[rows]}
    return {**frames, "studentVle": clicks, "studentAssessment": made}


def add_course(frames: Frames) -> Frames:
    """The same extract and one more presentation, a copy of a running one's enrollments that nobody clicked in."""
    model = running_courses(frames).iloc[0]
    added = dict(frames)
    for name in ("courses", "studentInfo", "studentRegistration"):
        rows = frames[name][(frames[name][COURSE] == model[COURSE].tolist()).all(axis=1)]
        added[name] = pd.concat([frames[name], rows.assign(code_module="TWX")], ignore_index=True)
    return added


# -- three homes ---------------------------------------------------------------------------------------


def published(spine: Spine) -> Hashes:
    """Every table past raw; in these homes no other day was ever scored."""
    return {path: value for path, value in spine.hashes().items() if not path.startswith("raw/")}


@dataclass(frozen=True)
class Story:
    """What the tests compare; the warehouses are copies, made while nobody used them."""

    original: Hashes
    noisy: Hashes
    bare: Hashes
    bare_terms: pd.DataFrame
    after_increment: Hashes
    after_full: Hashes
    after_repin: Hashes
    original_warehouse: Path
    noisy_warehouse: Path
    levels: pd.DataFrame
    original_frames: Frames
    noisy_frames: Frames
    generalized_courses: set[str]
    repinned_courses: set[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("influence")
    write_twin(folder / "whole", students=300, seed=5, through=DELIVERED, layout_day=AS_OF)
    whole = read_extract(folder / "whole")
    frames = hide_clicks(whole, running_courses(whole).iloc[-1])
    noisy_frames = replace_the_future(frames, seed=8)
    first, noisy = (
        write_extract(frames, folder / "first", DELIVERED),
        write_extract(noisy_frames, folder / "noisy", DELIVERED),
    )
    with spine_at(folder / "noisy home", IOM_PSEUDONYM_KEY=KEY) as spine:
        succeed(spine.land(noisy, DELIVERED))
        succeed(spine.score(AS_OF))
        noisy_hashes = published(spine)
        noisy_warehouse = Path(shutil.copy(spine.settings.warehouse_path, folder / "noisy.duckdb"))
    info = frames["studentInfo"].drop(columns=[*GENERALIZED, "disability"])
    bare = write_extract({**frames, "studentInfo": info}, folder / "bare", DELIVERED)
    with spine_at(folder / "bare home", IOM_PSEUDONYM_KEY=KEY) as spine:
        succeed(spine.land(bare, DELIVERED))
        succeed(spine.score(AS_OF))
        bare_hashes = published(spine)
        with warehouse.open_warehouse(spine.settings, purpose="look at terms", write=False) as con:
            bare_terms = warehouse.read_table(con, ANONYMIZED_STUDENT_TERM, AS_OF)
    with spine_at(folder / "home", IOM_PSEUDONYM_KEY=KEY) as spine:
        succeed(spine.land(first, DELIVERED))
        succeed(spine.score(AS_OF))
        original = published(spine)
        original_warehouse = Path(shutil.copy(spine.settings.warehouse_path, folder / "original.duckdb"))
        with record.open_record(spine.settings) as conn:
            levels = record.read_table(conn, STUDENT_RISK, AS_OF)
        later = []
        for number, is_increment in enumerate((True, False), start=1):
            day = DELIVERED + timedelta(days=number)
            corrected = correct_the_past(
                frames if is_increment else noisy_frames, slice(number, None, 3), is_increment=is_increment
            )
            corrected = corrected if is_increment else add_course(corrected)
            path = write_extract(
                corrected, folder / f"correction {number}", day, "increment" if is_increment else "full"
            )
            succeed(spine.land(path, day))
            succeed(spine.score(AS_OF))
            later.append(published(spine))
        succeed(spine.score(AS_OF, repin=True))
        with warehouse.open_warehouse(spine.settings, purpose="look at levels", write=False) as con:
            generalized, cohorts = (
                {row[0] for row in con.execute(f"select distinct course_id from anonymized.{name}").fetchall()}
                for name in ("generalizations", "student_term")
            )
        yield Story(
            original, noisy_hashes, bare_hashes, bare_terms, *later, published(spine), original_warehouse, noisy_warehouse, levels, frames, noisy_frames,
            generalized, cohorts,
        )  # fmt: skip


def test_noise_is_noise(story: Story) -> None:
    """Each extract holds rows that the other has not; what they share is the past."""
    for name in ("studentVle", "studentAssessment", "studentRegistration"):
        one, other = (f[name] for f in (story.original_frames, story.noisy_frames))
        common = one.merge(other, how="inner").drop_duplicates()
        assert len(other) - len(common) > 20, name
        assert len(one) - len(common) > 5, name
    assert (story.original_frames["studentInfo"]["final_result"].value_counts().to_dict()
            != story.noisy_frames["studentInfo"]["final_result"].value_counts().to_dict())  # fmt: skip


def test_the_day_has_something_to_be_influenced(story: Story) -> None:
    """Scored and unknown enrollments both, so that equal hashes are not those of empty tables."""
    levels = story.levels["risk_level"].value_counts()
    assert set(levels.index) == {"LOW", "MEDIUM", "HIGH", "UNKNOWN"}
    assert len(story.original) > 8


def test_noise_after_the_day_changes_nothing_of_it(story: Story) -> None:
    assert story.noisy == story.original


def test_without_demographics_clusters_and_levels_are_the_same(story: Story) -> None:
    """Columns that were never delivered, in a home of their own: the model is fitted without them too.

    A promotion holds a digest of the whole snapshot, which shows that the fit saw another one.
    """
    changed = {path for path, value in story.original.items() if story.bare[path] != value}
    assert changed == {
        "features/student_term",
        "anonymized/student_term",
        "anonymized/generalizations",
        "clustering/promotions",
    }
    assert len(story.bare_terms) > 50
    assert (story.bare_terms[list(GENERALIZED)] == "unknown").all(axis=None)


def test_later_corrections_change_nothing_of_a_published_day(story: Story) -> None:
    assert story.after_increment == story.original
    assert story.after_full == story.original


def test_corrections_are_taken_in_when_asked_for(story: Story) -> None:
    """The guard of the test above: these corrections do say something else about the day."""
    for path in ("features/student_term", "anonymized/student_term", "clustering/assignments", "risk/student_risk"):
        assert story.after_repin[path] != story.original[path], path


def test_a_course_that_comes_with_a_correction_leaves_the_levels_of_the_others(story: Story) -> None:
    assert len(story.repinned_courses) == 3
    assert story.generalized_courses == story.repinned_courses


# -- models that peek ----------------------------------------------------------------------------------

_INTERMEDIATE = Path("models") / "intermediate"
PEEKS = {
    "clicks": (
        _INTERMEDIATE / "int_clicks_resolved.sql",
        "clicks.course_day <= enrollments.course_day", "clicks.course_day <= enrollments.course_day + 1",
    ),
    "submissions": (
        _INTERMEDIATE / "int_submissions_resolved.sql",
        "submissions.submitted_course_day <= enrollments.course_day",
        "submissions.submitted_course_day <= enrollments.course_day + 1",
    ),
    "registrations": (
        _INTERMEDIATE / "int_enrollments_selected.sql",
        "enrollments.registered_course_day <= courses.course_day", "enrollments.registered_course_day <= courses.course_day + 1",
    ),
    "unregistrations": (
        _INTERMEDIATE / "int_enrollments_selected.sql",
        "enrollments.unregistered_course_day > courses.course_day", "enrollments.unregistered_course_day > courses.course_day + 1",
    ),
    "outcomes": (
        Path("models") / "features" / "student_outcome.sql",
        "outcomes.outcome_known_on <= {{ as_of_on() }}", "outcomes.outcome_known_on <= {{ as_of_on() }} + 1",
    ),
    "observed courses": (
        _INTERMEDIATE / "int_courses_observed.sql",
        "and first_clicks.course_day <= running.course_day", "and first_clicks.course_day <= running.course_day + 1",
    ),
}  # fmt: skip


class PeekingDbt:
    """A copy of the dbt project in which single comparisons can be moved, and copies of both warehouses."""

    def __init__(self, folder: Path, warehouses: tuple[Path, Path]) -> None:
        self.folder = folder
        self.project = folder / "dbt_project"
        self.warehouses = warehouses
        shutil.copytree(PROJECT_ROOT / "dbt_project", self.project, ignore=shutil.ignore_patterns("target", "logs"))

    def agree(self, *changed: str) -> bool:
        """Whether the project, as it stands, makes the same features of the day from both extracts.

        changed: models that are not as they were when the warehouses were made; only what follows them is built anew.
        """
        one, other = (self._features(path, changed) for path in self.warehouses)
        return one == other

    def _features(self, warehouse_path: Path, changed: tuple[str, ...]) -> Hashes:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner

        working = Path(shutil.copy(warehouse_path, self.folder / "warehouse.duckdb"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IOM_WAREHOUSE_PATH", str(working))
            patch.setenv("IOM_AS_OF_ON", AS_OF.isoformat())
            patch.setenv("DO_NOT_TRACK", "true")
            done = dbtRunner().invoke([
                "--quiet", "run", "--project-dir", str(self.project), "--profiles-dir", str(self.project),
                "--target-path", str(self.folder / "target"), "--log-path", str(self.folder / "logs"),
                *(f"--select={name}+" for name in changed),
            ])  # fmt: skip
        DuckDBConnectionManager.close_all_connections()
        assert done.success, done.exception or done.result
        with duckdb.connect(str(working), read_only=True) as con:
            return {table.path: warehouse.hash_table(DuckdbSession(con), table, AS_OF) for table in FEATURES}


@pytest.fixture(scope="module")
def peeking_dbt(story: Story, tmp_path_factory: pytest.TempPathFactory) -> PeekingDbt:
    return PeekingDbt(tmp_path_factory.mktemp("peeks"), (story.original_warehouse, story.noisy_warehouse))


def test_the_project_as_it_stands_agrees(peeking_dbt: PeekingDbt) -> None:
    assert peeking_dbt.agree()


@pytest.mark.parametrize("what", PEEKS)
def test_a_peek_of_one_day_is_seen(peeking_dbt: PeekingDbt, what: str) -> None:
    path, honest, peeking = PEEKS[what]
    model = peeking_dbt.project / path
    text = model.read_text()
    assert text.count(honest) == 1, f"{path} no longer holds {honest!r}; plant the peek where the comparison stands now"
    try:
        model.write_text(text.replace(honest, peeking))
        assert not peeking_dbt.agree(path.stem)
    finally:
        model.write_text(text)
