"""Deliveries: what is found in a folder or zip, which day it is of, and what is refused whole."""

import json
import os
import zipfile
from datetime import date
from pathlib import Path

import pytest

from iom_platform.extract import SOURCES
from iom_platform.extract.source import Delivery, DeliveryRefused

FILES = {
    "courses.csv": b"code_module,code_presentation,module_presentation_length\nAAA,2013J,268\n",
    "assessments.csv": b"code_module,code_presentation,id_assessment,assessment_type,date,weight\nAAA,2013J,1752,TMA,19,10\n",
    "vle.csv": b"id_site,code_module,code_presentation,activity_type,week_from,week_to\n546943,AAA,2013J,quiz,?,?\n",
    "studentInfo.csv": (
        b"code_module,code_presentation,id_student,gender,region,highest_education,imd_band,age_band,"
        b"num_of_prev_attempts,studied_credits,disability,final_result\n"
        b"AAA,2013J,11391,M,Scotland,HE Qualification,90-100%,55<=,0,240,N,Pass\n"
    ),
    "studentRegistration.csv": b"code_module,code_presentation,id_student,date_registration,date_unregistration\nAAA,2013J,11391,-159,?\n",
    "studentAssessment.csv": b"id_assessment,id_student,date_submitted,is_banked,score\n1752,11391,18,0,78\n",
    "studentVle.csv": b"code_module,code_presentation,id_student,id_site,date,sum_click\nAAA,2013J,11391,546943,-10,4\n",
}
NAMES = tuple(FILES)


def _folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _open(path: Path, source: str = "oulad", delivered_on: date | None = None) -> Delivery:
    return SOURCES[source].open_delivery(path, delivered_on=delivered_on)


def _refuse(path: Path, source: str = "oulad", delivered_on: date | None = None) -> str:
    with pytest.raises(DeliveryRefused) as caught:
        _open(path, source, delivered_on)
    assert caught.value.__cause__ is None
    text = str(caught.value)
    assert "\n" not in text and "11391" not in text
    return text


def test_folder_zip_nesting_case_and_neighbors_make_one_delivery(tmp_path: Path) -> None:
    shouted = {name.upper(): content for name, content in FILES.items()}
    beside = {**FILES, "notes.txt": b"x", ".DS_Store": b"x"}
    opened = [
        _open(_folder(tmp_path / "plain", FILES)),
        _open(_folder(tmp_path / "shouted", shouted)),
        _open(_folder(tmp_path / "beside", beside)),
        _open(_folder(tmp_path / "nested", {f"inner/{n}": c for n, c in FILES.items()})),
        _open(_zip(tmp_path / "a.zip", FILES)),
        _open(_zip(tmp_path / "b.ZIP", {f"inner/{n}": c for n, c in FILES.items()} | {"__MACOSX/._courses.csv": b"x"})),
        _open(_zip(tmp_path / "c.zip", {f"inner\\{n}": c for n, c in FILES.items()})),
        _open(_zip(tmp_path / "d.zip", {**FILES, "delivery.json": b'{"delivered_on": "2020-01-02"}'})),
    ]
    assert len({d.sha256 for d in opened}) == 1
    assert {d.delivery_id for d in opened} == {opened[0].sha256[:16]}
    assert all([f.name for f in d.files] == list(NAMES) and not d.missing for d in opened)
    assert any("notes.txt" in notice for notice in opened[2].notices)
    assert not any("DS_Store" in notice for notice in opened[2].notices)


def test_one_byte_more_is_another_delivery(tmp_path: Path) -> None:
    changed = {**FILES, "vle.csv": FILES["vle.csv"] + b"\n"}
    assert _open(_folder(tmp_path / "a", FILES)).sha256 != _open(_folder(tmp_path / "b", changed)).sha256


def test_optional_files_may_be_missing_and_are_named(tmp_path: Path) -> None:
    files = {n: FILES[n] for n in ("courses.csv", "studentInfo.csv", "studentRegistration.csv")}
    assert _open(_folder(tmp_path / "a", files)).missing == (
        "assessments.csv",
        "vle.csv",
        "studentAssessment.csv",
        "studentVle.csv",
    )


def test_an_increment_may_hold_any_of_the_files(tmp_path: Path) -> None:
    manifest = b'{"delivered_on": "2020-01-02", "scope": "increment"}'
    delivery = _open(_folder(tmp_path / "a", {"studentVle.csv": FILES["studentVle.csv"], "delivery.json": manifest}))
    assert (delivery.scope, delivery.delivered_on, [f.name for f in delivery.files]) == (
        "increment", date(2020, 1, 2), ["studentVle.csv"])  # fmt: skip


