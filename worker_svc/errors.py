"""Why a worker gives up an attempt."""


class StaleAttempt(Exception):
    """The attempt is not the live one any more: write nothing, stop."""


class AttemptCanceled(Exception):
    """The task was asked to end: wind up."""


class AttemptPaused(Exception):
    """The task is to be paused: what has been done is told, and the task is given back."""


class AgentMissing(Exception):
    """This worker cannot run the agent.

    Unknown here, not installed or not trusted. The message says which.
    """
