"""Every algorithm on the whole platform: five logged fits, and a champion with noise that scores like any other."""

from collections.abc import Iterator
from datetime import date

import numpy as np
import pandas as pd
import pytest

from iom_platform.clustering.algorithms import ALGORITHMS, assign
from iom_platform.extract.synthetic import write_twin
from iom_platform.flow.cohort import read_cohort
from iom_platform.flow.report import report_path
from iom_platform.storage import promotions, record
from iom_platform.storage.model_registry import Registry
from iom_platform.tables import ASSIGNMENTS, MODEL_INPUTS, MODEL_NAME, PROFILES, STUDENT_RISK
from tests.spine import Spine, spine_at, succeed, warnings

DAY = date(2026, 5, 1)
KEY = ["student_pseudonym", "course_id"]


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """A day that hdbscan scored."""
    folder = tmp_path_factory.mktemp("five")
    write_twin(folder / "twin", students=1000, seed=7, through=DAY)
    asked = {"IOM_CLUSTERING__ALGORITHM": "hdbscan", "IOM_CLUSTERING__CANDIDATES": ",".join(ALGORITHMS)}
    with spine_at(folder / "home", **asked) as platform:
        succeed(platform.land(folder / "twin", DAY))
        scored = platform.score(DAY)
        succeed(scored)
        assert [line for line in warnings(scored) if "could not be fitted" in line] == []
        yield platform


@pytest.fixture(scope="module")
def assignments(spine: Spine) -> pd.DataFrame:
    with record.open_record(spine.settings) as conn:
        return record.read_table(conn, ASSIGNMENTS, DAY).sort_values(KEY, ignore_index=True)


def test_each_algorithm_is_a_run_with_its_measures_and_how_it_was_made(spine: Spine) -> None:
    registry = Registry.of(spine.settings)
    runs = {
        run.data.params["algorithm"]: run
        for run in registry._client().search_runs([str(registry.experiment_id(MODEL_NAME))])
        if "mlflow.parentRunId" in run.data.tags
    }
    assert set(runs) == set(ALGORITHMS)
    for name, run in runs.items():
        entry, metrics = ALGORITHMS[name], run.data.metrics
        assert {*entry.knobs, "seed"} <= set(run.data.params)
        assert ("n_clusters" in run.data.params) == ("n_clusters" in entry.knobs) == (" k=4 " in run.info.run_name)
        assert metrics["clusters"] >= 2 and -1 <= metrics["silhouette"] <= 1
        assert ("agreement_with_method" in metrics) == bool(entry.find)
        # the one that is promoted alone is worth the refits
        assert metrics.get("stability_refits") == (3 if name == "hdbscan" else None)
        assert name != "hdbscan" or -1 <= metrics["stability_ari_low"] <= metrics["stability_ari_mean"] <= 1
        assert run.data.tags["fitted_on"] == f"all {metrics['rows']:,.0f} rows"
        assert run.data.tags["assigned_by"] == entry.assigned_by
        card = registry.artifact(run.info.run_id, "model_card.md").decode()
        assert f"- fitted on: all {metrics['rows']:,.0f} rows" in card and f"- assigned by: {entry.assigned_by}" in card
        pictures = ["profiles.png", "silhouette.png", "components.png", *["stability.png"] * (name == "hdbscan")]
        assert all(registry.artifact(run.info.run_id, picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_registered_model_predicts_the_labels_that_were_published(spine: Spine, assignments: pd.DataFrame) -> None:
    import mlflow

    (version,) = set(assignments["model_version"])
    registry = Registry.of(spine.settings)
    cohort = read_cohort(spine.settings, DAY)
    observed = cohort[cohort["is_observed"]].sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(observed[KEY], assignments[KEY])
    wanted = assignments["cluster"].to_numpy()
    model, _ = registry.load_model(MODEL_NAME, int(version))
    labels, confidence = assign(model, observed)
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_array_equal(confidence, assignments["confidence"])
    plain = mlflow.pyfunc.load_model(registry._version(MODEL_NAME, int(version)).source)
    np.testing.assert_array_equal(plain.predict(observed[list(MODEL_INPUTS)]), wanted)


def test_noise_is_assigned_profiled_scored_and_reported(spine: Spine, assignments: pd.DataFrame) -> None:
    noise = int((assignments["cluster"] == -1).sum())
    assert 0 < noise < len(assignments)
    with record.open_record(spine.settings) as conn:
        profiles, risk = (record.read_table(conn, table, DAY) for table in (PROFILES, STUDENT_RISK))
        champion = promotions.champion_for(conn, MODEL_NAME, DAY)
    assert set(profiles.loc[profiles["cluster"] == -1, "students"]) == {noise}
    known = risk[risk["risk_level"] != "UNKNOWN"].merge(assignments, on=KEY, suffixes=("", "_assigned"))
    assert (known["cluster"] == known["cluster_assigned"]).all()
    assert (known["cluster"] == -1).any()
    assert champion is not None and champion["reason"].endswith(": hdbscan, which the settings name")
    page = report_path(spine.settings, DAY).read_text()
    assert "like no other group" in page.lower()
