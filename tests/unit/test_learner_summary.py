"""Learner summaries as they are read: every record is good or rejected with its rule, however the block came to be read.

What becomes of them is tested in tests/integration/test_cluster.py.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from iom_platform.extract import learner_summary
from iom_platform.extract.learner_summary import LearnerFile, find_repeated
from iom_platform.extract.source import DeliveryRefused

FEATURES = ("avg_score", "accuracy")
HEAD = "learner_id,avg_score,accuracy\n"


def _write(folder: Path, text: str | bytes) -> LearnerFile:
    path = folder / "learners.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return LearnerFile(path, FEATURES)


def _read(file: LearnerFile) -> tuple[list[str], list[list[float]], list[tuple[int, str, str]]]:
    batches = list(file.read())
    return (
        [i for b in batches for i in b.ids],
        [row for b in batches for row in b.values.tolist()],
        [(r.record, r.column, r.rule) for b in batches for r in b.rejected],
    )


@pytest.mark.parametrize(
    ("line", "column", "rule"),
    [
        ("x,,0.5", "avg_score", "missing value"),
        ("x,?,0.5", "avg_score", "missing value"),
        (",50,0.5", "learner_id", "missing value"),
        ("x,abc,0.5", "avg_score", "text in a number"),
        ('x,"12,5",0.5', "avg_score", "text in a number"),
        ("x,1e309,0.5", "avg_score", "number that is not finite"),
        ("x,nan,0.5", "avg_score", "number that is not finite"),
        ("x,inf,0.5", "avg_score", "number that is not finite"),
        ("x,101,0.5", "avg_score", "outside 0 to 100"),
        ("x,-1,0.5", "avg_score", "outside 0 to 100"),
        ("x,50,0.5,9", "", "wrong number of fields"),
        ("x,50", "", "wrong number of fields"),
        ("x,50,0\0.5", "", "NUL byte"),
        ('x,50,"0.5', "", "quote that does not close"),
        ("x" * 65 + ",50,0.5", "learner_id", "not an id of at most 64 printable characters"),
    ],
)
def test_a_bad_record_is_rejected_alone(tmp_path: Path, line: str, column: str, rule: str) -> None:
    ids, values, rejected = _read(_write(tmp_path, f"{HEAD}a,1,0.1\n{line}\nb,2,0.2\n"))
    assert ids == ["a", "b"]
    assert values == [[1, 0.1], [2, 0.2]]
    assert rejected == [(2, column, rule)]


def test_bytes_that_are_no_text_are_rejected_alone(tmp_path: Path) -> None:
    ids, _, rejected = _read(_write(tmp_path, HEAD.encode() + b"a,1,0.1\n\xff\xfe,2,0.2\nb,3,0.3"))
    assert (ids, rejected) == (["a", "b"], [(2, "", "not UTF-8")])


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "a,1,0.1\nb,2,0.2\n",
        HEAD + "a,1,0.1\nb,2,0.2",
        (HEAD + "a,1,0.1\nb,2,0.2\n").replace("\n", "\r\n"),
        "\ufeff" + HEAD + "a,1,0.1\n\nb,2,0.2\n\n",
        HEAD + '"a",1,0.1\n"b","2","0.2"\n',
        HEAD + " a , 1 ,0.1\nb,2,\t0.2\n",
        "Accuracy,note,learner_id,avg_score\n0.1,x,a,1\n0.2,,b,2\n",
    ],
)
def test_one_content_has_many_spellings(tmp_path: Path, text: str) -> None:
    assert _read(_write(tmp_path, text)) == (["a", "b"], [[1, 0.1], [2, 0.2]], [])


def test_lines_are_handed_on_only_where_they_are_id_and_features(tmp_path: Path) -> None:
    plain = "a,1.50,0.1\nb,2,0.2\n"
    assert [b.lines for b in _write(tmp_path, HEAD + plain).read()] == [plain.encode()]
    for text in (HEAD + '"a",1,0.1\n', "learner_id,accuracy,avg_score\na,0.1,1\n", HEAD[:-1] + ",note\na,1,0.1,x\n"):
        assert [b.lines for b in _write(tmp_path, text).read()] == [None]


def test_records_are_numbered_through_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_summary, "BLOCK_BYTES", 300)
    lines = [f"s{i},{i % 100},0.5" for i in range(1, 501)]
    lines[99], lines[399] = "s100,bad,0.5", "s400,,0.5"
    file = _write(tmp_path, HEAD + "\n".join(lines) + "\n")
    assert len(list(file.read())) > 5
    ids, _, rejected = _read(file)
    assert [one[0] for one in rejected] == [100, 400]
    assert len(ids) + len(rejected) == 500
    numbers = np.concatenate([b.records for b in file.read()])
    assert [f"s{n}" for n in numbers] == ids


def test_repeated_learners_are_found_by_id_and_the_first_is_kept(tmp_path: Path) -> None:
    file = _write(tmp_path, HEAD + "a,1,0.1\nb,2,0.2\na,3,0.3\nc,x,0\nb,2,0.2\na,4,0.4\n")
    (batch,) = file.read()
    repeated = find_repeated(file, batch.ids.hash().to_numpy())
    kept = batch.without(repeated)
    assert kept.ids.to_list() == ["a", "b"]
    assert kept.values.tolist() == [[1, 0.1], [2, 0.2]]
    rules = [(r.record, r.rule) for r in kept.rejected]
    twice = "learner_id stands more than once"
    assert rules == [(3, twice), (4, "text in a number"), (5, twice), (6, twice)]
    # two ids of one digest are two learners
    assert find_repeated(file, np.zeros(5, np.uint64)).tolist() == repeated.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; deliver at least its header"),
        ("id,score,acc\n1,2,3\n", "begins with no header line that is known"),
        ("learner_id,avg_scor,accuracy\n1,2,3\n", "column avg_score is missing; the nearest is avg_scor: rename it"),
        ("learner_id,avg_score,accuracy,accuracy\n1,2,3,4\n", "accuracy stands twice"),
        (b"PK\x03\x04xxxx", "zip archive or a spreadsheet"),
        (b"PAR1xxxxxxx", "damaged Parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused_whole(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DeliveryRefused, match=words):
        _write(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeliveryRefused, match="nothing is at"):
        LearnerFile(tmp_path / "none.csv", FEATURES)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    file = _write(tmp_path, HEAD + "a,1,0.1\n")
    file.path.write_text(HEAD + "a,1,0.1\nb,2,0.2\n")
    with pytest.raises(DeliveryRefused, match="changed while it was read"):
        list(file.read())


def test_parquet_is_judged_by_the_same_rules(tmp_path: Path) -> None:
    table = pl.DataFrame({
        "learner_id": ["a", None, "b", "", "c", "d", "e"],
        "avg_score": [1.0, 2.0, None, 4.0, float("nan"), 101.0, 5.0],
        "accuracy": [1, 2, 3, 4, 5, 6, 7],
    })  # fmt: skip
    path = tmp_path / "learners.parquet"
    table.write_parquet(path)
    ids, values, rejected = _read(LearnerFile(path, FEATURES))
    assert (ids, values) == (["a", "e"], [[1, 1], [5, 7]])
    assert rejected == [
        (2, "learner_id", "missing value"), (3, "avg_score", "missing value"), (4, "learner_id", "missing value"),
        (5, "avg_score", "number that is not finite"), (6, "avg_score", "outside 0 to 100"),
    ]  # fmt: skip
    table.with_columns(accuracy=pl.lit("x")).write_parquet(path)
    with pytest.raises(DeliveryRefused, match=r"column accuracy is of type .*; write it as a number"):
        LearnerFile(path, FEATURES)
    table.rename({"accuracy": "acuracy"}).write_parquet(path)
    with pytest.raises(DeliveryRefused, match="the nearest is acuracy: rename it"):
        LearnerFile(path, FEATURES)
