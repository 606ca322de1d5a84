"""The model card of a fit: what the model is for, what it saw, how good it is, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Logging it does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iom_platform.clustering.profiles import describe_cluster
from iom_platform.tables import ANONYMIZED_STUDENT_TERM, MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd

# how to read a measure; a test asks for a sentence for each that measure_quality returns
MEANING = {
    "silhouette": "-1 to 1; how much nearer a student is to the own cluster than to the next one; over 0.5 is well separated",
    "silhouette_sample_rows": "rows that the silhouette was taken on",
    "silhouette_seed": "seed of that sample",
    "davies_bouldin": "0 and up, lower is better; spread of the clusters against their distance",
    "calinski_harabasz": "higher is better; variance between against within clusters; compare on one snapshot only",
    "rows": "enrollments that the model was fitted on",
    "clusters": "clusters found",
    "noise_share": "share of enrollments in no cluster",
    "smallest_cluster_share": "share of the smallest cluster",
    "inertia": "lower is better; sum of squared distances to the own center; compare for one number of clusters only",
    "bic": "lower is better; compare on one snapshot only",
    "aic": "lower is better; compare on one snapshot only",
    "is_converged": "1 where the fit ended before its limit of iterations",
    "agreement_with_method": "1 is the same, 0 is chance; adjusted Rand index of these clusters with those that the method itself finds, "
    "which cannot assign new rows",
    "stability_ari_mean": "0 to 1, higher is better; adjusted Rand index of refits on resamples with this model, their mean; 1 is the same groups each time, 0 is chance",
    "stability_ari_low": "the same, of the worst twentieth of the refits",
    "stability_jaccard_least": "0 to 1; how much of the least stable group comes again; over 0.75 it is a group, under 0.5 it dissolves (Hennig 2007)",
    "stability_refits": "refits that this was measured on, each on at most 2,000 rows",
    "course_nmi": "0 to 1, lower is better; near 1 the clusters tell courses apart rather than students",
    "week_nmi": "0 to 1, lower is better; near 1 they tell course weeks apart",
    "outcome_association": "0 to 1; how much the clusters told, four weeks or more before, of who would fail or withdraw: Cramér's V on enrollments "
    "that have ended; it promotes nothing",
    "outcome_rows": "ended enrollments that this was measured on",
}
PURPOSE = (
    "Groups enrollments of a running course by behavior; the risk score reads the group beside the student's own signs."
)

# what MLflow shows of all versions together
ABOUT = (
    f"{PURPOSE} Each version is one scikit-learn pipeline that reads {len(MODEL_INPUTS)} columns of "
    f"{ANONYMIZED_STUDENT_TERM.path} by name, and its risk cut-offs lie beside it. The settings `clustering.*` decide what is "
    "fitted, and those of `validation.*` whether it may score; the alias `champion` is the one trained on the latest day, and clustering/promotions says which version "
    "scores which day, and why. No demographic, no outcome and no id is an input. See docs/models.md."
)


def write_model_card(
    *, title: str, params: Mapping[str, Any], snapshot: Mapping[str, Any], quality: Mapping[str, Any],
    profiles: pd.DataFrame, risk_model: Mapping[str, Any],
) -> str:  # fmt: skip
    """The card as Markdown.

    params: as `run_params` returns them; snapshot: what it was fitted on, name to value; quality: as `measure_quality`
    returns it, undefined measures are left out; profiles: as `profile_clusters` returns them; risk_model: the frozen
    cut-offs. Aggregates alone: it may go wherever the model goes.
    """
    docs = {c.name: c.doc for c in ANONYMIZED_STUDENT_TERM.columns}
    sizes = profiles.groupby("cluster")["students"].first()
    known = {name: value for name, value in quality.items() if value is not None}
    sections = (
        (f"# {title}", [PURPOSE]),
        ("## Trained on", _items(snapshot)),
        ("## Algorithm", _items({n: v for n, v in params.items() if "." not in n})),
        ("## Inputs", [*(f"- `{name}`: {docs[name]}" for name in MODEL_INPUTS),
                       "- No demographic, no outcome and no id is an input.",
                       "- A missing input is filled with what missing means, else with the training median; all are scaled to 0-1 of "
                       "the training range unless scaling, weights or pca_components above say otherwise. It is part of the model "
                       "and never fitted again at scoring."]),
        ("## Quality", _table(("measure", "value", "how to read it"),
                              [(n, f"{v:.4g}" if isinstance(v, float) else int(v), MEANING[n]) for n, v in known.items()])),
        ("## Clusters", _table(("cluster", "students", "behavior"),
                               [(c, f"{n:,}", describe_cluster(profiles, c)) for c, n in zip(sizes.index.tolist(), sizes, strict=True)])),
        ("## Risk cut-offs frozen with it", [*_items({n: risk_model[n] for n in ("high_cut", "medium_cut", "cluster_weight")}),
                                             "- They are quantiles of the training scores; no outcome was seen."]),
        ("## Not for", ["- Decisions about a person without a person: a level is a reason to talk, never a verdict.",
                        "- Grading, admission, funding or any sanction.",
                        "- Courses or weeks far from those it was trained on: cut-offs travel badly between course weeks."]),
    )  # fmt: skip
    return "\n\n".join("\n".join((head, "", *lines)) for head, lines in sections) + "\n"


def _items(facts: Mapping[str, Any]) -> list[str]:
    return [f"- {name}: {value}" for name, value in facts.items()]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ("---",) * len(head), *rows)]
