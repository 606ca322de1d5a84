"""`iom models`: which versions there are and what each scores, and the commands by which a person changes that.

What such a change does belongs to `flow/override.py`.
"""

import getpass
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from iom_platform.cli.environment import start_platform
from iom_platform.cli.runs import RunFailed, execute
from iom_platform.flow.override import Change, promote_version, roll_back
from iom_platform.settings import Settings
from iom_platform.tables import MODEL_NAME

_LOG = logging.getLogger(__name__)
_MEASURES = {"stability": "stability_ari_mean", "silhouette": "silhouette", "course": "course_nmi"}


def list_models() -> None:
    """Print every registered version, newest first: what it is, how good, what it scores and why."""
    from iom_platform.storage.champion import say_days_of_others
    from iom_platform.storage.model_registry import Registry
    from iom_platform.storage.promotions import days_of_others, read_promotions
    from iom_platform.storage.record import open_record

    settings = start_platform()
    registry = Registry.of(settings)
    with open_record(settings) as conn:
        ranked, others = read_promotions(conn, MODEL_NAME), days_of_others(conn, MODEL_NAME)
    versions = registry.read_versions(MODEL_NAME)
    if not versions:
        print("No model is registered yet; `iom run` fits the first one.")
        return
    print(f"{'version':>7}  {'trained':<10}  {'fit':<18}  {'stability':>9}  {'silhouette':>10}  {'course':>6}  state")
    for found in versions:
        params, metrics = registry.params(found["mlflow_run_id"]), registry.metrics(found["mlflow_run_id"])
        shown = {name: f"{metrics[m]:.2f}" if m in metrics else "-" for name, m in _MEASURES.items()}
        print(
            f"{found['model_version']:>7}  {found.get('trained_as_of', '-'):<10}  {_name(params):<18}  {shown['stability']:>9}  "
            f"{shown['silhouette']:>10}  {shown['course']:>6}  {_state(found['model_version'], ranked)}"
        )
    for sentence in say_days_of_others(ranked, others):
        print(sentence)


def _name(params: dict[str, str]) -> str:
    from iom_platform.clustering.algorithms import name_fit

    return name_fit(params).replace(",", "")


def _state(version: int, ranked: Sequence[Mapping[str, Any]]) -> str:
    row = next((row for row in ranked if row["model_version"] == version), None)
    if row is None:
        return "not promoted"
    if row["withdrawn_at"] is not None:
        return f"withdrawn: {row['withdrawn_because']}"
    standing = [row for row in ranked if row["withdrawn_at"] is None]
    after = standing[: standing.index(row)]
    if after and after[-1]["trained_as_of"] == row["trained_as_of"]:
        return f"scores no day, for version {after[-1]['model_version']} was trained on the same one: {row['reason']}"
    return f"scores from {row['trained_as_of']} {'to the next' if after else 'on'}: {row['reason']}"


def promote_model(version: int, *, reason: str) -> None:
    """Let a version score its training day and all later ones, and score again what is published of them."""
    settings = start_platform()
    _carry_out(settings, promote_version(settings, version, reason=reason, account=getpass.getuser(), log=_LOG))


def roll_back_model(*, reason: str) -> None:
    """Withdraw the champion, and score again what it scored with the one before it."""
    settings = start_platform()
    _carry_out(settings, roll_back(settings, reason=reason, account=getpass.getuser(), log=_LOG))


def _carry_out(settings: Settings, change: Change) -> None:
    """Score each day again; one that fails keeps its rows, and stops none of the others."""
    gone = ", ".join(map(str, change.withdrawn))
    print(f"{MODEL_NAME} version {change.version} is the champion{f'; withdrawn: version {gone}' if gone else ''}.")
    failed, exit_code = [], 0
    for day in change.days:
        print(f"Scoring {day} again ...", file=sys.stderr)
        try:
            execute(settings, "rescore_day", day.isoformat(), {}, {"iom/as_of_on": day.isoformat()})
        except RunFailed as error:
            failed.append(f"{day}: {error}")
            exit_code = error.exit_code
    if failed:
        raise RunFailed(
            f"{'; '.join(failed)} `iom models promote {change.version}` scores again what is left.", exit_code
        )
    print(f"Days scored again: {', '.join(map(str, change.days)) or 'none'}.")
