"""What a policy is as a resource: its text, and what it takes part in until when."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from svc_kit.errors import Violation

MAX_DESCRIPTION = 500
_POLICY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


class PolicyMode(StrEnum):
    """What a policy takes part in; the names are those of the contract."""

    ENFORCE = "ENFORCE"
    SHADOW = "SHADOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContent:
    """What writers say."""

    cedar: str
    description: str
    mode: PolicyMode
    expire_time: datetime | None
    """From then on it is as if it were not there; None = never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version of a policy as stored."""

    tenant: str
    policy_id: str
    version: int
    content: PolicyContent
    create_time: datetime
    creator: str
    update_time: datetime
    updater: str
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Where a policy does not fit a version of the tool that it names."""

    tool: str
    tool_version: str
    message: str
    certain: bool
    """Whether no call can make it right; if not, some calls are refused because of it."""


def new_etag() -> str:
    """A mark that no other state of any policy has."""
    return uuid.uuid4().hex


def content_flaws(
    policy_id: str, before: PolicyContent | None, content: PolicyContent, now: datetime
) -> Iterator[Violation]:
    """Everything that is wrong with a change but for the text."""
    if not _POLICY_ID.match(policy_id):
        wanted = "must be lower-case letters, digits and '-', at most 63, no '-' first"
        yield Violation("policy.policy_id", wanted)
    if len(content.description) > MAX_DESCRIPTION:
        yield Violation("policy.description", f"may have {MAX_DESCRIPTION} characters at most")
    if "\0" in content.description:
        yield Violation("policy.description", "holds a NUL character")
    if before is not None and before.expire_time == content.expire_time:
        return
    if content.expire_time is not None and content.expire_time <= now:
        yield Violation("policy.expire_time", "must be in the future")
