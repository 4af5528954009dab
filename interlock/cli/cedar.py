"""The Cedar text of an allow, and the id under which it is stored."""

import hashlib
import re

from interlock.cli.problems import CliError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NOT_OF_AN_ID = re.compile(r"[^a-z0-9]+")
_MAX_SPELLED = 50
_HASH_DIGITS = 8


def policy_text(agent: str, tool: str, when: str, approval: str = "") -> str:
    """A policy that lets an agent call a tool; `approval` is the least role that has to say yes to each call.

    Raises CliError for names that no agent or tool can have.
    """
    for name in (agent, tool):
        if not _NAME.fullmatch(name):
            raise CliError(f"{name!r} is no name of an agent or tool.", "Use letters, digits, _, . and -.")
    asking = f'@approval("{approval}")\n' if approval else ""
    text = (
        f'{asking}permit (\n  principal == Interlock::Agent::"{agent}",\n'
        '  action == Interlock::Action::"call_tool",\n'
        f'  resource == Interlock::Tool::"{tool}"\n)'
    )
    return f"{text}\nwhen {{ {when} }};" if when else f"{text};"


def policy_id_for(agent: str, tool: str, when: str, approval: str = "") -> str:
    """An id that says what the policy is for, and differs where agent, tool or condition differ."""
    spelled = _NOT_OF_AN_ID.sub("-", f"allow-{agent}-{tool}".lower())[:_MAX_SPELLED].strip("-")
    said = "\0".join([agent, tool, when, *([approval] if approval else [])])
    digest = hashlib.sha256(said.encode()).hexdigest()
    return f"{spelled}-{digest[:_HASH_DIGITS]}"
