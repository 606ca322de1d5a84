"""The report of a clustering of learner summaries, as Markdown: what came in, how good it is, what the clusters are.

It holds aggregates alone; writing it to a file does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iom_platform.clustering.algorithms import find_algorithm
from iom_platform.clustering.centers import NOISE

if TYPE_CHECKING:
    import pandas as pd

_HOW_TO_READ = {
    "silhouette": "-1 to 1; over 0.5 is well separated, under 0.25 hardly at all",
    "silhouette_sample_rows": "learners that the silhouette was taken on, exactly",
    "davies_bouldin": "0 and up, lower is better",
    "calinski_harabasz": "higher is better, on one file only",
    "inertia": "sum of squared distances to the own center, standardized; compare for one k only",
    "bic": "lower is better, between mixtures",
    "aic": "lower is better, between mixtures",
    "smallest_cluster_share": "share of the smallest cluster",
    "noise_share": "share of learners in no cluster",
    "agreement_with_method": "1 is the same, 0 is chance; adjusted Rand index of the rule that assigns with the method itself",
    "is_converged": "whether the fit ended before its limit of iterations",
}


def write_report(facts: Mapping[str, Any], profiles: pd.DataFrame) -> str:
    """facts: what clustering_summary.json holds; profiles: as `profile_learners` returns them."""
    counts = facts["records"]
    names = list(facts["quality_metrics"])
    lines = [
        f"# Clusters of {counts['clustered']:,} learners",
        "",
        f"From {facts['file']}, by {', '.join(facts['features'])}, {_say_how(facts)}.",
        "",
        "## What came in",
        "",
        f"{counts['landed']:,} records landed = {counts['clustered']:,} clustered + {counts['rejected']:,} rejected. "
        "Nothing was filled in.",
        "",
        *(f"- {rule}: {count:,}" for rule, count in facts["rejected_by_rule"].items()),
        *(f"- **Warning**: {warning}." for warning in facts["warnings"]),
        "",
        "## How good they are",
        "",
        _row(["measure", *names, "how to read it"]),
        _row(["---"] * (len(names) + 2)),
    ]
    for measure, words in _HOW_TO_READ.items():
        values = [facts["quality_metrics"][name].get(measure) for name in names]
        if any(value is not None for value in values):
            lines.append(_row([measure, *(_number(value) for value in values), words]))
    methods = facts.get("methods", {})
    seen = [name for name in names if name not in methods]
    every = "" if not seen else "Fitted on every row. " if not methods else f"{_list(seen)}: fitted on every row. "
    lines += ["", f"{every}Features are standardized, {_say_weights(facts)}."]
    for name, how in methods.items():
        lines += ["", f"{name}: fitted on {how['fitted_on']}; every learner is assigned by {how['assigned_by']}."]
    for name in names:
        lines += ["", f"## Clusters of {name}", "", *_clusters(profiles[profiles["algorithm"] == name])]
    lines += [
        "",
        "Means, in the features' own units; in brackets the distance from the mean of all learners in standard deviations. "
        "Cluster 0 has the highest standardized means. Quartiles are in cluster_profiles.csv.",
        "",
        "## What it is not",
        "",
        "A cluster describes numbers, not a person: no decision about a learner should rest on it alone. A silhouette says how "
        "far apart clusters are, and not that they mean anything.",
    ]
    return "\n".join(lines) + "\n"


def _say_how(facts: Mapping[str, Any]) -> str:
    free = [n for n, how in facts.get("methods", {}).items() if "n_clusters" not in find_algorithm(n).knobs]
    counted = [name for name in facts["quality_metrics"] if name not in free]
    told = [f"in {facts['k']} clusters each by {_list(counted)}"] if counted else []
    return "; ".join(told + ([f"in as many as it finds by {_list(free)}"] if free else []))


def _say_weights(facts: Mapping[str, Any]) -> str:
    weights = facts.get("weights", {})
    if not weights:
        return "so each weighs the same"
    return f"and then weighed: {', '.join(f'{name} {weight:g}' for name, weight in weights.items())}, all others 1"


def _list(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def _clusters(profiles: pd.DataFrame) -> list[str]:
    features = list(dict.fromkeys(profiles["feature"]))
    lines = [_row(["cluster", "learners", "share", *features]), _row(["---"] * (len(features) + 3))]
    for cluster, rows in profiles.groupby("cluster"):
        told = [f"{row['mean']:.4g} ({row['standardized_difference']:+.2f})" for _, row in rows.iterrows()]
        name = "noise" if cluster == NOISE else cluster
        lines.append(_row([name, f"{rows['learners'].iloc[0]:,}", f"{rows['share'].iloc[0]:.1%}", *told]))
    return lines


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
