"""k-anonymity of the quasi-identifiers: hierarchies, the search for a generalization per course, its application, its proof.

Nothing here reads tables, stores levels, or protects behavior columns, which stay as they are.

A cell is a course and the five generalized demographics. The hierarchies are closed vocabularies and nested: a value
that is not listed becomes `*` at every level, so that neither free text nor a value unseen at the fit crosses the wall.
A missing value is a value of its own, `unknown`, below the top level.

k holds within one release. Of one attribute two fits tell together what the finer of them tells, for the levels nest;
of several they can tell more: one fit may be finer in gender and the other in region, one may suppress what the other
shows, and whoever joins both releases by pseudonym has both, in cells that may hold fewer than k.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.tables import QUASI_IDENTIFIERS

if TYPE_CHECKING:
    import pandas as pd

SUPPRESSED = "*"
UNKNOWN = "unknown"
GENERALIZED = tuple(name for name in QUASI_IDENTIFIERS if name != "course_id")

_NATIONS = {
    "Scotland": ("Scotland",),
    "Wales": ("Wales",),
    "Ireland": ("Ireland",),
    "England": (
        "East Anglian Region", "East Midlands Region", "London Region", "North Region", "North Western Region",
        "South East Region", "South Region", "South West Region", "West Midlands Region", "Yorkshire Region",
    ),
}  # fmt: skip
_EDUCATION = {
    "below higher education": ("No Formal quals", "Lower Than A Level", "A Level or Equivalent"),
    "higher education": ("HE Qualification", "Post Graduate Qualification"),
}


def _band(low: int, width: int) -> str:
    return f"{low}-{low + width}%"


def _deprivation(value: str) -> tuple[str, ...]:
    """Band, quintile, and 0-40 / 40-60 / 60-100: halves would cut the middle quintile and break the nesting."""
    low = int(value.partition("-")[0])
    third = "0-40%" if low < 40 else "40-60%" if low < 60 else "60-100%"
    return _band(low, 10), _band(low // 20 * 20, 20), third


# leaf as delivered -> its names at level 0, 1, ...; the level after the last is '*'
HIERARCHIES: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {"F": ("F",), "M": ("M",)},
    "region": {leaf: (leaf, nation) for nation, leaves in _NATIONS.items() for leaf in leaves},
    "highest_education": {leaf: (leaf, group) for group, leaves in _EDUCATION.items() for leaf in leaves},
    "imd_band": {
        # OULAD delivers the band 10-20 without its percent sign
        spelled: _deprivation(spelled)
        for low in range(0, 100, 10)
        for spelled in (_band(low, 10), _band(low, 10).removesuffix("%"))
    },
    "age_band": {"0-35": ("0-35", "0-35"), "35-55": ("35-55", "35<="), "55<=": ("55<=", "35<=")},
}


@dataclass(frozen=True)
class _Ladder:
    """A hierarchy as arrays; leaf index `len(leaves)` is a missing value, the one after it an unlisted value."""

    leaves: dict[str, int]
    names: np.ndarray  # (n_nodes,) sorted text of every node
    nodes: np.ndarray  # (n_levels, n_leaves + 2) index into names
    loss: np.ndarray  # (n_levels, n_leaves + 2) 0-1

    @property
    def top(self) -> int:
        return int(self.nodes.shape[0]) - 1


@cache
def _ladder(name: str) -> _Ladder:
    steps = HIERARCHIES[name]
    depth = len(next(iter(steps.values())))
    leaves = sorted(steps)
    text = [[*(steps[leaf][level] for leaf in leaves), UNKNOWN, SUPPRESSED] for level in range(depth)]
    text.append([SUPPRESSED] * (len(leaves) + 2))
    names = np.array(sorted({value for row in text for value in row}), dtype=object)
    index = {value: number for number, value in enumerate(names)}
    # two spellings of one value are one ground value, and a missing value is one more
    ground = {steps[leaf][0] for leaf in leaves}
    covered = [{value: len({steps[leaf][0] for leaf in leaves if steps[leaf][level] == value}) for value in row}
               for level, row in enumerate(text[:-1])]  # fmt: skip
    loss = [[1.0 if value == SUPPRESSED else max(covered[level][value] - 1, 0) / len(ground) for value in row]
            for level, row in enumerate(text[:-1])]  # fmt: skip
    loss.append([1.0] * (len(leaves) + 2))
    nodes = np.array([[index[value] for value in row] for row in text], dtype=np.int64)
    return _Ladder({leaf: number for number, leaf in enumerate(leaves)}, names, nodes, np.array(loss))


def _leaf_codes(values: pd.Series, ladder: _Ladder) -> np.ndarray:
    missing, unlisted = len(ladder.leaves), len(ladder.leaves) + 1
    codes = values.map(lambda value: ladder.leaves.get(value, unlisted) if isinstance(value, str) else unlisted)
    return np.where(values.isna().to_numpy(), missing, codes.to_numpy()).astype(np.int64)


def _check_frame(frame: pd.DataFrame, k: int) -> None:
    if k < 2:
        raise ValueError(f"k is {k}; a cell of one protects nobody, so k is 2 or more")
    absent = [name for name in QUASI_IDENTIFIERS if name not in frame.columns]
    if absent:
        raise ValueError(f"the cohort lacks the quasi-identifier {absent[0]}; select it from features/student_term")
    if frame["course_id"].isna().any():
        raise ValueError("course_id is null in the cohort; every enrollment names its course")
    if "student_pseudonym" in frame.columns and frame.duplicated(["course_id", "student_pseudonym"]).any():
        raise ValueError(
            "a student has two rows in one course, which would count twice in a cell; pass the cohort of one day"
        )


def _grow_suppressed(is_suppressed: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Suppress the smallest further cells until the suppressed rows are at least k; ties go by the cell's order.

    Without it a single suppressed row would be the only `*` of its course and thereby known.
    """
    grown = is_suppressed.copy()
    rows = int(counts[grown].sum())
    for cell in np.argsort(counts, kind="stable"):
        if rows == 0 or rows >= k:
            break
        if not grown[cell]:
            grown[cell] = True
            rows += int(counts[cell])
    return grown


