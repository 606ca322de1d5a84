"""Landing: every kind of damage costs exactly its records, says why, shows no value, and the counts add up."""

import os
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from iom_platform.extract import SOURCES, landing
from iom_platform.extract.landing import CountMismatch, Landing, Tally, arrow_schema
from iom_platform.extract.oulad import presentation_start
from iom_platform.extract.source import DeliveryRefused
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.tables import QUARANTINE

KEY = bytes(range(32))
IDS = ("7411391", "7428400", "7430268")

Files = dict[str, list[str]]


def _make_files() -> Files:
    """A small good delivery; line 0 is the header, so that line i is record i."""
    vle = "code_module,code_presentation,id_student,id_site,date,sum_click"
    info = ("code_module,code_presentation,id_student,gender,region,highest_education,imd_band,age_band,"
            "num_of_prev_attempts,studied_credits,disability,final_result")  # fmt: skip
    return {
        "courses.csv": ["code_module,code_presentation,module_presentation_length", "AAA,2013J,268", "BBB,2013B,240"],
        "assessments.csv": ["code_module,code_presentation,id_assessment,assessment_type,date,weight",
                            "AAA,2013J,1752,TMA,19,10", "BBB,2013B,1760,Exam,?,100"],
        "vle.csv": ["id_site,code_module,code_presentation,activity_type,week_from,week_to",
                    "546943,AAA,2013J,quiz,?,?", "546944,BBB,2013B,forumng,1,2"],
        "studentInfo.csv": [info, *(f"AAA,2013J,{i},M,Scotland,HE Qualification,90-100%,55<=,0,240,N,Pass" for i in IDS),
                            f"BBB,2013B,{IDS[0]},M,?,HE Qualification,?,55<=,1,60,Y,?"],
        "studentRegistration.csv": ["code_module,code_presentation,id_student,date_registration,date_unregistration",
                                    f"AAA,2013J,{IDS[0]},-159,?", f"AAA,2013J,{IDS[1]},?,12", f"BBB,2013B,{IDS[0]},-10,?"],
        "studentAssessment.csv": ["id_assessment,id_student,date_submitted,is_banked,score",
                                  f"1752,{IDS[0]},18,0,78", f"1752,{IDS[1]},-1,1,?", f"1760,{IDS[0]},200,0,100"],
        "studentVle.csv": [vle, f"AAA,2013J,{IDS[0]},546943,-10,4", f"AAA,2013J,{IDS[1]},546943,0,1",
                           f"AAA,2013J,{IDS[1]},546943,0,1", f"BBB,2013B,{IDS[0]},999999,3,2"],
    }  # fmt: skip


class Landed:
    """What came of a delivery: rows and quarantine by file, tallies, identities."""

    def __init__(
        self, path: Path, *, source: str = "oulad", block_bytes: int = 1 << 20, delivered_on: date | None = None
    ) -> None:
        self.delivery = SOURCES[source].open_delivery(path, delivered_on=delivered_on)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.quarantine: dict[str, list[dict[str, Any]]] = {}
        self.identities: list[tuple[str, str]] = []
        reader = Landing(self.delivery, KEY, block_bytes=block_bytes)
        for file in self.delivery.files:
            self.rows[file.name], self.quarantine[file.name] = [], []
            for batch in reader.read(file):
                assert batch.rows.schema == arrow_schema(file.table)
                assert batch.quarantine.schema == arrow_schema(QUARANTINE)
                batch.rows.validate(full=True)
                self.rows[file.name] += batch.rows.to_pylist()
                self.quarantine[file.name] += batch.quarantine.to_pylist()
                self.identities += zip(*(c.to_pylist() for c in batch.identities.columns), strict=True)
            tally = reader.tallies[file.name]
            assert tally == Tally(tally.landed, len(self.rows[file.name]), len(self.quarantine[file.name]))
            numbers = [r["file_row"] for r in self.rows[file.name] + self.quarantine[file.name]]
            assert sorted(numbers) == list(range(1, tally.landed + 1))

    def judge(self, file: str) -> list[tuple[int, str | None, str]]:
        return [(q["file_row"], q["column_name"], q["rule"]) for q in self.quarantine[file]]


