"""The one door to MLflow: logs a fit as a run, registers it as a version, and gives versions back.

Fitting, the choice of a day's champion and `clustering/promotions` do not belong here.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom_platform.settings import Settings
from iom_platform.tables import MODEL_INPUTS, TABLES

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from sklearn.pipeline import Pipeline

DATABASE = "mlflow"
CHAMPION = "champion"
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a run's description
RISK_MODEL_FILE = "risk_model.json"
PROFILES_FILE = "profiles.csv"
MODEL_FILE = "model.skops"  # MLflow's name for it
VERSION_TAGS = ("fit_key", "trained_as_of")

_PERSONAL_COLUMNS = frozenset({"student_id", "id_student"}) | {
    c.name for t in TABLES for c in t.columns if c.kind in ("identifier", "quasi", "sensitive")
}
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "skops")
_LOCK_KEY = (
    0x696F6D6D6C  # "iomml": MLflow neither migrates its schema nor counts versions safely in two processes at once
)


class RegistryError(RuntimeError):
    """The registry refuses or lacks something; the message is one sentence with its remedy."""

    exit_code = 1


@dataclass(frozen=True)
class Registry:
    """MLflow on one PostgreSQL database, artifacts under one folder; two processes may use it at once."""

    tracking_url: str = field(repr=False)  # holds a password
    artifact_path: Path

    @classmethod
    def of(cls, settings: Settings) -> "Registry":
        """The registry of these settings; starts the embedded server where it does not run."""
        from iom_platform.storage.postgres_server import ensure_server

        return cls(ensure_server(settings).url(DATABASE), settings.artifact_path)

    def prepare(self) -> None:
        """Create or check MLflow's schema; what starts MLflow's own server calls it first, since that does not lock."""
        self._client()

    def log_fit(
        self,
        *,
        model: "Pipeline",
        risk_model: Mapping[str, Any],
        inputs: "pd.DataFrame",
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        profiles: "pd.DataFrame",
        model_name: str,
        about: str,
        run_name: str,
        description: str,
        dataset: Mapping[str, Any],
        register: bool = True,
    ) -> tuple[int | None, str]:
        """Log a fit as one run, and register it as a version once all of it is stored.

        inputs: only its column names are used, for the signature; MODEL_INPUTS alone may be among them. tags: must hold
        fit_key and trained_as_of, which the version gets too. files: plots and texts by file name. profiles: aggregates
        by cluster. about: what the registered model is, where it says nothing yet. description: Markdown that run and
        version show. dataset: name, digest, rows, as_of_on of the snapshot. register: whether the fit becomes a version; one that is only compared does not.
        Returns (version or None, run id). After an exception the run is FAILED and no version exists; raises RegistryError
        before anything is written where the fit holds what must not enter MLflow.
        """
        _refuse_personal(inputs, profiles)
        model = _without_rows(model)
        trusted = _trusted_types(model)
        version_tags = _version_tags(tags)
        client = self._client()
        experiment_id = self._experiment(client, model_name)
        run = client.create_run(experiment_id, run_name=run_name, tags={**_RUN_TAGS, DESCRIPTION: description, **tags})
        run_id = run.info.run_id
        try:
            _log_params(client, run_id, params)
            with _one_at_a_time(self.tracking_url):  # of two runs that name a new dataset at once, MLflow fails one
                _log_dataset(client, run_id, dataset)
            _log_files(client, run_id, risk_model, files, profiles)
            logged = _log_model(
                client, run, model=model, trusted=trusted, columns=list(inputs.columns), params=params, name=model_name
            )
            _log_metrics(client, run, metrics, logged, dataset)
            client.set_terminated(run_id, "FINISHED")
            version = (
                self._register(client, model_name, about, run_id, logged, version_tags, description)
                if register
                else None
            )
            return version, run_id
        except BaseException:
            with suppress(Exception):  # the first error says more than one about marking it
                client.set_terminated(run_id, "FAILED")
            raise

    def find_version_by_fit_key(self, model_name: str, fit_key: str) -> dict[str, Any] | None:
        """{model_version, mlflow_run_id} of the newest complete version with this fit key, or None.

        Complete is: its run is FINISHED and both of its models are on disk.
        """
        client = self._client()
        found = client.search_model_versions(f"name = '{_quoted(model_name)}' and tags.fit_key = '{_quoted(fit_key)}'")
        for version in sorted(found, key=lambda v: int(v.version), reverse=True):
            run = client.get_run(version.run_id)
            complete = run.info.status == "FINISHED" and run.info.lifecycle_stage == "active"
            files = _local(version.source) / MODEL_FILE, _local(run.info.artifact_uri) / RISK_MODEL_FILE
            if complete and all(f.is_file() for f in files):
                return {"model_version": int(version.version), "mlflow_run_id": version.run_id}
        return None

    def load_model(self, model_name: str, version: int) -> "tuple[Pipeline, dict[str, Any]]":
        """The fitted pipeline of a version and the risk model that was fitted with it."""
        import skops.io

        found = self._version(model_name, version)
        risk_model = json.loads(self.artifact(found.run_id, RISK_MODEL_FILE))
        file = _local(found.source) / MODEL_FILE
        if not file.is_file():
            raise RegistryError(
                f"{model_name} version {version} has no file {file}; bring it back, or refit with --refit"
            )
        # not MLflow's loader: it takes the format and the types to trust from the model's own folder
        trusted = _check_types(skops.io.get_untrusted_types(file=file), str(file))
        return skops.io.load(file, trusted=trusted), risk_model

    def set_champion(self, model_name: str, version: int) -> None:
        """Point the alias `champion` to a version; it shows the current one, the record decides for a day."""
        self._version(model_name, version)
        self._client().set_registered_model_alias(model_name, CHAMPION, str(version))

    def experiment_id(self, model_name: str) -> str | None:
        """The experiment that holds the fits of a model, or None before the first."""
        found = self._client().get_experiment_by_name(model_name)
        return str(found.experiment_id) if found else None

    def metrics(self, run_id: str) -> dict[str, float]:
        """The metrics of a run."""
        return dict(self._run(run_id).data.metrics)

    def artifact(self, run_id: str, name: str) -> bytes:
        """The bytes of one file of a run, such as `profiles.png`."""
        root = _local(self._run(run_id).info.artifact_uri)
        file = root / name
        if not file.resolve().is_relative_to(root.resolve()):
            raise RegistryError(f"{name} lies outside the artifacts of run {run_id}; name one of its files")
        try:
            return file.read_bytes()
        except OSError as error:
            raise RegistryError(
                f"{file} of run {run_id} cannot be read ({error.strerror}); bring it back, or refit with --refit"
            ) from None

    def _run(self, run_id: str) -> "Run":
        from mlflow.exceptions import MlflowException

        try:
            return self._client().get_run(run_id)
        except MlflowException:
            raise RegistryError(f"MLflow has no run {run_id}; refit with --refit") from None

    def _version(self, model_name: str, version: int) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client().get_model_version(model_name, str(version))
        except MlflowException:
            raise RegistryError(f"MLflow has no version {version} of {model_name}; refit with --refit") from None

    def _client(self) -> "MlflowClient":
        return _prepared_client(self.tracking_url, self.artifact_path)

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        """The experiment's id; its artifact root is ours, never the working directory."""
        root = _root_uri(self.artifact_path, name)
        with _one_at_a_time(self.tracking_url):
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                return str(client.create_experiment(name, artifact_location=root))
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
        if experiment.artifact_location != root:
            raise RegistryError(
                f"experiment {name} keeps its artifacts in {experiment.artifact_location}, not in {root}; "
                "move the folder back, or set IOM_HOME to the one that holds them"
            )
        return str(experiment.experiment_id)

    def _register(
        self,
        client: "MlflowClient",
        model_name: str,
        about: str,
        run_id: str,
        logged: "LoggedModel",
        tags: dict[str, str],
        description: str,
    ) -> int:
        """Register the run's model; one insert holds version and tags, so a version is whole or absent."""
        with _one_at_a_time(self.tracking_url):
            known = client.search_registered_models(f"name = '{_quoted(model_name)}'")
            if not known:
                client.create_registered_model(model_name, description=about)
            elif not known[0].description:
                client.update_registered_model(model_name, description=about)
            made = client.create_model_version(
                model_name,
                logged.artifact_location,
                run_id=run_id,
                tags=tags,
                description=description,
                model_id=logged.model_id,
                await_creation_for=0,
            )
        version = int(made.version)
        # the link that MLflow's own register_model leaves; losing it costs a label in the UI only
        with suppress(Exception):
            links = json.dumps([{"name": model_name, "version": version}])
            client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": links})
        return version


