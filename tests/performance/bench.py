"""`make bench`: seconds and peak memory of each stage at OULAD size, and the feature models against plain pandas.

What the features are belongs to the dbt models and to plain_features.py; no limit of time is asserted anywhere.
"""

import argparse
import bisect
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from iom_platform.extract.synthetic import TwinSummary, write_twin
from iom_platform.extract.twin.students import TwinKnobs
from iom_platform.settings import PROJECT_ROOT, environment_with, load_settings
from iom_platform.tables import OULAD_STUDENT_VLE, STUDENT_TERM, TABLES

AS_OF = date(2014, 3, 3)
SEED = 20131216
# layout -> students for OULAD's 10.66 M click rows, and how the presentations lie
LAYOUTS = {"running": 29_700, "ended": 28_785}
STAGES = {
    "load_delivery": "land",
    "dbt_build": "features",
    "features__student_term_expectations": "features",
    "anonymize_student_term": "privacy",
    "release_student_outcome": "privacy",
    "release_student_week": "privacy",
    "fit_model": "clustering",
    "assign_clusters": "clustering",
    "score_risk": "risk",
    "write_report": "risk",
}
BETWEEN = "start and between"
SAMPLE_SECONDS = 0.25
MEMORY_TARGET = 3_000_000_000
RATIO_TARGET = 2.0
# of floats: |a - b| <= TOLERANCE (|b| + NEAR_ZERO); of nothing else
TOLERANCE = 1e-9
NEAR_ZERO = 1e-3
RAW = tuple(t for t in TABLES if t.stage == "raw" and t.name not in ("files", "quarantine"))
_BIN = Path(sys.executable).parent
_STEP = re.compile(r"^  (\w+): done in ([\d.]+) s(?:: .*)?$")  # what the step decided may follow


# -- memory -------------------------------------------------------------------------------------------


def measure_tree(roots: list[int]) -> tuple[int, float]:
    """(bytes, CPU seconds so far) of the processes and all that descend from them.

    Bytes are PSS, which counts a page that n share as 1/n in each, so PostgreSQL's shared buffers count once; where a
    system has no PSS, USS: pages that nobody shares. CPU seconds hold those of children that have ended.
    """
    found: dict[int, psutil.Process] = {}
    for root in roots:
        try:
            process = psutil.Process(root)
            found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    total, seconds = 0, 0.0
    for process in found.values():
        try:
            memory, times = process.memory_full_info(), process.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        total += getattr(memory, "pss", memory.uss)
        seconds += times.user + times.system + times.children_user + times.children_system
    return total, seconds


def postmaster(home: Path) -> list[int]:
    """The embedded server's first process: it is no child of the command that started it."""
    from iom_platform.storage.server_place import recorded_location

    try:
        return [int((recorded_location(home / "postgres") / "data" / "postmaster.pid").read_text().split()[0])]
    except (OSError, ValueError, IndexError):
        return []


class Sampler(threading.Thread):
    """Samples memory and CPU seconds of a process tree, and of the server's, until it is stopped."""

    def __init__(self, pid: int, home: Path) -> None:
        super().__init__(daemon=True)
        self._pid, self._home, self._done = pid, home, threading.Event()
        self.samples: list[tuple[float, int, float]] = []

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.samples.append((time.monotonic(), *measure_tree([self._pid, *postmaster(self._home)])))

    def stop(self) -> None:
        self._done.set()
        self.join()

    def peak(self, spans: list[tuple[float, float]] | None = None) -> int:
        """The highest sample of memory in the spans; of all samples without spans."""
        inside = [b for at, b, _ in self.samples if spans is None or any(begin <= at <= end for begin, end in spans)]
        return max(inside, default=0)

    def cpu_seconds(self, spans: list[tuple[float, float]]) -> float:
        """CPU seconds spent in the spans, to the sample."""
        # a process that ends between two samples takes its seconds along until its parent has reaped it
        used = [0.0, *itertools.accumulate((cpu for _, _, cpu in self.samples), max)]
        at = [sample[0] for sample in self.samples]
        return sum(used[bisect.bisect(at, end)] - used[bisect.bisect(at, begin)] for begin, end in spans)


# -- the real thing -----------------------------------------------------------------------------------


