"""Which faults strike when: a sequence that its number alone decides."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import redis

from tests.e2e.suite import RunningSuite

WORKERS = ("worker", "worker-2")
ORCHESTRATORS = ("orchestrator", "orchestrator-2")
VICTIMS = (*WORKERS, *ORCHESTRATORS, "gateway", "audit", "valkey", "postgres")


class Kind(StrEnum):
    """What happens to a process."""

    KILL = "kill"  # SIGKILL
    HANG = "hang"  # SIGSTOP, and SIGCONT later
    STOP = "stop"  # SIGTERM: it drains
    FLUSH = "flush"  # FLUSHALL; of Valkey alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; `after` the one before by so many seconds, and over after `seconds` when something hangs."""

    after: float
    kind: Kind
    process: str
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"+{self.after:.1f} s {self.kind} {self.process}{lasting}"


def sequence(number: int, *, shortest: float, longest: float, hang: float) -> Iterator[Fault]:
    """Faults without end; the same for the same arguments. `hang` bounds how long a process hangs."""
    chance = random.Random(number)
    while True:
        after = chance.uniform(shortest, longest)
        kind = chance.choices(list(Kind), weights=(6, 3, 1, 1))[0]
        process = "valkey" if kind is Kind.FLUSH else chance.choice(VICTIMS)
        seconds = chance.uniform(0.2, hang) if kind is Kind.HANG else 0.0
        yield Fault(after=after, kind=kind, process=process, seconds=seconds)


@dataclass
class Striker:
    """Carries faults out, and keeps what it did."""

    suite: RunningSuite
    struck: list[str] = field(default_factory=list)
    _hanging: set[asyncio.Task[None]] = field(default_factory=set)

    async def strike(self, fault: Fault) -> None:
        """Wait for its time and carry it out; a process that is down already is left alone."""
        await asyncio.sleep(fault.after)
        if fault.kind is Kind.FLUSH:
            done = await asyncio.to_thread(self._flush)
        else:
            done = await self._signal(fault)
        self.struck.append(f"{fault}{'' if done else ' (was down)'}")

    async def release(self) -> None:
        """Return when nothing hangs any more."""
        await asyncio.gather(*self._hanging)

    def _flush(self) -> bool:
        try:
            with closing(self.suite.valkey) as valkey:
                valkey.flushall()
        except redis.RedisError:
            return False
        return True

    async def _signal(self, fault: Fault) -> bool:
        pid = (await asyncio.to_thread(self.suite.processes))[fault.process]["pid"]
        if pid is None:
            return False
        number = {Kind.KILL: signal.SIGKILL, Kind.HANG: signal.SIGSTOP, Kind.STOP: _stop_of(fault.process)}
        try:
            os.kill(pid, number[fault.kind])
        except ProcessLookupError:
            return False
        if fault.kind is Kind.HANG:
            hanging = asyncio.create_task(_continue(pid, fault.seconds))
            self._hanging.add(hanging)
            hanging.add_done_callback(self._hanging.discard)
        return True


async def _continue(pid: int, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        # Killed meanwhile, it may be gone.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _stop_of(process: str) -> signal.Signals:
    # To PostgreSQL SIGTERM says: wait until every client has gone, which they never do.
    return signal.SIGINT if process == "postgres" else signal.SIGTERM
