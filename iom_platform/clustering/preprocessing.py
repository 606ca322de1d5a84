"""What a model makes of its inputs before it measures distances: nulls filled with their meaning, scaled, weighed, projected.

Estimators and their fits do not belong here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.tables import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

# Longer than any presentation: never active is further away than any activity.
NEVER_ACTIVE_DAYS = 365.0

# of an input or a feature; beyond them it would rule alone, or be as good as left out
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0

# 0-1 of the training range, clipped, as scikit-learn's MinMaxScaler; the others rescale that as StandardScaler and RobustScaler
SCALINGS = ("range", "standard", "robust")

# of a robust scaling, in quartile ranges from the median, about the fences of Tukey (1977): an input that half of the
# students share would otherwise rule all distances
ROBUST_BOUND = 2.0

# how inputs are prepared where nothing else is asked for; what is the default is no parameter of a fit
DEFAULTS: Mapping[str, Any] = {"weights": None, "scaling": "range", "pca_components": None}

# What a missing input means; None: nothing in itself, so the training median stands in.
MEANING_OF_NULL: dict[str, float | None] = {
    "active_days_28d_to_peers": 0.5,  # null where student and peer median are both 0: as the peers
    "clicks_28d_to_peers": 0.5,
    "clicks_14d_to_history": 0.5,  # null while there is no history: unchanged
    "days_since_last_activity": NEVER_ACTIVE_DAYS,
    "weekday_entropy_share": 0.0,  # null if never active: no day, no spread
    "submissions_missed_share": 0.0,  # null while none is due: none missed
    "score_pct_mean": None,
}


def select_inputs(frame: pd.DataFrame) -> pd.DataFrame:
    """The model inputs as float64, null as NaN, in the order of MODEL_INPUTS; ValueError for one that no model can read."""
    absent = [name for name in MODEL_INPUTS if name not in frame.columns]
    if absent:
        raise ValueError(f"the frame lacks the model input {absent[0]}; select it from anonymized/student_term")
    try:
        inputs = frame.loc[:, list(MODEL_INPUTS)].astype("float64")
    except (TypeError, ValueError):  # whose message quotes the value
        raise ValueError(
            "a model input holds something that is no number; every one is a number or null in anonymized/student_term"
        ) from None
    for name in MODEL_INPUTS:
        values = inputs[name].to_numpy()
        if (np.abs(values[~np.isnan(values)]) > np.finfo(np.float32).max).any():
            raise ValueError(
                f"model input {name} holds a value that is not finite; the feature's SQL divides by zero or overflows"
            )
    if (inputs["days_since_last_activity"] < 0).any():
        raise ValueError("model input days_since_last_activity is negative; a feature looked past the as-of day")
    return inputs


def select_preparation(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from DEFAULTS of how inputs are prepared, in the order of its names, from knobs of any.

    weights: by model input, in the order of MODEL_INPUTS, those of 1 left out; scaling: one of SCALINGS; pca_components: how
    many, or the share of variance that they must keep. Raises TypeError for what is of another type, and ValueError for
    an unknown input or scaling, or a value out of range.
    """
    asked = {**DEFAULTS, **{name: value for name, value in knobs.items() if name in DEFAULTS}}
    if asked["scaling"] not in SCALINGS:
        raise ValueError(f"clustering.scaling is {asked['scaling']!r}; use one of {', '.join(SCALINGS)}")
    _check_components(asked["pca_components"])
    asked["weights"] = _select_weights(asked["weights"])
    if (components := asked["pca_components"]) is not None:
        asked["pca_components"] = int(components) if isinstance(components, Integral) else float(components)
    return {name: value for name, value in asked.items() if value != DEFAULTS[name]}


def _check_components(value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"pca_components is {value!r}, which is no number; write one such as 3, or 0.9")
    if not (0 < value < 1 or (isinstance(value, Integral) and 1 <= int(value) <= len(MODEL_INPUTS))):
        raise ValueError(
            f"clustering.pca_components is {value}; write a number of components from 1 to {len(MODEL_INPUTS)}, or the share "
            "of variance that they must keep, between 0 and 1"
        )


