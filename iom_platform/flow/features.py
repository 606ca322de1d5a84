"""The features stage: pins the deliveries of an as-of day, then runs the dbt project for that day.

What a feature is belongs to the SQL in `dbt_project/`, not here.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtCliResource, dbt_assets
from packaging.version import Version

from iom_platform.flow.checks import SUITE_CHECK, run_suite
from iom_platform.flow.clock import today
from iom_platform.flow.resources import (
    AS_OF,
    DATA_ENGINEERS,
    GROUP_OF_STAGE,
    NIGHTLY_FRESH,
    ONE_DAY,
    RETRY,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    asset_tags,
    refusal,
    warehouse,
)
from iom_platform.settings import Settings, apply_environment, load_settings
from iom_platform.storage.dbt_project import DBT_PROJECT_DIR, run_dbt
from iom_platform.tables import DELIVERIES, DELIVERY_SCOPE, LEARNER_SOURCE, STUDENT_RISK, STUDENT_TERM


def _manifest_is_stale(manifest: Path) -> bool:
    if not manifest.exists():
        return True
    built = manifest.stat().st_mtime
    return any(p.stat().st_mtime > built for p in DBT_PROJECT_DIR.rglob("*") if p.suffix in {".sql", ".yml", ".csv"})


def prepare_manifest(settings: Settings) -> Path:
    """The dbt manifest in the home, parsed anew when a file of the project is newer; swapped in whole.

    It is parsed under the variables of a run, so that dbt's own start finds its partial parse and is quick.
    """
    manifest = settings.dbt_path / "manifest.json"
    if not _manifest_is_stale(manifest):
        return manifest
    settings.dbt_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.dbt_path) as folder:
        run_dbt("parse", folder=Path(folder), IOM_WAREHOUSE_PATH=str(settings.warehouse_path.resolve()),
                IOM_WAREHOUSE__MEMORY_LIMIT=settings.warehouse.memory_limit)  # fmt: skip
        for name in ("partial_parse.msgpack", "manifest.json"):
            os.replace(Path(folder) / name, settings.dbt_path / name)
    return manifest


class _Translator(DagsterDbtTranslator):
    """Asset key = schema and table; groups are the stages; checks know their partitions."""

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        return GROUP_OF_STAGE[dbt_resource_props["schema"]]

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["name"]])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        return [DATA_ENGINEERS]

    def get_tags(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, str]:
        has_pseudonym = "student_pseudonym" in dbt_resource_props["columns"]
        return {**super().get_tags(dbt_resource_props), **asset_tags("warehouse", is_about_persons=has_pseudonym)}

    def get_asset_spec(self, manifest: Any, unique_id: str, project: Any) -> dg.AssetSpec:
        spec: dg.AssetSpec = super().get_asset_spec(manifest, unique_id, project)
        return spec.replace_attributes(freshness_policy=NIGHTLY_FRESH)

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props.get("description", ""))

    def get_partition_mapping(
        self, dbt_resource_props: Mapping[str, Any], dbt_parent_resource_props: Mapping[str, Any]
    ) -> dg.PartitionMapping | None:
        # an as-of day may use every delivery, whenever it came
        is_delivered = (
            dbt_parent_resource_props["resource_type"] == "source"
            and dbt_parent_resource_props["name"] != DELIVERY_SCOPE.name
        )
        return dg.AllPartitionMapping() if is_delivered else None

    def get_asset_check_spec(
        self, asset_spec: Any, manifest: Any, unique_id: str, project: Any
    ) -> dg.AssetCheckSpec | None:
        spec = super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
        return spec._replace(partitions_def=AS_OF) if spec else None


def _pin_deliveries(context: dg.AssetExecutionContext, settings: Any, as_of_on: date, *, repin: bool) -> None:
    """Fix the deliveries that the day is computed from; a day that is over and published keeps its pin."""
    from iom_platform.storage.record import has_partition, open_record
    from iom_platform.storage.warehouse import prepare_warehouse, read_table, replace_partition

    with open_record(settings) as conn:
        is_bound = as_of_on < today(settings) and has_partition(conn, STUDENT_RISK, as_of_on)
    with warehouse(settings, purpose=f"pin deliveries of {as_of_on}", write=True) as con:
        prepare_warehouse(con)
        pinned = read_table(con, DELIVERY_SCOPE, as_of_on)
        accepted = read_table(con, DELIVERIES)
        accepted = accepted[accepted["is_accepted"] & (accepted["source"] != LEARNER_SOURCE)]
        if is_bound and len(pinned) and not repin:
            newer = len(set(accepted["delivery_id"]) - set(pinned["delivery_id"]))
            if newer:
                context.log.warning(
                    f"{as_of_on} is replayed from the {len(pinned)} deliveries that it was published from; "
                    f"{newer} others are left out, and `iom run --repin` (repin: true) takes them in."
                )
            return
        if accepted.empty:
            raise refusal(
                "No accepted delivery has landed; land one with `iom run --source NAME --path PATH`, or look at the red checks of raw/*."
            )
        based = set(accepted["source"][accepted["scope"] == "full"])
        waiting = ", ".join(sorted(set(accepted["source"]) - based))
        if not based:
            raise refusal(
                f"Increments alone have landed of {waiting}, and they add to nothing yet; land a full delivery of an earlier day "
                "with `iom run --source NAME --path PATH`."
            )
        if waiting:
            context.log.warning(
                f"{as_of_on} is computed without {waiting}: increments alone have landed of it, "
                "and they take effect once a full delivery of an earlier day has landed."
            )
        scope = accepted[["delivery_id"]].assign(as_of_on=as_of_on)[list(DELIVERY_SCOPE.column_names)]
        replace_partition(con, DELIVERY_SCOPE, as_of_on, scope)


class DbtCli(DbtCliResource):
    """dagster-dbt's resource without what nobody reads here, since each of these takes seconds of every run."""

    @cached_property
    def _cli_version(self) -> Version:
        """Which dbt is installed, without starting it."""
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> None:  # type: ignore[override]
        """None: an adapter of dagster-dbt's own would fetch row counts and columns, which `_row_counts` and the docs tell."""


