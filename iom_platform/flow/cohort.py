"""The cohort of a day, and the part of it that a model is fitted on.

What a model makes of it does not belong here.
"""

from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from iom_platform.flow.resources import warehouse
from iom_platform.settings import Settings
from iom_platform.tables import ANONYMIZED_STUDENT_TERM

if TYPE_CHECKING:
    import pandas as pd


def read_cohort(settings: Settings, as_of_on: date) -> "pd.DataFrame":
    """The day's anonymized rows, in key order."""
    from iom_platform.storage.warehouse import read_table

    with warehouse(settings, purpose=f"read cohort of {as_of_on}", write=False) as con:
        frame = read_table(con, ANONYMIZED_STUDENT_TERM, as_of_on)
    return frame.sort_values(list(ANONYMIZED_STUDENT_TERM.key), ignore_index=True)


def days_with_cohort(settings: Settings) -> set[date]:
    """The days of which the warehouse holds anonymized rows. Raises WarehouseBusy."""
    from iom_platform.storage.warehouse import count_rows, open_warehouse

    with open_warehouse(settings, purpose="look for cohorts", write=False) as con:
        if count_rows(con, ANONYMIZED_STUDENT_TERM) is None:
            return set()
        found = con.execute(f"SELECT DISTINCT as_of_on FROM {ANONYMIZED_STUDENT_TERM.sql_name}").fetchall()
    return {day for (day,) in found}


@dataclass(frozen=True)
class Snapshot:
    """What a model is fitted on: the day's rows that get a level, their digest, and the Dagster run that asked."""

    frame: "pd.DataFrame"
    as_of_on: date
    digest: str
    dagster_run_id: str

    def fit_key(self, settings: Settings, params: dict[str, Any]) -> str:
        from iom_platform.clustering.algorithms import fit_key
        from iom_platform.risk import RISK_VERSION

        versions = {"risk_version": RISK_VERSION, "scikit-learn": version("scikit-learn")}
        return fit_key(self.digest, {**params, **settings.risk.model_dump(), **versions}, params["seed"])

    @property
    def dataset(self) -> dict[str, Any]:
        """As MLflow is told of it."""
        return {
            "name": ANONYMIZED_STUDENT_TERM.path,
            "digest": self.digest,
            "rows": len(self.frame),
            "as_of_on": self.as_of_on.isoformat(),
        }


def take_snapshot(cohort: "pd.DataFrame", as_of_on: date, dagster_run_id: str) -> Snapshot:
    from iom_platform.risk import select_scorable
    from iom_platform.storage.rows import hash_rows, shape_rows

    frame = select_scorable(cohort)
    digest = hash_rows(ANONYMIZED_STUDENT_TERM, shape_rows(ANONYMIZED_STUDENT_TERM, frame))
    return Snapshot(frame, as_of_on, digest, dagster_run_id)
