"""What a risk level is: a transparent score from observed behavior, cut-offs fitted without outcomes, reasons in words.

When it is computed, where it goes, and what anybody does about it do not belong here; nor do personal attributes,
which no function here reads.

The own score is a weighted mean of bounded components, 0 (no concern) to 1. The weights are stated judgment, guided by
the literature and never fitted to outcomes:
  coursework 0.40 - a missed assessment is the strongest early sign of failing or leaving in distance courses (Hlosta,
      Zdrahal, Zendulka, LAK 2017; OU Analyse: Kuzilek et al. 2015); late submission (You 2016) and marks (Conijn et al.
      2017) say less early on. Missed 0.25, late 0.05, score 0.10.
  presence 0.50 - regular, recent activity, compared within the course since levels differ between courses (Gasevic et
      al. 2016; Conijn et al. 2017): active days 0.20, recency 0.20, clicks 0.10, since clicks measure effort poorly.
  trend 0.10 - a fall against the student's own level (Wolff et al., LAK 2013); noisy around vacations, hence little.

A component that cannot exist yet (nothing due, course day under 28) leaves with its weight; that is read off columns that
are never null. One that should exist and is null counts as 0, no evidence of risk: removing data can lower a level, never
raise it. A plain mean of what is left would rise when a good component goes missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Raise it when the same rows would get another score: weights, components, applicability.
RISK_VERSION = "1"
LEVELS = ("LOW", "MEDIUM", "HIGH", "UNKNOWN")
BAD_OUTCOMES = ("Fail", "Withdrawn")  # what a level warns of; only looks back read outcomes

# component -> (family, weight); HIGH needs two families
COMPONENTS: dict[str, tuple[str, float]] = {
    "active_days": ("activity", 0.20),
    "clicks": ("activity", 0.10),
    "recency": ("recency", 0.20),
    "decline": ("trend", 0.10),
    "missed": ("submissions", 0.25),
    "late": ("submissions", 0.05),
    "score": ("scores", 0.10),
}
NOISE = -1  # the cluster of who is in none
WARM_UP_DAYS = 7
WINDOW_DAYS = 28

NOT_OBSERVED = "No recent activity data of this course were delivered"
COURSE_WARM_UP = "The course began less than a week ago"
NEWLY_REGISTERED = "Registered less than a week ago"
NO_EVIDENCE = "Too little is known about this enrollment yet"
NO_MODEL = "No risk model has been trained yet"
NOTHING_STANDS_OUT = "Nothing stands out"
SEVERAL_SMALL_SIGNS = "Several small signs together, none of them strong"
LIKE_A_WEAK_GROUP = "Behaves like a group of students with weak engagement"

# what a score is made of; the first two are no numbers
SOURCE_COLUMNS = (
    "is_observed", "activity_missing_reason", "course_day", "course_days_enrolled", "active_days_28d_to_peers",
    "clicks_28d_to_peers", "clicks_14d_to_history", "days_since_last_activity", "submissions_due", "submissions_made",
    "submissions_late", "submissions_missed", "submissions_missed_share", "score_pct_mean", "active_days_last_28_days",
    "clicks_last_28_days", "peer_active_days_last_28_days_median", "peer_clicks_last_28_days_median",
)  # fmt: skip


@dataclass(frozen=True)
class RiskModel:
    """What is frozen with a model version: means of the own score per cluster and the cut-offs, none seen an outcome."""

    cluster_means: dict[int, float]
    high_cut: float
    medium_cut: float
    cluster_weight: float
    trained_rows: int
    risk_version: str = RISK_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RiskModel:
        """Raises ValueError where the model was made by other weights than this code's."""
        content = json.loads(text)
        if content.get("risk_version") != RISK_VERSION:
            raise ValueError(
                f"the risk model is of version {content.get('risk_version')} and this code of version {RISK_VERSION}; refit it"
            )
        return cls(**{**content, "cluster_means": {int(c): float(m) for c, m in content["cluster_means"].items()}})