@dataclass
class Stage:
    """What one stage took, over its steps; `rows` in and out, `peak` in bytes."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    peak: int = 0
    cpu: float = 0.0
    rows: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        return sum(end - begin for begin, end in self.spans)


def write_extract(out: Path, layout: str, students: int) -> TwinSummary:
    """`running`: nearly all presentations run and are late in their term; `ended`: as in OULAD, most are over."""
    if layout == "ended":
        return write_twin(out, students=students, seed=SEED, through=AS_OF)
    knobs = TwinKnobs(presentations_per_module=1.0)
    return write_twin(
        out, students=students, seed=SEED, through=AS_OF, layout_day=AS_OF - timedelta(days=80), knobs=knobs
    )


def run_stages(home: Path, extract: Path) -> tuple[dict[str, Stage], Sampler]:
    """`iom run` as a user calls it; a step's span ends where its line arrives, and begins its seconds before."""
    began = time.monotonic()
    command = [str(_BIN / "iom"), "run", "--source", "synthetic", "--path", str(extract), "--as-of", str(AS_OF)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=home)
    sampler = Sampler(process.pid, home)
    sampler.start()
    stages = {name: Stage() for name in dict.fromkeys(STAGES.values())}
    said = []
    for line in process.stderr or ():
        step = _STEP.match(line)
        if step is None:
            said.append(line)
        elif step[1] not in STAGES:
            raise KeyError(f"step {step[1]} is of no stage that the benchmark knows; add it to STAGES")
        else:
            end = time.monotonic()
            stages[STAGES[step[1]]].spans.append((end - float(step[2]), end))
    code = process.wait()
    sampler.stop()
    if code:
        sys.exit(f"iom run ended with {code}:\n{''.join(said)}")
    edges = [
        began,
        *itertools.chain.from_iterable(sorted(s for stage in stages.values() for s in stage.spans)),
        time.monotonic(),
    ]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    stages[BETWEEN] = Stage(gaps)
    for stage in stages.values():
        stage.peak, stage.cpu = sampler.peak(stage.spans), sampler.cpu_seconds(stage.spans)
    return stages, sampler


def count_rows(stages: dict[str, Stage], extract: TwinSummary) -> None:
    """Rows in and out of each stage, from what is in the warehouse and the record afterwards."""
    from iom_platform.storage.warehouse import count_tables

    rows = {t.path: t.rows or 0 for t in count_tables(load_settings())}
    delivered = sum(extract.rows.values())
    loaded = sum(rows[f"raw/{t.name}"] for t in RAW if t.name.startswith("oulad_"))
    term, anonymized = rows["features/student_term"], rows["anonymized/student_term"]
    stages["land"].rows = (delivered, loaded)
    stages["features"].rows = (loaded, term)
    stages["privacy"].rows = (term, anonymized)
    stages["clustering"].rows = (anonymized, rows["clustering/assignments"])
    stages["risk"].rows = (anonymized, rows["risk/student_risk"])


# -- the feature models against plain pandas ----------------------------------------------------------


def time_models(folder: Path) -> float:
    """`dbt run` of all models; the sum of the seconds that dbt itself notes for each, writing its table included."""
    project = str(PROJECT_ROOT / "dbt_project")
    command = [str(_BIN / "dbt"), "--quiet", "run", "--project-dir", project, "--profiles-dir", project,
               "--target-path", str(folder), "--log-path", str(folder)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment_with(IOM_AS_OF_ON=str(AS_OF))
    )
    if done.returncode:
        sys.exit(f"dbt run failed:\n{done.stdout[-4000:]}")
    results = json.loads((folder / "run_results.json").read_text())["results"]
    return float(sum(r["execution_time"] for r in results))


def _read_raw() -> dict[str, pd.DataFrame]:
    """The raw tables as frames; of the click rows only the columns that the rival uses, to spare it the rest."""
    from iom_platform.storage.rows import to_frame
    from iom_platform.storage.warehouse import open_warehouse, read_rows

    unused = {OULAD_STUDENT_VLE.name: ("file_name", "file_row")}
    with open_warehouse(load_settings(), purpose="benchmark in plain pandas", write=False) as con:
        return {
            t.name: to_frame(read_rows(con, t, columns=[c for c in t.column_names if c not in unused.get(t.name, ())]))
            for t in RAW
        }


