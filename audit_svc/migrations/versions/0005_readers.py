"""Show a tenant's rows alone to whoever reads the database directly.

Readers say whose log they read: `SET audit.tenant = '…'`; without it they see nothing. The service's own role
sees all, by a condition that the planner drops; so does the owner, whose functions look after all logs.
"""

from alembic import op

from svc_kit.migrations import service_role

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OF_LOG = "log_id = (SELECT log_id FROM log WHERE tenant = current_setting('audit.tenant', true))"
_ROWS = {
    "log": "tenant = current_setting('audit.tenant', true)",
    "log_head": _OF_LOG,
    "entry": _OF_LOG,
    "payload": _OF_LOG,
    "removed_part": _OF_LOG,
    "tile": _OF_LOG,
    "checkpoint": _OF_LOG,
    "actor": _OF_LOG,
}


def upgrade() -> None:
    for table, rows in _ROWS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} FOR SELECT USING ({rows})")
        if (role := service_role()) is not None:
            op.execute(f'CREATE POLICY of_service ON {table} TO "{role}" USING (true) WITH CHECK (true)')
