"""Pictures of a fit for MLflow, as PNG bytes; each is drawn from groups of students, so that no single one can be read off.

What is measured and what a cluster is called do not belong here, nor does where a picture is kept.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.clustering.profiles import describe_cluster
from iom_platform.tables import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from iom_platform.clustering.stability import Stability
    from iom_platform.clustering.training import Trained

WIDTH_INCHES, DOTS_PER_INCH = 10, 110
SILHOUETTE_ROWS = 5_000  # all pairs of them are measured
CURVE_POINTS = 200
PANELS_PER_LINE, MAX_PANELS = 4, 12
_NOISE, _QUIET = "#7f7f7f", "#d9d9d9"


def plot_fit(trained: Trained, *, k: int, seed: int) -> dict[str, bytes]:
    """The pictures that a fit allows, by file name; k: as the settings `privacy.k`, seed: as the fit's."""
    pictures = {
        "silhouette.png": plot_silhouette(trained.scaled, trained.labels, k=k, seed=seed),
        "components.png": plot_components(trained.unprojected, trained.labels, k=k),
        "stability.png": plot_stability(trained.stability) if trained.stability else None,
    }
    return {name: png for name, png in pictures.items() if png}


# -- the heatmap of the profiles -----------------------------------------------------------------------


def plot_profiles(profiles: pd.DataFrame) -> bytes:
    """A heatmap of the standardized differences, one row per cluster, the means written into the cells.

    profiles: as `profile_clusters` returns them; a cluster is called by its cluster_uid where they have one.
    """
    clusters = sorted(profiles["cluster"].unique())
    difference = profiles.pivot(index="cluster", columns="feature", values="standardized_difference")
    difference = difference.reindex(index=clusters, columns=list(MODEL_INPUTS))
    means = profiles.pivot(index="cluster", columns="feature", values="mean").reindex(
        index=clusters, columns=list(MODEL_INPUTS)
    )
    figure = _figure(2.2 + 0.6 * len(clusters))
    axes = figure.add_subplot()
    color = difference.to_numpy(dtype=float)
    image = axes.imshow(color, cmap="RdBu", vmin=-2, vmax=2, aspect="auto")
    students = profiles.groupby("cluster")["students"].first()
    uids = dict(zip(profiles["cluster"], profiles.get("cluster_uid", profiles["cluster"]), strict=True))
    names = [
        f"{uids[c] if isinstance(uids[c], str) else c}: {describe_cluster(profiles, int(c))} ({students[c]:,})"
        for c in clusters
    ]
    axes.set_yticks(range(len(clusters)), names)
    axes.set_xticks(range(len(MODEL_INPUTS)), [n.replace("_", " ") for n in MODEL_INPUTS], rotation=30, ha="right")
    for row, values in enumerate(means.to_numpy(dtype=float)):
        for column, value in enumerate(values):
            is_dark = abs(color[row, column]) > 1.3
            axes.text(column, row, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
                      fontsize=8, color="white" if is_dark else "black")  # fmt: skip
    axes.set_title("Mean per cluster; color is the difference from the cohort in standard deviations")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return _write(figure)


# -- silhouettes ---------------------------------------------------------------------------------------


def plot_silhouette(
    scaled: np.ndarray, labels: np.ndarray, *, k: int, seed: int, sample: int = SILHOUETTE_ROWS
) -> bytes | None:
    """The silhouettes (Rousseeuw 1987) of each cluster, sorted, and their mean; None where they are undefined.

    scaled: (n_students, n_inputs) as the estimator sees it; labels: (n_students,) int, -1 = noise, which is left out as
    in `measure_quality`. Measured on a seeded sample of at most `sample` rows. Each step of a curve is the mean of k or
    more students; a cluster with fewer is left out.
    """
    from sklearn.metrics import silhouette_samples

    rows = np.flatnonzero(labels != -1)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, size=sample, replace=False))
    clusters = labels[rows]
    if not 2 <= len(np.unique(clusters)) < len(rows):
        return None
    values = silhouette_samples(scaled[rows], clusters)
    curves = {int(c): average_in_groups(values[clusters == c], k) for c in np.unique(clusters)}
    drawn = {c: curve for c, curve in curves.items() if len(curve)}
    if not drawn:
        return None
    figure = _figure(5.5)
    axes = figure.add_subplot()
    low, ticks = 0.0, []
    for cluster, curve in drawn.items():
        height = float((clusters == cluster).mean())
        axes.fill_betweenx(np.linspace(low, low + height, len(curve) + 1), 0, np.append(curve, curve[-1]),
                           step="post", color=_color(cluster), linewidth=0)  # fmt: skip
        ticks.append(
            (low + height / 2, f"cluster {cluster}\n{height:.0%}, mean {values[clusters == cluster].mean():.2f}")
        )
        low += height + 0.02
    axes.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
    axes.text(values.mean(), -0.01, f" mean {values.mean():.2f}", va="bottom", fontsize=9)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set_ylim(low, -0.06)
    axes.set_xlabel("silhouette: 1 amid the own cluster, 0 between two, below 0 nearer to another")
    left_out = " Clusters of fewer are left out." if len(drawn) < len(curves) else ""
    axes.set_title(f"Silhouettes of {len(rows):,} students, each step the mean of {k} or more.{left_out}")
    return _write(figure)


