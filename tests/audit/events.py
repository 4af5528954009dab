"""Events as producers make them."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from audit_svc.event import NewEvent, Part, StoredEntry
from audit_svc.trail import TrailPage
from interlock.verify import PartBytes, Trail, TrailEntry
from svc_kit.ids import uuid7

TASK = uuid.UUID("01900000-0000-7000-8000-000000000001")
PROMPT = Part(name="input", content_type="application/json", body=b'{"ask":"why"}')


def new_event(**changes: Any) -> NewEvent:
    values: dict[str, Any] = {
        "event_id": uuid7(),
        "tenant": "default",
        "producer": "orchestrator",
        "type": "PROMPT",
        "event_time": time.time_ns(),
        "actor": "dev@example.org",
        "agent": "summariser",
        "task_id": TASK,
        "parts": (PROMPT,),
    }
    return NewEvent(**{**values, **changes})


def trail_of(task_id: uuid.UUID, *pages: TrailPage) -> Trail:
    """What a reader saves of the pages it was given."""
    return Trail(
        task_id=str(task_id),
        checkpoint=pages[0].checkpoint.note,
        entries=tuple(
            TrailEntry(
                index=proven.entry.index,
                leaf=proven.entry.leaf,
                proof=proven.proof,
                parts=parts_of(proven.entry),
            )
            for page in pages
            for proven in page.entries
        ),
    )


def parts_of(entry: StoredEntry) -> dict[str, PartBytes]:
    return {part.name: PartBytes(salt=part.salt, body=part.body) for part in entry.parts if part.salt}


def indexes(page: TrailPage) -> Sequence[int]:
    return [proven.entry.index for proven in page.entries]
