"""Finding contents by their words: what is found, by whom, how far behind, and that nothing stays behind."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from audit_svc.event import NewEvent, Part
from audit_svc.removal_store import PlacedPart
from audit_svc.text_index import MOST, TextIndexer
from audit_svc.text_store import Behind
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.common.v1 import errors_pb2
from interlock_suite.databases import ServiceDatabase
from svc_kit.background import background
from svc_kit.clock import SystemClock
from svc_kit.errors import Unavailable
from svc_kit.identity import Role
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import new_event
from tests.audit.served import Served, append, event, refusal
from tests.audit.test_search import leaves, search
from tests.audit.test_tampering import Tamper
from tests.audit.test_verification import verified
from tests.e2e.observing import eventually


def content(body: str | bytes, *, part: str = "result", content_type: str = "text/plain") -> Part:
    return Part(name=part, content_type=content_type, body=body.encode() if isinstance(body, str) else body)


def saying(*bodies: str | bytes, content_type: str = "text/plain", **changes: Any) -> NewEvent:
    parts = [content(each, part=f"p{i}", content_type=content_type) for i, each in enumerate(bodies)]
    return new_event(parts=tuple(parts), **changes)


async def indexed(replica: Replica) -> None:
    for _ in range(2):  # what was behind one piece, and what was left of it
        await replica.texts.once()


async def found(replica: Replica, text: str, *, tenant: str = "default") -> list[int]:
    """Indexes of the entries that have the words."""
    logs = await replica.store.logs([tenant])
    head = await replica.store.head(logs[tenant].log_id)
    rows = await replica.store.find_entries(
        logs[tenant].log_id, (), text=text, size=head.size, after=None, limit=100
    )
    return [each.place.leaf_index for each in rows]


SAID = (
    saying("The invoice of Mrs Müller is overdue, pay 1200 EUR"),
    saying(json.dumps({"customer": "Frau Müller", "note": "paid\nlate"}), content_type="application/json"),
    saying("nothing here", "but Invoice there: acme.example/path?x=1"),
    saying(b"\x89PNG invoice\x00\xff", content_type="image/png"),
    saying(b"broken \xff invoice", content_type="text/plain"),
    saying('{"broken": invoice', content_type="application/json"),
    saying(r'{"nul": "a\u0000b", "word": "ledger"}', content_type="application/problem+json"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("invoice", [5, 2, 0]),
        ("INVOICE overdue", [0]),
        ("müller", [1, 0]),
        ("MÜLLER -invoice", [1]),
        ('"mrs müller"', [0]),
        ('"müller mrs"', []),
        ("overdue or late", [1, 0]),
        ("customer", [1]),
        ("1200", [0]),
        ("nothing there", []),
        ("acme.example", [2]),
        ("ledger", [6]),
        ("x27; DROP TABLE", []),
    ],
)
async def test_contents_are_found_by_their_words_whatever_their_case(
    replica: Replica, text: str, expected: list[int]
) -> None:
    await replica.log.append_batch(SAID)
    await replica.log.append(saying("the invoice of somebody else", tenant="elsewhere"))
    await indexed(replica)
    assert await found(replica, text) == expected


@pytest.mark.parametrize("every", [1, 2, 7, 30, 100])
async def test_a_word_is_found_as_well_where_it_is_rare_as_where_it_is_common(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Whether the newest entries are enough, or more of them, or the index has to be asked."""
    monkeypatch.setattr("audit_svc.store._LOOKED_AT", 4)
    monkeypatch.setattr("audit_svc.store._LOOKED_AT_MOST", 20)
    said = ["hay needle" if number % every == 0 else "hay" for number in range(60)]
    await replica.log.append_batch(tuple(saying(each) for each in said))
    await indexed(replica)
    name = await replica.store.log_of("default")
    assert name is not None
    expected = [number for number in range(59, -1, -1) if number % every == 0]
    for limit in (1, 3, 50):
        place, seen = None, list[int]()
        while True:
            page = await replica.store.find_entries(
                name.log_id, (), text="needle", size=60, after=place, limit=limit
            )
            seen += [each.place.leaf_index for each in page]
            if len(page) < limit:
                break
            place = page[-1].place
        assert seen == expected


