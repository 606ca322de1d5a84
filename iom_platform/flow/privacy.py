"""The wall: features of one cohort go in, k-anonymous rows come out; nothing downstream reads behind it.

How a table is generalized belongs to `iom_platform.privacy`.
"""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from iom_platform.flow.checks import check_spec, publish, suite_spec
from iom_platform.flow.resources import (
    AS_OF,
    ONE_DAY,
    PRIVACY_OFFICERS,
    RETRY,
    WAREHOUSE_KIND,
    WAREHOUSE_POOL,
    Platform,
    asset_key,
    table_spec,
    warehouse,
)
from iom_platform.tables import (
    ANONYMIZED_STUDENT_TERM,
    ANONYMIZED_STUDENT_WEEK,
    FEATURES_STUDENT_OUTCOME,
    GENERALIZATIONS,
    STUDENT_OUTCOME,
    STUDENT_TERM,
    STUDENT_WEEK,
)

if TYPE_CHECKING:
    import pandas as pd

    from iom_platform.storage.session import Session

K_ANONYMITY_CHECK = "k_anonymity"


def _spec(table: Any, deps: list[Any]) -> dg.AssetSpec:
    return table_spec(table, owner=PRIVACY_OFFICERS, kinds={"python", WAREHOUSE_KIND}, partitions_def=AS_OF, deps=deps)