def _compute_plainly(out: Path) -> None:
    """The rival, in a process of its own: seconds and frame to files in `out`; reading the raw rows is not counted."""
    from tests.performance.plain_features import plain_student_term

    raw = _read_raw()
    began = time.perf_counter()
    term = plain_student_term(raw, AS_OF)
    (out / "seconds").write_text(str(time.perf_counter() - began))
    term.to_pickle(out / "term.pickle")


def time_pandas(folder: Path, home: Path) -> tuple[float, int]:
    """Seconds and peak memory of the plain computation."""
    process = multiprocessing.get_context("spawn").Process(target=_compute_plainly, args=(folder,))
    process.start()
    assert process.pid is not None
    sampler = Sampler(process.pid, home)
    sampler.start()
    process.join()
    sampler.stop()
    if process.exitcode:
        sys.exit(f"the plain computation ended with {process.exitcode}")
    return float((folder / "seconds").read_text()), sampler.peak()


def compare_terms(found: pd.DataFrame, wanted: pd.DataFrame) -> tuple[list[str], dict[str, float]]:
    """(sentences about columns that differ, largest difference of each float column that is not 0, relative to |wanted| + NEAR_ZERO)."""
    if len(found) != len(wanted) or not len(found):
        return [f"{len(found)} rows of the models against {len(wanted)} in pandas"], {}
    wrong: list[str] = []
    largest: dict[str, float] = {}
    for column in STUDENT_TERM.columns:
        if column.kind == "volatile":
            continue
        left, right = found[column.name], wanted[column.name]
        if column.dtype in ("int", "bigint", "float"):
            a, b = (pd.to_numeric(v).to_numpy(dtype=float, na_value=np.nan) for v in (left, right))
            difference = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b) / (np.abs(b) + NEAR_ZERO))
            bad = ~(difference <= (TOLERANCE if column.dtype == "float" else 0.0))
            worst = float(np.nanmax(difference, initial=0.0))
            if column.dtype == "float" and worst:
                largest[column.name] = worst
        else:
            texts = [
                v.astype("object").where(v.notna(), None).map(str).str[: 10 if column.dtype == "date" else None]
                for v in (left, right)
            ]
            bad = (texts[0] != texts[1]).to_numpy()
        if bad.any():
            wrong.append(f"{column.name}: {int(bad.sum())} of {len(bad)} rows differ")
    return wrong, largest


def read_term() -> pd.DataFrame:
    """What the models made of the day."""
    from iom_platform.storage.warehouse import open_warehouse, read_table

    with open_warehouse(load_settings(), purpose="compare features", write=False) as con:
        return read_table(con, STUDENT_TERM, AS_OF)


def run_pairs(folder: Path, home: Path, pairs: int) -> tuple[list[tuple[float, float]], int, list[str]]:
    """(seconds of the models, seconds of pandas) of each pair, taking turns in going first; peak of pandas; what differs."""
    seconds, peak = [], 0
    for number in range(pairs):
        target, plain = folder / f"dbt-{number}", folder / f"pandas-{number}"
        plain.mkdir()
        models = time_models(target) if number % 2 == 0 else 0.0
        rival, memory = time_pandas(plain, home)
        models = models or time_models(target)
        seconds.append((models, rival))
        peak = max(peak, memory)
    columns = sum(c.kind != "volatile" for c in STUDENT_TERM.columns)
    term = read_term()
    wrong, largest = compare_terms(term, pd.read_pickle(folder / "pandas-0" / "term.pickle"))
    print(f"\nValues: {columns} columns of {len(term):,} rows of student_term against pandas. Floats may differ by")
    print(
        f"{TOLERANCE:g} (|value| + {NEAR_ZERO:g}), nothing else at all. {columns - len(largest)} columns are equal to the bit; largest:"
    )
    for name, worst in sorted(largest.items(), key=lambda item: -item[1])[:5]:
        print(f"  {worst:8.1e}  {name}")
    for sentence in wrong:
        print(f"  DIFFERS  {sentence}")
    return seconds, peak, wrong


# -- the report ---------------------------------------------------------------------------------------


