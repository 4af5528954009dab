"""What this reader has seen of each log: its key and last checkpoint, pinned on first use."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.merkle import ProofError
from interlock.verify.note import NoteError, NoteKey
from interlock.verify.rotation import Rotation, followed
from interlock.verify.trail import require_continuation

_FORMAT = 1


class PinError(Exception):
    """A log is not the one seen before, or the file of pins cannot be relied on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A log's key and the last checkpoint signed by it; `note` is that checkpoint's signed note."""

    key: NoteKey
    checkpoint: Checkpoint
    note: str


class PinStore:
    """Pins in one JSON file, readable by its owner alone.

    Written to a new file that then takes the old one's place, so that a crash leaves one or the other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, origin: str) -> Pin | None:
        """The pin of a log; None when it was never seen. Raises PinError when the file is damaged."""
        return self._read().get(origin)

    def advance(
        self,
        *,
        key: NoteKey,
        note: str,
        consistency: Sequence[bytes] = (),
        seen_from: Checkpoint | None = None,
        rotations: Sequence[Rotation] = (),
    ) -> Pin:
        """Pin the checkpoint in `note`; the first one is taken on trust, each later one must continue it.

        `consistency` proves the way from the pinned size; `seen_from` stands in for it where the caller has
        built the tree from all leaves and met that pinned checkpoint on the way. `rotations` are changes of
        key that leaves of this tree tell of; `key` must be the pinned one, or where they lead from it.
        Raises PinError on another key, a shrunken tree or another history; the old pin then stays.
        """
        try:
            checkpoint = open_checkpoint(note, key=key)
        except NoteError as error:
            raise PinError(str(error)) from None
        with self._locked():
            pins = self._read()
            pinned = pins.get(checkpoint.origin)
            if pinned is not None:
                _require_key(pinned, key, rotations)
                if pinned.checkpoint != seen_from:
                    _require_same_log(pinned, checkpoint, consistency)
            pin = Pin(key=key, checkpoint=checkpoint, note=note)
            self._write({**pins, checkpoint.origin: pin})
        return pin

    def _read(self) -> dict[str, Pin]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise PinError(f"{self._path} is of another format ({content['format']!r})")
            return {origin: _parse_pin(origin, row) for origin, row in content["logs"].items()}
        # A damaged file must not read as "nothing pinned": that would trust any log anew.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PinError(f"{self._path} is damaged: {error}") from error

    def _write(self, pins: dict[str, Pin]) -> None:
        logs = {origin: {"key": str(pin.key), "checkpoint": pin.note} for origin, pin in sorted(pins.items())}
        content = json.dumps({"format": _FORMAT, "logs": logs}, indent=2, ensure_ascii=False)
        # mkstemp makes the file 0600 from the start.
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two readers from overwriting each other's pins."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._path.with_name(self._path.name + ".lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _parse_pin(origin: str, row: dict[str, str]) -> Pin:
    key, note = NoteKey.parse(row["key"]), row["checkpoint"]
    checkpoint = open_checkpoint(note, key=key)
    if checkpoint.origin != origin:
        raise PinError(f"the pin of {origin!r} holds a checkpoint of {checkpoint.origin!r}")
    return Pin(key=key, checkpoint=checkpoint, note=note)


def _require_key(pinned: Pin, key: NoteKey, rotations: Sequence[Rotation]) -> None:
    if followed(pinned.key, rotations) != key:
        raise PinError(
            f"the log {key.name!r} has another key ({key}) than the pinned one ({pinned.key}),"
            " and no entry signed by that one says so"
        )


def _require_same_log(pinned: Pin, checkpoint: Checkpoint, consistency: Sequence[bytes]) -> None:
    try:
        require_continuation(checkpoint, pinned=pinned.checkpoint, consistency=consistency)
    except ProofError as error:
        raise PinError(f"the log {checkpoint.origin!r} does not continue the one pinned: {error}") from error
