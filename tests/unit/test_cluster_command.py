"""`iom cluster` as a user calls it: what it writes, what it says of a damaged file, and what a killed run leaves.

The passes over the rows are tested against scikit-learn in tests/unit/test_clustering_passes.py.
"""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from iom_platform.cli import main
from tests.performance.bench_clustering import write_learners

FEATURES = ["time_spent", "avg_score", "accuracy", "topic_progress"]
LEARNERS = 6000
SMALL_FILES = ["cluster_profiles.csv", "task_2_1_report.md", "preprocess.joblib", "kmeans.joblib", "gmm.joblib",
               "clustering_summary.json"]  # fmt: skip
ROW_FILES = ["learner_clusters.csv", "learner_clusters.csv.gz", "learner_clusters.parquet"]
ARCHIVE = "IOM_Task_2_1_Submission.tgz"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def _cluster(file: Path, out: Path, *more: str, features: list[str] = FEATURES) -> Done:
    """The command in this process: its imports take longer than its work on few learners."""
    said, warned, code = io.StringIO(), io.StringIO(), 0
    arguments = ["iom", "cluster", str(file), "--features", ",".join(features), "--out", str(out), *more]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(warned):
        patch.setattr(sys, "argv", arguments)
        patch.setenv("IOM_HOME", str(out.parent / "no home"))
        mask = os.umask(0o022)
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            os.umask(mask)
    return Done(code, said.getvalue(), warned.getvalue())


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("learners") / "learners.csv"
    write_learners(file, LEARNERS, seed=1)
    return file


@pytest.fixture(scope="module")
def made(learners: Path) -> Path:
    out = learners.parent / "out"
    done = _cluster(learners, out)
    assert done.returncode == 0, done.stderr
    assert f"{LEARNERS:,} records = {LEARNERS:,} clustered + 0 rejected" in done.stdout
    return out


def test_every_learner_is_written_in_order_as_delivered(learners: Path, made: Path) -> None:
    lines, given = (made / "learner_clusters.csv").read_text().splitlines(), learners.read_text().splitlines()
    assert lines[0] == given[0] + ",cluster_kmeans,cluster_gmm,gmm_confidence"
    assert [line.rsplit(",", 3)[0] for line in lines] == given
    with gzip.open(made / "learner_clusters.csv.gz") as packed:
        assert packed.read() == (made / "learner_clusters.csv").read_bytes()
    rows = pd.read_csv(made / "learner_clusters.csv")
    pd.testing.assert_frame_equal(
        pd.read_parquet(made / "learner_clusters.parquet"), rows, check_dtype=False, check_exact=True
    )


def test_models_reload_to_the_labels_that_were_written(made: Path) -> None:
    rows = pd.read_csv(made / "learner_clusters.csv")
    scaler, kmeans, gmm = (joblib.load(made / f"{name}.joblib") for name in ("preprocess", "kmeans", "gmm"))
    scaled = scaler.transform(rows[FEATURES].to_numpy())
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert scaled.std(axis=0) == pytest.approx(1, abs=1e-9)
    assert kmeans.predict(scaled).tolist() == rows.cluster_kmeans.tolist()
    assert gmm.predict(scaled).tolist() == rows.cluster_gmm.tolist()
    assert rows.gmm_confidence.to_numpy() == pytest.approx(gmm.predict_proba(scaled).max(axis=1), abs=1e-6)


def test_profiles_and_summary_are_of_the_rows(made: Path) -> None:
    rows, profiles = pd.read_csv(made / "learner_clusters.csv"), pd.read_csv(made / "cluster_profiles.csv")
    facts = json.loads((made / "clustering_summary.json").read_text())
    assert len(profiles) == 2 * 3 * 4
    for _, one in profiles.iterrows():
        values = rows.loc[rows[f"cluster_{one.algorithm}"] == one.cluster, one.feature]
        told = (one.learners, one.share, one["mean"], one.q1, one["median"], one.q3)
        assert told == pytest.approx(
            (len(values), len(values) / LEARNERS, values.mean(), *values.quantile([0.25, 0.5, 0.75])), rel=1e-5
        )
        apart = (values.mean() - rows[one.feature].mean()) / rows[one.feature].std(ddof=0)
        assert one.standardized_difference == pytest.approx(apart, abs=1e-4)
    for algorithm in ("kmeans", "gmm"):
        sizes = rows[f"cluster_{algorithm}"].value_counts()
        assert facts["sizes"][algorithm] == {str(c): int(sizes[c]) for c in sorted(sizes.index)}
        assert facts["quality_metrics"][algorithm]["silhouette_sample_rows"] == LEARNERS
    # cluster 0 is the one whose learners do most
    assert profiles.query("cluster == 0").standardized_difference.min() > 0.5
    report = (made / "task_2_1_report.md").read_text()
    assert f"# Clusters of {LEARNERS:,} learners" in report
    assert f"{facts['quality_metrics']['gmm']['silhouette']:.4f}" in report


