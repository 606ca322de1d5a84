"""The `iom` command: words and exit codes; each command imports what it needs when it runs.

What a command does belongs to the rooms to the left; here it is only asked for and told.
"""

import os
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="iom",
    help="Learning analytics from LMS extracts to anonymized clusters and explainable risk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 out of reach or unexpected, 2 usage, 3 settings, 4 delivery refused, 5 a run failed or a check is red, "
    "6 not allowed, 7 not there yet, 75 the warehouse is busy, 130 stopped by Ctrl-C.",
)

Source = Annotated[str, typer.Option("--source", help="Name of the source: oulad or synthetic.")]
AsOf = Annotated[
    datetime | None,
    typer.Option("--as-of", formats=["%Y-%m-%d"], help="The day whose end is looked at; default today."),
]

DeliveredOn = Annotated[
    datetime | None,
    typer.Option(
        "--delivered-on", formats=["%Y-%m-%d"], help="Day of delivery, where the extract does not declare it."
    ),
]


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None


@app.command()
def demo(
    students: Annotated[int, typer.Option(help="Students of the generated twin.")] = 600,
    seed: Annotated[int, typer.Option(help="Seed of the twin.")] = 7,
) -> None:
    """Generate a term of students that runs through today, run the whole graph, and say what to do next."""
    from iom_platform.cli.runs import run_demo

    run_demo(students=students, seed=seed)


@app.command()
def run(
    source: Annotated[str, typer.Option("--source", help="Name of the source: oulad, synthetic or learner_summary.")],
    path: Annotated[
        Path, typer.Option("--path", help="Folder or zip of the extract; of learner_summary its CSV or Parquet file.")
    ],
    as_of: AsOf = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit a model on this day although an earlier one could score it.")
    ] = False,
    delivered_on: DeliveredOn = None,
    repin: Annotated[
        bool,
        typer.Option(
            "--repin", help="Compute the day from all accepted deliveries, not from those it was first published from."
        ),
    ] = False,
) -> None:
    """Land a delivery and score one day with it; of a learner summary, cluster its learners."""
    from iom_platform.cli.runs import run_learners, run_source
    from iom_platform.tables import LEARNER_SOURCE

    if source == LEARNER_SOURCE:
        run_learners(path, delivered_on=_day(delivered_on), is_of_courses=bool(as_of or refit or repin))
        return
    run_source(source, path, as_of_on=_day(as_of), refit=refit, delivered_on=_day(delivered_on), repin=repin)


@app.command()
def template(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="Empty or new folder to write to.")],
) -> None:
    """Write the files of a source with their headers, and what belongs in each column."""
    from iom_platform.cli.readiness import write_template

    write_template(source, out)


@app.command()
def check(
    source: Source,
    path: Annotated[Path, typer.Option("--path", help="Folder or zip of the extract.")],
    delivered_on: DeliveredOn = None,
) -> None:
    """Say what an extract is good for before it is landed; nothing is written."""
    from iom_platform.cli.readiness import check_delivery

    check_delivery(source, path, delivered_on=_day(delivered_on))


@app.command()
def tables() -> None:
    """List every table: stage, rows, newest as-of day, where it lives."""
    from iom_platform.cli.exports import print_tables

    print_tables()


@app.command()
def export(
    table: Annotated[str, typer.Argument(metavar="STAGE/TABLE", help="For instance risk/student_risk.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv or .parquet.")],
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", formats=["%Y-%m-%d"], help="One day of it; default the newest.")
    ] = None,
    all_days: Annotated[bool, typer.Option("--all-days", help="Every day of it.")] = False,
    identified: Annotated[
        bool, typer.Option("--identified", help="Add student_id; needs membership of the role identity_reader.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why identities are needed; kept in the audit.")] = "",
) -> None:
    """Write one table to a file."""
    from iom_platform.cli.exports import export_table

    export_table(table, out, as_of_on=_day(as_of), all_days=all_days, identified=identified, reason=reason)


