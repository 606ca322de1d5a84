"""Learner summaries as they are read: every record is good or rejected with its rule, however the block came to be read.

What becomes of them is tested in tests/unit/test_cluster_command.py.
"""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from iom_platform.extract import learner_summary
from iom_platform.extract.learner_columns import read_columns, standardize
from iom_platform.extract.learner_summary import LearnerFile, find_repeated
from iom_platform.extract.lines import parse_block
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
        ("x\x7f,50,0.5", "learner_id", "not an id of at most 64 printable characters"),
        ("x\u00a0,50,0.5", "learner_id", "not an id of at most 64 printable characters"),
        ("x\u200b,50,0.5", "learner_id", "not an id of at most 64 printable characters"),
        ("?,50,0.5", "learner_id", "missing value"),
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


@pytest.mark.parametrize("line", ["x,50,0.5,n,9", "x,50,0.5", "x,50,0.5,n,9\ny,50,0.5", '"x",50,0.5,n,9\n"y",50,"0.5"'])
def test_fields_are_counted_where_nobody_asks_for_the_last_column(tmp_path: Path, line: str) -> None:
    ids, _, rejected = _read(_write(tmp_path, f"{HEAD[:-1]},note\na,1,0.1,n\n{line}\nb,2,0.2,\n"))
    assert ids == ["a", "b"]
    assert {one[2] for one in rejected} == {"wrong number of fields"}
    assert len(rejected) == line.count("\n") + 1


_ODD_IDS = ("a", "b1", "é", "a\x7f", "a\u00a0", "\u2028", '"x"', '"x,y"', 'a"b', '"a""b"', '""', "null", "NaN",
            "?", "", "x" * 65, "é" * 40, "#c")  # fmt: skip
_ODD_NUMBERS = ("1", "+1", "-0", ".5", "5.", "1e5", "1E+2", "1_0", "0x10", "1e400", "Infinity", "NaN", "1d5", "1e-400", "", "?",
                "007", "true", "null", "1.2.3", '"1.5"', '1"', '""', "9007199254740993", "1e15", "1.1e15", "-1e300")  # fmt: skip


def test_a_line_is_too_long_wherever_it_stands(tmp_path: Path) -> None:
    _, _, rejected = _read(_write(tmp_path, f"{HEAD[:-1]},note\na,1,0.1,n\nb,1,0.1,{'n' * (2 << 20)}\nc,1,0.1,n\n"))
    assert rejected == [(2, "", "record longer than 1 MiB")]


