"""What the logged measures of a model mean, a sentence each, for readers who are no data scientists.

Computing them belongs to `iom_platform.clustering.quality`.
"""

from __future__ import annotations

from collections.abc import Mapping

# measure -> (name, what it means); in the order of telling
MEASURES: dict[str, tuple[str, str]] = {
    "rows": ("Students it was trained on", "Enrollments with enough data on the training day; the more, the steadier the groups."),
    "clusters": ("Groups", "How many groups of similar behavior the model tells apart."),
    "silhouette": ("Silhouette", "How clearly the groups stand apart: 1 is perfectly, 0 is not at all; human behavior seldom exceeds 0.5."),
    "silhouette_sample_rows": ("Rows of the silhouette", "The silhouette is computed on at most this many rows."),
    "silhouette_seed": ("Seed of the silhouette", "The number that fixes which rows those are, so that it can be repeated."),
    "davies_bouldin": ("Davies-Bouldin index", "How much neighboring groups overlap: lower is better, 0 is none."),
    "calinski_harabasz": ("Calinski-Harabasz index", "How far groups lie apart compared with their own width: higher is better, only comparable on the same data."),
    "inertia": ("Inertia", "Sum of squared distances to the group centers: lower is tighter, only comparable on the same data."),
    "bic": ("BIC", "How well a mixture fits, with a penalty for complexity: lower is better, only comparable on the same data."),
    "aic": ("AIC", "Like BIC, with a milder penalty."),
    "smallest_cluster_share": ("Smallest group", "Share of students in the smallest group; a tiny one describes few people."),
    "noise_share": ("In no group", "Share of students whom the model puts into no group."),
    "agreement_with_method": ("Agreement with the method", "How alike the groups are to those that the method found before a rule for later days stood in for it: 1 is the same, 0 is chance."),
    "course_nmi": ("Overlap with courses", "0: groups cut across courses, as they should; near 1: they tell courses apart rather than students."),
    "week_nmi": ("Overlap with course weeks", "The same for the week that the course is in."),
    "outcome_association": ("Association with outcomes", "How much the groups told, four weeks or more before, of who would fail or withdraw: 0 is nothing, 1 is all. Measured on ended courses; no choice is made by it."),
    "outcome_rows": ("Ended enrollments", "How many that was measured on."),
    "stability_ari_mean": ("Stability", "How alike the groups of refits on resampled students are: 1 is the same groups each time, 0 is chance."),
    "stability_ari_low": ("Stability, worst twentieth", "The same of the refits that agree least."),
    "stability_jaccard_least": ("Least stable group", "How much of the group that comes again the least does: over 0.75 it comes again, under 0.5 it dissolves."),
    "stability_refits": ("Refits", "How many refits that was measured on."),
    "is_converged": ("Settled", "Whether the fit came to rest (1) or was cut off (0)."),
}  # fmt: skip


def explain_measures(metrics: Mapping[str, float]) -> tuple[tuple[str, str, str], ...]:
    """(name, value, meaning) of each logged measure; one that has no words yet stands last under its own name."""
    told = [(*MEASURES[name], metrics[name]) for name in MEASURES if name in metrics]
    rest = [(name, "A measure of the fit.", metrics[name]) for name in sorted(metrics) if name not in MEASURES]
    return tuple((name, _say(value), meaning) for name, meaning, value in (*told, *rest))


def _say(value: float) -> str:
    if not float(value).is_integer():
        return f"{value:,.2f}"
    return f"{value:,.0f}" if value < 1_000_000 else f"{value:.0f}"  # a seed is no amount