def _land(tmp_path: Path, files: Files, **knobs: Any) -> Landed:
    folder = tmp_path / "extract"
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_bytes("\r\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    return Landed(folder, **knobs)


def test_a_good_delivery_is_loaded_whole_and_typed(tmp_path: Path) -> None:
    landed = _land(tmp_path, _make_files())
    assert not any(landed.quarantine.values())
    names = dict(zip(IDS, pseudonymize(KEY, "oulad", IDS), strict=True))
    assert dict(landed.identities) == names and len(landed.identities) == 3
    trace = {"source": "oulad", "delivery_id": landed.delivery.delivery_id}
    assert landed.rows["studentInfo.csv"][3] == {
        **trace, "file_name": "studentInfo.csv", "file_row": 4, "code_module": "BBB", "code_presentation": "2013B",
        "student_pseudonym": names[IDS[0]], "gender": "M", "region": None, "highest_education": "HE Qualification",
        "imd_band": None, "age_band": "55<=", "num_of_prev_attempts": 1, "studied_credits": 60, "disability": "Y",
        "final_result": None,
    }  # fmt: skip
    assert landed.rows["studentAssessment.csv"][1] == {
        **trace, "file_name": "studentAssessment.csv", "file_row": 2, "id_assessment": 1752,
        "student_pseudonym": names[IDS[1]], "date_submitted": -1, "is_banked": True, "score": None,
    }  # fmt: skip
    assert [(r["date"], r["sum_click"], r["clicked_at"]) for r in landed.rows["studentVle.csv"]] == [
        (-10, 4, None), (0, 1, None), (0, 1, None), (3, 2, None)]  # fmt: skip
    assert landed.rows["assessments.csv"][1]["date"] is None
    assert landed.rows["courses.csv"][0]["presentation_starts_on"] is None


def test_no_id_reaches_a_row(tmp_path: Path) -> None:
    landed = _land(tmp_path, _make_files())
    assert not any(one in str(landed.rows) for one in IDS)


# file, record, its line with {0} as the first student's id, column, rule, masked value
DAMAGE = [
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0", None, "wrong number of fields", "aaa,9999a,9999999,999999,9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,1,5", None, "wrong number of fields", "aaa,9999a,9999999,999999,9,9,9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,\0,1", None, "NUL byte", "aaa,9999a,9999999,999999,\ufffd,9"),
    ("studentVle.csv", 2, 'AAA,2013J,{0},546943,"0,1', None, "quote that does not close", 'aaa,9999a,9999999,999999,"9,9'),
    ("studentInfo.csv", 3, "AAA,2013J,{0},M,Ile de la Cit\udce9,x,?,?,0,240,N,Pass", None, "not UTF-8", "aaa,9999a,9999999,a,aaa aa aa aaaa,a,?,…"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,one", "sum_click", "text in a number", "aaa"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,0x1F", "sum_click", "text in a number", "9a9a"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,\u0663", "sum_click", "text in a number", "9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,1_0", "sum_click", "text in a number", "9_9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,1.5", "sum_click", "fraction in a whole number", "9.9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,1.0", "sum_click", "fraction in a whole number", "9.9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,1e309", "sum_click", "number that is not finite", "9a999"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,nan", "sum_click", "number that is not finite", "aaa"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,2147483648", "sum_click", "number out of range", "9999999999"),
    ("studentVle.csv", 2, "AAA,2013J,{0},9223372036854775808,0,1", "id_site", "number out of range", "9" * 19),
    ("studentVle.csv", 2, "AAA,2013J,{0}," + "9" * 5000 + ",0,1", "id_site", "number out of range", "9" * 39 + "…"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,-1", "sum_click", "below 1", "-9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,0,0", "sum_click", "below 1", "9"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,-1001,1", "date", "outside -1000 to 2000", "-9999"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,2001,1", "date", "outside -1000 to 2000", "9999"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,?,1", "date", "missing value", "?"),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943,,1", "date", "missing value", ""),
    ("studentVle.csv", 2, "AAA,2013J,{0},546943, ? ,1", "date", "missing value", "?"),
    ("studentVle.csv", 2, "AAA,2013J,?,546943,0,1", "id_student", "missing value", "?"),
    ("studentVle.csv", 2, "AAA,2013J,74999,546943,0,1", "id_student", "unknown student of that course", "99999"),
    ("studentVle.csv", 2, "AAA,2013J,0{0},546943,0,1", "id_student", "unknown student of that course", "99999999"),
    ("studentVle.csv", 2, "BBB,2013B," + IDS[1] + ",546943,0,1", "id_student", "unknown student of that course", "9999999"),
    ("studentVle.csv", 2, "AAA,2014J,{0},546943,0,1", "code_module, code_presentation", "unknown course", "aaa 9999a"),
    ("studentVle.csv", 2, "AAA,2013B,{0},546943,0,1", "code_module, code_presentation", "unknown course", "aaa 9999a"),
    ("studentVle.csv", 2, "AAA,2013J," + "7" * 65 + ",546943,0,1", "id_student", "not an id of at most 64 printable characters", "9" * 39 + "…"),
    ("studentVle.csv", 2, "AAA,2013J,74\x1b11,546943,0,1", "id_student", "not an id of at most 64 printable characters", "99\ufffd99"),
    ("studentAssessment.csv", 2, "1752,{0}7,1,0,50", "id_student", "unknown student of that course", "99999999"),
    ("studentAssessment.csv", 2, "1760," + IDS[1] + ",1,0,50", "id_student", "unknown student of that course", "9999999"),
    ("studentAssessment.csv", 2, "1751,{0},1,0,50", "id_assessment", "unknown assessment", "9999"),
    ("studentAssessment.csv", 2, "9999,{0},1,0,50", "id_assessment", "unknown assessment", "9999"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,0,100.01", "score", "outside 0 to 100", "999.99"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,0,-0.5", "score", "outside 0 to 100", "-9.9"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,0,78;5", "score", "text in a number", "99;9"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ',1,0,"78,5"', "score", "text in a number", "99,9"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,0,inf", "score", "number that is not finite", "aaa"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,0,1e309", "score", "number that is not finite", "9a999"),
    ("studentAssessment.csv", 2, "1760," + IDS[0] + ",1,true,50", "is_banked", "not one of 0, 1", "aaaa"),
    ("studentAssessment.csv", 3, "1752,{0},18,0,78", "id_assessment, id_student", "repeated record", "9999 9999999"),
    ("studentAssessment.csv", 3, "1752,{0},18,0,78.0", "id_assessment, id_student", "repeated record", "9999 9999999"),
    ("studentAssessment.csv", 3, "1752,{0},18,0,79", "id_assessment, id_student", "repeated key", "9999 9999999"),
    ("studentInfo.csv", 3, "AAA,2013J,743,M,x,x,x,x,0,1,maybe,Pass", "disability", "not one of Y, N", "aaaaa"),
    ("studentInfo.csv", 3, "AAA,2013J,743,M,x,x,x,x,0,1,N,Passed", "final_result", "not one of Pass, Fail, Withdrawn, Distinction", "aaaaaa"),
    ("studentInfo.csv", 3, "AAA,2013J,743,M,x,x,x,x,-1,1,N,Pass", "num_of_prev_attempts", "below 0", "-9"),
    ("studentInfo.csv", 3, "AAA,2013J,743,M," + "x" * 1001 + ",x,x,x,0,1,N,Pass", "region", "text longer than 1000 characters", "a" * 39 + "…"),
    ("studentInfo.csv", 3, "CCC,2013J,743,M,x,x,x,x,0,1,N,Pass", "code_module, code_presentation", "unknown course", "aaa 9999a"),
    ("studentInfo.csv", 3, "AAA,2013J,{0},F,x,x,x,x,0,1,N,Pass", "code_module, code_presentation, id_student", "repeated key", "aaa 9999a 9999999"),
    ("studentRegistration.csv", 2, "AAA,2013J,74999,1,2", "id_student", "unknown student of that course", "99999"),
    ("studentRegistration.csv", 2, "AAA,2013J,{0},-159,?", "code_module, code_presentation, id_student", "repeated record", "aaa 9999a 9999999"),
    ("assessments.csv", 2, "BBB,2013B,1760,Quiz,?,100", "assessment_type", "not one of TMA, CMA, Exam", "aaaa"),
    ("assessments.csv", 2, "BBB,2013B,1752,Exam,?,100", "id_assessment", "repeated key", "9999"),
    ("assessments.csv", 2, "CCC,2013B,1760,Exam,?,100", "code_module, code_presentation", "unknown course", "aaa 9999a"),
    ("vle.csv", 2, "546943,AAA,2013J,quiz,?,?", "id_site", "repeated record", "999999"),
    ("vle.csv", 2, "546944,AAA,2012J,quiz,?,?", "code_module, code_presentation", "unknown course", "aaa 9999a"),
    ("courses.csv", 2, "BBB,2013S,240", "code_presentation", "no start of the presentation", "9999a"),
    ("courses.csv", 2, "BBB,1300B,240", "code_presentation", "no start of the presentation", "9999a"),
    ("courses.csv", 2, "BBB,2013-B,240", "code_presentation", "not a code without a hyphen", "9999-a"),
    ("courses.csv", 2, "BBB,2013B,0", "module_presentation_length", "outside 1 to 2000", "9"),
    ("courses.csv", 2, "AAA,2013J,269", "code_module, code_presentation", "repeated key", "aaa 9999a"),
    ("courses.csv", 2, "AAA,2013J, 268 ", "code_module, code_presentation", "repeated record", "aaa 9999a"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "record", "line", "column", "rule", "masked"), DAMAGE)
def test_a_damaged_record_is_quarantined_alone(
    tmp_path: Path, file: str, record: int, line: str, column: str | None, rule: str, masked: str
) -> None:
    files = _make_files()
    files[file].insert(record, line.replace("{0}", IDS[0]))
    landed = _land(tmp_path, files)
    assert landed.judge(file) == [(record, column, rule)]
    entry = landed.quarantine[file][0]
    assert entry["masked_value"] == masked
    assert entry["remedy"]
    assert not any(one in str(landed.quarantine) for one in IDS)
    assert sum(map(len, landed.quarantine.values())) == 1


@pytest.mark.parametrize("block_bytes", [60, 97, 150, 1 << 20])
def test_numbers_and_verdicts_do_not_depend_on_the_blocks(tmp_path: Path, block_bytes: int) -> None:
    files = _make_files()
    for file, record, line, *_ in DAMAGE[::-1]:
        files[file].insert(record, line.replace("{0}", IDS[0]))
    files["studentVle.csv"][5:5] = ["", "  "]
    whole = _land(tmp_path, files)
    assert sum(map(len, whole.quarantine.values())) >= len(DAMAGE)
    parts = _land(tmp_path, files, block_bytes=block_bytes)
    assert (parts.rows, parts.quarantine) == (whole.rows, whole.quarantine)
    assert sorted(parts.identities) == sorted(whole.identities)


def test_the_first_broken_rule_in_the_files_order_is_named(tmp_path: Path) -> None:
    files = _make_files()
    files["studentVle.csv"].append("ZZZ,2013J,,x,9999,-1")
    assert _land(tmp_path, files).judge("studentVle.csv") == [(5, "id_student", "missing value")]


def test_what_refers_to_a_quarantined_record_is_quarantined_too(tmp_path: Path) -> None:
    files = _make_files()
    files["courses.csv"][1] = "AAA,2013S,268"
    landed = _land(tmp_path, files)
    assert [len(q) for q in landed.quarantine.values()] == [1, 1, 1, 3, 2, 2, 3]
    assert {q["rule"] for q in landed.quarantine["studentVle.csv"]} == {"unknown course"}
    assert [pair[0] for pair in landed.identities] == [IDS[0]]


def test_a_file_of_nothing_but_damage_loads_nothing(tmp_path: Path) -> None:
    files = _make_files()
    files["studentVle.csv"][1:] = ["x", '"', "AAA,2013J"] * 50
    landed = _land(tmp_path, files)
    assert (len(landed.rows["studentVle.csv"]), len(landed.quarantine["studentVle.csv"])) == (0, 150)


def test_a_file_with_a_header_alone_has_no_records(tmp_path: Path) -> None:
    files = _make_files()
    files["studentVle.csv"][1:] = []
    landed = _land(tmp_path, files)
    assert landed.rows["studentVle.csv"] == landed.quarantine["studentVle.csv"] == []


def test_spaces_around_a_value_are_no_part_of_it(tmp_path: Path) -> None:
    files = _make_files()
    files["studentVle.csv"].append(f' AAA,2013J ," {IDS[0]} ",\t546943 , 1,2 ')
    landed = _land(tmp_path, files)
    assert not landed.quarantine["studentVle.csv"]
    assert (
        landed.rows["studentVle.csv"][4]["student_pseudonym"] == landed.rows["studentVle.csv"][0]["student_pseudonym"]
    )


def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path) -> None:
    files = _make_files()
    moved = [line.split(",") for line in files["studentVle.csv"]]
    files["studentVle.csv"] = [",".join([f"extra{i}", *cells[::-1]]) for i, cells in enumerate(moved)]
    there, here = _land(tmp_path, files), _land(tmp_path, _make_files())

    def without_trace(landed: Landed) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "delivery_id"} for row in landed.rows["studentVle.csv"]]

    assert without_trace(there) == without_trace(here)


