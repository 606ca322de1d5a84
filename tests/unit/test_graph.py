"""The resolved asset graph: edges run forward only, the wall holds, everything is owned, checked and described."""

import dagster as dg
import pytest

from iom_platform.definitions import defs
from iom_platform.flow import report
from iom_platform.flow.resources import AS_OF, DELIVERED, GROUP_OF_STAGE, NIGHTLY_FRESH
from iom_platform.storage.expectations import suites
from iom_platform.tables import TABLES, find_table

ORDER = ("raw", "staging", "intermediate", "features", "anonymized", "clustering", "risk")
BEFORE_THE_WALL = set(ORDER[:4])
OF_LEARNERS = {dg.AssetKey(p.split("/")) for p in ("raw/learner_summary", "anonymized/learner_summary",
                                                   "clustering/learner_clusters", "clustering/learner_profiles")}  # fmt: skip
Edge = tuple[dg.AssetKey, dg.AssetKey]
# the report tells which deliveries a day rests on and what was rejected, from the landing's books
BOOKS = ("raw/deliveries", "raw/files", "raw/quarantine", "raw/delivery_scope")
ALLOWED: set[Edge] = {(dg.AssetKey(book.split("/")), dg.AssetKey(["risk", "report"])) for book in BOOKS}


def _edges(definitions: dg.Definitions) -> list[Edge]:
    graph = definitions.resolve_asset_graph()
    return [(parent, key) for key in graph.get_all_asset_keys() for parent in graph.get(key).parent_keys]


def _backward(edges: list[Edge]) -> list[Edge]:
    return [e for e in edges if ORDER.index(e[0].path[0]) > ORDER.index(e[1].path[0])]


def _through_the_wall(edges: list[Edge]) -> list[Edge]:
    beyond = {"clustering", "risk"}
    return [e for e in edges if e[0].path[0] in BEFORE_THE_WALL and e[1].path[0] in beyond and e not in ALLOWED]


def _planted(parent: list[str], child: list[str]) -> list[Edge]:
    @dg.asset(key=child, deps=[dg.AssetKey(parent)])
    def planted() -> None: ...

    return _edges(dg.Definitions(assets=[planted, dg.AssetSpec(parent)]))


def test_edges_run_forward_only() -> None:
    edges = _edges(defs)
    assert len(edges) > 20
    assert _backward(edges) == []
    assert _backward(_planted(["risk", "student_risk"], ["features", "planted"]))


def test_nothing_past_the_wall_reads_before_it() -> None:
    assert _through_the_wall(_edges(defs)) == []
    for parent in (["features", "student_term"], ["raw", "oulad_student_info"], ["staging", "stg_oulad__students"]):
        assert _through_the_wall(_planted(parent, ["risk", "planted"]))


def test_the_edges_allowed_are_in_use_and_of_tables_without_a_column_about_a_person() -> None:
    assert set(_edges(defs)) >= ALLOWED
    for parent, _ in ALLOWED:
        kinds = {column.kind for column in find_table(parent.to_user_string()).columns}
        assert kinds <= {"context", "volatile"}, parent


def test_the_report_reads_no_other_column_of_rejected_rows() -> None:
    """Even a masked value is the shape of something that a student's record held."""
    assert set(report._REJECTED) == {"delivery_id", "file_name", "rule", "remedy"}


def test_only_the_day_s_features_pass_the_wall() -> None:
    into = {
        e[0].to_user_string() for e in _edges(defs) if e[1].path[0] == "anonymized" and e[0].path[0] != "anonymized"
    }
    assert into == {"features/student_term", "features/student_outcome", "features/student_week", "raw/learner_summary"}


def test_every_table_is_an_asset_of_its_stage() -> None:
    """raw/deliveries, raw/files and raw/delivery_scope are the landing's own books, no assets."""
    keys = {k.to_user_string() for k in defs.resolve_asset_graph().get_all_asset_keys()}
    books = {"raw/deliveries", "raw/files", "raw/delivery_scope"}
    assert {t.path for t in TABLES} - books <= keys


def test_every_asset_is_described_owned_grouped_and_of_a_kind() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.group_name == GROUP_OF_STAGE[key.path[0]], key
        assert node.kinds, key
        assert {"iom/home", "iom/about"} <= set(node.tags), key
        is_table = key.path != ["risk", "report"]
        assert ("dagster/column_schema" in node.metadata) == is_table, key


def test_everything_from_student_term_on_is_a_daily_partition() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        if key.path[0] in {"features", "anonymized", "clustering", "risk"}:
            assert graph.get(key).partitions_def == (DELIVERED if key in OF_LEARNERS else AS_OF), key
            # a learner summary comes when it comes
            assert graph.get(key).freshness_policy == (None if key in OF_LEARNERS else NIGHTLY_FRESH), key


def test_learners_have_a_job_of_their_own_and_are_in_no_other() -> None:
    """A home without a learner summary scores its days, and one without courses clusters its learners."""
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    of_learners = {name for name, job in jobs.items() if OF_LEARNERS & set(job.asset_layer.executable_asset_keys)}
    assert of_learners == {"cluster_learners"}
    assert set(jobs["cluster_learners"].asset_layer.executable_asset_keys) == OF_LEARNERS
    assert {a for edge in _edges(defs) for a in edge if set(edge) & OF_LEARNERS} == OF_LEARNERS


@pytest.mark.parametrize("path", sorted(suites()))
def test_every_suite_is_a_blocking_partitioned_check_of_its_asset(path: str) -> None:
    graph = defs.resolve_asset_graph()
    key = dg.AssetCheckKey(dg.AssetKey(path.split("/")), "expectations")
    check = graph.get_check_spec(key)
    assert check.blocking
    assert check.partitions_def is not None


def test_dbt_tests_are_blocking_partitioned_checks() -> None:
    graph = defs.resolve_asset_graph()
    dbt = [
        graph.get_check_spec(k)
        for k in graph.asset_check_keys
        if k.name
        not in {
            "expectations",
            "rows_add_up",
            "one_row_a_learner",
            "k_anonymity",
            "silhouette",
            "course_separation",
            "stability",
        }
    ]
    assert len(dbt) > 50
    assert all(c.partitions_def == AS_OF for c in dbt)
    assert [c.key.to_user_string() for c in dbt if not c.blocking] == [
        "intermediate/int_deliveries_ranked:increment_rows_find_what_they_refer_to"
    ]


def test_schedule_and_failure_sensor_are_on_by_default() -> None:
    repository = defs.get_repository_def()
    assert [s.default_status for s in repository.schedule_defs] == [dg.DefaultScheduleStatus.RUNNING]
    assert {s.name for s in repository.sensor_defs} == {"failed_run_speaks", "dead_runs_end"}
    assert {s.default_status for s in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}


def test_the_code_location_loads_as_the_ui_loads_it() -> None:
    """Definitions that resolve one by one can still clash by name when the UI loads them all."""
    defs.get_repository_def().load_all_definitions()
