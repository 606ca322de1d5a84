"""The logger of a run in a terminal: one line a step, and every warning.

What the UI shows does not come from here.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg


def _numbers(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What a check measured or counted, as `silhouette 0.21` or `failed row count 3`; not how long it took."""
    for key, one in metadata.items():
        if key == "dagster_dbt/failed_row_count":
            yield f"failed row count {one.value}"
        elif isinstance(one.value, float) and key != "Execution Duration":
            yield f"{key} {one.value:.2f}"


class _StepLines(logging.Handler):
    """Prints `step: done in n s`, with what the step decided, and messages of warning or above; nothing else.

    It keeps the standard error of its beginning: Dagster captures a step's, and passes it on by a process that it may
    end before the last lines are through.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}
        self._decided: dict[str, str] = {}
        self._terminal = os.fdopen(os.dup(2), "w", 1, encoding="utf-8", errors="replace")

    def _say(self, line: str) -> None:
        print(f"  {line}", file=self._terminal)

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        if event is None:
            if record.levelno >= logging.WARNING:
                self._say(f"{record.levelname.lower()}: {meta.get('orig_message') or record.getMessage()}")
        elif event.event_type_value == "STEP_START":
            self._began[event.step_key] = time.monotonic()
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            if decision := event.event_specific_data.materialization.metadata.get("decision"):
                self._decided[event.step_key] = f": {decision.value}"
        elif event.event_type_value == "STEP_SUCCESS":
            seconds = time.monotonic() - self._began.get(event.step_key, time.monotonic())
            self._say(f"{event.step_key}: done in {seconds:.1f} s{self._decided.get(event.step_key, '')}")
        elif event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.event_specific_data.passed:
            check = event.event_specific_data
            numbers = ", ".join(_numbers(check.metadata))
            name = f"{check.asset_key.to_user_string()}: {check.check_name}"
            self._say(f"check {name} {check.severity.value.lower()}{f' ({numbers})' if numbers else ''}")


@dg.logger
def progress(context: dg.InitLoggerContext) -> logging.Logger:
    """One line a step, and every warning, on standard error."""
    logger = logging.Logger("iom.progress", level=logging.DEBUG)
    logger.addHandler(_StepLines())
    return logger
