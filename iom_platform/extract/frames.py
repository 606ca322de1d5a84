"""Writes frames as the files of an extract, so that what is in memory lands by the rules of what is delivered.

Judging a value does not belong here: what is wrong in a frame is wrong in the file.
"""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from iom_platform.extract.delivery import MANIFEST
from iom_platform.extract.oulad import SHAPES
from iom_platform.extract.source import DeliveryRefused, FileShape

if TYPE_CHECKING:
    import pandas as pd


def write_frames(frames: Mapping[str, "pd.DataFrame"], folder: Path, *, delivered_on: date) -> None:
    """A full delivery in the new folder, which only its user can read.

    frames: by the names of the delivered files without .csv. Whole numbers that became floats beside nulls are written
    whole, and times as UTC. Raises DeliveryRefused for a name that no file has.
    """
    shapes = {shape.name.removesuffix(".csv"): shape for shape in SHAPES}
    unknown = sorted(str(name) for name in frames if name not in shapes)
    if unknown:
        raise DeliveryRefused(f"no file of an extract is named {unknown[0]!r}; known: {', '.join(shapes)}")
    folder.mkdir(mode=0o700)
    (folder / MANIFEST).write_text(json.dumps({"delivered_on": delivered_on.isoformat(), "scope": "full"}))
    for name, frame in frames.items():
        written = _spell(frame, shapes[name])
        written.to_csv(folder / shapes[name].name, index=False, float_format=_spell_number)


def _spell_number(value: object) -> str:
    return str(value).removesuffix(".0")


def _spell(frame: "pd.DataFrame", shape: FileShape) -> "pd.DataFrame":
    """Times and truth values as an extract writes them."""
    written = frame.copy(deep=False)
    for field in shape.fields:
        kind = getattr(written.dtypes.get(field.name), "kind", None)
        if kind == "b":
            written[field.name] = written[field.name].astype("Int64")
        elif kind == "M":
            times = written[field.name]
            zoned = times.dt.tz_convert("UTC") if times.dt.tz else times
            pattern = "%Y-%m-%d" if field.column.dtype == "date" else "%Y-%m-%dT%H:%M:%S.%fZ"
            written[field.name] = zoned.dt.strftime(pattern)
    return written
