"""Counts the words of a text."""


def run(text: str) -> dict[str, int]:
    """How many words there are."""
    return {"words": len(text.split())}