@pytest.mark.parametrize("line", ["INF\udcfc,2013J,118", "INF,2013J,118,surplus"])
def test_a_file_of_which_no_record_can_be_read_is_quarantined_whole(tmp_path: Path, line: str) -> None:
    files = {**_make_files(), "courses.csv": ["code_module,code_presentation,module_presentation_length", line]}
    landed = _land(tmp_path, files)
    [(row, column, rule)] = landed.judge("courses.csv")
    assert (row, column) == (1, None) and rule in ("not UTF-8", "wrong number of fields")
    assert landed.rows["courses.csv"] == landed.rows["studentInfo.csv"] == []


def test_a_remedy_offers_no_missing_value_where_none_may_be(tmp_path: Path) -> None:
    files = _make_files()
    files["assessments.csv"][2] = "BBB,2013B,1760,Quiz,?,100"
    files["studentInfo.csv"][1] = files["studentInfo.csv"][1].replace(",N,", ",maybe,")
    landed = _land(tmp_path, files)
    remedies = [landed.quarantine[name][0]["remedy"] for name in ("assessments.csv", "studentInfo.csv")]
    assert remedies == ["write one of them", "write one of them, or ? where it is missing"]


def test_a_byte_that_is_not_utf8_counts_in_ignored_columns_too(tmp_path: Path) -> None:
    """Else the verdict on a record would depend on its neighbors in the block."""
    files = _make_files()
    files["vle.csv"] = [line + ("," + "x\udce9" if i == 1 else ",x") for i, line in enumerate(files["vle.csv"])]
    assert _land(tmp_path, files).judge("vle.csv") == [(1, None, "not UTF-8")]


