"""Linkage: somebody who knows a student's course and demographics must not narrow the published rows to fewer than k.

The attacker also knows the hierarchies and the levels, and who else the course enrolls, so that a target whose own cell
is not published is known to be among the suppressed.
"""

import numpy as np
import pandas as pd
import pytest

from iom_platform.privacy import kanonymity as ka

K = 5


def make_course(seed: int) -> pd.DataFrame:
    """A course with common tuples and a tail of rare ones, as real cohorts have."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(K, 120))
    frame = pd.DataFrame({"student_pseudonym": [f"s{i}" for i in range(rows)], "course_id": "AAA-2013J"})
    for name, steps in ka.HIERARCHIES.items():
        values = np.array([*steps, None], dtype=object)
        frame[name] = values[np.minimum(random.geometric(0.8, rows) - 1, len(values) - 1)]
    return frame


def make_lone_student() -> pd.DataFrame:
    """Two common tuples and one student like nobody else: suppressed alone, the only `*` of the course."""
    common = {"course_id": "AAA-2013J", "gender": "M", "region": "Wales", "highest_education": "HE Qualification",
              "imd_band": "0-10%", "age_band": "0-35"}  # fmt: skip
    rows = [common] * 8 + [{**common, "gender": "F"}] * 6 + [{**common, "gender": "F", "age_band": "55<="}]
    return pd.DataFrame(rows).assign(student_pseudonym=[f"s{i}" for i in range(len(rows))])


def explains(published: str, known: object, name: str) -> bool:
    """Whether a published value can stand for a known one at some level."""
    if published == ka.SUPPRESSED:
        return True
    return published == ka.UNKNOWN if known is None else published in ka.HIERARCHIES[name].get(known, ())


def link(target: pd.Series, published: pd.DataFrame) -> int:
    """Rows that may be the target's: its own cell where that is published, else the suppressed group."""
    cells = published.groupby([*ka.GENERALIZED, "is_suppressed"], sort=False).size().reset_index(name="rows")
    fits = [all(explains(cell[n], target[n], n) for n in ka.GENERALIZED) for _, cell in cells.iterrows()]
    candidates = cells[fits]
    own = candidates[~candidates["is_suppressed"]]
    return int((own if len(own) else candidates)["rows"].sum())


def narrowest_link(frame: pd.DataFrame, levels: pd.DataFrame | None = None) -> int:
    fitted = ka.fit_generalization(frame, k=K, max_suppressed_share=0.3) if levels is None else levels
    published, withheld = ka.apply_generalization(frame, fitted, k=K)
    assert withheld.empty
    targets = frame.drop_duplicates(list(ka.GENERALIZED))
    return min(link(target, published) for _, target in targets.iterrows())


def levels_as_delivered(**changed: int) -> pd.DataFrame:
    rows = [("AAA-2013J", K, name, changed.get(name, 0)) for name in ka.GENERALIZED]
    return pd.DataFrame(rows, columns=["course_id", "k", "quasi_identifier", "level"])


def release(frame: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    """What one fit publishes of the course, proven."""
    published, withheld = ka.apply_generalization(frame, levels, k=K)
    assert withheld.empty and ka.prove_kanonymity(published, k=K).empty
    return published.set_index("student_pseudonym")[list(ka.GENERALIZED)]


@pytest.mark.parametrize("seed", range(12))
def test_linkage_cannot_narrow_to_fewer_than_k(seed: int) -> None:
    assert narrowest_link(make_course(seed)) >= K


@pytest.mark.parametrize("seed", range(12))
def test_linkage_cannot_narrow_under_levels_fitted_elsewhere(seed: int) -> None:
    assert narrowest_link(make_course(seed), levels_as_delivered()) >= K


def test_the_attack_succeeds_without_the_second_round_of_suppression(monkeypatch: pytest.MonkeyPatch) -> None:
    assert narrowest_link(make_lone_student(), levels_as_delivered()) >= K
    monkeypatch.setattr(ka, "_grow_suppressed", lambda is_suppressed, counts, k: is_suppressed)
    assert narrowest_link(make_lone_student(), levels_as_delivered()) == 1


def test_the_attack_succeeds_on_the_rows_as_delivered() -> None:
    frame = make_course(1).assign(is_suppressed=False)
    published = frame.fillna({name: ka.UNKNOWN for name in ka.GENERALIZED})
    assert min(link(target, published) for _, target in frame.iterrows()) < K


def test_two_fits_joined_by_pseudonym_narrow_to_one_across_attributes() -> None:
    """What is not promised: each fit shows the attribute that the other hides, and k holds for either alone."""
    frame = make_lone_student().assign(age_band="0-35", region=["Wales"] * 8 + ["Scotland"] * 6 + ["Wales"])
    by_gender, by_region = (release(frame, levels_as_delivered(**hidden)) for hidden in ({"region": 2}, {"gender": 1}))
    joined = by_gender.merge(by_region, left_index=True, right_index=True, suffixes=("", "_too"))
    assert joined.groupby(list(joined.columns)).size().min() == 1


def test_a_course_of_fewer_than_k_is_not_published() -> None:
    frame = make_course(2).head(K - 1)
    published, withheld = ka.apply_generalization(frame, levels_as_delivered(), k=K)
    assert published.empty
    assert len(withheld) == K - 1


def test_cells_never_mix_courses() -> None:
    course = make_course(3).head(K)
    alone = course.assign(course_id="BBB-2013B", student_pseudonym=[f"t{i}" for i in range(len(course))]).head(2)
    both = pd.concat([course, alone], ignore_index=True)
    published, withheld = ka.apply_generalization(both, levels_as_delivered(), k=K)
    assert set(withheld["course_id"]) == {"BBB-2013B"}
    assert ka.prove_kanonymity(published, k=K).empty
