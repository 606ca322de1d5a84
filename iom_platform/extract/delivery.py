"""Opens a folder or a .zip of delivered files: finds them, hashes them, and learns their day and scope.

Nothing is unpacked to disk and no copy is kept. What stands in a file beyond its header does not belong here.

A delivery is identified by the digests of its data files alone; `delivery.json` ({"delivered_on": "2026-11-21",
"scope": "full"}) only declares. The day of delivery is, in this order: delivery.json, a date in the name of the
folder or zip, the caller's argument, the source's default. An argument that contradicts the delivery is refused.
"""

import hashlib
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from iom_platform.extract.header import HEAD_BYTES, parse_header
from iom_platform.extract.source import DeliveredFile, Delivery, DeliveryRefused, FileShape, Scope

MANIFEST = "delivery.json"
_BESIDE = (MANIFEST, "readme.md")  # what may lie beside the data without a notice
_MANIFEST_BYTES = 65_536
_READ_BYTES = 1 << 20
_DATE = re.compile(r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)", re.ASCII)
_BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    """A file found in a folder or zip: `folder` and `name` as delivered."""

    folder: str
    name: str
    is_file: bool
    open: Callable[[], AbstractContextManager[BinaryIO]]


def open_path(
    path: Path, *, source: str, shapes: tuple[FileShape, ...], delivered_on: date | None, default_on: date | None
) -> Delivery:
    """The delivery at `path`; raises DeliveryRefused before a record is read."""
    path = Path(path)
    members = list(_members(path))
    by_name = {shape.name.casefold(): shape for shape in shapes}
    found = _unique({m.name.casefold() for m in members} & by_name.keys(), members)
    declared_on, scope = _read_manifest(members)
    _check_complete(scope, shapes, set(found), path)
    notices: list[str] = []
    day = _choose_day(path, source, notices, declared=declared_on, argument=delivered_on, default=default_on)
    files = []
    for shape in shapes:
        member = found.get(shape.name.casefold())
        if member is not None:
            digest, head = _hash(member, shape.name)
            notices += parse_header(head, shape).notices
            files.append(DeliveredFile(shape.name, shape, digest, member.open))
    extra = sorted(m.name for m in members if m.is_file and m.name.casefold() not in (*by_name, *_BESIDE))
    if extra:
        more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
        notices.append(f"ignored files: {', '.join(extra[:5])}{more}")
    missing = tuple(s.name for s in shapes if s.name.casefold() not in found)
    sha256 = hashlib.sha256("\n".join(sorted(f"{f.name} {f.sha256}" for f in files)).encode()).hexdigest()
    return Delivery(source, sha256[:16], sha256, day, scope, tuple(files), missing, tuple(notices))


def open_file(
    path: Path, *, source: str, shape: FileShape, notices: tuple[str, ...], delivered_on: date | None
) -> Delivery:
    """The delivery that is the one file at `path`, known by its bytes under any name; raises DeliveryRefused."""
    day = _day_in_name(path)
    if day and delivered_on and day != delivered_on:
        raise _contradiction(path, day, delivered_on)
    day = day or delivered_on
    if day is None:
        raise DeliveryRefused(
            f"{path.name} does not say when it was delivered; give --delivered-on, or put the date (YYYY-MM-DD) in its name"
        )
    member = _Member(str(path.parent), path.name, True, lambda: path.open("rb"))
    digest, _ = _hash(member, path.name)
    file = DeliveredFile(path.name, shape, digest, member.open)
    return Delivery(source, digest[:16], digest, day, "full", (file,), (), notices)


def read_chunk(stream: BinaryIO, size: int, file: str) -> bytes:
    """Up to `size` bytes; raises DeliveryRefused where the disk or the archive does not give them."""
    try:
        return stream.read(size)
    except _BROKEN as error:
        raise DeliveryRefused(f"{file} cannot be read to its end ({_reason(error)}); deliver it again") from None


@contextmanager
def open_stream(opener: Callable[[], AbstractContextManager[BinaryIO]], file: str) -> Iterator[BinaryIO]:
    """The bytes of a file; raises DeliveryRefused where it cannot be opened."""
    try:
        manager = opener()
        stream = manager.__enter__()
    except _BROKEN as error:
        raise DeliveryRefused(f"{file} cannot be opened ({_reason(error)}); deliver it again") from None
    try:
        yield stream
    finally:
        manager.__exit__(None, None, None)


