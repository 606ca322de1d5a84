"""What a run says in a terminal arrives there, whatever Dagster does with the step's own output."""

import os
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from iom_platform.flow.progress import progress


def _say_step(logger: Any, kind: str) -> None:
    event = SimpleNamespace(event_type_value=kind, step_key="land")
    logger.info("event", extra={"dagster_meta": {"dagster_event": event}})


def test_a_check_tells_its_numbers_but_not_its_duration(capfd: pytest.CaptureFixture[str]) -> None:
    logger = progress.logger_fn(dg.build_init_logger_context())
    told: dict[str, dict[str, Any]] = {
        "silhouette": {"silhouette": 0.21, "minimum": 0.5, "rows": 12},
        "increment_rows_find_what_they_refer_to": {"Execution Duration": 0.1, "dagster_dbt/failed_row_count": 7},
    }
    for name, metadata in told.items():
        check = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["stage", "table"]),
            check_name=name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=metadata,
        )
        event = SimpleNamespace(event_type_value="ASSET_CHECK_EVALUATION", event_specific_data=check)
        logger.info("event", extra={"dagster_meta": {"dagster_event": event}})
    assert capfd.readouterr().err == (
        "  check stage/table: silhouette warn (silhouette 0.21, minimum 0.50)\n"
        "  check stage/table: increment_rows_find_what_they_refer_to warn (failed row count 7)\n"
    )


def test_a_step_tells_what_it_decided(capfd: pytest.CaptureFixture[str]) -> None:
    logger = progress.logger_fn(dg.build_init_logger_context())
    _say_step(logger, "STEP_START")
    kept = dg.AssetMaterialization("model", metadata={"decision": "kept version 7", "rows": 12})
    event = SimpleNamespace(
        event_type_value="ASSET_MATERIALIZATION", step_key="land",
        event_specific_data=SimpleNamespace(materialization=kept),
    )  # fmt: skip
    logger.info("event", extra={"dagster_meta": {"dagster_event": event}})
    _say_step(logger, "STEP_SUCCESS")
    assert capfd.readouterr().err == "  land: done in 0.0 s: kept version 7\n"


def test_the_last_line_is_not_lost_with_the_captured_output(capfd: pytest.CaptureFixture[str]) -> None:
    logger = progress.logger_fn(dg.build_init_logger_context())
    _say_step(logger, "STEP_START")
    kept, lost = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(lost, 2)  # as Dagster captures a step, whose last lines it may not pass on
    try:
        _say_step(logger, "STEP_SUCCESS")
        logger.warning("two records went to quarantine")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(lost)
    assert capfd.readouterr().err == "  land: done in 0.0 s\n  warning: two records went to quarantine\n"
