"""Writes a whole log to a file that strangers can verify."""

import os
from dataclasses import dataclass
from pathlib import Path

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.cli.problems import CliError
from interlock.client.client import Client
from interlock.verify import (
    NoteError,
    NoteKey,
    PartBytes,
    checkpoint_line,
    entry_line,
    header_line,
    removed_line,
)
from interlock.verify.tiles import TileFolder, TilesError


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many entries there are, how many were read now, and the key by which they are verified.

    Of `removed` ones the hash was there and no more.
    """

    entries: int
    removed: int
    new: int
    key: str


async def export_log(suite: Client, file: Path, *, payloads: bool, reason: str) -> Written:
    """Under its name stands a whole export or none; raises CliError when it cannot be written."""
    keys = await suite.call(suite.audit.GetPublicKeys, messages.GetPublicKeysRequest())
    request = messages.ExportLogRequest(include_payloads=payloads, reason=reason)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        count, removed = await _write(suite, draft, NoteKey.parse(keys.verifier_key).name, request)
        draft.replace(file)
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}.", "Name another file.") from None
    finally:
        draft.unlink(missing_ok=True)
    return Written(entries=count, removed=removed, new=count, key=keys.verifier_key)


async def export_tiles(suite: Client, folder: Path) -> Written:
    """Write the log as tiles, or what is new of it; raises CliError when the folder does not fit the log."""
    keys = await suite.call(suite.audit.GetPublicKeys, messages.GetPublicKeysRequest())
    try:
        earlier = [NoteKey.parse(change.old_key) for change in keys.changes]
        tiles = TileFolder(folder, key=NoteKey.parse(keys.verifier_key), earlier=earlier)
        new = 0
        request = messages.ExportLogRequest(begin=tiles.begin)
        async for answer in suite.stream(suite.audit.ExportLog, request):
            for entry in answer.entries:
                if entry.removed_leaf_hash:
                    tiles.add_removed(entry.removed_leaf_hash)
                else:
                    tiles.add(entry.leaf)
                new += 1
            if answer.HasField("checkpoint"):
                tiles.finish(answer.checkpoint.note)
    except (TilesError, NoteError) as error:
        raise CliError(f"{error}.", "Name another folder, and find out what became of this one.") from None
    except OSError as error:
        raise CliError(f"{folder} cannot be written: {error.strerror}.", "Name another folder.") from None
    return Written(entries=tiles.begin + new, removed=tiles.removed, new=new, key=keys.verifier_key)


async def _write(
    suite: Client, draft: Path, origin: str, request: messages.ExportLogRequest
) -> tuple[int, int]:
    """How many entries there are, and how many of them were removed."""
    count = removed = 0
    # Contents may be among it: for nobody's eyes but those of whoever asked.
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as lines:
        lines.write(header_line(origin) + "\n")
        async for answer in suite.stream(suite.audit.ExportLog, request):
            for entry in answer.entries:
                if entry.removed_leaf_hash:
                    removed += 1
                    line = removed_line(entry.index, entry.removed_leaf_hash)
                else:
                    parts = {p.part: PartBytes(salt=p.salt, body=p.body) for p in entry.payloads if p.salt}
                    line = entry_line(entry.index, entry.leaf, parts)
                lines.write(line + "\n")
                count += 1
            if answer.HasField("checkpoint"):
                lines.write(checkpoint_line(answer.checkpoint.note) + "\n")
    return count, removed
