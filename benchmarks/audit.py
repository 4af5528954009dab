"""What recording takes, searching a log of a million entries, and verifying one."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psycopg
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_svc.checkpoints import Checkpoints
from audit_svc.event import NewEvent, Part, nanoseconds
from audit_svc.explanations import Explanations
from audit_svc.log import AuditLog
from audit_svc.log_verifier import LogVerifier
from audit_svc.pieces import Pieces
from audit_svc.proofs import Proofs
from audit_svc.removal_store import RemovedParts
from audit_svc.search import Place, read_filter
from audit_svc.signer import CheckpointSigner
from audit_svc.store import Store
from audit_svc.text_index import TextIndexer
from audit_svc.text_store import TextStore
from audit_svc.verification_store import VerificationStore
from benchmarks import audit_append, audit_busy
from benchmarks.postgres import migrated, running_postgres
from benchmarks.report import Row
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.filters import Condition
from svc_kit.ids import uuid7

ENTRIES = 1_000_000
VERIFIED = 50_000
_VERIFICATIONS = 4
_BATCH = 500
_PIECE = 1024
_ROUNDS = 200
_PAGE = 50
_LOG = uuid.UUID(int=1)
# Spread as those of many agents are; of each task ten entries lie close together.
_FILL = """
    INSERT INTO entry (log_id, event_id, leaf_index, type, producer, producer_sequence, actor, agent,
        agent_version, task_id, tool, status, trace_id, span_id, event_time, recorded_time, leaf, leaf_hash)
    SELECT %(log)s, (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, n,
        (ARRAY['PROMPT', 'TOOL_CALL', 'TOOL_RESULT', 'STATE_CHANGE'])[1 + n %% 4], 'gateway', n,
        'actor-' || n %% 50, 'agent-' || n %% 97, '1.0.0',
        ('00000000-0000-7000-8000-' || lpad(to_hex(n / 10), 12, '0'))::uuid, 'tool-' || n %% 31,
        CASE WHEN n %% 1000 = 7 THEN 'FAILED' ELSE 'COMPLETED' END, '', '',
        now() - make_interval(secs => %(entries)s - n), now() - make_interval(secs => %(entries)s - n),
        decode(repeat('61', 400), 'hex'), decode(repeat('00', 32), 'hex')
    FROM generate_series(0, %(entries)s - 1) AS n
"""
_SEARCHES = {
    "one task": 'task_id = "00000000-0000-7000-8000-000000008235"',
    "one agent, newest": 'agent = "agent-7"',
    "one agent and a day of long ago": 'agent = "agent-7" AND recorded_time < "{old}"',
    "one tool of one agent, newest": 'agent = "agent-7" AND tool = "tool-3"',
    "one type that failed": 'type = "STATE_CHANGE" AND status = "FAILED"',
}


# Of each content a few words: one that all have, one of a hundred, one of a hundred thousand, and numbers.
_FILL_WORDS = """
    INSERT INTO payload_text (log_id, event_id, part, words)
    SELECT %(log)s, (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, 'result',
        array_to_tsvector(ARRAY['log:' || %(log)s::text]) || to_tsvector('simple', 'total of order ' || n
            || CASE WHEN n %% 100 = 3 THEN ' overdue' ELSE '' END
            || CASE WHEN n %% 100000 = 7 THEN ' quixotic' ELSE '' END
            || ' for customer ' || n %% 5000 || ' paid by card in shop ' || n %% 77)
    FROM generate_series(0, %(entries)s - 1) AS n
"""
_WORDS = {
    "a word that all have": ("total", ""),
    "a word of one in a hundred": ("overdue", ""),
    "a word of one in a hundred thousand": ("quixotic", ""),
    "two words side by side, of one in five thousand": ('"customer 17"', ""),
    "a word and an agent": ("overdue", 'agent = "agent-7"'),
}


async def search(entries: int = ENTRIES) -> list[Row]:
    """Medians of single searches, one after the other, against reading one row by its key."""
    async with running_postgres() as url:
        return await _searches(url, entries)


async def verify() -> list[Row]:
    """How many entries a second VerifyRange goes over."""
    async with running_postgres() as url:
        # On the loop that the service runs on.
        return await asyncio.to_thread(uvloop.run, _verification(url))


# Some minutes to fill: only when it is asked for.
_LONG = "search-5m"
PARTS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {
    "append": audit_append.measure,
    "busy": audit_busy.measure,
    "search": search,
    "verify": verify,
    _LONG: lambda: search(5 * ENTRIES),
}


async def measure_parts(parts: tuple[str, ...]) -> list[Row]:
    """The figures of some parts, one after the other."""
    return [row for part in PARTS if part in parts for row in await PARTS[part]()]


async def measure() -> list[Row]:
    """Everything but what takes long, one part after the other."""
    return await measure_parts(tuple(part for part in PARTS if part != _LONG))


async def _searches(url: str, count: int) -> list[Row]:
    made = await migrated(url, "audit")
    async with await psycopg.AsyncConnection.connect(made.owner_url, autocommit=True) as connection:
        await connection.execute(_FILL, {"log": _LOG, "entries": count})
        await connection.execute(_FILL_WORDS, {"log": _LOG, "entries": count})
        await connection.execute("VACUUM ANALYZE entry, payload_text")
        found = await connection.execute(
            "SELECT recorded_time FROM entry WHERE leaf_index = %s", [count // 3]
        )
        row = await found.fetchone()
    if row is None:
        raise RuntimeError("the log was not filled")
    database = Database(made.service_url)
    store = Store(database, origin_prefix="bench")
    try:
        floor = await _median(lambda: store.leaf_hash(_LOG, count // 2))
        rows = []
        for what, text in _SEARCHES.items():
            conditions = read_filter(text.format(old=row[0].isoformat()))

            async def search(what: str = what, conditions: Sequence[Condition] = conditions) -> None:
                found = await store.find_entries(
                    _LOG, conditions, text="", size=count, after=None, limit=_PAGE
                )
                await store.entries(_LOG, [each.event_id for each in found], with_bodies=False)
                if not found:
                    raise RuntimeError(f"nothing was found: {what}")

            rows.append(await _row(f"search, {what}, of {count:,}", search, floor))
        for what, (words, text) in _WORDS.items():
            conditions = read_filter(text)

            async def search_words(words: str = words, conditions: Sequence[Condition] = conditions) -> None:
                await store.find_entries(_LOG, conditions, text=words, size=count, after=None, limit=_PAGE)

            rows.append(await _row(f"search, {what}, of {count:,}", search_words, floor))
        deep = Place(row[0], count // 3)

        async def behind() -> None:
            await store.find_entries(_LOG, (), text="", size=count, after=deep, limit=_PAGE)

        return [*rows, await _row(f"search, a page deep inside, of {count:,}", behind, floor)]
    finally:
        await database.close()


async def _verification(url: str) -> list[Row]:
    made = await migrated(url, "audit")
    database, clock = Database(made.service_url), SystemClock()
    store = Store(database, origin_prefix="bench")
    log = AuditLog(store, clock, origin_prefix="bench")
    signer = CheckpointSigner([Ed25519PrivateKey.generate()])
    proofs = Proofs(store)
    checkpoints = Checkpoints(store, proofs, signer, clock, origin_prefix="bench")
    explanations = Explanations(RemovedParts(database), store, proofs, checkpoints)
    rows, texts = VerificationStore(database, store), TextStore(database)
    verifier = LogVerifier(Pieces(rows, texts), rows, checkpoints, explanations, log)
    try:
        for _ in range(VERIFIED // _BATCH):
            await log.append_batch(tuple(_event(clock) for _ in range(_BATCH)))
        name = (await store.logs(["default"]))["default"]
        # The first time plans and loads.
        floor = max([await _read(rows, name.log_id) for _ in range(_VERIFICATIONS)])
        plain = await _verified(verifier, floor)
        while await TextIndexer(texts, clock).once():
            pass
        return [plain, await _verified(verifier, floor, ", and the words of its contents")]
    finally:
        await log.close()
        await database.close()


async def _read(rows: VerificationStore, log_id: uuid.UUID) -> float:
    """Entries a second, when rows and contents are read and nothing is done with them."""
    start = time.perf_counter()
    for begin in range(0, VERIFIED, _PIECE):
        found = await rows.rows(log_id, begin, begin + _PIECE)
        await rows.contents(log_id, [row.event_id for row in found])
    return VERIFIED / (time.perf_counter() - start)


async def _verified(verifier: LogVerifier, floor: float, what: str = "") -> Row:
    """The best of some rounds: in the first the database has to plan and to load."""
    rates = []
    for _ in range(_VERIFICATIONS):
        start = time.perf_counter()
        async for told in verifier.run("default", begin=0, end=0):
            if told.findings:
                raise RuntimeError(f"an untouched log does not hold: {told.findings[0]}")
        rates.append(VERIFIED / (time.perf_counter() - start))
    return Row(
        what=f"verified from its rows{what}",
        load="saturated",
        value=max(rates),
        unit="entries/s",
        floor=floor,
        note=f"one content each; the slowest of {_VERIFICATIONS}: {min(rates):,.0f}",
    )


def _event(clock: SystemClock) -> NewEvent:
    return NewEvent(
        event_id=uuid7(),
        tenant="default",
        producer="bench",
        type="PROMPT",
        event_time=nanoseconds(clock.now()),
        actor="ada",
        agent="clerk",
        task_id=uuid7(),
        parts=(Part(name="input", content_type="application/json", body=b'{"text": "' + b"x" * 400 + b'"}'),),
    )


async def _median(work: Callable[[], Awaitable[object]]) -> float:
    return statistics.median(await _times(work))


async def _row(what: str, work: Callable[[], Awaitable[object]], floor: float) -> Row:
    times = await _times(work)
    slow = statistics.quantiles(times, n=100)[-1]
    return Row(
        what=what,
        load="idle",
        value=statistics.median(times),
        unit="ms",
        floor=floor,
        note=f"p99 {slow:.1f} ms",
    )


async def _times(work: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds of each round, after some that count for nothing."""
    times = []
    for number in range(_ROUNDS + 10):
        start = time.perf_counter()
        await work()
        if number >= 10:
            times.append((time.perf_counter() - start) * 1e3)
    return times