def average_in_groups(values: np.ndarray, k: int) -> np.ndarray:
    """The values (n,), sorted from high to low, as means of neighbors, k or more each: at most CURVE_POINTS; () under k."""
    groups = min(len(values) // k, CURVE_POINTS)
    if not groups:
        return np.empty(0)
    return np.array([part.mean() for part in np.array_split(np.sort(values)[::-1], groups)])


# -- principal components ------------------------------------------------------------------------------


def plot_components(scaled: np.ndarray, labels: np.ndarray, *, k: int) -> bytes | None:
    """Where each cluster lies dense on the first two principal components; None where they are undefined.

    scaled: (n_students, n_inputs), columns as MODEL_INPUTS; labels: as for `plot_silhouette`; noise has a panel of its own. A cell is drawn where k or more students of the
    cluster are in it, gray where that many of all are. Clusters under k are left out, and so are those beyond the largest
    MAX_PANELS.
    """
    if len(scaled) < k or not (found := _components(scaled)):
        return None
    points, axis_names = found
    edges = lay_cells(points, k)
    points = np.clip(points, *np.transpose([side[[0, -1]] for side in edges]))  # who is beyond the rim counts on it
    clusters, sizes = np.unique(labels, return_counts=True)
    shown = np.sort(clusters[sizes >= k][np.argsort(-sizes[sizes >= k], kind="stable")][:MAX_PANELS])
    if not len(shown):
        return None
    lines, per_line = -(-len(shown) // PANELS_PER_LINE), min(len(shown), PANELS_PER_LINE)
    figure = _figure(1.2 + 2.7 * lines)
    panels = figure.subplots(lines, per_line, sharex=True, sharey=True, squeeze=False).ravel()
    of_all, drawn = count_in_cells(points, edges, k), 0
    for axes, cluster in zip(panels, shown, strict=False):
        members = points[labels == cluster]
        own = count_in_cells(members, edges, k)
        drawn += int(own.sum())
        _draw_cells(axes, of_all > 0, edges, _QUIET)
        _draw_cells(axes, own / max(own.max(), 1), edges, _color(int(cluster)))
        name = "noise" if cluster == -1 else f"cluster {cluster}"
        axes.set_title(f"{name}: {len(members):,} students", fontsize=10)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel(axis_names[0].replace("\n", "   "), fontsize=9)
    figure.supylabel(axis_names[1], fontsize=9)
    figure.suptitle(f"Where students are: darker is more, gray is all students. {1 - drawn / len(points):.0%} are in no color, for where they "
                    f"are a cluster has fewer than {k}", fontsize=10)  # fmt: skip
    return _write(figure)


def _components(scaled: np.ndarray) -> tuple[np.ndarray, tuple[str, str]] | None:
    """Scores on the first two principal components (n_students, 2), and what each is: its share of the variance, its inputs."""
    centered = scaled - scaled.mean(axis=0)
    variance, vectors = np.linalg.eigh(centered.T @ centered / len(scaled))
    if variance[-2] < 1e-12:
        return None
    names = []
    for place in (-1, -2):
        vector = vectors[:, place]
        # the sign of a component is arbitrary, and another machine's may differ: its heaviest input points up
        vector *= np.sign(vector[np.argmax(np.abs(vector))])
        heaviest = np.argsort(-np.abs(vector), kind="stable")[:2]
        inputs = "\n".join(f"{'-' if vector[i] < 0 else '+'} {MODEL_INPUTS[i].replace('_', ' ')}" for i in heaviest)
        names.append(f"component {-place}, {variance[place] / variance.sum():.0%} of the variance\n{inputs}")
    return centered @ vectors[:, [-1, -2]], (names[0], names[1])


def lay_cells(points: np.ndarray, k: int) -> list[np.ndarray]:
    """The edges of a grid over the points (n, 2), per axis; its ends are round numbers, so that no student's place is one."""
    cells = max(6, min(40, int(0.8 * np.sqrt(len(points) / k))))
    low, high = (
        np.floor(np.quantile(points, 0.01, axis=0) * 10) / 10,
        np.ceil(np.quantile(points, 0.99, axis=0) * 10) / 10,
    )
    return [np.linspace(start, max(end, start + 0.1), cells + 1) for start, end in zip(low, high, strict=True)]


def count_in_cells(points: np.ndarray, edges: list[np.ndarray], k: int) -> np.ndarray:
    """How many of the points (n, 2) lie in each cell, (cells, cells) float64; 0 where they are fewer than k."""
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
    return np.where(counts >= k, counts, 0)


def _draw_cells(axes: Axes, shares: np.ndarray, edges: list[np.ndarray], color: str) -> None:
    """Cells in one color, the more opaque the larger the share (cells, cells); none where it is 0."""
    from matplotlib.colors import to_rgb

    opacity = np.where(shares > 0, 0.25 + 0.75 * np.sqrt(shares), 0)
    image = np.dstack([np.full(shares.shape, part) for part in to_rgb(color)] + [opacity])
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    axes.imshow(image.transpose(1, 0, 2), origin="lower", extent=extent, aspect="auto", interpolation="nearest")


# -- stability and candidates --------------------------------------------------------------------------


def plot_stability(stability: Stability) -> bytes:
    """How alike the refits' clusters are to the model's: their adjusted Rand indices, and the Jaccard index per cluster."""
    figure = _figure(3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    measures = stability.measures()
    mean, low = measures["stability_ari_mean"], measures["stability_ari_low"]
    left.hist(stability.ari, bins=np.linspace(min(0.0, float(stability.ari.min())), 1, 41), color=_color(0))
    left.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.2f}")
    left.axvline(low, color="black", linestyle=":", linewidth=1, label=f"5 % quantile {low:.2f}")
    left.legend(loc="upper left", frameon=False, fontsize=9)
    left.yaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("adjusted Rand index with the model: 0 chance, 1 the same")
    left.set_ylabel("refits")
    refused = f", {stability.refused} without a model" if stability.refused else ""
    left.set_title(f"{len(stability.ari)} refits on resamples of {stability.rows:,} students{refused}", fontsize=10)
    clusters = list(stability.jaccard)
    bars = right.barh(range(len(clusters)), list(stability.jaccard.values()), color=[_color(c) for c in clusters])
    right.bar_label(bars, fmt="%.2f", fontsize=9, padding=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    right.set_yticks(range(len(clusters)), [f"cluster {c}" for c in clusters])
    right.invert_yaxis()
    right.set_xlim(0, 1.1)
    for bound in (0.5, 0.75):
        right.axvline(bound, color="black", linestyle=":", linewidth=1)
    right.set_xlabel("Jaccard index, mean over the refits")
    right.set_title("Under 0.5 it dissolves, over 0.75 it comes again", fontsize=10)
    return _write(figure)


def plot_candidates(candidates: pd.DataFrame) -> bytes:
    """Stability and silhouette of candidate fits against their number of clusters, a line per algorithm, the chosen one ringed.

    candidates: a row per fit with algorithm, n_clusters (null where the algorithm finds its number: drawn at the left as
    "own"), stability_ari_mean, silhouette (null where undefined) and is_chosen.
    """
    figure = _figure(4.2)
    measures = {"stability_ari_mean": "mean adjusted Rand index of refits", "silhouette": "silhouette"}
    panels = figure.subplots(1, 2, sharex=True)
    numbers = candidates["n_clusters"].astype("Float64")
    own = float(numbers.min()) - 1 if numbers.notna().any() else 0.0
    places = numbers.fillna(own).to_numpy(dtype=float)
    is_chosen = candidates["is_chosen"].to_numpy(dtype=bool)
    for axes, (measure, label) in zip(panels, measures.items(), strict=True):
        values = candidates[measure].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        for number, algorithm in enumerate(dict.fromkeys(candidates["algorithm"])):
            rows = np.flatnonzero(candidates["algorithm"] == algorithm)
            rows = rows[np.argsort(places[rows], kind="stable")]
            axes.plot(places[rows], values[rows], marker="o", color=_color(number), label=algorithm)
        axes.scatter(places[is_chosen], values[is_chosen], s=180, facecolors="none", edgecolors="black",
                     linewidths=1.5, zorder=3, label="chosen")  # fmt: skip
        axes.set_ylabel(label)
        ticks = np.unique(places)
        axes.set_xticks(ticks, ["own" if numbers.isna().any() and place == own else f"{place:.0f}" for place in ticks])
        axes.set_xlabel("number of clusters")
    panels[0].legend(fontsize=9)
    figure.suptitle(
        "Candidates: higher is better; compare stability at one number of clusters, for it favors few", fontsize=10
    )
    return _write(figure)


# -- what all of them share ----------------------------------------------------------------------------


def _figure(height_inches: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _color(number: int) -> Any:
    from matplotlib import colormaps

    return _NOISE if number == -1 else colormaps["Dark2"](number % 8)


def _write(figure: Figure) -> bytes:
    out = BytesIO()
    # without a software entry the same figures are the same bytes under every matplotlib version's name
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()
