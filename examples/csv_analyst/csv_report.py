"""A profile and its groups as a few lines of text."""

from typing import Any

SHOWN_GROUPS = 4


def run(
    name: str,
    profile: dict[str, Any],
    groups: dict[str, Any],
    group_by: str | None = None,
    measure: str | None = None,
) -> dict[str, Any]:
    """The report: a headline, and a line for each of the main groups."""
    shown = groups["groups"][:SHOWN_GROUPS]
    width = max(len(group["value"]) for group in shown)
    lines = [line(group, width) for group in shown]
    more = len(groups["groups"]) - len(shown) + groups["left_out"]
    if more:
        lines.append(f"and {more} more")
    what = " by ".join(column for column in (measure, group_by) if column)
    headline = f"{name}: {profile['rows']} rows, {len(profile['columns'])} columns"
    return {"headline": f"{headline}; {what}" if what else headline, "lines": lines}


def line(group: dict[str, Any], width: int) -> str:
    """One group."""
    text = f"{group['value']:<{width}} {group['rows']:>5} {'row' if group['rows'] == 1 else 'rows'}"
    if "mean" in group:
        text = f"{text:<{width + 11}}  mean {group['mean']:>11,.1f}  largest {group['largest']:>11,.1f}"
        text += f"  {group['holder']}"
    return text.rstrip()
