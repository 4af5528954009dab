"""The sandbox alone: warm, cold and drained calls, their processor time, time-outs, the memory of spares."""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import bare_fork, bare_interpreter
from benchmarks.report import Row, milliseconds, percentile
from interlock_sandbox import Limits, Outcome, OutcomeKind, Sandbox, ToolProgram
from interlock_sandbox.call import Call
from interlock_sandbox.negotiation import Established, establish
from interlock_sandbox.spare import ExitReport, Spare

_NOTHING = ToolProgram(source="def run():\n    return 1\n")
# One thread that never lets go of the interpreter for long, and seven that never end.
_ENDLESS = ToolProgram(
    source=(
        "import threading, time\n"
        "def run():\n"
        "    for _ in range(7):\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "    while True:\n"
        "        pass\n"
    )
)
_TIMEOUT_SECONDS = 0.2
_STATUS_SECONDS = 0.1
_GONE_SECONDS = 0.25
_SPARES = 4
_DRAINED = 32
_DRAINED_ROUNDS = 8
_REAP_SECONDS = 10.0
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """One call on a spare, in seconds, and what its process used."""

    outcome: Outcome
    answered: float
    """From the hand-over to the outcome."""
    gone: float
    """From the hand-over until the zygote had reaped it."""
    report: ExitReport


class _Source:
    """Sandboxes one at a time, without a pool, so that making, using and ending one can be told apart."""

    def __init__(self, established: Established) -> None:
        self._established = established

    async def spare(self) -> Spare:
        """One that stands ready."""
        if self._established.zygote is None:
            raise RuntimeError("no sandbox can be made here")
        return await self._established.zygote.spawn(disk_bytes=Limits().disk_bytes)

    async def use(self, spare: Spare, program: ToolProgram, *, seconds: float = 5.0) -> _Ended:
        """Run one program on it, to the end of its process."""
        call = Call(spare, program, Limits(), self._established.status.level)
        start = time.perf_counter()
        outcome = await call.run(seconds=seconds)
        answered = time.perf_counter() - start
        async with asyncio.timeout(_REAP_SECONDS):
            report = await spare.exited
        if report is None:
            raise RuntimeError("the zygote died")
        return _Ended(outcome=outcome, answered=answered, gone=time.perf_counter() - start, report=report)

    def zygote_cpu_seconds(self) -> float:
        """Processor time of the process that makes the sandboxes, without theirs."""
        launcher = self._established.zygote.pid if self._established.zygote else 0
        (pid,) = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.asynccontextmanager
async def _source() -> AsyncIterator[_Source]:
    established = await establish()
    try:
        yield _Source(established)
    finally:
        await established.close()


def nothing_program() -> ToolProgram:
    """A tool that does nothing."""
    return _NOTHING


def completed(outcome: Outcome) -> None:
    """Raise unless it ended well: a figure of failures is none."""
    if outcome.kind is not OutcomeKind.COMPLETED:
        raise RuntimeError(f"a call ended as {outcome.kind}: {outcome.error}")


async def filled(sandbox: Sandbox, spares: int = _SPARES) -> None:
    """Return when all its spares stand ready."""
    async with asyncio.timeout(_REAP_SECONDS):
        while sandbox.status().spares < spares:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(_POLL_SECONDS)


