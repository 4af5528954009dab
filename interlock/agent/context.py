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


class ChildFailed(AgentError):
    """The child task ended without a result; `error_class` and the message are its own.

    Its outcome is journaled: the same step answers the same error in every attempt, so by default the task
    is not tried again. `repeatable` says that the child's failure might not come again: an agent may catch
    it and submit the work under another key.
    """

    def __init__(self, message: str, *, error_class: str, task_id: str, repeatable: bool) -> None:
        super().__init__(message, error_class=error_class, retryable=False)
        self.task_id = task_id
        self.repeatable = repeatable


class ChildTask(Protocol):
    """A task that this one has given to another agent."""

    @property
    def task_id(self) -> str:
        """UUID of the child task."""
        ...

    async def result(self) -> Any:
        """The child's result as JSON values, once it has one.

        While the attempt can do nothing but wait, the task gives up its worker; when a child has ended, the
        agent is run again from its start and is answered from the journal up to here. What it does beside
        its steps meanwhile is done again then.

        Raises ChildFailed.
        """
        ...


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

    async def submit(
        self,
        agent: str,
        task_input: Mapping[str, Any],
        *,
        key: str = "",
        agent_version: str = "",
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        abandon: bool = False,
    ) -> ChildTask:
        """Give work to another agent, as a task of its own; it is under way when this returns.

        `key` names the step within the task; empty = `<agent>-<n>` for the n-th task given to that agent. An
        empty version means the newest. The child may do only what this agent may do too, takes no longer than
        this task may, and is canceled when this task ends before it, unless it is to be abandoned then.
        """
        ...

    async def ask_human(
        self, question: str, schema: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Any:
        """Ask a person, and return the answer as JSON values that fit the JSON Schema, if one is given.

        The task gives up its worker until the answer has come, as it does for `ChildTask.result`. `key` names
        the question within the task; empty = its number.
        """
        ...

    def log(self, message: str, *, done: float | None = None) -> None:
        """Say something to whoever watches the task, and to operators; `done` is a share, 0 to 1.

        No step and no event: it may be said again in the next attempt, is cut after 2,048 bytes, and of what
        is said faster than a few times a second watchers see the last lines.
        """
        ...
