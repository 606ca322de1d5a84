"""`make bench-clustering`: `iom cluster` on 10,956,482 learners against plain pandas and against polars, in one run.

What the rivals do stands in plain_learners.py. Exits 1 where a result is wrong; no limit of time is asserted.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import polars as pl
from sklearn.metrics import adjusted_rand_score

from tests.performance.bench import Sampler
from tests.performance.plain_learners import FEATURES

LEARNERS = 10_956_482
FEW = 1000
SEED = 7
_BIN = Path(sys.executable).parent
_PART = 1 << 20
# of the issue: K-Means by inertia, the mixture by mean log-likelihood per row
_INERTIA, _LIKELIHOOD = 1e-3, 1e-3


def write_learners(path: Path, learners: int, seed: int) -> None:
    """Learners of three habits, skewed in time spent: an id and four features each, the same bytes for a seed."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(learners) + 1
    with path.open("wb") as out:
        for first in range(0, learners, _PART):
            some = ids[first : first + _PART]
            habit = rng.choice(3, len(some), p=[0.3, 0.45, 0.25])
            level = np.array([-1.1, 0.1, 1.2])[habit] + rng.normal(scale=0.5, size=len(some))
            noise = rng.normal(size=(4, len(some)))
            pl.DataFrame({
                "learner_id": pl.Series(some).cast(pl.String).str.zfill(8).str.replace("^", "L"),
                "time_spent": np.clip(np.exp(4.2 + 0.55 * level + 0.35 * noise[0]), 0, 5000).round(2),
                "avg_score": np.clip(62 + 14 * level + 8 * noise[1], 0, 100).round(2),
                "accuracy": np.clip(0.6 + 0.14 * level + 0.09 * noise[2], 0, 1).round(4),
                "topic_progress": np.clip(0.5 + 0.18 * level + 0.11 * noise[3], 0, 1).round(4),
            }).write_csv(out, include_header=first == 0)  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One run of a command: wall and processor seconds, peak memory in bytes, seconds of its own steps."""

    seconds: float
    cpu: float
    peak: int
    steps: dict[str, float]


def time_command(name: str, file: Path, out: Path) -> Timed:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [sys.executable, "-m", "tests.performance.plain_learners", name, str(file), str(out)]
    if name == "iom":
        command = [
            str(_BIN / "iom"),
            "cluster",
            str(file),
            "--features",
            ",".join(FEATURES),
            "--k",
            "3",
            "--out",
            str(out),
        ]
    began, used = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    sampler = Sampler(process.pid, out)
    sampler.start()
    said = process.communicate()[1]
    seconds, after = time.perf_counter() - began, os.times()
    sampler.stop()
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}:\n{said}")
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    summary = out / "clustering_summary.json"
    steps = (
        json.loads(summary.read_text())["timings"] if name == "iom" else json.loads((out / "timings.json").read_text())
    )
    return Timed(seconds, cpu, sampler.peak(), steps)


def settle(name: str, few: Path, file: Path, out: Path) -> None:
    """The same start for each: nothing waits to be written, and what is read, the program and the file, is in memory.

    Else the first of a row, or whoever comes after minutes of another's work, would wait for the disk.
    """
    time_command(name, few, out)
    os.sync()
    with file.open("rb") as read:
        while read.read(_PART):
            pass


def check(file: Path, ours: Path, plain: Path) -> list[str]:
    """Sentences about what is wrong in our files, by scikit-learn on every row and by the rival's models."""
    wrong = []
    given = pl.read_csv(file)
    found = pl.read_csv(ours / "learner_clusters.csv")
    packed, table = pl.read_csv(ours / "learner_clusters.csv.gz"), pl.read_parquet(ours / "learner_clusters.parquet")
    if not found.select(given.columns).equals(given):
        wrong.append("learner_clusters.csv holds other learners or features than the file")
    if not packed.equals(found):
        wrong.append("learner_clusters.csv.gz differs from the .csv")
    if not table.cast(dict(found.schema)).equals(found):
        wrong.append("learner_clusters.parquet differs from the .csv")
    models = {side: [joblib.load(folder / f"{n}.joblib") for n in ("preprocess", "kmeans", "gmm")]
              for side, folder in (("ours", ours), ("plain", plain))}  # fmt: skip
    rows = given.select(FEATURES).to_numpy()
    scaled = models["plain"][0].transform(rows)
    scaler, kmeans, gmm = models["ours"]
    if not np.allclose(scaler.transform(rows[:1000]), scaled[:1000], atol=1e-6):
        wrong.append("the scaling differs from scikit-learn's")
    own = scaler.transform(rows)
    for name, labels in (("kmeans", kmeans.predict(own)), ("gmm", gmm.predict(own))):
        differing = int((labels != found[f"cluster_{name}"].to_numpy()).sum())
        if differing:
            wrong.append(f"{differing} labels differ from {name}.joblib")
    inertia = {side: -float(m[1].score(scaled)) for side, m in models.items()}
    if inertia["ours"] > inertia["plain"] * (1 + _INERTIA):
        wrong.append(f"inertia {inertia['ours']:,.0f} is worse than {inertia['plain']:,.0f}")
    likelihood = {side: float(m[2].score(scaled)) for side, m in models.items()}
    if likelihood["ours"] < likelihood["plain"] - _LIKELIHOOD:
        wrong.append(f"log-likelihood {likelihood['ours']:.5f} is worse than {likelihood['plain']:.5f}")
    print(f"\ninertia: {inertia['ours']:,.0f} against {inertia['plain']:,.0f}; mean log-likelihood per learner: "
          f"{likelihood['ours']:.5f} against {likelihood['plain']:.5f}")  # fmt: skip
    theirs = pl.read_csv(plain / "learner_clusters.csv", columns=["cluster_kmeans", "cluster_gmm"])
    for name in ("cluster_kmeans", "cluster_gmm"):
        print(f"{name}: adjusted Rand index with the rival's {adjusted_rand_score(theirs[name], found[name]):.4f}")
    return wrong


def print_steps(runs: dict[str, list[Timed]]) -> None:
    for name, timed in runs.items():
        print(f"\n{name}: median of {len(timed)} runs")
        for step in timed[0].steps:
            print(f"  {step:<18}{statistics.median(t.steps[step] for t in timed):>8.1f} s")
        print(f"  {'whole command':<18}{statistics.median(t.seconds for t in timed):>8.1f} s, "
              f"{statistics.median(t.cpu for t in timed):.1f} processor seconds, {max(t.peak for t in timed) / 1e9:.2f} GB")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="iom cluster against plain pandas and polars")
    parser.add_argument("--learners", type=int, default=LEARNERS)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iom-bench-") as name:
        folder = Path(name)
        file = folder / "learners.csv"
        write_learners(file, arguments.learners, SEED)
        print(f"{arguments.learners:,} learners, {file.stat().st_size / 1e6:.0f} MB; load {os.getloadavg()[0]:.1f}")
        few = folder / "few.csv"
        write_learners(few, FEW, SEED)
        runs: dict[str, list[Timed]] = {"iom": [], "polars": [], "pandas": []}
        for number in range(arguments.pairs):
            for rival in list(runs) if number % 2 == 0 else list(runs)[::-1]:
                settle(rival, few, file, folder / rival)
                runs[rival].append(time_command(rival, file, folder / rival))
                print(f"  {rival}: {runs[rival][-1].seconds:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        print_steps(runs)
        for rival in ("pandas", "polars"):
            ratios = [theirs.seconds / ours.seconds for ours, theirs in zip(runs["iom"], runs[rival], strict=True)]
            memory = max(t.peak for t in runs["iom"]) / max(t.peak for t in runs[rival])
            print(f"\n{rival}: {statistics.median(ratios):.1f} times its speed ({', '.join(f'{r:.1f}' for r in ratios)}), "
                  f"{memory:.2f} of its memory")  # fmt: skip
            detour = [t.steps.get("write scaled", 0) + t.steps.get("read scaled", 0) for t in runs[rival]]
            if any(detour):
                spared = [
                    (theirs.seconds - d) / ours.seconds
                    for ours, theirs, d in zip(runs["iom"], runs[rival], detour, strict=True)
                ]
                print(f"  without its detour by a file of scaled values: {statistics.median(spared):.1f} times")
        wrong = check(file, folder / "iom", folder / "pandas")
        for sentence in wrong:
            print(f"WRONG  {sentence}")
        if not wrong:
            print("files, labels, inertia and likelihood are right")
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
