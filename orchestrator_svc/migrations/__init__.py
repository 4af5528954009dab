"""Schema of the orchestrator's database."""

# What has happened stays: the service itself can neither delete a task nor change an event.
GRANTS = {
    "log_head": "SELECT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "task": "SELECT, INSERT, UPDATE",
    "attempt": "SELECT, INSERT, UPDATE",
    "task_step": "SELECT, INSERT, UPDATE",
    "task_input": "SELECT, INSERT, UPDATE",
    "child_wait": "SELECT, INSERT, DELETE",
    "task_event": "SELECT, INSERT",
    "idempotency": "SELECT, INSERT, DELETE",
    "worker_session": "SELECT, INSERT, UPDATE, DELETE",
    "claim": "SELECT, INSERT, DELETE",
    "queue": "SELECT, INSERT, UPDATE, DELETE",
    "event_edge": "SELECT",
    "blob": "SELECT, INSERT, UPDATE, DELETE",
}