async def test_no_content_is_too_long_or_too_strange_to_be_indexed(replica: Replica) -> None:
    def words(count: int, form: str) -> str:
        return " ".join(form.format(number) for number in range(count))

    contents = [
        (words(40_000, "w{0:05x}"), "text/plain"),
        (words(10_000, "a{0:x}-b{0:x}-c{0:x}"), "text/plain"),
        (words(9_000, "h{0:x}.example/p{0:x}?q={0:x}"), "text/plain"),
        ("".join(f"{chr(0x4E00 + n % 9000)}{chr(0x4E00 + n // 9000)} " for n in range(90_000)), "text/plain"),
        (json.dumps([f"k{n:x}-{n:x}" for n in range(20_000)]), "application/json"),
        ("[" * 50_000 + "]" * 50_000, "application/json"),
        (json.dumps({"x": "y" * 4000 + " findable"}), "application/json"),
        (words(120_000, "z{0:x}"), "application/json"),
    ]
    for body, content_type in contents:
        await replica.log.append(saying(body, content_type=content_type))
    await replica.log.append(saying("the last one"))
    await indexed(replica)
    assert await found(replica, "last") == [len(contents)]
    assert await found(replica, "w00fff") == [0]
    assert await found(replica, "findable") == [6]
    findings, _ = await verified(replica)
    assert findings == []


async def test_a_search_for_words_joins_filter_pages_and_proofs(audit: Served) -> None:
    async with audit.producer() as producer:
        for number in range(9):
            said = entry_pb2.Payload(part="result", content_type="text/plain", body=b"grand total")
            agent = "clerk" if number % 3 else "buyer"
            await append(producer, event(agent=agent, payloads=[said] if number else []))
    async with audit.reader(Role.DEVELOPER) as stub:
        await _indexed(stub, 9)
        pages = await search(stub, 'agent = "clerk"', text="TOTAL", page_size=4, include_proofs=True)
        assert [[each.index for each in page.entries] for page in pages] == [[8, 7, 5, 4], [2, 1]]
        assert all(len(page.proofs) == len(page.entries) for page in pages)
        wrong = messages.SearchEntriesRequest(
            filter='agent = "clerk"', text="grand", page_token=pages[0].next_page_token
        )
        assert (await refusal(stub.SearchEntries(wrong))).reason == "PAGE_TOKEN_INVALID"


async def _indexed(stub: Any, size: int) -> None:
    """Until the service has, by itself, indexed so many entries."""

    async def done() -> bool:
        answer = await stub.SearchEntries(messages.SearchEntriesRequest(text="anything", reason="test"))
        return bool(answer.text_size >= size)

    await eventually(done)


