"""Lines: random damage against Python's csv module, and record numbers that stay right whatever the block size."""

import csv
import io
import random

import pytest

from iom_platform.extract import lines
from iom_platform.extract.header import Header, parse_header
from iom_platform.extract.lines import Malformed, count_records, parse_block, read_blocks
from iom_platform.extract.oulad import SHAPES

VLE = next(shape for shape in SHAPES if shape.name == "vle.csv")
HEADER_LINE = b"id_site,code_module,code_presentation,activity_type,week_from,week_to\n"


def _read(body: bytes, block_bytes: int) -> tuple[dict[int, list[str]], dict[int, str], int]:
    """Readable records and rules of the others by record number, and the count of landed records."""
    data = HEADER_LINE + body
    header: Header = parse_header(data, VLE)
    readable: dict[int, list[str]] = {}
    broken: dict[int, str] = {}
    landed = 0
    for block in read_blocks(io.BytesIO(data), VLE.name, header, block_bytes):
        parsed = parse_block(block, VLE, header)
        columns = [parsed.table.column(f.name).to_pylist() for f in VLE.fields]
        for offset, *values in zip(parsed.offsets.tolist(), *columns, strict=True):
            readable[landed + offset + 1] = values
        for bad in parsed.malformed:
            assert isinstance(bad, Malformed)
            broken[landed + bad.offset + 1] = bad.problem.rule
        landed += parsed.landed
    return readable, broken, landed


def _expect(body: bytes) -> tuple[dict[int, list[str]], int]:
    """The oracle: csv.reader on each line that is not blank, with quotes allowed only around and doubled in a value."""
    readable: dict[int, list[str]] = {}
    number = 0
    for raw in body.split(b"\n"):
        if not raw.strip(b" \t\r\v\f"):
            continue
        number += 1
        try:
            line = raw.rstrip(b"\r").decode()
            fields = next(csv.reader([line], strict=True))
        except (UnicodeDecodeError, csv.Error, StopIteration):
            continue
        # written back either way, a record with a quote out of place does not give its line
        plain = {f'"{f.replace(chr(34), chr(34) * 2)}"' for f in fields} | {
            f for f in fields if '"' not in f and "," not in f
        }
        if len(fields) == 6 and "\0" not in line and "\r" not in line and all(p in plain for p in _pieces(line)):
            readable[number] = fields
    return readable, number


def _pieces(line: str) -> list[str]:
    """The line cut at commas outside quotes."""
    pieces, depth, start = [], False, 0
    for i, character in enumerate(line):
        if character == '"':
            depth = not depth
        elif character == "," and not depth:
            pieces.append(line[start:i])
            start = i + 1
    return [*pieces, line[start:]]


def _write(rng: random.Random, rows: int) -> bytes:
    out = io.StringIO()
    style = rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(out, quoting=style, lineterminator=rng.choice(["\r\n", "\n"]))
    texts = ["forumng", "quiz, short", 'the "best" one', "é", "?", "", "a" * 30]
    for i in range(rows):
        writer.writerow([i, "AAA", "2013J", rng.choice(texts), "?", rng.randrange(40)])
    return out.getvalue().encode()


