"""The tables; `migrations/` makes them, with their triggers."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR

metadata = sa.MetaData()

log = sa.Table(
    "log",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False, unique=True),
    sa.Column("origin", sa.Text, nullable=False, unique=True),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("first_key", sa.Integer, nullable=False, server_default="1"),
)
"""One log per tenant."""

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("requester", sa.Text, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
"""The keys after the first one."""

key_change = sa.Table(
    "key_change",
    metadata,
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), primary_key=True),
    sa.Column("number", sa.Integer, sa.ForeignKey("signing_key.number"), primary_key=True),
    sa.Column("leaf_index", sa.BigInteger, nullable=False),
    sa.Column("event_id", sa.Uuid, nullable=False),
)
"""From which entry on a log's checkpoints are signed by which key."""

log_head = sa.Table(
    "log_head",
    metadata,
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("frontier", sa.LargeBinary, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("forgotten", sa.BigInteger, nullable=False, server_default="0"),
)
"""Where each tree stands; whoever holds the row's lock is the one who appends."""

entry = sa.Table(
    "entry",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("event_id", sa.Uuid, primary_key=True),
    sa.Column("leaf_index", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("producer", sa.Text, nullable=False),
    sa.Column("producer_sequence", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("agent_version", sa.Text, nullable=False),
    sa.Column("task_id", sa.Uuid),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("span_id", sa.Text, nullable=False),
    sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("recorded_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
)
"""One row per leaf; `leaf` is the truth, the columns before it are copies by which entries are found."""

payload = sa.Table(
    "payload",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("event_id", sa.Uuid, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
"""Contents outside the tree, with the salts of their commitments."""

payload_text = sa.Table(
    "payload_text",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("event_id", sa.Uuid, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("words", TSVECTOR, nullable=False),
)
"""The words of contents, a moment behind the log."""

removed_part = sa.Table(
    "removed_part",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("event_id", sa.Uuid, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("explained_by", sa.Uuid, nullable=False),
)
"""Where it is said why a content is gone: in the entry of that event, which alone is believed."""

removed_entry = sa.Table(
    "removed_entry",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("leaf_index", sa.BigInteger, primary_key=True),
    sa.Column("event_id", sa.Uuid, nullable=False),
    sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
    sa.Column("explained_by", sa.Uuid, nullable=False),
)
"""What is left of entries whose time was over: a place in the tree, and where it is said why."""

erasure = sa.Table(
    "erasure",
    metadata,
    sa.Column("erasure_id", sa.Uuid, primary_key=True),
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("request_id", sa.Uuid),
    sa.Column("task_id", sa.Uuid),
    sa.Column("event_id", sa.Uuid),
    sa.Column("actor", sa.Text),
    sa.Column("part", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("requester", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("waiting_for", sa.Text, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("erase_time", sa.DateTime(timezone=True)),
    sa.Column("complete_time", sa.DateTime(timezone=True)),
    sa.Column("reached", JSONB, nullable=False),
    sa.Column("explained_by", ARRAY(sa.BigInteger), nullable=False),
    sa.Column("files", ARRAY(sa.Text), nullable=False),
    sa.UniqueConstraint("log_id", "request_id"),
)
"""The journal of erasures."""

producer_progress = sa.Table(
    "producer_progress",
    metadata,
    sa.Column("producer", sa.Text, primary_key=True),
    sa.Column("complete_to", sa.BigInteger, nullable=False),
)
"""Up to which number all events of a producer have been received."""

tile = sa.Table(
    "tile",
    metadata,
    sa.Column("log_id", sa.Uuid, primary_key=True),
    sa.Column("tier", sa.SmallInteger, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
)
"""Full tiles of 256 hashes; what is not full yet is read from the entries, or from the tiles below."""

checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), primary_key=True),
    sa.Column("size", sa.BigInteger, primary_key=True),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("sign_time", sa.DateTime(timezone=True), nullable=False),
)
"""Every checkpoint that was signed."""

actor = sa.Table(
    "actor",
    metadata,
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), primary_key=True),
    sa.Column("pseudonym", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.UniqueConstraint("log_id", "subject"),
)
"""Who stands behind the pseudonyms that leaves hold; without its row a pseudonym tells nothing."""

forgotten_actor = sa.Table(
    "forgotten_actor",
    metadata,
    sa.Column("log_id", sa.Uuid, sa.ForeignKey("log.log_id"), primary_key=True),
    sa.Column("pseudonym", sa.Text, primary_key=True),
    sa.Column("explained_by", sa.Uuid, nullable=False),
)
"""Pseudonyms behind which nobody stands any more: in the entry of that event it is said why."""
