"""Which deliveries and which model a day is bound to, and what happens where there is none."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from iom_platform.clustering import training
from iom_platform.clustering.algorithms import FitRefused, select_params
from iom_platform.clustering.training import ROWS_PER_CLUSTER
from iom_platform.flow import features, fitting, promotion, risk
from iom_platform.flow.clock import today
from iom_platform.flow.cohort import Snapshot
from iom_platform.settings import Clustering
from iom_platform.storage import promotions, record, warehouse
from iom_platform.storage.champion import Champion
from iom_platform.tables import DELIVERIES, DELIVERY_SCOPE, STUDENT_RISK
from tests.plants import valid_frame
from tests.spine import Spine, spine_at

CONTEXT: Any = SimpleNamespace(log=logging.getLogger("test"), run_id="a-run")
DAY = date(2026, 3, 2)


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    with spine_at(tmp_path_factory.mktemp("pins") / "home") as spine:
        yield spine


# -- pins ----------------------------------------------------------------------------------------------


def _deliver(spine: Spine, *names: str, **increments: str) -> None:
    """Accepted full deliveries, increments by name and source, and none beside them; no pin and no published row either."""
    at = datetime(2026, 1, 1)
    scopes = [*((name, "synthetic", "full") for name in names), *((n, s, "increment") for n, s in increments.items())]
    rows = [(f"{name:0>16}", source, DAY, scope, f"{name:0>64}", True, at) for name, source, scope in scopes]
    with warehouse.open_warehouse(spine.settings, purpose="deliver", write=True) as con:
        warehouse.prepare_warehouse(con)
        con.execute("delete from raw.deliveries")
        warehouse.append_rows(con, DELIVERIES, pd.DataFrame(rows, columns=list(DELIVERIES.column_names)))


def _pin(spine: Spine, day: date, *, repin: bool = False) -> set[str]:
    features._pin_deliveries(CONTEXT, spine.settings, day, repin=repin)
    with warehouse.open_warehouse(spine.settings, purpose="look", write=False) as con:
        return {name.lstrip("0") for name in warehouse.read_table(con, DELIVERY_SCOPE, day)["delivery_id"]}


def _publish(spine: Spine, day: date) -> None:
    frame = valid_frame(STUDENT_RISK.path, 5).assign(as_of_on=day, model_name=None, model_version=None)
    with record.open_record(spine.settings) as conn:
        record.replace_partition(conn, STUDENT_RISK, day, frame)


def test_a_day_that_was_never_published_takes_the_newest_deliveries(spine: Spine) -> None:
    """A run that failed after its pin must not keep the mended delivery out."""
    _deliver(spine, "a")
    assert _pin(spine, DAY) == {"a"}
    _deliver(spine, "a", "b")
    assert _pin(spine, DAY) == {"a", "b"}


def test_a_published_day_keeps_its_deliveries_until_repin(spine: Spine, caplog: pytest.LogCaptureFixture) -> None:
    day = DAY + timedelta(days=1)
    _deliver(spine, "a")
    _pin(spine, day)
    _publish(spine, day)
    _deliver(spine, "a", "b")
    assert _pin(spine, day) == {"a"}
    assert "1 others are left out" in caplog.text
    assert _pin(spine, day, repin=True) == {"a", "b"}


def test_the_day_that_still_runs_takes_what_has_landed_since(spine: Spine) -> None:
    """A look in the morning must not keep the evening's delivery out of tonight's run."""
    day = today(spine.settings)
    _deliver(spine, "a")
    _pin(spine, day)
    _publish(spine, day)
    _deliver(spine, "a", "b")
    assert _pin(spine, day) == {"a", "b"}


def test_without_an_accepted_delivery_the_remedy_is_said(spine: Spine) -> None:
    _deliver(spine)
    with pytest.raises(dg.Failure, match="No accepted delivery has landed; land one with") as caught:
        _pin(spine, DAY + timedelta(days=2))
    assert caught.value.allow_retries is False


def test_increments_alone_make_no_day(spine: Spine) -> None:
    """Neither an empty one nor one of what they hold."""
    _deliver(spine, more="synthetic", others="oulad")
    day = DAY + timedelta(days=2)
    with pytest.raises(dg.Failure, match=r"Increments alone have landed of oulad, synthetic, .* land a full") as caught:
        _pin(spine, day)
    assert caught.value.allow_retries is False
    assert caught.value.metadata["exit_code"].value == 5
    with warehouse.open_warehouse(spine.settings, purpose="look", write=False) as con:
        assert warehouse.read_table(con, DELIVERY_SCOPE, day).empty


def test_a_source_of_increments_alone_is_named(spine: Spine, caplog: pytest.LogCaptureFixture) -> None:
    _deliver(spine, "a", more="synthetic")
    _pin(spine, DAY + timedelta(days=2))
    assert not caplog.text
    _deliver(spine, "a", more="oulad")
    assert _pin(spine, DAY + timedelta(days=2)) == {"a", "more"}
    assert "is computed without oulad: increments alone have landed of it" in caplog.text


# -- champions -----------------------------------------------------------------------------------------


@contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield None


@pytest.fixture
def no_record(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(record, "open_record", _nothing)
    return monkeypatch


@pytest.mark.parametrize(
    ("champion", "said"),
    [(None, "no model: 39 observed"), ({"model_version": 7, "trained_as_of": DAY}, "kept version 7: 39 observed")],
)
def test_too_few_rows_fit_no_model_and_keep_the_champion(
    spine: Spine, no_record: pytest.MonkeyPatch, champion: dict[str, Any] | None, said: str
) -> None:
    few = ROWS_PER_CLUSTER * spine.settings.clustering.n_clusters - 1
    snapshot = Snapshot(pd.DataFrame(index=range(few)), DAY, "digest", "a-run")
    no_record.setattr(promotions, "champion_for", lambda *_: champion)
    no_record.setattr(promotion, "read_cohort", lambda *_: None)
    no_record.setattr(promotion, "take_snapshot", lambda *_: snapshot)
    no_record.setattr(promotion, "_decide", lambda *_, **__: pytest.fail("a model was fitted"))
    found = promotion.see_to_champion(CONTEXT, spine.settings, DAY, refit=True)
    assert found.champion == champion
    assert found.how.startswith(said)


def test_of_few_rows_the_rule_chooses_among_few_clusters(spine: Spine, no_record: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot(pd.DataFrame(index=range(ROWS_PER_CLUSTER * 4)), DAY, "digest", "a-run")
    asked = spine.settings.clustering.model_copy(
        update={"algorithm": "auto", "candidates": ("kmeans", "hdbscan"), "n_clusters_range": (3, 6)}
    )
    no_record.setattr(promotions, "champion_for", lambda *_: None)
    for name, found in (("read_cohort", None), ("read_ended", None), ("take_snapshot", snapshot)):
        no_record.setattr(promotion, name, lambda *_, found=found: found)
    no_record.setattr(promotion, "open_selection", _nothing)
    no_record.setattr(promotion, "_decide", lambda _context, _settings, _snapshot, asked, *_, **__: asked)
    settings = spine.settings.model_copy(update={"clustering": asked})
    tried: Any = promotion.see_to_champion(CONTEXT, settings, DAY, refit=False)
    assert [(params["algorithm"], params.get("n_clusters")) for params in tried] == [
        ("kmeans", 3), ("kmeans", 4), ("hdbscan", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("refit", "version"), [(False, 3), (True, 9)])
def test_a_version_that_a_killed_run_left_is_used_unless_a_refit_is_forced(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, refit: bool, version: int
) -> None:
    left: Any = SimpleNamespace(find_version_by_fit_key=lambda *_: {"model_version": 3})
    monkeypatch.setattr(promotion, "_registry", lambda _: left)
    monkeypatch.setattr(promotion, "log_fit", lambda *_, **__: {"model_version": 9})
    fit: Any = SimpleNamespace(params=select_params("kmeans", Clustering().knobs))
    snapshot = Snapshot(pd.DataFrame(), DAY, "digest", "a-run")
    assert promotion._register(spine.settings, snapshot, fit, "a-selection", refit=refit) == {"model_version": version}


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (FitRefused("it is one"), "INFO", "gmm, k=4 finds no clusters: it is one"),
        (MemoryError(), "WARNING", "gmm, k=4 could not be fitted: MemoryError"),
        (
            ValueError("could not convert 'ada' to float"),
            "WARNING",
            "gmm, k=4 could not be fitted: ValueError",
        ),
    ],
)
def test_a_comparison_that_fails_costs_the_day_nothing_and_quotes_no_library(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, level: str, said: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(training, "train", refuse)
    caplog.set_level("INFO")
    asked = [select_params("gmm", Clustering().knobs)]
    assert fitting.fit_each(CONTEXT, Snapshot(pd.DataFrame(), DAY, "digest", "a-run"), asked, iterations=0) == []
    assert [(record.levelname, record.message) for record in caplog.records] == [(level, said)]


def test_a_comparison_that_cannot_be_logged_costs_the_day_nothing(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise OSError("no space left for ada.csv")

    monkeypatch.setattr(fitting, "log_fit", explode)
    fit: Any = SimpleNamespace(candidate="gmm k=4")
    fitting.log_others(CONTEXT, spine.settings, Snapshot(pd.DataFrame(), DAY, "digest", "a-run"), [fit], "a-selection")
    assert caplog.messages == ["gmm k=4 could not be logged for comparison: OSError"]


def test_the_candidates_alone_are_fitted_beside_the_champion(spine: Spine) -> None:
    asked = spine.settings.clustering.model_copy(update={"candidates": ("hdbscan", "kmeans", "gmm", "gmm")})
    settings = spine.settings.model_copy(update={"clustering": asked})
    assert [params["algorithm"] for params in promotion._only_compared(settings)] == ["hdbscan", "gmm"]
    chosen = settings.model_copy(update={"clustering": asked.model_copy(update={"algorithm": "auto"})})
    assert promotion._only_compared(chosen) == []


KMEANS = {"algorithm": "kmeans", "n_clusters": "4", "max_iterations": "300", "seed": "20131216"}
WEIGHED = {**KMEANS, "weights": "{'score_pct_mean': 2.0}"}
DBSCAN = {"algorithm": "dbscan", "eps": "None", "min_samples": "10", "seed": "20131216"}


@pytest.mark.parametrize(
    ("params", "asked", "told"),
    [
        (KMEANS, {"min_samples": 7, "eps": 0.2, "linkage": "average", "candidates": ()}, None),
        (DBSCAN, {"algorithm": "dbscan", "n_clusters": 9, "max_iterations": 5}, None),
        (DBSCAN, {"algorithm": "dbscan", "eps": 0.2}, "dbscan, eps 0.2"),
        (DBSCAN, {}, "kmeans, k=4"),
        (KMEANS, {"algorithm": "dbscan", "seed": 5}, "dbscan, seed 5"),
        (KMEANS, {"algorithm": "hierarchical"}, "hierarchical, k=4"),
        (KMEANS, {"algorithm": "auto"}, None),
        (KMEANS, {"weights": {"score_pct_mean": 2}}, "kmeans, k=4, weights {'score_pct_mean': 2.0}"),
        (WEIGHED, {"weights": {"score_pct_mean": 2, "clicks_28d_to_peers": 1}}, None),
        (WEIGHED, {}, "kmeans, k=4, weights none"),
        (KMEANS, {"scaling": "robust", "pca_components": 3}, "kmeans, k=4, scaling robust, pca_components 3"),
        ({**KMEANS, "scaling": "robust", "pca_components": "3"}, {"pca_components": 3}, "kmeans, k=4, scaling range"),
        ({**KMEANS, "pca_components": "3"}, {}, "kmeans, k=4, pca_components none"),
    ],
)
def test_only_settings_that_hold_for_the_algorithm_make_a_champion_another(
    params: dict[str, str], asked: dict[str, Any], told: str | None
) -> None:
    found = Champion(1, DAY, params).other_than(Clustering(**asked))
    assert found == (told and f"the settings ask for {told}: add --refit to `iom run`")


@pytest.mark.parametrize(
    ("params", "words"), [(KMEANS, "kmeans, k=4"), (DBSCAN, "dbscan"), (WEIGHED, "kmeans, k=4, weighted")]
)
def test_a_champion_is_told_by_its_method(params: dict[str, str], words: str) -> None:
    assert str(Champion(1, DAY, params)) == f"student_clusters version 1 ({words}, trained as of 2026-03-02)"


def test_clusters_of_another_model_are_not_scored(spine: Spine, no_record: pytest.MonkeyPatch) -> None:
    no_record.setattr(promotions, "champion_for", lambda *_: {"model_version": 2})
    no_record.setattr(record, "read_table", lambda *_: pd.DataFrame({"model_version": [1]}))
    with pytest.raises(dg.Failure, match="are not the champion's; materialize them first"):
        risk._score(spine.settings, pd.DataFrame(), DAY)
