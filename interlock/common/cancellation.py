"""Whose a cancellation is, and ending tasks for certain."""

import asyncio
import logging
from typing import Any

_LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0


def being_cancelled() -> bool:
    """Whether a CancelledError in hand is meant for the current task.

    Libraries let one leak from below: a call on a closed channel raises it in a task nobody cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(*tasks: "asyncio.Future[Any]", again: float = _AGAIN_SECONDS) -> None:
    """Cancel the tasks and return when all have ended, whatever became of them.

    A task that does not end within `again` seconds is cancelled once more, and that is logged with where it
    waits: code below it may have swallowed the first cancellation, and nothing else would ever end it.
    Whoever is cancelled while it waits here passes that on to the tasks, and leaves when they have ended.
    """
    pending = set(tasks)
    interrupted: asyncio.CancelledError | None = None
    for task in pending:
        task.cancel()
    while pending:
        try:
            _, pending = await asyncio.wait(pending, timeout=again)
        except asyncio.CancelledError as error:
            interrupted = error
            pending = {task for task in pending if not task.done()}
        else:
            for task in pending:
                _LOG.warning("cancelled again, for it does not end: %r", task)
        for task in pending:
            task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen
    if interrupted is not None:
        raise interrupted
