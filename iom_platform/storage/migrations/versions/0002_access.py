"""Who sees which course: scopes, row-level security on risk, and the newest levels as a view.

What a role may do with a table at all is granted from `storage/access.py`.
"""

from alembic import op

from iom_platform.storage.migrate import refuse_to_lose

revision = "0002"
down_revision = "0001"

_SECURED = ("access.course_scopes", "risk.student_risk")
_POLICIES = (
    # the platform owns the tables, and FORCE holds for owners too
    *(f"CREATE POLICY platform ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)" for table in _SECURED),
    """CREATE POLICY own_scopes ON access.course_scopes FOR SELECT TO iom_advisor, iom_instructor
        USING (member = current_user)""",
    "CREATE POLICY every_scope ON access.course_scopes FOR SELECT TO iom_privacy_officer USING (true)",
    # the condition on member is not left to the policy above: a member may be a privacy officer too
    """CREATE POLICY own_courses ON risk.student_risk FOR SELECT TO iom_advisor, iom_instructor
        USING (course_id IN (SELECT s.course_id FROM access.course_scopes s WHERE s.member = current_user))""",
    "CREATE POLICY every_course ON risk.student_risk FOR SELECT TO iom_fairness USING (true)",
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS access")
    op.execute(
        """CREATE TABLE access.course_scopes (
            member name NOT NULL CHECK (member <> ''), course_id text NOT NULL CHECK (btrim(course_id) <> ''),
            granted_by name NOT NULL DEFAULT session_user, granted_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (member, course_id))"""
    )
    for table in _SECURED:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for statement in _POLICIES:
        op.execute(statement)
    op.execute(
        """CREATE VIEW risk.current_risk WITH (security_invoker = true) AS
        SELECT as_of_on, course_id, student_pseudonym, course_week, is_observed, risk_level, risk_score,
            reason_1, reason_2, reason_3, cluster_uid, submissions_due, submissions_made, submissions_missed
        FROM risk.student_risk
        JOIN (SELECT course_id, max(as_of_on) AS as_of_on FROM risk.student_risk GROUP BY course_id) newest
            USING (course_id, as_of_on)"""
    )


def downgrade() -> None:
    refuse_to_lose("access.course_scopes")
    op.execute("DROP VIEW risk.current_risk")
    for policy in ("platform", "own_courses", "every_course"):
        op.execute(f"DROP POLICY {policy} ON risk.student_risk")
    op.execute("ALTER TABLE risk.student_risk NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
    op.execute("DROP TABLE access.course_scopes")
