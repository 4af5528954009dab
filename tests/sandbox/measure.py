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
    """Milliseconds, sorted: calls, and the forks that took turns with them, so that noise met both."""

    calls: list[float]
    forks: list[float]

    @property
    def ratio(self) -> float:
        """The median call in median forks."""
        return self.calls[len(self.calls) // 2] / self.forks[len(self.forks) // 2]


async def measure(*, rounds: int = 200, spares: int = 4) -> Figures:
    """Calls of a trivial tool and bare forks in turns; without spares, each call waits for its sandbox."""
    calls, forks = [], []
    with _forker() as forker:
        async with Sandbox(spares=spares) as sandbox:
            for _ in range(rounds):
                await until(lambda: sandbox.status().spares == spares)
                forks.append(await asyncio.to_thread(_fork_once, forker))
                calls.append(await _timed(sandbox))
        forker.communicate()
    return Figures(calls=sorted(calls), forks=sorted(forks))


def _forker() -> "subprocess.Popen[str]":
    command = [sys.executable, "-I", "-S", "-c", _FORKER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _fork_once(forker: "subprocess.Popen[str]") -> float:
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write("\n")
    forker.stdin.flush()
    return float(forker.stdout.readline())


async def _timed(sandbox: Sandbox) -> float:
    begun = time.perf_counter()
    outcome = await sandbox.run(TRIVIAL)
    taken = (time.perf_counter() - begun) * 1000
    assert outcome.kind is OutcomeKind.COMPLETED
    return taken


def main() -> None:
    """Print the figures."""
    for name, spares in (("warm", 4), ("cold", 0)):
        figures = asyncio.run(measure(spares=spares))
        sys.stdout.write(f"{name} call: {_spread(figures.calls)}, {figures.ratio:.2f} bare forks\n")
        sys.stdout.write(f"bare fork: {_spread(figures.forks)}\n")


def _spread(values: list[float]) -> str:
    at = {
        name: values[int(len(values) * share)] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    return ", ".join(f"{name} {value:.2f} ms" for name, value in {"min": values[0], **at}.items())


if __name__ == "__main__":
    main()