# -- starts, times and the future ----------------------------------------------------------------------


def test_a_start_is_derived_from_the_code() -> None:
    assert presentation_start("2013B") == date(2013, 2, 1)
    assert presentation_start("2013J") == date(2013, 10, 1)
    assert [presentation_start(code) for code in ("2013", "2013b", "013J", "2013JJ", "1813B", "\u0662013B")] == [
        None
    ] * 6


def _make_timed(starts_on: str = "2026-09-21") -> Files:
    files = _make_files()
    files["courses.csv"] = ["code_module,code_presentation,module_presentation_length,presentation_starts_on",
                            f"AAA,2013J,268,{starts_on}", "BBB,2013B,240,"]  # fmt: skip
    files["studentVle.csv"] = [
        files["studentVle.csv"][0] + ",clicked_at",
        f"AAA,2013J,{IDS[0]},546943,3,4,2026-09-24T09:31:07Z",
    ]
    return files


def test_a_delivered_start_and_time_are_kept(tmp_path: Path) -> None:
    files = _make_timed()
    files["studentVle.csv"] += [f"AAA,2013J,{IDS[0]},1,3,4,?", f"AAA,2013J,{IDS[0]},1,3,4,2026-09-25T00:30:00.5+02:00"]
    landed = _land(tmp_path, files, delivered_on=date(2026, 11, 21))
    assert landed.rows["courses.csv"][0]["presentation_starts_on"] == date(2026, 9, 21)
    assert [row["clicked_at"] for row in landed.rows["studentVle.csv"]] == [
        datetime(2026, 9, 24, 9, 31, 7), None, datetime(2026, 9, 24, 22, 30, 0, 500_000)]  # fmt: skip


