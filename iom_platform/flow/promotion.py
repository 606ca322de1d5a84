"""Promotion: which model a day gets where it has none or is to have another, and a person's change of mind.

What makes a fit good enough is for `iom_platform.clustering.selection` to say, what it leaves in MLflow for `flow/fitting.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.clustering.selection import AUTO, Choice, Limits, choose, list_candidates, read_params
from iom_platform.flow.clock import utc_now
from iom_platform.flow.cohort import Snapshot, read_cohort, read_ended, take_snapshot
from iom_platform.flow.fitting import Fit, fit_each, log_fit, log_others, open_selection, tell_selection
from iom_platform.flow.lineage import read_uids, trace_lineage
from iom_platform.flow.resources import refusal
from iom_platform.settings import Settings
from iom_platform.storage.model_runs import RegistryError
from iom_platform.tables import MODEL_NAME

if TYPE_CHECKING:
    from iom_platform.storage.model_registry import Registry


@dataclass(frozen=True)
class Decision:
    """A day's champion (a row of clustering/promotions, None where nothing can score), and how it came to be.

    faults: why a fit of this run was refused, gate to sentence.
    """

    champion: dict[str, Any] | None
    how: str
    faults: Mapping[str, str] = field(default_factory=dict)


def limits_of(settings: Settings) -> Limits:
    asked = settings.validation
    return Limits(asked.min_stability, asked.min_jaccard, asked.stability_margin, asked.max_course_nmi)


def see_to_champion(context: dg.AssetExecutionContext, settings: Settings, as_of_on: date, *, refit: bool) -> Decision:
    """Keep the day's champion, or fit one where there is none or `refit` is asked."""
    from iom_platform.clustering.training import ROWS_PER_CLUSTER, least_clusters
    from iom_platform.storage.promotions import champion_for
    from iom_platform.storage.record import open_record

    with open_record(settings) as conn:
        champion = champion_for(conn, MODEL_NAME, as_of_on)
    if champion and not refit:
        return Decision(champion, f"{_kept(champion)}, trained as of {champion['trained_as_of']}")
    snapshot = take_snapshot(read_cohort(settings, as_of_on), as_of_on, context.run_id, read_ended(settings, as_of_on))
    wanted, rows = list_asked(settings), len(snapshot.frame)
    asked = [params for params in wanted if rows >= ROWS_PER_CLUSTER * least_clusters(params)]
    if not asked:
        clusters = min(least_clusters(params) for params in wanted)
        few = f"{rows} observed enrollments with enough data are too few to fit {clusters} clusters"
        return Decision(champion, f"{_kept(champion)}: {few}")
    with open_selection(settings, snapshot) as selection:
        return _decide(context, settings, snapshot, asked, champion, refit=refit, selection=selection)


def list_asked(settings: Settings) -> list[dict[str, Any]]:
    """The parameters of each fit that may become the champion."""
    asked = settings.clustering
    return list_candidates(asked.algorithm, asked.candidates, asked.n_clusters_range, asked.knobs)


def _kept(champion: Mapping[str, Any] | None) -> str:
    return f"kept version {champion['model_version']}" if champion else "no model"


def _decide(
    context: dg.AssetExecutionContext,
    settings: Settings,
    snapshot: Snapshot,
    asked: Sequence[dict[str, Any]],
    former: dict[str, Any] | None,
    *,
    refit: bool,
    selection: str,
) -> Decision:
    """Fit what is asked, promote the best of it or refuse it, and log the others beside it."""
    fits, beside, choice = _choose(context, settings, snapshot, asked, former)
    made = _register(settings, snapshot, fits[choice.place], selection, refit=refit)
    if choice.faults:
        _registry(settings).set_challenger(MODEL_NAME, made["model_version"])
        decision = Decision(former, f"{_kept(former)}: {_say_refused(made['model_version'], choice)}", choice.faults)
    else:
        day = snapshot.as_of_on
        why = "forced refit" if refit else f"first model trained on or before {day}"
        row = _promote(context, settings, snapshot, fits[choice.place], made, former, f"{why}: {choice.reason}")
        _registry(settings).set_challenger(MODEL_NAME, None)
        decision = Decision(row, f"promoted version {row['model_version']}: {row['reason']}")
    others = [fit for place, fit in enumerate(fits) if place != choice.place]
    known = [fit.params for fit in (*fits, *beside)]
    compared = [
        *beside, *fit_each(context, snapshot, [p for p in _only_compared(settings) if p not in known], iterations=0)
    ]  # fmt: skip
    log_others(context, settings, snapshot, [*others, *compared], selection)
    tell_selection(context, settings, selection, [*fits, *compared], choice, decision.how)
    return decision


