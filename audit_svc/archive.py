"""Checkpoints in plain files outside the database, so that whoever rewrites the one does not hold the other.

A folder per log, named by its origin, holds `latest.note` (the newest signed note as it is) and a file a day
with all of them, one JSON object a line: {"sign_time": …, "note": …}. One more folder holds the statements of
all logs: `latest.note`, and the last one of each hour.
"""

import asyncio
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path

from audit_svc.checkpoints import SignedCheckpoint

_LATEST = "latest.note"


class FileArchive:
    """An archive in the folder `root`; one process writes, any number read."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def latest(self, origin: str) -> str | None:
        """The newest signed note that it holds of a log."""
        return await asyncio.to_thread(self._read, origin)

    async def add(self, signed: SignedCheckpoint) -> None:
        """Keep a checkpoint durably."""
        await asyncio.to_thread(self._write, signed)

    async def state(self, name: str, note: str, sign_time: datetime) -> None:
        """Keep a statement of all logs durably."""
        await asyncio.to_thread(self._write_statement, name, note, sign_time)

    def _read(self, origin: str) -> str | None:
        try:
            return (self._root / origin / _LATEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def _write(self, signed: SignedCheckpoint) -> None:
        folder = self._root / signed.checkpoint.origin
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = json.dumps(
            {"sign_time": signed.sign_time.isoformat(), "note": signed.note}, ensure_ascii=False
        )
        with (folder / f"{signed.sign_time:%Y-%m-%d}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        # The history is durable before the newest note says so.
        _replace(folder / _LATEST, signed.note)

    def _write_statement(self, name: str, note: str, sign_time: datetime) -> None:
        folder = self._root / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(folder / _LATEST, note)
        # The same file under the name of the hour: until the next hour it is the last one of this.
        draft = folder / f".{sign_time:%Y-%m-%dT%H}.note"
        draft.unlink(missing_ok=True)
        draft.hardlink_to(folder / _LATEST)
        draft.replace(folder / draft.name[1:])


def _replace(path: Path, text: str) -> None:
    """A reader sees the old note or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
