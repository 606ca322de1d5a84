"""The benchmark's own parts on a twin of 150 students: they run, values agree, a difference is found; no time is asserted.

How fast anything is does not belong here: `make bench` prints it.
"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iom_platform.extract import SOURCES
from iom_platform.extract.landing import Landing
from iom_platform.settings import PROJECT_ROOT, load_settings
from iom_platform.storage.warehouse import append_rows, open_warehouse, prepare_warehouse
from iom_platform.tables import DELIVERIES, STUDENT_TERM
from tests.performance import bench, hand

STUDENTS = 150


def _land(extract: Path) -> None:
    """The extract's rows as an accepted delivery, without Dagster and its gates, which take long to start."""
    delivery = SOURCES["synthetic"].open_delivery(extract, delivered_on=None)
    landing = Landing(delivery, b"k" * 32)
    row = (delivery.delivery_id, delivery.source, delivery.delivered_on, delivery.scope, delivery.sha256, True,
           datetime(2014, 3, 4, tzinfo=UTC).replace(tzinfo=None))  # fmt: skip
    with open_warehouse(load_settings(), purpose="land a small twin", write=True) as con:
        prepare_warehouse(con)
        with con.transaction():
            for file in delivery.files:
                for batch in landing.read(file):
                    append_rows(con, file.table, batch.rows)
            append_rows(con, DELIVERIES, pd.DataFrame([row], columns=list(DELIVERIES.column_names)))


def test_models_and_plain_pandas_agree_on_a_small_twin(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IOM_WAREHOUSE_PATH", str(load_settings().warehouse_path))
    extract = bench.write_extract(tmp_path / "extract", "running", STUDENTS)
    _land(extract.path)
    folder = tmp_path / "pairs"
    folder.mkdir()
    pairs, peak, wrong = bench.run_pairs(folder, fresh_home, 1)
    bench.print_pairs(pairs, peak)
    assert wrong == []
    assert min(*pairs[0], peak) > 0
    assert "a single pair" in capsys.readouterr().out

    term = bench.read_term()
    assert 0 < len(term) <= STUDENTS
    for column, factor in (("clicks_total", 2), ("score_pct_mean", 1 + 1e-6)):
        row = term[column].first_valid_index()
        changed = term.astype({column: "float64"})
        changed.loc[row, column] *= factor
        assert bench.compare_terms(changed, term)[0] == [f"{column}: 1 of {len(term)} rows differ"]
    renamed = term.assign(course_id=["elsewhere", *term.course_id[1:]])
    assert bench.compare_terms(renamed, term)[0] == [f"course_id: 1 of {len(term)} rows differ"]
    assert bench.compare_terms(term.iloc[1:], term)[0] == [
        f"{len(term) - 1} rows of the models against {len(term)} in pandas"
    ]


def test_a_null_against_a_value_differs() -> None:
    term = pd.DataFrame({c.name: [0.5 if c.dtype == "float" else None] * 2 for c in STUDENT_TERM.columns})
    assert bench.compare_terms(term, term)[0] == []
    found, _ = bench.compare_terms(term.assign(score_pct_mean=[0.5, np.nan]), term)
    assert found == ["score_pct_mean: 1 of 2 rows differ"]


def test_memory_and_processor_time_of_a_child_process_are_seen(tmp_path: Path) -> None:
    held = "block = bytearray(80_000_000); block[::4096] = b'x' * len(block[::4096]); print(flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    used, seconds = bench.measure_tree([process.pid])
    process.communicate(b"\n")
    assert used > 80_000_000 and seconds > 0
    assert bench.measure_tree([process.pid]) == (0, 0.0)


def test_a_stage_has_the_memory_and_time_of_its_own_spans(tmp_path: Path) -> None:
    sampler = bench.Sampler(0, tmp_path)
    sampler.samples = [(1.0, 10, 0.5), (2.0, 30, 1.0), (3.0, 20, 0.9), (4.0, 5, 4.0)]
    assert sampler.peak() == 30
    assert sampler.peak([(2.5, 3.5)]) == 20
    assert sampler.peak([(0.0, 1.5), (3.5, 4.5)]) == 10
    assert sampler.cpu_seconds([(1.5, 3.5)]) == pytest.approx(0.5)
    assert sampler.cpu_seconds([(0.0, 1.5), (3.5, 4.5)]) == pytest.approx(3.5)


def test_the_line_of_a_step_is_read_with_and_without_what_it_decided() -> None:
    for line in ("  fit_model: done in 10.4 s\n", "  fit_model: done in 10.4 s: promoted version 1: forced refit\n"):
        step = bench._STEP.match(line)
        assert step is not None and step.groups() == ("fit_model", "10.4")


@pytest.mark.performance
def test_what_a_person_waits_for_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, doctor = "nothing: python -c pass", "iom doctor"
    monkeypatch.setattr(hand, "COMMANDS", {name: hand.COMMANDS[name] for name in (nothing, doctor)})
    seconds = hand.time_commands(tmp_path / "home", repeats=1)
    assert 0 < seconds[nothing] < seconds[doctor]


@pytest.mark.performance
def test_the_whole_benchmark_runs() -> None:
    command = [sys.executable, "-m", "tests.performance.bench", "--students", str(STUDENTS), "--pairs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (*bench.STAGES.values(), "Values: ", "a single pair"):
        assert words in done.stdout
