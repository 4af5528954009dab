"""Tools that have statements of a connection run: by both sides' leave, within bounds, and with no secret."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import psycopg
import pytest
from psycopg import sql

from gateway_svc.statements import Statement, parameter_flaw, statement_flaws
from interlock.gateway.v1 import connection_service_pb2, connection_service_pb2_grpc
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, gateway, kinds, payload, until
from tests.suite_fixtures import PostgresServer

PASSWORD = "p4ss-of-the-orders-database"
ASK = """
from interlock_tool import QueryError, query

def run(statement, params=None, connection="orders"):
    try:
        return {"rows": query(connection, statement, params)}
    except QueryError as error:
        return {"reason": error.reason, "executed": error.executed, "message": str(error)}
"""
STATEMENTS: dict[str, dict[str, Any]] = {
    "of_customer": {"sql": "SELECT id, total FROM orders WHERE customer = %(customer)s ORDER BY id"},
    "everything": {"sql": "SELECT id FROM orders, generate_series(1, 50) ORDER BY id", "max_rows": 100},
    "too_many": {"sql": "SELECT id FROM orders, generate_series(1, 50)", "max_rows": 99},
    "wide": {"sql": "SELECT repeat('x', 600000) AS a FROM generate_series(1, 2)"},
    "sneaky": {"sql": "INSERT INTO orders VALUES (99, 'mallory', 1)"},
    "unlock": {"sql": "SELECT set_config('transaction_read_only', 'off', false)"},
    "add": {
        "sql": "INSERT INTO orders VALUES (%(id)s, %(customer)s, %(total)s) RETURNING id",
        "writes": True,
    },
    "empty": {"sql": "DELETE FROM orders WHERE id = %(id)s", "writes": True},
    "sleep": {"sql": "SELECT pg_sleep(20) IS NULL AS slept", "timeout": {"nanos": 200_000_000}},
    "long": {"sql": "SELECT pg_sleep(20) IS NULL AS slept", "timeout": {"seconds": 30}},
    "odd": {
        "sql": "SELECT 1.50::numeric AS n, 'NaN'::float8 AS f, '\\x00ff'::bytea AS b, ARRAY[1, NULL] AS a,"
        " date '2026-01-02' AS d, NULL AS z, 9007199254740993 AS i"
    },
    "any_of": {"sql": "SELECT id FROM orders WHERE id = ANY(%(ids)s::int[]) ORDER BY id"},
    "who": {"sql": "SELECT %(said)s::text AS said"},
}


@dataclass(kw_only=True)
class Bridge:
    """A port of the loopback that leads to the database server's socket: what comes by is seen here."""

    port: int = 0
    connections: int = 0
    cut_at: bytes = b""
    """What must not pass: the connection is cut there instead."""
    silent: bool = False
    """Whether it takes connections and says nothing."""


