"""The one door to MLflow: logs a fit as a run, registers it as a version, and gives versions back.

Fitting, the choice of a day's champion and `clustering/promotions` do not belong here.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom_platform.settings import Settings
from iom_platform.storage.model_runs import (
    MODEL_FILE,
    PROFILES_FILE,
    RISK_MODEL_FILE,
    RegistryError,
    check_types,
    log_dataset,
    log_files,
    log_metrics,
    log_model,
    log_params,
    refuse_personal,
    trusted_types,
    without_rows,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from sklearn.pipeline import Pipeline

DATABASE = "mlflow"
CHAMPION, CHALLENGER = "champion", "challenger"
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a run's description
VERSION_TAGS = ("fit_key", "trained_as_of")

_LOCK_KEY = (
    0x696F6D6D6C  # "iomml": MLflow neither migrates its schema nor counts versions safely in two processes at once
)


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
        parent_run_id: str | None = None,
    ) -> tuple[int | None, str]:
        """Log a fit as one run, and register it as a version once all of it is stored.

        inputs: only its column names are used, for the signature; MODEL_INPUTS alone may be among them. tags: must hold
        fit_key and trained_as_of, which the version gets too. files: plots and texts by file name. profiles: aggregates
        by cluster. about: what the registered model is, where it says nothing yet. description: Markdown that run and
        version show. dataset: name, digest, rows, as_of_on of the snapshot. register: whether the fit becomes a version; one that is only compared does not. parent_run_id: of the
        selection that it is nested in.
        Returns (version or None, run id). After an exception the run is FAILED and no version exists; raises RegistryError
        before anything is written where the fit holds what must not enter MLflow.
        """
        refuse_personal(inputs, profiles)
        model = without_rows(model)
        trusted = trusted_types(model)
        version_tags = _version_tags(tags)
        client = self._client()
        experiment_id = self._experiment(client, model_name)
        nested = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        own = {**_RUN_TAGS, **nested, DESCRIPTION: description}
        run = client.create_run(experiment_id, run_name=run_name, tags={**own, **tags})
        run_id = run.info.run_id
        with _ended(client, run_id):
            log_params(client, run_id, params)
            with _one_at_a_time(self.tracking_url):  # of two runs that name a new dataset at once, MLflow fails one
                log_dataset(client, run_id, dataset)
            log_files(client, run_id, {**files, RISK_MODEL_FILE: _json(risk_model), PROFILES_FILE: _csv(profiles)})
            logged = log_model(
                client, run, model=model, trusted=trusted, columns=list(inputs.columns), params=params, name=model_name
            )
            log_metrics(client, run, metrics, logged, dataset)
            client.set_terminated(run_id, "FINISHED")
            version = (
                self._register(client, model_name, about, run_id, logged, version_tags, description)
                if register
                else None
            )
            return version, run_id

    @contextmanager
    def open_selection(
        self,
        *,
        model_name: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: Mapping[str, Any],
    ) -> Iterator[str]:
        """The run that the fits of one decision are nested in; FAILED after an exception. Yields its id."""
        client = self._client()
        run = client.create_run(self._experiment(client, model_name), run_name=run_name, tags={**_RUN_TAGS, **tags})
        run_id = run.info.run_id
        with _ended(client, run_id):
            log_params(client, run_id, params)
            with _one_at_a_time(self.tracking_url):
                log_dataset(client, run_id, dataset)
            yield run_id
            client.set_terminated(run_id, "FINISHED")

    def note(self, run_id: str, *, description: str, tags: Mapping[str, str], files: Mapping[str, bytes]) -> None:
        """Add to a run what it came to."""
        client = self._client()
        for name, value in {DESCRIPTION: description, **tags}.items():
            client.set_tag(run_id, name, value)
        log_files(client, run_id, files)

    def log_comparison(
        self,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        profiles: "pd.DataFrame",
        dataset: Mapping[str, Any],
    ) -> str:
        """Log what a fit found as one run, without a model; a finished run of the same `fit_key` in `tags` is reused.

        The arguments are as `log_fit` takes them. Returns the run id.
        """
        from mlflow.entities import Metric

        refuse_personal(profiles[[]], profiles)
        client = self._client()
        experiment_id = self._experiment(client, experiment)
        same = f"tags.fit_key = '{_quoted(tags['fit_key'])}' and attributes.status = 'FINISHED'"
        if found := client.search_runs([experiment_id], same, max_results=1):
            return str(found[0].info.run_id)
        run = client.create_run(experiment_id, run_name=run_name, tags={**_RUN_TAGS, **tags})
        run_id = str(run.info.run_id)
        with _ended(client, run_id):
            log_params(client, run_id, params)
            with _one_at_a_time(self.tracking_url):
                log_dataset(client, run_id, dataset)
            log_files(client, run_id, {PROFILES_FILE: _csv(profiles)})
            about = {"dataset_name": str(dataset["name"]), "dataset_digest": str(dataset["digest"])[:36]}
            logged = [Metric(k, float(v), run.info.start_time, 0, run_id=run_id, **about) for k, v in metrics.items()]
            client.log_batch(run_id, metrics=logged)
            client.set_terminated(run_id, "FINISHED")
        return run_id

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
        trusted = check_types(skops.io.get_untrusted_types(file=file), str(file))
        return skops.io.load(file, trusted=trusted), risk_model

    def set_champion(self, model_name: str, version: int) -> None:
        """Point the alias `champion` to a version; it shows the current one, the record decides for a day."""
        self._version(model_name, version)
        self._client().set_registered_model_alias(model_name, CHAMPION, str(version))

    def challenger(self, model_name: str) -> int | None:
        """The version that waits for a person, or None."""
        found = self._client().get_registered_model(model_name).aliases.get(CHALLENGER)
        return None if found is None else int(found)

    def set_challenger(self, model_name: str, version: int | None) -> None:
        """Point the alias `challenger` to a version that waits for a person; None takes it away."""
        if version is None:
            self._client().delete_registered_model_alias(model_name, CHALLENGER)
        else:
            self._client().set_registered_model_alias(model_name, CHALLENGER, str(version))

    def read_versions(self, model_name: str) -> list[dict[str, Any]]:
        """{model_version, mlflow_run_id, trained_as_of, fit_key} of each registered version, newest first."""
        found = self._client().search_model_versions(f"name = '{_quoted(model_name)}'")
        rows = [{"model_version": int(v.version), "mlflow_run_id": v.run_id, **v.tags} for v in found]
        return sorted(rows, key=lambda row: int(row["model_version"]), reverse=True)

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters of a run, as texts."""
        return dict(self._run(run_id).data.params)

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


@contextmanager
def _ended(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """A run that breaks off inside is FAILED."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the first error says more than one about marking it
            client.set_terminated(run_id, "FAILED")
        raise


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _csv(frame: "pd.DataFrame") -> bytes:
    return str(frame.to_csv(index=False)).encode()


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