def _suppress_cells(counts: np.ndarray, is_star: np.ndarray, k: int) -> np.ndarray:
    """Which cells of one course to suppress. counts, is_star: (n_cells,) -> (n_cells,) bool.

    A cell that is `*` throughout because its values are unlisted looks like the suppressed group and is counted with it.
    """
    return _grow_suppressed((counts < k) | is_star, counts, k)


def _cells(codes: dict[str, np.ndarray], levels: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cell number of each row of one course (in the sorted order of the cells' names), and which rows are all `*`."""
    key = np.zeros(len(next(iter(codes.values()))), dtype=np.int64)
    is_star = np.ones(len(key), dtype=bool)
    for name in GENERALIZED:
        ladder = _ladder(name)
        node = ladder.nodes[levels[name]][codes[name]]
        key = key * len(ladder.names) + node
        is_star &= ladder.names[node] == SUPPRESSED
    return np.unique(key, return_inverse=True)[1], is_star


def _row_suppression(codes: dict[str, np.ndarray], levels: dict[str, int], weight: np.ndarray, k: int) -> np.ndarray:
    if all(levels[name] == _ladder(name).top for name in GENERALIZED):
        return np.zeros(len(weight), dtype=bool)  # the levels themselves say nothing: nothing is left to suppress
    cell, row_is_star = _cells(codes, levels)
    counts = np.bincount(cell, weights=weight).astype(np.int64)
    is_star = np.zeros(len(counts), dtype=bool)
    is_star[cell] = row_is_star
    return np.asarray(_suppress_cells(counts, is_star, k)[cell])


def _search(codes: dict[str, np.ndarray], weight: np.ndarray, k: int, max_suppressed_share: float) -> dict[str, int]:
    """Levels of one course with the least loss among those that suppress few enough rows; the top always qualifies."""
    best: tuple[float, int, tuple[int, ...]] | None = None
    total = int(weight.sum())
    for combination in itertools.product(*(range(_ladder(name).top + 1) for name in GENERALIZED)):
        levels = dict(zip(GENERALIZED, combination, strict=True))
        loss = np.zeros(len(weight))
        for name in GENERALIZED:
            loss += _ladder(name).loss[levels[name]][codes[name]]
        if best is not None and round(float(loss @ weight) / (total * len(GENERALIZED)), 12) > best[0]:
            continue  # suppression only adds loss
        hidden = _row_suppression(codes, levels, weight, k)
        if float(weight[hidden].sum()) > max_suppressed_share * total:
            continue
        loss[hidden] = len(GENERALIZED)
        candidate = (round(float(loss @ weight) / (total * len(GENERALIZED)), 12), sum(combination), combination)
        best = candidate if best is None else min(best, candidate)
    assert best is not None
    return dict(zip(GENERALIZED, best[2], strict=True))


def fit_generalization(frame: pd.DataFrame, *, k: int, max_suppressed_share: float) -> pd.DataFrame:
    """The level of each quasi-identifier per course, by exhaustive search of the lattice (216 nodes).

    frame: one cohort, a row per enrollment, with QUASI_IDENTIFIERS. Returns course_id, k, quasi_identifier, level;
    a course of fewer than k rows gets no levels, since it is not published. The measure is the normalized certainty
    penalty (Xu et al., KDD 2006): (ground values under a node - 1) / (ground values - 1), 1 for `*`, a mean over rows
    and quasi-identifiers; suppressed rows lose 1. Ties go to the lower sum of levels, then to the order of
    QUASI_IDENTIFIERS. Raises ValueError for a missing column, a null course or a student twice in a course.
    """
    import pandas as pd

    _check_frame(frame, k)
    rows: list[dict[str, Any]] = []
    coded = pd.DataFrame({name: _leaf_codes(frame[name], _ladder(name)) for name in GENERALIZED})
    coded.insert(0, "course_id", frame["course_id"].to_numpy())
    # the search sees counts per tuple, not people: its cost does not grow with the cohort
    summary = coded.groupby(list(coded.columns), sort=True).size().reset_index(name="rows")
    for course_id, tuples in summary.groupby("course_id", sort=True):
        weight = tuples["rows"].to_numpy()
        if weight.sum() < k:
            continue
        levels = _search({name: tuples[name].to_numpy() for name in GENERALIZED}, weight, k, max_suppressed_share)
        rows += [
            {"course_id": course_id, "k": k, "quasi_identifier": name, "level": levels[name]} for name in GENERALIZED
        ]
    fitted = pd.DataFrame(rows, columns=["course_id", "k", "quasi_identifier", "level"])
    return fitted.astype({"course_id": "str", "quasi_identifier": "str", "k": "int64", "level": "int64"})


def _levels_by_course(levels: pd.DataFrame, courses: list[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for course_id, name, level in zip(levels["course_id"], levels["quasi_identifier"], levels["level"], strict=True):
        if name in found.setdefault(course_id, {}):
            raise ValueError(f"course {course_id} has two levels of {name}; pass the levels of one fit")
        if name not in GENERALIZED or not 0 <= int(level) <= _ladder(name).top:
            raise ValueError(
                f"level {level} of {name} for course {course_id} is not in the hierarchies; fit the course again"
            )
        found[course_id][name] = int(level)
    for course_id in courses:
        if set(found.get(course_id, ())) != set(GENERALIZED):
            raise ValueError(f"course {course_id} has no complete generalization; fit it before it is published")
    return found


def apply_generalization(
    frame: pd.DataFrame, levels: pd.DataFrame, *, k: int
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Generalize one cohort with levels that were fitted once; k-anonymous for any cohort, whatever the levels.

    frame: one row per enrollment; levels: as `fit_generalization` returns, one fit per course. Returns the published
    rows (index and order kept, quasi-identifiers as text, `is_suppressed` added) and, unchanged, the withheld rows:
    those of courses with fewer than k rows, which have no safe form; only their number may be told.
    Cells under k become `*`, and further smallest cells with them until the suppressed group of the course has k rows.
    Raises ValueError for a course without levels.
    """
    _check_frame(frame, k)
    size = frame.groupby("course_id")["course_id"].transform("size").to_numpy() if len(frame) else np.zeros(0)
    withheld, published = frame[size < k].copy(), frame[size >= k].copy()
    by_course = _levels_by_course(levels, sorted(published["course_id"].unique()))
    codes = {name: _leaf_codes(published[name], _ladder(name)) for name in GENERALIZED}
    text = {name: np.full(len(published), SUPPRESSED, dtype=object) for name in GENERALIZED}
    is_suppressed = np.zeros(len(published), dtype=bool)
    for course_id, rows in published.groupby("course_id", sort=True).indices.items():
        course_levels = by_course[str(course_id)]
        course_codes = {name: codes[name][rows] for name in GENERALIZED}
        hidden = _row_suppression(course_codes, course_levels, np.ones(len(rows), dtype=np.int64), k)
        is_suppressed[rows] = hidden
        for name in GENERALIZED:
            ladder = _ladder(name)
            shown = ladder.names[ladder.nodes[course_levels[name]][course_codes[name]]]
            text[name][rows] = np.where(hidden, SUPPRESSED, shown)
    for name in GENERALIZED:
        published[name] = text[name]
        published[name] = published[name].astype("str")
    published["is_suppressed"] = is_suppressed
    return published, withheld


def prove_kanonymity(frame: pd.DataFrame, *, k: int) -> pd.DataFrame:
    """The cells of fewer than k students: QUASI_IDENTIFIERS, is_suppressed where present, students; empty means proven.

    It counts from the published columns alone, apart from how they were made; `is_suppressed` is published beside them
    and therefore splits cells too. Students are counted once where `student_pseudonym` is present.
    """
    columns = [*QUASI_IDENTIFIERS, *(["is_suppressed"] if "is_suppressed" in frame.columns else [])]
    cells = frame.groupby(columns, dropna=False, sort=True)
    students = cells["student_pseudonym"].nunique() if "student_pseudonym" in frame.columns else cells.size()
    return students[students < k].rename("students").reset_index()
