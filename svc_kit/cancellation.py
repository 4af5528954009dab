"""Whose a cancellation is."""

import asyncio


def being_cancelled() -> bool:
    """Whether a CancelledError in hand is meant for the current task.

    Libraries let one leak from below: a call on a closed channel raises it in a task nobody cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
