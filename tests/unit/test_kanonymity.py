"""Generalization hierarchies, the fit, its application and its proof. Attacks live in tests/privacy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom_platform.privacy import kanonymity as ka
from iom_platform.tables import QUASI_IDENTIFIERS

TOP = {name: ka._ladder(name).top for name in ka.GENERALIZED}
RAW = {name: [*steps, None] for name, steps in ka.HIERARCHIES.items()}
NASTY = st.sampled_from([float("nan"), "", "*", "unknown", "Atlantis", 7, "m", " M"])


def make_cohort(rows: int, seed: int, courses: tuple[str, ...] = ("AAA-2013J", "BBB-2013B")) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"student_pseudonym": [f"s{i}" for i in range(rows)], "course_id": random.choice(courses, rows)}
    )
    for name, values in RAW.items():
        share = random.dirichlet(np.full(len(values), 0.7))
        frame[name] = pd.Series(
            np.array(values, dtype=object)[random.choice(len(values), rows, p=share)], dtype="object"
        )
    return frame


def make_levels(course_id: str, **levels: int) -> pd.DataFrame:
    rows = [(course_id, 5, name, levels.get(name, 0)) for name in ka.GENERALIZED]
    return pd.DataFrame(rows, columns=["course_id", "k", "quasi_identifier", "level"])


def make_cell(rows: int, start: int = 0, **values: object) -> pd.DataFrame:
    base = {"course_id": "AAA-2013J", "gender": "M", "region": "Wales", "highest_education": "HE Qualification",
            "imd_band": "0-10%", "age_band": "0-35", **values}  # fmt: skip
    return pd.DataFrame([{"student_pseudonym": f"s{start + i}", **base} for i in range(rows)])


@st.composite
def cohorts(draw: st.DrawFn) -> pd.DataFrame:
    """Cohorts with few distinct values per column, so that cells of every size occur, and with values nobody listed."""
    menus = {
        name: draw(st.lists(st.sampled_from(RAW[name]) | NASTY, min_size=1, max_size=3)) for name in ka.GENERALIZED
    }
    rows = draw(st.integers(0, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = {
        name: pd.Series([menu[i] for i in random.integers(0, len(menu), rows)], dtype=object)
        for name, menu in menus.items()
    }
    course = pd.Series(random.choice(["A-2013B", "B-2013J", "C-2014B"], rows, p=[0.7, 0.2, 0.1]), dtype=object)
    return pd.DataFrame({"student_pseudonym": [f"s{i}" for i in range(rows)], "course_id": course, **columns})


@st.composite
def level_sets(draw: st.DrawFn) -> pd.DataFrame:
    courses = ("A-2013B", "B-2013J", "C-2014B")
    return pd.concat([make_levels(c, **{n: draw(st.integers(0, TOP[n])) for n in ka.GENERALIZED}) for c in courses])


@settings(max_examples=120, deadline=None)
@given(frame=cohorts(), levels=level_sets(), k=st.integers(2, 7))
def test_any_cohort_under_any_levels_is_k_anonymous(frame: pd.DataFrame, levels: pd.DataFrame, k: int) -> None:
    published, withheld = ka.apply_generalization(frame, levels, k=k)
    assert ka.prove_kanonymity(published, k=k).empty
    assert len(published) + len(withheld) == len(frame)
    assert (withheld.groupby("course_id").size() < k).all()
    assert not published[list(ka.GENERALIZED)].isna().any().any()


@settings(max_examples=25, deadline=None)
@given(frame=cohorts(), later=cohorts(), k=st.integers(2, 5), share=st.floats(0, 0.5))
def test_fit_keeps_its_bound_and_serves_later_cohorts(
    frame: pd.DataFrame, later: pd.DataFrame, k: int, share: float
) -> None:
    levels = ka.fit_generalization(frame, k=k, max_suppressed_share=share)
    published, _ = ka.apply_generalization(frame, levels, k=k)
    assert (published.groupby("course_id")["is_suppressed"].mean() <= share + 1e-12).all()
    later = later[later["course_id"].isin(levels["course_id"])]
    assert ka.prove_kanonymity(ka.apply_generalization(later, levels, k=k)[0], k=k).empty


@pytest.mark.parametrize("name", ka.GENERALIZED)
def test_hierarchies_are_nested_and_end_in_a_star(name: str) -> None:
    ladder = ka._ladder(name)
    for lower, upper in zip(ladder.nodes[:-1], ladder.nodes[1:], strict=True):
        assert all(len(set(upper[lower == node])) == 1 for node in set(lower))
    assert set(ladder.names[ladder.nodes[-1]]) == {"*"}
    assert (np.diff(ladder.loss, axis=0) >= 0).all()
    assert ladder.loss[0][: len(ladder.leaves)].max() == 0


def test_named_levels_read_as_documented() -> None:
    frame = make_cell(6, region="London Region", imd_band="10-20", age_band="55<=", highest_education=None)
    levels = make_levels("AAA-2013J", region=1, imd_band=2, age_band=1, highest_education=1)
    row = ka.apply_generalization(frame, levels, k=5)[0].iloc[0]
    assert [row[n] for n in ka.GENERALIZED] == ["M", "England", "unknown", "0-40%", "35<="]
    row = ka.apply_generalization(frame, make_levels("AAA-2013J", imd_band=0), k=5)[0].iloc[0]
    assert row["imd_band"] == "10-20%"


@pytest.mark.parametrize("dtype", ["object", "str", "float64"])
def test_without_demographics_all_are_published_alike(dtype: str) -> None:
    frame = make_cell(9).assign(**{name: pd.Series([None] * 9, dtype=dtype) for name in ka.GENERALIZED})
    levels = ka.fit_generalization(frame, k=5, max_suppressed_share=0.05)
    published, withheld = ka.apply_generalization(frame, levels, k=5)
    assert (published[list(ka.GENERALIZED)] == "unknown").all(axis=None)
    assert withheld.empty and not published["is_suppressed"].any()


@pytest.mark.parametrize("value", ["12 Elm Street", 7, ""])
def test_a_value_outside_the_hierarchy_never_passes_even_at_level_0(value: object) -> None:
    published, _ = ka.apply_generalization(make_cell(9, region=value), make_levels("AAA-2013J"), k=5)
    assert set(published["region"]) == {"*"}
    assert set(published["gender"]) == {"M"}


@pytest.mark.parametrize("seed", [3, 11])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_fit_finds_the_least_loss_of_the_whole_lattice(seed: int, share: float) -> None:
    frame = make_cohort(60, seed=seed, courses=("AAA-2013J",))
    losses = {n: [row[ka._leaf_codes(frame[n], ka._ladder(n))] for row in ka._ladder(n).loss] for n in ka.GENERALIZED}

    def measure(levels: tuple[int, ...]) -> tuple[float, float]:
        chosen = dict(zip(ka.GENERALIZED, levels, strict=True))
        hidden = ka.apply_generalization(frame, make_levels("AAA-2013J", **chosen), k=5)[0]["is_suppressed"]
        lost = [np.where(hidden, 1.0, losses[n][chosen[n]]).mean() for n in ka.GENERALIZED]
        return float(np.mean(lost)), float(hidden.mean())

    fitted = ka.fit_generalization(frame, k=5, max_suppressed_share=share).set_index("quasi_identifier")["level"]
    found, hidden_share = measure(tuple(int(fitted[n]) for n in ka.GENERALIZED))
    assert hidden_share <= share
    every = [measure(levels) for levels in itertools.product(*(range(TOP[n] + 1) for n in ka.GENERALIZED))]
    assert found == pytest.approx(min(loss for loss, hidden in every if hidden <= share))


def test_fit_does_not_depend_on_row_order() -> None:
    frame = make_cohort(400, seed=5)
    first = ka.fit_generalization(frame, k=5, max_suppressed_share=0.05)
    second = ka.fit_generalization(frame.sample(frac=1, random_state=1), k=5, max_suppressed_share=0.05)
    pd.testing.assert_frame_equal(first, second)
    assert list(first.columns) == ["course_id", "k", "quasi_identifier", "level"]


def test_a_small_course_is_withheld_whole_and_gets_no_levels() -> None:
    frame = pd.concat([make_cell(6), make_cell(4, start=6, course_id="ZZZ-2014B")])
    levels = ka.fit_generalization(frame, k=5, max_suppressed_share=0.0)
    assert set(levels["course_id"]) == {"AAA-2013J"}
    published, withheld = ka.apply_generalization(frame, levels, k=5)
    assert set(published["course_id"]) == {"AAA-2013J"}
    assert len(withheld) == 4


def test_the_suppressed_group_grows_to_k_with_the_smallest_cell() -> None:
    frame = pd.concat([make_cell(8), make_cell(6, start=8, gender="F"), make_cell(1, start=14, region="Scotland")])
    published, _ = ka.apply_generalization(frame, make_levels("AAA-2013J"), k=5)
    assert published["is_suppressed"].sum() == 7  # the single row and the six, not the eight
    assert set(published.loc[~published["is_suppressed"], "gender"]) == {"M"}


def test_rows_of_unlisted_values_count_as_suppressed() -> None:
    unlisted = {name: "elsewhere" for name in ka.GENERALIZED}
    frame = pd.concat([make_cell(8), make_cell(2, start=8, **unlisted), make_cell(3, start=10, region="Scotland")])
    published, _ = ka.apply_generalization(frame, make_levels("AAA-2013J"), k=5)
    assert published["is_suppressed"].sum() == 5
    assert ka.prove_kanonymity(published, k=5).empty


def test_unlisted_rows_are_the_suppressed_group_whatever_their_number() -> None:
    unlisted = {name: "elsewhere" for name in ka.GENERALIZED}
    frame = pd.concat([make_cell(8), make_cell(10, start=8, **unlisted), make_cell(3, start=18, region="Scotland")])
    published, _ = ka.apply_generalization(frame, make_levels("AAA-2013J"), k=5)
    assert published["is_suppressed"].tolist() == [False] * 8 + [True] * 13


def test_top_levels_suppress_nothing_more() -> None:
    published, _ = ka.apply_generalization(make_cohort(40, 2, ("A",)), make_levels("A", **TOP), k=5)
    assert not published["is_suppressed"].any()


def test_input_is_left_alone_and_order_and_index_are_kept() -> None:
    frame = make_cohort(50, seed=7, courses=("A",)).sample(frac=1, random_state=2)
    before = frame.copy(deep=True)
    published, _ = ka.apply_generalization(frame, make_levels("A", imd_band=3, region=2), k=5)
    pd.testing.assert_frame_equal(frame, before)
    assert list(published.index) == list(frame.index)
    assert list(published["student_pseudonym"]) == list(frame["student_pseudonym"])


def test_proof_finds_small_cells_split_flags_and_one_student_counted_twice() -> None:
    cell = make_cell(5).assign(is_suppressed=False)
    assert ka.prove_kanonymity(cell, k=5).empty
    assert ka.prove_kanonymity(cell.iloc[:4], k=5)["students"].tolist() == [4]
    assert len(ka.prove_kanonymity(pd.concat([cell.iloc[:4], cell.iloc[:1]]), k=5)) == 1
    assert len(ka.prove_kanonymity(cell.assign(is_suppressed=[True, False, False, False, False]), k=5)) == 2
    assert len(ka.prove_kanonymity(cell.assign(gender=[None, "M", "M", "M", "M"]), k=5)) == 2
    assert list(ka.prove_kanonymity(cell, k=5).columns) == [*QUASI_IDENTIFIERS, "is_suppressed", "students"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, v: (f.drop(columns="gender"), v), "lacks the quasi-identifier gender"),
        (lambda f, v: (f.assign(course_id=None), v), "course_id is null"),
        (lambda f, v: (pd.concat([f, f.iloc[:1]]), v), "two rows in one course"),
        (lambda f, v: (f, v.iloc[1:]), "no complete generalization"),
        (lambda f, v: (f, pd.concat([v, v.iloc[:1]])), "two levels of gender"),
        (lambda f, v: (f, v.assign(level=9)), "level 9 of gender"),
    ],
)
def test_errors_name_what_is_wrong(change, message: str) -> None:
    frame, levels = change(make_cell(6), make_levels("AAA-2013J"))
    with pytest.raises(ValueError, match=message) as error:
        ka.apply_generalization(frame, levels, k=5)
    assert "s0" not in str(error.value)


def test_k_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 1"):
        ka.fit_generalization(make_cell(6), k=1, max_suppressed_share=0.1)
