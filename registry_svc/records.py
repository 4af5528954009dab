"""What the registry stores: resources (agents and tools) and their published versions."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What a resource is; agents and tools differ in their specs alone."""

    AGENT = "agent"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a resource shows of its newest version; tools have a description alone."""

    description: str = ""
    capabilities: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One agent or tool."""

    kind: Kind
    tenant: str
    name: str
    latest_version: str  # empty before the first is published
    active: bool
    summary: Summary = field(default_factory=Summary)
    creator: str
    create_time: datetime
    update_time: datetime
    position: int  # of the last change in the registry's log

    @property
    def etag(self) -> str:
        """Changes with every change of the resource."""
        return f"{self.position:x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version; it never changes."""

    kind: Kind
    tenant: str
    name: str
    version: str
    digest: str
    spec_json: str  # canonical JSON, exactly what the digest covers
    publisher: str
    create_time: datetime
    position: int
