"""What happens after a commit: watchers, the audit relay and the pools hear of it."""

import uuid
from collections.abc import Mapping
from typing import Protocol

from svc_kit.wakeup import Wakeups

# Topic of the wake-up that says: events were committed.
EVENTS = "events"


class Nudger(Protocol):
    """Wakes workers."""

    def nudge(self, runnable: Mapping[str, int]) -> None: ...


class Announcements:
    """Nothing here blocks, and nothing needs it to be right: every reader looks by itself too."""

    def __init__(self, wakeups: Wakeups, nudger: Nudger) -> None:
        self._wakeups = wakeups
        self._nudger = nudger

    def committed(self, *, runnable: Mapping[str, int]) -> None:
        """Events were committed; `runnable` counts, by pool, the tasks that may run now."""
        self._wakeups.notify(EVENTS)
        if runnable:
            self._nudger.nudge(runnable)

    def canceling(self, session_id: uuid.UUID) -> None:
        """An attempt of the session has to wind up."""
        self._wakeups.notify(session_topic(session_id))


def session_topic(session_id: uuid.UUID) -> str:
    """Topic of the wake-up that says: look at the attempts of this session."""
    return f"session.{session_id}"
