"""The platform's maths in a notebook: an extract to features, clusters and risk levels, without Dagster, server or home.

What a feature, a cluster or a level is does not belong here; nor does anything that is kept, published or scheduled.

**No wall stands here.** In the platform clusters and levels are computed behind `anonymized/*`; here the features of
single students lie in memory, courses of fewer than k students among them. Frames hold pseudonyms and by default no
demographics; still they are pseudonymized personal data: keep them where the extract itself may be kept, save no
notebook with rows in its output, and publish from the platform. Neither its quality gates nor dbt's tests run here.
"""

import os
import secrets
import warnings
from collections.abc import Mapping
from contextlib import closing
from datetime import date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from iom_platform.settings import Clustering, Institution, Risk, Warehouse
from iom_platform.tables import MODEL_INPUTS, QUARANTINE, STUDENT_TERM

if TYPE_CHECKING:
    import pandas as pd

    from iom_platform.storage.session import Session

__all__ = ["ClusteringEngine", "TemporalFeatureExtractor"]

StudentData = Mapping[str, "pd.DataFrame"] | str | os.PathLike[str]

_KEY = ["student_pseudonym", "course_id"]
_CLUSTERING, _RISK = Clustering(), Risk()
# frames declare no day of delivery, so nothing in them lies after it
_NO_DAY = date.max


class TemporalFeatureExtractor:
    """Features of each enrollment on a day, by the SQL of `dbt_project/` in a temporary DuckDB.

    key: at least 32 bytes from which pseudonyms are made, as `IOM_PSEUDONYM_KEY` holds them; without one each
    extractor draws its own, so that two of them cannot be linked. source: `oulad` or `synthetic`; a student has another
    pseudonym in each. timezone: of the institution, for the period of the day of a click. Raises ValueError for others.

    After `extract_temporal_features`, `quarantine_` holds the rejected records as raw/quarantine does, values masked.
    """

    quarantine_: "pd.DataFrame"

    def __init__(
        self, *, key: bytes | None = None, source: str = "oulad", timezone: str = Institution().timezone
    ) -> None:
        from iom_platform.extract import SOURCES
        from iom_platform.privacy.pseudonyms import KEY_BYTES

        if source not in SOURCES:
            raise ValueError(f"unknown source {source!r}; known: {', '.join(sorted(SOURCES))}")
        try:
            self._timezone = Institution(timezone=timezone).timezone
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        if not isinstance(key, bytes | None):
            raise TypeError("key is no bytes; give bytes.fromhex(text) of a key in hexadecimal digits")
        self._key = secrets.token_bytes(KEY_BYTES) if key is None else key
        self._source = source
        self.pseudonym_of("")  # refuses a short key

    def pseudonym_of(self, student_id: str | int) -> str:
        """The pseudonym of a student in this extractor's frames; the id is the exact text that the extract has."""
        from iom_platform.privacy.pseudonyms import pseudonymize

        return pseudonymize(self._key, self._source, [str(student_id)])[0]

    def extract_temporal_features(
        self, student_data: StudentData, as_of_on: date | str | None = None, *, include_demographics: bool = False
    ) -> "pd.DataFrame":
        """One row per cohort enrollment on a day, sorted by student and course: the rows of features/student_term.

        student_data: a folder or .zip of an extract in the shape of OULAD, or a mapping of frames named as its files
        (courses, studentInfo and studentRegistration; studentVle, vle, assessments and studentAssessment where there
        are any) with the same columns. A log of events alone is not enough: it knows no registration and no course.
        Times in frames are UTC. as_of_on: the day whose end is looked at; default is the last day with a click or
        submission inside its presentation. include_demographics: also quasi-identifiers and disability.

        Records that break a rule are left out, with a warning that counts them. Frames are written to a folder that
        only this user can read until they have landed, and everything else on disk has pseudonyms; both are removed.
        Raises DeliveryRefused, a ValueError, for an extract that cannot be read, and ValueError where nobody is in the
        cohort of the day.
        """
        day = None if as_of_on is None else _read_day(as_of_on)
        with TemporaryDirectory(prefix="iom-notebook-") as name:
            folder = Path(name)
            with _open_scratch(folder) as con:
                self._land(con, student_data)
                day = day or _last_event_day(con)
            self._build(folder, day)
            with _open_scratch(folder) as con:
                features = _read_term(con, day)
        if features.empty:
            raise ValueError(f"nobody is enrolled in a presentation that runs on {day}; choose another as_of_on")
        personal = [c.name for c in STUDENT_TERM.columns if c.kind in ("quasi", "sensitive") and c.name not in _KEY]
        return features if include_demographics else features.drop(columns=personal)

    def _land(self, con: "Session", student_data: StudentData) -> None:
        from iom_platform.extract import SOURCES
        from iom_platform.extract.loading import load_delivery
        from iom_platform.extract.source import DeliveryRefused
        from iom_platform.storage.warehouse import append_rows, prepare_warehouse, read_table

        with TemporaryDirectory(prefix="iom-notebook-") as name:
            path = _place(student_data, Path(name))
            delivery = SOURCES[self._source].open_delivery(path)
            if delivery.scope != "full":
                raise DeliveryRefused(f"{path.name} is an increment, with nothing to add it to; give a full extract")
            prepare_warehouse(con)
            landed_at = datetime.combine(delivery.delivered_on, time())  # never shown, so no clock is asked
            with con.transaction():
                load_delivery(delivery, self._key, partial(append_rows, con), landed_at=landed_at, is_accepted=True)
        self.quarantine_ = read_table(con, QUARANTINE)
        for sentence in (*delivery.notices, *_count_rejected(self.quarantine_)):
            warnings.warn(sentence, stacklevel=3)

    def _build(self, folder: Path, as_of_on: date) -> None:
        from iom_platform.storage.dbt_project import run_dbt

        run_dbt("run", "--target", "duckdb", "--select", "+student_term", folder=folder / "dbt",
                IOM_WAREHOUSE_PATH=str(_scratch(folder)), IOM_AS_OF_ON=as_of_on.isoformat(), DO_NOT_TRACK="true",
                IOM_INSTITUTION__TIMEZONE=self._timezone, IOM_WAREHOUSE__MEMORY_LIMIT=Warehouse().memory_limit)  # fmt: skip


