"""`iom run`, `iom demo` and `iom synth`: start the Dagster jobs in this process and tell how they went.

What a job does belongs to `flow/`.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom_platform.cli.environment import start_platform
from iom_platform.cli.interrupt import stop_on_interrupt
from iom_platform.flow.clock import today
from iom_platform.settings import Settings, load_settings
from iom_platform.tables import LEARNER_SOURCE

if TYPE_CHECKING:
    import dagster as dg


class RunFailed(RuntimeError):
    """A Dagster run failed or a check is red; the message names the steps, the exit code may be the first step's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(ValueError):
    """The command was asked for something that is not there."""

    exit_code = 2


def _said(event: Any) -> str:
    """What a failed step has to say: its own sentence, else the innermost error's first line."""
    failure = event.step_failure_data.user_failure_data
    if failure and failure.description:
        return str(failure.description)
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split())[:500] if error else "no message"


def _exit_code(event: Any) -> int | None:
    """The exit code that a refusal carries; see `iom_platform.flow.resources.refusal`."""
    failure = event.step_failure_data.user_failure_data
    code = failure.metadata.get("exit_code") if failure else None
    return int(code.value) if code else None


def check_day(settings: Settings, name: str, day: date) -> None:
    first, last = settings.institution.first_as_of, today(settings)
    if day < first:
        raise UsageError(f"{name} {day} is before institution.first_as_of ({first}) of iom.yaml")
    if day > last:
        raise UsageError(f"{name} {day} has not come yet in the institution's time zone; today is {last}")


