"""How alembic reaches the record: by the connection, and in the transaction, that `storage/migrate.py` opened.

What a revision changes does not belong here; nor does an address: plain `alembic` has no way in.
"""

from alembic import context

from iom_platform.storage.migrate import SCHEMA, TABLE

context.configure(connection=context.config.attributes["connection"], version_table=TABLE, version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
