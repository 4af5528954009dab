"""How long a call takes, against the least that a process of its own can cost: a bare fork, in the same run.

`python -m tests.sandbox.measure` prints it.
"""

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass

from interlock_sandbox import OutcomeKind, Sandbox, ToolProgram
from tests.sandbox.waiting import until

TRIVIAL = ToolProgram(source="def run():\n    return 1\n")
SPARES = 4

# A small process of its own, since what a fork costs grows with the memory of who forks.
_FORKER = """
import os, sys, time
while sys.stdin.readline():
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print((time.perf_counter() - begun) * 1000, flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Milliseconds, sorted; every call follows a fork, so that noise meets both alike."""

    fork: list[float]
    warm: list[float]
    """A spare stands ready: from the call to the outcome, with the kill sent."""
    cold: list[float]
    """None does: a sandbox is made for the call."""

    def p50(self, name: str) -> float:
        return float(sorted(getattr(self, name))[len(getattr(self, name)) // 2])


async def measure(*, rounds: int = 200) -> Figures:
    """Warm and cold calls of a trivial tool, and bare forks, in turns."""
    fork, warm, cold = [], [], []
    command = [sys.executable, "-I", "-S", "-c", _FORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forker:  # noqa: ASYNC220
        assert forker.stdin is not None
        assert forker.stdout is not None
        async with Sandbox(spares=SPARES) as full, Sandbox(spares=0) as empty:
            for _ in range(rounds):
                await until(lambda: full.status().spares == SPARES)
                forker.stdin.write("\n")
                forker.stdin.flush()
                fork.append(float(forker.stdout.readline()))
                warm.append(await _timed(full))
                cold.append(await _timed(empty))
        forker.stdin.close()
    return Figures(fork=sorted(fork), warm=sorted(warm), cold=sorted(cold))


async def _timed(sandbox: Sandbox) -> float:
    begun = time.perf_counter()
    outcome = await sandbox.run(TRIVIAL)
    taken = (time.perf_counter() - begun) * 1000
    assert outcome.kind is OutcomeKind.COMPLETED
    return taken


def main() -> None:
    """Print the figures."""
    figures = asyncio.run(measure())
    lines = []
    for name, values in (("fork", figures.fork), ("warm", figures.warm), ("cold", figures.cold)):
        ratio = figures.p50(name) / figures.p50("fork")
        spread = (
            f"min {values[0]:.2f}, p50 {figures.p50(name):.2f}, p90 {values[len(values) * 9 // 10]:.2f} ms"
        )
        lines.append(f"{name}: {spread}; p50 is {ratio:.2f} bare forks")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
