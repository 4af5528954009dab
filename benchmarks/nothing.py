"""A tool that does nothing."""


def run(n: int) -> int:
    """Answer the argument."""
    return n
