"""The rules of retention: which entries are kept alike, what a rule may say, and what is overdue."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

MAX_DAYS = 36_500
MIN_ENTRY_DAYS = 184
"""Six months: so long entries tell who did what, whatever a policy says. The database knows it too."""


class RetentionClass(StrEnum):
    """Kinds of entries that are kept alike; the names are those of the contract."""

    CONTENT = "CONTENT"
    ERROR = "ERROR"
    DECISION = "DECISION"
    STATE = "STATE"
    ACCESS = "ACCESS"


# The types that are missing are those by which the log explains itself: they stay whole. The database has the
# same list (`retention_class`), because it refuses by itself what a minimum keeps.
CLASSES: Mapping[str, RetentionClass] = {
    "PROMPT": RetentionClass.CONTENT,
    "MODEL_OUTPUT": RetentionClass.CONTENT,
    "TOOL_CALL": RetentionClass.CONTENT,
    "TOOL_RESULT": RetentionClass.CONTENT,
    "RESULT": RetentionClass.CONTENT,
    "REQUEST": RetentionClass.CONTENT,
    "ERROR": RetentionClass.ERROR,
    "DECISION": RetentionClass.DECISION,
    "APPROVAL": RetentionClass.DECISION,
    "POLICY_CHANGE": RetentionClass.DECISION,
    "REGISTRY_CHANGE": RetentionClass.DECISION,
    "STATE_CHANGE": RetentionClass.STATE,
    "PAYLOAD_READ": RetentionClass.ACCESS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How long entries of one class and their contents are kept, in days from when they were recorded."""

    payload_min_days: int = 0
    payload_max_days: int = 0
    """0: for ever."""
    entry_max_days: int = 0
    """0: for ever. Contents go no later than their entries."""
    locked: bool = False
    update_time: datetime | None = None

    def overdue_since(self, recorded: datetime) -> datetime | None:
        """When the maximum of a content ends; None: never."""
        return recorded + timedelta(days=self.payload_max_days) if self.payload_max_days else None

    def entry_overdue_since(self, recorded: datetime) -> datetime:
        """When the maximum of an entry ends, where there is one."""
        return recorded + timedelta(days=self.entry_max_days)


Rules = Mapping[RetentionClass, Rule]
KEEP_FOR_EVER: Rules = dict.fromkeys(RetentionClass, Rule())


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Rules that have a name."""

    name: str
    description: str
    rules: Rules


def _at_least(days: int) -> Rules:
    return dict.fromkeys(RetentionClass, Rule(payload_min_days=days))


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="eu-ai-act",
            description="Logs of high-risk AI systems: at least six months (EU 2024/1689, art. 19 and 26)",
            rules=_at_least(184),
        ),
        Preset(
            name="hipaa",
            description="Documentation: at least six years (45 CFR 164.316)",
            rules=_at_least(2192),
        ),
        Preset(
            name="minimal",
            description="What people, models and tools said goes after 30 days, errors go after 90",
            rules={
                RetentionClass.CONTENT: Rule(payload_max_days=30),
                RetentionClass.ERROR: Rule(payload_max_days=90),
            },
        ),
        Preset(
            name="pci-dss",
            description="Audit logs: at least twelve months (PCI DSS 4.0, requirement 10.5.1)",
            rules=_at_least(366),
        ),
    )
}


def rule_problems(rule: Rule) -> Iterator[tuple[str, str]]:
    """What a rule may not say, by field."""
    for field, days in (
        ("payload_min_days", rule.payload_min_days),
        ("payload_max_days", rule.payload_max_days),
        ("entry_max_days", rule.entry_max_days),
    ):
        if not 0 <= days <= MAX_DAYS:
            yield field, f"must be between 0 and {MAX_DAYS}"
    if 0 < rule.payload_max_days < rule.payload_min_days:
        yield "payload_max_days", "must be 0 (for ever) or at least payload_min_days"
    if 0 < rule.entry_max_days < MIN_ENTRY_DAYS:
        yield "entry_max_days", f"must be 0 (for ever) or at least {MIN_ENTRY_DAYS}, which is six months"
    elif rule.entry_max_days and not 0 < rule.payload_max_days <= rule.entry_max_days:
        yield "entry_max_days", "needs payload_max_days, of at most as much: contents go before their entries"


def may_follow(old: Rule, new: Rule) -> bool:
    """Whether `new` may take the place of `old`: of a locked one everything can only be lengthened."""
    if not old.locked:
        return True
    return (
        new.locked
        and new.payload_min_days >= old.payload_min_days
        and _no_sooner(old.payload_max_days, new.payload_max_days)
        and _no_sooner(old.entry_max_days, new.entry_max_days)
    )


def overdue(entry_type: str, recorded: datetime, rules: Rules, *, now: datetime) -> bool:
    """Whether the maximum of a content of such an entry is over."""
    retention_class = CLASSES.get(entry_type)
    if retention_class is None:
        return False
    since = rules[retention_class].overdue_since(recorded)
    return since is not None and since <= now


def entries_overdue_before(rules: Rules, *, now: datetime) -> Mapping[str, datetime]:
    """Before when entries were recorded whose maximum is over, by type; those without one are missing."""
    return {
        entry_type: now - timedelta(days=rules[each].entry_max_days)
        for entry_type, each in CLASSES.items()
        if rules[each].entry_max_days
    }


def overdue_before(rules: Rules, *, now: datetime) -> datetime | None:
    """No content recorded after this is overdue; None where nothing ever is."""
    days = [rule.payload_max_days for rule in rules.values() if rule.payload_max_days]
    return now - timedelta(days=min(days)) if days else None


def _no_sooner(old_max: int, new_max: int) -> bool:
    """Whether a maximum ends no sooner than the one before; 0 is for ever."""
    return not new_max or 0 < old_max <= new_max
