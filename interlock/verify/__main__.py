"""`python -m interlock.verify FILE --key KEY`: verify an export of a log, with nothing but its key."""

import argparse
import sys
from pathlib import Path

from interlock.verify.export import verify_export
from interlock.verify.note import NoteError, NoteKey


def main() -> int:
    """0 when everything held, 1 when not, 2 for what cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m interlock.verify", description=__doc__)
    parser.add_argument("file", type=Path, help="made by: interlock audit export")
    parser.add_argument("--key", required=True, help="the log's verifier key, name+hash+key, got another way")
    arguments = parser.parse_args()
    try:
        key = NoteKey.parse(arguments.key)
        with arguments.file.open(encoding="utf-8") as lines:
            report = verify_export(lines, key=key)
    except (NoteError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for finding in report.findings:
        place = f"entry #{finding.index}: " if finding.index is not None else ""
        sys.stdout.write(f"{finding.problem}  {place}{finding.message!r}\n")
    size = report.checkpoint.size if report.checkpoint is not None else 0
    sys.stdout.write(
        f"{report.entries} entries, a signed tree of {size}; {report.parts_matched} contents as committed, "
        f"{report.parts_erased} erased as the log says, {report.parts_withheld} not in the export\n"
        "Not excluded: that the log shows others another history; that a producer said what is not true.\n"
        f"{'VERIFIED' if report.ok else 'NOT VERIFIED'}\n"
    )
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
