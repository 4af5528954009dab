"""`python -m interlock.verify.heads FILE --key KEY [--since EARLIER]`: what a statement of all logs says.

A suite signs at one time how far each of its logs is: who keeps that sees when one is hidden or set back.
The note's text: the statement's name, the time, then a line a log: its origin, size, and root in base64.
"""

import argparse
import base64
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from interlock.verify.checkpoint import Checkpoint, parse_checkpoint
from interlock.verify.note import NoteError, NoteKey, parse_note

HEADS = "_heads"
"""Behind the prefix that the origins of all logs begin with; no tenant can be called so."""
_FIRST_LINES = 2
_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """How far each log was, by its origin; `time` is RFC 3339 in UTC."""

    name: str
    time: str
    logs: Mapping[str, Checkpoint]

    @property
    def text(self) -> str:
        """What is signed, ending in a newline."""
        lines = [self.name, self.time]
        lines += [
            f"{origin} {head.size} {base64.b64encode(head.root).decode()}"
            for origin, head in sorted(self.logs.items())
        ]
        return "".join(f"{line}\n" for line in lines)


def open_heads(note: str, *, key: NoteKey) -> Heads:
    """The statement inside a signed note, once `key` is seen to have signed it; raises NoteError."""
    parsed = parse_note(note)
    parsed.require_signature(key)
    lines = parsed.text[:-1].split("\n")
    if len(lines) < _FIRST_LINES or lines[0] != key.name:
        raise NoteError(f"this is no statement of {key.name}")
    logs = {}
    for line in lines[_FIRST_LINES:]:
        words = line.split(" ")
        if len(words) != _WORDS or words[0] in logs:
            raise NoteError("a line of the statement is not one log, its size and its root")
        logs[words[0]] = parse_checkpoint("".join(f"{word}\n" for word in words))
    return Heads(name=lines[0], time=lines[1], logs=logs)


def set_back(heads: Heads, *, since: Heads) -> Iterator[str]:
    """What a later statement takes back of an earlier one, a sentence each.

    That a log which grew was only appended to is for its own checkpoints and proofs to show.
    """
    for origin, before in sorted(since.logs.items()):
        now = heads.logs.get(origin)
        if now is None:
            yield f"the log {origin!r} of {before.size} entries is not stated any more"
        elif now.size < before.size:
            yield f"the log {origin!r} shrank from {before.size} to {now.size}"
        elif now.size == before.size and now.root != before.root:
            yield f"the log {origin!r} of {now.size} entries has another root than before"


def main() -> int:
    """0 when nothing was taken back, 1 when something was, 2 for what cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m interlock.verify.heads", description=__doc__)
    parser.add_argument("file", type=Path, help="a statement: latest.note of the folder _heads")
    parser.add_argument(
        "--key", required=True, help="a verifier key of any log of the suite, or of the statement"
    )
    parser.add_argument("--since", type=Path, help="an earlier statement, which this one must not take back")
    arguments = parser.parse_args()
    try:
        key = NoteKey.parse(arguments.key)
        key = NoteKey(name=f"{key.name.rpartition('/')[0]}/{HEADS}", public_key=key.public_key)
        heads, *since = (
            open_heads(file.read_text(encoding="utf-8"), key=key)
            for file in (arguments.file, arguments.since)
            if file is not None
        )
    except (NoteError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    taken_back = [said for earlier in since for said in set_back(heads, since=earlier)]
    lines = [f"{origin}  {head.size:,} entries" for origin, head in sorted(heads.logs.items())]
    sys.stdout.write("".join(f"{line}\n" for line in (f"stated at {heads.time}", *lines, *taken_back)))
    return 1 if taken_back else 0


if __name__ == "__main__":
    sys.exit(main())
