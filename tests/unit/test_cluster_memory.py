"""Memory of `iom cluster`: what is needed and free is said, and where it does not fit, columns on disk give the same files."""

import errno
import mmap
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from iom_platform.cli.memory import find_available, plan_memory
from iom_platform.extract import learner_columns
from iom_platform.extract.learner_columns import read_columns
from iom_platform.extract.learner_summary import LearnerFile, find_repeated
from tests.performance.bench_clustering import write_learners
from tests.unit.test_cluster_command import FEATURES, _cluster

cluster = import_module("iom_platform.cli.cluster")  # the command has its name in the package
LEARNERS = 4000
GB = 10**9


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them stand in it twice."""
    file = tmp_path_factory.mktemp("memory") / "learners.csv"
    write_learners(file, LEARNERS, seed=5)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, *lines[5:3000:7]]))
    return file


def _is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap.mmap)


def test_where_memory_is_short_columns_lie_on_disk_and_every_file_is_the_same(
    learners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, written = [], {}

    def read(file: LearnerFile, folder: Path | None) -> learner_columns.LearnerColumns | None:
        found = read_columns(file, folder)
        assert found is not None
        held.append(_is_mapped(found.columns))
        # a file without a name is gone with the process, however that ends
        assert folder is None or not [path for path in folder.iterdir() if path.stat().st_size > 0]
        return found

    monkeypatch.setattr(learner_columns, "read_columns", read)
    for name, free in (("memory", 8 * GB), ("disk", GB // 1000), ("unknown", None)):
        monkeypatch.setattr(cluster, "find_available", lambda free=free: free)
        done = _cluster(learners, tmp_path / name, "--weights", "accuracy=2")
        assert done.returncode == 0, done.stderr
        assert ("of memory are needed for about 4," in done.stderr) and ("beside the output" in done.stderr) == held[-1]
        written[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()
                         if path.name not in ("clustering_summary.json", "IOM_Task_2_1_Submission.tgz")}  # fmt: skip
    assert held == [False, True, False]
    assert len(written["memory"]) == 9
    assert written["memory"] == written["disk"] == written["unknown"]


def test_a_disk_without_room_for_the_columns_is_told(
    learners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(cluster, "find_available", lambda: 0)
    done = _cluster(learners, tmp_path / "out")
    assert (done.returncode, "did not take all files (no space left on device)" in done.stderr) == (1, True)
    assert not list((tmp_path / "out").iterdir())


def test_repeated_learners_are_found_in_any_number_of_pieces(learners: Path) -> None:
    file = LearnerFile(learners, FEATURES)
    digests = np.concatenate([batch.ids.hash().to_numpy() for batch in file.read()])
    found = [find_repeated(file, digests, pieces=pieces).tolist() for pieces in (1, 2, 16)]
    assert found[0] == found[1] == found[2] == list(range(LEARNERS, len(digests)))
    # the ends of each piece belong to it; records 4, 11, 18 and 25 are those that come again first
    looked_at = np.arange(10, len(digests) + 10, dtype=np.uint64)
    for number, end in enumerate((0, 2**60 - 1, 2**60, 2**64 - 1)):
        looked_at[[4 + 7 * number, LEARNERS + number]] = end
    assert find_repeated(file, looked_at, pieces=16).tolist() == [LEARNERS + number for number in range(4)]


def test_records_are_estimated_before_they_are_read(learners: Path, tmp_path: Path) -> None:
    import polars as pl

    count = len(learners.read_text().splitlines()) - 1
    assert LearnerFile(learners, FEATURES).estimate_records() == pytest.approx(count, rel=0.02)
    pl.read_csv(learners).write_parquet(tmp_path / "learners.parquet")
    assert LearnerFile(tmp_path / "learners.parquet", FEATURES).estimate_records() == count


@pytest.mark.parametrize(
    ("learners", "available", "is_on_disk", "told"),
    [
        (10**7, None, False, "about 0.8 GB of memory are needed for about 10,000,000 learners"),
        (10**7, 820_000_000, False, "about 0.8 GB of memory are needed for about 10,000,000 learners, and 0.8 GB are free"),
        (10**7, 819_999_999, True, "and only 0.8 GB are free; their columns lie in a file of 0.2 GB beside the output until "
                                   "the end, in another one while the file is read, and about 0.6 GB of memory are needed"),
        (10**9, 5 * GB, True, "about 10.5 GB of memory are needed, which is too much still: make room"),
    ],
)  # fmt: skip
def test_what_is_needed_and_done_instead_is_said(
    learners: int, available: int | None, is_on_disk: bool, told: str
) -> None:
    plan = plan_memory(learners, 4, 2, has_methods=False, available=available)
    assert plan.is_on_disk == is_on_disk
    assert plan.told.endswith(told)


def test_methods_that_see_a_sample_need_more() -> None:
    assert plan_memory(1000, 4, 2, has_methods=True, available=GB).is_on_disk
    assert not plan_memory(1000, 4, 2, has_methods=False, available=GB).is_on_disk


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, None),
        (MACHINE, 4_096_000),
        # the group above allows less; what files hold can be given up
        ({**MACHINE, "proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/b/memory.current": "9",
          f"{V2}/a/memory.max": "1000\n", f"{V2}/a/memory.current": "700\n",
          f"{V2}/a/memory.stat": "anon 5\nactive_file 10\ninactive_file 20\n"}, 330),
        ({**MACHINE, "proc/self/cgroup": "5:cpu:/\n4:memory:/a\n0::/\n", f"{V1}/a/memory.limit_in_bytes": "1000",
          f"{V1}/a/memory.usage_in_bytes": "400", f"{V1}/a/memory.stat": "total_active_file 7\n"}, 607),
        # seen from within a container, and with more in use than allowed
        ({**MACHINE, "proc/self/cgroup": "0::/../elsewhere\n", f"{V2}/memory.max": "10", f"{V2}/memory.current": "11"}, 0),
        ({**MACHINE, "proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": str(2**63 - 4096),
          f"{V1}/memory.usage_in_bytes": "400"}, 4_096_000),
    ],
)  # fmt: skip
def test_free_memory_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, files: dict[str, str], available: int | None
) -> None:
    assert find_available(_write(tmp_path, files)) == available


def test_this_machine_tells() -> None:
    available = find_available()
    assert available is None or 0 < available < 1 << 50
