"""A session with the warehouse, the same words for every engine: queries with `?`, Arrow rows in and out, transactions.

What differs stands in `duckdb_session.py` and `postgres_session.py`; what a table means belongs to neither.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from iom_platform.settings import Settings
from iom_platform.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Result(Protocol):
    """The rows of a query, as tuples."""

    @property
    def description(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def fetchone(self) -> Any: ...


class Session(ABC):
    """An open warehouse, in autocommit; what must be whole goes into a `transaction`."""

    types: ClassVar[dict[str, str]]
    """SQL type of each dtype of tables.py; a timestamp carries no zone, it is UTC."""
    collation: ClassVar[str]
    """What follows a text in ORDER BY, so that it is sorted by its bytes."""
    digest: ClassVar[str]
    """A number from a hash of the text {}, to be added up over rows."""
    order_column: ClassVar[str]
    """What CREATE TABLE adds for a table whose rows are read in the order of their writing."""
    insertion_order: ClassVar[str]
    """ORDER BY of such a table."""
    start_over: ClassVar[str]
    """Remedy for tables of an earlier version: what to do before every delivery lands again."""

    @staticmethod
    @abstractmethod
    def is_there(settings: Settings) -> bool:
        """Whether there is a warehouse; starts nothing, and a server that does not run has none."""

    @classmethod
    def is_absent(cls, settings: Settings) -> bool:
        """Whether it is known without a server that there is none."""
        return False

    @staticmethod
    @abstractmethod
    def location(settings: Settings) -> str:
        """Where the warehouse is, without a secret."""

    @classmethod
    @abstractmethod
    def open(cls, settings: Settings, *, purpose: str, write: bool, deadline: float) -> Self:
        """A session of whoever holds the lock, until `deadline` on the monotonic clock; raises WarehouseError."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def execute(self, query: str, values: Sequence[Any] = ()) -> Result:
        """Run one statement; `?` in it stands for a value, and for nothing else."""

    @abstractmethod
    def arrow(self, query: str, values: Sequence[Any] = ()) -> "pa.Table":
        """The rows of a query."""

    def frame(self, query: str, values: Sequence[Any] = ()) -> "pd.DataFrame":
        """The rows of a query in the types of `frame_of`."""
        return frame_of(self.arrow(query, values))

    @abstractmethod
    def batches(self, query: str, values: Sequence[Any] = ()) -> "Iterator[pa.RecordBatch]":
        """The rows of a query in its order, never all of them in memory; the session may be used meanwhile."""

    @abstractmethod
    def insert(self, table: Table, rows: "pa.Table") -> None:
        """Add rows that have the table's columns."""

    def gather_statistics(self, tables: Iterable[Table]) -> None:
        """Tell the planner of rows that have just been added, in the open transaction."""
        return

    @abstractmethod
    def columns_of(self, table: Table) -> tuple[str, ...]:
        """Names of the columns that the table has; none where it is absent."""

    @abstractmethod
    def is_in_transaction(self) -> bool: ...

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside an open transaction it joins that one."""
        if self.is_in_transaction():
            yield
            return
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")


def frame_of(rows: "pa.Table") -> "pd.DataFrame":
    """Rows in the types that a frame read from the warehouse has, whichever engine; nothing is stored."""
    import duckdb

    with duckdb.connect() as con:
        frame: pd.DataFrame = con.from_arrow(rows).df()
    return frame
