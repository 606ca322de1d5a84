"""Plots that an asset's page shows, as PNG bytes; counts only, never a row.

A cluster's profile plot belongs to `iom_platform.clustering`.
"""

import io
from typing import TYPE_CHECKING

from iom_platform.report.charts import LEVEL_COLORS

if TYPE_CHECKING:
    import pandas as pd


def plot_levels(summary: "pd.DataFrame") -> bytes:
    """Stacked bars of enrollments per course and level; `summary` as `iom_platform.risk.summarize_risk` returns it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.4 * len(summary)), layout="constrained")
    axes = figure.subplots()
    left = summary["students"] * 0
    for level, color in LEVEL_COLORS.items():
        axes.barh(summary["course_id"], summary[level], left=left, color=color, label=level)
        left = left + summary[level]
    axes.invert_yaxis()
    axes.set_xlabel("enrollments")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=80)
    return png.getvalue()