class ClusteringEngine:
    """Clusters of the enrollments of one day, and the risk levels that they help to tell, as the platform makes them.

    algorithm, n_clusters, max_iterations, seed: as the settings `clustering.*`, with their defaults; knobs: others of
    them by name, such as eps for dbscan. Raises ValueError for an unknown algorithm or a value out of range, and TypeError
    for an unknown knob or one that is no number.

    After `perform_clustering`, `model_` is the fitted scikit-learn Pipeline, `quality_` its measures on the rows that it
    was fitted on, `fitted_on_` and `assigned_by_` say on which and by what rule, `profiles_` what each cluster looks like
    (clustering/profiles) and `clusters_` the clusters; after `assign_risk_levels`, `risk_model_` holds the cut-offs.
    """

    def __init__(
        self, algorithm: str = _CLUSTERING.algorithm, n_clusters: int = _CLUSTERING.n_clusters,
        max_iterations: int = _CLUSTERING.max_iterations, seed: int = _CLUSTERING.seed, **knobs: Any,
    ) -> None:  # fmt: skip
        from iom_platform.clustering.algorithms import select_params

        shared = {"n_clusters": n_clusters, "max_iterations": max_iterations, "seed": seed}
        self._params = select_params(algorithm, {**_CLUSTERING.knobs, **shared, **knobs})
        self.algorithm, self.n_clusters, self.max_iterations, self.seed = algorithm, n_clusters, max_iterations, seed
        self.clusters_: pd.DataFrame | None = None

    def perform_clustering(self, features: "pd.DataFrame") -> "pd.DataFrame":
        """Fit on the enrollments that get a level, then assign every one of an observed course.

        features: rows of one day, as `extract_temporal_features` returns them. Returns student_pseudonym, course_id,
        cluster (from 0, the most active; -1 is noise) and confidence (0-1), in the order of the features; both are null
        where the course is not observed. Raises ValueError for a column that is missing or holds no numbers, several rows of an
        enrollment, too few rows, and as `clustering.fit`; warns of an input without any value.
        """
        import pandas as pd

        from iom_platform.clustering.algorithms import assign
        from iom_platform.clustering.profiles import profile_clusters
        from iom_platform.clustering.training import ROWS_PER_CLUSTER, least_clusters, train
        from iom_platform.risk import select_scorable

        features = _read_features(features).reset_index(drop=True)
        if features.duplicated(_KEY).any():
            raise ValueError("features hold an enrollment more than once; cluster the rows of one day at a time")
        if "as_of_on" in features and features["as_of_on"].nunique() > 1:
            raise ValueError("features hold rows of several days; cluster the rows of one day at a time")
        snapshot = select_scorable(features)
        if len(snapshot) < ROWS_PER_CLUSTER * (wanted := least_clusters(self._params)):
            raise ValueError(
                f"{len(snapshot)} observed enrollments with enough data are too few to fit {wanted} clusters, "
                f"for each needs {ROWS_PER_CLUSTER}; lower n_clusters, or extract the features of another day"
            )
        for name in [name for name in MODEL_INPUTS if snapshot[name].isna().all()]:
            warnings.warn(
                f"{name} is null in every row that a model is fitted on, so it tells nobody apart", stacklevel=2
            )
        trained = train(snapshot, **self._params)
        observed = features[features["is_observed"]]
        labels, confidence = assign(trained.model, observed)
        assigned = pd.DataFrame({"cluster": labels, "confidence": confidence}, index=observed.index)
        clusters = features[_KEY].join(assigned.astype({"cluster": "Int64"}))
        self.model_, self.quality_ = trained.model, trained.quality
        self.fitted_on_, self.assigned_by_ = trained.fitted_on, trained.assigned_by
        self.profiles_ = profile_clusters(observed, labels)
        self._features, self.clusters_ = features, clusters.copy()
        return clusters

    def assign_risk_levels(
        self, clusters: "pd.DataFrame", *, high_share: float = _RISK.high_share,
        medium_share: float = _RISK.medium_share, cluster_weight: float = _RISK.cluster_weight,
    ) -> "pd.DataFrame":  # fmt: skip
        """Level, score, reasons and cluster of each enrollment, by cut-offs fitted on this cohort; no outcome is seen.

        clusters: what `perform_clustering` of this engine returned last, in any order, further columns aside; the
        knobs are the settings `risk.*`. Returns student_pseudonym, course_id, risk_level, risk_score, reason_1 to
        reason_3 and cluster as risk/student_risk has them, in the order of the features. Raises ValueError for others'
        clusters.
        """
        from iom_platform.risk import fit_risk, score_risk

        if self.clusters_ is None or not _are_equal(clusters, self.clusters_):
            raise ValueError(
                "these clusters are not of this engine's last perform_clustering; pass what it returned, "
                "for a cluster's number means something only beside the model that gave it"
            )
        labels = self.clusters_["cluster"]
        self.risk_model_ = fit_risk(
            self._features, labels, high_share=high_share, medium_share=medium_share, cluster_weight=cluster_weight
        )
        return self._features[_KEY].join(score_risk(self._features, labels, self.risk_model_))


