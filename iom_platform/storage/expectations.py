"""The one door to Great Expectations: reads a suite from `expectations/` and says whether a frame meets it.

What a suite demands is data in `expectations/<stage>/<table>.json`; what follows from a broken one belongs to `flow`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom_platform.settings import PROJECT_ROOT

if TYPE_CHECKING:
    import pandas as pd

EXPECTATIONS_PATH = PROJECT_ROOT / "expectations"

_COLUMN_KWARGS = ("column", "column_A", "column_B")
_COLUMN_LIST_KWARGS = ("column_list", "column_set")
_COLUMN_SET_TYPE = "expect_table_columns_to_match_set"
# technical knobs of a rule, which would only lengthen its sentence
_SILENT_KWARGS = {*_COLUMN_KWARGS, *_COLUMN_LIST_KWARGS, "row_condition", "ignore_row_if"}

_COMPARISON = {"type": "comparison", "column": {"name": "is_observed"}, "operator": "==", "parameter": False}


class SuiteError(ValueError):
    """A suite file cannot be used; the message names the file, the place in it and the remedy."""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found: `failed` holds one sentence a broken expectation, in the suite's order, without any value."""

    success: bool
    evaluated: int
    failed: tuple[str, ...]


def suites(folder: Path = EXPECTATIONS_PATH) -> dict[str, Path]:
    """The suite files by `stage/table`, sorted by that name."""
    return {f.relative_to(folder).with_suffix("").as_posix(): f for f in sorted(folder.glob("*/*.json"))}


def load_suite(path: str | Path) -> dict[str, Any]:
    """The suite of a table path (`raw/oulad_courses`) or of a JSON file.

    Raises SuiteError where the file is absent, is not JSON, or holds an expectation that does not say why.
    """
    file = Path(path)
    if file.suffix != ".json":
        file = EXPECTATIONS_PATH / f"{path}.json"
    try:
        suite = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"{file} does not exist; write the suite or pass one of {', '.join(suites())}") from None
    except json.JSONDecodeError as error:
        raise SuiteError(f"{file} line {error.lineno} is not JSON: {error.msg}; mend it") from None
    if not isinstance(suite, dict) or not suite.get("name") or not suite.get("expectations"):
        raise SuiteError(f"{file} has no name or no expectations; a suite needs both")
    for number, expectation in enumerate(suite["expectations"], start=1):
        if not {"type", "kwargs", "meta"} <= set(expectation) or not expectation["meta"].get("why"):
            raise SuiteError(f"{file} expectation {number} lacks type, kwargs or meta.why; say what it demands and why")
        condition = expectation["kwargs"].get("row_condition", _COMPARISON)
        if not isinstance(condition, dict) or set(condition) != set(_COMPARISON):
            raise SuiteError(
                f"{file} expectation {number} has a row_condition that is no comparison; write it as {json.dumps(_COMPARISON)}"
            )
    return suite


