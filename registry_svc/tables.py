"""The registry's tables, for statements; the migrations make them."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from svc_kit.event_log import log_head_table
from svc_kit.outbox import outbox_table

metadata = sa.MetaData()
log_head = log_head_table(metadata)
outbox = outbox_table(metadata)

# Agents and tools differ in their specs alone, so they share both tables; `kind` is 'agent' or 'tool'.
resource = sa.Table(
    "resource",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("latest_version", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("capabilities", ARRAY(sa.Text), nullable=False),
    # The capabilities and every more general one, so that "is a" is one index look-up.
    sa.Column("covered", ARRAY(sa.Text), nullable=False),
    sa.Column("tools", ARRAY(sa.Text), nullable=False),
    sa.Column("creator", sa.Text, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
    # Position of the last change in the registry's log: what WatchRegistry reads by, and the etag.
    sa.Column("position", sa.BigInteger, nullable=False),
)

version = sa.Table(
    "version",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    # Canonical JSON: exactly the bytes that the digest covers.
    sa.Column("spec_json", sa.Text, nullable=False),
    sa.Column("publisher", sa.Text, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
