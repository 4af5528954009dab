"""The gateway's schema, and what its service role may do with it."""

GRANTS = {
    "approval": "SELECT, INSERT, UPDATE",
    "audit_payload": "SELECT, INSERT, DELETE",
    "call_limit": "SELECT, INSERT, UPDATE, DELETE",
    "gateway": "SELECT, INSERT, UPDATE, DELETE",
    "log_head": "SELECT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "connection": "SELECT, INSERT, UPDATE, DELETE",
    "policy": "SELECT, INSERT, UPDATE, DELETE",
    "policy_head": "SELECT, INSERT, UPDATE",
    "policy_version": "SELECT, INSERT",
    "tool_call": "SELECT, INSERT, UPDATE",
}
