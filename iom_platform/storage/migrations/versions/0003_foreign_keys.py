"""Foreign keys to clustering/promotions: what names a model version names one that was promoted."""

from alembic import op

revision = "0003"
down_revision = "0002"

# rows of risk do not point to assignments: a day's are replaced one table after the other
_KEYS = (
    ("clustering.assignments", "assignments_model_fkey", "model_name, model_version"),
    ("clustering.profiles", "profiles_model_fkey", "model_name, model_version"),
    ("clustering.lineage", "lineage_model_fkey", "model_name, model_version"),
    ("clustering.lineage", "lineage_former_fkey", "model_name, former_version"),
    ("risk.student_risk", "student_risk_model_fkey", "model_name, model_version"),
)


def upgrade() -> None:
    for table, name, columns in _KEYS:
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY ({columns}) REFERENCES clustering.promotions NOT VALID"
        )
        has_orphans = f"""SELECT EXISTS (SELECT FROM {table} WHERE num_nulls({columns}) = 0
            AND ({columns}) NOT IN (SELECT model_name, model_version FROM clustering.promotions))"""
        # a row of long ago that names another version must not stop the platform; those of today are held to the key
        if not op.get_bind().exec_driver_sql(has_orphans).scalar():
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    for table, name, _ in _KEYS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