def test_the_day_comes_from_manifest_then_name_then_argument_then_the_source(tmp_path: Path) -> None:
    day = date(2026, 3, 4)
    manifest = {**FILES, "delivery.json": b'{"delivered_on": "2026-03-04"}'}
    assert _open(_folder(tmp_path / "x-2025-01-01", manifest)).delivered_on == day
    assert _open(_folder(tmp_path / "extract 2026-03-04", FILES)).delivered_on == day
    assert _open(_zip(tmp_path / "lms_2026-03-04.zip", FILES), "synthetic").delivered_on == day
    assert _open(_folder(tmp_path / "plain", FILES), delivered_on=day).delivered_on == day
    taken = _open(tmp_path / "plain")
    assert taken.delivered_on == date(2017, 11, 28)
    assert any("2017-11-28" in notice for notice in taken.notices)
    (tmp_path / "latest").symlink_to(tmp_path / "extract 2026-03-04")
    assert _open(tmp_path / "latest").delivered_on == day


def test_a_day_that_is_not_declared_or_contradicted_is_refused(tmp_path: Path) -> None:
    assert "delivery.json" in _refuse(_folder(tmp_path / "plain", FILES), "synthetic")
    assert "leave one out" in _refuse(_folder(tmp_path / "2026-03-04", FILES), delivered_on=date(2026, 3, 5))
    assert "does not exist" in _refuse(_folder(tmp_path / "2026-02-30", FILES))
    assert "two dates" in _refuse(_folder(tmp_path / "2026-02-01 to 2026-02-02", FILES))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"{", "no JSON object"), (b"[]", "no JSON object"), (b"\xff\xfe{}", "no JSON object"),
        (b'{"scope": "partial"}', "scope"), (b'{"scope": ["full"]}', "scope"), (b'{"delivered_on": "21.11.2026"}', "no date"),
        (b'{"delivered_on": "2026-02-30"}', "no date"), (b'{"delivered_on": 20261121}', "no date"),
        (b'{"delivered_on": "2026-W01-1"}', "no date"), (b"[" * 60_000, "no JSON object"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_declare_is_refused(tmp_path: Path, manifest: bytes, words: str) -> None:
    assert words in _refuse(_folder(tmp_path / "a", {**FILES, "delivery.json": manifest}))


@pytest.mark.parametrize("name", ["courses.csv", "studentInfo.csv", "studentRegistration.csv"])
def test_a_missing_required_file_is_refused(tmp_path: Path, name: str) -> None:
    assert f"{name} is missing" in _refuse(_folder(tmp_path / "a", {n: c for n, c in FILES.items() if n != name}))


def test_all_missing_required_files_are_named_at_once(tmp_path: Path) -> None:
    files = {n: c for n, c in FILES.items() if n not in ("courses.csv", "studentInfo.csv")}
    said = _refuse(_folder(tmp_path / "a", files))
    assert said.startswith("courses.csv, studentInfo.csv are missing; a full delivery needs them")


def test_submissions_without_assessments_are_refused(tmp_path: Path) -> None:
    text = _refuse(_folder(tmp_path / "a", {n: c for n, c in FILES.items() if n != "assessments.csv"}))
    assert "assessments.csv is missing" in text and "studentAssessment.csv" in text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"code_module,code_presentation,length", "module_presentation_length is missing; deliver it"),
        (b"code_modul,code_presentation,module_presentation_length", "code_module is missing; the nearest is code_modul"),
        (b"code_module,code_presentation", "is missing"),
        (b"code_module,code_module,code_presentation,module_presentation_length", "stands twice"),
        (b"code_module,Code_Module ,code_presentation,module_presentation_length", "stands twice"),
        (b"AAA,2013J,268", "no header line"),
        (b"11391;2013J;268", "no header line"),
        (b'"code_module,code_presentation', "quotes do not close"),
        (b"", "is empty"), (b"\n\r\n  \n", "is empty"), (b"\xef\xbb\xbf", "is empty"),
        ("code_module".encode("utf-16"), "UTF-16"), (b"PK\x03\x04abc", "zip archive or a spreadsheet"),
        (b"\x1f\x8b\x08", "gzip"), (b"\x7fELF\0\0\1", "no text file"), (b"code_module,\xe9", "not UTF-8"),
        (b"code_module,code_presentation,module_presentation_length\rAAA,2013J,268\r", "carriage return"),
        (b"x" * 70_000, "no line end"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_files_is_refused(tmp_path: Path, header: bytes, words: str) -> None:
    text = _refuse(_folder(tmp_path / "a", {**FILES, "courses.csv": header + (b"\n" if header else b"")}))
    assert words in text and text.startswith("courses.csv")


def test_a_file_without_header_shows_none_of_its_values(tmp_path: Path) -> None:
    body = FILES["studentInfo.csv"].split(b"\n")[1] + b"\n"
    text = _refuse(_folder(tmp_path / "a", {**FILES, "studentInfo.csv": body.replace(b"AAA", b"gender")}))
    assert not any(word in text for word in ("11391", "Scotland", "240"))


def test_other_columns_and_spellings_are_accepted_aloud(tmp_path: Path) -> None:
    courses = b"\xef\xbb\xbfnickname, CODE_MODULE ,code_presentation,module_presentation_length,\nx,AAA,2013J,268,\n"
    notices = _open(_folder(tmp_path / "a", {**FILES, "courses.csv": courses})).notices
    assert "courses.csv: column nickname is unknown and was ignored" in notices
    assert "courses.csv: column without a name is unknown and was ignored" in notices
    assert "courses.csv: column code_module is written otherwise in the header and was accepted" in notices


def test_what_is_no_folder_or_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x")
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert "nothing is at" in _refuse(tmp_path / "none")
    assert "neither a folder nor a .zip" in _refuse(tmp_path / "a.csv")
    assert "no readable zip" in _refuse(tmp_path / "empty.zip")
    assert "none of the files" in _refuse(tmp_path / "empty")
    assert "none of the files" in _refuse(_zip(tmp_path / "other.zip", {"x.txt": b""}))


def test_a_folder_or_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    for name, make in (("a", lambda p: p.mkdir()), ("b", os.mkfifo)):
        folder = _folder(tmp_path / name, {n: c for n, c in FILES.items() if n != "vle.csv"})
        make(folder / "vle.csv")
        assert "vle.csv is no regular file" in _refuse(folder)
    archive = tmp_path / "c.zip"
    _zip(archive, {**{n: c for n, c in FILES.items() if n != "vle.csv"}, "vle.csv/": b""})
    assert "vle.csv is no regular file" in _refuse(archive)


def test_two_files_of_a_name_or_files_in_two_folders_are_refused(tmp_path: Path) -> None:
    assert "twice" in _refuse(_folder(tmp_path / "a", {**FILES, "COURSES.csv": FILES["courses.csv"]}))
    assert "twice" in _refuse(_zip(tmp_path / "b.zip", {**FILES, "old/courses.csv": FILES["courses.csv"]}))
    scattered = {("x/" if i else "y/") + n: c for i, (n, c) in enumerate(FILES.items())}
    assert "several folders" in _refuse(_zip(tmp_path / "c.zip", scattered))
    assert "delivery.json is there twice" in _refuse(
        _zip(tmp_path / "d.zip", {**FILES, "delivery.json": b"{}", "x/delivery.json": b"{}"})
    )


@pytest.mark.parametrize(
    "name", ["../courses.csv", "/courses.csv", "x/../../courses.csv", "..\\courses.csv", "C:\\courses.csv"]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    files = {n: c for n, c in FILES.items() if n != "courses.csv"} | {name: FILES["courses.csv"]}
    assert "leads out" in _refuse(_zip(tmp_path / "a.zip", files))


def test_a_cut_or_damaged_zip_is_refused(tmp_path: Path) -> None:
    rows = b"".join(b"AAA,2013J,11391,%d,1,%d\n" % (i * 7919, i % 13) for i in range(5000))
    whole = _zip(tmp_path / "whole.zip", {**FILES, "studentVle.csv": FILES["studentVle.csv"] + rows}).read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.zip").write_bytes(whole[: int(len(whole) * share)])
        assert "no readable zip" in _refuse(tmp_path / "cut.zip")
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        at = archive.getinfo("studentVle.csv").header_offset + 200
    for replacement in (b"\0" * 50, bytes([whole[at] ^ 1])):
        (tmp_path / "bad.zip").write_bytes(whole[:at] + replacement + whole[at + len(replacement) :])
        assert _refuse(tmp_path / "bad.zip").startswith("studentVle.csv cannot be read to its end")


def test_an_encrypted_zip_or_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    data = bytearray(_zip(tmp_path / "a.zip", FILES).read_bytes())
    encrypted, packed = data[:], data[:]
    for at in [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]:
        encrypted[at + 8] |= 1
        packed[at + 10] = 98
    (tmp_path / "b.zip").write_bytes(encrypted)
    assert "encrypted" in _refuse(tmp_path / "b.zip")
    (tmp_path / "c.zip").write_bytes(packed)
    assert "compression is not supported" in _refuse(tmp_path / "c.zip")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path / "a", FILES)
    opened = Path.open

    def deny(path: Path, *args: str) -> object:
        if path.name == "vle.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args)

    monkeypatch.setattr(Path, "open", deny)
    assert _refuse(folder) == "vle.csv cannot be opened (permission denied); deliver it again"


def test_nothing_is_unpacked_to_disk(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {**FILES, "delivery.json": json.dumps({"delivered_on": "2020-01-02"}).encode()})
    for file in _open(path).files:
        with file.open() as stream:
            assert stream.read() == FILES[file.name]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
