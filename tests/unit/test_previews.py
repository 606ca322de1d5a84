"""What an asset's page shows: rows only where no row is about a person."""

import pandas as pd
import pytest

from iom_platform.flow.previews import FEWEST_ROWS, preview
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, PROMOTIONS, STUDENT_RISK, TABLES, Table
from tests.plants import pseudonym


def _risk(rows: int) -> pd.DataFrame:
    frame = pd.DataFrame({c.name: [None] * rows for c in STUDENT_RISK.columns})
    return frame.assign(
        student_pseudonym=[pseudonym(i) for i in range(rows)],
        course_id="ZQX-2026J",
        reason_1="zqplanted reason",
        risk_score=[0.1234567 + i for i in range(rows)],
        is_observed=True,
    )


def test_of_persons_only_a_summary_is_shown() -> None:
    frame = _risk(40)
    shown = preview(STUDENT_RISK, frame)
    assert set(shown) == {"column_summary"}
    text = str(shown["column_summary"].value)
    assert "| risk_score" in text and "19.62" in text  # the median of 0.12 ... 39.12
    hidden = [*frame["student_pseudonym"], "ZQX-2026J", "zqplanted", "0.1234567"]
    assert not [value for value in hidden if value in text]


def test_of_few_persons_no_quantile_is_shown() -> None:
    text = str(preview(STUDENT_RISK, _risk(FEWEST_ROWS - 1))["column_summary"].value)
    (line,) = [line for line in text.splitlines() if line.startswith("| risk_score")]
    assert [cell.strip() for cell in line.split("|")[3:7]] == ["0%", "", "", ""]


def test_of_what_is_about_no_person_rows_are_shown() -> None:
    frame = pd.DataFrame({c.name: [None] * 9 for c in PROMOTIONS.columns}).assign(model_version=range(9))
    text = str(preview(PROMOTIONS, frame)["sample_rows"].value)
    assert text.count("\n") == 6
    assert preview(PROMOTIONS, frame.head(0)) == {}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.path)
def test_a_table_with_a_pseudonym_is_about_persons(table: Table) -> None:
    assert table.is_about_persons == ("student_pseudonym" in table.column_names)
    assert ANONYMIZED_STUDENT_TERM.is_about_persons
