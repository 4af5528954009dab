"""What an agent's code is given."""

from collections.abc import Mapping
from typing import Any, Protocol


class AgentError(Exception):
    """Ends the attempt with a failure; `retryable` False ends the task.

    `retry_after` are the seconds that the next attempt waits at least.
    """

    def __init__(
        self, message: str, *, error_class: str = "", retryable: bool = True, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.error_class = error_class or type(self).__name__
        self.retryable = retryable
        self.retry_after = retry_after


class ToolError(AgentError):
    """The tool was executed and failed by itself, or ran out of a limit.

    Its outcome is journaled: the same step answers the same error in every attempt, so by default the task
    is not tried again. An agent may catch it and go on.
    """

    def __init__(self, message: str, *, error_class: str) -> None:
        super().__init__(message, error_class=error_class, retryable=False)


class ToolRefused(AgentError):
    """The gateway refused the call.

    Nothing was executed. `error_class` is its reason, for example POLICY_DENIED.
    """

    def __init__(self, message: str, *, reason: str, call_id: str) -> None:
        super().__init__(message, error_class=reason, retryable=False)
        self.call_id = call_id


class AgentContext(Protocol):
    """The agent's side of one attempt. Every action through it is a journaled step."""

    @property
    def task_id(self) -> str:
        """UUID of the task."""
        ...

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        ...

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        """Call a bound tool and return its result as JSON values.

        `key` names the step within the task; empty = `<tool>-<n>` for the n-th call of that tool. The key
        and the arguments must be the same in every attempt: a finished step is answered from the journal.

        Raises ToolError or ToolRefused.
        """
        ...

    def log(self, message: str) -> None:
        """Say something to the worker's operators; bounded, and no step."""
        ...