def test_archive_unpacks_to_the_same_files(made: Path) -> None:
    with tarfile.open(made / ARCHIVE) as archive:
        assert sorted(archive.getnames()) == sorted([*SMALL_FILES, *ROW_FILES])
        for name in (*SMALL_FILES, *ROW_FILES):
            packed = archive.extractfile(name)
            assert packed is not None and packed.read() == (made / name).read_bytes(), name
    assert sorted(path.name for path in made.iterdir()) == sorted([*SMALL_FILES, *ROW_FILES, ARCHIVE])


def test_the_same_file_and_seed_give_the_same_clusters(learners: Path, made: Path, tmp_path: Path) -> None:
    assert _cluster(learners, tmp_path / "again").returncode == 0
    for name in ("learner_clusters.csv", "cluster_profiles.csv", "kmeans.joblib", "gmm.joblib"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes(), name
    parquet = learners.with_suffix(".parquet")
    pd.read_csv(learners).to_parquet(parquet)
    assert _cluster(parquet, tmp_path / "parquet", "--seed", "8").returncode == 0
    here, there = (pd.read_csv(folder / "learner_clusters.csv") for folder in (made, tmp_path / "parquet"))
    assert adjusted_rand_score(here.cluster_kmeans, there.cluster_kmeans) > 0.99


def test_no_id_leaves_the_files_that_were_asked_for(learners: Path, made: Path) -> None:
    assert not (made.parent / "no home").exists()
    some_id = learners.read_text().splitlines()[1].split(",")[0]
    for name in SMALL_FILES:
        assert some_id.encode() not in (made / name).read_bytes(), name


def test_damaged_records_are_counted_and_the_others_clustered(learners: Path, tmp_path: Path) -> None:
    lines = learners.read_text().splitlines()
    good = lines[5]
    cells = good.split(",")
    lines[10] = lines[10].replace(",", ",x", 1)
    lines[20] = ",".join([lines[20].split(",")[0], "1e309", *cells[2:]])
    lines[30] = good
    lines[40] += ",extra"
    damaged = tmp_path / "damaged.csv"
    damaged.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    done = _cluster(damaged, out)
    assert done.returncode == 0, done.stderr
    assert f"{LEARNERS:,} records = {LEARNERS - 4:,} clustered + 4 rejected" in done.stdout
    rejected = pd.read_csv(out / "rejected_records.csv")
    assert rejected.record.tolist() == [10, 20, 30, 40]
    assert rejected.rule.tolist() == ["text in a number", "number that is not finite",
                                      "learner_id stands more than once", "wrong number of fields"]  # fmt: skip
    assert rejected.remedy.notna().all()
    rows = pd.read_csv(out / "learner_clusters.csv")
    assert rows.learner_id.tolist() == [
        line.split(",")[0] for n, line in enumerate(lines) if n not in (0, 10, 20, 30, 40)
    ]
    # what a learner is in without the damaged ones is what the models say
    scaler, kmeans = (joblib.load(out / f"{name}.joblib") for name in ("preprocess", "kmeans"))
    assert scaler.mean_ == pytest.approx(rows[FEATURES].mean().to_numpy(), rel=1e-9)
    assert kmeans.predict(scaler.transform(rows[FEATURES].to_numpy())).tolist() == rows.cluster_kmeans.tolist()


@pytest.mark.parametrize(
    ("text", "more", "code", "words"),
    [
        ("", (), 4, "is empty; deliver at least its header"),
        ("learner_id,a,b\n", (), 4, "has a header and no record"),
        ("learner_id,a,c\n1,2,3\n", (), 4, "column b is missing"),
        ("learner_id,a,b\n1,x,3\n2,y,3\n", (), 4, "none of 2 records can be used; 2 times a: text in a number"),
        ("learner_id,a,b\n1,2,3\n2,2,3\n", (), 4, "1 distinct learners for 3 clusters; lower --k"),
        ("learner_id,a,b\n1,2,3\n", ("--k", "1"), 2, "--k is 1"),
        ("learner_id,a,b\n1,2,3\n", ("--k", "101"), 2, "--k is 101"),
        ("learner_id,a,b\n1,2,3\n", ("--sample", "1"), 2, "--sample is 1"),
        (
            "learner_id,a,b\n1,2,3\n",
            ("--algorithms", "kmeans,ward"),
            2,
            "must be of kmeans, gmm, dbscan, hdbscan, hierarchical, each once",
        ),
        ("learner_id,a,b\n1,2,3\n", ("--features", "a,a"), 2, "must name each column once"),
        ("learner_id,a,b\n1,2,3\n", ("--features", "a,A"), 2, "must name each column once"),
        ("learner_id,a,b\n1,2,3\n", ("--features", "a,Learner_ID"), 2, "must name each column once"),
        (
            "learner_id,a,cluster_gmm\n1,2,3\n",
            ("--features", "a,cluster_gmm"),
            2,
            "cluster_gmm, which is a column of the result",
        ),
        ("learner_id,a,gmm_confidence\n1,2,3\n", ("--features", "a,gmm_confidence"), 2, "is a column of the result"),
        ("learner_id,a,b\n1,2,3\n", ("--seed", str(2**32)), 2, "less than or equal to 4294967295"),
        ("learner_id,a,b\n1,1e300,3\n2,-1e300,3\n", (), 4, "2 times a: outside -1e+15 to 1e+15"),
    ],
)
def test_what_allows_no_clusters_is_refused_and_writes_nothing(
    tmp_path: Path, text: str, more: tuple[str, ...], code: int, words: str
) -> None:
    file, out = tmp_path / "learners.csv", tmp_path / "out"
    file.write_text(text)
    done = _cluster(file, out, *more, features=["a", "b"])
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists() or not list(out.iterdir())


def test_features_that_say_nothing_are_called_out(learners: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(learners).assign(fixed=1.5)
    frame["doubled"] = 2 * frame.accuracy - 0.5 * frame.avg_score
    file, out = tmp_path / "learners.csv", tmp_path / "out"
    frame.to_csv(file, index=False)
    done = _cluster(file, out, features=["avg_score", "accuracy", "fixed", "doubled"])
    assert done.returncode == 0, done.stderr
    assert "warning: fixed is constant, so it tells no learner apart" in done.stdout
    assert "warning: doubled is a linear combination of avg_score, accuracy" in done.stdout
    assert "fixed is constant" in (out / "task_2_1_report.md").read_text()
    done = _cluster(learners, tmp_path / "honest")
    assert "warning" not in done.stdout


@pytest.mark.parametrize("features", [["avg_score"], FEATURES])
def test_few_learners_get_clusters_too(tmp_path: Path, features: list[str]) -> None:
    file, out = tmp_path / "learners.csv", tmp_path / "out"
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"learner_id": range(5), **{name: rng.random(5).round(3) for name in FEATURES}})
    table.to_csv(file, index=False)
    done = _cluster(file, out, "--k", "5", features=features)
    assert done.returncode == 0, done.stderr
    assert sorted(pd.read_csv(out / "learner_clusters.csv").cluster_kmeans) == [0, 1, 2, 3, 4]