@asynccontextmanager
async def bridge(socket: str) -> AsyncIterator[Bridge]:
    made = Bridge()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if made.cut_at and made.cut_at in data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        if made.silent:
            await reader.read()
            writer.close()
            return
        back, forth = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pipe(reader, forth), pipe(back, writer))

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.fixture(scope="module")
def orders(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database of somebody's, with a role `clerk`."""
    name = f"orders_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD))
    with psycopg.connect(postgres_server.url, dbname=name, autocommit=True) as admin:
        admin.execute("CREATE TABLE orders (id int PRIMARY KEY, customer text, total int)")
        admin.execute("INSERT INTO orders VALUES (1, 'ada', 10), (2, 'bob', 20)")
        grant = "GRANT SELECT, INSERT, DELETE ON orders TO {}"
        admin.execute(sql.SQL(grant).format(sql.Identifier(name)))
    yield name
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@dataclass(kw_only=True)
class Shop:
    """A world whose tool `ask` may use the database `orders`."""

    world: World
    bridge: Bridge
    name: str
    server: PostgresServer

    @property
    def stub(self) -> "connection_service_pb2_grpc.ConnectionServiceAsyncStub":
        return connection_service_pb2_grpc.ConnectionServiceStub(self.world.public)

    async def connect(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "connection_id": "orders",
            "kind": connection_service_pb2.CONNECTION_KIND_DATABASE,
            "base_url": f"postgresql://127.0.0.1:{self.bridge.port}/{self.name}",
            "allow_private_addresses": True,
            "tool_digests": [self.world.tools["ask"].digest],
            "statements": [
                connection_service_pb2.DatabaseStatement(name=name, **each)
                for name, each in STATEMENTS.items()
            ],
        }
        admin = self.world.token(Role.ADMIN)
        connection = connection_service_pb2.Connection(**(fields | changes))
        try:
            await self.stub.CreateConnection(
                connection_service_pb2.CreateConnectionRequest(connection=connection), metadata=admin
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        await self.stub.SetConnectionCredential(
            connection_service_pb2.SetConnectionCredentialRequest(
                connection_id=connection.connection_id, credential=f"{self.name}:{PASSWORD}"
            ),
            metadata=admin,
        )

    async def update(self, path: str, **fields: Any) -> None:
        request = connection_service_pb2.UpdateConnectionRequest(
            connection=connection_service_pb2.Connection(connection_id="orders", **fields)
        )
        request.update_mask.paths.append(path)
        await self.stub.UpdateConnection(request, metadata=self.world.token(Role.ADMIN))

    async def ask(self, statement: str, params: Any = None, **more: Any) -> Any:
        """What the tool makes of a statement."""
        arguments = {"statement": statement, "params": params or {}} | more
        permit = self.world.permit(arguments, tool="ask")
        return json.loads((await self.world.execute(permit, arguments)).result_json)

    def stored(self) -> list[tuple[Any, ...]]:
        """What stands in the database, past everything."""
        with psycopg.connect(self.server.url, dbname=self.name) as admin:
            return admin.execute("SELECT id, customer FROM orders ORDER BY id").fetchall()

    def busy(self) -> int:
        """How many statements run for the role."""
        with psycopg.connect(self.server.url) as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
            row = admin.execute(query, [self.name]).fetchone()
        return int(row[0]) if row else 0


@pytest.fixture
async def shop(closed_world: World, orders: str, postgres_server: PostgresServer) -> AsyncIterator[Shop]:
    place = parse_qs(urlsplit(postgres_server.url).query)["host"][0]
    closed_world.publish_tool("ask", ASK, connections=["orders"], timeout={"seconds": 30})
    async with bridge(f"{place}/.s.PGSQL.5432") as made, gateway(closed_world):
        await closed_world.allow()
        yield Shop(world=closed_world, bridge=made, name=orders, server=postgres_server)


@pytest.fixture
async def open_shop(shop: Shop) -> Shop:
    await shop.connect()
    return shop


async def test_a_tool_gets_rows_by_the_name_of_a_statement_and_each_query_is_recorded_first(
    open_shop: Shop,
) -> None:
    world = open_shop.world
    arguments = {"statement": "of_customer", "params": {"customer": "ada"}}
    permit = world.permit(arguments, tool="ask")
    answer = await world.execute(permit, arguments)
    assert json.loads(answer.result_json) == {"rows": [{"id": 1, "total": 10}]}
    events = await world.told(permit, 3)
    assert kinds(events) == [
        ("TOOL_CALL", "RUNNING", ""),
        ("TOOL_CALL", "QUERY", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]
    assert (events[1].attributes["connection"], events[1].attributes["statement"]) == (
        "orders",
        "of_customer",
    )
    assert payload(events[1]) == {"customer": "ada"}


@pytest.mark.parametrize(
    "evil",
    [
        "' OR '1'='1",
        "ada'; DROP TABLE orders; --",
        "%(customer)s",
        "\\' OR 1=1 --",
        "ada' UNION SELECT 1, usesysid::int FROM pg_user --",
        "$1",
    ],
)
async def test_what_a_parameter_says_is_never_read_as_sql(open_shop: Shop, evil: str) -> None:
    assert await open_shop.ask("of_customer", {"customer": evil}) == {"rows": []}
    assert await open_shop.ask("who", {"said": evil}) == {"rows": [{"said": evil}]}
    assert open_shop.stored() == [(1, "ada"), (2, "bob")]


async def test_a_statement_that_does_not_say_that_it_writes_writes_nothing(open_shop: Shop) -> None:
    said = await open_shop.ask("sneaky")
    assert (said["reason"], said["executed"]) == ("QUERY_FAILED", False)
    assert "25006" in said["message"]
    said = await open_shop.ask("unlock")
    assert said["reason"] == "QUERY_FAILED"
    assert open_shop.stored() == [(1, "ada"), (2, "bob")]


async def test_a_statement_that_writes_is_committed_or_was_not_executed(open_shop: Shop) -> None:
    new = {"id": 3, "customer": "eve", "total": 5}
    assert await open_shop.ask("add", new) == {"rows": [{"id": 3}]}
    said = await open_shop.ask("add", new)
    assert (said["reason"], said["executed"]) == ("QUERY_FAILED", False)
    assert "23505" in said["message"]
    assert "eve" not in said["message"]
    assert open_shop.stored() == [(1, "ada"), (2, "bob"), (3, "eve")]
    assert await open_shop.ask("empty", {"id": 3}) == {"rows": [{"changed": 1}]}
    assert open_shop.stored() == [(1, "ada"), (2, "bob")]


async def test_rows_and_bytes_are_bounded(open_shop: Shop) -> None:
    assert len((await open_shop.ask("everything"))["rows"]) == 100
    assert (await open_shop.ask("too_many"))["reason"] == "TOO_MANY_ROWS"
    assert (await open_shop.ask("wide"))["reason"] == "TOO_MANY_BYTES"


async def test_values_of_every_kind_come_as_json(open_shop: Shop) -> None:
    (row,) = (await open_shop.ask("odd"))["rows"]
    assert row == {
        "n": "1.50",
        "f": "nan",
        "b": "AP8=",
        "a": [1, None],
        "d": "2026-01-02",
        "z": None,
        "i": 9007199254740993,
    }
    assert await open_shop.ask("any_of", {"ids": [2, 7]}) == {"rows": [{"id": 2}]}


async def test_a_slow_statement_is_ended_at_its_time(open_shop: Shop) -> None:
    said = await open_shop.ask("sleep")
    assert (said["reason"], said["executed"]) == ("QUERY_TIMEOUT", False)
    assert open_shop.busy() == 0


async def test_a_tool_that_is_ended_ends_its_statement(open_shop: Shop) -> None:
    world = open_shop.world
    arguments = {"statement": "long"}
    running = asyncio.ensure_future(world.refusal(world.permit(arguments, tool="ask"), arguments))
    await until(lambda: open_shop.busy() == 1)
    await open_shop.update("disabled", disabled=True)
    error = await running
    assert error.reason == "TOOL_CANCELED"
    assert "connection orders was disabled" in error.message
    await until(lambda: open_shop.busy() == 0)


async def test_a_database_that_is_not_there_executed_nothing(shop: Shop) -> None:
    await shop.connect(base_url="postgresql://127.0.0.1:9/orders")
    said = await shop.ask("of_customer", {"customer": "ada"})
    assert (said["reason"], said["executed"]) == ("DATABASE_AWAY", False)


async def test_a_database_that_takes_the_connection_and_says_nothing_executed_nothing(
    open_shop: Shop,
) -> None:
    open_shop.bridge.silent = True
    said = await open_shop.ask("sleep")
    assert (said["reason"], said["executed"]) == ("DATABASE_AWAY", False)


@pytest.mark.parametrize(
    ("statement", "cut_at", "executed"),
    [("add", b"COMMIT", None), ("add", b"INSERT", None), ("of_customer", b"SELECT id", False)],
)
async def test_a_connection_that_is_cut_says_whether_it_can_have_had_an_effect(
    open_shop: Shop, statement: str, cut_at: bytes, *, executed: bool | None
) -> None:
    open_shop.bridge.cut_at = cut_at
    params = {"customer": "ada"} | ({"id": 5, "total": 1} if statement == "add" else {})
    said = await open_shop.ask(statement, params)
    assert (said["reason"], said["executed"]) == ("QUERY_FAILED", executed)
    # Cut before the COMMIT came there, so nothing stands.
    await until(lambda: open_shop.busy() == 0)
    assert open_shop.stored() == [(1, "ada"), (2, "bob")]


async def test_private_addresses_are_called_only_where_they_are_allowed(shop: Shop) -> None:
    await shop.connect(allow_private_addresses=False)
    assert (await shop.ask("of_customer", {"customer": "ada"}))["reason"] == "ADDRESS_FORBIDDEN"
    assert shop.bridge.connections == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"statement": "drop"}, "NO_SUCH_STATEMENT"),
        ({"statement": "of_customer"}, "BAD_PARAMETERS"),
        ({"statement": "of_customer", "params": {"customer": "a", "x": 1}}, "BAD_PARAMETERS"),
        ({"statement": "of_customer", "params": {"customer": {"a": 1}}}, "BAD_PARAMETERS"),
        ({"statement": 7}, "BAD_QUERY"),
        ({"statement": "of_customer", "connection": "others"}, "CONNECTION_NOT_BOUND"),
    ],
)
async def test_a_question_that_does_not_fit_is_not_sent(
    open_shop: Shop, arguments: dict[str, Any], reason: str
) -> None:
    said = await open_shop.ask(**arguments)
    assert (said["reason"], said["executed"]) == (reason, False)
    assert open_shop.bridge.connections == 0


