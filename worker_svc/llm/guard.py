"""Notices a model that asks for the same thing again and again."""

import json
from collections.abc import Mapping
from typing import Any

from interlock.agent import AgentError

LOOPING = "AGENT_LOOP"
_TOLD_AT = 3
_ENDED_AT = 5


class LoopGuard:
    """Counts equal calls in a row: the third is answered with a hint, the fifth ends the task."""

    def __init__(self) -> None:
        self._last = ""
        self._count = 0

    def hint(self, tool: str, arguments: Mapping[str, Any]) -> str | None:
        """What to tell the model instead of calling; None to call. Raises AgentError AGENT_LOOP."""
        call = json.dumps([tool, arguments], sort_keys=True)
        self._count = self._count + 1 if call == self._last else 1
        self._last = call
        if self._count >= _ENDED_AT:
            raise AgentError(
                f"the model asked {self._count} times in a row for {tool} with the same arguments",
                error_class=LOOPING,
                retryable=False,
            )
        if self._count >= _TOLD_AT:
            return (
                f"You have called {tool} with exactly these arguments {self._count} times in a row;"
                " the result does not change. Go on without it, or with other arguments."
            )
        return None