def test_a_delivered_start_makes_any_code_good(tmp_path: Path) -> None:
    files = {name: [line.replace("2013J", "autumn") for line in lines] for name, lines in _make_timed().items()}
    assert not any(_land(tmp_path, files, delivered_on=date(2026, 11, 21)).quarantine.values())


@pytest.mark.parametrize("day", ["21.09.2026", "2026-02-30", "20260921", "2026-9-1", "0001-01-01"])
def test_a_start_that_is_no_date_is_quarantined(tmp_path: Path, day: str) -> None:
    landed = _land(tmp_path, _make_timed(day), delivered_on=date(2026, 11, 21))
    assert landed.judge("courses.csv") == [(1, "presentation_starts_on", "not a date")]


@pytest.mark.parametrize(
    ("day", "at", "rule", "column"),
    [
        (3, "2026-09-23T00:00:00Z", None, None), (3, "2026-09-25T23:59:59Z", None, None), (3, "  ", None, None),
        (3, "2026-09-22T23:59:59Z", "time more than a day from the record's day", "date"),
        (3, "2026-09-26T00:00:00Z", "time more than a day from the record's day", "date"),
        (3, "2026-09-24T09:31:07", "not a UTC time", "clicked_at"), (3, "2026-09-24", "not a UTC time", "clicked_at"),
        (3, "2026-09-24T25:00:00Z", "not a UTC time", "clicked_at"), (3, "yesterday", "not a UTC time", "clicked_at"),
    ],
)  # fmt: skip
def test_a_time_fits_its_day_or_is_quarantined(
    tmp_path: Path, day: int, at: str, rule: str | None, column: str | None
) -> None:
    files = _make_timed()
    files["studentVle.csv"].append(f"AAA,2013J,{IDS[0]},546943,{day},4,{at}")
    landed = _land(tmp_path, files, delivered_on=date(2026, 11, 21))
    assert landed.judge("studentVle.csv") == ([(2, column, rule)] if rule else [])


