"""Failures in the log: one line each, with what a person needs to find the rest."""

from collections.abc import Iterable

import structlog

from orchestrator_svc.changes import TaskChanges

log = structlog.get_logger(__name__)


def log_failures(accepted: Iterable[TaskChanges]) -> None:
    """Log every attempt and task that failed by these changes, once they are committed.

    The message of a failure is content, which belongs to the task and the audit log: here stands its class.
    """
    for changes in accepted:
        task, ending = changes.task, changes.ending
        error = ending.error if ending is not None else task.status.error
        if not changes.events or changes.events[-1].error is None or error is None:
            continue
        log.warning(
            "task_failed" if task.status.state.terminal else "attempt_failed",
            task_id=str(task.task_id),
            tenant=task.tenant,
            agent=f"{task.agent.name} {task.agent.version}",
            attempt=task.status.attempt,
            step=error.step_key,
            error_class=error.error_class,
            cause=str(ending.outcome) if ending is not None else str(error.timeout or ""),
            failures=task.status.failures,
            crashes=task.status.crashes,
            state=str(task.status.state),
            dead_lettered=task.status.dead_lettered,
        )
