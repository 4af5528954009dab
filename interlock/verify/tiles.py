"""A log as a folder of tiles, the layout of c2sp.org/tlog-tiles, which tools of others read.

`checkpoint` is the signed note. `tile/<level>/<number>` holds up to 256 hashes, `tile/entries/<number>` as
many leaves, each behind its length in two bytes; a tile that is not full has its width in its name. Where an
entry was removed from the log, its hash is in its tile, and the file that would hold its leaf is left out.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.entry import EntryError, parse_leaf
from interlock.verify.merkle import HASH_SIZE, Frontier, leaf_hash, split_hashes
from interlock.verify.note import NoteKey, parse_note
from interlock.verify.rotation import RotationError, followed, read_rotation

WIDTH = 256
_HEIGHT = 8
_CHECKPOINT = "checkpoint"
_ENTRIES = "entries"
_MAX_LEAF_BYTES = 2**16 - 1


class TilesError(ValueError):
    """The folder is not that of this log, or the log is not what the folder held before."""


def tile_path(level: int | str, number: int, width: int = WIDTH) -> Path:
    """Where a tile stands: the number in groups of three digits, all but the last behind an x."""
    groups = [f"{number % 1000:03d}"]
    while number >= 1000:  # noqa: PLR2004 - three digits
        number //= 1000
        groups.insert(0, f"x{number % 1000:03d}")
    if width < WIDTH:
        groups[-1] += ".p"
        groups.append(str(width))
    return Path("tile", str(level), *groups)


class TileFolder:
    """Writes a log into a folder, or brings one up to date; only `finish` makes what is new count.

    Full tiles are written once and never again. Any file stands whole or not at all.
    """

    def __init__(self, folder: Path, *, key: NoteKey, earlier: Sequence[NoteKey] = ()) -> None:
        """Raises TilesError when the folder holds something else, NoteError when no key signed it.

        `key` signs what comes. Where one of the `earlier` signed what is there, the leaves have to tell how
        that led to `key`.
        """
        self._folder = folder
        self._key = self._trusted = key
        self._before = known = self._known([key, *earlier])
        self.begin = known.size - known.size % WIDTH if known is not None else 0
        """Index of the first leaf that is to be added."""
        self._leaves: list[bytes] = []
        self._hashes: list[bytes] = []
        self.removed = 0
        """How many leaves were not there any more."""
        self._frontier = Frontier()
        # Of each level, what is in the tile that is not full yet.
        self._open: list[list[bytes]] = []
        for number in range(self.begin // WIDTH):
            self._take(split_hashes(self._read(tile_path(0, number))), written=True)
        if known is not None and self._size == known.size:
            self._require_root(known, "seen before")

    def add(self, leaf: bytes) -> None:
        """The next leaf of the log."""
        if len(leaf) > _MAX_LEAF_BYTES:
            raise TilesError(f"a leaf of {len(leaf)} bytes does not fit a tile")
        self._leaves.append(leaf)
        self._add(leaf_hash(leaf))
        if self._trusted != self._key:
            self._follow(leaf)

    def add_removed(self, hashed: bytes) -> None:
        """The hash of the next leaf of the log, which is all that is left of it."""
        if len(hashed) != HASH_SIZE:
            raise TilesError("what is left of a removed entry is not its hash")
        self.removed += 1
        self._add(hashed)

    def _add(self, hashed: bytes) -> None:
        self._hashes.append(hashed)
        if self._before is not None and self._size == self._before.size:
            self._require_root(self._before, "seen before")
        if len(self._hashes) == WIDTH:
            self._write_entries(self._frontier.size // WIDTH)
            self._take(self._hashes, written=False)
            self._hashes.clear()
            self._leaves.clear()

    def finish(self, note: str) -> Checkpoint:
        """Write what is left, and the checkpoint; raises TilesError unless it is of exactly these leaves."""
        checkpoint = open_checkpoint(note, key=self._key)
        if self._trusted != self._key:
            raise TilesError(f"no leaf tells that the key {self._trusted} was changed for {self._key}")
        frontier = self._require_root(checkpoint, "signed")
        if self._hashes:
            number = self._frontier.size // WIDTH
            self._write_entries(number)
            self._write(tile_path(0, number, len(self._hashes)), b"".join(self._hashes))
        for level, hashes in enumerate(self._open[1:], start=1):
            if hashes:
                number = frontier.size >> (_HEIGHT * (level + 1))
                self._write(tile_path(level, number, len(hashes)), b"".join(hashes))
        self._write(Path(_CHECKPOINT), note.encode())
        return checkpoint

    @property
    def _size(self) -> int:
        return self._frontier.size + len(self._hashes)

    def _require_root(self, checkpoint: Checkpoint, what: str) -> Frontier:
        """The tree of all leaves so far, if it is that of a checkpoint."""
        frontier = self._frontier.extended(self._hashes)
        if (checkpoint.size, checkpoint.root) != (frontier.size, frontier.root()):
            raise TilesError(
                f"{frontier.size} leaves, those of before among them, do not lead to the root that was {what}"
                f" over {checkpoint.size}"
            )
        return frontier

    def _follow(self, leaf: bytes) -> None:
        try:
            rotation = read_rotation(parse_leaf(leaf))
        except (EntryError, RotationError):
            return  # it leads nowhere
        self._trusted = followed(self._trusted, [rotation] if rotation is not None else [])

    def _known(self, keys: Sequence[NoteKey]) -> Checkpoint | None:
        try:
            note = (self._folder / _CHECKPOINT).read_text(encoding="utf-8")
        except FileNotFoundError:
            if self._folder.exists() and any(self._folder.iterdir()):
                tiles = self._folder / "tile"
                if {each.name for each in self._folder.iterdir()} != {tiles.name}:
                    raise TilesError(f"{self._folder} holds something else than a log") from None
            return None
        named = {signature.key_hash for signature in parse_note(note).signatures}
        self._trusted = next((key for key in keys if key.key_hash in named), self._key)
        return open_checkpoint(note, key=self._trusted)

    def _take(self, hashes: "list[bytes] | tuple[bytes, ...]", *, written: bool) -> None:
        """A full tile of the lowest level, and the tiles above that it makes full."""
        number = self._frontier.size // WIDTH
        self._frontier = self._frontier.extended(hashes)
        full, level = list(hashes), 0
        while True:
            if not written:
                self._write(tile_path(level, number), b"".join(full))
            level += 1
            while len(self._open) <= level:
                self._open.append([])
            self._open[level].append(Frontier().extended(full).root())
            if len(self._open[level]) < WIDTH:
                return
            full, number = self._open[level], number // WIDTH
            self._open[level] = []

    def _write_entries(self, number: int) -> None:
        if len(self._leaves) < len(self._hashes):
            return
        data = b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in self._leaves)
        self._write(tile_path(_ENTRIES, number, len(self._leaves)), data)

    def _read(self, path: Path) -> bytes:
        try:
            return (self._folder / path).read_bytes()
        except FileNotFoundError:
            raise TilesError(f"{path} is missing: begin anew in an empty folder") from None

    def _write(self, path: Path, data: bytes) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