@contextmanager
def dagster_instance() -> "Iterator[dg.DagsterInstance]":
    """Dagster's instance on connections that stay open: of itself it opens one for each of a run's 1,500 queries."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        # the name is of its first use; no statement times out, as without it
        instance.optimize_for_webserver(statement_timeout=0, pool_recycle=3600, max_overflow=20)
        yield instance


def execute(settings: Settings, job_name: str, partition: str, ops: dict[str, Any], tags: dict[str, str]) -> list[str]:
    """Run a job on one day; returns what its red checks found that stopped nothing. Raises RunFailed."""
    import dagster as dg

    from iom_platform.definitions import defs
    from iom_platform.flow.liveness import PROCESS_TAG, condemn_dead_runs, own_mark
    from iom_platform.flow.resources import RED

    log_folder = settings.home / "logs"
    log_folder.mkdir(exist_ok=True)
    dg.DagsterInstance.get().dispose()  # the first one creates the schema, and alembic then mutes every logger that exists
    with (
        stop_on_interrupt(),
        dagster_instance() as instance,
        open(log_folder / "dbt.log", "a") as log,
        redirect_stdout(log),
    ):
        condemn_dead_runs(instance)
        result = defs.resolve_job_def(job_name).execute_in_process(
            run_config={"ops": ops, "loggers": {"progress": {}}},
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
            tags={**tags, PROCESS_TAG: own_mark()},
        )
    if result.success:
        return [
            f"{check.asset_key.to_user_string()} {check.check_name}: {check.metadata['found'].value}"
            for check in result.get_asset_check_evaluations()
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
        ]
    failures = {
        str(e.step_key): _said(e) for e in result.all_events if e.is_step_failure and e.step_failure_data.error_source
    }
    for step, said in failures.items():
        print(f"  {step}: {said}", file=sys.stderr)
    raise RunFailed(
        f"run {result.run_id} of {job_name} failed at {', '.join(failures) or 'its start'}; earlier rows stay as they were.",
        next((code for e in result.all_events if e.is_step_failure and (code := _exit_code(e))), RED),
    )


def run_source(
    source: str,
    path: Path,
    *,
    as_of_on: date | None,
    refit: bool,
    delivered_on: date | None,
    repin: bool,
    days_before: tuple[date, ...] = (),
) -> None:
    """Land the delivery at `path`, then score the `days_before` and `as_of_on` (default today), and tell of the last."""
    from iom_platform.extract import SOURCES
    from iom_platform.flow.report import report_path
    from iom_platform.flow.resources import RED

    if source not in SOURCES:
        raise UsageError(f"unknown source {source!r}; known: {', '.join(sorted([*SOURCES, LEARNER_SOURCE]))}")
    settings = load_settings()
    as_of_on = as_of_on or today(settings)
    check_day(settings, "--as-of", as_of_on)
    delivery = SOURCES[source].open_delivery(path, delivered_on=delivered_on)
    check_day(settings, "day of delivery", delivery.delivered_on)
    for notice in delivery.notices:
        print(f"  note: {notice}", file=sys.stderr)
    settings = start_platform()
    tags = {"iom/source": source, "iom/delivery": delivery.delivery_id, "iom/started_by": "iom run"}
    land = {"source": source, "path": str(path.resolve())}
    print(f"Landing {source} delivery {delivery.delivery_id} of {delivery.delivered_on} ...", file=sys.stderr)
    execute(settings, "land_delivery", delivery.delivered_on.isoformat(), {"load_delivery": {"config": land}}, tags)
    ops: dict[str, Any] = {
        "fit_model": {"config": {"refit": refit}},
        "dbt_build": {"config": {"repin": repin}},
        "write_report": {"config": {"truth_path": _truth_of(source, path)}},
    }
    red: list[str] = []
    for day in (*days_before, as_of_on):
        print(f"Scoring {day} ...", file=sys.stderr)
        red = execute(settings, "score_day", day.isoformat(), ops, tags | {"iom/as_of_on": day.isoformat()})
    print_summary(settings, as_of_on)
    _say_if_left_out(settings, as_of_on, delivery.delivery_id)
    print(f"Report: {report_path(settings, as_of_on)}")
    if red:
        raise RunFailed(f"the day is scored, but a check is red: {'; '.join(red)}", RED)


def run_learners(path: Path, *, delivered_on: date | None, is_of_courses: bool) -> None:
    """Land the learner summary at `path`, and cluster the learners of its day; `is_of_courses`: an option asks for more."""
    from iom_platform.extract.learner_landing import open_learners

    if is_of_courses:
        raise UsageError(
            f"--as-of, --refit and --repin are for courses; a {LEARNER_SOURCE} tells of its day of delivery: leave them away"
        )
    settings = load_settings()
    delivery, _ = open_learners(path, delivered_on=delivered_on)
    check_day(settings, "day of delivery", delivery.delivered_on)
    settings, day = start_platform(), delivery.delivered_on
    tags = {"iom/source": LEARNER_SOURCE, "iom/delivery": delivery.delivery_id, "iom/started_by": "iom run"}
    print(f"Landing {LEARNER_SOURCE} delivery {delivery.delivery_id} of {day} ...", file=sys.stderr)
    ops = {"load_learners": {"config": {"path": str(path.resolve())}}}
    execute(settings, "cluster_learners", day.isoformat(), ops, tags)
    _print_learners(settings, day)


def _print_learners(settings: Settings, day: date) -> None:
    """How many learners are in each cluster of a day."""
    from iom_platform.storage.warehouse import open_warehouse, read_table
    from iom_platform.tables import LEARNER_PROFILES

    with open_warehouse(settings, purpose="look at the day's clusters", write=False) as con:
        profiles = read_table(con, LEARNER_PROFILES, day)
    sizes = profiles.drop_duplicates(["algorithm", "cluster"])
    for algorithm, some in sizes.groupby("algorithm", sort=False):
        print(f"{algorithm}: learners per cluster {', '.join(f'{n:,}' for n in some['learners'])}")
    for sentence in settings.not_in_force():
        print(f"Not in force yet: {sentence}")


def _truth_of(source: str, path: Path) -> str | None:
    """The truth that `iom synth` and `iom demo` lay beside a twin; no other source has one."""
    from iom_platform.extract.synthetic import TRUTH_FILE

    truth = path.resolve().with_name(f"{path.resolve().name}-truth") / TRUTH_FILE
    return str(truth) if source == "synthetic" and truth.exists() else None


def _say_if_left_out(settings: Settings, as_of_on: date, delivery_id: str) -> None:
    """A day that was published before is replayed from its own deliveries; who has just landed another must know."""
    from iom_platform.storage.warehouse import open_warehouse, read_table
    from iom_platform.tables import DELIVERY_SCOPE

    with open_warehouse(settings, purpose="look at the day's deliveries", write=False) as con:
        scope = read_table(con, DELIVERY_SCOPE, as_of_on)
    if delivery_id not in set(scope["delivery_id"]):
        print(
            f"Delivery {delivery_id} is not in these figures: {as_of_on} was published from others before. "
            "Add --repin to compute the day anew with it."
        )


def print_summary(settings: Settings, as_of_on: date) -> None:
    """Risk levels per course of one day, the model that scored it, and what is not in force."""
    from iom_platform.flow.risk import nothing_to_score
    from iom_platform.risk import summarize_risk
    from iom_platform.storage.record import open_record, read_table
    from iom_platform.tables import STUDENT_RISK

    with open_record(settings) as conn:
        frame = read_table(conn, STUDENT_RISK, as_of_on)
    if frame.empty:
        print(nothing_to_score(settings, as_of_on))
    else:
        print(f"Student risk at the end of {as_of_on}: {len(frame)} enrollments")
        print(summarize_risk(frame).to_string(index=False))
        _say_what_scored(settings, as_of_on)
    for sentence in settings.not_in_force():
        print(f"Not in force yet: {sentence}")


def _say_what_scored(settings: Settings, as_of_on: date) -> None:
    from iom_platform.storage.champion import read_champion
    from iom_platform.storage.postgres_server import ensure_server

    champion = read_champion(ensure_server(settings), as_of_on)
    if champion is None:
        return
    print(f"Scored by {champion}.")
    if other := champion.other_than(settings.clustering):
        print(f"WARNING: that model scored the day, but {other}")


def write_synthetic(out: Path, *, students: int, seed: int, through: date | None) -> None:
    from iom_platform.extract.synthetic import write_twin

    settings = load_settings()
    summary = write_twin(out, students=students, seed=seed, through=through or today(settings))
    rows = ", ".join(f"{name} {count:,}" for name, count in summary.rows.items())
    running = ", ".join(p.course_id for p in summary.running)
    print(f"Twin of {summary.students} students through {summary.through} in {summary.path}: {rows}.")
    print(f"Running on that day: {running}. Its truth, apart from the extract: {summary.truth_path}")


def show_command() -> str:
    """How `iom` is called from here, to be pasted."""
    iom = Path(sys.executable).parent / "iom"
    return shlex.quote(str(iom.relative_to(Path.cwd()) if iom.is_relative_to(Path.cwd()) else iom))


def run_demo(*, students: int, seed: int) -> None:
    """Generate, land and score the twin; then print commands that can be pasted as they stand."""
    settings = load_settings()
    day = today(settings)
    twin = settings.home / "demo" / f"twin-{day}-{students}-{seed}"
    if not twin.exists():
        write_synthetic(twin, students=students, seed=seed, through=day)
    week_before = day - timedelta(days=7)  # so that the report can say who moved
    days_before = (week_before,) if week_before >= settings.institution.first_as_of else ()
    run_source("synthetic", twin, as_of_on=day, refit=False, delivered_on=None, repin=False, days_before=days_before)
    shown = show_command()
    print(
        "\nNext:\n"
        f"  {shown} tables                                            # every table, its rows and days\n"
        f"  {shown} export risk/student_risk --out student_risk.csv   # the risk table, pseudonymized\n"
        f"  {shown} up                                                # Dagster and MLflow in the browser\n"
        f"  {shown} doctor                                            # what is in force\n"
        f"  {shown} down                                              # stop the embedded PostgreSQL"
    )
