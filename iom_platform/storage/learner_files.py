"""Writes what `iom cluster` makes into a folder: all of it, or nothing that looks finished.

What stands in the files does not belong here. They are written to a folder of their own below, and moved when all are
whole; the summary comes last, so that where it stands the others are of its run.

A CSV, its .gz and the archive hold the same compressed bytes: gzip allows a file of many members, each a block of rows,
and a tar is what the members of its archive unpack to.
"""

import csv
import errno
import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet
from isal import igzip

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LEARNERS = "learner_clusters"
CSV, GZIP, PARQUET = f"{LEARNERS}.csv", f"{LEARNERS}.csv.gz", f"{LEARNERS}.parquet"
PROFILES, SUMMARY, REPORT = "cluster_profiles.csv", "clustering_summary.json", "task_2_1_report.md"
REJECTED = "rejected_records.csv"
MODELS = (
    "preprocess.joblib", "kmeans.joblib", "gmm.joblib", "dbscan.joblib", "hdbscan.joblib", "hierarchical.joblib",
)  # fmt: skip
ARCHIVE = "IOM_Task_2_1_Submission.tgz"
ALL = (CSV, GZIP, PARQUET, PROFILES, REPORT, REJECTED, *MODELS, ARCHIVE, SUMMARY)
CLUSTER, CONFIDENCE = "cluster_", "_confidence"
_UNFINISHED = ".unfinished"
_LEVEL, _STORED = 1, 0
_PIECE = 4 << 20
_TAR_BLOCK = 512


class OutputRefused(ValueError):
    """The folder cannot take the files; one sentence says why, and the remedy."""

    exit_code = 2


class NotWritten(RuntimeError):
    """The disk did not take the files; one sentence says so, and the remedy."""

    exit_code = 1


@dataclass(frozen=True)
class Rows:
    """Consecutive learners as they are written: CSV and its gzip member (empty without --csv), and the Arrow table."""

    csv: bytes
    gzip: bytes
    table: pa.Table


def shape_rows(frame: pl.DataFrame, *, given: int, lines: bytes | None, is_first: bool, with_csv: bool) -> Rows:
    """Rows ready to be written; it may be called for several blocks at once.

    frame: learner_id and the features, which are the `given` columns, cluster_* and then perhaps a confidence. lines: the
    given columns' rows as they were delivered; without them they are written anew.
    """
    from iom_platform.storage.csv_lines import append_fields

    csv = packed = b""
    if with_csv:
        text = BytesIO()
        if lines is None:
            frame.write_csv(text, include_header=is_first)
        else:
            frame.clear().write_csv(text, include_header=is_first)
            added = frame.columns[given:]
            labels = [frame[name].to_numpy() for name in added if name.startswith(CLUSTER)]
            shares = [frame[name].to_numpy() for name in added if name.endswith(CONFIDENCE)]
            text.write(append_fields(lines, labels, shares[0] if shares else None))
        csv = text.getvalue()
        packed = _pack(csv, _LEVEL)
    return Rows(csv, packed, frame.to_arrow(compat_level=pl.CompatLevel.oldest()))


