"""The `iom` command in processes of its own: what it prints, writes, refuses and exits with.

What a run computes, and how the server and the lock work, have tests of their own.
"""

import csv
import io
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pandas as pd
import psycopg2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iom_platform.cli import app
from iom_platform.cli.health import examine
from iom_platform.cli.runs import print_summary
from iom_platform.extract.pseudonym_key import load_key
from iom_platform.extract.synthetic import write_twin
from iom_platform.notebook import TemporalFeatureExtractor
from iom_platform.report import page
from iom_platform.settings import PROJECT_ROOT, load_settings
from iom_platform.storage import record, warehouse
from iom_platform.storage.postgres_server import ensure_server
from iom_platform.storage.record import READER
from iom_platform.tables import MODEL_INPUTS, OULAD_STUDENT_INFO, STUDENT_RISK, find_table
from tests.spine import IOM, Spine, said, set_columns, spine_at, succeed

DAY = date(2026, 5, 1)
EARLIER = DAY - timedelta(days=1)
NAMED = "zqplanted-7-enrolled"


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Ran(NamedTuple):
    """Two `iom run` at once on an empty home, and an `iom export` meanwhile."""

    spine: Spine
    twin: Path
    runs: dict[date, Done]
    export: Done
    exported: Path


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A twin with one student whose name can be looked for."""
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=150, seed=9, through=DAY)
    with (folder / "studentVle.csv").open(newline="") as stream:
        known = next(csv.DictReader(stream))["id_student"]
    for name in ("studentInfo.csv", "studentRegistration.csv", "studentAssessment.csv", "studentVle.csv"):
        set_columns(
            folder / name, lambda number, record: {"id_student": NAMED} if record["id_student"] == known else {}
        )
    return folder


@pytest.fixture(scope="module")
def ran(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("commands")
    with spine_at(folder / "home") as spine:
        runs = {
            day: spine.start("run", "--source", "synthetic", "--path", str(twin), "--as-of", day.isoformat())
            for day in (EARLIER, DAY)
        }
        exported = folder / "meanwhile.csv"
        while not spine.settings.warehouse_path.exists() and any(p.poll() is None for p in runs.values()):
            time.sleep(0.05)
        export = spine.iom("export", "raw/deliveries", "--out", str(exported))
        done = {day: (process.communicate(timeout=900), process.returncode) for day, process in runs.items()}
        yield Ran(
            spine, twin, {day: Done(code, out, err) for day, ((out, err), code) in done.items()},
            Done(export.returncode, export.stdout, export.stderr), exported,
        )  # fmt: skip


@pytest.fixture(scope="module")
def spine(ran: Ran) -> Spine:
    return ran.spine


# -- without a platform --------------------------------------------------------------------------------


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_names_every_command_and_exit_code() -> None:
    done = subprocess.run([str(IOM), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for command in app.registered_commands:
        assert f"\n  {command.callback.__name__} " in done.stdout  # type: ignore[union-attr]
    for code in (
        "0 done",
        "2 usage",
        "3 settings",
        "4 delivery",
        "5 a run",
        "6 not allowed",
        "7 not there",
        "75 the warehouse",
    ):
        assert code in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "heavy", ["pandas", "dagster", "duckdb", "mlflow", "great_expectations", "psycopg2", "pyarrow", "sklearn"]
)
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys; from iom_platform.cli import app; app(['--help'], standalone_mode=False); sys.exit({heavy!r} in sys.modules)"
    done = _python(code)
    assert done.returncode == 0 and "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("PermissionError(13, 'Permission denied', 'risk.csv')", "iom: risk.csv: permission denied; make it usable"),
        (
            "psycopg2.errors.NotNullViolation('null value in column\\nDETAIL: Failing row contains (ada)')",
            "iom: PostgreSQL refused a command: null value in column; see `iom status`",
        ),
    ],
)
def test_what_the_system_refuses_is_one_sentence_without_values(raised: str, said: str) -> None:
    done = _python(
        f"import psycopg2.errors; from iom_platform import cli\ndef fail(): raise {raised}\ncli.app = fail; cli.main()"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(said)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    done = _python("from iom_platform import cli\ndef fail(): return [][1]\ncli.app = fail; cli.main()")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_home_out_of_reach_is_one_sentence() -> None:
    done = subprocess.run(
        [str(IOM), "tables"], capture_output=True, text=True, check=False, env={**os.environ, "IOM_HOME": "/proc/nope"}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("iom: /proc/nope: ") and done.stderr.count("\n") == 1


def test_unknown_setting_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "iom.yaml"
    path.write_text("clustering: {n_cluster: 4}\n")
    done = subprocess.run(
        [str(IOM), "doctor"], capture_output=True, text=True, check=False, env={**os.environ, "IOM_SETTINGS": str(path)}
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert (
        done.stderr == "iom: unknown setting 'clustering.n_cluster'; the nearest known one is 'clustering.n_clusters'\n"
    )


def test_doctor_says_what_is_not_in_force_and_starts_nothing(fresh_home: Path) -> None:
    done = subprocess.run([str(IOM), "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for word in ("differential_privacy", "notifications"):
        assert any(line.startswith("Not in force yet:") and word in line for line in done.stdout.splitlines())
    assert not fresh_home.exists()


def test_doctor_finds_a_key_that_others_can_read(fresh_home: Path) -> None:
    fresh_home.mkdir()
    (fresh_home / "pseudonym.key").write_text("0" * 64)
    (fresh_home / "pseudonym.key").chmod(0o644)
    done = subprocess.run([str(IOM), "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "chmod 600 it" in done.stdout and "0000" not in done.stdout + done.stderr


def test_synth_writes_the_same_bytes_for_the_same_arguments(tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ["--out", str(tmp_path / name), "--students", "100", "--seed", "3", "--through", "2026-05-01"]
        done = subprocess.run([str(IOM), "synth", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Twin of 100 students through 2026-05-01" in done.stdout
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 8
    assert (tmp_path / "one-truth" / "truth.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["run", "--source", "moodle", "--path", "."],
            "unknown source 'moodle'; known: learner_summary, oulad, synthetic",
        ),
        (["run", "--source", "synthetic", "--path", ".", "--as-of", "2001-01-01"], "is before institution.first_as_of"),
        (["export", "risk/students", "--out", "x.csv"], "no table 'risk/students'; known: raw/oulad_courses"),
        (["export", "risk/student_risk", "--out", "x.xlsx"], "must end in .csv or .parquet"),
        (["export", "risk/student_risk", "--out", "nowhere/x.csv"], "its folder does not exist"),
        (["export", "raw/files", "--out", "x.csv", "--as-of", "2026-05-01"], "raw/files has no as-of day"),
        (["export", "raw/files", "--out", "x.csv", "--identified", "--reason", "x"], "raw/files has no student"),
        (["export", "risk/student_risk", "--out", "x.csv", "--identified"], "--identified needs --reason"),
        (["export", "risk/student_risk", "--out", "x.csv", "--reason", "x"], "--reason is kept for --identified"),
        (["export", "risk/student_risk", "--out", "x.csv", "--as-of", "2026-05-01", "--all-days"], "leave one of them"),
        (
            ["export", "risk/student_risk", "--out", "x.csv", "--identified", "--reason", "  "],
            "--identified needs --reason",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_starts_nothing(
    fresh_home: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = subprocess.run([str(IOM), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("iom: ") and done.stderr.count("\n") == 1 and sentence in done.stderr
    assert not fresh_home.exists() and not (tmp_path / "x.csv").exists()


# -- runs ----------------------------------------------------------------------------------------------


def _cohort(twin: Path, day: date) -> Counter[tuple[str, str]]:
    """(student, course) of the day's cohort, read from the delivered files alone."""
    courses = pd.read_csv(twin / "courses.csv", parse_dates=["presentation_starts_on"])
    found = pd.read_csv(twin / "studentRegistration.csv", na_values="?", dtype={"id_student": str})
    found = found.merge(courses, on=["code_module", "code_presentation"])
    on = (pd.Timestamp(day) - found["presentation_starts_on"]).dt.days
    is_in = (
        (found["date_registration"] <= on)
        & ~(found["date_unregistration"] <= on)
        & on.between(0, found["module_presentation_length"])
    )
    chosen = found[is_in]
    return Counter(zip(chosen["id_student"], chosen["code_module"] + "-" + chosen["code_presentation"], strict=True))


