"""`iom cluster`: one file of learner summaries to clusters, profiles, models, a report and an archive.

It starts no server and opens no home. What a cluster is belongs to `clustering/learners.py`, what a good record is to
`extract/learner_summary.py`.
"""

import difflib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from iom_platform.cli.memory import find_available, plan_memory
from iom_platform.clustering.algorithms import ALGORITHMS
from iom_platform.clustering.preprocessing import LEAST_WEIGHT, MOST_WEIGHT

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.preprocessing import StandardScaler

    from iom_platform.clustering.learners import Clusters
    from iom_platform.extract.learner_columns import LearnerColumns
    from iom_platform.extract.learner_summary import Batch, LearnerFile
    from iom_platform.storage.learner_files import LearnerFiles, Rows
    from iom_platform.storage.learner_postgres import Mode

_MOST_CLUSTERS = 100  # a label is written with two digits
_REJECTED_SHOWN = 5
_PACKAGES = ("iom_platform", "numpy", "numba", "scikit-learn", "polars")


class UsageError(ValueError):
    """An argument has no meaning; one sentence says which, and the remedy."""

    exit_code = 2


class ClusterRefused(ValueError):
    """The file allows no clusters; one sentence says why, and the remedy."""

    exit_code = 4


@dataclass(frozen=True)
class Request:
    """What is asked: features by name, clusters, and the learners that the silhouette is taken on."""

    features: tuple[str, ...]
    algorithms: tuple[str, ...]
    k: int
    sample: int
    seed: int
    knobs: Mapping[str, Any] = field(default_factory=dict)  # of the methods that are fitted on a sample
    weights: Mapping[str, float] = field(default_factory=dict)  # by feature

    def check(self) -> None:
        """Raise UsageError for what has no meaning, before anything is read."""
        from pydantic import ValidationError

        from iom_platform.settings import Clustering

        names = [name.casefold() for name in self.features]  # as a header is read
        if "" in names or len(set(names)) < len(names) or "learner_id" in names:
            raise UsageError("--features must name each column once, without the id: --features time_spent,avg_score")
        made = {*(f"cluster_{name}" for name in ALGORITHMS), "gmm_confidence"}.intersection(names)
        if made:
            raise UsageError(f"--features names {min(made)}, which is a column of the result; rename it in the file")
        if set(self.algorithms) - set(ALGORITHMS) or len(set(self.algorithms)) < len(self.algorithms):
            raise UsageError(f"--algorithms {','.join(self.algorithms)} must be of {', '.join(ALGORITHMS)}, each once")
        if not 2 <= self.k <= _MOST_CLUSTERS:
            raise UsageError(
                f"--k is {self.k}; clusters tell learners apart from 2 on, and {_MOST_CLUSTERS} are the most"
            )
        try:
            Clustering(**self.knobs)
        except ValidationError as error:
            first = error.errors()[0]
            name, said = str(first["loc"][0]), first["msg"]
            raise UsageError(
                f"--{name.replace('_', '-')} is {self.knobs[name]}; {said[:1].lower()}{said[1:]}"
            ) from None
        if self.sample < 2:
            raise UsageError(f"--sample is {self.sample}; a silhouette compares at least two learners")


def read_weights(text: str, features: Sequence[str]) -> dict[str, float]:
    """Weights by feature from a line such as `time_spent=2,accuracy=0.5`; raises UsageError."""
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in features:
            near = difflib.get_close_matches(name, features, n=1, cutoff=0.0)[0]
            raise UsageError(f"--weights names {name!r}, which is none of --features; the nearest is {near!r}")
        try:
            weight = float(value)
        except ValueError:
            weight = np.nan
        if name in found or not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise UsageError(
                f"--weights gives {name} {value!r}; write a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g} once for each "
                f"feature, such as {name}=2"
            )
        found[name] = weight
    return found


