"""What an asset's page shows of a table's content: rows where no row is about a person, else a summary of each column.

Plots belong to `flow/plots.py`; whether the content is right belongs to the checks.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.tables import Table

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 5
FEWEST_ROWS = 20  # of fewer values a quantile would be somebody's value


def preview(table: Table, frame: "pd.DataFrame") -> dict[str, dg.MetadataValue]:
    """Metadata for the table's page; `frame` has the rows that were written."""
    if frame.empty:
        return {}
    if table.is_about_persons:
        return {"column_summary": dg.MetadataValue.md(_summarize(table, frame))}
    return {"sample_rows": dg.MetadataValue.md(frame.head(SAMPLE_ROWS).to_markdown(index=False))}


def _summarize(table: Table, frame: "pd.DataFrame") -> str:
    """Per column the share of missing values, and of numbers the 5 %, 50 % and 95 % quantiles; never a value of a row."""
    import pandas as pd

    rows = []
    for column in table.columns:
        values = frame[column.name]
        quantiles: tuple[Any, ...] = ("", "", "")
        if column.dtype in ("int", "bigint", "float", "bool") and values.count() >= FEWEST_ROWS:
            numbers = values.dropna().astype("float64")
            if column.dtype == "bool":
                quantiles = ("", f"true {numbers.mean():.0%}", "")
            else:
                quantiles = tuple(f"{q:.4g}" for q in numbers.quantile([0.05, 0.5, 0.95]))
        rows.append((column.name, column.kind, f"{values.isna().mean():.0%}", *quantiles))
    head = ["column", "privacy class", "missing", "5 %", "median", "95 %"]
    return str(pd.DataFrame(rows, columns=head).to_markdown(index=False, disable_numparse=True))