def _damage(rng: random.Random, body: bytes) -> bytes:
    bits = [b'"', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\n\n", b"  \n", b'""', b'","', b"\xc3", b"x", b""]
    for _ in range(rng.randrange(0, 12)):
        at = rng.randrange(len(body) + 1)
        body = body[:at] + rng.choice(bits) + body[at + rng.randrange(0, 3) :]
    return body


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_read_as_pythons_csv_reads_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_STRETCH_BYTES", 100)
    rng = random.Random(seed)
    body = _damage(rng, _write(rng, 40))
    readable, count = _expect(body)
    for block_bytes in (37, 300, 1 << 20):
        found, broken, landed = _read(body, block_bytes)
        assert landed == count
        assert found == readable
        assert broken.keys() | found.keys() == set(range(1, count + 1))
        assert not broken.keys() & found.keys()


def test_undamaged_files_have_no_broken_record() -> None:
    for seed in range(20):
        body = _write(random.Random(seed), 30)
        found, broken, landed = _read(body, 200)
        assert (len(found), broken, landed) == (30, {}, 30)
        assert [values[0] for values in found.values()] == [str(i) for i in range(30)]


GOOD = b"1,AAA,2013J,quiz,?,?\n"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"1,AAA,2013J,quiz,?\n", "wrong number of fields"),
        (b"1,AAA,2013J,quiz,?,?,?\n", "wrong number of fields"),
        (b'"1,AAA,2013J,quiz,?,?\n', "quote that does not close"),
        (b'"1","AAA","2013J","quiz","?","?\n', "quote that does not close"),
        (b'1,AAA,2013J,q"ui"z,?,?\n', "quote inside a value"),
        (b'1,AAA,2013J,"qu"iz,?,?\n', "quote inside a value"),
        (b"1,AAA,2013J,qu\0iz,?,?\n", "NUL byte"),
        (b"1,AAA,2013J,qu\xe9z,?,?\n", "not UTF-8"),
        (b"1,AAA,2013J,qu\riz,?,?\n", "carriage return inside a record"),
        (b"1,AAA,2013J,quiz,?,?\r2,AAA,2013J,quiz,?,?\n", "carriage return inside a record"),
        (b'1,AAA,2013J,"' + b"x" * (1 << 20) + b'",?,?\n' + b"", "record longer than 1 MiB"),
        (b"1,AAA,2013J," + b"x" * (3 << 20) + b",?,?\n", "record longer than 1 MiB"),
    ],
)  # fmt: skip
def test_one_broken_line_costs_one_record(line: bytes, rule: str) -> None:
    found, broken, landed = _read(GOOD * 3 + b"\r\n" + line + GOOD * 2, 1 << 19)
    assert broken == {4: rule}
    assert sorted(found) == [1, 2, 3, 5, 6]
    assert landed == 6


def test_a_line_that_is_cut_for_its_length_is_never_loaded_in_part() -> None:
    """Without a mark, the first MiB of this line would be a good record."""
    start = b"1,AAA,2013J,quiz,?,1"
    body = start + b" " * ((1 << 20) - len(start)) + b" " * 100 + b",7\n" + GOOD
    found, broken, landed = _read(body, 1 << 16)
    assert (sorted(found), broken, landed) == ([2], {1: "record longer than 1 MiB"}, 2)


def test_a_stray_quote_and_its_twin_far_below_swallow_nothing() -> None:
    body = GOOD * 10 + b'1,AAA,2013J,"quiz,?,?\n' + GOOD * 1000 + b'1,AAA,2013J,quiz",?,?\n' + GOOD
    found, broken, landed = _read(body, 1 << 20)
    assert landed == 1013
    assert broken == {11: "quote that does not close", 1012: "quote that does not close"}
    assert len(found) == 1011


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n", b"\r\n\r\n", b"\n   \n\t\n"])
def test_blank_lines_are_no_records(end: bytes) -> None:
    body = b"\n\r\n" + GOOD + b" \n\n" + GOOD.rstrip(b"\n") + end
    for block_bytes in (5, 1 << 20):
        found, broken, landed = _read(body, block_bytes)
        assert (sorted(found), broken, landed) == ([1, 2], {}, 2)


def test_counting_is_right_for_lines_that_begin_with_a_blank() -> None:
    assert count_records(b" a,b\n\n\t\nc,d\n") == 2


def test_a_parser_that_loses_a_line_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = lines._parse
    monkeypatch.setattr(lines, "_parse_well_formed", lambda *_: None)
    monkeypatch.setattr(lines, "_parse", lambda *args: parse(*args).slice(1))
    with pytest.raises(RuntimeError, match="3 well-formed lines were parsed as 2"):
        _read(GOOD * 3, 1 << 20)
