"""The registry on a real PostgreSQL: a fit comes back whole, an incomplete one never does, nothing personal goes in."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import pytest

from iom_platform.clustering.algorithms import ALGORITHMS, assign, fit
from iom_platform.clustering.profiles import profile_clusters
from iom_platform.settings import Settings
from iom_platform.storage import model_registry
from iom_platform.storage.model_registry import DATABASE, Registry
from iom_platform.storage.model_runs import RegistryError
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.tables import MODEL_INPUTS
from tests.plants import pseudonym

PSEUDONYMS = [pseudonym(104_729 * (i + 1) ** 3) for i in range(120)]
PNG = b"\x89PNG\r\n\x1a\n"


def _inputs() -> pd.DataFrame:
    """Model inputs of 120 students, who are its index: what must not leak."""
    values = np.random.default_rng(7).random((len(PSEUDONYMS), len(MODEL_INPUTS)))
    values[::9, -1] = np.nan
    return pd.DataFrame(values, columns=list(MODEL_INPUTS), index=pd.Index(PSEUDONYMS, name="student_pseudonym"))


def _fit(algorithm: str = "kmeans", **changes: Any) -> dict[str, Any]:
    """The arguments of `log_fit`."""
    inputs = _inputs()
    knobs = {"n_clusters": 3, "max_iterations": 50, "linkage": "ward", "min_samples": 2, "min_cluster_size": 5}
    model = fit(inputs, algorithm=algorithm, seed=1, **knobs)
    return {
        "model": model,
        "risk_model": {"high_cutoff": 0.8, "cluster_scores": {"0": 0.1}},
        "inputs": inputs,
        "params": {"algorithm": algorithm, "n_clusters": 3, "seed": 1},
        "metrics": {"silhouette": 0.31},
        "tags": {"fit_key": "k" * 64, "trained_as_of": "2013-12-16"},
        "files": {"profiles.png": PNG},
        "profiles": profile_clusters(inputs, assign(model, inputs)[0]),
        "model_name": "student_clusters",
        "about": "Groups of enrollments.",
        "run_name": f"{algorithm} k=3 2013-12-16",
        "description": "Groups enrollments by behavior.",
        "dataset": {"name": "anonymized/student_term", "digest": "d" * 64, "rows": 120, "as_of_on": "2013-12-16"},
        **changes,
    }


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry.of(settings)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name of the test's own, and so an experiment of its own."""
    return str(request.node.originalname)


