"""Arrow rows into PostgreSQL and out of it, by COPY.

Which table, in which transaction, and what a refusal is called belongs to whoever holds the cursor.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv
    from psycopg2.extensions import cursor as Cursor

_ROWS_AT_ONCE = 100_000
_SPOOLED_BYTES = 64 * 2**20


def copy_in(cursor: "Cursor", sql_name: str, rows: "pa.Table") -> None:
    """Add rows to a table, column by name; psycopg2's errors come out as they are, and their DETAIL quotes a row."""
    import pyarrow.csv as arrow_csv

    statement = f"COPY {sql_name} ({', '.join(rows.column_names)}) FROM STDIN (FORMAT csv)"
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        buffer = io.BytesIO()
        # Arrow quotes every text and leaves null bare, which is how COPY tells '' from NULL
        arrow_csv.write_csv(batch, buffer, arrow_csv.WriteOptions(include_header=False, quoting_style="needed"))
        buffer.seek(0)
        cursor.copy_expert(statement, buffer)


def copy_out(cursor: "Cursor", query: str, values: Sequence[Any]) -> "Iterator[pa.RecordBatch]":
    """The rows of a query in its order, batch by batch; the cursor is free after the first. There is always a batch.

    A query's rows wait in memory, and those of a big one in a file without a name.
    """
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    asked = cursor.mogrify(query, values).decode()
    cursor.execute(f"SELECT * FROM ({asked}) AS asked LIMIT 0")
    schema = pa.schema([(column.name, _arrow_type(column.type_code)) for column in cursor.description or ()])
    with SpooledTemporaryFile(_SPOOLED_BYTES) as file:
        cursor.copy_expert(f"COPY ({asked}) TO STDOUT (FORMAT csv)", file)  # type: ignore[arg-type]
        if not file.tell():
            yield pa.RecordBatch.from_pylist([], schema=schema)
            return
        file.seek(0)
        with closing(arrow_csv.open_csv(file, *_reading(schema))) as reader:
            yield from reader


def _reading(
    schema: "pa.Schema",
) -> "tuple[pyarrow.csv.ReadOptions, pyarrow.csv.ParseOptions, pyarrow.csv.ConvertOptions]":
    import pyarrow.csv as arrow_csv

    return (
        arrow_csv.ReadOptions(column_names=schema.names, block_size=16 * 2**20),
        # a row of one column that is null is an empty line
        arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        arrow_csv.ConvertOptions(column_types=schema, null_values=[""], strings_can_be_null=True,
                                 quoted_strings_can_be_null=False, true_values=["t"], false_values=["f"]),
    )  # fmt: skip


def _arrow_type(oid: int) -> "pa.DataType":
    """The Arrow type of a column of PostgreSQL; a numeric becomes a double, what is not listed a text."""
    import pyarrow as pa

    return {
        16: pa.bool_(), 20: pa.int64(), 21: pa.int32(), 23: pa.int32(), 700: pa.float64(), 701: pa.float64(),
        1082: pa.date32(), 1114: pa.timestamp("us"), 1184: pa.timestamp("us", "UTC"), 1700: pa.float64(),
    }.get(oid, pa.string())  # fmt: skip