def _say_refused(version: int, choice: Choice) -> str:
    return (
        f"version {version} ({choice.reason}) was not promoted: {'; '.join(choice.faults.values())}. "
        f"`iom models promote {version}` lets it score all the same"
    )


def _choose(
    context: dg.AssetExecutionContext,
    settings: Settings,
    snapshot: Snapshot,
    asked: Sequence[dict[str, Any]],
    former: dict[str, Any] | None,
) -> tuple[list[Fit], list[Fit], Choice]:
    """The fits to choose from, what they are only compared with, and the choice.

    The champion's method is fitted on the same rows: two stabilities say nothing of each other on two cohorts. Where the
    rule chooses, it is one of the candidates.
    """
    from iom_platform.clustering.training import train

    iterations, method = settings.validation.bootstrap_iterations, _method_of(context, settings, former)
    is_other = method is not None and method not in asked
    if settings.clustering.algorithm == AUTO:
        wanted = [*asked, method] if method and is_other else asked
        if not (fits := fit_each(context, snapshot, wanted, iterations=iterations)):
            raise refusal("No candidate of clustering.candidates could be fitted; the run's log says why of each.")
        beside: list[Fit] = []
    else:
        (params,) = asked
        try:
            fits = [Fit(params, train(snapshot.frame, **params, bootstrap_iterations=iterations, ended=snapshot.ended))]
        except ValueError as error:
            raise refusal(f"{params['algorithm']} could not be fitted: {error}.") from None
        beside = fit_each(context, snapshot, [method] if method and is_other else [], iterations=iterations)
    champion = next((fit.candidate for fit in (*fits, *beside) if fit.params == method), None)
    return fits, beside, choose([fit.candidate for fit in fits], limits_of(settings), champion=champion)


def _method_of(
    context: dg.AssetExecutionContext, settings: Settings, former: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The parameters of the champion's fit; None without one, or where this version of the platform cannot fit it."""
    if former is None:
        return None
    try:
        return read_params(_registry(settings).params(former["mlflow_run_id"]))
    except (RegistryError, ValueError, TypeError, KeyError) as error:
        context.log.warning(
            f"Version {former['model_version']} cannot be fitted again ({type(error).__name__}), so no stability is compared with its."
        )
        return None


def _registry(settings: Settings) -> "Registry":
    from iom_platform.storage.model_registry import Registry

    return Registry.of(settings)


def _register(settings: Settings, snapshot: Snapshot, fit: Fit, selection: str, *, refit: bool) -> dict[str, Any]:
    """The fit as a registered version; an equal one, which a run that was killed left behind, is reused unless forced."""
    key = snapshot.fit_key(settings, fit.params)
    found = None if refit else _registry(settings).find_version_by_fit_key(MODEL_NAME, key)
    return found or log_fit(settings, snapshot, fit, register=True, selection=selection)


def _promote(
    context: dg.AssetExecutionContext,
    settings: Settings,
    snapshot: Snapshot,
    fit: Fit,
    made: Mapping[str, Any],
    former: dict[str, Any] | None,
    reason: str,
) -> dict[str, Any]:
    """Save promotion and lineage of a registered version, both or neither."""
    from iom_platform.storage.promotions import lock_promotions, save_lineage, save_promotion
    from iom_platform.storage.record import open_record

    row = {
        "model_name": MODEL_NAME,
        "algorithm": fit.params["algorithm"],
        "trained_as_of": snapshot.as_of_on,
        "fit_key": snapshot.fit_key(settings, fit.params),
        "reason": reason,
        "promoted_at": utc_now(),
        **made,
    }
    lineage = trace_lineage(context.log, settings, snapshot.frame, row["model_version"], former)
    with open_record(settings) as conn:
        lock_promotions(conn)
        save_promotion(conn, row)
        save_lineage(conn, lineage)
    return row


def _only_compared(settings: Settings) -> list[dict[str, Any]]:
    """Where the settings name the algorithm, the other candidates are fitted for comparison alone."""
    from iom_platform.clustering.algorithms import select_params

    asked = settings.clustering
    if asked.algorithm == AUTO:
        return []
    names = [name for name in dict.fromkeys(asked.candidates) if name != asked.algorithm]
    return [select_params(name, asked.knobs) for name in names]


def see_to_lineage(context: dg.AssetExecutionContext, settings: Settings, champion: dict[str, Any]) -> None:
    """Give a champion that an earlier version of the platform promoted the uids that it would have been born with."""
    from iom_platform.risk import select_scorable
    from iom_platform.storage.promotions import save_lineage
    from iom_platform.storage.record import open_record

    if not read_uids(settings, champion["model_version"]):
        panel = select_scorable(read_cohort(settings, champion["trained_as_of"]))
        lineage = trace_lineage(context.log, settings, panel, champion["model_version"], None)
        with open_record(settings) as conn:
            save_lineage(conn, lineage)