class LearnerFiles:
    """The files while they are written; `add` rows in their order, then `finish` with the small ones."""

    def __init__(self, out: Path, folder: Path, *, with_csv: bool) -> None:
        self._out, self._with_csv = out, with_csv
        self.folder = folder  # whatever else lies there is removed at the end
        self._csv: BinaryIO | None = (folder / CSV).open("wb") if with_csv else None
        self._gzip: BinaryIO | None = (folder / GZIP).open("wb") if with_csv else None
        self._parquet: pyarrow.parquet.ParquetWriter | None = None
        self._encoder = ThreadPoolExecutor(1)
        self._encoding: Future[None] | None = None
        self._rejected: TextIO | None = None
        self._tar: BinaryIO = (folder / ARCHIVE).open("wb")

    def add(self, rows: Rows) -> None:
        if self._csv and self._gzip:
            self._csv.write(rows.csv)
            self._gzip.write(rows.gzip)
        if self._parquet is None:
            self._parquet = pyarrow.parquet.ParquetWriter(
                self.folder / PARQUET, rows.table.schema, compression="zstd", compression_level=1,
                use_dictionary=[n for n in rows.table.column_names if n.startswith(CLUSTER)], write_statistics=False,
            )  # fmt: skip
        # one at a time and in order; it takes as long as all else that is done with the rows
        if self._encoding is not None:
            self._encoding.result()
        self._encoding = self._encoder.submit(self._parquet.write_table, rows.table)

    def reject(self, records: "Iterable[DataclassInstance]") -> None:
        """Write records that were left out, a row for each with its fields as columns."""
        for one in records:
            if self._rejected is None:
                self._rejected = (self.folder / REJECTED).open("w", encoding="utf-8", newline="")
                csv.writer(self._rejected, lineterminator="\n").writerow(field.name for field in fields(one))
            csv.writer(self._rejected, lineterminator="\n").writerow(astuple(one))

    def close_rows(self) -> None:
        if self._encoding is not None:
            self._encoding.result()
            self._encoding = None
        self._encoder.shutdown()
        for file in (self._csv, self._gzip, self._parquet, self._rejected):
            if file is not None:
                file.close()

    def give_up(self) -> None:
        """Close what is open; what cannot be written any more is of no use."""
        self._encoder.shutdown()
        for file in (self._csv, self._gzip, self._parquet, self._rejected, self._tar):
            if file is not None:
                with suppress(OSError):
                    file.close()

    def archive_rows(self) -> None:
        """Put the files of rows, which are closed then, into the archive; it can be done beside other work."""
        self.close_rows()
        for name in (CSV, GZIP, PARQUET, REJECTED):
            self._archive(name)

    def finish(self, small: Mapping[str, bytes]) -> list[Path]:
        """Write the small files and end the archive, and move all to their place; returns them."""
        for name, content in small.items():
            (self.folder / name).write_bytes(content)
            self._archive(name)
        self._tar.write(_pack(bytes(2 * _TAR_BLOCK), _LEVEL))
        self._tar.close()
        (self._out / SUMMARY).unlink(missing_ok=True)
        made = [name for name in ALL if (self.folder / name).exists()]
        for name in ALL:
            if name in made:
                os.replace(self.folder / name, self._out / name)
            else:
                (self._out / name).unlink(missing_ok=True)
        return [self._out / name for name in made]

    def _archive(self, name: str) -> None:
        path = self.folder / name
        if not path.exists():
            return
        size = path.stat().st_size
        self._tar.write(_pack(_tar_header(name, size), _LEVEL))
        with (self.folder / (GZIP if name == CSV else name)).open("rb") as content:
            if name == CSV:
                shutil.copyfileobj(content, self._tar, _PIECE)
            else:
                # what is compressed already would only take time
                level = _LEVEL if name in (PROFILES, SUMMARY, REPORT, REJECTED) else _STORED
                while piece := content.read(_PIECE):
                    self._tar.write(_pack(piece, level))
        self._tar.write(_pack(bytes(-size % _TAR_BLOCK), _LEVEL))


def _tar_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member.tobuf(tarfile.GNU_FORMAT)


def _pack(content: bytes, level: int) -> bytes:
    """One gzip member, the same bytes at any time."""
    return igzip.compress(content, compresslevel=level, mtime=0) if content else b""


def check_outputs(out: Path, source: Path) -> None:
    """Raise OutputRefused where `out` cannot take the files of a run, or where they would replace the one that is read."""
    if out.exists() and not out.is_dir():
        raise OutputRefused(f"{out} is a file; name a folder")
    folder = out / _UNFINISHED
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputRefused(f"{folder} is no folder of an earlier run; remove it, or name another folder")
    for name in ALL:
        if (out / name).is_dir():
            raise OutputRefused(f"{out / name} is a folder where a file belongs; remove it, or name another folder")
        if (out / name).exists() and (out / name).samefile(source):
            raise OutputRefused(f"{out / name} is the file to read, and would be replaced; name another folder")
    if folder.exists() and source.parent.samefile(folder):
        raise OutputRefused(f"{source} is what a killed run left, and would be cleared; name the file that it read")


@contextmanager
def open_outputs(out: Path, *, with_csv: bool = True) -> Iterator[LearnerFiles]:
    """A place for the files of one run; whatever is not finished is removed, also what a killed run left.

    Raises OutputRefused where another run writes there, and NotWritten where the disk does not take the files.
    """
    folder = out / _UNFINISHED
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputRefused(
                f"another `iom cluster` writes to {out}; wait for its end, or name another folder"
            ) from None
        for left in folder.iterdir():
            left.unlink()
        files = LearnerFiles(out, folder, with_csv=with_csv)
        try:
            yield files
        except OSError as error:
            if error.filename:
                raise
            # a write to a file that is open names none
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise NotWritten(
                f"{out} did not take all files ({reason}); make room there, or name another folder"
            ) from None
        finally:
            files.give_up()
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def pack_model(model: Any) -> bytes:
    """A model as joblib writes it."""
    import joblib  # type: ignore[import-untyped]

    out = BytesIO()
    joblib.dump(model, out)
    return out.getvalue()
