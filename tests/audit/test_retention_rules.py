"""What a policy may say, what may take its place, and what is overdue by it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from audit_svc.retention import (
    CLASSES,
    KEEP_FOR_EVER,
    MAX_DAYS,
    PRESETS,
    RetentionClass,
    Rule,
    may_follow,
    overdue,
    overdue_before,
    rule_problems,
)
from interlock.audit.v1 import retention_service_pb2
from interlock.audit.v1.entry_pb2 import EntryType

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAYS = st.one_of(st.just(0), st.integers(1, 400))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    low, high = sorted((draw(DAYS), draw(DAYS)))
    return Rule(
        payload_min_days=low,
        payload_max_days=draw(st.sampled_from([0, high])),
        locked=draw(st.booleans()),
    )


@given(rules(), rules(), st.integers(0, 500))
def test_a_locked_rule_gives_way_only_to_one_that_keeps_everything_at_least_as_long(
    old: Rule, new: Rule, age: int
) -> None:
    recorded = NOW - timedelta(days=age)

    def gone(rule: Rule) -> bool:
        since = rule.overdue_since(recorded)
        return since is not None and since <= NOW

    if not may_follow(old, new):
        assert old.locked
        return
    if old.locked:
        assert new.locked and new.payload_min_days >= old.payload_min_days
        # Whatever is gone by the new one was gone by the old one.
        assert gone(old) or not gone(new)


@given(rules())
def test_a_rule_may_always_be_said_again_and_made_longer(rule: Rule) -> None:
    assert list(rule_problems(rule)) == []
    assert may_follow(rule, rule)
    longer = Rule(payload_min_days=rule.payload_min_days + 1, payload_max_days=0, locked=rule.locked)
    assert may_follow(rule, longer)


def test_rules_that_make_no_sense_are_named_by_field() -> None:
    def fields(low: int, high: int) -> list[str]:
        return [f for f, _ in rule_problems(Rule(payload_min_days=low, payload_max_days=high))]

    assert fields(-1, MAX_DAYS + 1) == ["payload_min_days", "payload_max_days"]
    assert fields(31, 30) == ["payload_max_days"]
    assert fields(30, 30) == []


@given(
    st.dictionaries(st.sampled_from(list(RetentionClass)), rules()),
    st.sampled_from([name.removeprefix("ENTRY_TYPE_") for name in EntryType.keys()[1:]]),
    st.integers(0, 500 * 24),
)
def test_what_is_overdue_is_what_is_older_than_its_class_allows(
    given_rules: dict[RetentionClass, Rule], entry_type: str, hours: int
) -> None:
    held = {**KEEP_FOR_EVER, **given_rules}
    recorded = NOW - timedelta(hours=hours)
    limit = held[CLASSES[entry_type]].payload_max_days if entry_type in CLASSES else 0
    expected = limit > 0 and hours >= limit * 24
    assert overdue(entry_type, recorded, held, now=NOW) is expected
    before = overdue_before(held, now=NOW)
    assert not expected or (before is not None and recorded <= before)


def test_every_type_has_a_class_but_those_by_which_the_log_explains_itself() -> None:
    named = {name.removeprefix("ENTRY_TYPE_") for name in EntryType.keys()[1:]}
    assert named - CLASSES.keys() == {"ERASURE", "RETENTION", "HOLD", "KEY_ROTATION"}
    told = {name.removeprefix("RETENTION_CLASS_") for name in retention_service_pb2.RetentionClass.keys()[1:]}
    assert told == set(RetentionClass)


def test_every_preset_can_be_set() -> None:
    for preset in PRESETS.values():
        assert [p for rule in preset.rules.values() for p in rule_problems(rule)] == []
