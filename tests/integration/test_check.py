"""`iom check` and `iom template` in processes of their own: what they print, that they write nothing, and that a run agrees.

What each finding says of which extract has its unit tests.
"""

import os
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from iom_platform.cli.readiness import _Suites
from iom_platform.extract import SOURCES
from iom_platform.extract.landing import Landing
from iom_platform.extract.oulad import SHAPES
from iom_platform.extract.survey import survey_delivery
from iom_platform.extract.synthetic import write_twin
from iom_platform.flow.checks import SUITE_CHECK
from iom_platform.flow.extract import _judge, _read_for_suite
from iom_platform.privacy.kanonymity import GENERALIZED
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.storage.session import frame_of
from iom_platform.storage.warehouse import append_rows, prepare_warehouse
from iom_platform.tables import FILES, Table
from tests.spine import IOM, read_extract, set_columns

DAY = date(2026, 5, 1)
STRANGER = "zqplanted-7-stranger"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=150, seed=9, through=DAY)
    return folder


@pytest.fixture
def extract(twin: Path, tmp_path: Path) -> Path:
    return shutil.copytree(twin, tmp_path / "extract")


def _check(path: Path, *more: str, source: str = "synthetic", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(IOM), "check", "--source", source, "--path", str(path), *more], capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip


