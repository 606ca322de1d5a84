"""A person's change of mind about the champion: go back to the one before, or let another version score.

What a run decides by itself belongs to `flow/promotion.py`; the days that the change reaches are scored again by
`rescore_day`.
"""

import logging
from dataclasses import dataclass
from datetime import date
from typing import Any

from iom_platform.flow.clock import utc_now
from iom_platform.flow.cohort import read_cohort, take_snapshot
from iom_platform.flow.lineage import trace_lineage
from iom_platform.settings import Settings
from iom_platform.tables import MODEL_NAME


class OverrideRefused(ValueError):
    """The change has no meaning; the message is one sentence with a remedy."""

    exit_code = 2


@dataclass(frozen=True)
class Change:
    """The champion from now on, the versions that score no longer, and the published days that it reaches."""

    version: int
    withdrawn: tuple[int, ...]
    days: tuple[date, ...]


def roll_back(settings: Settings, *, reason: str, account: str) -> Change:
    """Withdraw the champion, so that the one before it scores again. Raises OverrideRefused where there is none."""
    from iom_platform.storage.promotions import read_promotions
    from iom_platform.storage.record import open_record

    with open_record(settings) as conn:
        standing = [row for row in read_promotions(conn, MODEL_NAME) if row["withdrawn_at"] is None]
    if len(standing) < 2:
        only = f"version {standing[0]['model_version']} is the only one" if standing else "no version is promoted"
        raise OverrideRefused(f"there is nothing to go back to: {only}; fit another with `iom run ... --refit`")
    champion, before = standing[0], standing[1]
    return _change(settings, before, [champion["model_version"]], f"rollback by {account}: {_checked(reason)}")


def promote_version(settings: Settings, version: int, *, reason: str, account: str, log: logging.Logger) -> Change:
    """Let a registered version score its training day and all later ones. Raises OverrideRefused for an unknown one.

    Versions that were trained later, or on that day and registered later, are withdrawn: they would score those days.
    """
    from iom_platform.storage.promotions import find_promotion, read_promotions, reinstate_promotion
    from iom_platform.storage.record import open_record

    why = f"promoted by {account}: {_checked(reason)}"
    with open_record(settings) as conn:
        found, ranked = find_promotion(conn, MODEL_NAME, version), read_promotions(conn, MODEL_NAME)
    standing = [row for row in ranked if row["withdrawn_at"] is None]
    if standing and standing[0]["model_version"] == version:
        raise OverrideRefused(
            f"version {version} is the champion already; `iom models list` shows which days it scores"
        )
    if found is None:
        found = _add_promotion(settings, version, why, log)
    else:
        with open_record(settings) as conn:
            reinstate_promotion(conn, MODEL_NAME, version, reason=why)
    rank = (found["trained_as_of"], version)
    above = [row["model_version"] for row in standing if (row["trained_as_of"], row["model_version"]) > rank]
    return _change(settings, found, above, f"version {version} {why}")


def _checked(reason: str) -> str:
    """The reason on one line; it is kept in clustering/promotions, for whoever reads it later."""
    said = " ".join(reason.split())
    if not said:
        raise OverrideRefused("a change of the champion needs a reason; say why in --reason, without naming a student")
    return said


def _add_promotion(settings: Settings, version: int, reason: str, log: logging.Logger) -> dict[str, Any]:
    """Promotion and lineage of a version that was registered and never promoted, such as a challenger."""
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import champion_for, save_lineage, save_promotion
    from iom_platform.storage.record import open_record

    registry = Registry.of(settings)
    found = next((row for row in registry.read_versions(MODEL_NAME) if row["model_version"] == version), None)
    if found is None:
        raise OverrideRefused(f"{MODEL_NAME} has no version {version}; `iom models list` shows which there are")
    trained = date.fromisoformat(found["trained_as_of"])
    row = {
        **{name: found[name] for name in ("model_version", "mlflow_run_id", "fit_key")},
        "model_name": MODEL_NAME,
        "algorithm": registry.params(found["mlflow_run_id"])["algorithm"],
        "trained_as_of": trained,
        "reason": reason,
        "promoted_at": utc_now(),
    }
    panel = take_snapshot(read_cohort(settings, trained), trained, dagster_run_id="").frame
    with open_record(settings) as conn:
        former = champion_for(conn, MODEL_NAME, trained)
    lineage = trace_lineage(log, settings, panel, version, former)
    with open_record(settings) as conn:
        save_promotion(conn, row)
        save_lineage(conn, lineage)
    return row


def _change(settings: Settings, champion: dict[str, Any], withdrawn: list[int], because: str) -> Change:
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import days_of_others, withdraw_promotions
    from iom_platform.storage.record import open_record

    version = champion["model_version"]
    with open_record(settings) as conn:
        withdraw_promotions(conn, MODEL_NAME, withdrawn, because=because, at=utc_now())
    registry = Registry.of(settings)
    registry.set_champion(MODEL_NAME, version)
    registry.set_challenger(MODEL_NAME, None)
    with open_record(settings) as conn:
        return Change(version, tuple(withdrawn), tuple(days_of_others(conn, MODEL_NAME)))
