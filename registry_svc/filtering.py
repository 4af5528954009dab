"""What ListAgents and ListTools can be filtered by. Pure."""

from collections.abc import Mapping
from typing import Any

from svc_kit.errors import Violation, invalid
from svc_kit.filters import FilterField, Operator, parse_filter

_STATUS = FilterField(values=frozenset({"ACTIVE", "DISABLED"}))
AGENT_FIELDS = {"capability": FilterField(), "tool": FilterField(), "status": _STATUS}
TOOL_FIELDS = {"status": _STATUS}


def wanted(text: str, fields: Mapping[str, FilterField]) -> dict[str, Any]:
    """The store's arguments for a filter: active, capability, tool; each field at most once, with =."""
    found: dict[str, Any] = {}
    for condition in parse_filter(text, fields):
        name, value = condition.field, condition.value
        if name == "status":
            name, value = "active", (value == "ACTIVE") == (condition.operator is Operator.EQUAL)
        elif condition.operator is not Operator.EQUAL:
            raise invalid([Violation("filter", f"{name} is compared with = alone")])
        if name in found:
            raise invalid([Violation("filter", f"{condition.field} is named twice")])
        found[name] = value
    return found
