"""Damaged extracts, end to end: refused whole with one sentence, or landed with the bad records in quarantine.

Every rule about a value or a line has its unit test beside `extract/`; here the question is what a run leaves behind.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import duckdb
import psycopg2
import pytest

from iom_platform.extract.pseudonym_key import load_key
from iom_platform.extract.synthetic import write_twin
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.storage.postgres_server import ensure_server
from tests.spine import Spine, materialized, said, set_columns, spine_at, warnings

DAY = date(2026, 5, 1)
_PLANTED = "zqplanted"
LEGIT, STRANGER, WORDS = f"{_PLANTED}-7-enrolled", f"{_PLANTED}-7-stranger", f"{_PLANTED} words"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered") / "twin"
    write_twin(folder, students=100, seed=5, through=DAY)
    return folder


@pytest.fixture(scope="module")
def spine(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    """A home in which an undamaged delivery of the source synthetic has landed."""
    with spine_at(tmp_path_factory.mktemp("damaged") / "home") as platform:
        assert platform.land(twin, DAY).success
        yield platform


@pytest.fixture
def delivery(twin: Path, tmp_path: Path) -> Path:
    """A delivery with other bytes than the one that has landed."""
    folder = shutil.copytree(twin, tmp_path / "delivery")
    set_columns(folder / "vle.csv", lambda number, record: {"week_from": "1"} if number == 1 else {})
    return folder


def _everything(spine: Spine) -> dict[str, object]:
    """Hashes of all tables, and the identity map with its owner's rights."""
    with psycopg2.connect(ensure_server(spine.settings).url("iom")) as con, con.cursor() as cursor:
        cursor.execute("SET ROLE identity_reader")
        cursor.execute("SELECT source, student_id, student_pseudonym FROM identity.students ORDER BY 1, 2")
        identities = cursor.fetchall()
    con.close()
    assert identities
    return {**spine.hashes(), "identity/students": identities}


# -- refused whole -------------------------------------------------------------------------------------


def _rename_column(folder: Path) -> Path:
    file = folder / "studentVle.csv"
    file.write_bytes(file.read_bytes().replace(b"sum_click", b"sum_clicks", 1))
    return folder