def _reason(error: BaseException) -> str:
    """Why, without the system's own sentence where that holds a path or a value."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, NotImplementedError):
        return "its kind of compression is not supported"
    return "the archive is damaged or cut"


def _members(path: Path) -> Iterable[_Member]:
    if path.is_dir():
        return _folder_members(path)
    if not path.exists():
        raise DeliveryRefused(f"nothing is at {path}; name the folder or .zip that holds the delivered files")
    if not path.is_file() or path.suffix.lower() not in (".zip",):
        raise DeliveryRefused(f"{path.name} is neither a folder nor a .zip; name one that holds the delivered files")
    return _zip_members(path)


def _folder_members(path: Path) -> Iterator[_Member]:
    try:
        entries = sorted(path.iterdir())
        visible = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
        # one folder inside, as an unpacked archive leaves it
        if len(visible) == 1 and visible[0].is_dir() and visible[0].suffix.lower() != ".csv":
            visible += sorted(e for e in visible[0].iterdir() if not e.name.startswith("."))
        for entry in visible:
            # a pipe or device would be waited for without end
            is_file = stat.S_ISREG(entry.stat().st_mode)
            yield _Member(str(entry.parent), entry.name, is_file, lambda entry=entry: entry.open("rb"))  # type: ignore[misc]
    except OSError as error:
        raise DeliveryRefused(f"{path.name} cannot be listed ({_reason(error)}); make it readable") from None


def _zip_members(path: Path) -> Iterator[_Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _BROKEN as error:
        raise DeliveryRefused(f"{path.name} is no readable zip ({_reason(error)}); deliver it again") from None
    for info in infos:
        inner = PurePosixPath(info.filename.replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or re.match(r"[A-Za-z]:", str(inner)):
            raise DeliveryRefused(f"{path.name} holds a name that leads out of the archive; pack plain file names")
        if any(part.startswith((".", "__MACOSX")) for part in inner.parts) or not inner.name:
            continue
        if info.flag_bits & 1:
            raise DeliveryRefused(f"{path.name} is encrypted; deliver it without a password")
        yield _Member(str(inner.parent), inner.name, not info.is_dir(), _zip_opener(path, info))


def _zip_opener(path: Path, info: zipfile.ZipInfo) -> Callable[[], AbstractContextManager[BinaryIO]]:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
            yield cast(BinaryIO, stream)

    return opened


def _unique(names: set[str], members: list[_Member]) -> dict[str, _Member]:
    """Each name's one member; two of a name, or files scattered over folders, could be two deliveries."""
    found: dict[str, _Member] = {}
    for member in members:
        name = member.name.casefold()
        if name not in names:
            continue
        if not member.is_file:
            raise DeliveryRefused(f"{member.name} is no regular file; deliver the file itself")
        if name in found:
            raise DeliveryRefused(f"{member.name} is there twice; deliver each file once")
        found[name] = member
    if len({m.folder for m in found.values()}) > 1:
        raise DeliveryRefused("the files lie in several folders; deliver them in one")
    return found


def _check_complete(scope: Scope, shapes: tuple[FileShape, ...], found: set[str], path: Path) -> None:
    """A full delivery has its required files, and assessments where it has submissions; an increment has any file."""
    if not found:
        raise DeliveryRefused(
            f"{path.name} holds none of the files {', '.join(s.name for s in shapes)}; name the folder that does"
        )
    if scope == "increment":
        return
    missing = [s.name for s in shapes if s.is_required and s.name.casefold() not in found]
    if missing:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise DeliveryRefused(
            f"{', '.join(missing)} {verb} missing; a full delivery needs {them}, so deliver {them} beside the others"
        )
    for shape in shapes:
        if shape.refers == "assessment" and shape.name.casefold() in found:
            for needed in shapes:
                if needed.provides == "assessment" and needed.name.casefold() not in found:
                    raise DeliveryRefused(
                        f"{needed.name} is missing; {shape.name} refers to it, so deliver both or neither"
                    )


def _read_manifest(members: list[_Member]) -> tuple[date | None, Scope]:
    manifests = [m for m in members if m.name.casefold() == MANIFEST and m.is_file]
    if len(manifests) > 1:
        raise DeliveryRefused(f"{MANIFEST} is there twice; deliver it once")
    if not manifests:
        return None, "full"
    with open_stream(manifests[0].open, MANIFEST) as stream:
        text = read_chunk(stream, _MANIFEST_BYTES, MANIFEST)
    try:
        declared = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        declared = None
    if not isinstance(declared, dict):
        raise DeliveryRefused(f'{MANIFEST} is no JSON object; write {{"delivered_on": "2026-11-21", "scope": "full"}}')
    scope = declared.get("scope", "full")
    if scope not in ("full", "increment"):
        raise DeliveryRefused(f'{MANIFEST}: scope is neither "full" nor "increment"; write one of them')
    day = declared.get("delivered_on")
    if day is None:
        return None, scope
    try:
        if not isinstance(day, str) or not _DATE.fullmatch(day):
            raise ValueError
        return date.fromisoformat(day), scope
    except ValueError:
        raise DeliveryRefused(f'{MANIFEST}: delivered_on is no date; write it like "2026-11-21"') from None


def _day_in_name(path: Path) -> date | None:
    """The date in the name as given, else in the name that a link leads to."""
    for name in (path.name, path.resolve().name):
        days = set(_DATE.findall(name))
        if len(days) > 1:
            raise DeliveryRefused(f"{name} holds two dates; declare delivered_on in {MANIFEST}")
        for day in days:
            try:
                return date.fromisoformat(day)
            except ValueError:
                raise DeliveryRefused(
                    f"{name} holds a date that does not exist; declare delivered_on in {MANIFEST}"
                ) from None
    return None


def _choose_day(
    path: Path, source: str, notices: list[str], *, declared: date | None, argument: date | None, default: date | None
) -> date:
    named = declared or _day_in_name(path)
    if named and argument and named != argument:
        raise _contradiction(path, named, argument)
    day = named or argument
    if day is None and default is not None:
        notices.append(f"no day of delivery is declared; took {default}, when the dataset of {source} was published")
        day = default
    if day is None:
        raise DeliveryRefused(
            f"{path.name} does not say when it was delivered; add {MANIFEST} with delivered_on, "
            "put the date (YYYY-MM-DD) in the name of the folder or zip, or give it as argument"
        )
    return day


def _contradiction(path: Path, named: date, argument: date) -> DeliveryRefused:
    return DeliveryRefused(
        f"{path.name} says that it was delivered on {named}, the argument says {argument}; leave one out"
    )


def _hash(member: _Member, file: str) -> tuple[str, bytes]:
    """sha256 of the whole file, and its first HEAD_BYTES bytes."""
    digest, head = hashlib.sha256(), b""
    with open_stream(member.open, file) as stream:
        while chunk := read_chunk(stream, _READ_BYTES, file):
            digest.update(chunk)
            if len(head) < HEAD_BYTES:
                head = (head + chunk)[:HEAD_BYTES]
    return digest.hexdigest(), head