_RUN_TAGS = {"mlflow.user": "iom", "mlflow.source.name": "iom_platform", "mlflow.source.type": "JOB"}


def _refuse_personal(inputs: "pd.DataFrame", profiles: "pd.DataFrame") -> None:
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


def _version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    absent = [t for t in VERSION_TAGS if not tags.get(t)]
    if absent:
        raise RegistryError(f"the fit has no tag {', '.join(absent)}; without it a version cannot be found again")
    return {t: tags[t] for t in VERSION_TAGS}


def _quoted(text: str) -> str:
    if not text or "'" in text or '"' in text:
        raise RegistryError(f"{text!r} cannot be looked up in MLflow; use letters, digits, _ and -")
    return text


def _local(uri: str) -> Path:
    from mlflow.utils.file_utils import local_file_uri_to_path

    return Path(local_file_uri_to_path(uri))


def _root_uri(artifact_path: Path, *parts: str) -> str:
    return artifact_path.resolve().joinpath(*parts).as_uri()


def _without_rows(model: "Pipeline") -> "Pipeline":
    """A copy without what scikit-learn keeps per training row: K-Means holds a label for each student."""
    from sklearn.base import BaseEstimator

    slim = deepcopy(model)
    for _, step in slim.steps:
        if isinstance(step, BaseEstimator):
            vars(step).pop("labels_", None)
    return slim


