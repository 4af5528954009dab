"""How often each word of a text occurs."""

import re
from collections import Counter


def run(text: str) -> dict[str, int]:
    """Words in lower case, and how often each occurs."""
    return dict(Counter(re.findall(r"\w+", text.lower())))
