"""Checks of requests that need nothing but the request. Pure; all violations at once."""

import re
from collections.abc import Sequence

from registry_svc.capabilities import is_capability
from registry_svc.specs import AGENT_NAME, TOOL_NAME
from svc_kit.errors import Violation, invalid

MAX_WANTED = 32
MAX_CANDIDATES = 100
DEFAULT_CANDIDATES = 10


def agent_name(name: str, *, field: str = "name") -> None:
    """Raise InvalidArgument unless `name` can be an agent's."""
    _name(name, AGENT_NAME, field, "1 to 63 of a-z, 0-9 and -, not beginning with -")


def tool_name(name: str, *, field: str = "name") -> None:
    """Raise InvalidArgument unless `name` can be a tool's."""
    _name(name, TOOL_NAME, field, "1 to 128 letters, digits, _, . and -")


def status(value: int, *, known: Sequence[int]) -> None:
    """Raise InvalidArgument unless `value` is a status that can be set."""
    if value not in known:
        raise invalid([Violation("status", "must be STATUS_ACTIVE or STATUS_DISABLED")])


def find_agents(capabilities: Sequence[str], tools: Sequence[str], limit: int) -> int:
    """The number of candidates to answer; raises InvalidArgument with every violation."""
    violations = []
    if not 1 <= len(capabilities) <= MAX_WANTED:
        violations.append(Violation("capabilities", f"1 to {MAX_WANTED} are required"))
    violations += [
        Violation(f"capabilities[{index}]", "must be dotted lower-case words, for example data.csv")
        for index, capability in enumerate(capabilities)
        if not is_capability(capability)
    ]
    if len(tools) > MAX_WANTED:
        violations.append(Violation("tools", f"at most {MAX_WANTED}"))
    violations += [
        Violation(f"tools[{index}]", "must be the name of a tool")
        for index, tool in enumerate(tools)
        if not TOOL_NAME.fullmatch(tool)
    ]
    if not 0 <= limit <= MAX_CANDIDATES:
        violations.append(Violation("limit", f"must be 1 to {MAX_CANDIDATES}, or 0 for {DEFAULT_CANDIDATES}"))
    if violations:
        raise invalid(violations)
    return limit or DEFAULT_CANDIDATES


def _name(name: str, pattern: re.Pattern[str], field: str, wanted: str) -> None:
    if not pattern.fullmatch(name):
        raise invalid([Violation(field, f"must be {wanted}")])
