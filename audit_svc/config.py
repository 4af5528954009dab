"""Settings of the audit service."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from svc_kit.settings import ServiceSettings

# It becomes a key name, a line of a signed note and a folder: no space, no plus, no step upward.
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("must be words of letters, digits, '.', '_' and '-', joined by '/'")
    return text


class AuditSettings(ServiceSettings):
    """What the audit service is told by its environment, in variables named INTERLOCK_AUDIT_…."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_AUDIT_", frozen=True)

    # What the names of all logs begin with; the tenant follows. It must never change: readers pin it.
    origin: Annotated[str, AfterValidator(_origin)] = Field(default="", validate_default=True)
    # A folder outside the database that keeps every checkpoint; best on another machine. Unset keeps none.
    checkpoints_dir: Path | None = None