def print_stages(stages: dict[str, Stage], peak: int) -> None:
    print(f"\n{'stage':<18}{'seconds':>9}{'CPU s':>8}{'peak GB':>9}{'rows in':>13}{'rows out':>13}")
    for name, stage in stages.items():
        rows = [f"{n:,}" for n in stage.rows] if stage.rows else ["", ""]
        print(
            f"{name:<18}{stage.seconds:>9.1f}{stage.cpu:>8.1f}{stage.peak / 1e9:>9.2f}{rows[0]:>13}{rows[1]:>13}".rstrip()
        )
    seconds, cpu = (sum(values) for values in zip(*((s.seconds, s.cpu) for s in stages.values()), strict=True))
    print(f"{'iom run':<18}{seconds:>9.1f}{cpu:>8.1f}{peak / 1e9:>9.2f}")
    verdict = "met" if peak < MEMORY_TARGET else "MISSED"
    print(
        f"Memory is PSS of the whole process tree with PostgreSQL, sampled every {SAMPLE_SECONDS:g} s; target under 3 GB: {verdict}."
    )


def print_pairs(pairs: list[tuple[float, float]], peak: int) -> None:
    ratios = [rival / models for models, rival in pairs]
    print("\npair   models s   pandas s   ratio")
    for number, (models, rival) in enumerate(pairs, 1):
        print(f"{number:>4}{models:>11.1f}{rival:>11.1f}{rival / models:>8.2f}")
    median = float(np.median(ratios))
    of = f"median of {len(ratios)} pairs" if len(ratios) > 1 else "a single pair"
    print(
        f"The feature models are {median:.2f} times as fast as plain pandas ({of}); target 2: {'met' if median >= RATIO_TARGET else 'MISSED'}."
    )
    print(
        "Counted: the models' execution as dbt notes it, from table to table; pandas from frames in memory to a frame."
    )
    print(
        f"Not counted: reading into pandas, start of either. Peak of the pandas process, reading included: {peak / 1e9:.2f} GB."
    )


def run_benchmark(folder: Path, *, engine: str, layout: str, students: int, pairs: int) -> int:
    """The exit code: 0, or 1 where a value differs."""
    home = folder / "home"
    home.mkdir()
    for name in [n for n in os.environ if n.startswith(("IOM_", "PG"))]:
        del os.environ[name]
    os.environ |= {"IOM_HOME": str(home), "IOM_ENGINE": engine}
    from iom_platform.cli.environment import start_platform
    from iom_platform.storage.postgres_server import stop_server

    began = time.monotonic()
    extract = write_extract(folder / "extract", layout, students)
    clicks, running = extract.rows["studentVle.csv"], extract.running
    print(f"Engine {engine}. Twin of {students:,} students, layout {layout!r}, {clicks:,} click rows, of which {sum(p.click_rows for p in running):,} in the "
          f"{len(running)} of {len(extract.presentations)} presentations that run on {AS_OF}; written in {time.monotonic() - began:.0f} s.", flush=True)  # fmt: skip
    try:
        stages, sampler = run_stages(home, extract.path)
        start_platform()
        count_rows(stages, extract)
        print_stages(stages, sampler.peak())
        sys.stdout.flush()
        if not pairs:
            return 0
        seconds, peak, wrong = run_pairs(folder, home, pairs)
        print_pairs(seconds, peak)
    finally:
        stop_server(load_settings())
    return 1 if wrong else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.performance.bench", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--engine", choices=["duckdb", "postgres"], default="duckdb", help="where the warehouse is")
    parser.add_argument(
        "--layout",
        choices=sorted(LAYOUTS),
        default="running",
        help="whether most presentations run on the day, or have ended as in OULAD",
    )
    parser.add_argument("--students", type=int, help="size of the twin; default: OULAD's number of click rows")
    parser.add_argument("--pairs", type=int, default=3, help="comparisons with pandas; 0 for none")
    parser.add_argument("--keep", type=Path, help="folder to work in and to leave behind; default: a temporary one")
    given: Any = parser.parse_args(arguments)
    students = given.students or LAYOUTS[given.layout]
    options = {"engine": given.engine, "layout": given.layout, "students": students, "pairs": given.pairs}
    if given.keep:
        given.keep.mkdir(parents=True)
        return run_benchmark(given.keep.resolve(), **options)
    with tempfile.TemporaryDirectory(prefix="iom-bench-") as folder:
        return run_benchmark(Path(folder), **options)


if __name__ == "__main__":
    sys.exit(main())
