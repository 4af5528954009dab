"""Capabilities: dotted words from general to special; who has the special one has the general ones too."""

import re
from collections.abc import Iterable

_CAPABILITY = re.compile(r"[a-z][a-z0-9_-]{0,31}(?:\.[a-z][a-z0-9_-]{0,31}){0,7}")


def is_capability(text: str) -> bool:
    """Whether `text` is spelled as a capability, for example `data.csv.summarise`."""
    return _CAPABILITY.fullmatch(text) is not None


def covers(held: str, wanted: str) -> bool:
    """Whether an agent that holds `held` can do what `wanted` asks: the same, or something more special."""
    return held == wanted or held.startswith(f"{wanted}.")


def distance(held: str, wanted: str) -> int:
    """How many levels more special `held` is than `wanted`; 0 when they are the same."""
    return held.count(".") - wanted.count(".")


def closure(held: Iterable[str]) -> list[str]:
    """The capabilities held and every more general one, sorted."""
    covered: set[str] = set()
    for capability in held:
        words = capability.split(".")
        covered.update(".".join(words[: count + 1]) for count in range(len(words)))
    return sorted(covered)