async def test_both_sides_have_to_name_each_other_or_nothing_runs(shop: Shop) -> None:
    world = shop.world
    arguments = {"statement": "of_customer", "params": {"customer": "ada"}}
    # Not there, and there without this version of the tool, answer alike.
    errors = [await world.refusal(world.permit(arguments, tool="ask"), arguments)]
    await shop.connect(tool_digests=["sha256:" + "0" * 64])
    errors.append(await world.refusal(world.permit(arguments, tool="ask"), arguments))
    assert {error.reason for error in errors} == {"CONNECTION_NOT_BOUND"}
    assert len({error.message for error in errors}) == 1
    # And a tool that does not list it cannot reach it, nor the module.
    world.publish_tool("quiet", ASK)
    await shop.update("tool_digests", tool_digests=[world.tools["quiet"].digest])
    permit = world.permit(arguments, tool="quiet")
    assert (await world.execute(permit, arguments)).error_class == "ModuleNotFoundError"
    assert shop.bridge.connections == 0
    assert world.runs == 1


async def test_a_query_that_cannot_be_recorded_is_not_sent(open_shop: Shop) -> None:
    open_shop.world.audit.refuses_status = "QUERY"
    said = await open_shop.ask("of_customer", {"customer": "ada"})
    assert (said["reason"], said["executed"]) == ("AUDIT_UNAVAILABLE", False)
    assert open_shop.bridge.connections == 0


