"""The record's tables, the identity map and the audit; one that was made before there were revisions is adopted.

Going back leaves empty schemas behind.
"""

from alembic import op

from iom_platform.storage.migrate import MigrationError, refuse_to_lose

revision = "0001"
down_revision = None

_TABLES = {
    "clustering.assignments": """
        as_of_on date NOT NULL, student_pseudonym text NOT NULL, course_id text NOT NULL, model_name text NOT NULL,
        model_version integer NOT NULL, cluster integer NOT NULL, cluster_uid text, confidence double precision NOT NULL,
        PRIMARY KEY (as_of_on, student_pseudonym, course_id),
        CHECK (confidence BETWEEN 0 AND 1), CHECK (cluster >= -1), CHECK (model_version >= 1)""",
    "clustering.profiles": """
        as_of_on date NOT NULL, model_name text NOT NULL, model_version integer NOT NULL, cluster integer NOT NULL,
        cluster_uid text, feature text NOT NULL, students integer NOT NULL, mean double precision,
        median double precision, standardized_difference double precision,
        PRIMARY KEY (as_of_on, cluster, feature)""",
    "clustering.promotions": """
        model_name text NOT NULL, model_version integer NOT NULL, algorithm text NOT NULL, trained_as_of date NOT NULL,
        fit_key text NOT NULL, reason text NOT NULL, withdrawn_because text, mlflow_run_id text NOT NULL,
        promoted_at timestamptz NOT NULL, withdrawn_at timestamptz,
        PRIMARY KEY (model_name, model_version),
        CHECK (model_version >= 1), CHECK ((withdrawn_at IS NULL) = (withdrawn_because IS NULL))""",
    "clustering.lineage": """
        model_name text NOT NULL, model_version integer NOT NULL, cluster_uid text NOT NULL, change text NOT NULL,
        cluster integer, name text NOT NULL, from_uid text, into_uid text, former_version integer,
        overlap double precision, center_distance double precision, share double precision NOT NULL,
        PRIMARY KEY (model_name, model_version, cluster_uid),
        CHECK (cluster_uid ~ '^c-[0-9a-f]{8}$'),
        CHECK (change IN ('same', 'split', 'merged', 'born', 'died')),
        CHECK ((change IN ('merged', 'died')) = (cluster IS NULL)),
        CHECK ((change IN ('same', 'split')) = (from_uid IS NOT NULL)),
        CHECK ((change = 'same') = (from_uid IS NOT DISTINCT FROM cluster_uid)),
        CHECK ((change = 'merged') = (into_uid IS NOT NULL)),
        CHECK (overlap BETWEEN 0 AND 1), CHECK (center_distance BETWEEN 0 AND 1), CHECK (share BETWEEN 0 AND 1)""",
    # NaN is greater than 1 in PostgreSQL, so BETWEEN refuses it too
    "risk.student_risk": """
        as_of_on date NOT NULL, student_pseudonym text NOT NULL, course_id text NOT NULL, source text NOT NULL,
        course_week integer NOT NULL, is_observed boolean NOT NULL, risk_level text NOT NULL,
        risk_score double precision, reason_1 text NOT NULL, reason_2 text, reason_3 text, cluster integer,
        cluster_uid text, submissions_due integer NOT NULL, submissions_made integer NOT NULL,
        submissions_missed integer NOT NULL, model_name text, model_version integer, delivery_set text NOT NULL,
        PRIMARY KEY (as_of_on, student_pseudonym, course_id),
        CHECK (risk_level IN ('LOW', 'MEDIUM', 'HIGH', 'UNKNOWN')), CHECK (risk_score BETWEEN 0 AND 1),
        CHECK ((risk_level = 'UNKNOWN') = (risk_score IS NULL)),
        CHECK (risk_level <> 'UNKNOWN' OR (cluster IS NULL AND cluster_uid IS NULL AND model_name IS NULL AND model_version IS NULL))""",
    "audit.exports": """
        exported_at timestamptz NOT NULL DEFAULT now(), actor text NOT NULL DEFAULT session_user,
        table_name text NOT NULL, as_of_on date, rows bigint NOT NULL,
        reason text NOT NULL CHECK (btrim(reason) <> ''), account text""",
}  # fmt: skip
# what a record that is adopted may have been made without
_LATER_COLUMNS = (
    ("clustering.assignments", "cluster_uid text"),
    ("clustering.profiles", "cluster_uid text"),
    ("clustering.promotions", "withdrawn_because text"),
    ("clustering.promotions", "withdrawn_at timestamptz"),
    ("risk.student_risk", "cluster_uid text"),
    ("audit.exports", "account text"),
)
# The map belongs to identity_reader, not to the connection role: an owner could grant itself anything.
_IDENTITY = (
    "SET LOCAL ROLE identity_reader",
    """CREATE TABLE identity.students (
        source text NOT NULL, student_id text NOT NULL, student_pseudonym text NOT NULL,
        PRIMARY KEY (source, student_id), UNIQUE (student_pseudonym))""",
    # The only way in. It counts the pairs that are there afterward, because DO NOTHING also swallows a pseudonym that
    # another student has, and a student who had another pseudonym.
    """CREATE FUNCTION identity.save_students(the_source text, ids text[], pseudonyms text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE added bigint; lost bigint;
    BEGIN
        INSERT INTO identity.students
            SELECT the_source, p.id, p.pseudonym FROM unnest(ids, pseudonyms) AS p (id, pseudonym) ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS added = ROW_COUNT;
        SELECT count(*) INTO lost FROM unnest(ids, pseudonyms) AS p (id, pseudonym)
            LEFT JOIN identity.students s
                ON s.source = the_source AND s.student_id = p.id AND s.student_pseudonym = p.pseudonym
            WHERE s.source IS NULL;
        IF lost > 0 THEN RAISE unique_violation USING MESSAGE = lost::text; END IF;
        RETURN added;
    END $$""",
    "REVOKE ALL ON FUNCTION identity.save_students FROM PUBLIC",
    "GRANT USAGE ON SCHEMA identity TO SESSION_USER",
    "GRANT EXECUTE ON FUNCTION identity.save_students TO SESSION_USER",
    "RESET ROLE",
)