def _column(frame: pd.DataFrame, name: str) -> np.ndarray:
    return np.asarray(frame[name].astype("float64").to_numpy(dtype="float64", na_value=np.nan))


def _check_columns(frame: pd.DataFrame) -> None:
    absent = [name for name in SOURCE_COLUMNS if name not in frame.columns]
    if absent:
        raise ValueError(f"the cohort lacks column {absent[0]}; select it from anonymized/student_term")


def _never_active(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray((frame["activity_missing_reason"] == "never_active").fillna(False), dtype=bool)


def measure_components(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The components' values and whether each can exist at all.

    frame: rows of anonymized/student_term. Returns values (n_students, n_components) 0-1, NaN where there is no
    evidence, and is_applicable (n_students, n_components) bool; columns as COMPONENTS.
    """
    _check_columns(frame)
    made, day, enrolled = (_column(frame, n) for n in ("submissions_made", "course_day", "course_days_enrolled"))
    recency = _column(frame, "days_since_last_activity")
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "active_days": 1 - _column(frame, "active_days_28d_to_peers"),
            "clicks": 1 - _column(frame, "clicks_28d_to_peers"),
            "recency": np.where(_never_active(frame), 1.0, recency / (recency + 7)),
            "decline": 1 - _column(frame, "clicks_14d_to_history"),
            "missed": _column(frame, "submissions_missed_share"),
            "late": _column(frame, "submissions_late") / made,
            "score": 1 - _column(frame, "score_pct_mean") / 100,
        }
    # who registered late had fewer days than the peers' window
    had_window = enrolled == np.minimum(day, WINDOW_DAYS)
    always = np.ones(len(frame), dtype=bool)
    applicable = {
        "active_days": had_window, "clicks": had_window, "recency": always,
        "decline": (day >= WINDOW_DAYS) & had_window & ~_never_active(frame),
        "missed": _column(frame, "submissions_due") > 0, "late": made > 0, "score": made > 0,
    }  # fmt: skip
    is_applicable = np.column_stack([applicable[name] for name in COMPONENTS])
    matrix = np.clip(np.column_stack([values[name] for name in COMPONENTS]), 0.0, 1.0)
    return np.where(is_applicable, matrix, np.nan), is_applicable


def find_unknown(frame: pd.DataFrame) -> np.ndarray:
    """Why a row gets no level, or None where it gets one. Returns (n_students,) object."""
    values, _ = measure_components(frame)
    day, enrolled = _column(frame, "course_day"), _column(frame, "course_days_enrolled")
    is_observed = np.asarray(frame["is_observed"].fillna(False), dtype=bool)
    reasons = np.full(len(frame), None, dtype=object)
    reasons[np.isnan(values).all(axis=1)] = NO_EVIDENCE
    reasons[enrolled < WARM_UP_DAYS] = NEWLY_REGISTERED
    reasons[day < WARM_UP_DAYS] = COURSE_WARM_UP  # the line above holds for everybody then
    reasons[~is_observed] = NOT_OBSERVED
    return reasons


def select_scorable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that get a level, renumbered: they alone have a place in a training snapshot."""
    is_known = np.array(
        [reason is None for reason in find_unknown(frame)], dtype=bool
    )  # an empty list would pick columns
    return frame[is_known].reset_index(drop=True)


def _own_scores(values: np.ndarray, is_applicable: np.ndarray) -> np.ndarray:
    weights = np.array([weight for _, weight in COMPONENTS.values()])
    evidence = (np.nan_to_num(values, nan=0.0) * weights).sum(axis=1)
    possible = (is_applicable * weights).sum(axis=1)
    return np.asarray(evidence / possible)  # recency is always applicable, so this is above 0


def _clusters(labels: Sequence[Any] | np.ndarray | pd.Series | None, rows: int) -> np.ndarray:
    import pandas as pd

    if labels is None:
        return np.full(rows, np.nan)
    if len(labels) != rows:
        raise ValueError(
            f"there are {len(labels)} cluster labels for {rows} rows; pass one label per row, null for none"
        )
    given = labels if isinstance(labels, pd.Series) else pd.Series(labels, dtype="object")
    return np.asarray(given.astype("Float64").to_numpy(dtype="float64", na_value=np.nan))


def _blend(own: np.ndarray, clusters: np.ndarray, cluster_means: dict[int, float], cluster_weight: float) -> np.ndarray:
    if not cluster_means:
        return np.round(own, 6)
    # a row without a known cluster gets the lowest mean: like a missing component, it may not raise a level
    group = np.full(len(own), min(cluster_means.values()))
    for cluster, mean in cluster_means.items():
        group[clusters == cluster] = mean
    return np.round((1 - cluster_weight) * own + cluster_weight * group, 6)


_FRACTIONS = (
    (0.1, "a tenth"),
    (0.2, "a fifth"),
    (0.25, "a quarter"),
    (1 / 3, "a third"),
    (0.5, "half"),
    (2 / 3, "two thirds"),
)


def _say_decline(share: float) -> str:
    """share: r / (r + h) of clicks_14d_to_history."""
    ratio = share / (1 - share)
    if ratio < 0.05:
        return "Activity of the last 14 days fell to almost nothing against the student's own earlier level"
    nearest = min(_FRACTIONS, key=lambda fraction: abs(fraction[0] - ratio))
    return f"Activity of the last 14 days fell to {nearest[1]} of the student's own earlier level"


def _say_recency(days: float) -> str:
    if np.isnan(days):
        return "No activity in this course so far"
    return f"No activity for {days:.0f} day{'s' if days != 1 else ''}"


def _say_active_days(row: dict[str, float]) -> str:
    return (f"Active on {row['active_days_last_28_days']:.0f} of the last 28 days; "
            f"peers' median is {row['peer_active_days_last_28_days_median']:g}")  # fmt: skip


def _say_score(row: dict[str, float]) -> str:
    return f"Average score {row['score_pct_mean']:.0f} of 100"


# component -> (from which value on it is worth telling, the words)
_CONCERNS: dict[str, tuple[float, Callable[[dict[str, float]], str]]] = {
    "active_days": (0.55, _say_active_days),
    "clicks": (0.55, lambda r: f"{r['clicks_last_28_days']:.0f} clicks in the last 28 days; "
                               f"peers' median is {r['peer_clicks_last_28_days_median']:g}"),
    "recency": (0.5, lambda r: _say_recency(r["days_since_last_activity"])),
    "decline": (0.6, lambda r: _say_decline(r["clicks_14d_to_history"])),
    "missed": (1e-9, lambda r: f"{r['submissions_missed']:.0f} of {r['submissions_due']:.0f} submissions missed"),
    "late": (1e-9, lambda r: f"{r['submissions_late']:.0f} of {r['submissions_made']:.0f} submissions late"),
    "score": (0.5, _say_score),
}  # fmt: skip
# component -> (up to which value it goes well, the words); in the order of telling
_STRENGTHS: dict[str, tuple[float, Callable[[dict[str, float]], str]]] = {
    "missed": (0.0, lambda r: "No submission missed"),
    "active_days": (0.5, _say_active_days),
    "score": (0.4, _say_score),
    "recency": (0.3, lambda r: "Active within the last three days"),
}


def _praise(words: str) -> str:
    return f"Good: {words[0].lower()}{words[1:]}"


def _explain_rows(
    frame: pd.DataFrame, values: np.ndarray, levels: np.ndarray, clusters: np.ndarray, model: RiskModel
) -> np.ndarray:
    """Up to three reasons per row, strongest first. Returns (n_students, 3) object.

    Concerns rank by weight times value. A LOW row tells what goes well first, then its strongest concern.
    """
    names = list(COMPONENTS)
    columns = {name: _column(frame, name) for name in SOURCE_COLUMNS[2:]}
    contribution = np.nan_to_num(values, nan=-1.0) * np.array([weight for _, weight in COMPONENTS.values()])
    told = np.full((len(frame), 3), None, dtype=object)
    for row, order in enumerate(np.argsort(-contribution, axis=1, kind="stable")):
        facts = {name: column[row] for name, column in columns.items()}
        by_name = dict(zip(names, values[row], strict=True))
        concerned = [names[i] for i in order if by_name[names[i]] >= _CONCERNS[names[i]][0]]
        if "active_days" in concerned and "clicks" in concerned:
            concerned.remove("clicks")  # the same fact twice
        reasons = [_CONCERNS[name][1](facts) for name in concerned]
        if levels[row] == "LOW":
            strengths = [_praise(say(facts)) for name, (limit, say) in _STRENGTHS.items() if by_name[name] <= limit]
            reasons = (strengths[:2] + reasons[:1] + strengths[2:]) or [NOTHING_STANDS_OUT]
        elif not reasons:
            group = int(np.nan_to_num(clusters[row], nan=NOISE))  # noise is no group that anybody could be like
            is_weak_group = group != NOISE and model.cluster_means.get(group, 0.0) > model.medium_cut
            reasons = [LIKE_A_WEAK_GROUP if is_weak_group else SEVERAL_SMALL_SIGNS]
        told[row, : min(3, len(reasons))] = reasons[:3]
    return told


def fit_risk(
    frame: pd.DataFrame, labels: Sequence[Any] | np.ndarray | pd.Series | None, *,
    high_share: float, medium_share: float, cluster_weight: float,
) -> RiskModel:  # fmt: skip
    """Cluster means and cut-offs of a training cohort; no outcome is seen.

    frame: rows of anonymized/student_term; labels: (n_students,) cluster or null. Rows that `find_unknown` names are left
    out. The cut-offs are quantiles of the training scores: at most high_share lie above high_cut, at most medium_share
    between. Raises ValueError where no row is left.
    """
    if high_share + medium_share >= 1:
        raise ValueError("risk.high_share and risk.medium_share leave nobody LOW; lower one of them")
    known = np.array([reason is None for reason in find_unknown(frame)], dtype=bool)
    if not known.any():
        raise ValueError(
            "no enrollment has enough observed data to fit cut-offs; choose a day after the first week of an observed course"
        )
    values, is_applicable = measure_components(frame)
    own, clusters = _own_scores(values, is_applicable)[known], _clusters(labels, len(frame))[known]
    # rounded, so that the order of rows does not move the last bits
    means = {int(c): round(float(own[clusters == c].mean()), 6) for c in np.unique(clusters[~np.isnan(clusters)])}
    scores = _blend(own, clusters, means, cluster_weight)
    return RiskModel(
        cluster_means=means,
        high_cut=round(float(np.quantile(scores, 1 - high_share)), 6),
        medium_cut=round(float(np.quantile(scores, 1 - high_share - medium_share)), 6),
        cluster_weight=cluster_weight,
        trained_rows=int(known.sum()),
    )


def score_risk(
    frame: pd.DataFrame, labels: Sequence[Any] | np.ndarray | pd.Series | None, model: RiskModel | None
) -> pd.DataFrame:
    """Level, score and reasons of each row under a frozen model; a row's result depends on that row and model alone.

    frame: rows of anonymized/student_term; labels: (n_students,) cluster or null; model: None gives UNKNOWN throughout.
    Returns risk_level, risk_score, reason_1, reason_2, reason_3, cluster, indexed as the frame. UNKNOWN rows have null
    score and cluster and one reason. HIGH is a score above high_cut with evidence from at least two families of
    components, MEDIUM a score above medium_cut; equal scores get equal levels, so a cohort of equals has no HIGH.
    """
    import pandas as pd

    unknown = find_unknown(frame)
    if model is None:
        unknown[[reason is None for reason in unknown]] = NO_MODEL
    known = np.array([reason is None for reason in unknown], dtype=bool)
    values, is_applicable = measure_components(frame)
    clusters = _clusters(labels, len(frame))
    scores, levels = np.full(len(frame), np.nan), np.full(len(frame), "UNKNOWN", dtype=object)
    reasons = np.full((len(frame), 3), None, dtype=object)
    reasons[:, 0] = unknown
    if model is not None and known.any():
        scores[known] = _blend(_own_scores(values, is_applicable), clusters, model.cluster_means, model.cluster_weight)[
            known
        ]
        families = np.array([family for family, _ in COMPONENTS.values()])
        seen = sum((~np.isnan(values[:, families == f])).any(axis=1).astype(int) for f in dict.fromkeys(families))
        levels[known] = "LOW"
        levels[known & (scores > model.medium_cut)] = "MEDIUM"
        levels[known & (scores > model.high_cut) & (seen >= 2)] = "HIGH"
        reasons[known] = _explain_rows(frame[known], values[known], levels[known], clusters[known], model)
    return pd.DataFrame(
        {
            "risk_level": pd.Series(levels, index=frame.index, dtype="str"),
            "risk_score": pd.Series(scores, index=frame.index, dtype="float64"),
            **{f"reason_{n + 1}": pd.Series(reasons[:, n], index=frame.index, dtype="str") for n in range(3)},
            "cluster": pd.Series(pd.array(np.where(known, clusters, np.nan), dtype="Int64"), index=frame.index),
        }
    )


def summarize_risk(frame: pd.DataFrame) -> pd.DataFrame:
    """Enrollments per course and level: course_id, students, LOW, MEDIUM, HIGH, UNKNOWN.

    frame: course_id and risk_level. Counts may be small: for those who may see the rows.
    """
    import pandas as pd

    levels = pd.Categorical(frame["risk_level"], categories=list(LEVELS))
    counts = pd.crosstab(frame["course_id"].to_numpy(), levels, dropna=False).reindex(
        columns=list(LEVELS), fill_value=0
    )
    counts.insert(0, "students", counts.sum(axis=1))
    return counts.rename_axis(index="course_id", columns=None).reset_index()


def wilson(hits: int, students: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a share (Wilson 1927); it stays inside 0-1 and holds for small groups."""
    if students == 0:
        return None, None
    z = 1.959963984540054
    share, spread = hits / students, z * z / students
    center = (share + spread / 2) / (1 + spread)
    half = z * float(np.sqrt(share * (1 - share) / students + spread / (4 * students))) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def outcome_by_level(risk: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """How often each level ended in Fail or Withdrawn; a look back, which no fit reads.

    risk: student_pseudonym, course_id, risk_level of one day; outcomes: student_pseudonym, course_id, outcome, one row per
    enrollment. Enrollments without a known outcome are left out. Returns a row per level: risk_level, students,
    fail_or_withdrawn, share, share_low, share_high (Wilson 95 %); null shares where nobody is.
    """
    import pandas as pd

    key = ["student_pseudonym", "course_id"]
    joined = risk[[*key, "risk_level"]].merge(
        outcomes[[*key, "outcome"]].dropna(), on=key, how="inner", validate="one_to_one"
    )
    rows = []
    for level in LEVELS:
        ended = joined.loc[joined["risk_level"] == level, "outcome"]
        hits, students = int(ended.isin(BAD_OUTCOMES).sum()), len(ended)
        low, high = wilson(hits, students)
        rows.append({"risk_level": level, "students": students, "fail_or_withdrawn": hits,
                     "share": hits / students if students else None, "share_low": low, "share_high": high})  # fmt: skip
    return pd.DataFrame(rows).astype({"share": "float64", "share_low": "float64", "share_high": "float64"})
