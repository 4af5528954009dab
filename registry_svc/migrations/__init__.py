"""The registry's schema, and what its service role may do with it."""

GRANTS = {
    "log_head": "SELECT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "resource": "SELECT, INSERT, UPDATE",
    "version": "SELECT, INSERT",
}