def test_the_future_is_quarantined_where_the_start_is_known(tmp_path: Path) -> None:
    files = _make_timed()
    files["studentVle.csv"] += [f"AAA,2013J,{IDS[0]},546943,{day},4,?" for day in (10, 11, 12)]
    files["studentAssessment.csv"][1:] = [f"1752,{one},{day},0,?" for one, day in zip(IDS, (10, 11, 12), strict=True)]
    landed = _land(tmp_path, files, delivered_on=date(2026, 10, 1))
    assert landed.judge("studentVle.csv") == [(4, "date", "after the day of delivery")]
    assert landed.judge("studentAssessment.csv") == [(3, "date_submitted", "after the day of delivery")]


def test_an_approximate_start_judges_no_future(tmp_path: Path) -> None:
    files = _make_files()
    files["studentVle.csv"].append(f"AAA,2013J,{IDS[0]},546943,200,1")
    assert not any(_land(tmp_path, files, delivered_on=date(2013, 10, 2)).quarantine.values())


# -- increments ----------------------------------------------------------------------------------------

INCREMENT = '{"delivered_on": "2014-01-01", "scope": "increment"}'
LATER = '{"delivered_on": "2027-01-01", "scope": "increment"}'


def _increment(tmp_path: Path, files: Files, *names: str, manifest: str = INCREMENT, **knobs: Any) -> Landed:
    return _land(tmp_path, {**{name: files[name] for name in names}, "delivery.json": [manifest]}, **knobs)


