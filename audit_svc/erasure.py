"""What an erasure is: asked for once, carried out until nothing of it can be read any more."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ErasureState(StrEnum):
    """How far it is; the names are those of the contract."""

    RUNNING = "RUNNING"
    """Under way, or held up."""
    ERASED = "ERASED"
    """Nothing of it can be read any more; the files of the database may still hold the bytes."""
    COMPLETE = "COMPLETE"
    """The files were written anew as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """What to erase: a task, an entry, one content of an entry (`part`), or the name behind a pseudonym."""

    task_id: uuid.UUID | None = None
    event_id: uuid.UUID | None = None
    actor: str = ""
    """Callers give the subject; what is kept is the pseudonym."""
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One erasure as the journal has it.

    `reached` counts rows by "service.table"; `files` are tables of contents to be written anew.
    """

    erasure_id: uuid.UUID
    log_id: uuid.UUID
    tenant: str
    request_id: uuid.UUID | None
    selector: Selector
    reason: str = field(repr=False)
    requester: str
    state: ErasureState = ErasureState.RUNNING
    waiting_for: str = ""
    create_time: datetime
    erase_time: datetime | None = None
    complete_time: datetime | None = None
    reached: Mapping[str, int] = field(default_factory=dict)
    explained_by: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
