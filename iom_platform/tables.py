"""The platform's words: stages, tables, columns, their units and privacy class, and the model inputs.

Nothing here computes or reads; a rule about a column lives with the stage that applies it.
"""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["raw", "features", "anonymized", "clustering", "risk"]
Home = Literal["warehouse", "record"]
Kind = Literal["identifier", "quasi", "sensitive", "behavior", "derived", "context", "volatile"]
DType = Literal["text", "int", "bigint", "float", "bool", "date", "timestamp", "json"]


@dataclass(frozen=True)
class Column:
    """One column: `kind` is its privacy class, `unit` is in the name where one exists."""

    name: str
    dtype: DType
    kind: Kind
    doc: str
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """One table; `stage/name` is its asset key, its schema-qualified name and its expectations path."""

    stage: Stage
    name: str
    home: Home
    key: tuple[str, ...]
    doc: str
    columns: tuple[Column, ...]

    @property
    def path(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def sql_name(self) -> str:
        return f"{self.stage}.{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def is_about_persons(self) -> bool:
        """Whether a row is about one person."""
        return any(c.kind == "identifier" for c in self.columns)

    @property
    def stable_columns(self) -> tuple[str, ...]:
        """The columns that the table hash covers: all but the volatile ones."""
        return tuple(c.name for c in self.columns if c.kind != "volatile")


def _columns(kind: Kind, *rows: tuple[str, DType, str]) -> tuple[Column, ...]:
    """Columns from (name, dtype, doc); a dtype's column is nullable unless its doc starts with '!'."""
    return tuple(
        Column(name, dtype, kind, doc.removeprefix("!"), nullable=not doc.startswith("!")) for name, dtype, doc in rows
    )


# -- raw: as delivered, typed, each row traceable to file and row; ids are already pseudonyms ----------

_TRACE = _columns(
    "context",
    ("source", "text", "!Name of the source that delivered the row."),
    ("delivery_id", "text", "!First 16 hex digits of the delivery's sha256."),
    ("file_name", "text", "!Delivered file that holds the row."),
    ("file_row", "bigint", "!Record number in that file; 1 is the first record after the header."),
)
_COURSE = _columns(
    "context",
    ("code_module", "text", "!Module code."),
    ("code_presentation", "text", "!Presentation code: year and B (February) or J (October)."),
)
_STUDENT = _columns("identifier", ("student_pseudonym", "text", "!Keyed pseudonym of the student."))


def _raw(name: str, key: tuple[str, ...], doc: str, *groups: tuple[Column, ...]) -> Table:
    return Table("raw", name, "warehouse", key, doc, _TRACE + tuple(c for g in groups for c in g))


OULAD_COURSES = _raw(
    "oulad_courses", ("code_module", "code_presentation"), "One row per presentation of a module.", _COURSE,
    _columns("context",
             ("module_presentation_length", "int", "!Length of the presentation in days."),
             ("presentation_starts_on", "date", "First day, where the source delivers it.")),
)  # fmt: skip
OULAD_ASSESSMENTS = _raw(
    "oulad_assessments", ("id_assessment",), "One row per assessment of a presentation.", _COURSE,
    _columns("context",
             ("id_assessment", "bigint", "!Assessment id."),
             ("assessment_type", "text", "!TMA (tutor marked), CMA (computer marked) or Exam."),
             ("date", "int", "Cut-off day counted from the presentation start; null: the end of the presentation."),
             ("weight", "float", "!Weight in percent.")),
)  # fmt: skip
OULAD_VLE = _raw(
    "oulad_vle", ("id_site",), "One row per site (material) of a presentation.", _COURSE,
    _columns("context",
             ("id_site", "bigint", "!Site id."),
             ("activity_type", "text", "!Role of the material."),
             ("week_from", "int", "First planned week."),
             ("week_to", "int", "Last planned week.")),
)  # fmt: skip
OULAD_STUDENT_INFO = _raw(
    "oulad_student_info", ("code_module", "code_presentation", "student_pseudonym"),
    "One row per enrollment: demographics and final result.", _COURSE, _STUDENT,
    _columns("quasi",
             ("gender", "text", "Gender as recorded."),
             ("region", "text", "Region of residence."),
             ("highest_education", "text", "Highest education at entry."),
             ("imd_band", "text", "Index of multiple deprivation, band of ten percent."),
             ("age_band", "text", "Age band."),
             ("num_of_prev_attempts", "int", "!Earlier attempts at this module."),
             ("studied_credits", "int", "!Credits studied at the time.")),
    _columns("sensitive",
             ("disability", "text", "Declared disability, Y or N."),
             ("final_result", "text", "Pass, Fail, Withdrawn or Distinction; null is an unknown outcome.")),
)  # fmt: skip
OULAD_STUDENT_REGISTRATION = _raw(
    "oulad_student_registration", ("code_module", "code_presentation", "student_pseudonym"),
    "One row per enrollment: days of registration and unregistration.", _COURSE, _STUDENT,
    _columns("quasi",
             ("date_registration", "int", "Day of registration from the presentation start; null is never in a cohort."),
             ("date_unregistration", "int", "Day of unregistration; null is still registered.")),
)  # fmt: skip
OULAD_STUDENT_ASSESSMENT = _raw(
    "oulad_student_assessment", ("id_assessment", "student_pseudonym"), "One row per submission.",
    _columns("context", ("id_assessment", "bigint", "!Assessment id.")), _STUDENT,
    _columns("behavior",
             ("date_submitted", "int", "!Day of submission from the presentation start."),
             ("is_banked", "bool", "!Whether the result was transferred from an earlier presentation."),
             ("score", "float", "Score, 0-100; null is not marked.")),
)  # fmt: skip
OULAD_STUDENT_VLE = _raw(
    "oulad_student_vle", (), "One row per delivered click row; the file has no key, repeated rows are kept.",
    _COURSE, _STUDENT,
    _columns("behavior",
             ("id_site", "bigint", "!Site id."),
             ("date", "int", "!Day from the presentation start."),
             ("sum_click", "int", "!Clicks."),
             ("clicked_at", "timestamp", "UTC time of the row's first click, where the source delivers it.")),
)  # fmt: skip

LEARNER_SOURCE = "learner_summary"
_LEARNER_FEATURES = _columns(
    "behavior",
    ("time_spent", "float", "!Time spent, in the unit of the sender."),
    ("avg_score", "float", "!Mean score, as a share or in per cent as delivered."),
    ("accuracy", "float", "!Accuracy, as a share or in per cent as delivered."),
    ("topic_progress", "float", "!Progress through the topics, as a share or in per cent as delivered."),
)
LEARNER_FEATURES = tuple(c.name for c in _LEARNER_FEATURES)
LEARNER_SUMMARY = _raw(
    "learner_summary", ("student_pseudonym",), "One row per learner of a delivered summary: a few numbers of each.",
    _STUDENT, _LEARNER_FEATURES,
)  # fmt: skip

DELIVERIES = Table(
    "raw", "deliveries", "warehouse", ("delivery_id",),
    "One row per landed delivery; written in one transaction with its rows.",
    _columns("context",
             ("delivery_id", "text", "!First 16 hex digits of the delivery's sha256."),
             ("source", "text", "!Name of the source."),
             ("delivered_on", "date", "!Day of delivery as the delivery itself declares it."),
             ("scope", "text", "!full (absence is deletion) or increment (it is not)."),
             ("sha256", "text", "!Digest over the sorted digests of its files."),
             ("is_accepted", "bool", "!Whether every blocking check of its raw tables passed."))
    + _columns("volatile", ("landed_at", "timestamp", "!UTC time of landing.")),
)  # fmt: skip
FILES = Table(
    "raw", "files", "warehouse", ("delivery_id", "file_name"),
    "One row per delivered file: landed = loaded + quarantined.",
    _columns("context",
             ("delivery_id", "text", "!The delivery."),
             ("file_name", "text", "!The file."),
             ("table_name", "text", "!Raw table that it feeds."),
             ("sha256", "text", "!Digest of the file."),
             ("landed_rows", "bigint", "!Records in the file."),
             ("loaded_rows", "bigint", "!Records in the raw table."),
             ("quarantined_rows", "bigint", "!Records in raw/quarantine.")),
)  # fmt: skip
QUARANTINE = Table(
    "raw", "quarantine", "warehouse", ("delivery_id", "file_name", "file_row"),
    "One row per rejected record, with the first rule that it broke.",
    _TRACE
    + _columns("context",
               ("column_name", "text", "Offending column; null where the whole record is unreadable."),
               ("rule", "text", "!Rule that the record broke."),
               ("masked_value", "text", "Shape of the value: letters as a, digits as 9."),
               ("remedy", "text", "!What the sender can do.")),
)  # fmt: skip
DELIVERY_SCOPE = Table(
    "raw", "delivery_scope", "warehouse", ("as_of_on", "delivery_id"),
    "The deliveries that an as-of day is computed from; once the day is over and published, it is replayed from them.",
    _columns("context",
             ("as_of_on", "date", "!As-of day."),
             ("delivery_id", "text", "!A delivery that it uses.")),
)  # fmt: skip

OULAD_TABLES = (
    OULAD_COURSES, OULAD_ASSESSMENTS, OULAD_VLE, OULAD_STUDENT_INFO, OULAD_STUDENT_REGISTRATION,
    OULAD_STUDENT_ASSESSMENT, OULAD_STUDENT_VLE,
)  # fmt: skip

# -- features: one row per enrollment and day, week or as-of day ---------------------------------------

_ENROLLMENT_KEY = _columns("identifier", ("student_pseudonym", "text", "!Keyed pseudonym of the student.")) + _columns(
    "quasi", ("course_id", "text", "!Module and presentation, BBB-2013B.")
)
_AS_OF = _columns("context", ("as_of_on", "date", "!The day whose end is looked at."))

STUDENT_DAY = Table(
    "features", "student_day", "warehouse", ("student_pseudonym", "course_id", "active_on"),
    "One row per cohort enrollment and active day up to the as-of day last computed.",
    _AS_OF + _ENROLLMENT_KEY
    + _columns("behavior",
               ("active_on", "date", "!Day with at least one click."),
               ("course_day", "int", "!Days since the presentation start; negative is before it."),
               ("clicks", "bigint", "!Clicks of the day."),
               ("sites_visited", "int", "!Distinct sites of the day."),
               ("logins", "int", "Sessions begun on the day; a gap of over 30 minutes begins one; null without timestamps."),
               ("session_minutes", "float", "Minutes in sessions, a session's last row counted as one minute; null without timestamps.")),
)  # fmt: skip
STUDENT_WEEK = Table(
    "features", "student_week", "warehouse", ("student_pseudonym", "course_id", "course_week"),
    "One row per cohort enrollment and course week up to the as-of day last computed; weeks without activity are rows of zero.",
    _AS_OF + _ENROLLMENT_KEY
    + _columns("behavior",
               ("course_week", "int", "!Course week; 1 is days 0 to 6."),
               ("days_elapsed", "int", "!Days of the week up to the as-of day, 1 to 7."),
               ("active_days", "int", "Active days of the week; null where the course is not observed."),
               ("clicks", "bigint", "Clicks of the week; null where the course is not observed.")),
)  # fmt: skip

ACTIVITY_GROUPS = ("content", "forum", "homepage", "quiz", "resource", "other")
DAY_PERIODS = ("night", "morning", "afternoon", "evening")

_TERM_CONTEXT = _columns(
    "context",
    ("source", "text", "!Name of the source."),
    ("course_day", "int", "!As-of day counted from the presentation start; 0 is the first day."),
    ("course_week", "int", "!Course week of the as-of day; 1 is days 0 to 6."),
    ("presentation_length_days", "int", "!Length of the presentation."),
    (
        "is_observed",
        "bool",
        "!Whether the course has a click row on or before the as-of day, from a source whose newest delivery is at most 2 days older.",
    ),
    ("activity_missing_reason", "text", "Why activity columns are null: course_not_observed or never_active."),
)
# all that passes the wall of the day of registration: the part of the longest window that a student was there for
_TERM_ENROLLED = _columns("derived", ("course_days_enrolled", "int", "!Days from the presentation start, or from a later registration, to the as-of day; 28 is 28 or more."))  # fmt: skip
_TERM_REGISTRAR = _columns(
    "quasi",
    ("registration_lead_days", "int", "!Days from registration to the presentation start; negative is late."),
    ("num_of_prev_attempts", "int", "!Earlier attempts at this module."),
    ("studied_credits", "int", "!Credits studied at the time."),
)
_TERM_BEHAVIOR = _columns(
    "behavior",
    ("clicks_total", "bigint", "Clicks up to the as-of day, days before the start included."),
    ("active_days_total", "int", "Active days up to the as-of day, days before the start included."),
    ("clicks_per_week", "float", "Mean clicks per elapsed course week."),
    ("active_days_per_week", "float", "Mean active days per elapsed course week."),
    ("clicks_slope_per_week", "float", "Least-squares slope of clicks over complete course weeks; null under 2 weeks."),
    ("active_days_slope_per_week", "float", "Least-squares slope of active days over complete course weeks; null under 2 weeks."),
    ("clicks_last_7_days", "bigint", "Clicks in the 7 days that end on the as-of day."),
    ("clicks_last_14_days", "bigint", "Clicks in the 14 days that end on the as-of day."),
    ("clicks_last_28_days", "bigint", "Clicks in the 28 days that end on the as-of day."),
    ("active_days_last_7_days", "int", "Active days among the last 7."),
    ("active_days_last_14_days", "int", "Active days among the last 14."),
    ("active_days_last_28_days", "int", "Active days among the last 28."),
    ("clicks_14d_to_history", "float", "r / (r + h): r = clicks per day of the last 14 days, h = before them from day 0; 0.5 is unchanged; null before day 28 or where both are 0."),
    ("clicks_anomaly_score", "float", "Robust z of the last 7 days' clicks against the student's earlier 7-day blocks: (x - median) / (1.4826 MAD + 1); null under 3 earlier blocks or if never active."),
    ("days_since_last_activity", "int", "Whole days since the last active day; null if never active."),
    ("weekday_entropy_share", "float", "Entropy of active days over weekdays divided by ln 7, 0-1; null if never active."),
    ("weekly_autocorrelation", "float", "Lag-7 autocorrelation of the daily active indicator since day 0; null before day 21 or when constant."),
    *((f"share_clicks_{g}", "float", f"Share of clicks on {g} sites, 0-1; null if never active.") for g in ACTIVITY_GROUPS),
    *((f"share_clicks_{p}", "float", f"Share of timestamped clicks in the {p}, 0-1; null without timestamps.") for p in DAY_PERIODS),
    ("logins_total", "int", "Sessions; a gap of over 30 minutes begins one; null without timestamps."),
    ("session_minutes_mean", "float", "Mean minutes per session; null without timestamps."),
    ("time_spent_minutes", "float", "Minutes in sessions, the learner summary's time_spent; null without timestamps."),
    ("submissions_due", "int", "!Assessments with cut-off on or before the as-of day that anybody in the cohort submitted, exams aside."),
    ("submissions_made", "int", "!Submissions on or before the as-of day, exams aside; banked ones are made."),
    ("submissions_late", "int", "!Submissions after their cut-off, exams aside; banked ones are never late."),
    ("submissions_missed", "int", "!Assessments due and not submitted."),
    ("submissions_missed_share", "float", "Missed over due, 0-1; null while none is due."),
    ("score_pct_mean", "float", "Mean score of submissions, exams and banked ones aside, the learner summary's avg_score, 0-100; null without a score."),
    ("score_pct_slope", "float", "Least-squares slope of score per submission in order of submission; null under 2 scores."),
    ("accuracy_share", "float", "Mean score of computer-marked submissions over 100, the learner summary's accuracy; null without one."),
    ("topic_progress_share", "float", "Distinct sites visited over the course's sites, the learner summary's topic_progress; null where not observed."),
    ("peer_active_days_last_28_days_median", "float", "Median of active_days_last_28_days in the same course and day."),
    ("peer_clicks_last_28_days_median", "float", "Median of clicks_last_28_days in the same course and day."),
    ("active_days_28d_to_peers", "float", "x / (x + peer median), 0-1; 0.5 is the peer median; null where both are 0."),
    ("clicks_28d_to_peers", "float", "x / (x + peer median), 0-1; 0.5 is the peer median; null where both are 0."),
)  # fmt: skip
_PROVENANCE = _columns(
    "volatile",
    ("delivery_set", "text", "!First 16 hex digits of the md5 over the sorted delivery ids used, joined by newlines."),
)
# those that pass the wall, generalized; every other column of kind quasi, a fact of the registrar, stays before it
QUASI_IDENTIFIERS = ("course_id", "gender", "region", "highest_education", "imd_band", "age_band")
_DEMOGRAPHICS = tuple(c for c in OULAD_STUDENT_INFO.columns if c.name in QUASI_IDENTIFIERS)

STUDENT_TERM = Table(
    "features", "student_term", "warehouse", ("as_of_on", "student_pseudonym", "course_id"),
    "One row per cohort enrollment and as-of day: behavior up to the end of that day, beside demographics.",
    _AS_OF + _ENROLLMENT_KEY + _TERM_CONTEXT + _TERM_ENROLLED + _TERM_REGISTRAR + _TERM_BEHAVIOR + _DEMOGRAPHICS
    + _columns("sensitive", ("disability", "text", "Declared disability, Y or N.")) + _PROVENANCE,
)  # fmt: skip

_OUTCOME = (
    _AS_OF + _ENROLLMENT_KEY
    + _columns("sensitive", ("outcome", "text", "!Pass, Fail, Withdrawn or Distinction."))
    + _columns("context", ("outcome_known_on", "date", "!Unregistration day of a withdrawal, else the end of the presentation."))
    + _PROVENANCE
)  # fmt: skip
_OUTCOME_DOC = "One row per as-of day and enrollment whose outcome is known by the end of that day."
FEATURES_STUDENT_OUTCOME = Table(
    "features", "student_outcome", "warehouse", ("as_of_on", "student_pseudonym", "course_id"), _OUTCOME_DOC, _OUTCOME
)  # fmt: skip

# -- anonymized: the wall; nothing downstream reads what lies before it --------------------------------

ANONYMIZED_STUDENT_TERM = Table(
    "anonymized", "student_term", "warehouse", ("as_of_on", "student_pseudonym", "course_id"),
    "One row per cohort enrollment and as-of day: behavior beside k-anonymous quasi-identifiers; still pseudonymized personal data.",
    _AS_OF + _ENROLLMENT_KEY + _TERM_CONTEXT + _TERM_ENROLLED + _TERM_BEHAVIOR + _DEMOGRAPHICS
    + _columns("derived", ("is_suppressed", "bool", "!Whether the row's quasi-identifiers were suppressed to *.")) + _PROVENANCE,
)  # fmt: skip
STUDENT_OUTCOME = Table(
    "anonymized", "student_outcome", "warehouse", ("as_of_on", "student_pseudonym", "course_id"), _OUTCOME_DOC, _OUTCOME
)  # fmt: skip
ANONYMIZED_STUDENT_WEEK = Table(
    "anonymized", "student_week", "warehouse", ("student_pseudonym", "course_id", "course_week"),
    "One row per course week and enrollment of anonymized/student_term on the as-of day last computed; weeks without activity are rows of zero.",
    STUDENT_WEEK.columns,
)  # fmt: skip
GENERALIZATIONS = Table(
    "anonymized", "generalizations", "warehouse", ("course_id", "k", "fitted_as_of", "quasi_identifier"),
    "One row per course, k, day of the fit and quasi-identifier: the level of its hierarchy that the wall applies.",
    _columns("context",
             ("course_id", "text", "!The course."),
             ("fitted_as_of", "date", "!As-of day whose cohort it was fitted on."),
             ("k", "int", "!Smallest cell."),
             ("quasi_identifier", "text", "!The column."),
             ("level", "int", "!0 is as delivered, the highest is suppressed.")),
)  # fmt: skip

_SUMMARIZED_ON = _columns("context", ("as_of_on", "date", "!Day of delivery of the summary, whose end it tells of."))
ANONYMIZED_LEARNER_SUMMARY = Table(
    "anonymized", "learner_summary", "warehouse", ("as_of_on", "student_pseudonym"),
    "One row per learner of the summary of a day: pseudonym and features, nothing else; still pseudonymized personal data.",
    _SUMMARIZED_ON + _STUDENT + _LEARNER_FEATURES,
)  # fmt: skip

# a source that has delivered nothing for longer than a weekend tells nothing of what students do; int_courses_observed has it too
STALE_AFTER_DAYS = 2

MODEL_INPUTS = (
    "active_days_28d_to_peers", "clicks_28d_to_peers", "clicks_14d_to_history", "days_since_last_activity",
    "weekday_entropy_share", "submissions_missed_share", "score_pct_mean",
)  # fmt: skip
MODEL_NAME = "student_clusters"  # in MLflow

# -- clustering and risk: small and transactional, in the record; learners are millions, in the warehouse ----

_MODEL = _columns(
    "derived",
    ("model_name", "text", "!Registered model."),
    ("model_version", "int", "!Its version in MLflow."),
)
_CLUSTER_UID = _columns("derived", ("cluster_uid", "text", "What the cluster is called in every version, see clustering/lineage; null for noise, and in rows of before it."))  # fmt: skip
ASSIGNMENTS = Table(
    "clustering", "assignments", "record", ("as_of_on", "student_pseudonym", "course_id"),
    "One row per observed cohort enrollment and as-of day: its cluster by the champion.",
    _AS_OF + _ENROLLMENT_KEY + _MODEL
    + _columns("derived", ("cluster", "int", "!Cluster number; -1 is noise.")) + _CLUSTER_UID
    + _columns("derived", ("confidence", "float", "!Confidence of the assignment, 0-1.")),
)  # fmt: skip
PROFILES = Table(
    "clustering", "profiles", "record", ("as_of_on", "cluster", "feature"),
    "One row per as-of day, cluster and feature: what the cluster looks like.",
    _AS_OF + _MODEL
    + _columns("derived", ("cluster", "int", "!Cluster number; -1 is noise.")) + _CLUSTER_UID
    + _columns("derived",
               ("feature", "text", "!Model input."),
               ("students", "int", "!Enrollments in the cluster."),
               ("mean", "float", "Mean; null where no row has a value."),
               ("median", "float", "Median; null where no row has a value."),
               ("standardized_difference", "float", "Cluster mean minus cohort mean over the cohort's standard deviation; null where undefined.")),
)  # fmt: skip
PROMOTIONS = Table(
    "clustering", "promotions", "record", ("model_name", "model_version"),
    "One row per promoted model version; the newest that stands, with trained_as_of on or before a day, is that day's champion.",
    _MODEL
    + _columns("derived",
               ("algorithm", "text", "!Registry name of the algorithm."),
               ("trained_as_of", "date", "!As-of day of the training snapshot."),
               ("fit_key", "text", "!Digest of snapshot, parameters, seed and code version."),
               ("reason", "text", "!Why it was promoted."),
               ("withdrawn_because", "text", "Why it scores no day any more; null while it may."))
    + _columns("volatile",
               ("mlflow_run_id", "text", "!MLflow run that holds it."),
               ("promoted_at", "timestamp", "!UTC time."),
               ("withdrawn_at", "timestamp", "UTC time; null while it may score.")),
)  # fmt: skip
LINEAGE = Table(
    "clustering", "lineage", "record", ("model_name", "model_version", "cluster_uid"),
    "One row per promoted model version and cluster uid of it or of the champion before it: what became of the cluster.",
    _MODEL
    + _columns("derived",
               ("cluster_uid", "text", "!What the cluster is called in every version."),
               ("change", "text", "!same, split, merged, born or died; split and born begin a uid, merged and died end it."),
               ("cluster", "int", "Cluster number in this version; null where the uid ends."),
               ("name", "text", "!What its members were like at its birth; kept as long as the uid."),
               ("from_uid", "text", "Whose members it mainly has: its own where same, the parent's where split."),
               ("into_uid", "text", "The cluster that most of its members are in now, where merged."),
               ("former_version", "int", "Version that it was compared with; null where there was none."),
               ("overlap", "float", "Jaccard index with the cluster of from_uid or into_uid, else the largest with any, 0-1; null without a former version."),
               ("center_distance", "float", "Distance of their centers over that of opposite corners, 0-1; null where one is alone or empty."),
               ("share", "float", "!Share of the new model's training rows in it, 0-1; by the former model where the uid ends.")),
)  # fmt: skip
LEARNER_CLUSTERS = Table(
    "clustering", "learner_clusters", "warehouse", ("as_of_on", "student_pseudonym"),
    "One row per learner of anonymized/learner_summary and day: the clusters that each algorithm finds among them.",
    _SUMMARIZED_ON + _STUDENT + _LEARNER_FEATURES
    + _columns("derived",
               ("cluster_kmeans", "int", "!Cluster by K-Means; 0 has the highest standardized means."),
               ("cluster_gmm", "int", "!Cluster by the Gaussian mixture, numbered likewise; the numbers of the two name different clusters."),
               ("gmm_confidence", "float", "!Posterior of that component, 0-1.")),
)  # fmt: skip
LEARNER_PROFILES = Table(
    "clustering", "learner_profiles", "warehouse", ("as_of_on", "algorithm", "cluster", "feature"),
    "One row per day, algorithm, cluster and feature of clustering/learner_clusters: what the cluster looks like.",
    _SUMMARIZED_ON
    + _columns("derived",
               ("algorithm", "text", "!kmeans or gmm."),
               ("cluster", "int", "!Cluster number of that algorithm."),
               ("feature", "text", "!Feature."),
               ("learners", "bigint", "!Learners in the cluster."),
               ("mean", "float", "Mean; null for fewer than privacy.k learners, as all that follows."),
               ("q1", "float", "Lower quartile."),
               ("median", "float", "Median."),
               ("q3", "float", "Upper quartile."),
               ("standardized_difference", "float", "Cluster mean minus the mean of all over the standard deviation of all; 0 for a constant feature.")),
)  # fmt: skip
STUDENT_RISK = Table(
    "risk", "student_risk", "record", ("as_of_on", "student_pseudonym", "course_id"),
    "One row per cohort enrollment and as-of day: risk level, score and reasons, for advisors and instructors.",
    _AS_OF + _ENROLLMENT_KEY
    + _columns("derived",
               ("source", "text", "!Name of the source."),
               ("course_week", "int", "!Course week of the as-of day."),
               ("is_observed", "bool", "!Whether the course has a click row on or before the as-of day, from a source whose newest delivery is at most 2 days older."),
               ("risk_level", "text", "!LOW, MEDIUM, HIGH or UNKNOWN."),
               ("risk_score", "float", "Score, 0-1; null where UNKNOWN."),
               ("reason_1", "text", "!Strongest reason, or why the level is UNKNOWN."),
               ("reason_2", "text", "Second reason."),
               ("reason_3", "text", "Third reason."),
               ("cluster", "int", "Cluster; null where UNKNOWN."),
               ("cluster_uid", "text", "What the cluster is called in every version, see clustering/lineage; null where UNKNOWN, for noise, and in rows of before it."),
               ("submissions_due", "int", "!Assessments due that anybody in the cohort submitted."),
               ("submissions_made", "int", "!Submissions made."),
               ("submissions_missed", "int", "!Assessments due and not submitted."),
               ("model_name", "text", "Registered model; null where UNKNOWN."),
               ("model_version", "int", "Model version; null where UNKNOWN."))
    + _PROVENANCE,
)  # fmt: skip

TABLES: tuple[Table, ...] = (
    *OULAD_TABLES, LEARNER_SUMMARY, QUARANTINE, DELIVERIES, FILES, DELIVERY_SCOPE,
    STUDENT_DAY, STUDENT_WEEK, STUDENT_TERM, FEATURES_STUDENT_OUTCOME,
    ANONYMIZED_STUDENT_TERM, STUDENT_OUTCOME, ANONYMIZED_STUDENT_WEEK, GENERALIZATIONS, ANONYMIZED_LEARNER_SUMMARY,
    ASSIGNMENTS, PROFILES, PROMOTIONS, LINEAGE, LEARNER_CLUSTERS, LEARNER_PROFILES, STUDENT_RISK,
)  # fmt: skip


def find_table(path: str) -> Table:
    """The table whose path is `stage/name`; KeyError names the known ones."""
    for table in TABLES:
        if table.path == path:
            return table
    raise KeyError(f"no table {path!r}; known: {', '.join(t.path for t in TABLES)}")