@pytest.mark.parametrize("names", [tuple(_make_files()), *((name,) for name in _make_files() if name != "courses.csv")])
def test_an_increment_may_refer_to_what_other_deliveries_hold(tmp_path: Path, names: tuple[str, ...]) -> None:
    landed = _increment(tmp_path, _make_files(), *names)
    assert not any(landed.quarantine.values())
    assert {n: [r["file_row"] for r in rows] for n, rows in landed.rows.items()} == {
        n: list(range(1, len(lines))) for n, lines in _make_files().items() if n in names
    }
    seen = {r["student_pseudonym"] for rows in landed.rows.values() for r in rows if "student_pseudonym" in r}
    assert {pseudonym for _, pseudonym in landed.identities} == seen


REFERENCE_RULES = ("unknown course", "unknown assessment", "unknown student of that course")


@pytest.mark.parametrize(("file", "record", "line", "column", "rule"), {one[4]: one[:5] for one in DAMAGE}.values())
def test_an_increment_is_judged_by_every_other_rule(
    tmp_path: Path, file: str, record: int, line: str, column: str | None, rule: str
) -> None:
    files = _make_files()
    files[file][record] = line.replace("{0}", IDS[0])
    judged = [] if rule in REFERENCE_RULES else [(record, column, rule)]
    assert _increment(tmp_path, files, file).judge(file) == judged


# two rows that differ in what this delivery does not hold, the first of them again, and its key with another value
REPEATED = {
    "studentInfo.csv": (
        "DDD,2013J,1,M,x,x,x,x,0,1,N,Pass", "EEE,2013J,1,M,x,x,x,x,0,1,N,Pass", "DDD,2013J,1,F,x,x,x,x,0,1,N,Pass",
    ),
    "studentRegistration.csv": ("DDD,2013J,1,-5,?", "DDD,2014J,1,-5,?", "DDD,2013J,1,-6,?"),
    "studentAssessment.csv": ("8001,1,5,0,50", "8002,1,5,0,50", "8001,1,5,0,51"),
}  # fmt: skip


@pytest.mark.parametrize("block_bytes", [15, 1 << 20])
@pytest.mark.parametrize("file", REPEATED)
def test_keys_of_unknown_things_are_told_apart(tmp_path: Path, file: str, block_bytes: int) -> None:
    one, other, again = REPEATED[file]
    files = {file: [_make_files()[file][0], one, other, one, again]}
    landed = _increment(tmp_path, files, file, block_bytes=block_bytes)
    assert [(row, rule) for row, _, rule in landed.judge(file)] == [(3, "repeated record"), (4, "repeated key")]