def test_features_may_be_named_like_a_cluster_or_a_confidence(learners: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "learners.csv", tmp_path / "out"
    names = {"avg_score": "cluster_size", "accuracy": "self_confidence"}
    pd.read_csv(learners).rename(columns=names)[["learner_id", *names.values()]].to_csv(file, index=False)
    assert _cluster(file, out, features=list(names.values())).returncode == 0
    rows = pd.read_csv(out / "learner_clusters.csv")
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "learner_clusters.parquet"), rows, check_dtype=False, check_exact=True
    )
    assert list(rows)[3:] == ["cluster_kmeans", "cluster_gmm", "gmm_confidence"]
    assert set(rows.cluster_gmm) == {0, 1, 2}


def test_the_file_that_is_read_is_never_replaced(learners: Path, made: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    for name in ("learner_clusters.csv", "learner_clusters.parquet"):
        done = _cluster(made / name, made, "--no-csv")
        assert (done.returncode, "is the file to read, and would be replaced" in done.stderr) == (2, True), done.stderr
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_what_lies_in_the_way_is_refused_and_left_alone(learners: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        folder.mkdir()
    (other / "kept").write_text("mine")
    (out / ".unfinished").symlink_to(other)
    done = _cluster(learners, out)
    assert (done.returncode, "is no folder of an earlier run" in done.stderr) == (2, True), done.stderr
    assert (other / "kept").read_text() == "mine"
    (out / ".unfinished").unlink()
    (out / "kmeans.joblib").mkdir()
    done = _cluster(learners, out)
    assert (done.returncode, "is a folder where a file belongs" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in out.iterdir()] == ["kmeans.joblib"]
    left = out / ".unfinished" / "learners.csv"
    left.parent.mkdir()
    left.write_bytes(learners.read_bytes())
    (out / "kmeans.joblib").rmdir()
    done = _cluster(left, out)
    assert (done.returncode, "would be cleared" in done.stderr) == (2, True), done.stderr
    assert left.exists()


@pytest.mark.parametrize("kilobytes", [10, 300])
def test_a_full_disk_is_told_and_leaves_an_earlier_result_alone(learners: Path, tmp_path: Path, kilobytes: int) -> None:
    out = tmp_path / "out"
    assert _cluster(learners, out).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    # a file that may not grow fails as one does on a full disk
    command = f'ulimit -f {kilobytes * 1024 // 512}; exec "$0" "$@"'
    iom = str(Path(sys.executable).parent / "iom")
    arguments = ["cluster", str(learners), "--features", ",".join(FEATURES), "--out", str(out)]
    done = subprocess.run(["sh", "-c", command, iom, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, "did not take all files (file too large); make room there" in done.stderr) == (1, True), (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_cannot_be_closed_on_a_full_disk_does_not_hide_the_reason(tmp_path: Path) -> None:
    from iom_platform.storage.learner_files import NotWritten, open_outputs

    out = tmp_path / "out"
    with pytest.raises(NotWritten, match="no space left on device"), open_outputs(out, with_csv=False) as files:
        files._csv = Path("/dev/full").open("wb")  # noqa: SIM115 # closed by what is tested
        files._csv.write(b"waits in memory until the file is closed")
        raise OSError(errno.ENOSPC, "no name of a file")
    assert not list(out.iterdir())


def test_ctrl_c_leaves_nothing_that_looks_finished(learners: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = _KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGINT)")
    arguments = ["archive_rows", "cluster", str(learners), "--features", ",".join(FEATURES), "--out", str(out)]
    assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False).returncode == 130
    assert not list(out.iterdir())


def test_without_csv_only_parquet_holds_rows(learners: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _cluster(learners, out).returncode == 0
    assert _cluster(learners, out, "--no-csv").returncode == 0
    # a file of an earlier run that this one does not make is gone
    assert sorted(p.name for p in out.iterdir()) == sorted([*SMALL_FILES, "learner_clusters.parquet", ARCHIVE])
    assert (out / "kmeans.joblib").read_bytes() == (made / "kmeans.joblib").read_bytes()


_KILLED = """
import os, signal, sys
from iom_platform.storage.learner_files import LearnerFiles
setattr(LearnerFiles, sys.argv.pop(1), lambda *given: os.kill(os.getpid(), signal.SIGKILL))
from iom_platform.cli import main
main()
"""


@pytest.mark.parametrize("moment", ["add", "archive_rows", "finish"])
def test_a_killed_run_leaves_nothing_that_looks_finished(learners: Path, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        _KILLED,
        moment,
        "cluster",
        str(learners),
        "--features",
        ",".join(FEATURES),
        "--out",
        str(out),
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [".unfinished"]
    assert _cluster(learners, out).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*SMALL_FILES, *ROW_FILES, ARCHIVE])


def test_a_refused_run_leaves_an_earlier_result_alone(learners: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _cluster(learners, out).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    empty = tmp_path / "empty.csv"
    empty.write_text(learners.read_text().splitlines()[0] + "\n")
    assert _cluster(empty, out).returncode == 4
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_two_runs_do_not_write_to_one_folder(learners: Path, tmp_path: Path) -> None:
    from iom_platform.storage.learner_files import open_outputs

    out = tmp_path / "out"
    with open_outputs(out):
        done = _cluster(learners, out)
    assert done.returncode == 2
    assert "another `iom cluster` writes to" in done.stderr
