"""Between the contract's messages on retention and holds and their values; nothing is decided here."""

from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from audit_svc.holds import Hold
from audit_svc.retention import Preset, RetentionClass, Rules
from audit_svc.sweep import ClassPreview
from interlock.audit.v1 import retention_service_pb2 as messages
from interlock.audit.v1.entry_pb2 import EntryType


def from_rules(rules: Rules) -> list[messages.RetentionRule]:
    """Rules in the order of their classes."""
    return [
        messages.RetentionRule(
            **{"class": _class(each)},
            payload_min_days=rules[each].payload_min_days,
            payload_max_days=rules[each].payload_max_days,
            entry_max_days=rules[each].entry_max_days,
            locked=rules[each].locked,
            update_time=_timestamp(rules[each].update_time),
        )
        for each in RetentionClass
        if each in rules
    ]


def from_preset(preset: Preset) -> messages.RetentionPreset:
    """A preset with its rules."""
    return messages.RetentionPreset(
        name=preset.name, description=preset.description, rules=from_rules(preset.rules)
    )


def from_preview(told: Mapping[RetentionClass, ClassPreview]) -> list[messages.ClassPreview]:
    """What would happen to each class, also to those of which nothing is told."""
    nothing = ClassPreview()
    return [
        messages.ClassPreview(
            **{"class": _class(each)},
            due_parts=told.get(each, nothing).due,
            held_parts=told.get(each, nothing).held,
            minimum_parts=told.get(each, nothing).minimum,
            oldest_time=_timestamp(told.get(each, nothing).oldest),
            due_entries=told.get(each, nothing).entries_due,
            kept_entries=told.get(each, nothing).entries_kept,
        )
        for each in RetentionClass
    ]


def from_hold(hold: Hold) -> messages.Hold:
    """A hold, released or not."""
    selector, release = hold.selector, hold.release
    return messages.Hold(
        hold_id=str(hold.hold_id),
        selector=messages.HoldSelector(
            task_id=str(selector.task_id or ""),
            agent=selector.agent,
            actor=selector.actor,
            type=EntryType.Value(f"ENTRY_TYPE_{selector.type or 'UNSPECIFIED'}"),
            begin_time=_timestamp(selector.begin_time),
            end_time=_timestamp(selector.end_time),
        ),
        reason=hold.reason,
        place_time=_timestamp(hold.place_time),
        release_time=_timestamp(release.time if release else None),
        release_event_id=str(release.event_id) if release else "",
        release_reason=release.reason if release else "",
    )


def _class(each: RetentionClass) -> messages.RetentionClass.ValueType:
    return messages.RetentionClass.Value(f"RETENTION_CLASS_{each}")


def _timestamp(when: datetime | None) -> Timestamp | None:
    if when is None:
        return None
    message = Timestamp()
    message.FromDatetime(when)
    return message
