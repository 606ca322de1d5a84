"""The cohort of a day, and the part of it that a model is fitted on.

What a model makes of it does not belong here.
"""

from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from iom_platform.flow.resources import warehouse
from iom_platform.settings import Settings
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, STUDENT_OUTCOME

if TYPE_CHECKING:
    import pandas as pd


def read_cohort(settings: Settings, as_of_on: date) -> "pd.DataFrame":
    """The day's anonymized rows, in key order."""
    from iom_platform.storage.warehouse import read_table

    with warehouse(settings, purpose=f"read cohort of {as_of_on}", write=False) as con:
        frame = read_table(con, ANONYMIZED_STUDENT_TERM, as_of_on)
    return frame.sort_values(list(ANONYMIZED_STUDENT_TERM.key), ignore_index=True)


BEFORE_THE_END_DAYS = 28  # a row of the last days says how a course ended rather than what it was like


def read_ended(settings: Settings, as_of_on: date) -> "pd.DataFrame":
    """Enrollments whose outcome is known by a day, as they were BEFORE_THE_END_DAYS before it was known, or earlier.

    Of each the latest such row of anonymized/student_term, where it would get a level, and has_failed: Fail or Withdrawn.
    """
    from iom_platform.risk import BAD_OUTCOMES, select_scorable

    key = ", ".join(f"terms.{name}" for name in ANONYMIZED_STUDENT_TERM.key if name != "as_of_on")
    names = ", ".join(f"terms.{name}" for name in ANONYMIZED_STUDENT_TERM.column_names)
    query = f"""
        SELECT * FROM (
            SELECT {names}, outcomes.outcome, row_number() OVER (PARTITION BY {key} ORDER BY terms.as_of_on DESC) AS place
            FROM {ANONYMIZED_STUDENT_TERM.sql_name} AS terms
            INNER JOIN {STUDENT_OUTCOME.sql_name} AS outcomes USING (student_pseudonym, course_id)
            WHERE outcomes.as_of_on = ? AND terms.as_of_on + {BEFORE_THE_END_DAYS} <= outcomes.outcome_known_on
        ) AS ranked WHERE place = 1 ORDER BY course_id, student_pseudonym
    """
    with warehouse(settings, purpose=f"read outcomes known on {as_of_on}", write=False) as con:
        frame = con.frame(query, [as_of_on]).drop(columns="place")
    found = select_scorable(frame)
    return found.assign(has_failed=found["outcome"].isin(BAD_OUTCOMES))


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
    """What a model is fitted on: the day's rows that get a level, their digest, and the Dagster run that asked.

    ended: as `read_ended` returns them, which measure it; None where nobody asks.
    """

    frame: "pd.DataFrame"
    as_of_on: date
    digest: str
    dagster_run_id: str
    ended: "pd.DataFrame | None" = None

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


def take_snapshot(
    cohort: "pd.DataFrame", as_of_on: date, dagster_run_id: str, ended: "pd.DataFrame | None" = None
) -> Snapshot:
    from iom_platform.risk import select_scorable
    from iom_platform.storage.rows import hash_rows, shape_rows

    frame = select_scorable(cohort)
    digest = hash_rows(ANONYMIZED_STUDENT_TERM, shape_rows(ANONYMIZED_STUDENT_TERM, frame))
    return Snapshot(frame, as_of_on, digest, dagster_run_id, ended)
