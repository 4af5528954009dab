"""`python -m interlock.verify FILE --key KEY`: verify an export of a log, with nothing but its key."""

import argparse
import json
import sys
from pathlib import Path

from interlock.verify.checkpoint import Checkpoint
from interlock.verify.export import ExportReport, verify_export
from interlock.verify.heads import HEADS, open_heads
from interlock.verify.note import NoteError, NoteKey
from interlock.verify.pins import Pin, PinError, PinStore

_EXIT_CODES = "Exit code: 0 everything held; 1 something did not; 2 file, key or pins cannot be read."
_NOT_EXCLUDED = "that the log shows others another history; that a producer said what is not true"


def main() -> int:
    """0 when everything held, 1 when not, 2 for what cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m interlock.verify", description=__doc__, epilog=_EXIT_CODES
    )
    parser.add_argument("file", type=Path, help="made by: interlock audit export")
    parser.add_argument("--key", help="the log's verifier key, name+hash+key, got another way")
    parser.add_argument(
        "--pins",
        type=Path,
        help="keep key and checkpoint here, and refuse another key, a shrunken or another history later",
    )
    parser.add_argument(
        "--heads",
        type=Path,
        help="a statement of all logs that was kept: the log has to begin with what that says of it",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    if not arguments.key and not arguments.pins:
        parser.error("give --key, or --pins of an earlier look")
    try:
        key, pin = _key(arguments.key, arguments.pins, arguments.file)
        with arguments.file.open(encoding="utf-8") as lines:
            report = verify_export(
                lines,
                key=key,
                pinned=pin.checkpoint if pin else None,
                stated=_stated(arguments.heads, key) if arguments.heads else None,
            )
        if arguments.pins and report.ok and report.key is not None:
            PinStore(arguments.pins).advance(
                key=report.key,
                note=report.note,
                seen_from=pin.checkpoint if pin else None,
                rotations=report.rotations,
            )
    except (NoteError, PinError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(_as_json(report, key, pin) if arguments.json else _as_text(report, key, pin))
    return 0 if report.ok else 1


def _key(text: str | None, pins: Path | None, file: Path) -> tuple[NoteKey, Pin | None]:
    """The key to trust, and what was pinned with it; raises NoteError, PinError."""
    given = NoteKey.parse(text) if text else None
    if pins is None:
        if given is None:
            raise NoteError("no key was given")
        return given, None
    origin = given.name if given is not None else _origin(file)
    pin = PinStore(pins).get(origin)
    if pin is None:
        if given is None:
            raise PinError(f"{pins} knows no log {origin!r}: give its --key once")
        return given, None
    if given is not None and given != pin.key:
        raise PinError(
            f"the log {origin!r} was seen with another key ({pin.key}) before;"
            " without --key it has to show itself how that one was changed"
        )
    return pin.key, pin


def _stated(file: Path, key: NoteKey) -> Checkpoint:
    """What a statement of all logs, signed by the same key, says of this one."""
    name = f"{key.name.rpartition('/')[0]}/{HEADS}"
    heads = open_heads(file.read_text(encoding="utf-8"), key=NoteKey(name=name, public_key=key.public_key))
    if key.name not in heads.logs:
        raise NoteError(f"{file} says nothing of the log {key.name!r}")
    return heads.logs[key.name]


def _origin(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        try:
            return str(json.loads(next(lines, ""))["origin"])
        except (ValueError, KeyError, TypeError):
            return ""


def _as_json(report: ExportReport, key: NoteKey, pin: Pin | None) -> str:
    told = {
        "verified": report.ok,
        "entries": report.entries,
        "entries_removed": report.entries_removed,
        "tree_size": report.checkpoint.size if report.checkpoint is not None else None,
        "continues": pin.checkpoint.size if pin is not None else None,
        "key": str(report.key or key),
        "key_followed": report.key is not None and report.key != key,
        "parts_matched": report.parts_matched,
        "parts_erased": report.parts_erased,
        "parts_withheld": report.parts_withheld,
        "findings": [
            {"problem": each.problem, "index": each.index, "message": each.message}
            for each in report.findings
        ],
        "not_excluded": _NOT_EXCLUDED,
    }
    return json.dumps(told) + "\n"


def _as_text(report: ExportReport, key: NoteKey, pin: Pin | None) -> str:
    lines = [
        f"{each.problem}  {f'entry #{each.index}: ' if each.index is not None else ''}{each.message!r}"
        for each in report.findings
    ]
    size = report.checkpoint.size if report.checkpoint is not None else 0
    lines.append(
        f"{report.entries} entries, {report.entries_removed} of them removed as the log says; "
        f"a signed tree of {size}; {report.parts_matched} contents as committed, "
        f"{report.parts_erased} erased as the log says, {report.parts_withheld} not in the export"
    )
    if report.key is not None and report.key != key:
        lines.append(f"The key was changed, as the log tells; it is now: {report.key}")
    if pin is not None and report.ok:
        lines.append(f"It continues the log of {pin.checkpoint.size} entries that was seen before.")
    lines.append(f"Not excluded: {_NOT_EXCLUDED}.")
    lines.append("VERIFIED" if report.ok else "NOT VERIFIED")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