# -- the temporary warehouse ---------------------------------------------------------------------------


def _scratch(folder: Path) -> Path:
    return folder / "warehouse.duckdb"


def _open_scratch(folder: Path) -> "closing[Session]":
    """A session without the platform's lock: nobody else knows the file."""
    import duckdb

    from iom_platform.storage.duckdb_session import DuckdbSession

    config: dict[str, Any] = {"memory_limit": Warehouse().memory_limit, "preserve_insertion_order": False}
    return closing(DuckdbSession(duckdb.connect(str(_scratch(folder)), config=config)))


def _read_term(con: "Session", as_of_on: date) -> "pd.DataFrame":
    from iom_platform.storage.warehouse import read_table

    features = read_table(con, STUDENT_TERM, as_of_on)
    return features.sort_values(_KEY, ignore_index=True)


def _last_event_day(con: "Session") -> date:
    """The last day of a click or submission that lies inside its presentation."""
    from iom_platform.extract.oulad import presentation_start

    rows = con.execute(
        """SELECT courses.code_presentation, any_value(presentation_starts_on), max(events.date)
        FROM (
            SELECT code_module, code_presentation, date FROM raw.oulad_student_vle
            UNION ALL
            SELECT code_module, code_presentation, date_submitted
            FROM raw.oulad_student_assessment JOIN raw.oulad_assessments USING (id_assessment)
        ) AS events JOIN raw.oulad_courses AS courses USING (code_module, code_presentation)
        WHERE events.date BETWEEN 0 AND module_presentation_length GROUP BY code_module, courses.code_presentation"""
    ).fetchall()
    starts = [(starts_on or presentation_start(code), day) for code, starts_on, day in rows]
    if not starts:
        raise ValueError("the extract has no click and no submission inside a presentation; name the day: as_of_on=...")
    return max(start + timedelta(days=day) for start, day in starts if start)