def _is_there(table: str) -> bool:
    return bool(op.get_bind().exec_driver_sql("SELECT to_regclass(%s) IS NOT NULL", (table,)).scalar())


def _adopt(table: str, columns: str) -> None:
    """Bring a table of an earlier version of the platform to what this revision makes, or refuse it."""
    for name, column in _LATER_COLUMNS:
        if name == table:
            op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}")
    op.execute(f"CREATE TEMP TABLE wanted ({columns})")
    wanted, found = (
        set(
            op.get_bind().exec_driver_sql(
                "SELECT attname, atttypid, attnotnull FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                (name,),
            )
        )
        for name in ("pg_temp.wanted", table)
    )
    op.execute("DROP TABLE pg_temp.wanted")
    if found != wanted:
        raise MigrationError(
            f"{table} was made with other columns than revision {revision} knows; export it, drop the table and run again"
        )


def upgrade() -> None:
    for schema in ("clustering", "risk", "audit"):
        op.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for table, columns in _TABLES.items():
        if _is_there(table):
            _adopt(table, columns)
        else:
            op.execute(f"CREATE TABLE {table} ({columns})")
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON audit.exports FROM PUBLIC, CURRENT_USER")
    if not _is_there("identity.students"):
        op.execute("CREATE SCHEMA IF NOT EXISTS identity AUTHORIZATION identity_reader")
        for statement in _IDENTITY:
            op.execute(statement)


def downgrade() -> None:
    op.execute("SET LOCAL ROLE identity_reader")
    refuse_to_lose("identity.students")
    op.execute("DROP FUNCTION identity.save_students")
    op.execute("DROP TABLE identity.students")
    op.execute("RESET ROLE")
    for table in _TABLES:
        refuse_to_lose(table)
        op.execute(f"DROP TABLE {table}")