def test_both_ways_to_read_a_block_find_the_same(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    rng = random.Random(2)
    path = tmp_path / "learners.csv"
    path.write_text("learner_id,hits,gain,note\n")
    file = LearnerFile(path, ("hits", "gain"))
    assert file._header is not None
    looked_at = 0
    for _ in range(1500):
        lines = []
        for _ in range(rng.randint(1, 3)):
            fields = [
                rng.choice(_ODD_IDS),
                *(rng.choice(_ODD_NUMBERS) if rng.random() < 0.2 else "2" for _ in "ab"),
                "n",
            ]
            lines.append(",".join(fields[: rng.choice((4, 4, 4, 3))]) + rng.choice(("", "", "", ",9")))
        block = (rng.choice(("\n", "\r\n")).join(lines) + "\n").encode()
        clean = file._read_clean(block, file._header)
        if clean is not None:
            careful = file._read_carefully(parse_block(block, file.shape, file._header))
            assert (clean.ids.to_list(), clean.values.tolist()) == (careful.ids.to_list(), careful.values.tolist()), (
                block
            )
            assert not careful.rejected, block
            looked_at += 1
    assert looked_at > 100
    assert not recwarn.list, "polars warns of quotes in its own words"


@pytest.mark.parametrize("value", ["1e300", "-1.7976931348623157e308", "1.1e15"])
def test_a_number_too_large_to_be_squared_is_rejected_alone(tmp_path: Path, value: str) -> None:
    path = tmp_path / "learners.csv"
    path.write_text(f"learner_id,hits,gain\na,1,-1e15\nx,{value},1\nb,1e-300,2\n")
    ids, values, rejected = _read(LearnerFile(path, ("hits", "gain")))
    assert (ids, values) == (["a", "b"], [[1, -1e15], [1e-300, 2]])
    assert rejected == [(2, "hits", "outside -1e+15 to 1e+15")]


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
    table = table.with_columns(
        learner_id=pl.Series(["a", "?", "b\u200b", "é" * 40, "é" * 65, " d", "7"]), avg_score=1.0
    )
    table.rename({"accuracy": "Accuracy"}).with_columns(pl.lit(1).alias("a, b")).write_parquet(path)
    ids, _, rejected = _read(LearnerFile(path, FEATURES))
    assert ids == ["a", "é" * 40, " d", "7"]
    assert [one[2] for one in rejected] == ["missing value", *["not an id of at most 64 printable characters"] * 2]
    table.with_columns(accuracy=pl.lit("x")).write_parquet(path)
    with pytest.raises(DeliveryRefused, match=r"column accuracy is of type .*; write it as a number"):
        LearnerFile(path, FEATURES)
    wide = pa.table({"learner_id": ["a"], "avg_score": [1.0], "accuracy": pa.array([1]).cast(pa.decimal256(50, 3))})
    pyarrow.parquet.write_table(wide, path)
    with pytest.raises(DeliveryRefused, match=r"column accuracy is of type decimal256.*; write it as a number"):
        LearnerFile(path, FEATURES)
    table.rename({"accuracy": "acuracy"}).write_parquet(path)
    with pytest.raises(DeliveryRefused, match="the nearest is acuracy: rename it"):
        LearnerFile(path, FEATURES)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pl.Series([1.0, 2.0]), "double"), (pl.Series([b"\xff", b"a"]), "large_binary"), (pl.Series([["a"], ["b"]]), "list"),
        (pl.Series([1, 2]).cast(pl.Decimal(10, 2)), "decimal"),
    ],
)  # fmt: skip
def test_an_id_in_parquet_is_text_or_a_whole_number(tmp_path: Path, ids: pl.Series, kind: str) -> None:
    path, numbers = tmp_path / "learners.parquet", pl.Series([1, 2]).cast(pl.Decimal(10, 2))
    pl.DataFrame({"learner_id": ids, "avg_score": numbers, "accuracy": numbers}).write_parquet(path)
    with pytest.raises(DeliveryRefused, match=f"learner_id is of type .*{kind}.*; write it as text or a whole number"):
        LearnerFile(path, FEATURES)
    for good in (pl.Series([1, 2]), pl.Series(["1", "2"], dtype=pl.Categorical)):
        pl.DataFrame({"learner_id": good, "avg_score": numbers, "accuracy": numbers}).write_parquet(path)
        assert _read(LearnerFile(path, FEATURES)) == (["1", "2"], [[1, 1], [2, 2]], [])


def test_the_same_rows_give_the_same_bits_however_they_are_cut() -> None:
    values = np.random.default_rng(2).normal([50, 0.6, 1.7e9], [20, 0.2, 1e5], size=(3000, 3))
    whole, cut = standardize([values]), standardize(np.array_split(values, 7))
    once = standardize([np.insert(values, 700, values[3], axis=0)], lambda: np.array([700]))
    assert whole is not None and cut is not None and once is not None
    np.testing.assert_array_equal(cut.columns, whole.columns)
    np.testing.assert_allclose(once.columns, whole.columns, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        whole.columns, ((values - values.mean(axis=0)) / values.std(axis=0)).T, rtol=0, atol=1e-5
    )
    assert (once.landed, once.columns.shape[1]) == (3001, 3000)


def test_what_varies_less_than_float32_can_tell_is_constant(tmp_path: Path) -> None:
    path = tmp_path / "learners.csv"
    path.write_text("learner_id,hits,gain\n" + "".join(f"s{i},{i}e-41,{i}e-30\n" for i in range(9)))
    learners = read_columns(LearnerFile(path, ("hits", "gain")))
    assert learners is not None
    assert learners.columns[0].tolist() == [0] * 9
    assert learners.columns[1].std() == pytest.approx(1)