def _select_weights(weights: Mapping[str, float] | None) -> dict[str, float] | None:
    if not isinstance(weights, Mapping | None):
        raise TypeError(
            f"weights is {weights!r}, which is no mapping; write one such as weights={{'score_pct_mean': 2}}"
        )
    for name, weight in (weights or {}).items():
        if name not in MODEL_INPUTS:
            near = difflib.get_close_matches(str(name), MODEL_INPUTS, n=1, cutoff=0.0)[0]
            raise ValueError(f"clustering.weights names {name!r}, which is no model input; the nearest is {near!r}")
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise TypeError(f"the weight of {name} is {weight!r}, which is no number; write one such as 2")
        if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise ValueError(
                f"clustering.weights gives {name} {weight:g}; a weight lies from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
            )
    given = {name: float((weights or {}).get(name, 1.0)) for name in MODEL_INPUTS}
    return {name: weight for name, weight in given.items() if weight != 1} or None


def build_scaling(
    weights: Mapping[str, float] | None = None, scaling: str = "range", pca_components: float | None = None
) -> Pipeline:
    """What is learned from filled rows: medians, scaling and, where asked for, weights and principal components.

    Arguments as `select_preparation` returns them. Each input is brought to 0-1 and clipped to the range of the training
    snapshot, whatever rescales it then, so that no later day has a row that is further away than training rows were. By
    default nothing rescales it: the inputs are bounded by construction, and by its standard deviation a column that hardly
    varied at training would rule the distances.
    """
    from sklearn import preprocessing
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline

    steps: list[tuple[str, Any]] = [
        ("median", SimpleImputer(strategy="median", keep_empty_features=True)),
        ("range", preprocessing.MinMaxScaler(clip=True)),
    ]
    if scaling == "standard":
        steps.append(("standard", preprocessing.StandardScaler()))
    elif scaling == "robust":
        steps.append(("robust", preprocessing.RobustScaler()))
        within = {"a_min": -ROBUST_BOUND, "a_max": ROBUST_BOUND}
        steps.append(("bound", preprocessing.FunctionTransformer(np.clip, kw_args=within)))
    if weights:
        each = [(name, "passthrough", [place]) for place, name in enumerate(MODEL_INPUTS)]
        steps.append(("weights", ColumnTransformer(each, transformer_weights=dict(weights))))
    if pca_components is not None:
        steps.append(("components", PCA(pca_components, svd_solver="full")))
    return Pipeline(steps)


@dataclass(frozen=True)
class Inputs:
    """Rows with the nulls filled that mean something: to fit on many samples of them, that need not be done anew.

    raw, filled: (n, n_inputs) float64, NaN where missing; fill: the step that filled them, which learns nothing from rows.
    """

    raw: np.ndarray
    filled: np.ndarray
    fill: Any

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Inputs:
        """Of a frame (n, >= MODEL_INPUTS); ValueError as `select_inputs`."""
        inputs, fill = select_inputs(frame), _build_filling()
        raw = inputs.to_numpy()
        return cls(raw, np.asarray(fill.fit_transform(inputs)) if len(raw) else raw, fill)

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, places: np.ndarray) -> Inputs:
        return Inputs(self.raw[places], self.filled[places], self.fill)

    def in_order(self) -> Inputs:
        """Sorted by all inputs: estimators draw their start by row number."""
        return self.take(np.lexsort(self.raw.T[::-1]))

    def count_distinct(self) -> int:
        return len(np.unique(np.where(np.isnan(self.raw), -np.inf, self.raw), axis=0))


def _build_filling() -> Any:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    # a registered model gets whole numbers from a CSV file, nullable ones from a notebook, objects with pd.NA from MLflow
    as_numbers, as_floats = (FunctionTransformer(pd.DataFrame, kw_args={"dtype": d}) for d in ("Float64", "float64"))
    # a day more matters on the second day and hardly on the hundredth
    steps_of = {"days_since_last_activity": [FunctionTransformer(np.log1p)]}
    parts = []
    for name in MODEL_INPUTS:
        meaning = MEANING_OF_NULL[name]
        fill = SimpleImputer(strategy="constant", fill_value=meaning, keep_empty_features=True)
        steps = [as_floats] if meaning is None else [fill, *steps_of.get(name, [])]
        parts.append((name, make_pipeline(as_numbers, *steps), name))
    return ColumnTransformer(parts)


def to_inputs(scaling: Pipeline, centers: np.ndarray) -> np.ndarray:
    """Centers (k, n) that the estimator sees as scaled inputs (k, n_inputs): back from the components, where there are any."""
    return np.asarray(scaling[-1].inverse_transform(centers)) if "components" in scaling.named_steps else centers
