"""Which fit may score students, and which of several is to: one rule on measures, with its reason in words.

Fitting and measuring do not belong here, nor does what becomes of a decision.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iom_platform.clustering.algorithms import find_algorithm, name_fit, select_params
from iom_platform.clustering.preprocessing import DEFAULTS

AUTO = "auto"  # of clustering.algorithm: the rule chooses among the candidates

# the gates, by the names of their checks in Dagster
COURSES, STABILITY = "course_separation", "stability"
GATES = (COURSES, STABILITY)

_SEPARATED = {"course_nmi": "courses", "week_nmi": "course weeks"}


@dataclass(frozen=True)
class Limits:
    """The settings `validation.*` that decide.

    min_stability: least mean adjusted Rand index of the refits; stability_margin: a difference of it that counts as none;
    min_jaccard: least stability_jaccard_least of a number of clusters that the rule may choose; max_course_nmi: most of
    course_nmi and of week_nmi.
    """

    min_stability: float
    min_jaccard: float
    stability_margin: float
    max_course_nmi: float


@dataclass(frozen=True)
class Candidate:
    """A fit that may be chosen: its parameters as `select_params` returns them, and its measures as `train` does."""

    params: Mapping[str, Any]
    quality: Mapping[str, Any]

    def measure(self, name: str) -> float:
        """A measure of which more is better; less than any where it is undefined."""
        found = self.quality.get(name)
        return -math.inf if found is None else float(found)

    def __str__(self) -> str:
        return name_fit(self.params).replace(",", "")


@dataclass(frozen=True)
class Choice:
    """The chosen one's place among the candidates, why it is that one, and what forbids to promote it, gate to sentence."""

    place: int
    reason: str
    faults: Mapping[str, str]


def list_candidates(
    algorithm: str, candidates: Sequence[str], n_clusters_range: tuple[int, int], knobs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The parameters of each fit that the settings ask for: of `algorithm`, or, where that is AUTO, of every candidate.

    n_clusters_range: least and most clusters, both tried, for algorithms that are told their number; knobs: as
    `select_params`.
    """
    if algorithm != AUTO:
        return [select_params(algorithm, knobs)]
    least, most = n_clusters_range
    found = []
    for name in dict.fromkeys(candidates):
        is_told = "n_clusters" in find_algorithm(name).knobs
        numbers: Iterable[dict[str, Any]] = ({"n_clusters": n} for n in range(least, most + 1)) if is_told else ({},)
        found += [select_params(name, {**knobs, **number}) for number in numbers]
    return found


def read_params(logged: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of a fit, as `select_params` returns them, from those of its run, which are texts."""
    names = ("seed", *DEFAULTS, *find_algorithm(logged["algorithm"]).knobs)
    return select_params(logged["algorithm"], {name: _parse(logged[name]) for name in names if name in logged})


def _parse(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a word, such as a linkage
        return text


def find_faults(quality: Mapping[str, Any], limits: Limits, former: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What forbids to promote a fit, gate to sentence; empty where nothing does.

    former: measures of the champion's method on the same rows, where it is another; it counts where it makes as many
    clusters. What was not measured forbids nothing.
    """
    faults = {}
    told = [
        f"{name} is {quality[name]:.2f}, above validation.max_course_nmi {limits.max_course_nmi:g}: "
        f"the clusters tell {what} apart rather than students"
        for name, what in _SEPARATED.items()
        if (quality.get(name) or 0.0) > limits.max_course_nmi
    ]
    if told:
        faults[COURSES] = "; ".join(told)
    stability, before = quality.get("stability_ari_mean"), (former or {}).get("stability_ari_mean")
    if stability is not None and stability < limits.min_stability:
        faults[STABILITY] = (
            f"stability_ari_mean is {stability:.2f}, below validation.min_stability {limits.min_stability:g}: "
            "refits on resamples find other clusters"
        )
    elif (
        stability is not None
        and before is not None
        and quality.get("clusters") == (former or {}).get("clusters")  # few clusters are more stable in any data
        and stability < before - limits.stability_margin
    ):
        faults[STABILITY] = (
            f"stability_ari_mean is {stability:.2f}, and the champion's method has {before:.2f} on the same rows, "
            f"better by more than validation.stability_margin {limits.stability_margin:g}"
        )
    return faults


def choose(candidates: Sequence[Candidate], limits: Limits, *, champion: Candidate | None = None) -> Choice:
    """The one to promote, or, where each has a fault, the one to look at first.

    Stability comes first, but is never maximized over the number of clusters: few are found again in any data (Ben-David,
    von Luxburg and Pal 2006). So of the fits without a fault whose every cluster comes again (`min_jaccard`: Hennig 2007)
    the most clusters count; of one number, all within `stability_margin` of the most stable are equal; of these the
    champion's method is kept, else the highest silhouette wins, and of equals the first. champion: its method, measured
    on the same rows. Raises ValueError for no candidate.
    """
    if not candidates:
        raise ValueError("there is no candidate to choose from; name one in clustering.candidates")
    former = champion.quality if champion else None
    faults = [find_faults(candidate.quality, limits, former) for candidate in candidates]
    standing = [n for n, fault in enumerate(faults) if not fault] or list(range(len(candidates)))
    jaccard = {n: candidates[n].measure("stability_jaccard_least") for n in standing}
    least = min(limits.min_jaccard, max(jaccard.values()))
    firm = [n for n in standing if jaccard[n] >= least]
    most = max(candidates[n].measure("clusters") for n in firm)
    of_most = [n for n in firm if candidates[n].measure("clusters") == most]
    best = max(candidates[n].measure("stability_ari_mean") for n in of_most)
    equal = [n for n in of_most if candidates[n].measure("stability_ari_mean") >= best - limits.stability_margin]
    kept = [n for n in equal if champion and candidates[n].params == champion.params]
    place = kept[0] if kept else max(equal, key=lambda n: candidates[n].measure("silhouette"))
    reason = f"{candidates[place]}, which the settings name"
    if len(candidates) > 1:
        of_these = (
            "the champion's method" if kept else "the highest silhouette" if len(equal) > 1 else "the most stable"
        )
        reason = (
            f"{candidates[place]} of {len(candidates)} candidates: {most:g} clusters, the most that each come again "
            f"(least Jaccard {jaccard[place]:.2f}), and {of_these} of {len(of_most)} fits with as many"
        )
    return Choice(place, reason, faults[place])
