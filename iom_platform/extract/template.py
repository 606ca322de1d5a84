"""An empty extract to fill in, and the words that describe it: files, columns, types, domains, examples.

All of it is made from a source's shapes and `tables.py`; judging a value does not belong here (`values.py` does).
"""

import csv
import json
import re
from datetime import date
from pathlib import Path

from iom_platform.extract.delivery import MANIFEST
from iom_platform.extract.source import Field, FileShape, Source
from iom_platform.privacy.kanonymity import HIERARCHIES
from iom_platform.tables import DType

README = "README.md"
# a record of each file that agrees with those of the others, by column
EXAMPLES = {
    "code_module": "AAA", "code_presentation": "2025J", "module_presentation_length": "240",
    "presentation_starts_on": "2025-10-06", "id_assessment": "1752", "assessment_type": "TMA", "date": "19",
    "weight": "10", "id_site": "546943", "activity_type": "forumng", "week_from": "1", "week_to": "2",
    "id_student": "s-11391", "gender": "F", "region": "Scotland", "highest_education": "HE Qualification",
    "imd_band": "20-30%", "age_band": "35-55", "num_of_prev_attempts": "0", "studied_credits": "60", "disability": "N",
    "final_result": "Withdrawn", "date_registration": "-20", "date_unregistration": "120", "date_submitted": "18",
    "is_banked": "0", "score": "78", "sum_click": "4", "clicked_at": "2025-10-25T09:31:07Z",
}  # fmt: skip
_TYPES: dict[DType, str] = {
    "text": "text", "json": "JSON", "int": "whole number", "bigint": "whole number", "float": "number",
    "bool": "0 or 1", "date": "date, YYYY-MM-DD", "timestamp": "UTC time",
}  # fmt: skip


class TemplateError(ValueError):
    """The template cannot be written; the message is one sentence with its remedy."""

    exit_code = 2


def describe_domain(field: Field) -> str:
    """Which values the column takes, in words; empty where its type says all."""
    words = []
    if field.allowed:
        words.append(f"one of {', '.join(field.allowed)}")
    if field.minimum is not None and field.maximum is not None:
        words.append(f"{field.minimum:g} to {field.maximum:g}")
    elif field.minimum is not None:
        words.append(f"{field.minimum:g} or more")
    elif field.maximum is not None:
        words.append(f"at most {field.maximum:g}")
    words += [field.pattern_words] * bool(field.pattern_words)
    words += ["id of the LMS"] * (field.column.kind == "identifier")
    if field.name in HIERARCHIES:
        listed = dict.fromkeys(levels[0] for levels in HIERARCHIES[field.name].values())
        words.append(f"published as `*` unless one of {', '.join(listed)}")
    words += ["may be empty or `?`"] * field.column.nullable
    return "; ".join(words)


def describe_meaning(field: Field) -> str:
    """The column's words of tables.py; what is a pseudonym there is delivered as the id itself."""
    if field.column.kind == "identifier":
        return "The student, by the id of the LMS; a keyed pseudonym takes its place at the door."
    return re.sub(r"\bnull\b", "empty", field.column.doc)


def describe_shapes(shapes: tuple[FileShape, ...]) -> str:
    """Markdown: for each file a sentence and a table with a line per column, in the delivered order."""
    parts = []
    for shape in shapes:
        needed = "Required" if shape.is_required else "Optional"
        lines = [
            f"### {shape.name}", "", f"{needed}. {shape.table.doc} {shape.note}".rstrip(), "",
            "| column | | type | domain | what it means | example |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| `{f.name}` | {'optional' if f.is_optional else 'required'} | {_TYPES[f.column.dtype]} | {describe_domain(f)} "
            f"| {describe_meaning(f)} | `{EXAMPLES[f.name]}` |"
            for f in shape.fields
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _describe_template(source: Source) -> str:
    return f"""\
# An extract for the source `{source.name}`

Fill in one record per line under each header, as CSV in UTF-8 with commas. An optional file may be deleted whole, an
optional column may be left out. `{MANIFEST}` says when the extract was taken (`delivered_on`, like "2026-11-21") and
whether it is `full` (what is absent was deleted) or an `increment` (it was not): correct the day before each delivery.

A course is a `code_module` with a `code_presentation`, and days are counted from its first day: 0 is that day, -1 the day
before. A record that breaks a rule below goes to quarantine alone, and `iom check` says which, and why.

{describe_shapes(source.shapes)}"""


def write_files(out: Path, source: Source, *, delivered_on: date) -> tuple[str, ...]:
    """Write header lines, delivery.json and README.md to an empty or absent folder; returns the names.

    Raises TemplateError where something is there already.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise TemplateError(f"{out} is a file or a link; name a folder that does not exist yet")
    if out.exists() and any(out.iterdir()):
        raise TemplateError(f"folder {out} is not empty, and nothing is overwritten; name another one")
    out.mkdir(parents=True, exist_ok=True)
    for shape in source.shapes:
        with (out / shape.name).open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerow([field.name for field in shape.fields])
    manifest = json.dumps({"delivered_on": delivered_on.isoformat(), "scope": "full"})
    (out / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
    (out / README).write_text(_describe_template(source), encoding="utf-8")
    return (*(shape.name for shape in source.shapes), MANIFEST, README)