def test_two_runs_at_once_both_finish_with_the_right_rows(ran: Ran, tmp_path: Path) -> None:
    for day, done in ran.runs.items():
        assert done.code == 0, done.err
        out = tmp_path / f"{day}.csv"
        export = ran.spine.iom(
            "export",
            "risk/student_risk",
            "--out",
            str(out),
            "--as-of",
            day.isoformat(),
            "--identified",
            "--reason",
            "test",
        )
        assert export.returncode == 0, export.stderr
        rows = pd.read_csv(out, dtype={"student_id": str})
        assert Counter(zip(rows["student_id"], rows["course_id"], strict=True)) == _cohort(ran.twin, day)
        assert f"Student risk at the end of {day}: {len(rows)} enrollments" in done.out


def test_rows_of_the_twin_landed_once(ran: Ran, tmp_path: Path) -> None:
    out = tmp_path / "clicks.parquet"
    assert ran.spine.iom("export", "raw/oulad_student_vle", "--out", str(out)).returncode == 0
    assert len(pd.read_parquet(out)) == len((ran.twin / "studentVle.csv").read_text().splitlines()) - 1


def test_export_during_a_run_waits_or_finds_nothing_yet(ran: Ran) -> None:
    """Never a broken file, and never an error of DuckDB's."""
    assert ran.export.code in (0, 7), ran.export.err
    assert ran.exported.exists() == (ran.export.code == 0)
    assert "Traceback" not in ran.export.err