@app.command()
def audit() -> None:
    """Print who exported student ids, when, of which table, and why, as CSV."""
    from iom_platform.cli.exports import print_audit

    print_audit()


@app.command()
def migrate(
    to: Annotated[
        str | None, typer.Option("--to", metavar="REVISION", help="Forward or back to this one; default the newest.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only list the revisions, and which the record has.")] = False,
) -> None:
    """Take the record's tables to a revision; every other command takes them to the newest."""
    from iom_platform.cli.migrate import migrate_to, show_revisions

    show_revisions(to) if show else migrate_to(to)


@app.command()
def synth(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the extract to.")],
    students: Annotated[int, typer.Option("--students", min=1, help="Number of students.")] = 600,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed and arguments, same bytes.")] = 7,
    through: Annotated[
        datetime | None, typer.Option("--through", formats=["%Y-%m-%d"], help="Last day of the extract; default today.")
    ] = None,
) -> None:
    """Generate the twin: a seeded extract whose truth is known and saved beside it."""
    from iom_platform.cli.runs import write_synthetic

    write_synthetic(out, students=students, seed=seed, through=_day(through))


@app.command()
def cluster(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet with a row for each learner_id.")],
    features: Annotated[str, typer.Option("--features", help="Columns to cluster by, with commas between.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    k: Annotated[int, typer.Option("--k", help="Number of clusters.")] = 3,
    algorithms: Annotated[
        str, typer.Option("--algorithms", help="Of kmeans, gmm, dbscan, hdbscan and hierarchical.")
    ] = "kmeans,gmm",
    weights: Annotated[
        str, typer.Option("--weights", metavar="A=2,B=0.5", help="Weights of standardized features, 1 where not named.")
    ] = "",
    linkage: Annotated[str, typer.Option("--linkage", help="Of hierarchical: ward, average or complete.")] = "ward",
    eps: Annotated[
        float | None, typer.Option("--eps", help="Of dbscan, in standard deviations; default is taken from the data.")
    ] = None,
    min_samples: Annotated[
        int, typer.Option("--min-samples", help="Of dbscan and hdbscan: learners around a core one, itself among them.")
    ] = 10,
    min_cluster_size: Annotated[
        int, typer.Option("--min-cluster-size", help="Of hdbscan: fewer learners together are noise.")
    ] = 15,
    sample: Annotated[int, typer.Option("--sample", help="Learners that the silhouette is taken on.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same file and seed, same clusters.")] = 7,
    no_csv: Annotated[bool, typer.Option("--no-csv", help="Write no CSV and no .csv.gz, Parquet alone.")] = False,
    postgres: Annotated[
        Literal["replace", "upsert"] | None,
        typer.Option("--postgres", help="Also to learners.learner_clusters on the server of IOM_POSTGRES_URL."),
    ] = None,
    mongo: Annotated[
        str | None, typer.Option("--mongo", metavar="URL", help="Also to a MongoDB server, by learner_id.")
    ] = None,
    database: Annotated[str | None, typer.Option("--db", metavar="NAME", help="Database of --mongo.")] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="Collection of --mongo.")
    ] = None,
) -> None:
    """Cluster the learners of one file of any size, with profiles, models and a report; no home, no server."""
    from iom_platform.cli.cluster import Request, cluster_file, find_uploads, read_weights

    knobs = {"linkage": linkage, "eps": eps, "min_samples": min_samples, "min_cluster_size": min_cluster_size}
    names = _names(features)
    request = Request(
        names, _names(algorithms), k=k, sample=sample, seed=seed, knobs=knobs, weights=read_weights(weights, names)
    )
    uploads = find_uploads(postgres=postgres, mongo=mongo, database=database, collection=collection)
    cluster_file(file, request, out, with_csv=not no_csv, uploads=uploads)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


models = typer.Typer(help="Which model scores, and a person's change of mind about it.", no_args_is_help=True)
app.add_typer(models, name="models")

Reason = Annotated[str, typer.Option("--reason", help="Why; kept in clustering/promotions. Name no student.")]


