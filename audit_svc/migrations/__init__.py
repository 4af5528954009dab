"""The schema, step by step, and what the service's role may do in it.

Entries, payloads, tiles and checkpoints can be added and read; only a log's head changes. What is deleted is
what an entry of the log lists, under the eyes of triggers.
"""

_APPEND_ONLY = "SELECT, INSERT"

GRANTS = {
    "log": _APPEND_ONLY,
    "log_head": "SELECT, INSERT, UPDATE",
    # Triggers let go what an entry of the log says is removed, and nothing else.
    "entry": f"{_APPEND_ONLY}, DELETE",
    "payload": f"{_APPEND_ONLY}, DELETE",
    "removed_part": _APPEND_ONLY,
    "removed_entry": _APPEND_ONLY,
    # The database itself adds words, and lets them go with their content.
    "payload_text": "SELECT",
    "text_progress": "SELECT",
    "erasure": "SELECT, INSERT, UPDATE",
    "producer_progress": "SELECT, INSERT, UPDATE",
    "tile": _APPEND_ONLY,
    "checkpoint": _APPEND_ONLY,
    "actor": f"{_APPEND_ONLY}, DELETE",
    "forgotten_actor": _APPEND_ONLY,
    "signing_key": _APPEND_ONLY,
    "key_change": _APPEND_ONLY,
    "retention_rule": _APPEND_ONLY,
    "hold": _APPEND_ONLY,
    "hold_release": _APPEND_ONLY,
}
