"""The schema, step by step, and what the service's role may do in it.

Entries, payloads, tiles and checkpoints can be added and read, nothing else; only a log's head changes.
"""

_APPEND_ONLY = "SELECT, INSERT"

GRANTS = {
    "log": _APPEND_ONLY,
    "log_head": "SELECT, INSERT, UPDATE",
    "entry": _APPEND_ONLY,
    "payload": _APPEND_ONLY,
    "tile": _APPEND_ONLY,
    "checkpoint": _APPEND_ONLY,
    "actor": _APPEND_ONLY,
}