def test_an_increment_without_a_course_judges_none_of_its_days(tmp_path: Path) -> None:
    """They count from a start that only another delivery tells."""
    files = _make_timed("2026-09-21")
    files["studentVle.csv"] += [f"AAA,2013J,{IDS[0]},1,3,4,2026-09-29T00:00:00Z", f"AAA,2013J,{IDS[0]},1,900,4,?"]
    names = ("assessments.csv", "studentInfo.csv", "studentVle.csv")
    assert not any(_increment(tmp_path, files, *names, manifest=LATER).quarantine.values())
    assert _increment(tmp_path, files, "courses.csv", *names, manifest=LATER).judge("studentVle.csv") == [
        (2, "date", "time more than a day from the record's day"), (3, "date", "after the day of delivery")]  # fmt: skip


def test_a_full_delivery_stands_by_itself(tmp_path: Path) -> None:
    files = _make_files()
    files["studentInfo.csv"].pop(1)
    assert len(_land(tmp_path, files).quarantine["studentVle.csv"]) == 1


# -- guards of the reader ------------------------------------------------------------------------------


def _reader(tmp_path: Path) -> Landing:
    return Landing(_land(tmp_path, _make_files()).delivery, KEY)


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    reader = _reader(tmp_path)
    with pytest.raises(ValueError, match="out of order"):
        list(reader.read(reader.delivery.files[1]))


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"CCC,2013J,1\r\n")


@pytest.mark.parametrize(
    "change", [_grow, lambda p: p.write_bytes(p.read_bytes().replace(b"268", b"269")), Path.unlink]
)
def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    reader = _reader(tmp_path)
    change(tmp_path / "extract" / "courses.csv")
    with pytest.raises(DeliveryRefused, match=r"^courses\.csv"):
        list(reader.read(reader.delivery.files[0]))
    assert not reader.tallies


def test_a_row_that_gets_lost_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = landing._build_quarantine
    monkeypatch.setattr(landing, "_build_quarantine", lambda *args: build(*args).slice(1))
    files = _make_files()
    files["courses.csv"].append("x")
    with pytest.raises(CountMismatch, match="3 records landed, but 2 were loaded and 0 quarantined"):
        _land(tmp_path, files)


def test_a_batch_shows_nobody(tmp_path: Path) -> None:
    reader = _reader(tmp_path)
    for file in reader.delivery.files:
        for batch in reader.read(file):
            assert not any(one in f"{batch!r}{batch}" for one in IDS)


# -- the real dataset ----------------------------------------------------------------------------------

OULAD_COUNTS = {"courses.csv": 22, "assessments.csv": 206, "vle.csv": 6364, "studentInfo.csv": 29991,
                "studentRegistration.csv": 29991, "studentAssessment.csv": 158021, "studentVle.csv": 584248}  # fmt: skip


@pytest.fixture(scope="module")
def oulad() -> Path:
    root = Path(os.environ.get("IOM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (root / "oulad").is_dir():
        pytest.skip(f"the OULAD files are not at {root / 'oulad'}; set IOM_TEST_DATA to the folder that holds oulad/")
    return root / "oulad"


def _count(path: Path) -> Iterator[tuple[str, Tally]]:
    reader = Landing(SOURCES["oulad"].open_delivery(path), KEY)
    for file in reader.delivery.files:
        for _ in reader.read(file):
            pass
        yield file.name, reader.tallies[file.name]


def test_the_real_dataset_is_loaded_whole_from_folder_and_zip(oulad: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "oulad.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in oulad.glob("*.csv"):
            archive.write(path, f"anonymisedData/{path.name}")
    ids = set()
    for path in (oulad, tmp_path / "oulad.zip"):
        assert dict(_count(path)) == {name: Tally(count, count, 0) for name, count in OULAD_COUNTS.items()}
        ids.add(SOURCES["oulad"].open_delivery(path).sha256)
    assert len(ids) == 1