def _cut_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _damaged_zip(folder: Path) -> Path:
    """Its list of contents is whole, the compressed bytes are not."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("studentVle.csv").header_offset
    data = bytearray(path.read_bytes())
    data[start + 2000 : start + 2100] = bytes(100)
    path.write_bytes(data)
    return path


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _no_extract(folder: Path) -> Path:
    _empty(folder)
    (folder / "notes.txt").write_text("to be delivered tomorrow")
    return folder


def _directory_for_file(folder: Path) -> Path:
    (folder / "courses.csv").unlink()
    (folder / "courses.csv").mkdir()
    return folder


def _forbid(folder: Path) -> Path:
    (folder / "studentInfo.csv").chmod(0)
    return folder


def _other_day(folder: Path) -> Path:
    (folder / "delivery.json").write_text(json.dumps({"delivered_on": "2026-04-30"}))
    return folder


def _no_day(folder: Path) -> Path:
    (folder / "delivery.json").write_text(json.dumps({"delivered_on": "1 May"}))
    return folder


_REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "wrong column name": (
        _rename_column,
        "studentVle.csv: column sum_click is missing; the nearest is sum_clicks: rename it",
    ),
    "cut zip": (_cut_zip, "delivery.zip is no readable zip (the archive is damaged or cut); deliver it again"),
    "damaged zip": (
        _damaged_zip,
        "studentVle.csv cannot be read to its end (the archive is damaged or cut); deliver it again",
    ),
    "empty folder": (_empty, "delivery holds none of the files courses.csv, "),
    "no extract": (_no_extract, "delivery holds none of the files courses.csv, "),
    "directory for a file": (_directory_for_file, "courses.csv is no regular file; deliver the file itself"),
    "permission denied": (_forbid, "studentInfo.csv cannot be opened (permission denied); "),
    "no day of delivery": (_no_day, 'delivery.json: delivered_on is no date; write it like "2026-11-21"'),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_unreadable_delivery_is_refused_whole(spine: Spine, delivery: Path, name: str) -> None:
    if name == "permission denied" and os.geteuid() == 0:
        pytest.skip("no file is forbidden to root")
    damage, sentence = _REFUSED[name]
    before = _everything(spine)
    path = damage(delivery)
    _expect_refusal(spine, spine.land(path, DAY), sentence, before)


def _expect_refusal(spine: Spine, result: dg.ExecuteInProcessResult, sentence: str, before: dict[str, object]) -> None:
    assert not result.success
    assert materialized(result) == set()
    [shown] = said(result)
    assert shown.startswith(sentence)
    assert "\n" not in shown
    assert _everything(spine) == before


def test_delivery_of_another_day_than_its_partition_is_refused(spine: Spine, delivery: Path) -> None:
    before = _everything(spine)
    result = spine.land(_other_day(delivery), DAY)
    _expect_refusal(
        spine, result, "delivery says that it was delivered on 2026-04-30, the argument says 2026-05-01; ", before
    )


def test_course_of_another_source_is_refused(spine: Spine, delivery: Path) -> None:
    before = _everything(spine)
    result = spine.land(delivery, DAY, source="oulad")
    _expect_refusal(
        spine, result, "courses.csv: course TWA-2025J was delivered by source synthetic before; rename it", before
    )


def test_bytes_of_another_source_are_refused(spine: Spine, twin: Path) -> None:
    before = _everything(spine)
    result = spine.land(twin, DAY, source="oulad")
    _expect_refusal(spine, result, "these bytes have landed before as source synthetic; ", before)


@pytest.mark.parametrize("name", ["wrong column name", "cut zip", "empty folder"])
def test_command_refuses_with_its_exit_code(spine: Spine, delivery: Path, name: str) -> None:
    damage, sentence = _REFUSED[name]
    before = _everything(spine)
    done = spine.iom(
        "run",
        "--source",
        "synthetic",
        "--path",
        str(damage(delivery)),
        "--as-of",
        DAY.isoformat(),
        "--delivered-on",
        DAY.isoformat(),
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith(f"iom: {sentence}") and done.stderr.count("\n") == 1
    assert _everything(spine) == before


def test_command_refuses_a_course_of_another_source(spine: Spine, delivery: Path) -> None:
    """Found only in the warehouse, by the run itself, and told with the same exit code."""
    before = _everything(spine)
    done = spine.iom("run", "--source", "oulad", "--path", str(delivery), "--as-of", DAY.isoformat())
    assert done.returncode == 4
    assert (
        "load_delivery: courses.csv: course TWA-2025J was delivered by source synthetic before; rename it"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert _everything(spine) == before


# -- quarantined ---------------------------------------------------------------------------------------


def _plant_bad_records(folder: Path) -> int:
    """One student gets a name that can be looked for; three bad click records are appended. Returns the click records."""
    with (folder / "studentRegistration.csv").open() as stream:
        next(stream)
        known = next(line.split(",")[2].strip('"') for line in stream)
    for name in ("studentInfo.csv", "studentRegistration.csv", "studentAssessment.csv", "studentVle.csv"):
        set_columns(
            folder / name, lambda number, record: {"id_student": LEGIT} if record["id_student"] == known else {}
        )
    file = folder / "studentVle.csv"
    lines = file.read_text().splitlines()
    module, presentation, _, site, day, clicks, at = next(line for line in lines if LEGIT in line).split(",")
    bad = (
        [module, presentation, LEGIT, site, f"{day}\0", clicks, at],
        [module, presentation, LEGIT, site, day, WORDS, at],
        [module, presentation, STRANGER, site, day, clicks, at],
    )
    file.write_text("\n".join([*lines, *(",".join(record) for record in bad)]) + "\n")
    return len(lines) - 1 + len(bad)


def test_bad_records_go_to_quarantine_and_nowhere_does_an_id_appear(
    spine: Spine, delivery: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    landed = _plant_bad_records(delivery)
    result = spine.land(delivery, DAY)
    assert result.success, said(result)
    shown = "".join(capfd.readouterr())
    how = "each row there names file, record, column, rule and remedy: iom export raw/quarantine --out quarantine.csv"
    assert f"3 records went to raw/quarantine; {how}\n" in shown
    again = warnings(spine.land(delivery, DAY))
    assert again[-1] == f"this delivery has 3 records in raw/quarantine; {how}"

    with duckdb.connect(str(spine.settings.warehouse_path), read_only=True) as con:
        [(delivery_id,)] = con.execute("select delivery_id from raw.quarantine group by all").fetchall()
        quarantine = con.execute(
            "select file_name, file_row, column_name, rule, masked_value, remedy from raw.quarantine order by file_row"
        ).fetchall()
        files = con.execute(
            "select file_name, table_name, landed_rows, loaded_rows, quarantined_rows from raw.files where delivery_id = ?",
            [delivery_id],
        ).fetchall()
        for file, table, records, loaded, quarantined in files:
            assert records == loaded + quarantined
            assert records == len((delivery / file).read_text().splitlines()) - 1
            assert quarantined == (3 if file == "studentVle.csv" else 0)
            assert con.execute(
                f"select count(*) from {table.replace('/', '.')} where delivery_id = ?", [delivery_id]
            ).fetchall() == [(loaded,)]
        pseudonym = pseudonymize(load_key(spine.settings), "synthetic", [LEGIT])[0]
        assert con.execute(
            "select count(*) > 0 from raw.oulad_student_vle where student_pseudonym = ?", [pseudonym]
        ).fetchall() == [(True,)]

    assert [row[:4] for row in quarantine] == [
        ("studentVle.csv", landed - 2, None, "NUL byte"),
        ("studentVle.csv", landed - 1, "sum_click", "text in a number"),
        ("studentVle.csv", landed, "id_student", "unknown student of that course"),
    ]
    assert all(row[5] for row in quarantine), "each names its remedy"
    assert quarantine[1][4] == "aaaaaaaaa aaaaa" and quarantine[2][4] == "aaaaaaaaa-9-aaaaaaaa"
    assert len(files) == 7

    assert _PLANTED not in str(quarantine)
    assert _PLANTED not in shown
    assert pseudonym not in shown
    assert _events_with(spine, "raw/quarantine"), "events of the run are there to be searched"
    assert not _events_with(spine, _PLANTED) and not _events_with(spine, pseudonym)
    assert not _files_with(spine.settings.home, _PLANTED)


def _events_with(spine: Spine, text: str) -> int:
    with psycopg2.connect(ensure_server(spine.settings).url("dagster")) as con, con.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event_logs WHERE event LIKE %s", (f"%{text}%",))
        [(count,)] = cursor.fetchall()
    con.close()
    return int(count)


def _files_with(home: Path, text: str) -> list[Path]:
    """Files of the home that hold the text; PostgreSQL's own are left out, for the identity map lies there."""
    files = [f for f in home.rglob("*") if f.is_file() and home / "postgres" not in f.parents]
    assert files
    return [f for f in files if text.encode() in f.read_bytes()]