@models.command("list")
def list_models() -> None:
    """Print every registered version: what it is, how good, what it scores and why."""
    from iom_platform.cli.models import list_models

    list_models()


@models.command("promote")
def promote_model(
    version: Annotated[int, typer.Argument(help="As `iom models list` shows it.")], reason: Reason
) -> None:
    """Let a version score its training day and all later ones; published days are scored again."""
    from iom_platform.cli.models import promote_model

    promote_model(version, reason=reason)


@models.command("rollback")
def roll_back_model(reason: Reason) -> None:
    """Withdraw the champion; what it scored is scored again by the one before it."""
    from iom_platform.cli.models import roll_back_model

    roll_back_model(reason=reason)


@app.command()
def up(
    dagster_port: Annotated[int, typer.Option(help="Preferred port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Preferred port of the MLflow UI.")] = 5000,
) -> None:
    """Start Dagster (UI and daemon) and MLflow on loopback; Ctrl-C ends them all."""
    from iom_platform.cli.services import serve

    serve(dagster_port=dagster_port, mlflow_port=mlflow_port)


@app.command()
def down() -> None:
    """Stop what `iom up` started, and the embedded PostgreSQL."""
    from iom_platform.cli.services import stop

    stop()


@app.command()
def status() -> None:
    """Say what runs, where, and where its state lies."""
    from iom_platform.cli.services import print_status

    print_status()


@app.command()
def env() -> None:
    """Start the server and print what dagster, dg, dbt and mlflow need: eval "$(iom env)"."""
    from iom_platform.cli.environment import print_environment

    print_environment()


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec(program: Annotated[list[str], typer.Argument(metavar="PROGRAM [ARGUMENT]...")]) -> None:
    """Become another program, with the variables of `iom env`: how a deployment starts its services."""
    from iom_platform.cli.deployment import become

    become(program)


@app.command()
def secrets(
    folder: Annotated[Path, typer.Argument(help="Holds postgres_password, pseudonym_key and gateway_htpasswd.")],
) -> None:
    """Refuse secrets that are missing, open to others, weak or defaults; nothing is printed of them."""
    from iom_platform.cli.deployment import check_secrets

    check_secrets(folder)


@app.command()
def adopt(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept beside the owners of before.")],
) -> None:
    """Let this home own the record of IOM_POSTGRES_URL, in place of the deployment that owned it."""
    from iom_platform.cli.deployment import adopt

    adopt(reason)


@app.command()
def metrics(
    out: Annotated[Path | None, typer.Option("--out", help="File to replace, such as a textfile collector's.")] = None,
) -> None:
    """Print freshness, rows, quarantine and states of runs in the format of Prometheus."""
    from iom_platform.cli.metrics import write_metrics

    write_metrics(out)


@app.command()
def backup(out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not be there yet.")]) -> None:
    """Write databases, warehouse, models and reports of one moment to a folder, without the pseudonym key."""
    from iom_platform.cli.backups import back_up

    back_up(out)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `iom backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Although this home holds rows; they are lost.")] = False,
) -> None:
    """Make the platform again from a backup, beside the pseudonym key that belongs to it."""
    from iom_platform.cli.backups import restore

    restore(folder, replace=replace)


@app.command()
def doctor() -> None:
    """Say which settings are in force, which are not yet, and what is wrong."""
    from iom_platform.cli.health import examine

    examine()


def _sentence(error: Exception) -> str | None:
    """What a person can do something about; None is a fault of ours, which keeps its traceback."""
    if hasattr(error, "exit_code"):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}; make it usable for this user, or name another place"
    if type(error).__module__.partition(".")[0] == "psycopg2":  # by name, since the import costs each command
        said = str(error).splitlines() or ["no message"]  # the lines after the first may hold values of a row
        return f"PostgreSQL refused a command: {said[0].strip()}; see `iom status` and the server's log"
    return None


def main() -> None:
    """Entry point: an error the platform knows is one sentence and a documented exit code."""
    os.umask(0o077)  # whatever is written, a log, a plot or an export, is the user's alone
    try:
        app()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"iom: {sentence}", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 1)) from None