def _trusted_types(model: "Pipeline") -> list[str]:
    """The types of the model that skops does not know; RegistryError where one is not ours to trust."""
    import skops.io

    types = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    return _check_types(types, "the model")


def _check_types(types: list[str], where: str) -> list[str]:
    from iom_platform.clustering.algorithms import TRUSTED_TYPES

    foreign = [t for t in types if t not in TRUSTED_TYPES]
    if foreign:
        raise RegistryError(
            f"{where} holds {', '.join(foreign)}, which clustering.algorithms.TRUSTED_TYPES does not name; use scikit-learn's own parts"
        )
    return types


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])


def _log_dataset(client: "MlflowClient", run_id: str, dataset: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(
        name=str(dataset["name"]),
        digest=str(dataset["digest"])[:36],  # the column's width
        source_type="iom",
        source=json.dumps({"table": str(dataset["name"]), "as_of_on": str(dataset["as_of_on"])}),
        profile=json.dumps({"num_rows": int(dataset["rows"]), "digest": str(dataset["digest"])}),
    )
    client.log_inputs(run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "training")])])


def _log_files(
    client: "MlflowClient",
    run_id: str,
    risk_model: Mapping[str, Any],
    files: Mapping[str, bytes],
    profiles: "pd.DataFrame",
) -> None:
    with tempfile.TemporaryDirectory(prefix="iom-fit-") as folder:
        Path(folder, RISK_MODEL_FILE).write_text(json.dumps(risk_model, indent=1, sort_keys=True), encoding="utf-8")
        profiles.to_csv(Path(folder, PROFILES_FILE), index=False)
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        client.log_artifacts(run_id, folder)


def _log_model(
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
        _mlflow().sklearn.save_model(
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


def _log_metrics(
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


@contextmanager
def _one_at_a_time(tracking_url: str) -> Iterator[None]:
    """Hold the advisory lock of this registry; it falls with the connection, also after kill -9."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(tracking_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text("select pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            yield
    finally:
        engine.dispose()


@cache
def _prepared_client(tracking_url: str, artifact_path: Path) -> "MlflowClient":
    """A client whose schema exists; made once a process and database, since checking the schema takes a second."""
    mlflow = _mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _one_at_a_time(tracking_url):
        # gives MLflow's Default experiment a root of ours; left to itself it takes the working directory
        SqlAlchemyStore(tracking_url, _root_uri(artifact_path, "default"))
        client: MlflowClient = mlflow.MlflowClient(tracking_url, registry_uri=tracking_url)
        client.search_registered_models(max_results=1)
    return client


@cache
def _mlflow() -> Any:
    """The library, quiet and offline, imported once and only when it is used: the import takes seconds."""
    import mlflow
    import mlflow.sklearn
    from mlflow.telemetry import client as telemetry

    # it would post usage records to its makers at the first call
    telemetry._set_telemetry_client(None)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow
