"""The rivals of `iom cluster`: the same job in plain pandas and scikit-learn, and as a strong engineer writes it with polars.

`python -m tests.performance.plain_learners pandas FILE OUT` writes learner_clusters.csv and .csv.gz, cluster_profiles.csv,
the fitted models and timings.json. Parquet, the report and the archive, which `iom cluster` also makes, are spared them,
and so is the validation of the input.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np

FEATURES = ["time_spent", "avg_score", "accuracy", "topic_progress"]
SAMPLE = 100_000
SEED = 42
_seconds: dict[str, float] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    _seconds[name] = time.perf_counter() - began


def run_pandas(file: Path, out: Path) -> None:
    """Each step as a tutorial has it, the scaled data by way of a file as in the reference job."""
    import pandas as pd
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture
    from sklearn.preprocessing import StandardScaler

    with step("read"):
        frame = pd.read_csv(file)
    with step("scale"):
        scaler = StandardScaler()
        frame[[f"{name}_scaled" for name in FEATURES]] = scaler.fit_transform(frame[FEATURES])
    with step("write scaled"):
        frame.to_csv(out / "scaled.csv", index=False)
    with step("read scaled"):
        frame = pd.read_csv(out / "scaled.csv")
        scaled = frame[[f"{name}_scaled" for name in FEATURES]].to_numpy()
    with step("fit kmeans"):
        kmeans = KMeans(n_clusters=3, random_state=SEED, n_init="auto")
        frame["cluster_kmeans"] = kmeans.fit_predict(scaled)
    with step("fit gmm"):
        gmm = GaussianMixture(n_components=3, random_state=SEED).fit(scaled)
    with step("assign gmm"):
        frame["cluster_gmm"] = gmm.predict(scaled)
        frame["gmm_confidence"] = gmm.predict_proba(scaled).max(axis=1).round(6)
    columns = ["learner_id", *FEATURES, "cluster_kmeans", "cluster_gmm", "gmm_confidence"]
    with step("write csv"):
        frame[columns].to_csv(out / "learner_clusters.csv", index=False)
    with step("write csv.gz"):
        frame[columns].to_csv(out / "learner_clusters.csv.gz", index=False, compression="gzip")
    with step("profile"):
        profiles = [frame.groupby(c)[FEATURES].describe().assign(by=c) for c in ("cluster_kmeans", "cluster_gmm")]
        pd.concat(profiles).to_csv(out / "cluster_profiles.csv")
    with step("silhouette"):
        for labels in (frame["cluster_kmeans"], frame["cluster_gmm"]):
            silhouette_score(scaled, labels, sample_size=SAMPLE, random_state=SEED)
    _finish(out, scaler, kmeans, gmm)


def run_polars(file: Path, out: Path) -> None:
    """Polars, float32, no detour by files, `gzip -1`."""
    import polars as pl
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture
    from sklearn.preprocessing import StandardScaler

    with step("read"):
        frame = pl.read_csv(file)
    with step("scale"):
        scaler = StandardScaler()
        scaled = scaler.fit_transform(frame.select(FEATURES).to_numpy()).astype(np.float32)
    with step("fit kmeans"):
        kmeans = KMeans(n_clusters=3, random_state=SEED, n_init="auto")
        labels = kmeans.fit_predict(scaled)
    with step("fit gmm"):
        gmm = GaussianMixture(n_components=3, random_state=SEED).fit(scaled)
    with step("assign gmm"):
        shares = gmm.predict_proba(scaled)
        components, confidence = shares.argmax(axis=1), shares.max(axis=1).astype(np.float64).round(6)
    frame = frame.with_columns(
        cluster_kmeans=pl.Series(labels), cluster_gmm=pl.Series(components), gmm_confidence=pl.Series(confidence)
    )
    with step("write csv"):
        frame.write_csv(out / "learner_clusters.csv")
    with step("write csv.gz"):
        subprocess.run(["gzip", "-1", "-k", "-f", str(out / "learner_clusters.csv")], check=True)
    with step("profile"):
        parts = []
        for by in ("cluster_kmeans", "cluster_gmm"):
            told = [f(name).name.suffix(s) for name in FEATURES for f, s in (
                (lambda n: pl.col(n).mean(), "_mean"), (lambda n: pl.col(n).median(), "_median"),
                (lambda n: pl.col(n).quantile(0.25), "_q1"), (lambda n: pl.col(n).quantile(0.75), "_q3"))]  # fmt: skip
            parts.append(
                frame.group_by(pl.col(by).cast(pl.Int64).alias("cluster"))
                .agg(pl.len(), *told)
                .with_columns(by=pl.lit(by))
            )
        pl.concat(parts).write_csv(out / "cluster_profiles.csv")
    with step("silhouette"):
        chosen = np.random.default_rng(SEED).choice(len(scaled), min(SAMPLE, len(scaled)), replace=False)
        for one in (labels, components):
            silhouette_score(scaled[chosen].astype(np.float64), one[chosen])  # float32 would be slower
    _finish(out, scaler, kmeans, gmm)


def _finish(out: Path, *models: object) -> None:
    for name, model in zip(("preprocess", "kmeans", "gmm"), models, strict=True):
        joblib.dump(model, out / f"{name}.joblib")
    (out / "timings.json").write_text(json.dumps(_seconds))


if __name__ == "__main__":
    {"pandas": run_pandas, "polars": run_polars}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
