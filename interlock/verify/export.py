"""A whole log as lines of JSON, and its verification: an export and a public key are all that it takes.

The first line says what it is, each further one is an entry in the order of the log, the last one is the
signed checkpoint. A leaf stands as a text: its UTF-8 bytes are the very bytes that were hashed. Of an entry
that was removed its hash alone is there, and another one has to say so.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.entry import EntryError, Leaf, PartBytes, matches, parse_leaf
from interlock.verify.gaps import ENTRY, REMOVED, Gap, GapError, explains, read_gaps
from interlock.verify.merkle import EMPTY_ROOT, HASH_SIZE, Frontier, leaf_hash
from interlock.verify.note import NoteError, NoteKey
from interlock.verify.rotation import Rotation, RotationError, followed, read_rotation
from interlock.verify.trail import Finding, Problem

FORMAT = "interlock-log/1"
_MAX_FINDINGS = 1000
_LEAVES_AT_A_TIME = 4096


@dataclass(slots=True, kw_only=True)
class ExportReport:
    """What held; `ok` only if everything did."""

    entries: int = 0
    entries_removed: int = 0
    """Those among them that are not there because an entry of the log says that their time was over."""
    parts_matched: int = 0
    parts_erased: int = 0
    """Contents that are not there because an entry of the log says that they were removed."""
    parts_withheld: int = 0
    """Contents that a leaf commits to, that the export does not hold, and no entry says why."""
    checkpoint: Checkpoint | None = None
    """What the whole was held against; None if there is none that the key signed."""
    note: str = ""
    """The signed note of that checkpoint."""
    key: NoteKey | None = None
    """The key that it had to be signed by: the given one, or the one that this leads to by changes of key."""
    rotations: list[Rotation] = field(default_factory=list)
    """The changes of key that the log tells of, in its order."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every entry is in the signed tree, in its place, and every content is as its leaf committed to."""
        return self.checkpoint is not None and not self.findings


def header_line(origin: str) -> str:
    """The first line."""
    return json.dumps({"format": FORMAT, "origin": origin})


def entry_line(index: int, leaf: bytes, parts: Mapping[str, PartBytes]) -> str:
    """One entry; raises UnicodeDecodeError for a leaf that is no text, which no leaf of a log is."""
    contents = {
        name: {"salt": base64.b64encode(part.salt).decode(), "body": base64.b64encode(part.body).decode()}
        for name, part in parts.items()
    }
    return json.dumps({"index": index, "leaf": leaf.decode(), "parts": contents})


def removed_line(index: int, leaf_hash: bytes) -> str:
    """What is left of an entry that was removed."""
    return json.dumps({"index": index, "hash": leaf_hash.hex()})


def checkpoint_line(note: str) -> str:
    """The last line."""
    return json.dumps({"checkpoint": note})


def verify_export(
    lines: Iterable[str], *, key: NoteKey, pinned: Checkpoint | None = None, stated: Checkpoint | None = None
) -> ExportReport:
    """Hold an export against the checkpoint that it ends with, which `key` must have signed.

    Where the log tells that the key was changed for another one, that one must have signed it. With `pinned`,
    a checkpoint of this log that was seen before, also: that its tree stands at the beginning; and with
    `stated` likewise, what a statement of all logs says of it.
    """
    report, tree = ExportReport(), _Tree([known for known in (pinned, stated) if known is not None])
    found = _findings(iter(lines), report, tree, key)
    for finding in found:
        report.findings.append(finding)
        if len(report.findings) >= _MAX_FINDINGS:
            break
    return report


def _findings(lines: Iterator[str], report: ExportReport, tree: "_Tree", key: NoteKey) -> Iterator[Finding]:
    header = _read(next(lines, ""))
    if header.get("format") != FORMAT or header.get("origin") != key.name:
        said = f"this is no {FORMAT} of the log {key.name}"
        yield _finding(Problem.SIGNATURE, None, said)
        return
    note, gaps = "", _Gaps()
    for line in lines:
        read = _read(line)
        if note:
            yield _finding(Problem.SIGNATURE, None, "something stands behind the checkpoint")
            return
        if "checkpoint" in read:
            note = str(read["checkpoint"])
            continue
        if read.get("index") != report.entries:
            yield _finding(Problem.ORDER, report.entries, f"here stands the entry {read.get('index')!r}")
        if "hash" in read:
            yield from _removed_findings(read, report, tree, gaps)
        else:
            yield from _entry_findings(read, report, tree, gaps, key.name)
        report.entries += 1
    report.parts_erased = len(gaps.missing & gaps.explained)
    report.parts_withheld = len(gaps.missing) - report.parts_erased
    report.entries_removed = len(gaps.removed)
    for gap in sorted(gaps.removed - gaps.explained):
        yield _finding(Problem.LEAF, gap.leaf_index, "the entry was removed, and none says so")
    yield from _tree_findings(note, report, tree, key)