async def test_whoever_may_not_read_contents_may_not_ask_for_their_words(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
    async with audit.reader(Role.VIEWER) as stub:
        refused = await refusal(stub.SearchEntries(messages.SearchEntriesRequest(text="secret")))
        assert refused.reason == "ROLE_REQUIRED"
    async with audit.reader(Role.AUDITOR, subject="auditor@example.org") as stub:
        refused = await refusal(stub.SearchEntries(messages.SearchEntriesRequest(text="secret")))
        assert [v.field for v in refused.violations] == ["reason"]
        await search(stub, text="mrs grey", reason="complaint 17")
        (page,) = await search(
            stub,
            'type = "PAYLOAD_READ" AND actor = "auditor@example.org"',
            include_payloads=True,
            reason="looking",
        )
        (read,) = page.entries
        assert json.loads(read.leaf)["attributes"] == {"entries": "0", "parts": "0"}
        bodies = {each.part: each.body for each in read.payloads}
        assert bodies["reason"] == b"complaint 17"
        assert json.loads(bodies["search"]) == {"filter": "", "text": "mrs grey"}
        assert b"grey" not in read.leaf
        # What was searched for is not found by searching for it again.
        await _indexed(stub, read.index + 1)
        assert leaves(await search(stub, text="grey", reason="again")) == []


@pytest.mark.parametrize("text", ["!!!", "  ", "x" * 257, "a\x00b"])
async def test_words_that_make_no_sense_are_refused(audit: Served, text: str) -> None:
    async with audit.reader(Role.DEVELOPER) as stub:
        refused = await refusal(stub.SearchEntries(messages.SearchEntriesRequest(text=text)))
        assert (refused.reason, [v.field for v in refused.violations]) == ("INVALID_FIELDS", ["text"])


async def test_words_go_with_their_content(replica: Replica, audit_database: ServiceDatabase) -> None:
    said = saying("quixotic plan", "another quixotic plan")
    await replica.log.append(said)
    await indexed(replica)
    assert await found(replica, "quixotic") == [0]
    await _removed(replica, said, ["p0"])
    assert await found(replica, "quixotic") == [0]
    await _removed(replica, said, ["p1"])
    assert await found(replica, "quixotic") == []
    await indexed(replica)
    assert _rows(audit_database, said.event_id) == []
    findings, verdict = await verified(replica)
    assert (findings, verdict.root_checked) == ([], True)


async def _removed(replica: Replica, said: NewEvent, parts: Sequence[str]) -> None:
    placed = [PlacedPart(said.event_id, 0, part) for part in parts]
    await replica.removals.remove("default", placed, kind="ERASURE", actor="", attributes={})


def _rows(database: ServiceDatabase, event_id: uuid.UUID) -> list[Any]:
    with psycopg.connect(database.owner_url) as connection:
        found = connection.execute("SELECT part FROM payload_text WHERE event_id = %s", [event_id])
        return found.fetchall()


async def test_a_content_that_is_removed_while_it_is_indexed_leaves_no_words(
    replica: Replica, audit_database: ServiceDatabase
) -> None:
    """Whichever of the two comes first, the other waits for it."""
    first, second = saying("quixotic one"), saying("quixotic two")
    await replica.log.append_batch((first, second))
    name = await replica.store.log_of("default")
    assert name is not None
    with psycopg.connect(audit_database.service_url) as indexing:
        indexing.execute("SELECT index_texts(%s, 2)", [name.log_id])
        removal = asyncio.create_task(_removed(replica, first, ["p0"]))
        await eventually(lambda: asyncio.to_thread(_waits, audit_database))
        indexing.commit()
        await removal
    assert _rows(audit_database, first.event_id) == []
    assert _rows(audit_database, second.event_id) == [("p0",)]


async def test_a_content_that_is_being_removed_is_not_indexed(
    replica: Replica, audit_database: ServiceDatabase
) -> None:
    said = saying("quixotic one")
    await replica.log.append(said)
    name = await replica.store.log_of("default")
    assert name is not None
    with psycopg.connect(audit_database.owner_url) as removing:
        # Only to hold the row as a removal does: who really removes has an entry that says so.
        removing.execute("ALTER TABLE payload DISABLE TRIGGER explained")
        removing.commit()
        removing.execute("DELETE FROM payload WHERE event_id = %s", [said.event_id])
        indexing = asyncio.create_task(indexed(replica))
        await eventually(lambda: asyncio.to_thread(_waits, audit_database))
        removing.commit()
        await indexing
        removing.execute("ALTER TABLE payload ENABLE ALWAYS TRIGGER explained")
        removing.commit()
    assert _rows(audit_database, said.event_id) == []


def _waits(database: ServiceDatabase) -> bool:
    with psycopg.connect(database.owner_url) as connection:
        found = connection.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").fetchone()
        return found == (True,)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM payload_text WHERE event_id = '{event}'", "are missing"),
        (
            "UPDATE payload_text SET words = '''log:{log}'' ''other''' WHERE event_id = '{event}'",
            "not its own",
        ),
        ("UPDATE payload_text SET part = 'gone' WHERE event_id = '{event}'", "are left"),
    ],
)
async def test_words_that_are_not_those_of_the_contents_are_named(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl, statement: str, said: str
) -> None:
    events = tuple(saying(f"word{number}") for number in range(5))
    await replica.log.append_batch(events)
    await indexed(replica)
    await replica.checkpoints.publish()
    name = await replica.store.log_of("default")
    assert name is not None
    tamper = Tamper(admin_url_of(audit_database))
    await tamper(statement.format(event=events[3].event_id, log=name.log_id))
    findings, _ = await verified(replica)
    assert {(each.index, str(each.flaw)) for each in findings} == {(3, "TEXT")}
    assert any(said in each.message for each in findings)


class _Heavy:
    """A database that gives up on more than so many entries at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.indexed = 0

    async def behind(self) -> Sequence[Behind]:
        return [Behind(uuid.UUID(int=1), None)]

    async def index(self, log_id: uuid.UUID, *, at_most: int) -> int:
        if at_most > self.most:
            raise Unavailable(errors_pb2.ERROR_REASON_DATABASE_UNAVAILABLE, "statement timeout")
        self.indexed += at_most
        return at_most


async def test_fewer_entries_at_a_time_are_indexed_while_they_are_too_heavy() -> None:
    store = _Heavy(most=4)
    indexer = TextIndexer(store, SystemClock())
    assert store.most < MOST
    async with background(indexer.run, name="test"):

        async def went_on() -> bool:
            return store.indexed > 20

        await eventually(went_on)
