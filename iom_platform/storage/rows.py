"""Rows in the shape that `tables.py` promises: typed Arrow batches in, typed frames and one table hash out.

Nothing here knows a database; which rows are right or wrong in meaning is a matter for the stages and their gates.
"""

import hashlib
from typing import TYPE_CHECKING, Any

from iom_platform.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PARTITION_COLUMNS = ("as_of_on", "fitted_as_of")


class RowsError(ValueError):
    """Rows do not fit their table; the message names table, column and rule, never a value."""

    exit_code = 1


def partition_column(table: Table) -> str:
    """The column that holds a table's as-of day; RowsError where the table is not partitioned."""
    for name in PARTITION_COLUMNS:
        if name in table.column_names:
            return name
    raise RowsError(f"{table.path} has no as-of day, so it has no partition to replace")


def arrow_type(column: Column) -> "pa.DataType":
    """The Arrow type of a column; a timestamp is UTC without saying so."""
    import pyarrow as pa

    return {
        "text": pa.string(), "json": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "float": pa.float64(),
        "bool": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
    }[column.dtype]  # fmt: skip


def shape_rows(table: Table, frame: "pd.DataFrame | pa.Table | pa.RecordBatch", *, partition: Any = None) -> "pa.Table":
    """A pandas frame or Arrow table as exactly the table's columns, in order, typed, NaN and NaT as null.

    Checks the set of columns, the types, NOT NULL, the key, and that every row lies in the `partition` day if one is
    given; raises RowsError.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    is_arrow = isinstance(frame, pa.Table | pa.RecordBatch)
    names = list(frame.schema.names if is_arrow else frame.columns)
    missing = [name for name in table.column_names if name not in names]
    extra = [str(name) for name in names if name not in table.column_names]
    if missing or extra or len(set(names)) != len(names):
        lists = (("lack", missing), ("have the unknown", extra))
        problem = " and ".join(f"{verb} {', '.join(found)}" for verb, found in lists if found) or "repeat a column"
        raise RowsError(f"rows for {table.path} {problem}; tables.py lists its columns")
    arrays = [_shape_column(table, column, frame[column.name]) for column in table.columns]
    shaped = pa.table(arrays, names=list(table.column_names))
    if partition is not None and len(shaped):
        name = partition_column(table)
        if not pc.all(pc.equal(shaped[name], pa.scalar(partition, pa.date32())), skip_nulls=False).as_py():
            raise RowsError(f"rows for {table.path} lie outside the partition {partition}; {name} must be that day")
    check_key(table, shaped)
    return shaped


def _shape_column(table: Table, column: Column, values: Any) -> "pa.ChunkedArray | pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    target = arrow_type(column)
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:
        values = values.dt.tz_convert(None)
    try:
        array = values if isinstance(values, pa.ChunkedArray | pa.Array) else pa.array(values, from_pandas=True)
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_timestamp(array.type) and array.type.tz is not None:
            array = array.cast(pa.timestamp(array.type.unit, "UTC")).cast(pa.timestamp(array.type.unit))
        if array.type != target:
            array = array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Arrow's message quotes the value, which may be personal
        raise RowsError(
            f"{table.path}, column {column.name}: a value is no {column.dtype}; mend the rows' types"
        ) from None
    if not column.nullable and array.null_count:
        raise RowsError(f"{table.path}, column {column.name}: {array.null_count} rows are null, and it must not be")
    return array


def check_key(table: Table, rows: "pa.Table") -> None:
    """Raise RowsError where two rows share the table's key."""
    if table.key and len(rows):
        distinct = rows.select(list(table.key)).group_by(list(table.key)).aggregate([]).num_rows
        if distinct != len(rows):
            raise RowsError(f"{table.path}: {len(rows) - distinct} rows repeat the key ({', '.join(table.key)})")


def to_frame(rows: "pa.Table") -> "pd.DataFrame":
    """A pandas frame: int64 or, with nulls, Int64; dates and timestamps as datetime64[us]; text as str."""
    import pandas as pd
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in rows.column_names:
        array = rows[name]
        if pa.types.is_date(array.type):
            columns[name] = array.cast(pa.timestamp("us")).to_pandas()
        elif pa.types.is_integer(array.type):
            mapper = {pa.int64(): pd.Int64Dtype()}.get if array.null_count else None
            columns[name] = array.cast(pa.int64()).to_pandas(types_mapper=mapper)
        elif pa.types.is_boolean(array.type) and array.null_count:
            columns[name] = array.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
        else:
            columns[name] = array.to_pandas()
    return pd.DataFrame(columns, columns=rows.column_names)


def hash_rows(table: Table, rows: "pa.Table") -> str:
    """sha256 over the stable columns of the rows sorted by key; the same in both homes of a table.

    Where the key is empty, or not unique, all stable columns decide the order. -0.0 counts as 0.0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = list(table.stable_columns)
    order = list(table.key) + [name for name in names if name not in table.key]
    rows = rows.select(names)
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in order])).combine_chunks()
    digest = hashlib.sha256(f"{table.path} {len(rows)}\n".encode())
    for name in names:
        array = rows[name].combine_chunks() if len(rows) else pa.array([], rows[name].type)
        digest.update(f"{name} {array.type}\n".encode())
        digest.update(pc.is_valid(array).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_string(array.type):
            array = pc.fill_null(array, "")
            digest.update(
                pc.binary_length(array).cast(pa.int64()).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
            )
            digest.update("".join(array.to_pylist()).encode())
        elif pa.types.is_floating(array.type):
            values = pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False) + 0.0
            digest.update(values.astype("<f8").tobytes())
        else:
            whole = array.cast(pa.int32()) if pa.types.is_date(array.type) else array
            digest.update(
                pc.fill_null(whole.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
            )
    return digest.hexdigest()
