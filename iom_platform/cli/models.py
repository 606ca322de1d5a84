"""`iom models`: which versions there are and what each scores, and the commands by which a person changes that.

What such a change does belongs to `flow/override.py`.
"""

import getpass
import logging
import sys
from typing import Any

from iom_platform.cli.environment import start_platform
from iom_platform.cli.runs import execute
from iom_platform.flow.override import Change, promote_version, roll_back
from iom_platform.settings import Settings
from iom_platform.tables import MODEL_NAME

_MEASURES = {"stability": "stability_ari_mean", "silhouette": "silhouette", "course": "course_nmi"}


def list_models() -> None:
    """Print every registered version, newest first: what it is, how good, what it scores and why."""
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import read_promotions
    from iom_platform.storage.record import open_record

    settings = start_platform()
    registry = Registry.of(settings)
    with open_record(settings) as conn:
        ranked = read_promotions(conn, MODEL_NAME)
    versions = registry.read_versions(MODEL_NAME)
    if not versions:
        print("No model is registered yet; `iom run` fits the first one.")
        return
    promoted = {row["model_version"]: row for row in ranked}
    standing = [row["model_version"] for row in ranked if row["withdrawn_at"] is None]
    print(f"{'version':>7}  {'trained':<10}  {'fit':<18}  {'stability':>9}  {'silhouette':>10}  {'course':>6}  state")
    for found in versions:
        params, metrics = registry.params(found["mlflow_run_id"]), registry.metrics(found["mlflow_run_id"])
        shown = {name: f"{metrics[m]:.2f}" if m in metrics else "-" for name, m in _MEASURES.items()}
        row = promoted.get(found["model_version"])
        print(
            f"{found['model_version']:>7}  {found['trained_as_of']:<10}  {_name(params):<18}  {shown['stability']:>9}  "
            f"{shown['silhouette']:>10}  {shown['course']:>6}  {_state(row, standing)}"
        )


def _name(params: dict[str, str]) -> str:
    from iom_platform.clustering.algorithms import name_fit

    return name_fit(params).replace(",", "")


def _state(row: dict[str, Any] | None, standing: list[int]) -> str:
    if row is None:
        return "not promoted"
    if row["withdrawn_at"] is not None:
        return f"withdrawn: {row['withdrawn_because']}"
    newest = " on" if standing and row["model_version"] == standing[0] else " to the next"
    return f"scores from {row['trained_as_of']}{newest}: {row['reason']}"


def promote_model(version: int, *, reason: str) -> None:
    """Let a version score its training day and all later ones, and score again what is published of them."""
    settings = start_platform()
    log = logging.getLogger(__name__)
    _carry_out(settings, promote_version(settings, version, reason=reason, account=getpass.getuser(), log=log))


def roll_back_model(*, reason: str) -> None:
    """Withdraw the champion, and score again what it scored with the one before it."""
    settings = start_platform()
    _carry_out(settings, roll_back(settings, reason=reason, account=getpass.getuser()))


def _carry_out(settings: Settings, change: Change) -> None:
    gone = ", ".join(map(str, change.withdrawn))
    print(f"{MODEL_NAME} version {change.version} is the champion{f'; withdrawn: version {gone}' if gone else ''}.")
    for day in change.days:
        print(f"Scoring {day} again ...", file=sys.stderr)
        execute(settings, "rescore_day", day.isoformat(), {}, {"iom/as_of_on": day.isoformat()})
    scored = ", ".join(map(str, change.days)) or "none was published by another version"
    print(f"Days scored again: {scored}.")
