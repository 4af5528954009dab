"""A tool that takes one second."""

import time


def run(n: int) -> int:
    """Answer the argument, later."""
    time.sleep(1)
    return n