def expectation_columns(expectation: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that one expectation reads, its condition's included."""
    kwargs = expectation["kwargs"]
    named = [kwargs[k] for k in _COLUMN_KWARGS if k in kwargs]
    listed = [c for k in _COLUMN_LIST_KWARGS for c in kwargs.get(k, ())]
    conditional = [kwargs["row_condition"]["column"]["name"]] if "row_condition" in kwargs else []
    return tuple(dict.fromkeys([*named, *listed, *conditional]))


def suite_columns(suite: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The columns that a frame needs for the suite, in order of first use.

    None where the suite demands an exact set of columns: only the whole table, `select *`, can be held against it.
    """
    if any(e["type"] == _COLUMN_SET_TYPE for e in suite["expectations"]):
        return None
    return tuple(dict.fromkeys(c for e in suite["expectations"] for c in expectation_columns(e)))


def describe_expectation(expectation: Mapping[str, Any]) -> str:
    """The rule in a few words: `expect_column_values_to_be_between of weight (min_value 0, max_value 100)`."""
    kwargs = expectation["kwargs"]
    columns = [kwargs[k] for k in _COLUMN_KWARGS if k in kwargs] + kwargs.get("column_list", [])
    subject = f" of {', '.join(columns)}" if columns else ""
    knobs = ", ".join(f"{k} {v}" for k, v in kwargs.items() if k not in _SILENT_KWARGS)
    where = ""
    if "row_condition" in kwargs:
        condition = kwargs["row_condition"]
        where = f" where {condition['column']['name']} {condition['operator']} {condition['parameter']}"
    return f"{expectation['type']}{subject}{where}" + (f" ({knobs})" if knobs else "")


def validate_frame(suite: Mapping[str, Any], frame: "pd.DataFrame") -> SuiteResult:
    """Hold `frame` against the suite; any number of rows, also zero; the frame is not changed.

    An expectation whose column is absent, or whose column has a type that it cannot judge, counts as broken.
    No value of the frame is printed, since any of them may be personal; row counts and column names are.
    """
    expectations = suite["expectations"]
    present = set(frame.columns)
    sentences: dict[int, str] = {}
    evaluable = []
    for position, expectation in enumerate(expectations):
        absent = [c for c in expectation_columns(expectation) if c not in present]
        if absent and expectation["type"] != _COLUMN_SET_TYPE:
            sentences[position] = _sentence(expectation, f"the frame has no column {', '.join(absent)}")
        else:
            evaluable.append((position, expectation))
    for position, found in _evaluate(suite["name"], evaluable, frame):
        sentences[position] = _sentence(expectations[position], found)
    return SuiteResult(not sentences, len(expectations), tuple(sentences[p] for p in sorted(sentences)))


def _sentence(expectation: Mapping[str, Any], found: str) -> str:
    return f"{describe_expectation(expectation)}: {found}; why: {expectation['meta']['why'].rstrip('.')}."


def _evaluate(
    name: str, expectations: list[tuple[int, Mapping[str, Any]]], frame: "pd.DataFrame"
) -> Iterator[tuple[int, str]]:
    """(position, what was found) of each broken expectation, in the order in which the engine finishes them."""
    if not expectations:
        return
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral", project_config=_quiet_config())
    asset = context.data_sources.add_pandas("frame").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    gx_suite = gx.ExpectationSuite(name=name, expectations=[_rule(name, p, e) for p, e in expectations])
    # no unexpected value leaves the engine: they may be personal
    result = batch.validate(gx_suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    for outcome in result.results:
        if not outcome.success:
            yield outcome.expectation_config.meta["position"], _found(outcome, len(frame))


def _rule(name: str, position: int, expectation: Mapping[str, Any]) -> Any:
    """The library's object of one expectation, built here: a suite drops what it cannot build, and looks like success."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(
            type=expectation["type"], kwargs=dict(expectation["kwargs"]), meta={"position": position}
        ).to_domain_obj()
    except Exception:  # the library raises a different class for each kind of mistake
        raise SuiteError(
            f"suite {name} expectation {position + 1}, {describe_expectation(expectation)}, is none that "
            "Great Expectations understands; mend its type or kwargs"
        ) from None


def _found(outcome: Any, rows: int) -> str:
    """What one broken expectation found, from counts and column names alone."""
    result = outcome.result or {}
    if not result:  # the exception's text is left out, since it may quote a value
        return f"it could not be evaluated on {rows} rows, so the column's type does not fit the rule"
    mismatched = result.get("details", {}).get("mismatched")
    if mismatched:
        return ", ".join(f"{kind} columns {', '.join(map(str, names))}" for kind, names in sorted(mismatched.items()))
    if "unexpected_count" in result:
        share = result.get("unexpected_percent") or 0.0
        return f"{result['unexpected_count']} of {result['element_count']} rows break it ({share:.3g} %)"
    return (
        f"the column as a whole breaks it over {rows} rows"
        if "column" in outcome.expectation_config.kwargs
        else f"found {rows} rows"
    )


@cache
def _great_expectations() -> Any:
    """The library, imported once and only when a suite runs: the import takes seconds."""
    import logging

    import great_expectations

    # its errors quote exceptions, and an exception may quote a value
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    return great_expectations


@cache
def _quiet_config() -> Any:
    """An in-memory configuration: no files, no progress bars, nothing sent anywhere."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
