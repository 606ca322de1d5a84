"""What a run in MLflow holds: a fit's parameters, data set, files, model and measures, and nothing of a person.

Which run, which version and which alias does not belong here.
"""

import json
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom_platform.tables import MODEL_INPUTS, TABLES

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from sklearn.pipeline import Pipeline

RISK_MODEL_FILE = "risk_model.json"
PROFILES_FILE = "profiles.csv"
MODEL_FILE = "model.skops"  # MLflow's name for it

_PERSONAL_COLUMNS = frozenset({"student_id", "id_student"}) | {
    c.name for t in TABLES for c in t.columns if c.kind in ("identifier", "quasi", "sensitive")
}
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "skops")


class RegistryError(RuntimeError):
    """The registry refuses or lacks something; the message is one sentence with its remedy."""

    exit_code = 1


def refuse_personal(inputs: "pd.DataFrame", profiles: "pd.DataFrame") -> None:
    foreign = [str(c) for c in inputs.columns if c not in MODEL_INPUTS]
    if foreign:
        raise RegistryError(
            f"the model's inputs hold {', '.join(foreign)}, which is no model input; fit on MODEL_INPUTS of tables.py alone"
        )
    personal = [str(c) for c in profiles.columns if c in _PERSONAL_COLUMNS]
    if personal:
        raise RegistryError(
            f"the profiles hold {', '.join(personal)}, which must not enter MLflow; pass aggregates by cluster"
        )


def without_rows(model: "Pipeline") -> "Pipeline":
    """A copy without what scikit-learn keeps per training row: K-Means holds a label for each student."""
    from sklearn.base import BaseEstimator

    slim = deepcopy(model)
    for _, step in slim.steps:
        if isinstance(step, BaseEstimator):
            vars(step).pop("labels_", None)
    return slim


def trusted_types(model: "Pipeline") -> list[str]:
    """The types of the model that skops does not know; RegistryError where one is not ours to trust."""
    import skops.io

    types = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    return check_types(types, "the model")


def check_types(types: list[str], where: str) -> list[str]:
    from iom_platform.clustering.algorithms import TRUSTED_TYPES

    foreign = [t for t in types if t not in TRUSTED_TYPES]
    if foreign:
        raise RegistryError(
            f"{where} holds {', '.join(foreign)}, which clustering.algorithms.TRUSTED_TYPES does not name; use scikit-learn's own parts"
        )
    return types


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])


def log_dataset(client: "MlflowClient", run_id: str, dataset: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(
        name=str(dataset["name"]),
        digest=str(dataset["digest"])[:36],  # the column's width
        source_type="iom",
        source=json.dumps({"table": str(dataset["name"]), "as_of_on": str(dataset["as_of_on"])}),
        profile=json.dumps({"num_rows": int(dataset["rows"]), "digest": str(dataset["digest"])}),
    )
    client.log_inputs(run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "training")])])


def log_files(client: "MlflowClient", run_id: str, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="iom-fit-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        client.log_artifacts(run_id, folder)


def log_model(
    client: "MlflowClient",
    run: "Run",
    *,
    model: "Pipeline",
    trusted: list[str],
    columns: list[str],
    params: Mapping[str, Any],
    name: str,
) -> "LoggedModel":
    """Store the pipeline as MLflow's logged model of the run, without the fluent API and its process-wide state."""
    import mlflow.sklearn
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        params={k: str(v) for k, v in params.items()},
        model_type="clustering",
    )
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    described = Model(
        artifact_path=logged.artifact_location,
        run_id=run.info.run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    # "any" and "optional", for the pipeline brings to numbers what it picks: as doubles MLflow would refuse the whole
    # numbers of our own tables, and as required columns it would print the rows where one is missing
    inputs = Schema([ColSpec(AnyType(), c, required=False) for c in columns])
    signature = ModelSignature(inputs, Schema([ColSpec(DataType.long, "cluster")]))
    with tempfile.TemporaryDirectory(prefix="iom-model-") as folder:
        mlflow.sklearn.save_model(
            model,
            f"{folder}/model",
            mlflow_model=described,
            serialization_format="skops",
            skops_trusted_types=trusted,
            signature=signature,
            # named, since finding them out would load the model in a subprocess
            pip_requirements=[f"{p}=={installed_version(p)}" for p in _REQUIREMENTS],
        )
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.finalize_logged_model(logged.model_id, "READY")
    return logged


def log_metrics(
    client: "MlflowClient", run: "Run", metrics: Mapping[str, float], logged: "LoggedModel", dataset: Mapping[str, Any]
) -> None:
    from mlflow.entities import Metric

    about = {
        "model_id": logged.model_id,
        "dataset_name": str(dataset["name"]),
        "dataset_digest": str(dataset["digest"])[:36],
        "run_id": run.info.run_id,
    }
    when = run.info.start_time
    client.log_batch(run.info.run_id, metrics=[Metric(k, float(v), when, 0, **about) for k, v in metrics.items()])