def _removed_findings(
    read: Mapping[str, Any], report: ExportReport, tree: "_Tree", gaps: "_Gaps"
) -> Iterator[Finding]:
    index = report.entries
    gaps.removed.add(Gap(index, ENTRY))
    try:
        hashed = bytes.fromhex(read["hash"])
    except (ValueError, TypeError):
        hashed = b""
    if len(hashed) != HASH_SIZE or read.keys() != {"index", "hash"}:
        hashed = EMPTY_ROOT
        yield _finding(Problem.LEAF, index, "what is left of a removed entry is its hash, and nothing else")
    tree.add(hashed)


def _entry_findings(
    read: Mapping[str, Any], report: ExportReport, tree: "_Tree", gaps: "_Gaps", origin: str
) -> Iterator[Finding]:
    index = report.entries
    leaf = str(read.get("leaf", "")).encode("utf-8", "surrogatepass")
    tree.add(leaf_hash(leaf))
    try:
        promised = parse_leaf(leaf)
        parts = {name: _part(part) for name, part in dict(read.get("parts", {})).items()}
    except (EntryError, ValueError, TypeError, AttributeError) as error:
        yield _finding(Problem.LEAF, index, str(error))
        return
    if promised.origin != origin:
        yield _finding(Problem.LEAF, index, f"the leaf is of the log {promised.origin}")
    try:
        rotation = read_rotation(promised)
    except RotationError as error:
        yield _finding(Problem.SIGNATURE, index, str(error))
    else:
        report.rotations += [rotation] if rotation is not None else []
    for commitment in promised.parts:
        part = parts.pop(commitment.name, None)
        if part is None:
            gaps.missing.add(Gap(index, commitment.name))
        elif matches(commitment, part):
            report.parts_matched += 1
            yield from gaps.read(index, promised, commitment.name, part)
        else:
            message = f"the content {commitment.name} is not what the leaf committed to"
            yield _finding(Problem.PAYLOAD, index, message)
    for name in parts:
        yield _finding(Problem.PAYLOAD, index, f"the leaf promises no content {name}")


def _tree_findings(note: str, report: ExportReport, tree: "_Tree", key: NoteKey) -> Iterator[Finding]:
    report.key = key = followed(key, report.rotations)
    try:
        checkpoint = open_checkpoint(note, key=key)
    except NoteError as error:
        yield _finding(Problem.SIGNATURE, None, str(error))
        return
    report.checkpoint, report.note = checkpoint, note
    for known in tree.not_met:
        message = f"the log of {known.size} entries that was seen before does not stand at its beginning"
        yield _finding(Problem.HISTORY, None, message)
    if (checkpoint.size, checkpoint.root) != (report.entries, tree.root()):
        message = f"{report.entries} entries do not lead to the root that was signed over {checkpoint.size}"
        yield _finding(Problem.INCLUSION, None, message)


def _finding(problem: Problem, index: int | None, message: str) -> Finding:
    return Finding(problem=problem, index=index, message=message)


def _read(line: str) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _part(part: Mapping[str, str]) -> PartBytes:
    try:
        return PartBytes(
            salt=base64.b64decode(part["salt"], validate=True),
            body=base64.b64decode(part["body"], validate=True),
        )
    except (KeyError, binascii.Error) as error:
        raise ValueError(f"a content is not salt and body in base64: {error}") from None


class _Gaps:
    """What is missing, and what the log says was removed; the latter comes after it."""

    def __init__(self) -> None:
        self.missing: set[Gap] = set()
        self.removed: set[Gap] = set()
        self.explained: set[Gap] = set()

    def read(self, index: int, leaf: Leaf, name: str, part: PartBytes) -> Iterator[Finding]:
        if name == REMOVED and explains(leaf):
            try:
                self.explained |= read_gaps(part.body)
            except GapError as error:
                yield _finding(Problem.PAYLOAD, index, str(error))


class _Tree:
    """The frontier over leaves that come one by one, and the checkpoints that are to be met on the way."""

    def __init__(self, known: Sequence[Checkpoint]) -> None:
        self._frontier = Frontier()
        self._waiting: list[bytes] = []
        self.not_met = [each for each in known if (each.size, each.root) != (0, EMPTY_ROOT)]

    def add(self, leaf: bytes) -> None:
        self._waiting.append(leaf)
        size = self._frontier.size + len(self._waiting)
        if any(each.size == size for each in self.not_met):
            root = self.root()
            self.not_met = [each for each in self.not_met if (each.size, each.root) != (size, root)]
        elif len(self._waiting) == _LEAVES_AT_A_TIME:
            self.root()

    def root(self) -> bytes:
        self._frontier = self._frontier.extended(self._waiting)
        self._waiting.clear()
        return self._frontier.root()
