"""Fits on a snapshot, and what each leaves in MLflow: a run with its measures, profile, card and risk cut-offs.

Which fit is promoted, and why, belongs to `flow/promotion.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.clustering.selection import Candidate, Choice
from iom_platform.clustering.training import Trained
from iom_platform.flow.cohort import Snapshot
from iom_platform.settings import Settings
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, MODEL_INPUTS, MODEL_NAME

if TYPE_CHECKING:
    import pandas as pd

CANDIDATES_FILE = "candidates.csv"
_RULE = ("min_stability", "stability_margin", "min_jaccard", "max_course_nmi", "bootstrap_iterations")


@dataclass(frozen=True)
class Fit:
    """One candidate: parameters as `select_params` returns them, and what training made of them."""

    params: dict[str, Any]
    trained: Trained

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.params, self.trained.quality)


def fit_each(
    context: dg.AssetExecutionContext, snapshot: Snapshot, asked: Sequence[dict[str, Any]], *, iterations: int
) -> list[Fit]:
    """The fits that succeed; none of the others may cost the day its scores, so they are told and left out."""
    from iom_platform.clustering.algorithms import FitRefused, name_fit
    from iom_platform.clustering.training import train

    fits = []
    for params in asked:
        name = name_fit(params)
        try:
            fits.append(
                Fit(params, train(snapshot.frame, **params, bootstrap_iterations=iterations, ended=snapshot.ended))
            )
        except FitRefused as error:  # no fault: a small cohort, say, has no dense groups
            context.log.info(f"{name} finds no clusters: {error}")
        except Exception as error:  # whose message may quote a value
            context.log.warning(f"{name} could not be fitted: {type(error).__name__}")
    return fits


def log_fit(
    settings: Settings, snapshot: Snapshot, fit: Fit, *, register: bool, selection: str | None
) -> dict[str, Any]:
    """Log a fit as a run, nested in the run of its selection; {model_version (None unless registered), mlflow_run_id}."""
    from iom_platform.clustering.algorithms import name_fit, run_params
    from iom_platform.clustering.card import ABOUT, PURPOSE, write_model_card
    from iom_platform.clustering.plots import plot_fit, plot_profiles
    from iom_platform.clustering.profiles import profile_clusters
    from iom_platform.risk import fit_risk
    from iom_platform.storage.model_registry import Registry

    frame, day, trained = snapshot.frame, snapshot.as_of_on.isoformat(), fit.trained
    profiles = profile_clusters(frame, trained.labels, k=settings.privacy.k)
    risk_model = asdict(fit_risk(frame, trained.labels, **settings.risk.model_dump()))
    name, logged_params = f"{name_fit(fit.params).replace(',', '')} {day}", run_params(**fit.params)
    seen = {"sources": ", ".join(sorted(set(frame["source"]))), "courses": frame["course_id"].nunique()}
    card = write_model_card(
        title=name,
        params=logged_params,
        snapshot={"table": ANONYMIZED_STUDENT_TERM.path, "as-of day": day, "rows": len(frame), **seen, "digest": snapshot.digest,
                  "fitted on": trained.fitted_on, "assigned by": trained.assigned_by},
        quality=trained.quality,
        profiles=profiles,
        risk_model=risk_model,
    )  # fmt: skip
    registered, run_id = Registry.of(settings).log_fit(
        model=trained.model,
        risk_model=risk_model,
        inputs=frame[list(MODEL_INPUTS)],
        params=logged_params,
        metrics=_measured(trained),
        tags={
            "fit_key": snapshot.fit_key(settings, fit.params),
            "trained_as_of": day,
            "dagster_run_id": snapshot.dagster_run_id,
            "fitted_on": trained.fitted_on,
            "assigned_by": trained.assigned_by,
            **{tag: str(value) for tag, value in seen.items()},
        },
        files={
            "profiles.png": plot_profiles(profiles),
            "model_card.md": card.encode(),
            **plot_fit(trained, k=settings.privacy.k, seed=fit.params["seed"]),
        },
        profiles=profiles,
        model_name=MODEL_NAME,
        about=ABOUT,
        run_name=name,
        description=f"{PURPOSE}\n\nTrained on {len(frame):,} enrollments of {seen['courses']} courses at the end of {day}; "
        "see the artifact `model_card.md`.",
        dataset=snapshot.dataset,
        register=register,
        parent_run_id=selection,
    )
    return {"model_version": registered, "mlflow_run_id": run_id}


def log_others(
    context: dg.AssetExecutionContext, settings: Settings, snapshot: Snapshot, fits: Sequence[Fit], selection: str
) -> None:
    """Log fits that are only compared; none of them may cost the day its scores."""
    for fit in fits:
        try:
            log_fit(settings, snapshot, fit, register=False, selection=selection)
        except Exception as error:  # whose message may quote a value
            context.log.warning(f"{fit.candidate} could not be logged for comparison: {type(error).__name__}")


def _measured(trained: Trained) -> dict[str, float]:
    return {name: float(value) for name, value in trained.quality.items() if value is not None}


@contextmanager
def open_selection(settings: Settings, snapshot: Snapshot) -> Iterator[str]:
    """The run in MLflow that the fits of one decision are nested in. Yields its id."""
    from iom_platform.storage.model_registry import Registry

    day, asked = snapshot.as_of_on.isoformat(), settings.clustering
    rule = {name: getattr(settings.validation, name) for name in _RULE}
    wanted = {"clustering.algorithm": asked.algorithm, "clustering.candidates": ",".join(asked.candidates)}
    with Registry.of(settings).open_selection(
        model_name=MODEL_NAME,
        run_name=f"selection {day}",
        params={**wanted, **{f"validation.{name}": value for name, value in rule.items()}},
        tags={"trained_as_of": day, "dagster_run_id": snapshot.dagster_run_id},
        dataset=snapshot.dataset,
    ) as run_id:
        yield run_id


def tell_selection(
    context: dg.AssetExecutionContext,
    settings: Settings,
    run_id: str,
    fits: Sequence[Fit],
    choice: Choice,
    decision: str,
) -> None:
    """Leave the decision, and the table of what was compared, in the run of the selection; it was carried out already."""
    from iom_platform.clustering.plots import plot_candidates
    from iom_platform.storage.model_registry import Registry

    try:
        table = _tabulate(fits, choice)
        described = table.drop(columns=["algorithm", "n_clusters"]).to_markdown(index=False, floatfmt=".2f")
        Registry.of(settings).note(
            run_id,
            description=f"{decision}\n\n{described}",
            tags={"decision": decision},
            files={CANDIDATES_FILE: str(table.to_csv(index=False)).encode(), "candidates.png": plot_candidates(table)},
        )
    except Exception as error:  # a second try would fit, and promote, once more
        context.log.warning(f"MLflow's run of the selection could not be completed: {type(error).__name__}")


def _tabulate(fits: Sequence[Fit], choice: Choice) -> "pd.DataFrame":
    import pandas as pd

    shown = ("clusters", "stability_ari_mean", "stability_ari_low", "stability_jaccard_least", "silhouette", "noise_share",
             "course_nmi", "week_nmi", "outcome_association")  # fmt: skip
    rows = [
        {"candidate": str(fit.candidate), "algorithm": fit.params["algorithm"], "n_clusters": fit.params.get("n_clusters"),
         **{name: fit.trained.quality.get(name) for name in shown}, "is_chosen": place == choice.place}
        for place, fit in enumerate(fits)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"n_clusters": "Int64"})
