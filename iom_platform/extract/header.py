"""The header of a delivered CSV file: which column stands where, or why the file is refused whole.

Records do not belong here (`lines.py` reads them).
"""

import csv
import difflib
from dataclasses import dataclass

from iom_platform.extract.source import DeliveryRefused, FileShape

HEAD_BYTES = 65_536
_BOM = b"\xef\xbb\xbf"
_OTHER_KINDS = (
    (b"\xff\xfe", "is encoded as UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "is encoded as UTF-16; save it as UTF-8"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet; save it as CSV"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it"),
    (b"PAR1", "is a Parquet file; save it as CSV"),
)


@dataclass(frozen=True)
class Header:
    """`positions`: field name -> column number from 0; `body_offset`: bytes before the first line after the header."""

    column_count: int
    positions: dict[str, int]
    body_offset: int
    notices: tuple[str, ...]


def parse_header(head: bytes, shape: FileShape) -> Header:
    """The header in `head`, the file's first HEAD_BYTES bytes (all of them where the file is shorter).

    Names are compared without case and surrounding spaces, which is said in a notice; raises DeliveryRefused.
    """
    line, offset = _first_line(head, shape.name)
    names = _split(line, shape.name)
    plain = [name.strip().casefold() for name in names]
    known = {field.name.casefold(): field.name for field in shape.fields}
    for name in plain:
        if name and plain.count(name) > 1:
            raise DeliveryRefused(f"{shape.name}: column {_show(name)} stands twice in the header; deliver it once")
    found = {known[name]: i for i, name in enumerate(plain) if name in known}
    unknown = [name for name in plain if name not in known]
    _refuse_missing(
        shape, [f.name for f in shape.fields if not f.is_optional and f.name not in found], unknown, not found
    )
    notices = [f"{shape.name}: column {_show(name) or 'without a name'} is unknown and was ignored" for name in unknown]
    notices += [f"{shape.name}: column {name} is written otherwise in the header and was accepted"
                for name, i in found.items() if names[i] != name]  # fmt: skip
    return Header(len(names), found, offset, tuple(notices))


def _first_line(head: bytes, file: str) -> tuple[str, int]:
    for magic, words in _OTHER_KINDS:
        if head.startswith(magic):
            raise DeliveryRefused(f"{file} {words}")
    offset = len(_BOM) if head.startswith(_BOM) else 0
    while True:
        end = head.find(b"\n", offset)
        raw = head[offset:] if end < 0 else head[offset:end]
        if raw.strip() or end < 0:
            break
        offset = end + 1
    if not raw.strip():
        raise DeliveryRefused(f"{file} is empty; deliver at least its header line")
    if b"\0" in raw:
        raise DeliveryRefused(f"{file} is no text file; deliver it as CSV in UTF-8")
    if b"\r" in raw.rstrip(b"\r"):
        raise DeliveryRefused(f"{file} ends its lines in a carriage return alone; write CRLF or LF")
    if end < 0 and len(head) >= HEAD_BYTES:
        raise DeliveryRefused(
            f"{file} has no line end in its first {HEAD_BYTES} bytes; deliver it as CSV, a record per line"
        )
    try:
        return raw.rstrip(b"\r").decode(), len(head) if end < 0 else end + 1
    except UnicodeDecodeError:
        raise DeliveryRefused(f"{file} has a header that is not UTF-8; save the file as UTF-8") from None


def _split(line: str, file: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration):
        raise DeliveryRefused(f"{file} has a header whose quotes do not close; mend the first line") from None


def _refuse_missing(shape: FileShape, missing: list[str], unknown: list[str], is_headless: bool) -> None:
    if not missing:
        return
    if is_headless:
        names = ",".join(f.name for f in shape.fields if not f.is_optional)
        raise DeliveryRefused(
            f"{shape.name} begins with no header line that is known, delimited by commas; write first: {names}"
        )
    # a name far from the missing one may be a value of a file without header, so it is not shown
    near = difflib.get_close_matches(missing[0].casefold(), unknown, n=1, cutoff=0.6)
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    remedy = f"the nearest is {_show(near[0])}: rename it" if near else "deliver it"
    raise DeliveryRefused(f"{shape.name}: column {missing[0]}{others} is missing; {remedy}")


def _show(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"