@dataclass
class Steps:
    """Seconds of each step, told on stderr as they end."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 2)
        print(f"  {name}: {self.seconds[name]:.1f} s", file=sys.stderr)


class Upload(Protocol):
    """A place for the rows beside the files; both raise errors of one sentence."""

    def check(self, features: Sequence[str]) -> None: ...

    def upload(self, file: Path) -> str: ...


def find_uploads(
    *, postgres: "Mode | None", mongo: str | None, database: str | None, collection: str | None
) -> list[Upload]:
    """Where the rows shall go beside the files; raises UsageError."""
    found: list[Upload] = []
    if postgres is not None:
        from iom_platform.settings import load_settings
        from iom_platform.storage.learner_postgres import PostgresTable

        found.append(PostgresTable(load_settings().postgres_url, postgres))
    if any((mongo, database, collection)):
        if not (mongo and database and collection):
            raise UsageError("--mongo, --db and --collection go together: --mongo URL --db iom --collection learners")
        from iom_platform.storage.learner_mongo import MongoCollection

        found.append(MongoCollection(mongo, database, collection))
    return found


def cluster_file(path: Path, request: Request, out: Path, *, with_csv: bool, uploads: Sequence[Upload] = ()) -> None:
    """Cluster the learners of a file, write everything to the folder `out`, and then upload the rows."""
    from iom_platform.extract.learner_columns import read_columns
    from iom_platform.extract.learner_summary import LearnerFile
    from iom_platform.storage.learner_files import PARQUET, check_outputs, open_outputs

    request.check()
    for one in uploads:
        one.check(request.features)
    steps, file = Steps(), LearnerFile(path, request.features)
    check_outputs(out, path)
    for notice in file.notices:
        print(f"  {notice}", file=sys.stderr)
    plan = plan_memory(
        file.estimate_records(), len(request.features), len(request.algorithms), available=find_available(),
        has_methods=any(ALGORITHMS[name].find for name in request.algorithms),
    )  # fmt: skip
    print(f"  {plan.told}", file=sys.stderr)
    with open_outputs(out, with_csv=with_csv) as outputs, ThreadPoolExecutor(1) as beside:
        beside.submit(_import_maths)
        with steps.step("read"):
            learners = read_columns(file, outputs.folder if plan.is_on_disk else None)
        if learners is None:
            raise ClusterRefused(_say_why_nobody(file))
        facts, small = _cluster(file, learners, request, outputs, steps, beside, with_csv=with_csv)
        with steps.step("archive"):
            made = outputs.finish(small)
    _tell(facts, out, made)
    for one in uploads:
        with steps.step("upload"):
            told = one.upload(out / PARQUET)
        print(f"Uploaded: {told}")


def _import_maths() -> None:
    """Import what takes seconds, while the file is read."""
    import sklearn.cluster
    import sklearn.mixture
    import sklearn.preprocessing  # noqa: F401

    import iom_platform.clustering.learners
    import iom_platform.storage.csv_lines  # noqa: F401


def _cluster(
    file: "LearnerFile", learners: "LearnerColumns", request: Request, outputs: "LearnerFiles", steps: Steps,
    beside: ThreadPoolExecutor, *, with_csv: bool,
) -> tuple[dict[str, Any], dict[str, bytes]]:  # fmt: skip
    """Fit, write the rows, measure; returns what the summary says, and the small files."""
    from iom_platform.clustering.algorithms import FitRefused
    from iom_platform.clustering.learners import (
        find_empty_features,
        fit_clusters,
        make_scaler,
        measure_clusters,
        profile_learners,
    )
    from iom_platform.clustering.passes.chunks import threads
    from iom_platform.settings import Clustering

    columns, weights = learners.columns, np.array([request.weights.get(name, 1.0) for name in request.features])
    if request.weights:
        columns *= weights.astype(np.float32)[:, None]
    scaler = make_scaler(learners.means, learners.deviations, columns.shape[1], weights)
    with threads() as run:
        with steps.step("fit"):
            try:
                found = fit_clusters(
                    columns, algorithms=request.algorithms, clusters=request.k, seed=request.seed,
                    max_iterations=Clustering().max_iterations, run=run, knobs=request.knobs, weights=weights,
                )  # fmt: skip
            except FitRefused as error:
                raise ClusterRefused(f"{file.path.name}: {error}") from None
            except ValueError as error:
                raise ClusterRefused(f"{file.path.name}: {error}; lower --k") from None
        with steps.step("assign and write"):
            labels, rejected = _write_rows(file, learners, scaler, found, outputs, with_csv=with_csv)
        archived = beside.submit(outputs.archive_rows)
        with steps.step("measure"):
            quality = measure_clusters(
                columns,
                {one.algorithm: one for one in found},
                labels,
                sample=request.sample,
                seed=request.seed,
                run=run,
            )
        with steps.step("profile"):
            profiles = profile_learners(columns, labels, scaler, request.features, weights=weights, run=run)
        archived.result()
    facts = {
        "file": file.path.name,
        "records": {"landed": learners.landed, "clustered": columns.shape[1], "rejected": rejected.total()},
        "rejected_by_rule": dict(rejected.most_common()),
        "warnings": find_empty_features(columns, request.features),
        "features": list(request.features),
        **({"weights": dict(request.weights)} if request.weights else {}),
        "k": request.k,
        "quality_metrics": quality,
        "sizes": {one.algorithm: _count_members(one, labels[one.algorithm], request.k) for one in found},
        "seeds": {"fit": request.seed, "silhouette": request.seed},
        "fitted_on": "every learner; starts were drawn on a seeded sample",
        **({"methods": methods} if (methods := _describe_methods(found, request)) else {}),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}},
        "timings": steps.seconds,
    }
    return facts, _shape_small_files(facts, profiles, scaler, found)


def _count_members(one: "Clusters", labels: np.ndarray, k: int) -> dict[str, int]:
    """Learners by cluster, noise as -1."""
    from iom_platform.clustering.passes.spread import count_members

    if one.fit is not None:
        return {str(c): int(n) for c, n in enumerate(count_members(labels, k))}
    return {str(c): int(n) for c, n in zip(*np.unique(labels, return_counts=True), strict=True)}


def _describe_methods(found: "Sequence[Clusters]", request: Request) -> dict[str, dict[str, Any]]:
    """How those were fitted that cannot see every learner."""
    return {
        one.algorithm: {
            "fitted_on": one.fitted_on,
            "assigned_by": ALGORITHMS[one.algorithm].assigned_by,
            "agreement_with_method": one.agreement,
            "parameters": {n: v for n, v in request.knobs.items() if n in ALGORITHMS[one.algorithm].knobs},
        }
        for one in found
        if one.fit is None
    }


def _say_why_nobody(file: "LearnerFile") -> str:
    rules = Counter(
        f"{one.column or 'the record'}: {one.rule}; {one.remedy}" for b in file.read() for one in b.rejected
    )
    if not rules:
        return f"{file.path.name} has a header and no record; deliver a row for each learner"
    rule, count = rules.most_common(1)[0]
    return f"{file.path.name}: none of {rules.total():,} records can be used; {count:,} times {rule}"


# -- the second pass ----------------------------------------------------------------------------------


def _write_rows(
    file: "LearnerFile", learners: "LearnerColumns", scaler: "StandardScaler", found: "Sequence[Clusters]",
    outputs: "LearnerFiles", *, with_csv: bool,
) -> tuple[dict[str, np.ndarray], Counter[str]]:  # fmt: skip
    """Read the file again and write each learner with its labels, in its order.

    Returns labels (n,) by algorithm, and how many records broke each rule.
    """
    import polars as pl

    from iom_platform.clustering.learners import label_learners
    from iom_platform.extract.ahead import map_ahead
    from iom_platform.storage.learner_files import shape_rows

    labels: dict[str, list[np.ndarray]] = {one.algorithm: [] for one in found}
    rejected: Counter[str] = Counter()

    def batches() -> "Iterator[tuple[Batch, bool]]":
        is_first = True
        for batch in file.read_distinct(learners.repeated):
            outputs.reject(batch.rejected)
            rejected.update(f"{one.column or 'record'}: {one.rule}" for one in batch.rejected)
            if len(batch.ids):
                yield batch, is_first
                is_first = False

    def shape(one: "tuple[Batch, bool]") -> "tuple[list[np.ndarray], Rows]":
        batch, is_first = one
        made = label_learners(batch.values, scaler, found)
        frame = pl.DataFrame({"learner_id": batch.ids, **dict(zip(file.features, batch.values.T, strict=True)), **made})
        return [made[f"cluster_{one.algorithm}"] for one in found], shape_rows(
            frame, given=1 + len(file.features), lines=batch.lines, is_first=is_first, with_csv=with_csv
        )

    for assigned, rows in map_ahead(shape, batches()):
        for one, some in zip(found, assigned, strict=True):
            labels[one.algorithm].append(some)
        outputs.add(rows)
    written = sum(len(part) for part in labels[found[0].algorithm])
    if written + rejected.total() != learners.landed or written != learners.columns.shape[1]:
        raise RuntimeError(
            f"{file.path.name}: {learners.landed} records landed, {written} written and {rejected.total()} rejected"
        )
    return {name: np.concatenate(labels.pop(name)) for name in list(labels)}, rejected


# -- what is told -------------------------------------------------------------------------------------


def _shape_small_files(
    facts: dict[str, Any], profiles: "pd.DataFrame", scaler: Any, found: "Sequence[Clusters]"
) -> dict[str, bytes]:
    from iom_platform.clustering.learner_report import write_report
    from iom_platform.storage.learner_files import PROFILES, REPORT, SUMMARY, pack_model

    return {
        PROFILES: profiles.to_csv(index=False).encode(),
        REPORT: write_report(facts, profiles).encode(),
        "preprocess.joblib": pack_model(scaler),
        **{f"{one.algorithm}.joblib": pack_model(one.estimator) for one in found},
        SUMMARY: (json.dumps(facts, indent=1) + "\n").encode(),
    }


def _tell(facts: dict[str, Any], out: Path, made: Sequence[Path]) -> None:
    counts = facts["records"]
    print(f"{counts['landed']:,} records = {counts['clustered']:,} clustered + {counts['rejected']:,} rejected")
    for rule, count in list(facts["rejected_by_rule"].items())[:_REJECTED_SHOWN]:
        print(f"  {count:,} times {rule}")
    if counts["rejected"]:
        print("  each with its record number and the remedy in rejected_records.csv")
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    for name, quality in facts["quality_metrics"].items():
        silhouette = "undefined" if quality["silhouette"] is None else f"{quality['silhouette']:.4f}"
        sizes = ", ".join(f"{n:,}" for cluster, n in facts["sizes"][name].items() if cluster != "-1")
        noise = f", noise {facts['sizes'][name]['-1']:,}" if "-1" in facts["sizes"][name] else ""
        print(f"{name}: silhouette {silhouette}; learners per cluster {sizes}{noise}")
    for name, how in facts.get("methods", {}).items():
        print(f"{name}: fitted on {how['fitted_on']}, agreement with the method {how['agreement_with_method']:.4f}")
    print(f"Written to {out}: {', '.join(path.name for path in made)}")