def _levels_for(
    con: "Session", frame: "pd.DataFrame", as_of_on: date, settings: Any
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Levels in force on a day (newest fit on or before it), and those newly fitted for courses that had none."""
    import pandas as pd

    from iom_platform.privacy.kanonymity import fit_generalization
    from iom_platform.storage.warehouse import read_table

    known = read_table(con, GENERALIZATIONS)
    known = known[(known["fitted_as_of"] <= pd.Timestamp(as_of_on)) & (known["k"] == settings.privacy.k)]
    newest = known.groupby("course_id")["fitted_as_of"].transform("max")
    known = known[known["fitted_as_of"] == newest]
    missing = frame[~frame["course_id"].isin(known["course_id"])]
    fitted = fit_generalization(
        missing, k=settings.privacy.k, max_suppressed_share=settings.privacy.max_suppressed_share
    )
    fitted = fitted.assign(fitted_as_of=pd.Timestamp(as_of_on))[list(GENERALIZATIONS.column_names)]
    return (pd.concat([known, fitted], ignore_index=True) if len(known) else fitted), fitted


@dg.multi_asset(
    specs=[
        _spec(GENERALIZATIONS, [asset_key(STUDENT_TERM)]),
        _spec(ANONYMIZED_STUDENT_TERM, [asset_key(STUDENT_TERM)]),
    ],
    check_specs=[
        suite_spec(ANONYMIZED_STUDENT_TERM),
        check_spec(
            ANONYMIZED_STUDENT_TERM, K_ANONYMITY_CHECK, "Every cell of quasi-identifiers holds at least k rows."
        ),
    ],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="anonymize_student_term",
)
def anonymized_student_term(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Generalize the quasi-identifiers of one cohort, suppress small cells, prove k, and only then publish."""
    from iom_platform.privacy.kanonymity import apply_generalization, prove_kanonymity
    from iom_platform.storage.warehouse import append_rows, read_table, replace_partition

    settings, as_of_on = platform.settings, date.fromisoformat(context.partition_key)
    with warehouse(settings, purpose=f"anonymize {as_of_on}", write=True) as con:
        frame = read_table(con, STUDENT_TERM, as_of_on)
        levels, fitted = _levels_for(con, frame, as_of_on, settings)
        published, withheld = apply_generalization(frame, levels, k=settings.privacy.k)
        published = published[list(ANONYMIZED_STUDENT_TERM.column_names)]
        violations = prove_kanonymity(published, k=settings.privacy.k)
        proof = dg.AssetCheckResult(
            passed=violations.empty,
            check_name=K_ANONYMITY_CHECK,
            asset_key=asset_key(ANONYMIZED_STUDENT_TERM),
            metadata={"k": settings.privacy.k, "cells_below_k": len(violations)},
        )
        if len(withheld):
            context.log.warning(
                f"{len(withheld)} enrollments of {withheld['course_id'].nunique()} courses with fewer than "
                f"{settings.privacy.k} students are withheld from everything downstream."
            )
        counts = {
            "suppressed_rows": int(published["is_suppressed"].sum()),
            "withheld_rows": len(withheld),
            "courses": int(published["course_id"].nunique()),
            "withheld_courses": int(withheld["course_id"].nunique()),
        }

        def write() -> int:
            with con.transaction():  # published rows without the levels that made them could not be made again
                # beside those fitted on this day for other courses or another k, never in their place
                append_rows(con, GENERALIZATIONS, fitted)
                return replace_partition(con, ANONYMIZED_STUDENT_TERM, as_of_on, published)

        yield from publish(ANONYMIZED_STUDENT_TERM, published, write, checks=(proof,), metadata=counts)
        yield dg.MaterializeResult(
            asset_key=asset_key(GENERALIZATIONS),
            metadata={
                "dagster/partition_row_count": len(read_table(con, GENERALIZATIONS, as_of_on)),
                "courses_fitted": int(fitted["course_id"].nunique()),
            },
        )


@dg.multi_asset(
    specs=[_spec(STUDENT_OUTCOME, [asset_key(FEATURES_STUDENT_OUTCOME)])],
    check_specs=[suite_spec(STUDENT_OUTCOME)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="release_student_outcome",
)
def anonymized_student_outcome(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Let outcomes that are known by the end of the day pass the wall, without demographics."""
    from iom_platform.storage.warehouse import read_table, replace_partition

    as_of_on = date.fromisoformat(context.partition_key)
    with warehouse(platform.settings, purpose=f"outcomes {as_of_on}", write=True) as con:
        frame = read_table(con, FEATURES_STUDENT_OUTCOME, as_of_on)
        yield from publish(STUDENT_OUTCOME, frame, lambda: replace_partition(con, STUDENT_OUTCOME, as_of_on, frame))


@dg.multi_asset(
    specs=[_spec(ANONYMIZED_STUDENT_WEEK, [asset_key(STUDENT_WEEK), asset_key(ANONYMIZED_STUDENT_TERM)])],
    check_specs=[suite_spec(ANONYMIZED_STUDENT_WEEK)],
    partitions_def=AS_OF,
    retry_policy=RETRY,
    backfill_policy=ONE_DAY,
    pool=WAREHOUSE_POOL,
    name="release_student_week",
)
def anonymized_student_week(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
    """Let the weeks of published enrollments pass the wall; only the day last computed is kept, as before the wall."""
    from iom_platform.storage.warehouse import read_table, replace_table

    as_of_on = date.fromisoformat(context.partition_key)
    with warehouse(platform.settings, purpose=f"weeks {as_of_on}", write=True) as con:
        published = read_table(con, ANONYMIZED_STUDENT_TERM, as_of_on)[["student_pseudonym", "course_id"]]
        frame = read_table(con, STUDENT_WEEK, as_of_on).merge(published, on=["student_pseudonym", "course_id"])
        if frame.empty and len(published):
            context.log.warning(
                f"features/student_week holds another day than {as_of_on}, computed meanwhile: "
                "the report of this day shows no weeks; score the day again, with no other run beside it."
            )

        def write() -> int:  # nothing of this day does not wipe out what a run beside this one has written
            return replace_table(con, ANONYMIZED_STUDENT_WEEK, frame) if len(frame) else 0

        yield from publish(ANONYMIZED_STUDENT_WEEK, frame, write)


ASSETS = (anonymized_student_term, anonymized_student_outcome, anonymized_student_week)