def test_run_prints_no_id_of_a_student(ran: Ran, tmp_path: Path) -> None:
    out = tmp_path / "identified.csv"
    ran.spine.iom("export", "risk/student_risk", "--out", str(out), "--identified", "--reason", "test")
    rows = pd.read_csv(out, dtype={"student_id": str})
    assert NAMED in set(rows["student_id"])
    printed = "".join(done.out + done.err for done in ran.runs.values())
    assert "Not in force yet" in printed
    logged = "".join(f.read_text(errors="replace") for f in (ran.spine.settings.home / "logs").iterdir())
    assert NAMED not in printed + logged
    assert not [pseudonym for pseudonym in rows["student_pseudonym"] if pseudonym in printed + logged]


def test_run_tells_its_progress_and_summary_apart(ran: Ran) -> None:
    done = ran.runs[EARLIER]
    assert f"Scoring {EARLIER} ..." in done.err and "score_risk: done in" in done.err
    assert "Scoring" not in done.out


# -- the model that scored -------------------------------------------------------------------------------


def test_run_says_which_model_scored_and_what_the_fit_decided(ran: Ran) -> None:
    for day, done in ran.runs.items():
        (line,) = (line for line in done.out.splitlines() if line.startswith("Scored by"))
        told = re.fullmatch(r"Scored by student_clusters version (\d) \(kmeans, k=4, trained as of ([\d-]+)\)\.", line)
        assert told and date.fromisoformat(told[2]) <= day
        how = f"(kept|promoted) version {told[1]}"
        assert re.search(rf"^  fit_model: done in [\d.]+ s: {how}", done.err, flags=re.M)
        assert "WARNING" not in done.out


@pytest.mark.parametrize(
    ("name", "value", "asked"),
    [
        ("N_CLUSTERS", "6", "kmeans, k=6"),
        ("ALGORITHM", "gmm", "gmm, k=4"),
        ("SEED", "5", "kmeans, k=4, seed 5"),
    ],
)
def test_settings_that_the_champion_was_not_fitted_with_are_told_with_the_remedy(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, asked: str
) -> None:
    remedy = f"the settings ask for {asked}: add --refit to `iom run`"
    print_summary(spine.settings, DAY)
    same = capsys.readouterr().out
    monkeypatch.setenv(f"IOM_CLUSTERING__{name}", value)
    print_summary(load_settings(), DAY)
    other = capsys.readouterr().out
    assert [line for line in other.splitlines() if line not in same] == [
        f"WARNING: that model scored the day, but {remedy}"
    ]
    examine()
    said = capsys.readouterr().out.splitlines()
    assert f"WARNING: the champion scores, and {remedy}" in said
    assert said[-1] == "Nothing else is wrong."


