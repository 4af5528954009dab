"""kill -9 again and again under load: of two services and their database; writers are torn off in between.

`./dev test --kills=200 -s` runs the long form.
"""

import asyncio
import contextlib
import random
import sys
from pathlib import Path

import grpc
import pytest

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.verify import Checkpoint, NoteKey, open_checkpoint
from interlock.verify.merkle import verify_consistency
from svc_kit.identity import LocalIssuer, Role
from tests.audit.audit_processes import AuditProcess, running, short_folder
from tests.audit.served import append, event, prompt
from tests.audit.test_database_away import own_server
from tests.suite_fixtures import PostgresServer

__all__ = ["own_server", "short_folder"]

pytestmark = pytest.mark.chaos

# One of each kind.
SHORT_ROUNDS = 3
WRITERS = 6
EVENTS_EACH = 25
VERIFY_EVERY = 20


class Producer:
    """Writes its events one after the other, each until it is acknowledged, through either service."""

    def __init__(self, services: list[AuditProcess], random_: random.Random, acked: dict[str, int]) -> None:
        self._services = services
        self._random = random_
        self._acked = acked
        self._left: list[entry_pb2.Event] = []
        self._said: list[entry_pb2.Event] = []

    def plan(self, events: int) -> None:
        """So many more."""
        body = bytes(self._random.randrange(1, 2000))
        self._left += [event(payloads=[prompt(body=body)]) for _ in range(events)]

    async def run(self) -> None:
        """Until all are acknowledged; killed in between, the next run goes on where nothing was heard of."""
        while self._left:
            made = self._left[0]
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(10), self._random.choice(self._services).served.producer() as stub:
                    while self._left:
                        made = self._left[0]
                        answer = await append(stub, made)
                        # Acknowledged again, it has to be where it was.
                        assert self._acked.setdefault(made.event_id, answer.index) == answer.index
                        self._said.append(self._left.pop(0))
            await asyncio.sleep(0.02)

    async def repeat(self) -> None:
        """The last ones once more, through either service: they stand already, where they were said to."""
        for made in self._said[-3:]:
            async with self._random.choice(self._services).served.producer() as stub:
                answer = await append(stub, made)
            assert (answer.index, answer.already_existed) == (self._acked[made.event_id], True)


class Killing:
    """Rounds of load, each with one kill."""

    def __init__(
        self, services: list[AuditProcess], server: PostgresServer, producers: list[Producer], seed: int
    ) -> None:
        self._services = services
        self._server = server
        self._producers = producers
        self._random = random.Random(seed)

    async def round(self, victim: str) -> None:
        """Load everything, kill, start again what was killed; return when everything is acknowledged."""
        tasks = []
        for producer in self._producers:
            producer.plan(EVENTS_EACH)
            tasks.append(asyncio.create_task(producer.run()))
        await asyncio.sleep(self._random.uniform(0, 0.15))
        if victim == "service":
            chosen = self._random.choice(self._services)
            await chosen.kill()
            await chosen.start()
        elif victim == "database":
            self._server.kill()
            # On this very thread: the server ends with the thread that started it.
            self._server.start()
        else:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks = [asyncio.create_task(producer.run()) for producer in self._producers]
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
            await asyncio.gather(*(producer.repeat() for producer in self._producers))


async def checkpoint_after(service: AuditProcess, before: Checkpoint | None) -> Checkpoint:
    """The newest checkpoint, which has to continue the one before."""
    async with service.served.caller(
        service.served.addresses.internal, [Role.AUDITOR], "default", "auditor"
    ) as stub:
        keys = await stub.GetPublicKeys(messages.GetPublicKeysRequest())
        answer = await stub.GetCheckpoint(messages.GetCheckpointRequest())
        now = open_checkpoint(answer.checkpoint.note, key=NoteKey.parse(keys.verifier_key))
        if before is not None:
            request = messages.GetConsistencyProofRequest(
                first_tree_size=before.size, second_tree_size=now.size
            )
            proof = await stub.GetConsistencyProof(request)
            verify_consistency(
                old_size=before.size,
                old_root=before.root,
                new_size=now.size,
                new_root=now.root,
                proof=list(proof.hashes),
            )
    return now


async def assert_whole(service: AuditProcess, acked: dict[str, int]) -> None:
    """Every acknowledged event stands once, where it was said to; every row and the root hold."""
    async with service.served.caller(
        service.served.addresses.internal, [Role.AUDITOR], "default", "auditor"
    ) as stub:
        told = [each async for each in stub.VerifyRange(messages.VerifyRangeRequest())]
        assert [finding for each in told for finding in each.findings] == []
        assert told[-1].root_checked and told[-1].checked == len(acked)
        stands: dict[str, int] = {}
        async for page in stub.ExportLog(messages.ExportLogRequest()):
            stands |= {entry.event_id: entry.index for entry in page.entries}
    assert stands == acked
    assert sorted(acked.values()) == list(range(len(acked)))


async def test_nothing_acknowledged_is_lost_or_stands_twice_over_kills_of_everything(
    folder: Path,
    own_server: PostgresServer,
    request: pytest.FixtureRequest,
) -> None:
    rounds = request.config.getoption("--kills") or SHORT_ROUNDS
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    issuer = LocalIssuer(folder / "issuer.pem", "test")
    database = await asyncio.to_thread(own_server.migrated_database, "audit")
    services = [AuditProcess(name, folder, database, issuer) for name in ("a", "b")]
    acked: dict[str, int] = {}
    random_ = random.Random(seed)
    producers = [Producer(services, random_, acked) for _ in range(WRITERS)]
    killing = Killing(services, own_server, producers, seed)
    checkpoint: Checkpoint | None = None
    async with running(*services):
        for number in range(rounds):
            await killing.round(("service", "database", "producers")[number % 3])
            checkpoint = await checkpoint_after(random_.choice(services), checkpoint)
            assert checkpoint.size == len(acked) == (number + 1) * WRITERS * EVENTS_EACH
            if (number + 1) % VERIFY_EVERY == 0:
                await assert_whole(services[0], acked)
                sys.stdout.write(f"{number + 1} kills, {len(acked)} entries: none lost, none twice\n")
        await assert_whole(services[0], acked)
