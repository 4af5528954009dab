"""Everything that is judged without running the product (`./dev check`)."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools import protos


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One judgement: a name for people and the command that gives it."""

    name: str
    command: Sequence[str]


def checks() -> Iterator[Check]:
    """Every check, quick ones first."""
    python = (sys.executable, "-m")
    yield Check(name="lint", command=("ruff", "check", "--quiet", "."))
    yield Check(name="format", command=("ruff", "format", "--check", "--quiet", "."))
    yield Check(name="contract style", command=("buf", "lint"))
    yield Check(name="contract format", command=("buf", "format", "--diff", "--exit-code"))
    if image := protos.latest_release():
        against = str(image.relative_to(protos.ROOT))
        yield Check(name=f"contract keeps {image.stem}", command=("buf", "breaking", "--against", against))
    yield Check(name="generated code", command=(*python, "tools.protos", "--check"))
    yield Check(name="diagram of states", command=(*python, "tools.lifecycle", "--check"))
    yield Check(name="import rules", command=("lint-imports",))
    yield Check(name="types", command=("mypy",))


def run(check: Check) -> bool:
    """Run one check, show its output when it is red, and tell whether it is green."""
    started = time.monotonic()
    done = subprocess.run(check.command, cwd=protos.ROOT, capture_output=True, text=True, check=False)
    green = done.returncode == 0
    if not green:
        print(done.stdout + done.stderr, end="")
    print(f"{'ok ' if green else 'RED'}  {check.name} ({time.monotonic() - started:.1f} s)", flush=True)
    return green


def main() -> int:
    """Run every check; 0 only if all are green."""
    red = [check.name for check in checks() if not run(check)]
    print(f"red: {', '.join(red)}" if red else "all checks are green")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