class FeaturesConfig(dg.Config):
    """Launchpad settings of the features step."""

    repin: bool = False  # take in deliveries that landed after the day was first published


def _row_counts(settings: Any, as_of_on: date) -> dict[dg.AssetKey, int]:
    with warehouse(settings, purpose="count feature rows", write=False) as con:
        names = con.execute(
            "select table_schema, table_name, bool_or(column_name = 'as_of_on') from information_schema.columns "
            "where table_schema in ('intermediate', 'features') group by 1, 2"
        ).fetchall()
        return {
            dg.AssetKey([schema, name]): con.execute(
                f'select count(*) from "{schema}"."{name}"' + (" where as_of_on = ?" if dated else ""),
                [as_of_on] if dated else [],
            ).fetchone()[0]  # type: ignore[index]
            for schema, name, dated in names
        }


@dbt_assets(
    manifest=prepare_manifest(load_settings()),
    dagster_dbt_translator=_Translator(settings=DagsterDbtTranslatorSettings(enable_source_tests_as_checks=True)),
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="dbt_build",
)
def feature_models(
    context: dg.AssetExecutionContext, config: FeaturesConfig, dbt: DbtCli, platform: Platform
) -> Iterator[Any]:
    """Run `dbt build` for one as-of day: models and their tests, the warehouse's single writer meanwhile."""
    from iom_platform.storage.warehouse_lock import WarehouseBusy, warehouse_lock

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    context.instance.add_run_tags(context.run.run_id, {"iom/as_of_on": as_of_on.isoformat()})
    if context.selected_asset_keys:  # none: only dbt's tests of raw/* were asked for
        _pin_deliveries(context, settings, as_of_on, repin=config.repin)
    # in the environment and not in --vars, which would make dbt parse the whole project anew
    apply_environment({"IOM_AS_OF_ON": as_of_on.isoformat()})
    try:
        with warehouse_lock(settings, purpose=f"dbt build {as_of_on}", exclusive=True):
            # its events tell the results; manifest.json and run_results.json would be written for nobody
            invocation = dbt.cli(
                ["build", "--exclude-resource-type", "unit_test", "--no-write-json"],
                context=context,
                raise_on_error=False,
            )
            events = list(invocation.stream())
            succeeded = invocation.is_successful()
    except WarehouseBusy as error:
        raise refusal(str(error), exit_code=error.exit_code) from None
    if succeeded:
        shutil.rmtree(invocation.target_path, ignore_errors=True)
    counts = _row_counts(settings, as_of_on)
    for event in events:
        rows = counts.get(context.asset_key_for_output(event.output_name)) if isinstance(event, dg.Output) else None
        yield event if rows is None else event.with_metadata({**event.metadata, "dagster/partition_row_count": rows})
    if not succeeded:
        raise refusal(
            "dbt build was not green: the red checks of this run name the tests; nothing after them was built."
        )
    if asset_key(STUDENT_TERM) in context.selected_asset_keys and not counts.get(asset_key(STUDENT_TERM)):
        context.log.warning(f"No presentation runs on {as_of_on}: nothing to score, and the rows of earlier days stay.")


@dg.asset_check(asset=asset_key(STUDENT_TERM), name=SUITE_CHECK, blocking=True, partitions_def=AS_OF, retry_policy=RETRY,
                description="Great Expectations suite expectations/features/student_term.json")  # fmt: skip
def student_term_suite(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """The border before the wall: the day's rows as Great Expectations sees them."""
    from iom_platform.storage.warehouse import read_table

    as_of_on = date.fromisoformat(context.partition_key)
    with warehouse(platform.settings, purpose="check features/student_term", write=False) as con:
        return run_suite(STUDENT_TERM, read_table(con, STUDENT_TERM, as_of_on))


ASSETS = (feature_models,)
SOURCE_CHECKS = tuple(key for key in feature_models.check_keys if key.asset_key.path[0] == "raw")
CHECKS = (student_term_suite,)
