"""What a model makes of its inputs before it measures distances: nulls filled with their meaning, each input 0-1.

Estimators and their fits do not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iom_platform.tables import MODEL_INPUTS

if TYPE_CHECKING:
    import pandas as pd

# Longer than any presentation: never active is further away than any activity.
NEVER_ACTIVE_DAYS = 365.0

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
    inputs = frame.loc[:, list(MODEL_INPUTS)].astype("float64")
    for name in MODEL_INPUTS:
        values = inputs[name].to_numpy()
        if (np.abs(values[~np.isnan(values)]) > np.finfo(np.float32).max).any():
            raise ValueError(
                f"model input {name} holds a value that is not finite; the feature's SQL divides by zero or overflows"
            )
    if (inputs["days_since_last_activity"] < 0).any():
        raise ValueError("model input days_since_last_activity is negative; a feature looked past the as-of day")
    return inputs


def build_scaling() -> Any:
    """Imputation and scaling of each input to 0-1, clipped to the range of the training snapshot.

    The range is used rather than the standard deviation, since the inputs are bounded by construction, and a column that
    hardly varied at training would otherwise rule the distances of every later day.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MinMaxScaler

    columns = []
    # a registered model gets whole numbers from a CSV file, nullable ones from a notebook, objects with pd.NA from MLflow
    as_numbers = FunctionTransformer(pd.DataFrame, kw_args={"dtype": "Float64"})
    for name in MODEL_INPUTS:
        meaning = MEANING_OF_NULL[name]
        fill = (SimpleImputer(strategy="median", keep_empty_features=True) if meaning is None
                else SimpleImputer(strategy="constant", fill_value=meaning, keep_empty_features=True))  # fmt: skip
        # a day more matters on the second day and hardly on the hundredth
        steps = [fill, FunctionTransformer(np.log1p)] if name == "days_since_last_activity" else [fill]
        columns.append((name, make_pipeline(as_numbers, *steps, MinMaxScaler(clip=True)), name))
    return ColumnTransformer(columns)