def _list(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder; of a folder its name, since Python tries the temporary one by a file that it removes."""
    found = {str(p.relative_to(folder)): (p, p.stat()) for p in sorted(folder.rglob("*"))}
    return {name: (0, 0) if p.is_dir() else (stat.st_mtime_ns, stat.st_size) for name, (p, stat) in found.items()}


def test_a_check_writes_nothing_and_calls_no_server(extract: Path, tmp_path: Path) -> None:
    """Its home, its user's home, the folder for temporary files and the working folder stay as they are."""
    for name in ("user", "tmp", "cwd"):
        (tmp_path / name).mkdir()
    before = _list(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        done = subprocess.run(
            [str(IOM), "check", "--source", "synthetic", "--path", str(extract)], capture_output=True, text=True, check=False,
            cwd=tmp_path / "cwd",
            env={**os.environ, "HOME": str(tmp_path / "user"), "TMPDIR": str(tmp_path / "tmp"), "IOM_HOME": str(tmp_path / "home"),
                 "IOM_POSTGRES_URL": f"postgresql://iom@127.0.0.1:{listener.getsockname()[1]}/iom?connect_timeout=2"},
        )  # fmt: skip
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.returncode == 0, done.stderr
    assert _list(tmp_path) == before
    assert not (tmp_path / "home").exists()


def test_a_good_extract_is_ready_and_ends_with_the_command_to_paste(twin: Path, fresh_home: Path) -> None:
    done = _check(twin)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"Source synthetic, delivered on {DAY}, scope full."
    assert lines[-1].endswith(f"run --source synthetic --path {twin} --as-of {DAY}")
    assert any(line.startswith("Ready") for line in lines)
    courses = pd.read_csv(twin / "courses.csv")
    for module, presentation in zip(courses["code_module"], courses["code_presentation"], strict=True):
        assert any(line.startswith(f"{module}-{presentation} ") for line in lines)
    assert "Reading" in done.stderr and "Reading" not in done.stdout
    assert not fresh_home.exists()


def test_without_demographics_an_extract_is_ready(extract: Path, fresh_home: Path) -> None:
    frames = read_extract(extract)
    frames["studentInfo"].drop(columns=[*GENERALIZED, "disability"]).to_csv(extract / "studentInfo.csv", index=False)
    done = _check(extract)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demographics: none are delivered, and all are published as unknown; levels need none.\n" in done.stdout
    assert "\nReady with limits: demographics.\n" in done.stdout


def test_a_zip_is_read_as_its_folder_is(twin: Path, tmp_path: Path, fresh_home: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twin.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in twin.iterdir():
            archive.write(file, file.name)
    from_zip, from_folder = _check(tmp_path / "twin.zip"), _check(twin)
    assert from_zip.returncode == 0
    assert from_zip.stdout.splitlines()[:-1] == from_folder.stdout.splitlines()[:-1]


def _rename_column(folder: Path) -> Path:
    file = folder / "studentVle.csv"
    file.write_bytes(file.read_bytes().replace(b"sum_click", b"sum_clicks", 1))
    return folder


def _two_files(folder: Path) -> Path:
    for file in folder.glob("*.csv"):
        if file.name not in ("courses.csv", "vle.csv"):
            file.unlink()
    return folder


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _foreign(folder: Path) -> Path:
    (_empty(folder) / "log.csv").write_text("Time,User full name\n1/02/20,Ada\n")
    return folder


def _short_courses(folder: Path) -> Path:
    set_columns(folder / "courses.csv", lambda number, record: {"module_presentation_length": "7"})
    return folder


def _template(folder: Path) -> Path:
    shutil.rmtree(folder)
    subprocess.run(
        [str(IOM), "template", "--source", "synthetic", "--out", str(folder)], check=True, capture_output=True
    )
    return folder


_REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "wrong column name": (_rename_column, "studentVle.csv: column sum_click is missing; the nearest is sum_clicks: rename it."),
    "two of seven files": (_two_files, "studentInfo.csv, studentRegistration.csv are missing; a full delivery needs them"),
    "empty folder": (_empty, "extract holds none of the files courses.csv, "),
    "something else": (_foreign, "extract holds none of the files courses.csv, "),
    "a file": (lambda folder: _foreign(folder) / "log.csv", "log.csv is neither a folder nor a .zip"),
    "a broken suite": (_short_courses, "courses.csv as a whole breaks a rule of expectations/raw: expect_column_values_to_be_between"),
    "untouched template": (_template, "there are no rows yet: courses.csv, studentInfo.csv, studentRegistration.csv hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", _REFUSED)
def test_what_would_be_refused_is_not_ready_and_says_why(extract: Path, fresh_home: Path, name: str) -> None:
    damage, sentence = _REFUSED[name]
    done = _check(damage(extract))
    assert done.returncode == 4, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    reason = lines[lines.index("Not ready: this delivery would be refused.") + 1]
    assert reason.startswith(f"  {sentence}")
    assert any(line.endswith("iom template --source synthetic --out DIR` writes each file's header and says what belongs in it.")
               for line in lines)  # fmt: skip
    assert "Traceback" not in done.stderr and not fresh_home.exists()


def test_a_path_where_nothing_is_gets_one_sentence_and_no_advice_to_check_it_again(fresh_home: Path) -> None:
    done = _check(Path("/nowhere"))
    assert (done.returncode, done.stdout) == (4, "")
    assert (
        done.stderr
        == "Reading /nowhere ...\niom: nothing is at /nowhere; name the folder or .zip that holds the delivered files\n"
    )
    assert not fresh_home.exists()


def test_bad_records_are_told_by_rule_without_a_value(extract: Path, fresh_home: Path) -> None:
    set_columns(extract / "studentInfo.csv", lambda number, record: {"studied_credits": "sixty"} if number == 4 else {})
    set_columns(extract / "studentVle.csv", lambda number, record: {"id_student": STRANGER} if number == 9 else {})
    lines = (extract / "vle.csv").read_bytes().split(b"\n")
    lines[2] = lines[2][:3] + b"\0" + lines[2][4:]
    (extract / "vle.csv").write_bytes(b"\n".join(lines))
    done = _check(extract)
    assert done.returncode == 0, done.stderr
    assert (
        "  studentInfo.csv, studied_credits: text in a number\n    1 record: 4, the first like aaaaa; write a number"
        in done.stdout
    )
    assert "  vle.csv: NUL byte\n    1 record: 2; remove the byte" in done.stdout
    assert "studentVle.csv, id_student: unknown student of that course" in done.stdout
    assert "Ready with limits: records" in done.stdout
    assert STRANGER not in done.stdout + done.stderr and "sixty" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "--source", "moodle", "--path", "."], "unknown source 'moodle'; known: oulad, synthetic"),
        (["template", "--source", "moodle", "--out", "new"], "unknown source 'moodle'; known: oulad, synthetic"),
        (["template", "--source", "oulad", "--out", "."], "is not empty, and nothing is overwritten"),
    ],
)
def test_wrong_usage_is_one_sentence(fresh_home: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "notes.txt").touch()
    done = subprocess.run([str(IOM), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("iom: ") and done.stderr.count("\n") == 1 and sentence in done.stderr
    assert not fresh_home.exists() and [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_day_of_delivery_to_come_is_refused_as_a_run_refuses_it(extract: Path, fresh_home: Path) -> None:
    (extract / "delivery.json").write_text('{"delivered_on": "2199-01-01"}')
    ran = subprocess.run(
        [str(IOM), "run", "--source", "synthetic", "--path", str(extract)], capture_output=True, text=True, check=False
    )
    checked = _check(extract)
    assert checked.returncode == ran.returncode == 2
    assert checked.stderr.splitlines()[-1] == ran.stderr.splitlines()[-1] != ""
    assert not fresh_home.exists()


# -- what a run would say ------------------------------------------------------------------------------


def _break_every_suite(folder: Path) -> None:
    """In each file a column that is right row by row and wrong as a whole."""
    columns = {
        "courses.csv": {"module_presentation_length": "7"},
        "assessments.csv": {"date": "?"},
        "vle.csv": {"week_from": "20", "week_to": "2"},
        "studentInfo.csv": {"studied_credits": "0"},
        "studentRegistration.csv": {"date_registration": ""},
        "studentAssessment.csv": {"score": "?"},
    }
    for file, values in columns.items():
        set_columns(folder / file, lambda number, record, values=values: values)  # type: ignore[misc]
    set_columns(folder / "studentVle.csv", lambda number, record: {"sum_click": "1000000"} if number == 1 else {})


_DAMAGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "none, with gaps": (lambda folder: (folder / "vle.csv").unlink(), set()),
    "every suite": (_break_every_suite, {shape.name for shape in SHAPES}),
}


class _Keeping(_Suites):
    """The gate of a check, with the frames that it judged."""

    def __init__(self) -> None:
        self.frames: dict[Table, pd.DataFrame] = {}

    def judge(self, table: Table, rows: pa.Table) -> tuple[str, ...]:
        self.frames[table] = frame_of(rows)
        return super().judge(table, rows)


@pytest.mark.parametrize("name", _DAMAGES)
def test_the_suites_say_of_a_check_what_they_say_of_a_run(extract: Path, name: str) -> None:
    damage, broken = _DAMAGES[name]
    damage(extract)
    delivery = SOURCES["synthetic"].open_delivery(extract)
    gate = _Keeping()
    survey = survey_delivery(delivery, gate, lambda file, rows: None)
    assert set(survey.suites) == broken
    with duckdb.connect() as connection:
        con = DuckdbSession(connection)
        prepare_warehouse(con)
        landing = Landing(delivery, bytes(32))
        for file in delivery.files:
            for batch in landing.read(file):
                append_rows(con, file.table, batch.rows)
            tally = landing.tallies[file.name]
            row = (
                delivery.delivery_id,
                file.name,
                file.table.path,
                file.sha256,
                tally.landed,
                tally.loaded,
                tally.quarantined,
            )
            append_rows(con, FILES, pd.DataFrame([row], columns=list(FILES.column_names)))
        red = [r for r in _judge(con, delivery.delivery_id) if r.check_name == SUITE_CHECK and not r.passed]
        assert {"/".join(r.asset_key.path) for r in red} == {f.table.path for f in delivery.files if f.name in broken}  # type: ignore[union-attr]
        for table, frame in gate.frames.items():
            ran = _read_for_suite(con, table, delivery.delivery_id)[list(frame.columns)]
            assert dict(ran.dtypes) == dict(frame.dtypes), table.path
            assert len(ran) == len(frame), table.path