def _query(registry: Registry, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(registry.tracking_url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def _statuses(registry: Registry, name: str) -> list[str]:
    return [
        s
        for (s,) in _query(
            registry,
            f"select status from runs join experiments using (experiment_id) where experiments.name = '{name}'",
        )
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_fit_comes_back_as_it_was_logged(registry: Registry, name: str, algorithm: str) -> None:
    logged = _fit(algorithm, model_name=name)
    version, run_id = registry.log_fit(**logged)
    model, risk_model = registry.load_model(name, version)
    for mine, theirs in zip(assign(model, _inputs()), assign(logged["model"], _inputs()), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert risk_model == logged["risk_model"]
    assert registry.metrics(run_id) == {"silhouette": 0.31}
    assert registry.artifact(run_id, "profiles.png") == PNG
    assert b"standardized_difference" in registry.artifact(run_id, "profiles.csv")


def test_a_run_says_what_it_is(registry: Registry, name: str) -> None:
    version, run_id = registry.log_fit(**_fit(model_name=name))
    client = registry._client()
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("kmeans k=3 2013-12-16", "FINISHED")
    assert run.data.params == {"algorithm": "kmeans", "n_clusters": "3", "seed": "1"}
    assert run.data.tags["mlflow.note.content"] == "Groups enrollments by behavior."
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "anonymized/student_term"
    assert json.loads(used.dataset.profile) == {"num_rows": 120, "digest": "d" * 64}
    registered = client.get_model_version(name, str(version))
    assert registered.tags == {"fit_key": "k" * 64, "trained_as_of": "2013-12-16"}
    assert registered.description == "Groups enrollments by behavior."
    described = json.loads(_signature(registered.source)["inputs"])
    assert [c["name"] for c in described] == list(MODEL_INPUTS)


def test_a_registered_model_says_what_it_is_and_keeps_what_it_was_told(registry: Registry, name: str) -> None:
    client = registry._client()
    for before, after in ((None, "Groups of enrollments."), ("", "Groups of enrollments."), ("Mine.", "Mine.")):
        if before is not None:
            client.update_registered_model(name, description=before)
        registry.log_fit(**_fit(model_name=name))
        assert client.get_registered_model(name).description == after


def _signature(source: str) -> dict[str, str]:
    import yaml

    described = yaml.safe_load((Path(source.removeprefix("file://")) / "MLmodel").read_text())
    assert "saved_input_example_info" not in described
    return dict(described["signature"])


def test_no_person_enters_the_artifacts_or_the_database(registry: Registry, name: str) -> None:
    version, _ = registry.log_fit(**_fit(model_name=name))
    stored = b"".join(_contents(registry.artifact_path)) + _dump(registry)
    assert name.encode() in stored
    found = [p for p in PSEUDONYMS if p.encode() in stored]
    assert not found
    model, _ = registry.load_model(name, version)
    per_row = [
        a for a, v in vars(model[-1]).items() if len(np.atleast_1d(np.asarray(v, dtype=object))) == len(PSEUDONYMS)
    ]
    assert per_row == [], "the stored estimator holds something for each student"


def _contents(folder: Path) -> Iterator[bytes]:
    for file in folder.rglob("*"):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                yield from (packed.read(member) for member in packed.namelist())
        elif file.is_file():
            yield file.read_bytes()


def _dump(registry: Registry) -> bytes:
    tables = [t for (t,) in _query(registry, "select tablename from pg_tables where schemaname = 'public'")]
    assert "runs" in tables
    return "\n".join(row for t in tables for (row,) in _query(registry, f'select t::text from "{t}" as t')).encode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": _inputs().reset_index()}, "student_pseudonym"),
        ({"inputs": _inputs().assign(score=1.0)}, "score"),
        ({"profiles": pd.DataFrame({"student_pseudonym": PSEUDONYMS})}, "student_pseudonym"),
        ({"profiles": pd.DataFrame({"gender": ["F"]})}, "gender"),
        ({"tags": {"trained_as_of": "2013-12-16"}}, "fit_key"),
    ],
)
def test_what_must_not_enter_is_refused_before_anything_is_written(
    registry: Registry, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(RegistryError, match=named):
        registry.log_fit(**_fit(model_name="refused", **changes))
    assert _statuses(registry, "refused") == []


class Foreign:
    """A type that nobody trusts."""

    def fit(self, inputs: Any, target: Any = None) -> "Foreign":
        return self

    def predict(self, inputs: Any) -> Any:
        return np.zeros(len(inputs))


def test_a_model_with_a_foreign_type_is_neither_logged_nor_loaded(registry: Registry, name: str) -> None:
    import skops.io
    from sklearn.pipeline import Pipeline

    foreign = Pipeline([("cluster", Foreign())])
    with pytest.raises(RegistryError, match="Foreign"):
        registry.log_fit(**_fit(model_name=name, model=foreign))
    assert _statuses(registry, name) == []
    version, _ = registry.log_fit(**_fit(model_name=name))
    folder = Path(registry._version(name, version).source.removeprefix("file://"))
    skops.io.dump(foreign, folder / "model.skops")
    described = (folder / "MLmodel").read_text()
    trusted = f"    - {Foreign.__module__}.Foreign\n    - numpy.dtype"
    (folder / "MLmodel").write_text(described.replace("    - numpy.dtype", trusted))
    with pytest.raises(RegistryError, match="Foreign"):
        registry.load_model(name, version)


def test_a_version_is_found_again_by_its_fit_key(registry: Registry, name: str) -> None:
    assert registry.find_version_by_fit_key(name, "k" * 64) is None
    first, _ = registry.log_fit(**_fit(model_name=name))
    second, run_id = registry.log_fit(**_fit(model_name=name))
    registry.log_fit(**_fit(model_name=name, tags={"fit_key": "other", "trained_as_of": "2013-12-16"}))
    assert second == first + 1
    assert registry.find_version_by_fit_key(name, "k" * 64) == {"model_version": second, "mlflow_run_id": run_id}
    assert registry.find_version_by_fit_key(name, "unknown") is None


@pytest.mark.parametrize("damage", ["failed run", "deleted run", "no risk model", "no model"])
def test_an_incomplete_version_is_not_found(registry: Registry, damage: str) -> None:
    version, run_id = registry.log_fit(**_fit(model_name=damage))
    client = registry._client()
    assert registry.find_version_by_fit_key(damage, "k" * 64)
    if damage == "failed run":
        client.set_terminated(run_id, "FAILED")
    elif damage == "deleted run":
        client.delete_run(run_id)
    elif damage == "no risk model":
        (registry.artifact_path / damage / run_id / "artifacts" / "risk_model.json").unlink()
    else:
        shutil.rmtree(registry._version(damage, version).source.removeprefix("file://").replace("%20", " "))
    assert registry.find_version_by_fit_key(damage, "k" * 64) is None


@pytest.mark.parametrize(
    "step", ["log_params", "log_dataset", "log_files", "log_model", "log_metrics", "Registry._register"]
)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_breaks_off_is_failed_and_has_no_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    name = f"broken {step.replace('.', ' ')} {error.__name__}"

    def break_off(*arguments: Any, **named: Any) -> None:
        raise error("broken off")

    monkeypatch.setattr(f"{model_registry.__name__}.{step}", break_off)
    with pytest.raises(error, match="broken off"):
        registry.log_fit(**_fit(model_name=name))
    assert _statuses(registry, name) == ["FAILED"]
    assert registry.find_version_by_fit_key(name, "k" * 64) is None


def _champion(registry: Registry, name: str) -> int | None:
    aliases = registry._client().get_registered_model(name).aliases
    return int(aliases["champion"]) if "champion" in aliases else None


def test_the_champion_is_the_version_that_was_set_last(registry: Registry, name: str) -> None:
    first, _ = registry.log_fit(**_fit(model_name=name))
    second, _ = registry.log_fit(**_fit(model_name=name))
    assert _champion(registry, name) is None
    for version in (second, first):
        registry.set_champion(name, version)
        assert _champion(registry, name) == version
    with pytest.raises(RegistryError, match="no version 99"):
        registry.set_champion(name, 99)
    assert _champion(registry, name) == first


def test_what_is_lacking_is_said_in_a_sentence(registry: Registry, name: str) -> None:
    version, run_id = registry.log_fit(**_fit(model_name=name))
    with pytest.raises(RegistryError, match=r"no version 99 of .*--refit"):
        registry.load_model(name, 99)
    with pytest.raises(RegistryError, match="no run"):
        registry.metrics("0" * 32)
    with pytest.raises(RegistryError, match=r"absent\.png .* cannot be read"):
        registry.artifact(run_id, "absent.png")
    with pytest.raises(RegistryError, match="outside"):
        registry.artifact(run_id, "../../../../../../etc/hostname")
    shutil.rmtree(registry._version(name, version).source.removeprefix("file://"))
    with pytest.raises(RegistryError, match=r"no file .*model\.skops"):
        registry.load_model(name, version)
    with pytest.raises(RegistryError, match="cannot be looked up"):
        registry.find_version_by_fit_key(name, "x' or 1")


def test_a_moved_folder_is_refused_with_its_remedy(registry: Registry, name: str, tmp_path: Path) -> None:
    registry.log_fit(**_fit(model_name=name))
    with pytest.raises(RegistryError, match="IOM_HOME"):
        Registry(registry.tracking_url, tmp_path).log_fit(**_fit(model_name=name))


def test_the_password_is_not_shown(registry: Registry) -> None:
    assert "postgresql" not in repr(registry)


AT_ONCE = """
import socket, sys
def refuse(*arguments):
    print("network", arguments, file=sys.stderr)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from pathlib import Path
from tests.integration.test_model_registry import _fit
from iom_platform.storage.model_registry import Registry
version, _ = Registry(sys.argv[1], Path(sys.argv[2])).log_fit(**_fit())
print(version)
"""


def test_two_processes_on_an_empty_database_are_safe_quiet_offline_and_stay_in_their_folder(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    server = ensure_server(settings)
    with contextlib.closing(psycopg2.connect(server.url(DATABASE))) as connection:
        connection.autocommit = True
        connection.cursor().execute("create database mlflow_race")
    elsewhere, here = tmp_path / "working directory", tmp_path / "artifacts"
    elsewhere.mkdir()
    # neither pytest nor a CI, for MLflow is silent in those; and no git on the path
    silent = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "PATH", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    environment = {k: v for k, v in os.environ.items() if k not in silent}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, server.url("mlflow_race"), str(here)],
            cwd=elsewhere, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in both]
    assert [stderr for _, stderr in said] == ["", ""]
    assert sorted(stdout.strip() for stdout, _ in said) == ["1", "2"]
    assert list(elsewhere.iterdir()) == []
    raced = Registry(server.url("mlflow_race"), here)
    roots = {root for (root,) in _query(raced, "select artifact_location from experiments")}
    assert roots == {(here / "default" / "0").as_uri(), (here / "student_clusters").as_uri()}


@pytest.mark.parametrize("call", ["log_inputs", "create_experiment", "create_model_version"])
def test_what_mlflow_cannot_do_twice_at_once_is_done_under_the_lock(
    registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from mlflow import MlflowClient

    plain, is_locked = getattr(MlflowClient, call), []

    def watched(*arguments: Any, **named: Any) -> Any:
        is_locked.append(bool(_query(registry, "select from pg_locks where locktype = 'advisory' and granted")))
        return plain(*arguments, **named)

    monkeypatch.setattr(MlflowClient, call, watched)
    registry.log_fit(**_fit(model_name=f"{name} {call}"))
    assert is_locked == [True]


def test_the_library_is_not_imported_before_it_is_used() -> None:
    code = "import sys, iom_platform.storage.model_registry; print([m for m in ('mlflow', 'sklearn', 'pandas') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
