"""Entries of the audit log as they are searched for and shown."""

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.client.client import Client

_PAGE = 200
_FIELDS = {"kind": "type"}
_SHOWN_CHARACTERS = 160


def filter_of(named: Mapping[str, str], *, since: str, until: str, more: str) -> str:
    """The filter that options ask for; those that are empty ask for nothing."""
    asked = [f"{_FIELDS.get(name, name)} = {json.dumps(value)}" for name, value in named.items() if value]
    asked += [f"recorded_time >= {json.dumps(since)}"] if since else []
    asked += [f"recorded_time < {json.dumps(until)}"] if until else []
    return " AND ".join([*asked, *([more] if more else [])])


async def found_entries(
    suite: Client, wanted: str, *, text: str, limit: int, payloads: bool, reason: str
) -> AsyncIterator[entry_pb2.Entry]:
    """What a filter and words find, newest first, page by page."""
    token = ""
    while limit > 0:
        request = messages.SearchEntriesRequest(
            filter=wanted,
            text=text,
            page_size=min(limit, _PAGE),
            page_token=token,
            include_payloads=payloads,
            reason=reason,
        )
        page = await suite.call(suite.audit.SearchEntries, request)
        for each in page.entries:
            yield each
        limit -= len(page.entries)
        token = page.next_page_token
        if not token:
            return


def entry_json(entry: entry_pb2.Entry) -> dict[str, Any]:
    """An entry with its leaf as the JSON that it is; payloads as text where they are text."""
    return {
        "event_id": entry.event_id,
        "index": entry.index,
        "recorded_time": entry.recorded_time.ToJsonString(),
        "leaf": json.loads(entry.leaf),
        "payloads": {
            each.part: {"content_type": each.content_type, "present": each.present} | _content(each.body)
            for each in entry.payloads
        },
    }


def entry_line(entry: entry_pb2.Entry) -> Iterator[str]:
    """An entry on a line, and each content that came with it on another."""
    leaf = json.loads(entry.leaf)
    facts = [
        f"#{entry.index}",
        display.short_time(entry.recorded_time),
        leaf.get("type", ""),
        leaf.get("status", ""),
        leaf.get("reason", ""),
        " → ".join(each for each in (leaf.get("agent", ""), leaf.get("tool", "")) if each),
        f"task {leaf['task']}" if leaf.get("task") else "",
    ]
    yield one_line("  ".join(str(fact) for fact in facts if fact))
    for each in entry.payloads:
        if each.body:
            text = one_line(each.body.decode("utf-8", "replace"))
            yield f"    {each.part}  {text[:_SHOWN_CHARACTERS]}{'…' if len(text) > _SHOWN_CHARACTERS else ''}"


def _content(body: bytes) -> dict[str, str]:
    if not body:
        return {}
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
