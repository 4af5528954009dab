"""Writes a whole log to a file that strangers can verify."""

import os
from dataclasses import dataclass
from pathlib import Path

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.cli.problems import CliError
from interlock.client.client import Client
from interlock.verify import NoteKey, PartBytes, checkpoint_line, entry_line, header_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many entries there are, and the key by which they are verified."""

    entries: int
    key: str


async def export_log(suite: Client, file: Path, *, payloads: bool) -> Written:
    """Under its name stands a whole export or none; raises CliError when it cannot be written."""
    keys = await suite.call(suite.audit.GetPublicKeys, messages.GetPublicKeysRequest())
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        count = await _write(suite, draft, NoteKey.parse(keys.verifier_key).name, payloads=payloads)
        draft.replace(file)
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}.", "Name another file.") from None
    finally:
        draft.unlink(missing_ok=True)
    return Written(entries=count, key=keys.verifier_key)


async def _write(suite: Client, draft: Path, origin: str, *, payloads: bool) -> int:
    count = 0
    # Contents may be among it: for nobody's eyes but those of whoever asked.
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as lines:
        lines.write(header_line(origin) + "\n")
        request = messages.ExportLogRequest(include_payloads=payloads)
        async for answer in suite.stream(suite.audit.ExportLog, request):
            for entry in answer.entries:
                parts = {p.part: PartBytes(salt=p.salt, body=p.body) for p in entry.payloads if p.salt}
                lines.write(entry_line(entry.index, entry.leaf, parts) + "\n")
                count += 1
            if answer.HasField("checkpoint"):
                lines.write(checkpoint_line(answer.checkpoint.note) + "\n")
    return count
