"""What a source is: the Protocol, the shape of a delivered file, and a delivery as opened.

How a certain LMS names its files stands in its own module, how files are read in `landing.py`.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from iom_platform.tables import Column, Table

Scope = Literal["full", "increment"]
Entity = Literal["course", "assessment", "enrollment"]


class DeliveryRefused(ValueError):
    """A delivery, or a file of it, is refused whole; one sentence says which file, what is wrong and the remedy."""

    exit_code = 4


@dataclass(frozen=True)
class Field:
    """One delivered column: its name in the header, the column of tables.py that it fills, and its domain.

    `minimum` and `maximum` are inclusive; `pattern` must match the whole text and `pattern_words` says it in words.
    """

    name: str
    column: Column
    is_optional: bool = False
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: re.Pattern[str] | None = None
    pattern_words: str = ""


@dataclass(frozen=True)
class FileShape:
    """One file of a source: its columns, what its rows refer to, and what later files may refer to.

    `event_day` names the day column of something that has happened, which a delivery cannot know ahead; `note` says
    what the sender should know beside the words of the table.
    """

    name: str
    table: Table
    fields: tuple[Field, ...]
    is_required: bool = False
    refers: Entity | None = None
    provides: Entity | None = None
    event_day: str | None = None
    note: str = ""


@dataclass(frozen=True)
class DeliveredFile:
    """A file of a delivery; `open` gives its bytes from the start, as often as it is called."""

    name: str
    shape: FileShape
    sha256: str
    open: Callable[[], AbstractContextManager[BinaryIO]]

    @property
    def table(self) -> Table:
        return self.shape.table


@dataclass(frozen=True)
class Delivery:
    """An opened delivery. Its id is the digest of its data files alone, so the same bytes are the same delivery.

    `files` are in the order in which they must be read; `missing` are optional files that were not delivered;
    `notices` are sentences about what was ignored or assumed.
    """

    source: str
    delivery_id: str
    sha256: str
    delivered_on: date
    scope: Scope
    files: tuple[DeliveredFile, ...]
    missing: tuple[str, ...]
    notices: tuple[str, ...]


class Source(Protocol):
    """Opens what an LMS delivers; it knows files, not the warehouse."""

    @property
    def name(self) -> str: ...

    @property
    def shapes(self) -> tuple[FileShape, ...]:
        """The files that it reads, in their order."""
        ...

    def open_delivery(self, path: Path, *, delivered_on: date | None = None) -> Delivery:
        """The delivery at `path`, its files hashed and their headers checked; raises DeliveryRefused."""
        ...
