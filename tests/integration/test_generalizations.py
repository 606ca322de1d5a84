"""The levels that the wall applies: fitted once per course and k, and kept whatever is fitted beside them.

What a level does to a value is the business of `tests/unit/test_kanonymity.py`.
"""

from collections.abc import Callable

import dagster as dg
import pandas as pd
import pytest

from iom_platform.flow.privacy import anonymized_student_term
from iom_platform.flow.resources import Platform, asset_key
from iom_platform.privacy.kanonymity import fit_generalization
from iom_platform.settings import Settings
from iom_platform.storage.rows import check_key, shape_rows
from iom_platform.storage.warehouse import open_warehouse, prepare_warehouse, read_table
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, GENERALIZATIONS, STUDENT_TERM
from tests.plants import AS_OF, valid_frame

Published = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture
def publish(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, pd.DataFrame], Published]:
    """(rows of the day, all levels) after the wall has run under a k on these features; the warehouse begins empty."""
    settings.warehouse_path.unlink(missing_ok=True)
    monkeypatch.setenv("IOM_HOME", str(settings.home))

    def run(k: int, features: pd.DataFrame) -> Published:
        monkeypatch.setenv("IOM_PRIVACY__K", str(k))
        with open_warehouse(settings, purpose="features", write=True) as con:
            prepare_warehouse(con)
            columns = ", ".join(f"{c.name} {con.types[c.dtype]}" for c in STUDENT_TERM.columns)
            con.execute(f"CREATE OR REPLACE TABLE {STUDENT_TERM.sql_name} ({columns})")
            con.insert(STUDENT_TERM, shape_rows(STUDENT_TERM, features))
        made = dg.materialize(
            [anonymized_student_term], partition_key=AS_OF.isoformat(), resources={"platform": Platform()}
        )
        with open_warehouse(settings, purpose="look", write=False) as con:
            levels = read_table(con, GENERALIZATIONS)
            rows = read_table(con, ANONYMIZED_STUDENT_TERM, AS_OF)
        (event,) = made.asset_materializations_for_node("anonymize_student_term")[1:]
        assert event.asset_key == asset_key(GENERALIZATIONS)
        assert event.metadata["dagster/partition_row_count"].value == len(levels)
        return rows, levels

    return run


def test_another_k_on_the_same_day_leaves_the_levels_of_the_first(publish: Callable[..., Published]) -> None:
    features = valid_frame(STUDENT_TERM.path)
    first, levels_of_first = publish(5, features)
    other, levels = publish(8, features)
    assert not other.equals(first), "both k publish the same rows: the test is blind"
    pd.testing.assert_frame_equal(levels[levels["k"] == 5].reset_index(drop=True), levels_of_first)
    assert set(levels["k"]) == {5, 8}
    check_key(GENERALIZATIONS, shape_rows(GENERALIZATIONS, levels))


def test_the_first_k_again_applies_its_own_levels(publish: Callable[..., Published]) -> None:
    """It does not fit a second time, although the cohort is by now one that would be fitted otherwise."""
    features = valid_frame(STUDENT_TERM.path)
    changed = features.assign(imd_band=[f"{row % 10 * 10}-{row % 10 * 10 + 10}%" for row in range(len(features))])
    fits = [fit_generalization(frame, k=5, max_suppressed_share=0.05) for frame in (features, changed)]
    assert not fits[0].equals(fits[1]), "both cohorts have the same levels: the test is blind"
    _, levels_of_first = publish(5, features)
    publish(8, features)
    _, levels = publish(5, changed)
    pd.testing.assert_frame_equal(levels[levels["k"] == 5].reset_index(drop=True), levels_of_first)
