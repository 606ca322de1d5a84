"""Exports clusters of learners to a MongoDB collection that the user names: a document for each learner, by its id.

What the documents are used for does not belong here. The export can be run again at any time: what an interrupted one
has written is not written twice.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet

if TYPE_CHECKING:
    from pymongo.collection import Collection

RUN = "iom_run"  # the field that says which file a document is of
_KEY = "learner_id"
_BATCH_ROWS = 5_000
_WAIT_MS = 5_000
_DIGEST_LENGTH = 16
_NO_ACCESS = (13, 18)  # Unauthorized, AuthenticationFailed


class MongoRefused(ValueError):
    """What is asked cannot be exported; one sentence says why, and the remedy."""

    exit_code = 2


class MongoFailed(RuntimeError):
    """The documents were not all written; one sentence says why, and the remedy, without a password or an id."""

    exit_code = 1


@dataclass(frozen=True)
class MongoCollection:
    """A collection on the server that `url` names."""

    url: str = field(repr=False)
    database: str
    collection: str

    def check(self, features: Sequence[str]) -> None:
        """Raise MongoRefused or MongoFailed for what can be known before the file is read."""
        for name in features:
            if name.startswith("$") or "." in name or name in ("_id", RUN):
                raise MongoRefused(f"column {name} cannot be a field of a MongoDB document; rename it")
        with self._open() as collection:
            collection.database.command("ping")

    def upload(self, file: Path) -> str:
        """Write the rows of a Parquet file of `iom cluster`; returns what is told. Raises MongoFailed."""
        with file.open("rb") as content:
            run = hashlib.file_digest(content, "sha256").hexdigest()[:_DIGEST_LENGTH]
        with self._open() as collection, pyarrow.parquet.ParquetFile(file) as parquet:
            before = collection.count_documents({RUN: run})
            for rows in parquet.iter_batches(_BATCH_ROWS):
                _write(collection, pl.DataFrame(rows), run, is_resumed=before > 0)
            # what the server says of a write is not what stands there
            found, wanted = collection.count_documents({RUN: run}), parquet.metadata.num_rows
        if found != wanted:
            raise MongoFailed(
                f"{found:,} of {wanted:,} documents stand in {self.database}.{self.collection}; the files are finished: "
                "run the command again, alone"
            )
        return (
            f"{wanted:,} documents in {self.database}.{self.collection}, {before:,} of them from before; {RUN} is {run}"
        )

    @contextmanager
    def _open(self) -> "Iterator[Collection[dict[str, Any]]]":
        """The collection; errors of the driver, which may hold documents or the URL, become a sentence without."""
        try:
            from pymongo import MongoClient
            from pymongo.errors import (
                ConfigurationError,
                ConnectionFailure,
                InvalidName,
                OperationFailure,
                PyMongoError,
            )
        except ImportError:
            raise MongoRefused("--mongo needs the package pymongo; install iom_platform[mongo]") from None
        try:
            client: MongoClient[dict[str, Any]] = MongoClient(
                self.url, serverSelectionTimeoutMS=_WAIT_MS, connectTimeoutMS=_WAIT_MS, appname="iom cluster"
            )
        except (ConfigurationError, ValueError, TypeError, PyMongoError):
            raise MongoRefused(
                "the URL of --mongo cannot be read; write mongodb://user:password@host:27017/, with what is no letter or "
                "digit of the password in per cent"
            ) from None
        where = f"{self.database}.{self.collection}"
        with client:
            try:
                yield client[self.database][self.collection]
            except InvalidName:
                raise MongoRefused(f"{where} is no name of a database and a collection; name others") from None
            except ConnectionFailure:
                raise MongoFailed(
                    "the server of --mongo does not answer; start it or mend the URL, and run again"
                ) from None
            except OperationFailure as error:
                if error.code in _NO_ACCESS:
                    raise MongoFailed(
                        f"the server of --mongo does not let us write to {where}; mend the URL or the user's roles"
                    ) from None
                raise MongoFailed(
                    f"MongoDB refused to write to {where} (code {error.code}); see its log, and run again"
                ) from None
            except PyMongoError as error:
                raise MongoFailed(f"MongoDB did not take all documents ({type(error).__name__}); run again") from None


def _write(collection: "Collection[dict[str, Any]]", rows: pl.DataFrame, run: str, *, is_resumed: bool) -> None:
    """Write a batch whole, or what of it is missing."""
    from pymongo import ReplaceOne

    if is_resumed:
        ids = rows[_KEY].to_list()
        there = {one["_id"] for one in collection.find({"_id": {"$in": ids}, RUN: run}, {"_id": 1})}
        rows = rows.filter(~pl.col(_KEY).is_in(list(there)))
    documents = rows.rename({_KEY: "_id"}).with_columns(pl.lit(run).alias(RUN)).to_dicts()
    if documents:
        collection.bulk_write([ReplaceOne({"_id": one["_id"]}, one, upsert=True) for one in documents], ordered=False)