async def test_the_credential_is_nowhere_but_sealed(
    open_shop: Shop, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    world = open_shop.world
    seen: list[Any] = [await open_shop.ask("who", {"said": PASSWORD})]
    assert seen == [{"rows": [{"said": "[redacted]"}]}]
    source = """
import os, sys, gc
def run():
    from interlock_tool import query
    query("orders", "of_customer", {"customer": "ada"})
    found = [dict(os.environ), sys.argv, open("/proc/self/environ", "rb").read().decode()]
    found += [each for each in gc.get_objects() if isinstance(each, dict)]
    return str(found)[:100000]
"""
    world.publish_tool("look", source, connections=["orders"])
    await open_shop.update("tool_digests", tool_digests=[world.tools["look"].digest])
    permit = world.permit(tool="look")
    seen = [await world.execute(permit), await world.told(permit, 3)]
    seen += await world.sql("SELECT to_jsonb(connection)::text FROM connection")
    seen += [capfd.readouterr(), caplog.text]
    assert PASSWORD not in repr(seen)


async def test_a_bad_connection_is_told_everything_that_is_wrong_with_it(shop: Shop) -> None:
    statement = connection_service_pb2.DatabaseStatement
    with pytest.raises(RemoteError) as caught:
        await shop.connect(
            base_url="http://127.0.0.1/x",
            agents=["a"],
            tool_digests=["latest"],
            statements=[
                statement(name="a", sql="SELECT %s"),
                statement(name="a", sql="SELECT 1", max_rows=-1),
                statement(name="B", sql=""),
            ],
        )
    assert [each.field for each in caught.value.violations] == [
        "connection.base_url",
        "connection.statements[0].sql",
        "connection.statements[1].name",
        "connection.statements[1].max_rows",
        "connection.statements[2].name",
        "connection.statements[2].sql",
        "connection.tool_digests[0]",
        "connection.agents",
    ]


def statement(text: str) -> Statement:
    return Statement(name="s", sql=text, writes=False, max_rows=0, seconds=0)


def test_percent_signs_stand_for_parameters_or_for_themselves() -> None:
    assert list(statement_flaws([statement("SELECT 100 %% 7, %(a)s")])) == []
    for bad in ("SELECT %(a)d", "SELECT 5 % 2", "SELECT %s", "SELECT %(A)s"):
        assert [each.field for each in statement_flaws([statement(bad)])] == ["connection.statements[0].sql"]


def test_lists_are_of_one_kind_and_not_too_long() -> None:
    asked = statement("SELECT %(a)s")
    assert parameter_flaw(asked, {"a": [1, 2]}) == ""
    for bad in ([1, "a"], [[1]], list(range(1001)), {"b": 1}, "a\0b"):
        assert parameter_flaw(asked, {"a": bad}).startswith("a must be")