async def warm(rounds: int = 200) -> list[Row]:
    """Calls that find a spare, and what all the processes of one use, that of the next spare included."""
    answered, gone, cpu, until_ready, forks = [], [], [], [], []
    async with bare_fork() as fork, _source() as source:
        for _ in range(rounds // 10):
            completed((await source.use(await source.spare(), _NOTHING)).outcome)
        zygote = source.zygote_cpu_seconds()
        for _ in range(rounds):
            spare = await source.spare()
            forks.append(await fork())
            until_ready.append(spare.cpu_seconds_before)
            ended = await source.use(spare, _NOTHING)
            completed(ended.outcome)
            answered.append(ended.answered)
            gone.append(ended.gone)
            cpu.append(ended.report.cpu_seconds)
        zygote = (source.zygote_cpu_seconds() - zygote) / rounds
    floor = milliseconds([each.seconds for each in forks])
    making, used = milliseconds(until_ready), milliseconds(cpu)
    return [
        _of_forks("sandbox, warm: program sent to result p50", milliseconds(answered), floor),
        _of_forks("sandbox, warm: program sent to result p99", percentile(answered, 0.99) * 1000, floor),
        _of_forks("sandbox, warm: program sent to all of it reaped p50", milliseconds(gone), floor),
        Row(
            what="sandbox: CPU of a call and its spare",
            load="idle",
            value=used + zygote * 1000,
            unit="ms",
            floor=sum(each.cpu_seconds for each in forks) * 1000 / rounds,
            note=f"sandbox until it stands ready {making:.2f}, from then to its end {used - making:.2f},"
            f" zygote {zygote * 1000:.2f}; floor: bare fork",
        ),
    ]


async def cold(rounds: int = 60, drained_rounds: int = _DRAINED_ROUNDS) -> list[Row]:
    """Calls that find no spare: one, and 32 at once where four stand ready."""
    calls, bare, last, bare_last = [], [], [], []
    async with Sandbox(spares=0, max_concurrent=_DRAINED) as sandbox:
        for _ in range(rounds):
            bare.append(await bare_interpreter())
            start = time.perf_counter()
            completed(await sandbox.run(_NOTHING))
            calls.append(time.perf_counter() - start)
    async with Sandbox(spares=_SPARES, max_concurrent=_DRAINED) as sandbox:
        for _ in range(drained_rounds):
            bare_last.append(await _at_once(bare_interpreter))
            await filled(sandbox)
            last.append(await _at_once(lambda: sandbox.run(_NOTHING)))
    return [
        _of(
            "sandbox, cold: one call without a spare p50",
            milliseconds(calls),
            milliseconds(bare),
            "python -I -S -c pass",
        ),
        Row(
            what=f"sandbox, drained: {_DRAINED} calls at once on {_SPARES} spares, the last one p50",
            load="saturated",
            value=milliseconds(last),
            unit="ms",
            floor=milliseconds(bare_last),
            note=f"floor: {_DRAINED} bare interpreters started at once",
        ),
    ]


async def _at_once(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    for outcome in await asyncio.gather(*(call() for _ in range(_DRAINED))):
        if isinstance(outcome, Outcome):
            completed(outcome)
    return time.perf_counter() - start


async def timeouts(runs: int = 200) -> list[Row]:
    """Programs of eight threads that never end, each given 200 ms."""
    status, gone = [], []
    async with _source() as source:
        for _ in range(runs):
            ended = await source.use(await source.spare(), _ENDLESS, seconds=_TIMEOUT_SECONDS)
            if ended.outcome.kind is not OutcomeKind.TIMEOUT:
                raise RuntimeError(f"an endless program ended as {ended.outcome.kind}: {ended.outcome.error}")
            status.append(ended.answered - _TIMEOUT_SECONDS)
            gone.append(ended.gone - _TIMEOUT_SECONDS)
    return [
        *_late(f"time-out of {_TIMEOUT_SECONDS * 1000:.0f} ms: status later by", status, _STATUS_SECONDS),
        *_late(f"time-out of {_TIMEOUT_SECONDS * 1000:.0f} ms: all gone later by", gone, _GONE_SECONDS),
    ]


def _late(what: str, seconds: list[float], allowed: float) -> list[Row]:
    held = sum(each <= allowed for each in seconds)
    note = f"{held} of {len(seconds)} within {allowed * 1000:.0f} ms"
    figures = (("p50", milliseconds(seconds)), ("max", max(seconds) * 1000))
    return [
        Row(what=f"{what} {name}", load="idle", value=value, unit="ms", note=note) for name, value in figures
    ]


async def memory(spares: int = 16) -> list[Row]:
    """What a spare adds to the memory in use: its own pages, and its share of those that it has in common."""
    async with _source() as source, contextlib.AsyncExitStack() as stack:
        standing = []
        for _ in range(spares):
            spare = await source.spare()
            stack.callback(spare.close)
            standing.append(spare.host_pid)
        try:
            told = [_rollup(pid) for pid in standing]
        except PermissionError:
            print("memory of a spare: only root may read it", file=sys.stderr, flush=True)
            return []
    shares = [_kib(each, "Pss:") for each in told]
    own = [_kib(each, "Private_Dirty:") + _kib(each, "Private_Clean:") for each in told]
    return [
        Row(
            what=f"sandbox: memory (PSS) of one of {spares} spares",
            load="idle",
            value=math.fsum(shares) / spares / 1024,
            unit="MiB",
            note=f"of its own {math.fsum(own) / spares / 1024:.2f} MiB",
        )
    ]


def _rollup(pid: int) -> str:
    return Path(f"/proc/{pid}/smaps_rollup").read_text()


def _kib(told: str, name: str) -> int:
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith(name))


def _of_forks(what: str, value: float, floor: float) -> Row:
    return _of(what, value, floor, "bare fork, exit and wait")


def _of(what: str, value: float, floor: float, of: str) -> Row:
    return Row(what=what, load="idle", value=value, unit="ms", floor=floor, note=f"floor: {of}")
