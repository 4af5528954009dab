"""The data folder of one suite: its layout, its lock, and what it remembers."""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from interlock_suite.errors import SuiteError
from interlock_suite.passwords import write_private

FORMAT = 1
MINIMUM_FREE_BYTES = 200 * 1024 * 1024
# A unix socket's path holds 107 bytes; the longest name put behind the folder's is `/pg/.s.PGSQL.5432`.
_LONGEST_RUN_FOLDER = 85
# The guard of a killed supervisor needs a moment to end what it left.
_GUARD_SECONDS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a data folder remembers from start to start."""

    suite_id: str
    format: int = FORMAT
    port_base: int | None = None
    """The first of the suite's ports; None before the first start."""


class DataFolder:
    """The layout of one data folder; nothing else knows where things lie."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - links stay: the user's name for it is shown
        self.postgres = self.root / "postgres"
        self.valkey = self.root / "valkey"
        self.keys = self.root / "keys"
        self.logs = self.root / "logs"
        self.issuers = self.keys / "issuers.json"
        self.context = self.root / "context.json"
        self.run = _run_folder(self.root)
        self.control = self.run / "control.sock"
        self.checkpoints = self.root.with_name(self.root.name + "-checkpoints")
        """Outside the folder, so that who loses or alters the one does not thereby alter the other."""
        self._memory = self.root / "suite.json"
        self._lock = self.root / "lock"

    @property
    def mark(self) -> str:
        """The word in every child's environment by which leftovers are known; bound to this place."""
        return hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:24]

    def log(self, process: str) -> Path:
        """The log file of one process."""
        return self.logs / f"{process}.log"

    def socket(self, service: str) -> Path:
        """The internal door of one service."""
        return self.run / f"{service}.sock"

    def token(self, process: str) -> Path:
        """The file of one process's own token."""
        return self.run / f"{process}.token"

    def ready(self, process: str) -> Path:
        """The file by which a process without doors tells that it is ready."""
        return self.run / f"{process}.ready"

    def remember(self, memory: Memory) -> None:
        """Keep `memory` for the next start."""
        write_private(self._memory, json.dumps(asdict(memory), indent=2) + "\n")

    def remembered(self) -> bool:
        """Whether a suite has been here before."""
        return self._memory.exists()

    def recall(self) -> Memory:
        """What was remembered; a new suite's beginnings where nothing was."""
        try:
            text = self._memory.read_text(encoding="utf-8")
        except FileNotFoundError:
            if self.postgres.exists():
                raise SuiteError(
                    f"{self._memory} is missing, though there is data: the suite has lost its name.",
                    "Restore it from a backup, or start with another --data-dir.",
                ) from None
            memory = Memory(suite_id=str(uuid.uuid4()))
            self.remember(memory)
            return memory
        return _parse_memory(text, self.root)

    def remember_ports(self, base: int) -> None:
        """Use the same ports at the next start."""
        self.remember(replace(self.recall(), port_base=base))

    def open(self, *, minimum_free: int = MINIMUM_FREE_BYTES) -> "FolderLock":
        """Make the layout where it is missing and take the lock; SuiteError says what stands in the way."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_full_disk(self.root, minimum_free)
            lock = FolderLock.take(self._lock, self.root)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise _unusable(self.root, error) from None
        try:
            self.recall()
            self._lay_out()
        except PermissionError as error:
            lock.release()
            raise _unusable(self.root, error) from None
        except SuiteError:
            lock.release()
            raise
        return lock

    def let_others_pass(self) -> None:
        """Let another user reach what is theirs below; what is not for them is closed by itself."""
        for folder in (self.root, self.run):
            folder.chmod(0o711)

    def _lay_out(self) -> None:
        for folder in (self.keys, self.logs):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.checkpoints.mkdir(mode=0o755, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)
        status = self.run.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise SuiteError(
                f"The folder for sockets, {self.run}, belongs to somebody else.",
                "Remove it, or choose a --data-dir with a shorter path.",
            )
        self.run.chmod(0o700)


class FolderLock:
    """The right to run a suite on one data folder, held until every holder of the descriptor is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path, root: Path) -> "FolderLock":
        """Lock `path`; a supervisor that died leaves it to its guard for a moment, which is waited for."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _GUARD_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(descriptor)
                if time.monotonic() > deadline or (holder is not None and _alive(holder)):
                    os.close(descriptor)
                    raise SuiteError(
                        f"Another suite (process {holder or 'unknown'}) runs on the data folder {root}.",
                        "Stop it first (Ctrl-C there), or start this one with another --data-dir.",
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Give up this process's hold."""
        os.close(self.descriptor)


def _run_folder(root: Path) -> Path:
    inside = root / "run"
    if len(os.fsencode(inside)) <= _LONGEST_RUN_FOLDER:
        return inside
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"interlock-{os.geteuid()}-{name}"
    return short if len(os.fsencode(short)) <= _LONGEST_RUN_FOLDER else Path("/tmp") / short.name  # noqa: S108


def _parse_memory(text: str, root: Path) -> Memory:
    try:
        value = json.loads(text)
        version = int(value["format"])
        if version == FORMAT:
            port_base = value["port_base"]
            return Memory(
                suite_id=str(value["suite_id"]), port_base=None if port_base is None else int(port_base)
            )
    except (ValueError, KeyError, TypeError):
        raise SuiteError(
            f"{root / 'suite.json'} cannot be read as the memory of a suite.",
            "Restore it from a backup, or start with another --data-dir.",
        ) from None
    raise SuiteError(
        f"The data folder {root} has format {version}; this version of Interlock reads format {FORMAT}.",
        "Use the version that made it, or start with another --data-dir.",
    )


def _refuse_full_disk(root: Path, minimum: int) -> None:
    free = shutil.disk_usage(root).free
    if free < minimum:
        raise SuiteError(
            f"Only {free // 2**20} MiB are free for the data folder {root}; {minimum // 2**20} are needed.",
            "Free some space, or start with --data-dir on another disk.",
        )


def _unusable(root: Path, error: OSError) -> SuiteError:
    if not isinstance(error, PermissionError):
        return SuiteError(
            f"The data folder {root} cannot be made: {error.filename} is not a folder.",
            "Move that file away, or start with another --data-dir.",
        )
    return SuiteError(
        f"The data folder {root} cannot be used: no permission for {error.filename}.",
        "Start as its owner, or start with a --data-dir of your own.",
    )


def _holder(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
