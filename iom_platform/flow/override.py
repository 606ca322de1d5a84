"""A person's change of mind about the champion: go back to the one before, or let another version score.

What a run decides by itself belongs to `flow/promotion.py`; the days that the change reaches are scored again by
`rescore_day`. A change is made whole or not at all, and only where those days can be scored.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from iom_platform.flow.clock import utc_now
from iom_platform.flow.cohort import days_with_cohort, read_cohort, take_snapshot
from iom_platform.flow.lineage import read_uids, trace_lineage
from iom_platform.settings import Settings
from iom_platform.tables import MODEL_NAME

if TYPE_CHECKING:
    import pandas as pd
    from psycopg2.extensions import connection as Connection

_MAX_REASON = 500


class OverrideRefused(ValueError):
    """The change has no meaning or cannot be carried out; the message is one sentence with a remedy."""

    exit_code = 2


@dataclass(frozen=True)
class Change:
    """The champion from now on, the versions that score no longer, and the published days to be scored again."""

    version: int
    withdrawn: tuple[int, ...]
    days: tuple[date, ...]


def roll_back(settings: Settings, *, reason: str, account: str, log: logging.Logger) -> Change:
    """Withdraw the champion, so that the one before it scores again. Raises OverrideRefused where there is none."""
    why = f"rollback by {account}: {_checked(reason)}"
    with _changing(settings) as (conn, standing):
        if len(standing) < 2:
            only = f"version {standing[0]['model_version']} is the only one" if standing else "no version is promoted"
            raise OverrideRefused(f"there is nothing to go back to: {only}; fit another with `iom run ... --refit`")
        champion, before = standing[0], standing[1]
        change = _change(conn, settings, before, [champion["model_version"]], why, log)
    return _told(settings, change)


def promote_version(settings: Settings, version: int, *, reason: str, account: str, log: logging.Logger) -> Change:
    """Let a registered version score its training day and all later ones. Raises OverrideRefused for an unknown one.

    Versions that were trained later, or on that day and registered later, are withdrawn: they would score those days. For
    the champion itself it only names the days that another version published, as a change that broke off leaves them.
    """
    from iom_platform.storage.promotions import find_promotion, reinstate_promotion, save_promotion

    why = f"promoted by {account}: {_checked(reason)}"
    with _changing(settings) as (conn, standing):
        if standing and standing[0]["model_version"] == version:
            change = _change(conn, settings, standing[0], [], why, log)
            if not change.days:
                raise OverrideRefused(
                    f"version {version} is the champion already, and published every day that it scores"
                )
        else:
            if (found := find_promotion(conn, MODEL_NAME, version)) is None:
                found = _make_promotion(settings, version, why)
                save_promotion(conn, found)
            reinstate_promotion(conn, MODEL_NAME, version, reason=why)
            rank = (found["trained_as_of"], version)
            above = [row["model_version"] for row in standing if (row["trained_as_of"], row["model_version"]) > rank]
            change = _change(conn, settings, found, above, f"version {version} {why}", log)
    return _told(settings, change)


def _checked(reason: str) -> str:
    """The reason on one line; it is kept in clustering/promotions, for whoever reads it later."""
    said = " ".join(reason.split())
    if not said or len(said) > _MAX_REASON:
        raise OverrideRefused(
            f"a change of the champion needs a reason of at most {_MAX_REASON} characters; say why in --reason, without "
            "naming a student"
        )
    return said


@contextmanager
def _changing(settings: Settings) -> "Iterator[tuple[Connection, list[dict[str, Any]]]]":
    """One change at a time, in one transaction, and the promotions that stand, the champion first."""
    from iom_platform.storage.promotions import lock_promotions, read_promotions
    from iom_platform.storage.record import open_record

    with open_record(settings) as conn:
        lock_promotions(conn)
        yield conn, [row for row in read_promotions(conn, MODEL_NAME) if row["withdrawn_at"] is None]


def _change(
    conn: "Connection",
    settings: Settings,
    champion: dict[str, Any],
    withdrawn: Iterable[int],
    because: str,
    log: logging.Logger,
) -> Change:
    """Withdraw, and see that the champion can score what it then has to."""
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import days_of_others, save_lineage, withdraw_promotions

    version = champion["model_version"]
    Registry.of(settings).load_model(MODEL_NAME, version)  # raises where a file of it is gone
    if not read_uids(settings, version):
        save_lineage(conn, _trace(settings, champion, log))
    withdraw_promotions(conn, MODEL_NAME, withdrawn, because=because, at=utc_now())
    days = days_of_others(conn, MODEL_NAME)
    if lost := sorted(set(days) - days_with_cohort(settings)):
        raise OverrideRefused(
            f"{', '.join(map(str, lost))} cannot be scored again, for anonymized/student_term has no row of it any more; nothing "
            "was changed: bring the warehouse back first"
        )
    return Change(version, tuple(withdrawn), tuple(days))


def _trace(settings: Settings, promotion: dict[str, Any], log: logging.Logger) -> "pd.DataFrame":
    from iom_platform.storage.promotions import champion_for
    from iom_platform.storage.record import open_record

    trained = promotion["trained_as_of"]
    panel = take_snapshot(read_cohort(settings, trained), trained, dagster_run_id="").frame
    with open_record(settings) as conn:
        former = champion_for(conn, MODEL_NAME, trained)
    return trace_lineage(log, settings, panel, promotion["model_version"], former)


def _make_promotion(settings: Settings, version: int, reason: str) -> dict[str, Any]:
    """The promotion of a version that was registered and never promoted, such as a challenger."""
    from iom_platform.storage.model_registry import VERSION_TAGS, Registry

    registry = Registry.of(settings)
    found = next((row for row in registry.read_versions(MODEL_NAME) if row["model_version"] == version), None)
    if found is None or not set(VERSION_TAGS) <= set(found):
        raise OverrideRefused(
            f"{MODEL_NAME} has no version {version} that a run fitted; `iom models list` shows which there are"
        )
    return {
        **{name: found[name] for name in ("model_version", "mlflow_run_id", "fit_key")},
        "model_name": MODEL_NAME,
        "algorithm": registry.params(found["mlflow_run_id"])["algorithm"],
        "trained_as_of": date.fromisoformat(found["trained_as_of"]),
        "reason": reason,
        "promoted_at": utc_now(),
    }


def _told(settings: Settings, change: Change) -> Change:
    """Let the aliases in MLflow say it too."""
    from iom_platform.storage.model_registry import Registry

    registry = Registry.of(settings)
    registry.set_champion(MODEL_NAME, change.version)
    if registry.challenger(MODEL_NAME) == change.version:
        registry.set_challenger(MODEL_NAME, None)
    return change
