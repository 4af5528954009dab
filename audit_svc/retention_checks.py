"""Checks of requests on retention and holds, and what they are once they are right."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from audit_svc.checks import check_uuid
from audit_svc.holds import Selector
from audit_svc.retention import PRESETS, RetentionClass, Rule, Rules, rule_problems
from interlock.audit.v1 import retention_service_pb2 as messages
from interlock.audit.v1.entry_pb2 import EntryType
from svc_kit.errors import Violation

MAX_REASON = 1000
_CLASS_PREFIX = "RETENTION_CLASS_"
_TYPE_PREFIX = "ENTRY_TYPE_"
_TEXT_LIMITS = {"agent": 128, "actor": 256}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def check_policy(request: messages.SetRetentionPolicyRequest) -> list[Violation]:
    """Everything wrong with a change of a policy."""
    if bool(request.rules) == bool(request.preset):
        return [Violation("rules", "give either rules or a preset")]
    if request.preset and request.preset not in PRESETS:
        return [Violation("preset", f"must be one of {', '.join(sorted(PRESETS))}")]
    return check_rules(request.rules)


def check_rules(rules: Iterable[messages.RetentionRule]) -> list[Violation]:
    """Everything wrong with rules, of which each class may have one."""
    found: list[Violation] = []
    seen: set[int] = set()
    for i, rule in enumerate(rules):
        each = getattr(rule, "class")
        if each == messages.RETENTION_CLASS_UNSPECIFIED or each not in messages.RetentionClass.values():
            found.append(Violation(f"rules[{i}].class", "must be one of the known classes"))
        elif each in seen:
            found.append(Violation(f"rules[{i}].class", "comes twice"))
        seen.add(each)
        found += [
            Violation(f"rules[{i}].{field}", message) for field, message in rule_problems(_to_rule(rule))
        ]
    return found


def check_reason(reason: str) -> list[Violation]:
    """A reason that people can read, later."""
    if not reason.strip():
        return [Violation("reason", "say why, for those who ask later")]
    if len(reason) > MAX_REASON:
        return [Violation("reason", f"has {len(reason)} characters, the limit is {MAX_REASON}")]
    return [Violation("reason", "holds control characters")] if _LINES.search(reason) else []


def check_selector(selector: messages.HoldSelector) -> list[Violation]:
    """Everything wrong with what a hold selects."""
    if not any(True for _ in selector.ListFields()):
        return [Violation("selector", "give task_id, agent, actor, type, begin_time or end_time")]
    return list(_selector_problems(selector))


def to_rules(rules: Iterable[messages.RetentionRule]) -> Rules:
    """Checked rules by class."""
    return {
        RetentionClass(
            messages.RetentionClass.Name(getattr(rule, "class")).removeprefix(_CLASS_PREFIX)
        ): _to_rule(rule)
        for rule in rules
    }


def to_selector(selector: messages.HoldSelector) -> Selector:
    """A checked selector."""
    return Selector(
        task_id=UUID(selector.task_id) if selector.task_id else None,
        agent=selector.agent,
        actor=selector.actor,
        type=EntryType.Name(selector.type).removeprefix(_TYPE_PREFIX) if selector.type else "",
        begin_time=_time(selector, "begin_time"),
        end_time=_time(selector, "end_time"),
    )


def _to_rule(rule: messages.RetentionRule) -> Rule:
    return Rule(
        payload_min_days=rule.payload_min_days,
        payload_max_days=rule.payload_max_days,
        entry_max_days=rule.entry_max_days,
        locked=rule.locked,
    )


def _selector_problems(selector: messages.HoldSelector) -> Iterator[Violation]:
    if selector.task_id:
        yield from check_uuid(selector.task_id, "selector.task_id")
    for name, limit in _TEXT_LIMITS.items():
        value: str = getattr(selector, name)
        if len(value) > limit or _CONTROL.search(value):
            yield Violation(f"selector.{name}", f"must be at most {limit} characters, none of them control")
    if selector.type not in EntryType.values():
        yield Violation("selector.type", "must be one of the known entry types")
    times = []
    for name in ("begin_time", "end_time"):
        try:
            times.append(_time(selector, name))
        except (ValueError, OverflowError):
            yield Violation(f"selector.{name}", "must be a time between the years 1 and 9999")
    match times:
        case [datetime() as begin, datetime() as end] if begin >= end:
            yield Violation("selector.end_time", "must be behind begin_time")


def _time(message: Message, name: str) -> datetime | None:
    value: Timestamp = getattr(message, name)
    return value.ToDatetime(tzinfo=UTC) if message.HasField(name) else None