# -- what the notebook hands over ----------------------------------------------------------------------


def _read_day(given: date | str) -> date:
    try:
        return date.fromisoformat(str(given)[:10])
    except ValueError:
        raise ValueError(f"as_of_on {str(given)!r} is no day; write it like 2013-12-16") from None


def _place(student_data: StudentData, folder: Path) -> Path:
    """The folder or .zip of the extract; frames are written below `folder`."""
    if isinstance(student_data, str | os.PathLike):
        return Path(student_data)
    if not isinstance(student_data, Mapping):
        raise TypeError(
            f"student_data is a {type(student_data).__name__}; give the path of an extract, or a mapping of frames "
            "named as its files: courses, studentInfo, studentRegistration, studentVle and so on"
        )
    from iom_platform.extract.frames import write_frames

    path = folder / "student_data"
    write_frames(student_data, path, delivered_on=_NO_DAY)
    return path


def _count_rejected(quarantine: "pd.DataFrame") -> list[str]:
    if quarantine.empty:
        return []
    counts = quarantine.value_counts(["file_name", "rule"]).reset_index()
    told = ", ".join(f"{n:,} of {file} ({rule})" for file, rule, n in counts.itertuples(index=False, name=None))
    return [f"{len(quarantine):,} records are left out: {told}; quarantine_ names record, column, rule and remedy"]


def _read_features(features: Any) -> "pd.DataFrame":
    """The frame, numbers that came as objects made numbers; refuses what a fit or a score would stumble over."""
    import pandas as pd

    from iom_platform.risk import SOURCE_COLUMNS

    remedy = "give the frame that extract_temporal_features returned"
    if not isinstance(features, pd.DataFrame):
        raise TypeError(f"features is a {type(features).__name__}; {remedy}")
    absent = [name for name in dict.fromkeys([*_KEY, *SOURCE_COLUMNS, *MODEL_INPUTS]) if name not in features.columns]
    if absent:
        is_index = absent[0] in features.index.names
        raise ValueError(
            f"features lack the column {absent[0]}; {'turn the index back by reset_index()' if is_index else remedy}"
        )
    numbers = list(dict.fromkeys([*SOURCE_COLUMNS[2:], *MODEL_INPUTS]))
    for name in numbers:
        values = features[name].dropna().convert_dtypes()
        if len(values) and not pd.api.types.is_numeric_dtype(values):
            raise ValueError(f"the column {name} of features holds {values.dtype} where numbers belong; {remedy}")
    return features.astype({name: "Float64" for name in numbers if features[name].dtype == object})


def _are_equal(clusters: "pd.DataFrame", own: "pd.DataFrame") -> bool:
    if not {*_KEY, "cluster"} <= set(clusters.columns):
        return False
    left, right = (frame.set_index(_KEY)["cluster"].sort_index() for frame in (clusters, own))
    return left.equals(right)
