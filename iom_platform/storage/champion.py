"""The champion in words: which registered model scores a day, and where it is not the one that the settings ask for.

Choosing, promoting and loading it do not belong here; nor does MLflow's library, whose import takes longer than
`iom doctor` may: parameters of a fit are read from MLflow's database.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg2
import psycopg2.errors

from iom_platform.settings import Clustering
from iom_platform.storage import promotions, record
from iom_platform.storage.postgres_server import Server
from iom_platform.tables import MODEL_NAME

_MLFLOW = "mlflow"  # the database


@dataclass(frozen=True)
class Champion:
    """A promoted model; `params` are those of its fit by their names in MLflow."""

    version: int
    trained_as_of: date
    params: Mapping[str, str]

    def __str__(self) -> str:
        from iom_platform.clustering.algorithms import name_fit

        what = name_fit(self.params)
        return f"{MODEL_NAME} version {self.version} ({what}, trained as of {self.trained_as_of})"

    def other_than(self, asked: Clustering) -> str | None:
        """What the settings ask for, with the remedy; None where it is what this model was fitted with."""
        from iom_platform.clustering.algorithms import name_fit, select_params
        from iom_platform.clustering.preprocessing import DEFAULTS

        if asked.algorithm == "auto":  # whatever the rule chose
            return None
        params = select_params(asked.algorithm, asked.knobs)
        differing = {n: v for n, v in params.items() if self.params.get(n) != str(v)}
        differing |= {n: v or "none" for n, v in DEFAULTS.items() if n in self.params and n not in params}
        if not differing:
            return None
        # what only the algorithm that is asked for knows needs no telling
        others = [
            f"{n} {v}"
            for n, v in differing.items()
            if n in (*DEFAULTS, *self.params) and n not in ("algorithm", "n_clusters")
        ]
        method = name_fit({n: params[n] for n in ("algorithm", "n_clusters") if n in params})
        return f"the settings ask for {', '.join([method, *others])}: add --refit to `iom run`"


def read_champion(server: Server, as_of_on: date = date.max) -> Champion | None:
    """The champion of a day, by default the newest; None before the first promotion."""
    try:
        with contextlib.closing(psycopg2.connect(server.url(record.DATABASE), connect_timeout=10)) as conn:
            promoted = promotions.champion_for(conn, MODEL_NAME, as_of_on)
    except psycopg2.errors.UndefinedColumn:
        raise record.RecordError(
            "the record is of an earlier version of the platform; `iom tables` brings it up to date"
        ) from None
    except (psycopg2.OperationalError, psycopg2.errors.UndefinedTable):  # the database, or the table, is not made yet
        return None
    if promoted is None:
        return None
    with contextlib.closing(psycopg2.connect(server.url(_MLFLOW), connect_timeout=10)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT key, value FROM params WHERE run_uuid = %s", (promoted["mlflow_run_id"],))
        return Champion(promoted["model_version"], promoted["trained_as_of"], dict(cursor.fetchall()))


def read_days_of_others(server: Server) -> list[str]:
    """What there is to say of days that another version published than would score them; nothing where there is none."""
    with contextlib.closing(psycopg2.connect(server.url(record.DATABASE), connect_timeout=10)) as conn:
        ranked, days = promotions.read_promotions(conn, MODEL_NAME), promotions.days_of_others(conn, MODEL_NAME)
    return say_days_of_others(ranked, days)


def say_days_of_others(ranked: Sequence[Mapping[str, Any]], days: Sequence[date]) -> list[str]:
    """The same; ranked: as `read_promotions`, days: as `days_of_others` returns them."""
    standing = [row for row in ranked if row["withdrawn_at"] is None]
    if not days or not standing:
        return []
    return [
        f"Published by another version than scores them now: {', '.join(map(str, days))}. "
        f"`iom models promote {standing[0]['model_version']} --reason TEXT` scores them again."
    ]