def test_a_fit_that_keeps_the_champion_of_other_settings_says_so(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS", "6")
    result = spine.run_part(dg.AssetSelection.assets(["clustering", "promotions"], ["clustering", "lineage"]), DAY)
    succeed(result)
    (decision,) = {
        e.step_materialization_data.materialization.metadata["decision"].value
        for e in result.all_events
        if e.is_step_materialization
    }
    assert re.fullmatch(r"kept version .*; the settings ask for kmeans, k=6: add --refit to `iom run`", str(decision))


def test_doctor_shows_the_champion_without_a_heavy_import(spine: Spine) -> None:
    code = (
        "import sys; from iom_platform.cli import app; app(['doctor'], standalone_mode=False)\n"
        "print(sorted({'dagster', 'mlflow', 'pandas', 'sklearn', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    )
    *_, verdict, heavy = (lines := _python(code).stdout.splitlines())
    assert [
        line for line in lines if re.match(r"  champion: student_clusters version \d \(kmeans, k=4, trained as", line)
    ]
    assert (verdict, heavy) == ("Nothing is wrong.", "[]")


# -- the report ----------------------------------------------------------------------------------------


def _report(spine: Spine, day: date = DAY) -> Path:
    return spine.settings.home / "reports" / f"{day}.html"


def _write_again(spine: Spine, truth: Path | None = None) -> dg.ExecuteInProcessResult:
    ops = {"write_report": {"config": {"truth_path": str(truth) if truth else None}}}
    return spine.run_part(dg.AssetSelection.assets(["risk", "report"]), DAY, ops)


def test_run_writes_a_report_for_its_user_alone_and_says_where(ran: Ran) -> None:
    for day, done in ran.runs.items():
        file = _report(ran.spine, day)
        assert done.out.splitlines()[-1] == f"Report: {file}"
        assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {f.name for f in file.parent.iterdir()} == {f"{day}.html" for day in ran.runs}


def test_no_report_holds_an_id_or_pseudonym(ran: Ran) -> None:
    with warehouse.open_warehouse(ran.spine.settings, purpose="test", write=False) as con:
        raw = warehouse.read_table(con, OULAD_STUDENT_INFO, columns=["student_pseudonym"])
    pseudonyms = set(raw["student_pseudonym"])
    ids = set(pd.read_csv(ran.twin / "studentInfo.csv", dtype=str)["id_student"])
    assert len(pseudonyms) == len(ids) > 100
    for day in ran.runs:
        html = _report(ran.spine, day).read_text()
        assert "Levels per course" in html and "Of the students at each level" in html
        words = set(re.findall(r"\w+", html)) | set(re.findall(r"[\w-]+", html))
        assert not words & (pseudonyms | ids)
        assert not [pseudonym for pseudonym in pseudonyms if pseudonym in html]


def test_the_report_counts_what_the_risk_table_holds(ran: Ran, tmp_path: Path) -> None:
    out = tmp_path / "risk.csv"
    ran.spine.iom("export", "risk/student_risk", "--out", str(out), "--as-of", DAY.isoformat())
    levels = Counter(pd.read_csv(out)["risk_level"])
    html = _report(ran.spine).read_text()
    for level in ("HIGH", "MEDIUM", "LOW", "UNKNOWN"):
        assert f"<b>{levels[level]:,}</b> <strong>{level}</strong>" in html


def test_a_report_without_truth_or_weeks_says_so_and_the_next_has_them(spine: Spine) -> None:
    """Of two days at once one finds no weeks, for the other was computed meanwhile; here the day's are published anew."""
    assert _write_again(spine).success
    assert "Of the students at each level" not in _report(spine).read_text()
    weeks = {"anonymized/student_week", "features/student_week"}
    with warehouse.open_warehouse(spine.settings, purpose="test", write=True) as con:
        for path in weeks:
            con.execute(f"delete from {find_table(path).sql_name}")
    assert _write_again(spine).success
    assert "Activity per week is not available for this day" in _report(spine).read_text()
    selection = dg.AssetSelection.groups("features") | dg.AssetSelection.assets(
        ["anonymized", "student_week"], ["risk", "report"]
    )
    succeed(spine.run_part(selection, DAY))
    assert "Activity per week is not available for this day" not in _report(spine).read_text()


def test_a_report_that_cannot_be_made_is_a_red_run_with_a_sentence(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _fail(day: object) -> str:
        raise KeyError(NAMED)

    before, hashes = _report(spine).read_bytes(), spine.hashes(DAY)
    monkeypatch.setattr(page, "render_page", _fail)
    result = _write_again(spine)
    [sentence] = said(result)
    assert sentence.startswith(f"The report of {DAY} could not be made (KeyError); the risk rows are published.")
    assert _report(spine).read_bytes() == before and spine.hashes(DAY) == hashes
    assert not [f for f in _report(spine).parent.iterdir() if f.suffix != ".html"]
    assert not [e for e in result.all_events if NAMED in str(e)]


@pytest.mark.parametrize("text", [None, f"id_student\n{NAMED}\n"])
def test_a_truth_that_is_none_is_named_without_its_lines(spine: Spine, tmp_path: Path, text: str | None) -> None:
    truth = tmp_path / "truth.csv"
    if text:
        truth.write_text(text)
    result = _write_again(spine, truth)
    [sentence] = said(result)
    assert sentence.startswith("truth.csv of truth_path is no truth of a twin") and NAMED not in sentence


# -- tables and export ---------------------------------------------------------------------------------


def test_tables_lists_rows_and_newest_day(spine: Spine) -> None:
    done = spine.iom("tables")
    assert done.returncode == 0
    [line] = [line for line in done.stdout.splitlines() if line.startswith("risk/student_risk ")]
    assert line.split()[2:] == [DAY.isoformat(), "record"]


def test_metrics_are_as_prometheus_reads_them_and_name_nobody(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "iom.prom"
    assert spine.iom("metrics", "--out", str(out)).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o644
    families = text_string_to_metric_families(out.read_text())
    found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    with record.open_record(spine.settings) as conn:
        risk = record.read_table(conn, STUDENT_RISK)
    assert found["iom_table_rows", "risk/student_risk"] == len(risk) > 0
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp()
    assert found["iom_table_newest_as_of_timestamp_seconds", "risk/student_risk"] == midnight
    landed, loaded, quarantined = (
        found["iom_delivery_records", "synthetic", state] for state in ("landed", "loaded", "quarantined")
    )
    assert landed == loaded + quarantined > 1000
    assert found["iom_delivery_newest_is_accepted", "synthetic"] == 1
    assert found["iom_runs", "score_day", "success"] >= 2
    assert found["iom_run_last_success_timestamp_seconds", "score_day"] > midnight
    assert not any(word in out.read_text() for word in {*risk["student_pseudonym"], *risk["course_id"]})


def test_export_of_a_day_is_that_day(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "risk.parquet"
    done = spine.iom("export", "risk/student_risk", "--out", str(out), "--as-of", EARLIER.isoformat())
    assert done.returncode == 0
    rows = pd.read_parquet(out)
    assert done.stdout.splitlines()[0] == f"{len(rows):,} rows of risk/student_risk for {EARLIER} written to {out}"
    assert "not anonymous" in done.stdout
    assert set(rows["as_of_on"].astype(str)) == {EARLIER.isoformat()}
    assert "student_id" not in rows


def test_export_is_of_the_newest_day_those_to_talk_to_first(spine: Spine, tmp_path: Path) -> None:
    newest, every = tmp_path / "newest.csv", tmp_path / "every.csv"
    done = spine.iom("export", "risk/student_risk", "--out", str(newest))
    assert f" for {DAY}, the newest day, written to " in done.stdout
    rows = pd.read_csv(newest)
    assert set(rows["as_of_on"]) == {DAY.isoformat()}
    assert rows["course_id"].is_monotonic_increasing and rows["course_id"].nunique() > 1
    for _, course in rows.groupby("course_id"):
        assert course["risk_score"].dropna().is_monotonic_decreasing and course["risk_score"].nunique() > 1
    assert spine.iom("export", "risk/student_risk", "--out", str(every), "--all-days").returncode == 0
    assert set(pd.read_csv(every)["as_of_on"]) == {EARLIER.isoformat(), DAY.isoformat()}


def test_export_without_a_person_asks_for_no_caution(spine: Spine, tmp_path: Path) -> None:
    done = spine.iom("export", "raw/files", "--out", str(tmp_path / "files.csv"))
    assert done.returncode == 0 and done.stdout.count("\n") == 1


def test_export_of_an_empty_day_leaves_the_file_alone(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "risk.csv"
    out.write_text("earlier export")
    done = spine.iom("export", "risk/student_risk", "--out", str(out), "--as-of", "2020-02-29")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == "iom: risk/student_risk has no rows for 2020-02-29; `iom tables` shows what there is\n"
    assert out.read_text() == "earlier export" and list(tmp_path.iterdir()) == [out]


@contextmanager
def _record(spine: Spine, user: str | None = None) -> "Iterator[psycopg2.extensions.cursor]":
    server = ensure_server(spine.settings)
    if user == "postgres":
        server = replace(
            server, user=user, password=(spine.settings.home / "postgres" / "superuser_password").read_text()
        )
    with psycopg2.connect(server.url("iom")) as con, con.cursor() as cursor:
        yield cursor
    con.close()


def _audit(spine: Spine) -> list[tuple[object, ...]]:
    with _record(spine) as cursor:
        cursor.execute(
            "SELECT actor = session_user, table_name, as_of_on, rows, reason FROM audit.exports ORDER BY exported_at"
        )
        return cursor.fetchall()


def test_identified_export_adds_the_id_and_is_audited(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "risk.csv"
    before = _audit(spine)
    done = spine.iom(
        "export",
        "risk/student_risk",
        "--out",
        str(out),
        "--as-of",
        DAY.isoformat(),
        "--identified",
        "--reason",
        " call those at risk ",
    )
    assert done.returncode == 0
    rows = pd.read_csv(out, dtype={"student_id": str})
    assert list(rows.columns[:2]) == ["student_id", "source"] and rows["student_id"].notna().all()
    assert set(rows["source"]) == {"synthetic"} and out.stat().st_mode & 0o777 == 0o600
    assert len(rows) > rows["student_pseudonym"].nunique()
    assert _audit(spine) == [*before, (True, "risk/student_risk", DAY, len(rows), "call those at risk")]
    assert NAMED not in done.stdout + done.stderr
    audit = pd.read_csv(io.StringIO(spine.iom("audit").stdout))
    assert audit.iloc[-1][["table_name", "reason"]].tolist() == ["risk/student_risk", "call those at risk"]
    assert audit["rows"].iloc[-1] == len(rows) and len(audit) == len(before) + 1


def test_identified_export_is_refused_without_the_role(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "risk.csv"
    before = _audit(spine)
    operator = ensure_server(spine.settings).user
    with _record(spine, "postgres") as cursor:
        cursor.execute(f"REVOKE {READER} FROM {operator}")
    try:
        done = spine.iom("export", "risk/student_risk", "--out", str(out), "--identified", "--reason", "curious")
    finally:
        with _record(spine, "postgres") as cursor:
            cursor.execute(f"GRANT {READER} TO {operator} WITH INHERIT FALSE")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("iom: ") and READER in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()) and _audit(spine) == before


_HOLD = """
import sys
from iom_platform.settings import PROJECT_ROOT, load_settings
from iom_platform.storage.warehouse_lock import warehouse_lock
with warehouse_lock(load_settings(), "hold for a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_busy_warehouse_is_named_with_its_holder(spine: Spine, tmp_path: Path) -> None:
    out = tmp_path / "outcome.csv"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        done = spine.iom("export", "anonymized/student_term", "--out", str(out), IOM_WAREHOUSE__WAIT_SECONDS="1")
        listed = spine.iom("tables", IOM_WAREHOUSE__WAIT_SECONDS="0")
        assert holder.stdin is not None
        holder.stdin.close()
    assert (done.returncode, listed.returncode) == (75, 75)
    assert "waiting up to 1 s for the warehouse" in done.stderr and "hold for a test" in done.stderr
    assert "Traceback" not in done.stderr + listed.stderr
    assert not out.exists()
    assert spine.iom("export", "anonymized/student_term", "--out", str(out)).returncode == 0


# -- status and env ------------------------------------------------------------------------------------


def test_status_says_where_the_state_lies_and_no_password(spine: Spine) -> None:
    done = spine.iom("status")
    assert done.returncode == 0
    assert f"home: {spine.settings.home}" in done.stdout
    assert "`iom up` starts them" in done.stdout
    assert ensure_server(spine.settings).password not in done.stdout + done.stderr


def _shell(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a POSIX shell that has nothing of the platform but IOM_HOME, in a folder of no meaning."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "IOM_HOME", "LANG")}
    script = f'set -e\nshown="$("{IOM}" env)"\neval "$shown"\n{commands}'
    return subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=False, env=kept, cwd=folder, timeout=300
    )


def test_env_prints_exports_and_no_secret(spine: Spine) -> None:
    done = spine.iom("env")
    assert done.returncode == 0
    assert all(line.startswith("export ") for line in done.stdout.splitlines())
    assert ensure_server(spine.settings).password not in done.stdout + done.stderr
    assert (spine.settings.home / "pseudonym.key").read_text().strip() not in done.stdout
    assert (spine.settings.home / "pgpass").stat().st_mode & 0o777 == 0o600


def test_dbt_builds_alone_after_env(spine: Spine, tmp_path: Path) -> None:
    """It builds the newest day that has risk rows; days and weeks hold the day last built, whichever it was."""
    before = spine.hashes(DAY)
    done = _shell("dbt --quiet build --exclude-resource-type unit_test", tmp_path)
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.iterdir()) == []
    last_built = {"features/student_day", "features/student_week"}
    assert {p: h for p, h in spine.hashes(DAY).items() if p not in last_built} == {
        p: h for p, h in before.items() if p not in last_built
    }


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("dagster asset list -m iom_platform.definitions", "risk/student_risk"),
        ("mlflow experiments search", "student_clusters"),
    ],
)
def test_plain_commands_work_after_env(spine: Spine, tmp_path: Path, command: str, shown: str) -> None:
    done = _shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert ensure_server(spine.settings).password not in done.stdout + done.stderr


def test_dg_lists_the_definitions_after_env(spine: Spine, tmp_path: Path) -> None:
    done = _shell('cd "$DAGSTER_HOME" && dg list defs --json', tmp_path)
    assert done.returncode == 0, done.stderr
    assert "risk/student_risk" in done.stdout
    if (PROJECT_ROOT / ".venv").resolve() == Path(sys.prefix).resolve():
        assert "virtual environment" not in done.stdout + done.stderr


# the two frames that a user holds: an export, with whole numbers, and the notebook's, with pandas' nullable ones
PREDICT = """
import mlflow, mlflow.sklearn, pandas as pd
frames = {"csv": pd.read_csv("term.csv"), "notebook": pd.read_pickle("features.pickle")}
for name, frame in frames.items():
    frame = frame[frame["is_observed"]].iloc[:, ::-1]  # other columns, in another order
    for flavor in (mlflow.pyfunc, mlflow.sklearn):
        model = flavor.load_model("models:/student_clusters@champion")
        found = frame[["student_pseudonym", "course_id"]].assign(cluster=model.predict(frame))
        found.to_csv(f"{name} {flavor.__name__}.csv", index=False)
        try:
            model.predict(frame.drop(columns="score_pct_mean"))
        except ValueError as error:
            print(error)
"""


def test_the_champion_takes_the_rows_of_an_export_and_of_a_notebook(ran: Ran, tmp_path: Path) -> None:
    for table, name in (("anonymized/student_term", "term.csv"), ("clustering/assignments", "assigned.csv")):
        done = ran.spine.iom("export", table, "--out", str(tmp_path / name), "--as-of", DAY.isoformat())
        assert done.returncode == 0, done.stderr
    extractor = TemporalFeatureExtractor(key=load_key(ran.spine.settings), source="synthetic")
    features = extractor.extract_temporal_features(ran.twin, DAY)
    (tmp_path / "predict.py").write_text(PREDICT)
    nullable = features.convert_dtypes()  # as the frame of a day on which some value is null
    assert {str(nullable[name].dtype) for name in MODEL_INPUTS} == {"Int64", "Float64"}
    nullable.to_pickle(tmp_path / "features.pickle")
    done = _shell("python predict.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["columns are missing: {'score_pct_mean'}"] * 4
    published = pd.read_csv(tmp_path / "assigned.csv").set_index(["student_pseudonym", "course_id"])["cluster"]
    assert published.nunique() > 1
    for name in ("csv", "notebook"):
        for flavor in ("pyfunc", "sklearn"):
            found = pd.read_csv(tmp_path / f"{name} mlflow.{flavor}.csv").set_index(published.index.names)["cluster"]
            pd.testing.assert_series_equal(found.reindex(published.index), published)


def test_the_lines_of_the_page_on_models_run(spine: Spine, tmp_path: Path) -> None:
    section = (PROJECT_ROOT / "docs" / "models.md").read_text().partition("## Loading it in plain Python")[2]
    (commands,), (code,) = (re.findall(rf"```{kind}\n(.*?)```", section, flags=re.S) for kind in ("sh", "python"))
    (tmp_path / "lines.py").write_text(
        f"{code}\nprint(len(rows) == len(clusters) > 50, set(clusters) == set(range(4)))"
    )
    done = _shell(commands.replace(".venv/bin/iom", str(IOM)) + "python lines.py", tmp_path)
    assert done.stdout.splitlines()[-1:] == ["True True"], done.stderr
